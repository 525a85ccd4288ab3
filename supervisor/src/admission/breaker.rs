//! When to stop asking what fails: a proportional breaker for functions, and a binary one for bindings. Pure: time and chance are
//! arguments. Never counts what the caller did wrong (4xx), callers who left, or what admission itself refused.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Sums of two counts over the last buckets.
#[derive(Debug, Clone)]
struct Sliding {
    width: Duration,
    length: usize,
    /// Oldest first: when it began, and its counts.
    buckets: VecDeque<(Instant, [u64; 3])>,
}

impl Sliding {
    fn new(width: Duration, length: usize) -> Sliding {
        Sliding {
            width,
            length,
            buckets: VecDeque::with_capacity(length + 1),
        }
    }

    fn add(&mut self, counts: [u64; 3], now: Instant) {
        self.forget(now);
        match self.buckets.back_mut() {
            Some((began, last)) if now.saturating_duration_since(*began) < self.width => {
                last.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
            }
            _ => self.buckets.push_back((now, counts)),
        }
    }

    fn forget(&mut self, now: Instant) {
        let whole = self.width * self.length as u32;
        while self
            .buckets
            .front()
            .is_some_and(|&(began, _)| now.saturating_duration_since(began) >= whole)
        {
            self.buckets.pop_front();
        }
    }

    fn sum(&mut self, now: Instant) -> [u64; 3] {
        self.forget(now);
        self.buckets
            .iter()
            .fold([0; 3], |[a, b, c], (_, [x, y, z])| [a + x, b + y, c + z])
    }
}

/// Refuses a growing part of the requests as more of them fail: the client-side throttling of *Site Reliability Engineering*,
/// chapter 21.
#[derive(Debug, Clone)]
pub struct Proportional {
    counts: Sliding,
}

impl Default for Proportional {
    fn default() -> Proportional {
        Proportional {
            counts: Sliding::new(Duration::from_secs(10), 12),
        }
    }
}

impl Proportional {
    /// Requests for each that is answered, before any is refused.
    const K: f64 = 2.0;
    /// Some always get through, so that it notices when it is over.
    const MOST: f64 = 0.75;
    /// Fewer requests a second than this say nothing.
    const LEAST_RATE: f64 = 5.0;
    /// How long counts are kept.
    const WINDOW: Duration = Duration::from_secs(120);

    /// Counts what happened since the last call: `requests` were wanted (what it refused included), `accepted` of them answered.
    pub fn add(&mut self, requests: u64, accepted: u64, now: Instant) {
        self.counts.add([requests, accepted, 0], now);
    }

    /// The part to refuse, from 0 to .75: max(0, (requests − K·accepted) ÷ (requests + 1)).
    pub fn refuse(&mut self, now: Instant) -> f64 {
        let [requests, accepted, _] = self.counts.sum(now).map(|n| n as f64);
        let first = self.counts.buckets.front().map(|&(began, _)| began);
        // Since the first of them, and at least one bucket: a function that just began has a rate too.
        let age = first.map_or(Duration::ZERO, |first| now.saturating_duration_since(first));
        let age = age.clamp(Duration::from_secs(10), Self::WINDOW);
        if requests < Self::LEAST_RATE * age.as_secs_f64() {
            return 0.0;
        }
        ((requests - Self::K * accepted) / (requests + 1.0)).clamp(0.0, Self::MOST)
    }
}

/// What a call to a binding was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// It was answered, in time.
    Good,
    /// It was answered, but later than it should.
    Slow,
    /// It was not answered, or by a 5xx.
    Failed,
    /// Says nothing: a 4xx, the caller left, or it was refused before it was sent.
    Nothing,
}

/// Whether a binding may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// It may; [`Binary::ended`] is told how it was.
    Go,
    /// It may, as one of the few that try whether it is over; [`Binary::probed`] is told how it was, and which try it belonged to.
    Probe(u64),
    /// It may not, until then.
    No(Instant),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Instant },
    HalfOpen { leased: u32, good: u32, since: Instant },
}

/// What a breaker is, for people and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Everything passes.
    Closed,
    /// A few calls try whether it is over.
    HalfOpen,
    /// Nothing passes, until then at least.
    Open(Instant),
}

impl Shown {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Shown::Closed => "closed",
            Shown::HalfOpen => "half-open",
            Shown::Open(_) => "open",
        }
    }
}

/// Open or closed: for bindings, where a part of the calls is as bad as none.
#[derive(Debug, Clone)]
pub struct Binary {
    state: State,
    /// Which try it is: a probe that comes back after its try is over says nothing of the next one.
    tries: u64,
    /// Calls, failed ones, slow ones.
    counts: Sliding,
    /// How often in a row it opened.
    opened: u32,
}

