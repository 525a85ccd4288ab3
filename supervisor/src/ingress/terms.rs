//! What a request's head says of how it is to be treated: until when, how much it matters, whether it may be sent twice. Read
//! before the head is rewritten, and said anew to the function. Pure but for the clock; never reads a body.

use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request};

use super::body::Upload;
use super::headers::IDEMPOTENCY_KEY;
use crate::admission::budget::{Attempt, Failure};
use crate::admission::deadline::{self, GRPC_TIMEOUT, X_REQUEST_TIMEOUT_MS};
use crate::admission::go_duration::{self, X_TIMEOUT};
use crate::admission::queue::Facts;
use crate::admission::{Class, Outcome};
use crate::catalog::manifest::{RequestBounds, Retry};

pub(super) const X_FUNCD_CLASS: HeaderName = HeaderName::from_static(Class::HEADER);
const TIMEOUT_MS: HeaderName = HeaderName::from_static(X_REQUEST_TIMEOUT_MS);
const OPENFAAS: HeaderName = HeaderName::from_static(X_TIMEOUT);
const GRPC: HeaderName = HeaderName::from_static(GRPC_TIMEOUT);
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// How a request is to be treated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) class: Class,
    /// When nobody waits for the answer any more.
    pub(super) deadline: Instant,
    /// A stranger wants it sooner than the manifest says: that it comes too late then is no fault of the function.
    is_hurried: bool,
    /// How long the function may take, however soon its caller wants the answer.
    pub(super) limit: Instant,
    /// Until when its caller waits for the end of a call of gRPC, not only for its head: that is what its timeout says.
    grpc: Option<Instant>,
    has_key: bool,
    retry: Retry,
}

impl Terms {
    /// What the head and the manifest say. Only a `trusted` peer's request may matter more than the manifest says; anybody's may
    /// matter less, and be wanted sooner.
    pub(super) fn of(headers: &HeaderMap, bounds: &RequestBounds, trusted: bool, arrived: Instant) -> Terms {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let grpc = text(&GRPC);
        let timeout = deadline::timeout(grpc, text(&TIMEOUT_MS), bounds.timeout);
        Terms {
            class: Class::of(text(&X_FUNCD_CLASS), trusted, bounds.priority),
            deadline: arrived + timeout,
            is_hurried: !trusted && timeout < bounds.timeout,
            limit: arrived + bounds.timeout,
            grpc: grpc
                .and_then(deadline::grpc_timeout)
                .and_then(|timeout| arrived.checked_add(timeout)),
            has_key: headers.contains_key(IDEMPOTENCY_KEY),
            retry: bounds.retry,
        }
    }

    /// Heeds what callers of OpenFaaS's functions say, too, which may only shorten: `X-Timeout`.
    pub(super) fn heed_openfaas(&mut self, headers: &HeaderMap, trusted: bool, arrived: Instant) {
        let said = headers.get(OPENFAAS).and_then(|value| value.to_str().ok());
        if let Some(timeout) = said.and_then(go_duration::parse)
            && timeout < self.timeout(arrived)
        {
            self.deadline = arrived + timeout;
            self.is_hurried = !trusted;
        }
    }

    /// Nobody waits for the answer beyond this.
    pub(super) fn hurry(&mut self, deadline: Instant) {
        if deadline < self.deadline {
            self.deadline = deadline;
            self.is_hurried = true;
        }
    }

    /// What it says of the function that there was no answer in time, while its caller was `uploading` or not. Nothing, if it is the
    /// caller's own doing: or whoever is in a hurry could have the function's other callers refused, and its instances replaced.
    pub(super) fn too_late(&self, uploading: bool) -> Outcome {
        match self.is_hurried || uploading {
            true => Outcome::Abandoned,
            false => Outcome::Dropped,
        }
    }

    /// What admission is told.
    pub(super) fn facts(&self, rank: u8, arrived: Instant) -> Facts {
        Facts {
            class: self.class,
            rank,
            arrived,
            deadline: self.deadline,
        }
    }

