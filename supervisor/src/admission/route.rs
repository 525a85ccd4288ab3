//! How many requests of one route are in flight: a counter beside the function's own limit, for routes that cost much more than
//! others. Never lets anybody wait, and learns nothing.

use super::sync::{Arc, AtomicU32, Ordering};

/// The places of one route, shared by all workers and by the revisions of its function.
#[derive(Debug)]
pub struct RouteLimit {
    most: AtomicU32,
    in_flight: AtomicU32,
}

impl RouteLimit {
    /// So many places, all of them free.
    pub fn new(most: u32) -> Arc<RouteLimit> {
        Arc::new(RouteLimit {
            most: AtomicU32::new(most),
            in_flight: AtomicU32::new(0),
        })
    }

    /// Another revision allows so many. Who is in flight stays, and counts.
    pub fn set(&self, most: u32) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Requests that hold a place.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// A place, if one is free now.
    pub fn enter(self: &Arc<Self>) -> Option<RoutePlace> {
        let most = self.most.load(Ordering::Relaxed);
        let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        // Never above it, not for a moment either: else two who are too many would refuse a third for whom there is a place.
        let taken = self
            .in_flight
            .fetch_update(success, failure, |n| (n < most).then_some(n + 1));
        taken.ok().map(|_| RoutePlace(Arc::clone(self)))
    }
}

/// The right to be in flight by a route; given back when dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the place to the next"]
pub struct RoutePlace(Arc<RouteLimit>);

impl Drop for RoutePlace {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}
