//! How many requests a function may have in flight: a gradient limit with a CPU gate. Pure: it never counts them.
//!
//! A proxy elsewhere must read any rise in latency as queueing. funcd sees the CPU of the function's cgroup, so it can
//! tell a function that is *saturated* from one that *waits for a dependency*: only the first is throttled.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What is known of a closed window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// Median of the times from dispatch to response head, own queue excluded; `None`: nothing was answered.
    pub p50: Option<Duration>,
    /// How many were answered.
    pub samples: u64,
    /// How many more ended by a timeout, the memory limit or a refused connection.
    pub dropped: u64,
    /// How many callers left who had waited for longer than an answer takes.
    pub left: u64,
    /// The most that were in flight at once.
    pub max_in_flight: u32,
    /// How many are at its end.
    pub in_flight: u32,
}

/// What a function has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// Instances that take requests.
    pub ready: u32,
    /// Requests that one instance takes at once, at most.
    pub concurrency: u32,
}

impl Places {
    /// Requests that all of them take at once.
    pub fn total(self) -> u32 {
        self.ready.saturating_mul(self.concurrency)
    }
}

/// The limit of one function.
#[derive(Debug, Clone)]
pub struct Limit {
    /// L, and what it was at first.
    value: f64,
    first: f64,
    /// Windows' medians, oldest first, each smaller than all after it; `b` is the first.
    lows: VecDeque<(Instant, Duration)>,
    /// u.
    busy: Option<f64>,
    /// The newest utilisation, as it is.
    newest: f64,
    window_began: Instant,
    /// Fewer than [`Limit::SPARSE`] requests a second: medians say nothing.
    sparse: bool,
    /// How many were in flight at the last look, and may be until the next one, while there are so few.
    in_flight: f64,
    open: f64,
    /// It was slow for want of CPU once: what was learnt then holds after a rest too.
    strained: bool,
    gate: bool,
    room: bool,
}

impl Limit {
    /// A window closes when it has this many samples …
    pub const SAMPLES: u64 = 50;
    /// … and is at least this old …
    pub const SHORTEST: Duration = Duration::from_millis(100);
    /// … or when it is this old.
    pub const LONGEST: Duration = Duration::from_secs(1);
    /// `b` is the least median over this long.
    pub const MEMORY: Duration = Duration::from_secs(60);
    /// Below this part of its CPU a function is not saturated, however slow it is.
    pub const SATURATED: f64 = 0.8;
    /// Below this many requests a second the limit is instances × concurrency; what it begins with, if they saturate the CPU.
    pub const SPARSE: f64 = 10.0;
    /// So many more may then come between two looks: what one instance takes by default. A burst out of a rest is not few
    /// requests, and what all places take of it at once may be more than can be answered in time.
    pub const BURST: u32 = 64;
    /// At most so many times what was in flight is taken to be no danger.
    const ROOM: f64 = 8.0;
    /// How much of the newest utilisation goes into the mean.
    const BUSY_WEIGHT: f64 = 0.3;
    /// How much of the new limit goes into the old one.
    const WEIGHT: f64 = 0.2;
    /// A median up to this many times the least is no queueing …
    const TOLERANCE: f64 = 1.5;
    /// … and up to this many times not even the beginning of it.
    const FLAT: f64 = 1.1;

    /// The limit of a new revision on a machine with `cores` for it.
    pub fn new(cores: f64, now: Instant) -> Limit {
        let first = (2.0 * cores).max(8.0);
        Limit {
            value: first,
            first,
            lows: VecDeque::new(),
            busy: None,
            newest: 1.0,
            window_began: now,
            sparse: true,
            in_flight: 0.0,
            open: first.max(f64::from(Self::BURST)),
            strained: false,
            gate: true,
            room: true,
        }
    }

    /// The same without the CPU gate: every rise in latency counts as queueing. For comparison only.
    pub fn without_gate(cores: f64, now: Instant) -> Limit {
        Limit {
            gate: false,
            ..Limit::new(cores, now)
        }
    }

    /// The same without what [`Limit::close`] takes for granted while there is CPU to spare. For comparison only.
    pub fn without_room(cores: f64, now: Instant) -> Limit {
        Limit {
            room: false,
            ..Limit::new(cores, now)
        }
    }

