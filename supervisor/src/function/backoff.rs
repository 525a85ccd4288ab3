//! How soon a process that ended is started again: pure, time and chance are arguments.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::Rng;

use super::state::AfterExit;

/// How a process ended that was not asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// For how long it had been ready; `None`: it never was.
    pub ready_for: Option<Duration>,
    /// How long a start may take: failed ones are counted over as long as the most of them take.
    pub ready_within: Duration,
    /// Whether another instance of the same revision is ready.
    pub others_serve: bool,
}

/// The ends of one revision's processes that nobody asked for.
#[derive(Debug, Default, Clone)]
pub struct Backoff {
    /// Ends in a row without [`Backoff::CALM`] of being ready in between.
    streak: u32,
    /// Ends before ready, within the last [`Backoff::WINDOW`] or longer.
    failed_starts: VecDeque<Instant>,
    /// It gave up, and none was ready since.
    on_probation: bool,
}

impl Backoff {
    /// The first wait; each further one is twice as long.
    const FIRST: Duration = Duration::from_millis(100);
    /// The longest wait.
    const LONGEST: Duration = Duration::from_secs(30);
    /// The longest wait while others of the same revision serve: then a start more costs little, and a place less may cost answers.
    const LONGEST_BESIDE: Duration = Duration::from_secs(1);
    /// Ready for longer than this, the first end in a row waits for nothing.
    const LIVED: Duration = Duration::from_secs(10);
    /// Ready for this long forgives everything.
    const CALM: Duration = Duration::from_secs(60);
    /// Failed starts are counted over this long.
    const WINDOW: Duration = Duration::from_secs(60);
    /// This many failed starts within the window, and it gives up …
    const GIVE_UP: usize = 5;
    /// … for this long.
    const COOL_DOWN: Duration = Duration::from_secs(30);

    /// Whether it gave up and none was ready since: then one start at a time is enough to find out.
    pub fn is_on_probation(&self) -> bool {
        self.on_probation
    }

    /// One is ready: true if that ends the probation. The failed starts are still counted.
    pub fn is_ready(&mut self) -> bool {
        std::mem::take(&mut self.on_probation)
    }

    /// What is next after a process ended now.
    ///
    /// The first end in a row restarts at once if it had been ready for more than 10 s; otherwise, after n ends before it,
    /// it waits `U(½,1) · min(30 s, 100 ms · 2ⁿ)`, so that many functions that fail together do not start together.
    pub fn after_exit(&mut self, ended: Ended, now: Instant, rng: &mut impl Rng) -> AfterExit {
        let Ended {
            ready_for,
            ready_within,
            others_serve,
        } = ended;
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
                self.on_probation = true;
                return AfterExit::GiveUp(now + Self::COOL_DOWN);
            }
        }
        let waits_before = self.streak;
        self.streak += 1;
        if waits_before == 0 && ready_for.is_some_and(|time| time > Self::LIVED) {
            return AfterExit::Restart;
        }
        let doubled = Self::FIRST.saturating_mul(1 << waits_before.min(16));
        let longest = match others_serve && ready_for.is_some() {
            true => Self::LONGEST_BESIDE,
            false => Self::LONGEST,
        };
        AfterExit::Wait(now + doubled.min(longest).mul_f64(rng.random_range(0.5..1.0)))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    const FAILED: Ended = Ended {
        ready_for: None,
        ready_within: Duration::from_secs(10),
        others_serve: false,
    };

    fn after(seconds: u64) -> Ended {
        Ended {
            ready_for: Some(Duration::from_secs(seconds)),
            ..FAILED
        }
    }

    fn wait(after: AfterExit, now: Instant) -> Duration {
        match after {
            AfterExit::Restart => Duration::ZERO,
            AfterExit::Wait(until) | AfterExit::GiveUp(until) => until - now,
        }
    }

    #[test]
    fn at_once_after_a_life_and_doubling_up_to_the_longest_otherwise() {
        let (now, mut rng) = (Instant::now(), SmallRng::seed_from_u64(1));
        let mut backoff = Backoff::default();
        assert_eq!(backoff.after_exit(after(11), now, &mut rng), AfterExit::Restart);
        for (first, ended) in [(1, after(11)), (0, after(10))] {
            let mut backoff = backoff.clone();
            if first == 0 {
                backoff = Backoff::default();
            }
            for n in first..40 {
                let full = Backoff::FIRST
                    .saturating_mul(1 << n.min(16))
                    .min(Backoff::LONGEST);
                let waited = wait(backoff.after_exit(ended, now, &mut rng), now);
                assert!(waited >= full / 2 && waited < full, "{n}: {waited:?} of {full:?}");
            }
        }
    }

    #[test]
    fn beside_others_that_serve_no_wait_is_long_unless_it_never_got_ready() {
        let (now, mut rng) = (Instant::now(), SmallRng::seed_from_u64(1));
        let mut backoff = Backoff::default();
        let beside = |ended| Ended {
            others_serve: true,
            ..ended
        };
        for _ in 0..20 {
            let waited = wait(backoff.after_exit(beside(after(2)), now, &mut rng), now);
            assert!(waited < Backoff::LONGEST_BESIDE);
        }
        let waited = wait(backoff.after_exit(beside(FAILED), now, &mut rng), now);
        assert!(waited >= Backoff::LONGEST / 2);
    }

    #[test]
    fn a_calm_minute_forgives() {
        let (now, mut rng) = (Instant::now(), SmallRng::seed_from_u64(1));
        let mut backoff = Backoff::default();
        for _ in 0..4 {
            backoff.after_exit(FAILED, now, &mut rng);
        }
        assert_eq!(backoff.after_exit(after(60), now, &mut rng), AfterExit::Restart);
    }

    #[test]
    fn five_failed_starts_within_a_minute_give_up_and_each_more_again() {
        let (mut now, mut rng) = (Instant::now(), SmallRng::seed_from_u64(1));
        let mut backoff = Backoff::default();
        for _ in 0..4 {
            assert!(!matches!(
                backoff.after_exit(FAILED, now, &mut rng),
                AfterExit::GiveUp(_)
            ));
        }
        for _ in 0..2 {
            assert_eq!(
                backoff.after_exit(FAILED, now, &mut rng),
                AfterExit::GiveUp(now + Backoff::COOL_DOWN)
            );
            now += Backoff::COOL_DOWN;
        }
    }

    #[test]
    fn failed_starts_far_apart_do_not_give_up() {
        let (mut now, mut rng) = (Instant::now(), SmallRng::seed_from_u64(1));
        let mut backoff = Backoff::default();
        for _ in 0..20 {
            assert!(!matches!(
                backoff.after_exit(FAILED, now, &mut rng),
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
            let after = backoff.after_exit(after(0), now, &mut rng);
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
                match backoff.after_exit(
                    Ended {
                        ready_within,
                        ..FAILED
                    },
                    now,
                    &mut rng,
                ) {
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
