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
    /// How many were in flight at the last looks, the newest first; and may be until the next one, while there are so few.
    looks: [f64; 2],
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
    /// Callers who leave are few up to this part of those who are answered.
    const FEW: u64 = 10;
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
            looks: [0.0; 2],
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
        let [newest, _] = self.looks;
        self.looks = [f64::from(in_flight), newest];
        self.open = (f64::from(in_flight) + f64::from(Self::BURST)).max(self.room());
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
    /// most in flight < L/2:         g < 1: L = max(min(L, first), 2 · most in flight)
    /// else                          g = u < .8 ? 1 : clamp(1.5 b/s, .5, 1)
    ///                               L = .8 L + .2 (L·g + √L·(g = 1 ? 1 : ½)), and with s ≤ 1.1 b, u ≥ .8: 1.2 L;
    ///                               once it was slow for want of CPU, with u < .8, L < 2 × what it began with: 1.2 L
    /// ```
    ///
    /// The first line: when half of what was let in comes too late for want of CPU, all of it soon does, and there is no median
    /// to go by any more: a tenth at a time would take seconds in which nothing is answered.
    ///
    /// The third line: if n requests use u of the CPU, .8 n/u use .8 of it, so that many are no danger. n is the lesser of two looks: when
    /// a load begins or ends, u is of a moment with fewer. Growth by √L alone takes
    /// five seconds from 8 to what a function needs that waits for others, and refuses meanwhile for no reason. So it grows by a fifth
    /// also while the CPU is busy (others may be who use it) and answers are as quick as the quickest: one step too many shows
    /// in the next window. And when an overload is over, until it is so high that an ordinary cluster of requests does not fill the queue
    /// for long enough to be taken for the next one.
    ///
    /// A limit that is never reached has to fall too when what is in flight is slow for want of CPU: or a load a little above what the
    /// function bears would be late for ever, without one refusal.
    ///
    /// `b` is not learnt from a window in which a load begins.
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
        // A few always do, and one must not be able to hold the limit where it is.
        let leave = window.left > window.samples / Self::FEW;
        // By the newest utilisation too: the mean is late when the load jumps.
        let no_cpu = self.is_saturated() || self.newest >= Self::SATURATED;
        if missed > 0 && missed >= window.samples && no_cpu {
            self.strained = true;
            self.value = (0.5 * self.value.min(f64::from(window.max_in_flight))).max(low);
        } else if is_dropped {
            self.value = (0.9 * self.value).max(low);
        } else if !leave {
            self.value = self.value.max(self.room()).min(high.max(low));
        }
        let Some(p50) = window.p50.filter(|_| !self.sparse) else {
            return;
        };
        // Most of those that have just come are still in flight: what was answered were the quickest of them.
        let begins = self.looks.contains(&0.0) && self.looks[0] > window.samples as f64;
        let least = match (begins, self.quickest()) {
            (true, None) => return,
            (true, Some(least)) => least.min(p50),
            (false, _) => self.least(p50, now),
        };
        if is_dropped {
            return;
        }
        let gradient = match self.is_saturated() {
            false => 1.0,
            true => (Self::TOLERANCE * least.as_secs_f64() / p50.as_secs_f64().max(1e-9)).clamp(0.5, 1.0),
        };
        let most = f64::from(window.max_in_flight);
        if most < self.value / 2.0 {
            if gradient < 1.0 {
                self.value = (2.0 * most).max(self.first.min(self.value)).max(low);
            }
            return;
        }
        // Callers leave: no reason to let more in, nor to go on letting in as many as made the others slow.
        if leave && gradient == 1.0 {
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

    /// How many in flight leave the CPU unsaturated, judged by how many there were all the time that the newest utilisation is of: it
    /// can be told a tick late, and who has just come has used none yet. By the newest too: the mean is late when the load jumps.
    fn room(&self) -> f64 {
        let busy = self.busy.unwrap_or(1.0).max(self.newest);
        if !self.room || !self.gate || busy >= Self::SATURATED {
            return 0.0;
        }
        let in_flight = self.looks.into_iter().fold(f64::INFINITY, f64::min);
        in_flight * (Self::SATURATED / busy.max(1e-3)).min(Self::ROOM)
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

    /// `b`; `None`: no window had a median yet.
    pub fn quickest(&self) -> Option<Duration> {
        self.lows.front().map(|&(_, low)| low)
    }

    /// What an answer may take: as long as the last ones, `p50`; while the CPU is what is short no longer than `b`, as of an overload that
    /// only the quick survive the median would hide it.
    pub fn usual(&self, p50: Option<Duration>) -> Option<Duration> {
        match self.is_saturated() {
            true => self.quickest(),
            false => p50.max(self.quickest()),
        }
    }

    /// Nothing is known of the CPU since the last look.
    pub fn utilisation_unknown(&mut self) {
        self.newest = 1.0;
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
            false if !self.strained && self.has_cpu() => self.value.max(self.looks[0] + self.first),
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
#[path = "limit_tests.rs"]
mod tests;