    /// How long it may take in all.
    pub(super) fn timeout(&self, arrived: Instant) -> Duration {
        self.deadline.saturating_duration_since(arrived)
    }

    /// Tells the function how much the request matters, for its own calls.
    pub(super) fn say_class(&self, headers: &mut HeaderMap) {
        headers.insert(X_FUNCD_CLASS, HeaderValue::from_static(self.class.name()));
    }

    /// Tells the function how many milliseconds are left; false: none are.
    pub(super) fn say_left(&self, headers: &mut HeaderMap, now: Instant) -> bool {
        let Some(left) = deadline::left_millis(self.deadline, now) else {
            return false;
        };
        headers.insert(TIMEOUT_MS, HeaderValue::from(left));
        if let Some(end) = self.grpc {
            let left = deadline::to_grpc_timeout(end.saturating_duration_since(now));
            headers.insert(GRPC, HeaderValue::try_from(left).expect("digits and a letter"));
        }
        true
    }

    /// Whether a request of this method may be sent again after an instance ended under it. `has_body_at_hand`: it has none, or
    /// it was kept.
    pub(super) fn may_repeat(&self, method: &Method, has_body_at_hand: bool, retries: u32) -> bool {
        let attempt = Attempt {
            method,
            has_key: self.has_key,
            opted_in: self.retry == Retry::Idempotent,
            has_body_at_hand,
            retries,
        };
        self.retry != Retry::Never && attempt.may_retry(Failure::NoHead)
    }

    /// Whether the body is to be kept before the request is sent: it is short, and may be needed twice.
    pub(super) fn keeps_body(&self, request: &Request<Upload>) -> bool {
        use hyper::body::Body;
        let body = request.body();
        let short = body
            .size_hint()
            .exact()
            .is_some_and(|bytes| bytes <= Attempt::BODY as u64);
        !body.is_end_stream() && short && self.may_repeat(request.method(), true, 0)
    }
}

