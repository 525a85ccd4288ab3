//! The head of a call as the target gets it. Pure: chance is an argument. What only funcd may say stays inside.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use rand::Rng;

use super::super::headers::{self, Asked};
use super::super::ids::{self, RequestId};
use crate::function::serving::Parent;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Where a call is a part of another request and does not say so itself, it is said for it: its trace and its id.
pub(super) fn trace(headers: &mut HeaderMap, parent: Option<&Parent>) {
    let Some(parent) = parent else { return };
    let is_traced = headers
        .get(&TRACEPARENT)
        .is_some_and(|parent| ids::is_traceparent(parent.as_bytes()));
    if let (false, Some(traceparent)) = (is_traced, &parent.traceparent) {
        headers.insert(TRACEPARENT, traceparent.clone());
        // A state belongs to its parent.
        headers.remove(TRACESTATE);
        if let Some(state) = &parent.tracestate {
            headers.insert(TRACESTATE, state.clone());
        }
    }
    if let (false, Some(id)) = (headers.contains_key(ids::X_REQUEST_ID), &parent.id) {
        headers.insert(ids::X_REQUEST_ID, id.clone());
    }
}

/// Takes out what ends here and what is not for others, and says which host is meant. What the function says of its own callers
/// (`Forwarded` and the like) is its own business.
pub(super) fn outward(parts: &mut Parts, host: &HeaderValue, id: &RequestId, chance: &mut impl Rng) -> Asked {
    let asked = headers::strip_request(&mut parts.headers, parts.version, true);
    let ours: Vec<HeaderName> = parts
        .headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-funcd-"))
        .cloned()
        .collect();
    for name in ours {
        parts.headers.remove(name);
    }
    parts.headers.insert(header::HOST, host.clone());
    headers::identify(&mut parts.headers, id, &asked, chance);
    asked
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use http::{Request, Version};
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::admission::Class;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const OTHER: &str = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn head(fields: &[(&'static str, &str)]) -> HeaderMap {
        let fields = fields.iter();
        fields
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }

    fn outward(fields: &[(&'static str, &str)]) -> HeaderMap {
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.version = Version::HTTP_11;
        parts.headers = head(fields);
        let id = RequestId(HeaderValue::from_static("id-1"));
        let host = HeaderValue::from_static("users.internal");
        super::outward(&mut parts, &host, &id, &mut SmallRng::seed_from_u64(1));
        parts.headers
    }

    #[test]
    fn the_target_is_called_by_its_own_name_and_nothing_of_ours_gets_out() {
        let headers = outward(&[
            ("host", "127.0.0.1:19001"),
            ("connection", "keep-alive, x-mine"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("transfer-encoding", "chunked"),
            ("x-funcd-hops", "0"),
            ("x-funcd-caller", "somebody"),
            ("x-funcd-brownout", "99"),
            ("authorization", "Bearer its-own"),
            ("x-forwarded-for", "203.0.113.7"),
            ("cookie", "a=b"),
        ]);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let all = [
            "authorization",
            "cookie",
            "host",
            "traceparent",
            "x-forwarded-for",
            "x-request-id",
        ];
        assert_eq!(names, all);
        assert_eq!(headers["host"], "users.internal");
        assert!(ids::is_traceparent(headers["traceparent"].as_bytes()), "minted");
    }

    #[test]
    fn a_call_that_says_nothing_of_its_trace_is_a_part_of_its_request() {
        let parent = Parent {
            id: Some(HeaderValue::from_static("outer")),
            traceparent: Some(HeaderValue::from_static(TRACE)),
            tracestate: Some(HeaderValue::from_static("vendor=1")),
            deadline: Instant::now(),
            class: Class::Degraded,
            hops: 0,
        };
        let mut silent = head(&[("tracestate", "of=nothing")]);
        trace(&mut silent, Some(&parent));
        assert_eq!(
            silent,
            head(&[
                ("traceparent", TRACE),
                ("tracestate", "vendor=1"),
                ("x-request-id", "outer")
            ])
        );
        let mut own = head(&[
            ("traceparent", OTHER),
            ("tracestate", "mine=1"),
            ("x-request-id", "inner"),
        ]);
        let as_said = own.clone();
        trace(&mut own, Some(&parent));
        assert_eq!(own, as_said);
        let mut alone = head(&[]);
        trace(&mut alone, None);
        assert!(alone.is_empty());
    }
}
