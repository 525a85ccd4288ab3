//! How soon a process that ended is started again: pure, time and chance are arguments.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::Rng;

use super::state::AfterExit;

/// The ends of one revision's processes that nobody asked for.
#[derive(Debug, Default, Clone)]
pub struct Backoff {
    /// Ends in a row without [`Backoff::CALM`] of being ready in between.
    streak: u32,
    /// Ends before ready, within the last [`Backoff::WINDOW`] or longer.
    failed_starts: VecDeque<Instant>,
}

impl Backoff {
    /// The first wait; each further one is twice as long.
    const FIRST: Duration = Duration::from_millis(100);
    /// The longest wait.
    const LONGEST: Duration = Duration::from_secs(30);
    /// Ready for this long forgives everything.
    const CALM: Duration = Duration::from_secs(60);
    /// Failed starts are counted over this long.
    const WINDOW: Duration = Duration::from_secs(60);
    /// This many failed starts within the window, and it gives up …
    const GIVE_UP: usize = 5;
    /// … for this long.
    const COOL_DOWN: Duration = Duration::from_secs(30);

    /// What is next after a process ended now that had been ready for `ready_for`; `None`: it never was. A start may take
    /// up to `ready_within`: failed ones are counted over as long as the most of them take.
    ///
    /// The first end in a row restarts at once; the n-th after it waits `U(½,1) · min(30 s, 100 ms · 2ⁿ)`, so that
    /// many functions that fail together do not start together.
    pub fn after_exit(
        &mut self,
        ready_for: Option<Duration>,
        ready_within: Duration,
        now: Instant,
        rng: &mut impl Rng,
    ) -> AfterExit {
        if ready_for.is_some_and(|time| time >= Self::CALM) {
            *self = Backoff::default();
        }
        if ready_for.is_none() {
            let window = Self::WINDOW.max(ready_within.saturating_mul(Self::GIVE_UP as u32 + 1));
            self.failed_starts.push_back(now);
            while self
                .failed_starts
                .front()
                .is_some_and(|&then| now.duration_since(then) > window)
            {
                self.failed_starts.pop_front();
            }
            if self.failed_starts.len() >= Self::GIVE_UP {
                // Once more failed after the cool-down gives up again at once.
                self.failed_starts.pop_front();
                self.streak += 1;
                return AfterExit::GiveUp(now + Self::COOL_DOWN);
            }
        }
        let waits_before = self.streak;
        self.streak += 1;
        if waits_before == 0 {
            return AfterExit::Restart;
        }
        let doubled = Self::FIRST.saturating_mul(1 << (waits_before - 1).min(16));
        AfterExit::Wait(now + doubled.min(Self::LONGEST).mul_f64(rng.random_range(0.5..1.0)))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    const READY_WITHIN: Duration = Duration::from_secs(10);

    fn wait(after: AfterExit, now: Instant) -> Duration {
        match after {
            AfterExit::Restart => Duration::ZERO,
            AfterExit::Wait(until) | AfterExit::GiveUp(until) => until - now,
        }
    }

    #[test]
    fn at_once_then_doubling_up_to_the_longest() {
        let (now, mut rng) = (Instant::now(), SmallRng::seed_from_u64(1));
        let mut backoff = Backoff::default();
        let crashed = Some(Duration::from_secs(1));
        assert_eq!(
            backoff.after_exit(crashed, READY_WITHIN, now, &mut rng),
            AfterExit::Restart
        );
        for n in 0..40 {
            let full = Backoff::FIRST
                .saturating_mul(1 << n.min(16))
                .min(Backoff::LONGEST);
            let waited = wait(backoff.after_exit(crashed, READY_WITHIN, now, &mut rng), now);
            assert!(waited >= full / 2 && waited < full, "{n}: {waited:?} of {full:?}");
        }
    }

    #[test]
    fn a_calm_minute_forgives() {
        let (now, mut rng) = (Instant::now(), SmallRng::seed_from_u64(1));
        let mut backoff = Backoff::default();
        for _ in 0..4 {
            backoff.after_exit(None, READY_WITHIN, now, &mut rng);
        }
        assert_eq!(
            backoff.after_exit(Some(Backoff::CALM), READY_WITHIN, now, &mut rng),
            AfterExit::Restart
        );
    }

    #[test]
    fn five_failed_starts_within_a_minute_give_up_and_each_more_again() {
        let (mut now, mut rng) = (Instant::now(), SmallRng::seed_from_u64(1));
        let mut backoff = Backoff::default();
        for _ in 0..4 {
            assert!(!matches!(
                backoff.after_exit(None, READY_WITHIN, now, &mut rng),
                AfterExit::GiveUp(_)
            ));
        }
        assert_eq!(
            backoff.after_exit(None, READY_WITHIN, now, &mut rng),
            AfterExit::GiveUp(now + Backoff::COOL_DOWN)
        );
        now += Backoff::COOL_DOWN;
        assert_eq!(
            backoff.after_exit(None, READY_WITHIN, now, &mut rng),
            AfterExit::GiveUp(now + Backoff::COOL_DOWN)
        );
    }

    #[test]
    fn failed_starts_far_apart_do_not_give_up() {
        let (mut now, mut rng) = (Instant::now(), SmallRng::seed_from_u64(1));
        let mut backoff = Backoff::default();
        for _ in 0..20 {
            assert!(!matches!(
                backoff.after_exit(None, READY_WITHIN, now, &mut rng),
                AfterExit::GiveUp(_)
            ));
            now += Backoff::WINDOW / 2;
        }
    }

    #[test]
    fn crashes_of_a_ready_process_never_give_up() {
        let (now, mut rng) = (Instant::now(), SmallRng::seed_from_u64(1));
        let mut backoff = Backoff::default();
        for _ in 0..50 {
            let after = backoff.after_exit(Some(Duration::ZERO), READY_WITHIN, now, &mut rng);
            assert!(!matches!(after, AfterExit::GiveUp(_)));
        }
    }

    #[test]
    fn starts_that_are_late_each_time_give_up_however_long_they_may_take() {
        for ready_within in [10, 20, 60, 600].map(Duration::from_secs) {
            let (mut now, mut rng) = (Instant::now(), SmallRng::seed_from_u64(1));
            let mut backoff = Backoff::default();
            let gave_up = (1..=10).find(|_| {
                now += ready_within;
                match backoff.after_exit(None, ready_within, now, &mut rng) {
                    AfterExit::GiveUp(_) => true,
                    after => {
                        now += wait(after, now);
                        false
                    }
                }
            });
            assert_eq!(gave_up, Some(Backoff::GIVE_UP), "{ready_within:?}");
        }
    }
}