/// A number for who called: the peer, or whom a trusted one names last.
pub(super) fn caller(
    headers: &HeaderMap,
    peer: &HeaderValue,
    trusted: bool,
    hasher: &impl BuildHasher,
) -> u64 {
    let named = headers.get_all(X_FORWARDED_FOR).iter().next_back();
    let named = named.filter(|_| trusted).map(HeaderValue::as_bytes);
    let last = named.and_then(|all| all.rsplit(|&byte| byte == b',').next());
    hasher.hash_one(last.map_or(peer.as_bytes(), <[u8]>::trim_ascii))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> RequestBounds {
        RequestBounds {
            timeout: Duration::from_secs(30),
            body: 0,
            priority: Class::Degraded,
            queue: Default::default(),
            retry: Retry::Safe,
        }
    }

    fn head(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields.iter();
        fields
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn a_stranger_may_only_shorten_and_step_back() {
        let now = Instant::now();
        let asked = head(&[("x-request-timeout-ms", "60000"), ("x-funcd-class", "critical")]);
        let stranger = Terms::of(&asked, &bounds(), false, now);
        assert_eq!(stranger.timeout(now), Duration::from_secs(30));
        assert_eq!(stranger.class, Class::Degraded);
        assert_eq!(Terms::of(&asked, &bounds(), true, now).class, Class::Critical);
        let less = head(&[
            ("grpc-timeout", "2S"),
            ("x-request-timeout-ms", "500"),
            ("x-funcd-class", "bulk"),
        ]);
        let less = Terms::of(&less, &bounds(), false, now);
        assert_eq!(
            (less.timeout(now), less.class),
            (Duration::from_millis(500), Class::Bulk)
        );
    }

    #[test]
    fn openfaas_may_only_shorten() {
        let now = Instant::now();
        for (said, seconds, hurried) in [("5s", 5, true), ("1m", 30, false), ("0s", 30, false)] {
            let headers = head(&[("x-timeout", said)]);
            let mut terms = Terms::of(&headers, &bounds(), false, now);
            assert_eq!(
                terms.timeout(now),
                Duration::from_secs(30),
                "it means nothing to others"
            );
            terms.heed_openfaas(&headers, false, now);
            assert_eq!(terms.timeout(now), Duration::from_secs(seconds), "{said}");
            assert_eq!(terms.too_late(false) == Outcome::Abandoned, hurried, "{said}");
        }
    }

    #[test]
    fn who_is_in_a_hurry_or_slow_says_nothing_of_the_function() {
        let now = Instant::now();
        let of = |fields, trusted| Terms::of(&head(fields), &bounds(), trusted, now);
        let hurried = of(&[("x-request-timeout-ms", "5")], false);
        assert_eq!(hurried.too_late(false), Outcome::Abandoned);
        for (fields, trusted) in [
            (&[][..], false),
            (&[("x-request-timeout-ms", "60000")], false),
            (&[("x-request-timeout-ms", "5")], true),
        ] {
            assert_eq!(of(fields, trusted).too_late(false), Outcome::Dropped);
            assert_eq!(of(fields, trusted).too_late(true), Outcome::Abandoned);
        }
    }

    #[test]
    fn what_is_left_is_said_in_both_ways() {
        let now = Instant::now();
        let mut headers = head(&[("grpc-timeout", "2S")]);
        let terms = Terms::of(&headers, &bounds(), false, now);
        assert!(terms.say_left(&mut headers, now + Duration::from_millis(500)));
        assert_eq!(
            (&headers["grpc-timeout"], &headers["x-request-timeout-ms"]),
            (
                &HeaderValue::from_static("1500m"),
                &HeaderValue::from_static("1500")
            )
        );
        assert!(!terms.say_left(&mut headers, now + Duration::from_secs(2)));
        // A stream may go on for longer than its head may take.
        let mut long = head(&[("grpc-timeout", "2H")]);
        let terms = Terms::of(&long, &bounds(), false, now);
        assert!(terms.say_left(&mut long, now));
        assert_eq!(
            (&long["grpc-timeout"], &long["x-request-timeout-ms"]),
            (
                &HeaderValue::from_static("7200000m"),
                &HeaderValue::from_static("30000")
            )
        );
        let mut plain = head(&[]);
        assert!(Terms::of(&plain, &bounds(), false, now).say_left(&mut plain, now));
        assert!(!plain.contains_key("grpc-timeout"));
    }

    #[test]
    fn what_may_be_sent_twice() {
        let key = head(&[("idempotency-key", "7")]);
        let may = |headers: &HeaderMap, retry, method, has_body_at_hand| {
            let bounds = RequestBounds { retry, ..bounds() };
            Terms::of(headers, &bounds, false, Instant::now()).may_repeat(&method, has_body_at_hand, 0)
        };
        let none = head(&[]);
        assert!(may(&none, Retry::Safe, Method::GET, true));
        assert!(!may(&none, Retry::Safe, Method::GET, false));
        assert!(!may(&none, Retry::Never, Method::GET, true));
        assert!(!may(&none, Retry::Safe, Method::PUT, true));
        assert!(may(&none, Retry::Idempotent, Method::PUT, true));
        assert!(!may(&none, Retry::Idempotent, Method::POST, true));
        assert!(may(&key, Retry::Idempotent, Method::POST, true));
        assert!(!may(&key, Retry::Safe, Method::POST, true));
    }

    #[test]
    fn a_caller_is_the_peer_or_whom_a_trusted_one_names_last() {
        let hasher = std::hash::RandomState::new();
        let peer = HeaderValue::from_static("192.0.2.1");
        let named = head(&[("x-forwarded-for", "10.0.0.1, 198.51.100.7")]);
        let of = |headers: &HeaderMap, trusted| caller(headers, &peer, trusted, &hasher);
        assert_eq!(of(&named, false), of(&head(&[]), false));
        assert_eq!(of(&head(&[]), true), of(&head(&[]), false));
        assert_ne!(of(&named, true), of(&named, false));
        let other = head(&[("x-forwarded-for", "172.16.0.1,198.51.100.7")]);
        assert_eq!(of(&named, true), of(&other, true));
    }
}
