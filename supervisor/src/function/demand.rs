//! How many requests of a function were under way in the last minute: pure, time is an argument. What it keeps is bounded:
//! one bucket a second, and none for a function that is not asked.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Over which growth is averaged, and within which nothing that was needed stops.
pub const STABLE: Duration = Duration::from_secs(60);
/// Over which it is averaged when the load is twice what there is.
pub const PANIC: Duration = Duration::from_secs(6);
/// A sample stands for the time since the one before it, at most this long.
const GAP: Duration = Duration::from_secs(1);

/// Requests under way: a mean over a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency {
    /// The sum of the times that requests were under way, in milliseconds.
    pub request_millis: u64,
    /// In so many milliseconds; not 0.
    pub over_millis: u64,
}

impl Concurrency {
    /// So many at one moment.
    pub fn of(requests: usize) -> Concurrency {
        Concurrency {
            request_millis: requests as u64,
            over_millis: 1,
        }
    }
}

/// The requests under way in the last minute.
#[derive(Debug, Default)]
pub struct Demand {
    /// One for each second with requests, oldest first.
    buckets: VecDeque<Bucket>,
    /// When second 0 was.
    epoch: Option<Instant>,
    last: Option<Instant>,
    panic_until: Option<Instant>,
    held_until: Option<Instant>,
}

#[derive(Debug)]
struct Bucket {
    second: u64,
    request_millis: u64,
    peak: usize,
}

impl Demand {
    /// So many requests are under way now, and were since the last time this was told.
    pub fn note(&mut self, admitted: usize, now: Instant) {
        let epoch = *self.epoch.get_or_insert(now);
        let gap = self
            .last
            .map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.last = Some(now);
        let second = now.saturating_duration_since(epoch).as_secs();
        let oldest = second.saturating_sub(STABLE.as_secs());
        while self.buckets.front().is_some_and(|bucket| bucket.second < oldest) {
            self.buckets.pop_front();
        }
        if admitted == 0 {
            return;
        }
        let request_millis = admitted as u64 * gap.min(GAP).as_millis() as u64;
        match self.buckets.back_mut() {
            Some(bucket) if bucket.second == second => {
                bucket.request_millis += request_millis;
                bucket.peak = bucket.peak.max(admitted);
            }
            Some(_) | None => self.buckets.push_back(Bucket {
                second,
                request_millis,
                peak: admitted,
            }),
        }
    }

    /// Nothing is known of the last minute, as with what an earlier supervisor started: nothing stops for a stable window.
    pub fn hold(&mut self, now: Instant) {
        self.held_until = Some(now + STABLE);
    }

    pub(super) fn is_held(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }

    /// Twice as much is needed as there is: nothing stops for a stable window.
    pub(super) fn panics(&mut self, now: Instant) {
        self.panic_until = Some(now + STABLE);
    }

    pub(super) fn is_in_panic(&self, now: Instant) -> bool {
        self.panic_until.is_some_and(|until| now < until)
    }

    /// The mean over the stable window.
    pub fn stable(&self, now: Instant) -> Concurrency {
        self.mean(STABLE, now)
    }

    /// The mean over the panic window.
    pub fn panic(&self, now: Instant) -> Concurrency {
        self.mean(PANIC, now)
    }

    /// The most at any moment that was seen within the stable window.
    pub fn peak(&self, now: Instant) -> usize {
        self.within(STABLE, now)
            .map(|bucket| bucket.peak)
            .max()
            .unwrap_or(0)
    }

    /// Whether no request was seen within the stable window.
    pub fn is_calm(&self, now: Instant) -> bool {
        self.within(STABLE, now).next().is_none()
    }

    fn mean(&self, window: Duration, now: Instant) -> Concurrency {
        Concurrency {
            request_millis: self.within(window, now).map(|bucket| bucket.request_millis).sum(),
            over_millis: window.as_millis() as u64,
        }
    }

    /// The buckets of a window, which ends with the second that is under way: one more than it has seconds, less what is
    /// still to come of the last, would be a mean above the load.
    fn within(&self, window: Duration, now: Instant) -> impl Iterator<Item = &Bucket> {
        let second = self
            .epoch
            .map_or(0, |epoch| now.saturating_duration_since(epoch).as_secs());
        let after = (second + 1).saturating_sub(window.as_secs());
        self.buckets
            .iter()
            .rev()
            .take_while(move |bucket| bucket.second >= after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn a_constant_load_has_its_own_mean_and_never_more() {
        let start = Instant::now();
        let mut demand = Demand::default();
        for tick in 0..=600 {
            let now = at(start, tick * 250);
            demand.note(8, now);
            for window in [demand.stable(now), demand.panic(now)] {
                assert!(
                    window.request_millis <= 8 * window.over_millis,
                    "{tick}: {window:?}"
                );
            }
            // All of the window has passed, but for the second that is under way.
            if tick > 240 {
                let stable = demand.stable(now);
                assert!(
                    stable.request_millis >= 8 * (stable.over_millis - 1000),
                    "{stable:?}"
                );
            }
        }
        assert!(demand.buckets.len() <= 61);
    }

    #[test]
    fn what_was_is_forgotten_after_the_window() {
        let start = Instant::now();
        let mut demand = Demand::default();
        demand.note(5, start);
        demand.note(5, at(start, 250));
        assert_eq!((demand.peak(start), demand.is_calm(start)), (5, false));
        assert_eq!(demand.peak(at(start, 59_000)), 5);
        assert_eq!(demand.panic(at(start, 7_000)).request_millis, 0);
        assert_eq!(demand.stable(at(start, 7_000)).request_millis, 1250);
        let late = at(start, 61_000);
        assert_eq!((demand.peak(late), demand.is_calm(late)), (0, true));
        demand.note(0, at(start, 62_000));
        assert!(demand.buckets.is_empty(), "and costs nothing");
    }

    #[test]
    fn a_sample_after_a_long_silence_does_not_stand_for_all_of_it() {
        let start = Instant::now();
        let mut demand = Demand::default();
        demand.note(0, start);
        let now = at(start, 30_000);
        demand.note(10, now);
        assert_eq!(demand.stable(now).request_millis, 10_000);
    }
}