impl Default for Binary {
    fn default() -> Binary {
        Binary {
            state: State::Closed,
            tries: 0,
            counts: Sliding::new(Duration::from_secs(1), 10),
            opened: 0,
        }
    }
}

impl Binary {
    /// Fewer calls than this in ten seconds say nothing.
    const LEAST: u64 = 20;
    /// The first time it is open; each further one twice as long …
    const SHORTEST: Duration = Duration::from_secs(1);
    /// … up to this.
    const LONGEST: Duration = Duration::from_secs(60);
    /// Calls at once that try whether it is over.
    const PROBES: u32 = 5;
    /// So many good ones, and it is.
    const ENOUGH: u32 = 4;
    /// A probe that has not come back by then is forgotten: who leased it may be gone.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Whether one may call now.
    pub fn ask(&mut self, now: Instant) -> Ask {
        match &mut self.state {
            State::Closed => Ask::Go,
            State::Open { until } if now < *until => Ask::No(*until),
            State::Open { .. } => {
                self.tries += 1;
                self.state = State::HalfOpen {
                    leased: 1,
                    good: 0,
                    since: now,
                };
                Ask::Probe(self.tries)
            }
            State::HalfOpen { leased, good, since } => {
                if now.saturating_duration_since(*since) >= Self::PATIENCE {
                    (*leased, *since) = (0, now);
                }
                if *leased + *good < Self::PROBES {
                    *leased += 1;
                    return Ask::Probe(self.tries);
                }
                Ask::No(now + Self::SHORTEST)
            }
        }
    }

    /// A call that was let [`Ask::Go`] ended. `chance` is uniform in 0..1.
    pub fn ended(&mut self, call: Call, now: Instant, chance: f64) {
        match call {
            Call::Good => self.count([1, 0, 0], now, chance),
            Call::Slow => self.count([1, 0, 1], now, chance),
            Call::Failed => self.count([1, 1, 0], now, chance),
            Call::Nothing => {}
        }
    }

    /// So many calls that were let [`Ask::Go`] ended well, within the last second.
    pub fn ended_well(&mut self, calls: u64, now: Instant) {
        // Good ones open nothing, whatever the chance.
        self.count([calls, 0, 0], now, 1.0);
    }

    /// What it is now.
    pub fn shown(&self) -> Shown {
        match self.state {
            State::Closed => Shown::Closed,
            State::HalfOpen { .. } => Shown::HalfOpen,
            State::Open { until } => Shown::Open(until),
        }
    }

    fn count(&mut self, counts: [u64; 3], now: Instant, chance: f64) {
        match self.state {
            State::Closed => {
                self.counts.add(counts, now);
                let [calls, failed, slow] = self.counts.sum(now);
                if calls >= Self::LEAST && (2 * failed >= calls || 2 * slow >= calls) {
                    self.open(now, chance);
                }
            }
            // It was sent before this began.
            State::Open { .. } | State::HalfOpen { .. } => {}
        }
    }

    /// A call that was let [`Ask::Probe`] in this try ended.
    pub fn probed(&mut self, tried: u64, call: Call, now: Instant, chance: f64) {
        match &mut self.state {
            State::HalfOpen { .. } if tried != self.tries => {}
            State::HalfOpen { leased, good, .. } => match call {
                Call::Good => {
                    (*leased, *good) = (leased.saturating_sub(1), *good + 1);
                    if *good >= Self::ENOUGH {
                        *self = Binary {
                            tries: self.tries,
                            ..Binary::default()
                        };
                    }
                }
                Call::Slow | Call::Failed => self.open(now, chance),
                Call::Nothing => *leased = leased.saturating_sub(1),
            },
            // Another probe decided already.
            State::Closed | State::Open { .. } => {}
        }
    }

    fn open(&mut self, now: Instant, chance: f64) {
        let doubled = Self::SHORTEST * (1 << self.opened.min(6));
        let wait = doubled
            .min(Self::LONGEST)
            .mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0);
        self.opened = self.opened.saturating_add(1);
        self.counts.buckets.clear();
        self.state = State::Open { until: now + wait };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn half_may_fail_and_then_more_and_more_is_refused() {
        let now = Instant::now();
        let refused = |accepted| {
            let mut breaker = Proportional::default();
            breaker.add(1000, accepted, now);
            breaker.refuse(now)
        };
        assert_eq!(refused(1000), 0.0);
        assert_eq!(refused(500), 0.0);
        assert!((refused(250) - 0.5).abs() < 0.01);
        assert_eq!(refused(0), 0.75);
    }

