//! Who may call a binding, and again: its breaker, its retry budget. One for a function's binding, whatever the number of
//! instances. Time and chance are arguments; never sends anything.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use crate::admission::breaker::{Ask, Binary, Call, Shown};
use crate::admission::budget::Budget;

/// Seconds that the breaker remembers.
const FORGOTTEN: u64 = 10;

/// The breaker is open: a call is refused before anything is sent, until then at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open(pub Instant);

/// What callers of one binding share.
#[derive(Debug)]
pub struct Guard {
    in_flight: AtomicU32,
    /// Calls that were sent, ever.
    calls: AtomicU64,
    epoch: Instant,
    /// Nothing but good calls needs no lock: they are counted here, and told to the breaker once a second.
    closed: AtomicBool,
    good: AtomicU64,
    second: AtomicU64,
    learnt: Mutex<Learnt>,
}

#[derive(Debug)]
struct Learnt {
    breaker: Binary,
    budget: Budget,
}

/// What people are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// What the breaker is.
    pub breaker: Shown,
    /// Calls in flight.
    pub in_flight: u32,
}

impl Guard {
    /// For a binding that nobody has called yet.
    pub fn new(now: Instant) -> Arc<Guard> {
        Arc::new(Guard {
            in_flight: AtomicU32::new(0),
            calls: AtomicU64::new(0),
            epoch: now,
            closed: AtomicBool::new(true),
            good: AtomicU64::new(0),
            second: AtomicU64::new(0),
            learnt: Mutex::new(Learnt {
                breaker: Binary::default(),
                budget: Budget::new(0, now),
            }),
        })
    }

    /// A place for one call, with all that is tried for it.
    ///
    /// # Errors
    /// [`Open`], of which nothing is counted.
    pub fn enter(self: &Arc<Self>, now: Instant) -> Result<Place, Open> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let mut place = Place {
            guard: Arc::clone(self),
            probe: None,
        };
        if !self.closed.load(Ordering::Relaxed) {
            match self.lock().breaker.ask(now) {
                Ask::Go => {}
                Ask::Probe(tried) => place.probe = Some(tried),
                Ask::No(until) => return Err(Open(until)),
            }
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        Ok(place)
    }

    /// Takes one retry out of the budget, if there is one.
    fn may_retry(&self, now: Instant) -> bool {
        let calls = self.calls.load(Ordering::Relaxed);
        self.lock().budget.withdraw(calls, now)
    }

    /// What it is like now.
    pub fn view(&self) -> View {
        View {
            breaker: self.lock().breaker.shown(),
            in_flight: self.in_flight.load(Ordering::Relaxed),
        }
    }

    /// An attempt that is no probe ended; whether the breaker is another one since.
    fn ended(&self, call: Call, now: Instant, chance: f64) -> Option<Shown> {
        let second = now.saturating_duration_since(self.epoch).as_secs();
        let before = self.second.swap(second, Ordering::Relaxed);
        if call == Call::Good && before == second {
            self.good.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let good = self.good.swap(0, Ordering::Relaxed);
        // Of a second that is long over they say nothing.
        let good = if second.saturating_sub(before) < FORGOTTEN {
            good
        } else {
            0
        };
        self.change(|breaker| {
            if good > 0 {
                breaker.ended_well(good, now);
            }
            breaker.ended(call, now, chance);
        })
    }

    /// Tells the breaker something; what it is now, if that is something else than before.
    fn change(&self, tell: impl FnOnce(&mut Binary)) -> Option<Shown> {
        let mut learnt = self.lock();
        let before = learnt.breaker.shown();
        tell(&mut learnt.breaker);
        let after = learnt.breaker.shown();
        self.closed.store(after == Shown::Closed, Ordering::Relaxed);
        (before != after).then_some(after)
    }

    fn lock(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().expect("no holder of this lock panics")
    }
}

/// One call's place, until its answer is complete.
#[derive(Debug)]
pub struct Place {
    guard: Arc<Guard>,
    /// It is one of the few that try whether it is over, and nobody was told how it was.
    probe: Option<u64>,
}

impl Place {
    /// An attempt ended, or its response head is there. `chance` is uniform in 0..1. What the breaker is now, if this changed it.
    pub fn ended(&mut self, call: Call, now: Instant, chance: f64) -> Option<Shown> {
        match self.probe.take() {
            Some(tried) => self
                .guard
                .change(|breaker| breaker.probed(tried, call, now, chance)),
            None => self.guard.ended(call, now, chance),
        }
    }

