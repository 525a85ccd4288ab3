//! What an instance is working on, for the calls that it makes meanwhile: until when, how much it matters, how deep it is. Kept only
//! for functions with bindings; others pay nothing for it.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::admission::Class;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// How many functions called each other until this request. Never what a stranger says.
pub const X_FUNCD_HOPS: HeaderName = HeaderName::from_static("x-funcd-hops");

/// One request that an instance works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// Its id.
    pub id: Option<HeaderValue>,
    /// Its place in a trace.
    pub traceparent: Option<HeaderValue>,
    /// And what else belongs to that.
    pub tracestate: Option<HeaderValue>,
    /// When nobody waits for its answer any more.
    pub deadline: Instant,
    /// How much it matters.
    pub class: Class,
    /// How many functions called each other until it.
    pub hops: u8,
}

impl Parent {
    /// The request with this head, as it is sent to the instance.
    pub fn of(headers: &HeaderMap, deadline: Instant, class: Class) -> Parent {
        Parent {
            id: headers.get(X_REQUEST_ID).cloned(),
            traceparent: headers.get(TRACEPARENT).cloned(),
            tracestate: headers.get(TRACESTATE).cloned(),
            deadline,
            class,
            hops: hops(headers),
        }
    }

    /// The trace that it belongs to: the 32 digits of `traceparent`.
    fn trace(&self) -> Option<&[u8]> {
        self.traceparent.as_ref().and_then(trace)
    }
}

/// What a head says of how many functions called each other until it.
fn hops(headers: &HeaderMap) -> u8 {
    let said = headers.get(X_FUNCD_HOPS).and_then(|hops| hops.to_str().ok());
    said.and_then(|hops| hops.parse().ok()).unwrap_or(0)
}

fn trace(traceparent: &HeaderValue) -> Option<&[u8]> {
    traceparent.as_bytes().get(3..35)
}

/// What a call of an instance's is a part of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The request that it is made for, if that is known.
    pub parent: Option<Parent>,
    /// How many functions called each other, at least, until the instance that calls.
    pub hops: u8,
}

/// The requests that an instance works on.
#[derive(Debug, Default)]
pub struct Serving(Mutex<Requests>);

#[derive(Debug, Default)]
struct Requests {
    next: u64,
    all: Vec<(u64, Parent)>,
}

impl Serving {
    /// It begins to work on a request: a number, for [`Serving::leave`].
    pub fn enter(&self, parent: Parent) -> u64 {
        let mut requests = self.lock();
        requests.next += 1;
        let key = requests.next;
        requests.all.push((key, parent));
        key
    }

    /// It is done with that one.
    pub fn leave(&self, key: u64) {
        let mut requests = self.lock();
        if let Some(at) = requests.all.iter().position(|(known, _)| *known == key) {
            requests.all.swap_remove(at);
        }
    }

    /// What a call with this head is a part of: the request whose id it passes on, or whose trace; or the one that is in flight, where
    /// there can be only one (`alone`). Of several the latest deadline counts, the least class and the most hops.
    pub fn origin(&self, call: &HeaderMap, alone: bool) -> Origin {
        let requests = self.lock();
        let id = call.get(X_REQUEST_ID);
        let trace = call.get(TRACEPARENT).and_then(trace);
        let all = || requests.all.iter().map(|(_, parent)| parent);
        let by_id = merge(all().filter(|parent| id.is_some() && parent.id.as_ref() == id));
        let by_trace = || merge(all().filter(|parent| trace.is_some() && parent.trace() == trace));
        let only = || match &requests.all[..] {
            [(_, parent)] if alone => Some(parent.clone()),
            _ => None,
        };
        let parent = by_id.or_else(by_trace).or_else(only);
        // A call that can't be told apart is as deep as the deepest that it can belong to; nor can a function deny its depth.
        let known = match &parent {
            Some(parent) => parent.hops,
            None => all().map(|parent| parent.hops).max().unwrap_or(0),
        };
        Origin {
            parent,
            hops: known.max(hops(call)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Requests> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

fn merge<'a>(parents: impl Iterator<Item = &'a Parent>) -> Option<Parent> {
    parents.cloned().reduce(|one, other| Parent {
        deadline: one.deadline.max(other.deadline),
        class: one.class.max(other.class),
        hops: one.hops.max(other.hops),
        ..one
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

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

    fn traced(trace: u8) -> String {
        format!("00-{:032x}-b7ad6b7169203331-01", trace)
    }

    #[test]
    fn a_call_belongs_to_the_request_whose_id_or_trace_it_passes_on() {
        let (now, serving) = (Instant::now(), Serving::default());
        let later = now + Duration::from_secs(9);
        let one = head(&[("x-request-id", "one"), ("traceparent", &traced(1))]);
        let two = head(&[
            ("x-request-id", "two"),
            ("traceparent", &traced(2)),
            ("x-funcd-hops", "3"),
        ]);
        serving.enter(Parent::of(&one, now, Class::Critical));
        let key = serving.enter(Parent::of(&two, later, Class::Bulk));
        let of = |fields: &[(&'static str, &str)]| serving.origin(&head(fields), false);
        let parent = of(&[("x-request-id", "one")]).parent.unwrap();
        assert_eq!((parent.deadline, parent.class), (now, Class::Critical));
        let found = of(&[("traceparent", &traced(2))]);
        let parent = found.parent.unwrap();
        assert_eq!(
            (parent.deadline, parent.class, found.hops),
            (later, Class::Bulk, 3)
        );
        // One that can't be told apart has no deadline, but depth.
        assert_eq!(
            of(&[]),
            Origin {
                parent: None,
                hops: 3
            }
        );
        serving.leave(key);
        assert_eq!(of(&[("x-request-id", "two")]), Origin::default());
    }

    #[test]
    fn the_only_request_of_a_function_that_answers_one_at_a_time_is_known() {
        let (now, serving) = (Instant::now(), Serving::default());
        serving.enter(Parent::of(&head(&[]), now, Class::Degraded));
        let none = head(&[]);
        assert_eq!(serving.origin(&none, true).parent.unwrap().deadline, now);
        assert_eq!(serving.origin(&none, false).parent, None);
    }

    #[test]
    fn requests_that_look_the_same_count_together() {
        let (now, serving) = (Instant::now(), Serving::default());
        let same = head(&[("x-request-id", "same")]);
        let later = now + Duration::from_secs(1);
        serving.enter(Parent::of(&same, later, Class::Critical));
        serving.enter(Parent::of(&same, now, Class::Bulk));
        let parent = serving.origin(&same, false).parent.unwrap();
        assert_eq!((parent.deadline, parent.class), (later, Class::Bulk));
    }

    #[test]
    fn a_function_can_say_that_it_is_deeper_but_not_that_it_is_not() {
        let (now, serving) = (Instant::now(), Serving::default());
        let deep = head(&[("x-request-id", "deep"), ("x-funcd-hops", "7")]);
        serving.enter(Parent::of(&deep, now, Class::Degraded));
        let of = |hops| {
            serving
                .origin(&head(&[("x-request-id", "deep"), ("x-funcd-hops", hops)]), false)
                .hops
        };
        assert_eq!([of("0"), of("9"), of("-1"), of("256")], [7, 9, 7, 7]);
    }
}