    #[test]
    fn few_requests_say_nothing_and_old_ones_are_forgotten() {
        let now = Instant::now();
        let mut breaker = Proportional::default();
        breaker.add(49, 0, now);
        assert_eq!(breaker.refuse(now), 0.0);
        breaker.add(1000, 0, now);
        assert_eq!(breaker.refuse(now), 0.75);
        assert_eq!(breaker.refuse(now + secs(121)), 0.0);
    }

    fn fail(breaker: &mut Binary, n: u32, now: Instant) {
        (0..n).for_each(|_| breaker.ended(Call::Failed, now, 1.0));
    }

    #[test]
    fn twenty_calls_of_which_half_fail_open_it() {
        let now = Instant::now();
        let mut breaker = Binary::default();
        fail(&mut breaker, 19, now);
        assert_eq!(breaker.ask(now), Ask::Go);
        fail(&mut breaker, 1, now);
        assert_eq!(breaker.ask(now), Ask::No(now + secs(1)));
        // Spread over more than ten seconds they do not.
        let mut breaker = Binary::default();
        for n in 0..40 {
            fail(&mut breaker, 1, now + secs(n));
            assert_eq!(breaker.ask(now + secs(n)), Ask::Go);
        }
    }

    #[test]
    fn slow_calls_open_it_too_and_what_says_nothing_does_not() {
        let now = Instant::now();
        let mut breaker = Binary::default();
        (0..100).for_each(|_| breaker.ended(Call::Nothing, now, 1.0));
        (0..10).for_each(|_| breaker.ended(Call::Good, now, 1.0));
        (0..9).for_each(|_| breaker.ended(Call::Slow, now, 1.0));
        assert_eq!(breaker.ask(now), Ask::Go);
        breaker.ended(Call::Slow, now, 1.0);
        assert!(matches!(breaker.ask(now), Ask::No(_)));
    }

    #[test]
    fn four_good_probes_close_it_and_one_bad_opens_it_for_longer() {
        let mut now = Instant::now();
        let mut breaker = Binary::default();
        fail(&mut breaker, 20, now);
        now += secs(1);
        for _ in 0..5 {
            assert_eq!(breaker.ask(now), Ask::Probe(1));
        }
        assert!(matches!(breaker.ask(now), Ask::No(_)));
        breaker.probed(1, Call::Failed, now, 1.0);
        assert_eq!(breaker.ask(now), Ask::No(now + secs(2)));
        now += secs(2);
        for _ in 0..4 {
            assert_eq!(breaker.ask(now), Ask::Probe(2));
            // Of the first try, which is over.
            breaker.probed(1, Call::Failed, now, 1.0);
            breaker.probed(2, Call::Good, now, 1.0);
        }
        assert_eq!(breaker.ask(now), Ask::Go);
        // Forgiven: the next time is short again.
        fail(&mut breaker, 20, now);
        assert_eq!(breaker.ask(now), Ask::No(now + secs(1)));
    }

    #[test]
    fn probes_that_never_come_back_do_not_keep_it_shut() {
        let mut now = Instant::now();
        let mut breaker = Binary::default();
        fail(&mut breaker, 20, now);
        now += secs(1);
        (0..5).for_each(|_| assert_eq!(breaker.ask(now), Ask::Probe(1)));
        assert!(matches!(breaker.ask(now), Ask::No(_)));
        assert_eq!(breaker.ask(now + Binary::PATIENCE), Ask::Probe(1));
    }

    proptest! {
        /// It is never shut for longer than a minute without a probe, whatever happens.
        #[test]
        fn it_always_tries_again(steps in prop::collection::vec((0_u8..6, 0_u64..3000, 0.0..1.0_f64), 1..300)) {
            let mut now = Instant::now();
            let mut breaker = Binary::default();
            for (step, millis, chance) in steps {
                now += Duration::from_millis(millis);
                let call = [Call::Good, Call::Slow, Call::Failed, Call::Nothing][usize::from(step) % 4];
                match breaker.ask(now) {
                    Ask::Go => (0..10).for_each(|_| breaker.ended(call, now, chance)),
                    Ask::Probe(tried) if step < 4 => breaker.probed(tried, call, now, chance),
                    Ask::Probe(_) => {}
                    Ask::No(until) => {
                        prop_assert!(until > now && until - now <= Binary::LONGEST);
                    }
                }
            }
            prop_assert!(!matches!(breaker.ask(now + secs(61)), Ask::No(_)));
        }

        #[test]
        fn the_part_refused_is_a_part(steps in prop::collection::vec((0_u64..1000, 0_u64..1000, 0_u64..20), 1..100)) {
            let mut now = Instant::now();
            let mut breaker = Proportional::default();
            for (requests, accepted, seconds) in steps {
                now += secs(seconds);
                breaker.add(requests, accepted.min(requests), now);
                prop_assert!((0.0..=0.75).contains(&breaker.refuse(now)));
            }
        }
    }
}