    /// Takes the utilisation of the last interval: CPU time of the function's cgroups ÷ what it may use (its quota, or
    /// its share of the host).
    pub fn utilisation(&mut self, now: f64) {
        let before = self.busy.unwrap_or(now);
        self.busy = Some(before + Self::BUSY_WEIGHT * (now - before));
        self.newest = now;
    }

    /// Takes how many are in flight, every [`Limit::SHORTEST`] while there are any: the limit of a function that is asked seldom is so many
    /// and a burst; of one that has CPU to spare and was never short of it, so many and what it began with.
    pub fn look(&mut self, in_flight: u32) {
        self.in_flight = f64::from(in_flight);
        self.open = (f64::from(in_flight) + f64::from(Self::BURST)).max(self.room(in_flight));
    }

    /// Whether the window is to be closed, so many having ended in it.
    pub fn is_due(&self, ended: u64, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.window_began);
        age >= Self::LONGEST || (age >= Self::SHORTEST && ended >= Self::SAMPLES)
    }

    /// Learns from a window that ends now; the next one begins.
    ///
    /// ```text
    /// s = median of the window      b = least median of 60 s      u = utilisation, EWMA .3
    /// dropped or left ≥ answered, u ≥ .8:   L = max(ready, ½ min(L, most in flight))
    /// dropped:                      L = max(ready, .9 L)
    /// u < .8:                       L = max(L, in flight · min(8, .8 ÷ u))
    /// most in flight < L/2:         hold
    /// else                          g = u < .8 ? 1 : clamp(1.5 b/s, .5, 1)
    ///                               L = .8 L + .2 (L·g + √L·(g = 1 ? 1 : ½)), and with s ≤ 1.1 b, u ≥ .8: 1.2 L;
    ///                               once it was slow for want of CPU, with u < .8, L < 2 × what it began with: 1.2 L
    /// ```
    ///
    /// The first line: when half of what was let in comes too late for want of CPU, all of it soon does, and there is no median
    /// to go by any more: a tenth at a time would take seconds in which nothing is answered.
    ///
    /// The third line: if n requests use u of the CPU, .8 n/u use .8 of it, so that many are no danger. n is what is in flight at the end
    /// as well as at most: when a load ends, u is of a moment with fewer. Growth by √L alone takes
    /// five seconds from 8 to what a function needs that waits for others, and refuses meanwhile for no reason. So it grows by a fifth
    /// also while the CPU is busy (others may be who use it) and answers are as quick as the quickest: one step too many shows
    /// in the next window. And when an overload is over, until it is so high that an ordinary cluster of requests does not fill the queue
    /// for long enough to be taken for the next one.
    pub fn close(&mut self, window: &Window, places: Places, now: Instant) {
        let age = now.saturating_duration_since(self.window_began).as_secs_f64();
        self.window_began = now;
        let missed = window.dropped + window.left;
        let ended = window.samples + missed;
        self.sparse = (ended as f64) < Self::SPARSE * age;
        let (low, high) = (f64::from(places.ready.max(1)), f64::from(places.total().max(1)));
        // What it learnt is kept while no instance runs.
        if places.ready == 0 {
            return;
        }
        let is_dropped = window.dropped > 0;
        // By the newest utilisation too: the mean is late when the load jumps.
        let no_cpu = self.is_saturated() || self.newest >= Self::SATURATED;
        if missed > 0 && missed >= window.samples && no_cpu {
            self.strained = true;
            self.value = (0.5 * self.value.min(f64::from(window.max_in_flight))).max(low);
        } else if is_dropped {
            self.value = (0.9 * self.value).max(low);
        } else if window.left == 0 {
            let room = self.room(window.max_in_flight.min(window.in_flight));
            self.value = self.value.max(room).min(high.max(low));
        }
        let Some(p50) = window.p50.filter(|_| !self.sparse) else {
            return;
        };
        let least = self.least(p50, now);
        if is_dropped {
            return;
        }
        if f64::from(window.max_in_flight) < self.value / 2.0 {
            return;
        }
        let gradient = match self.is_saturated() {
            false => 1.0,
            true => (Self::TOLERANCE * least.as_secs_f64() / p50.as_secs_f64().max(1e-9)).clamp(0.5, 1.0),
        };
        // Callers leave: no reason to let more in, nor to go on letting in as many as made the others slow.
        if missed > 0 && gradient == 1.0 {
            return;
        }
        self.strained |= gradient < 1.0;
        let root = self.value.sqrt();
        let headroom = match gradient == 1.0 {
            true if self.is_saturated() && p50 <= least.mul_f64(Self::FLAT) => self.value.max(root),
            true if self.strained && !self.is_saturated() && self.value < 2.0 * self.first => {
                self.value.max(root)
            }
            true => root,
            false => 0.5 * root,
        };
        let next = (1.0 - Self::WEIGHT) * self.value + Self::WEIGHT * (self.value * gradient + headroom);
        self.value = next.clamp(low, high.max(low));
    }

    /// How many in flight leave the CPU unsaturated, judged by how many there were. By the newest utilisation too: the mean is late when
    /// the load jumps.
    fn room(&self, max_in_flight: u32) -> f64 {
        let busy = self.busy.unwrap_or(1.0).max(self.newest);
        if !self.room || !self.gate || busy >= Self::SATURATED {
            return 0.0;
        }
        f64::from(max_in_flight) * (Self::SATURATED / busy.max(1e-3)).min(Self::ROOM)
    }

    /// `b`, this median included. While the function is saturated, what was seen before it was is not forgotten: else a long
    /// overload would become its own measure, and the limit would climb by half each minute.
    fn least(&mut self, p50: Duration, now: Instant) -> Duration {
        while self.lows.back().is_some_and(|&(_, low)| low >= p50) {
            self.lows.pop_back();
        }
        self.lows.push_back((now, p50));
        if !self.is_saturated() || !self.gate {
            while self
                .lows
                .front()
                .is_some_and(|&(then, _)| now.saturating_duration_since(then) > Self::MEMORY)
            {
                self.lows.pop_front();
            }
        }
        self.lows.front().map_or(p50, |&(_, low)| low)
    }

    /// Whether latency means queueing. Unknown utilisation counts as saturated: a limit that errs low only queues.
    pub fn is_saturated(&self) -> bool {
        !self.gate || self.busy.is_none_or(|busy| busy >= Self::SATURATED)
    }

    /// How many may be in flight: never more than there are places, at least one for each instance.
    pub fn now(&self, places: Places) -> u32 {
        let limit = match self.sparse {
            // Each is so heavy that few are too many: what a new function begins with keeps every core busy.
            true if self.is_heavy() => self.value.min(self.first),
            true if !self.strained => self.open.max(self.value),
            // What comes while neighbours keep it from the CPU for a moment need not queue.
            false if !self.strained && self.has_cpu() => self.value.max(self.in_flight + self.first),
            _ => self.value,
        };
        (limit as u32).max(places.ready).min(places.total())
    }

    /// Whether who waits does so for the next [`Limit::look`] alone.
    pub fn opens(&self) -> bool {
        self.sparse && !self.strained && !self.is_heavy()
    }

    fn is_heavy(&self) -> bool {
        self.busy.is_some_and(|busy| busy >= Self::SATURATED)
    }

    /// Whether it is known that the CPU is not what is short, by the newest utilisation too.
    fn has_cpu(&self) -> bool {
        self.gate && self.room && !self.is_saturated() && self.newest < Self::SATURATED
    }

    /// What the formula says, before places bound it.
    pub fn learnt(&self) -> f64 {
        self.value
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACES: Places = Places {
        ready: 4,
        concurrency: 100,
    };

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Closes `n` windows of 100 ms each, all alike.
    fn windows(limit: &mut Limit, n: u32, p50: u64, busy: f64, now: &mut Instant) {
        for _ in 0..n {
            *now += millis(100);
            limit.utilisation(busy);
            let max_in_flight = limit.now(PLACES);
            let window = Window {
                p50: Some(millis(p50)),
                samples: 50,
                dropped: 0,
                left: 0,
                max_in_flight,
                in_flight: max_in_flight,
            };
            limit.close(&window, PLACES, *now);
        }
    }

    #[test]
    fn it_begins_at_twice_the_cores_and_no_less_than_eight() {
        assert_eq!(Limit::new(2.0, Instant::now()).learnt(), 8.0);
        assert_eq!(Limit::new(16.0, Instant::now()).learnt(), 32.0);
    }

    #[test]
    fn a_window_closes_at_fifty_samples_or_a_second_and_not_before_a_tenth() {
        let now = Instant::now();
        let limit = Limit::new(4.0, now);
        assert!(!limit.is_due(1000, now + millis(99)));
        assert!(limit.is_due(50, now + millis(100)));
        assert!(!limit.is_due(49, now + millis(999)));
        assert!(limit.is_due(0, now + millis(1000)));
    }

    #[test]
    fn slower_with_idle_cpu_grows_slower_with_busy_cpu_shrinks() {
        let (mut now, mut waiting) = (Instant::now(), Limit::without_room(4.0, Instant::now()));
        windows(&mut waiting, 20, 50, 0.5, &mut now);
        let mut saturated = waiting.clone();
        let (before, mut other) = (waiting.learnt(), now);
        windows(&mut waiting, 20, 400, 0.1, &mut now);
        windows(&mut saturated, 20, 400, 1.0, &mut other);
        assert!(waiting.learnt() > 1.5 * before, "{} {before}", waiting.learnt());
        assert!(
            saturated.learnt() < before / 2.0,
            "{} {before}",
            saturated.learnt()
        );
    }

    #[test]
    fn with_cpu_to_spare_it_grows_at_once_and_never_past_it() {
        let now = Instant::now();
        let learnt = |utilisations: &[f64]| {
            let mut limit = Limit::new(4.0, now);
            utilisations.iter().for_each(|&busy| limit.utilisation(busy));
            let window = Window {
                p50: Some(millis(50)),
                samples: 50,
                dropped: 0,
                left: 0,
                max_in_flight: 20,
                in_flight: 20,
            };
            limit.close(&window, PLACES, now + millis(100));
            limit.learnt()
        };
        // 20 use a quarter: 64 would use .8. Then the usual step: .2 · √64.
        assert!((learnt(&[0.25]) - 64.0).abs() < 0.001, "{}", learnt(&[0.25]));
        assert_eq!(learnt(&[0.001]), 160.0);
        assert!(learnt(&[0.79]) < 22.0);
        // The mean is still low, but the load just jumped.
        assert!(learnt(&[0.1, 0.1, 1.0]) < 10.0);
    }

    #[test]
    fn without_the_gate_a_slow_dependency_shrinks_it_too() {
        let (mut now, mut limit) = (Instant::now(), Limit::without_gate(4.0, Instant::now()));
        windows(&mut limit, 20, 50, 0.5, &mut now);
        let before = limit.learnt();
        windows(&mut limit, 20, 400, 0.1, &mut now);
        assert!(limit.learnt() < before / 2.0);
    }

    #[test]
    fn a_drop_takes_a_tenth_and_an_idle_window_nothing() {
        let mut now = Instant::now();
        let mut limit = Limit::new(4.0, now);
        windows(&mut limit, 20, 50, 0.5, &mut now);
        let before = limit.learnt();
        let mut window = Window {
            p50: Some(millis(50)),
            samples: 50,
            dropped: 0,
            left: 0,
            max_in_flight: 1,
            in_flight: 1,
        };
        now += millis(100);
        limit.close(&window, PLACES, now);
        assert_eq!(limit.learnt(), before);
        window.dropped = 1;
        now += millis(100);
        limit.close(&window, PLACES, now);
        assert_eq!(limit.learnt(), 0.9 * before);
    }

    #[test]
    fn below_ten_requests_a_second_every_place_opens_but_not_to_one_burst() {
        let now = Instant::now();
        let mut limit = Limit::new(4.0, now);
        assert_eq!(limit.now(PLACES), Limit::BURST);
        // Nothing is known of the CPU: so many more with each look.
        limit.look(60);
        assert_eq!(limit.now(PLACES), 60 + Limit::BURST);
        // They wait for something else: at once.
        let mut waiting = limit.clone();
        waiting.utilisation(0.01);
        waiting.look(60);
        assert_eq!(waiting.now(PLACES), 400);
        limit.look(400);
        let window = |samples| Window {
            p50: Some(millis(50)),
            samples,
            dropped: 0,
            left: 0,
            max_in_flight: 400,
            in_flight: 400,
        };
        limit.close(&window(9), PLACES, now + millis(1000));
        assert_eq!(limit.now(PLACES), 400);
        limit.close(&window(10), PLACES, now + millis(2000));
        assert!(limit.now(PLACES) < 20);
    }

    #[test]
    fn whoever_uses_little_of_its_cpu_is_not_held_at_what_it_began_with() {
        let (mut now, mut limit) = (Instant::now(), Limit::new(4.0, Instant::now()));
        let mut quick = |limit: &mut Limit, busy| {
            now += millis(100);
            limit.utilisation(busy);
            limit.look(2);
            let window = Window {
                p50: Some(millis(2)),
                samples: 50,
                dropped: 0,
                left: 0,
                max_in_flight: 3,
                in_flight: 2,
            };
            limit.close(&window, PLACES, now);
            limit.now(PLACES)
        };
        // When its neighbours keep it from the CPU for a moment, what comes meanwhile does not queue.
        limit.value = 4.0;
        assert_eq!(quick(&mut limit, 0.7), 10);
        // Until it is what is short.
        assert!(quick(&mut limit, 0.9) < 6);
    }

    #[test]
    fn few_that_are_heavy_are_limited_too() {
        let now = Instant::now();
        let mut limit = Limit::new(4.0, now);
        let window = Window {
            p50: Some(millis(900)),
            samples: 5,
            dropped: 0,
            left: 0,
            max_in_flight: 400,
            in_flight: 400,
        };
        limit.utilisation(0.5);
        limit.look(400);
        limit.close(&window, PLACES, now + millis(1000));
        assert_eq!(limit.now(PLACES), 400);
        (0..10).for_each(|_| limit.utilisation(1.0));
        assert_eq!(limit.now(PLACES), 8);
    }

    #[test]
    fn that_some_leave_does_not_keep_it_from_falling() {
        let mut now = Instant::now();
        let mut limit = strained(&mut now);
        limit.value = 300.0;
        let slow = Window {
            p50: Some(millis(200)),
            samples: 50,
            dropped: 0,
            left: 20,
            max_in_flight: 245,
            in_flight: 245,
        };
        for _ in 0..20 {
            now += millis(100);
            limit.utilisation(1.0);
            limit.close(
                &Window {
                    max_in_flight: limit.learnt() as u32,
                    ..slow
                },
                PLACES,
                now,
            );
        }
        assert!(limit.learnt() < 100.0, "{}", limit.learnt());
    }

    #[test]
    fn when_an_overload_is_over_it_is_twice_what_it_began_with_within_a_second() {
        let mut now = Instant::now();
        let mut limit = Limit::new(2.0, now);
        windows(&mut limit, 20, 10, 1.0, &mut now);
        windows(&mut limit, 100, 40, 1.0, &mut now);
        assert!(limit.learnt() <= 8.0, "{}", limit.learnt());
        // What is in flight at the ends of its windows would never have it grow by itself.
        for _ in 0..10 {
            now += millis(100);
            limit.utilisation(0.7);
            let window = Window {
                p50: Some(millis(12)),
                samples: 50,
                dropped: 0,
                left: 0,
                max_in_flight: limit.now(PLACES),
                in_flight: 1,
            };
            limit.close(&window, PLACES, now);
        }
        assert!((15.0..=32.0).contains(&limit.learnt()), "{}", limit.learnt());
    }

    #[test]
    fn with_busy_cpu_and_quick_answers_it_is_back_within_two_seconds() {
        let (mut now, mut limit) = (Instant::now(), Limit::new(4.0, Instant::now()));
        windows(&mut limit, 20, 50, 1.0, &mut now);
        assert!(limit.learnt() > 200.0, "{}", limit.learnt());
        // Not when answers take a little longer: that is the beginning of a queue.
        let mut longer = Limit::new(4.0, now);
        windows(&mut longer, 1, 50, 1.0, &mut now);
        windows(&mut longer, 20, 60, 1.0, &mut now);
        assert!(longer.learnt() < 40.0, "{}", longer.learnt());
    }

    #[test]
    fn a_long_overload_does_not_become_its_own_measure() {
        let mut now = Instant::now();
        let mut limit = Limit::new(4.0, now);
        windows(&mut limit, 20, 10, 0.5, &mut now);
        windows(&mut limit, 1200, 40, 1.0, &mut now);
        assert!(limit.learnt() <= 8.0, "{}", limit.learnt());
        // Once it is over, what is slow now is the measure, within a minute.
        windows(&mut limit, 700, 40, 0.5, &mut now);
        windows(&mut limit, 50, 40, 1.0, &mut now);
        assert!(limit.learnt() > 50.0, "{}", limit.learnt());
    }

    /// A function that was saturated at 40 in flight, with 400 places.
    fn strained(now: &mut Instant) -> Limit {
        let mut limit = Limit::new(4.0, *now);
        windows(&mut limit, 20, 50, 0.5, now);
        windows(&mut limit, 80, 200, 1.0, now);
        assert!(limit.learnt() < 40.0, "{}", limit.learnt());
        limit
    }

    #[test]
    fn the_end_of_a_load_is_no_reason_to_let_more_in() {
        let mut now = Instant::now();
        let mut limit = strained(&mut now);
        let before = limit.learnt();
        let window = Window {
            p50: Some(millis(60)),
            samples: 50,
            dropped: 0,
            left: 0,
            max_in_flight: 40,
            in_flight: 0,
        };
        for _ in 0..5 {
            now += millis(100);
            limit.utilisation(0.05);
            limit.close(&window, PLACES, now);
        }
        assert!(limit.learnt() < before + 10.0, "{before} {}", limit.learnt());
        // And after a rest it is not everything at once.
        now += millis(1000);
        let rest = Window {
            p50: None,
            samples: 0,
            max_in_flight: 0,
            ..window
        };
        limit.close(&rest, PLACES, now);
        assert!(limit.now(PLACES) < 100);
        // Unless they only wait.
        limit.close(
            &Window {
                in_flight: 30,
                max_in_flight: 30,
                ..rest
            },
            PLACES,
            now + millis(1000),
        );
        assert!(limit.now(PLACES) > 100);
    }

    #[test]
    fn when_nothing_is_answered_in_time_for_want_of_cpu_it_is_halved() {
        let mut now = Instant::now();
        let mut limit = strained(&mut now);
        let late = |max_in_flight| Window {
            p50: None,
            samples: 0,
            dropped: 25,
            left: 25,
            max_in_flight,
            in_flight: max_in_flight,
        };
        limit.value = 400.0;
        limit.close(&late(300), PLACES, now + millis(100));
        assert_eq!(limit.learnt(), 150.0);
        limit.close(&late(150), PLACES, now + millis(200));
        assert_eq!(limit.learnt(), 75.0);
        // A dependency that does not answer is no want of CPU.
        (0..20).for_each(|_| limit.utilisation(0.1));
        limit.close(&late(75), PLACES, now + millis(300));
        assert_eq!(limit.learnt(), 67.5);
        // Callers who leave for reasons of their own change nothing.
        let left = Window {
            dropped: 0,
            left: 50,
            ..late(75)
        };
        limit.close(&left, PLACES, now + millis(400));
        assert_eq!(limit.learnt(), 67.5);
    }

    proptest! {
        /// Whatever it is told, it stays between one for each instance and all places, and is never not a number.
        #[test]
        fn it_stays_in_its_bounds(
            steps in prop::collection::vec((0_u64..5_000_000, 0_u64..500, 0_u64..100, 0_u64..100, 0_u32..1000, 0.0..2.0_f64, 0_u32..20), 1..200)
        ) {
            let mut now = Instant::now();
            let mut limit = Limit::new(4.0, now);
            for (micros, samples, dropped, left, max_in_flight, busy, ready) in steps {
                now += millis(100);
                let places = Places { ready, concurrency: 10 };
                limit.utilisation(busy);
                let p50 = (samples > 0).then_some(Duration::from_micros(micros));
                limit.close(&Window { p50, samples, dropped, left, max_in_flight, in_flight: max_in_flight }, places, now);
                prop_assert!(limit.learnt().is_finite() && limit.learnt() >= 1.0);
                let allowed = limit.now(places);
                prop_assert!(allowed >= ready && allowed <= places.total());
            }
        }
    }
}
