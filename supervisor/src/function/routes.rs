//! The limits of a function's routes, which outlive its revisions: what the old one still has in flight counts for the new
//! one. Never routes anything.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::admission::route::RouteLimit;
use crate::catalog::manifest::RoutePattern;

/// Host and path of a route.
type Place = (Option<String>, String);

/// By host and path.
#[derive(Debug, Default)]
pub(super) struct RouteLimits(Mutex<HashMap<Place, Arc<RouteLimit>>>);

impl RouteLimits {
    /// The limit of each of these routes, which are all that there are now; `None`: it has none.
    pub(super) fn of(&self, patterns: &[RoutePattern]) -> Vec<Option<Arc<RouteLimit>>> {
        let mut known = self.0.lock().expect("no holder of this lock panics");
        let limits = patterns.iter().map(|pattern| {
            let most = pattern.limit?;
            let limit = known
                .entry((pattern.host.clone(), pattern.path.clone()))
                .or_insert_with(|| RouteLimit::new(most));
            limit.set(most);
            Some(Arc::clone(limit))
        });
        let limits = limits.collect();
        // One that a revision left out counts on while somebody is in flight by it: the next revision may have it again.
        known.retain(|_, limit| Arc::strong_count(limit) > 1);
        limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(path: &str, limit: Option<u32>) -> RoutePattern {
        RoutePattern {
            host: None,
            path: path.to_owned(),
            limit,
        }
    }

    #[test]
    fn the_next_revision_finds_who_is_in_flight() {
        let routes = RouteLimits::default();
        let [Some(first), None] = &routes.of(&[pattern("/a", Some(2)), pattern("/b", None)])[..] else {
            panic!("the first has a limit, the second has none");
        };
        let (one, two) = (first.enter().unwrap(), first.enter().unwrap());
        assert!(first.enter().is_none());
        let second = routes.of(&[pattern("/a", Some(3))])[0].clone().unwrap();
        assert!(Arc::ptr_eq(first, &second));
        let three = second.enter().unwrap();
        assert!(first.enter().is_none(), "it is one counter");
        // A revision without the limit, and one that has it again.
        assert!(routes.of(&[pattern("/a", None)])[0].is_none());
        let third = routes.of(&[pattern("/a", Some(1))])[0].clone().unwrap();
        assert_eq!(third.in_flight(), 3);
        drop((one, two));
        assert!(third.enter().is_none());
        drop(three);
        assert_eq!(third.in_flight(), 0);
        assert!(third.enter().is_some());
    }

    #[test]
    fn what_nobody_needs_is_forgotten() {
        let routes = RouteLimits::default();
        drop(routes.of(&[pattern("/a", Some(2))]));
        drop(routes.of(&[]));
        assert!(routes.0.lock().unwrap().is_empty());
    }
}