    /// Whether what failed may be sent once more: never while it is tried whether the target is back.
    pub fn may_retry(&self, now: Instant) -> bool {
        self.probe.is_none() && self.guard.closed.load(Ordering::Relaxed) && self.guard.may_retry(now)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(tried) = self.probe.take() {
            // Its caller left: another one may try.
            let now = Instant::now();
            self.guard
                .change(|breaker| breaker.probed(tried, Call::Nothing, now, 1.0));
        }
        self.guard.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn fail(guard: &Arc<Guard>, calls: usize, now: Instant) {
        for _ in 0..calls {
            let mut place = guard.enter(now).unwrap();
            place.ended(Call::Failed, now, 1.0);
        }
    }

    #[test]
    fn twenty_failures_open_it_and_four_good_probes_close_it() {
        let now = Instant::now();
        let guard = Guard::new(now);
        fail(&guard, 20, now);
        let until = now + Duration::from_secs(1);
        assert_eq!(guard.enter(now).unwrap_err(), Open(until));
        assert_eq!(guard.view().breaker, Shown::Open(until));
        for left in (0..4).rev() {
            let mut probe = guard.enter(until).unwrap();
            assert!(!probe.may_retry(until), "a probe is not repeated");
            let changed = probe.ended(Call::Good, until, 1.0);
            assert_eq!(changed, (left == 0).then_some(Shown::Closed));
        }
        assert!(guard.enter(until).unwrap().may_retry(until));
    }

    #[test]
    fn five_probes_at_once_and_one_whose_caller_left_makes_room() {
        let now = Instant::now();
        let guard = Guard::new(now);
        fail(&guard, 20, now);
        let later = now + Duration::from_secs(1);
        let mut probes: Vec<_> = (0..5).map(|_| guard.enter(later).unwrap()).collect();
        assert!(matches!(guard.enter(later), Err(Open(_))));
        probes.pop();
        assert!(guard.enter(later).is_ok());
    }

    #[test]
    fn good_calls_outweigh_failures_though_they_take_no_lock() {
        let now = Instant::now();
        let guard = Guard::new(now);
        for _ in 0..30 {
            guard.enter(now).unwrap().ended(Call::Good, now, 1.0);
        }
        fail(&guard, 29, now);
        assert_eq!(guard.view().breaker, Shown::Closed);
        fail(&guard, 1, now);
        assert!(matches!(guard.view().breaker, Shown::Open(_)), "half of sixty");
    }

    #[test]
    fn good_calls_of_a_minute_ago_do_not_outweigh_failures_of_now() {
        let now = Instant::now();
        let guard = Guard::new(now);
        for second in 0..60 {
            let then = now + Duration::from_secs(second);
            for _ in 0..100 {
                guard.enter(then).unwrap().ended(Call::Good, then, 1.0);
            }
        }
        fail(&guard, 20, now + Duration::from_secs(120));
        assert!(matches!(guard.view().breaker, Shown::Open(_)));
    }

    #[test]
    fn retries_are_a_tenth_of_the_calls_and_one_a_second() {
        let now = Instant::now();
        let guard = Guard::new(now);
        let place = guard.enter(now).unwrap();
        let of = |now| (0..1000).filter(|_| place.may_retry(now)).count();
        assert_eq!(of(now), 10, "saved up");
        assert_eq!(of(now + Duration::from_secs(3)), 3);
        for _ in 0..200 {
            guard.enter(now).unwrap().ended(Call::Good, now, 1.0);
        }
        assert_eq!(of(now + Duration::from_secs(3)), 20);
    }
}
