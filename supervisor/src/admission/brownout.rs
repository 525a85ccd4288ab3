//! What the host gives up when it has too little of something, and in which order. Pure: never measures, never acts.

use super::class::Class;

/// From where on a measure is too high, and where it is at its end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Band {
    /// Up to here all is well.
    pub target: f64,
    /// From here on everything that can be refused is.
    pub max: f64,
}

impl Band {
    /// `o` = clamp((x − target) ÷ (max − target), 0, 1). What is not a number is no overload.
    pub fn overload(self, x: f64) -> f64 {
        let o = (x - self.target) / (self.max - self.target);
        if o.is_nan() { 0.0 } else { o.clamp(0.0, 1.0) }
    }
}

/// Of what a host can have too little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// CPU for the supervisor itself.
    Cpu,
    /// Memory, as the supervisor feels it: it waits for its own pages.
    MemoryPressure,
    /// Memory that can be had.
    Memory,
    /// File descriptors of the supervisor.
    Descriptors,
}

impl Cause {
    /// All of them.
    pub const ALL: [Cause; 4] = [
        Cause::Cpu,
        Cause::MemoryPressure,
        Cause::Memory,
        Cause::Descriptors,
    ];

    /// The name in logs, metrics and the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Cpu => "cpu",
            Cause::MemoryPressure => "memory-pressure",
            Cause::Memory => "memory",
            Cause::Descriptors => "descriptors",
        }
    }
}

/// What is measured of the host, every 250 ms; every second while it has next to nothing to do.
///
/// How busy the CPU is is not among them, nor `/proc/pressure/cpu`: functions that use up every core within their shares are
/// what a host is for, and both say 100 % then. What tells a host in trouble from a busy one is whether the supervisor,
/// which weighs several times what all functions together do, still gets a CPU when it wants one.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Measures {
    /// How long a thread of the supervisor waited for a CPU each time it wanted one, in seconds.
    pub cpu_delay: f64,
    /// The part of the time for which a thread of the supervisor waited for memory, 0 to 1. Not that of the host: a
    /// function that thrashes within its own limit drives that up, and nobody else has to pay for it.
    pub memory_pressure: f64,
    /// Memory in use, 0 to 1: see [`memory_in_use`].
    pub memory: f64,
    /// File descriptors of the supervisor in use, 0 to 1.
    pub descriptors: f64,
}

/// Memory in use, 0 to 1, of a host with so many bytes, so many of which can be had. Of a large host only its last 8 GiB count:
/// 15 % of 256 GiB are no emergency.
pub fn memory_in_use(available: u64, total: u64) -> f64 {
    const COUNTS: u64 = 8 << 30;
    match total.min(COUNTS) {
        0 => 0.0,
        counts => 1.0 - available.min(counts) as f64 / counts as f64,
    }
}

/// The bands of each measure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bands {
    /// Of waiting for a CPU. A request makes the supervisor want one at least three times.
    pub cpu_delay: Band,
    /// Of waiting for memory.
    pub memory_pressure: Band,
    /// Of memory.
    pub memory: Band,
    /// Of descriptors.
    pub descriptors: Band,
}

impl Default for Bands {
    fn default() -> Bands {
        let band = |target, max| Band { target, max };
        Bands {
            cpu_delay: band(0.020, 0.100),
            memory_pressure: band(0.10, 0.40),
            memory: band(0.85, 0.97),
            descriptors: band(0.80, 0.95),
        }
    }
}

/// How much too high each measure is, 0 to 1, in the order of [`Cause::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Overloads(pub [f64; 4]);

impl Overloads {
    /// Of these measures.
    pub fn of(measures: &Measures, bands: &Bands) -> Overloads {
        Overloads([
            bands.cpu_delay.overload(measures.cpu_delay),
            bands.memory_pressure.overload(measures.memory_pressure),
            bands.memory.overload(measures.memory),
            bands.descriptors.overload(measures.descriptors),
        ])
    }

    fn each(self, other: Overloads, pick: fn(f64, f64) -> f64) -> Overloads {
        Overloads(std::array::from_fn(|n| pick(self.0[n], other.0[n])))
    }

    /// The worst, and what it is of.
    fn worst(self) -> (f64, Option<Cause>) {
        let pairs = self.0.into_iter().zip(Cause::ALL);
        let worst = pairs.max_by(|a, b| a.0.total_cmp(&b.0));
        worst
            .filter(|(o, _)| *o > 0.0)
            .map_or((0.0, None), |(o, cause)| (o, Some(cause)))
    }
}

/// The last samples: what counts is what two in a row had in common, and for a second afterwards. So one late timer changes
/// nothing, and a measure at the edge of a band does not switch to and fro.
#[derive(Debug, Clone, Copy, Default)]
pub struct Steady {
    /// The newest first.
    last: [Overloads; Steady::SAMPLES],
}

impl Steady {
    /// Four pairs: a second of samples each 250 ms.
    const SAMPLES: usize = 5;

    /// Takes a sample, and tells what counts now.
    pub fn take(&mut self, sample: Overloads) -> Overloads {
        self.last.rotate_right(1);
        self.last[0] = sample;
        let pairs = self.last.windows(2).map(|pair| pair[0].each(pair[1], f64::min));
        pairs.fold(Overloads::default(), |most, pair| most.each(pair, f64::max))
    }
}

/// What is done now. In the order in which it begins as `o` rises: no more instances, bulk refused, the header, idle instances
/// stopped, the classes above bulk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Brownout {
    /// `o`, of whatever is worst.
    pub overload: f64,
    /// What is worst; `None` if nothing is too high.
    pub cause: Option<Cause>,
    /// No function gets another instance while it has one.
    pub stop_scale_up: bool,
    /// Requests with a [`score`] above this are refused. 100: none.
    pub threshold: u8,
    /// Functions are told by `x-funcd-brownout`, so that they can do less.
    pub header: bool,
    /// Idle instances are stopped, not frozen: if what is short is something that they hold, which CPU is not.
    pub reclaim_idle: bool,
}

impl Brownout {
    /// All is well.
    pub const NONE: Brownout = Brownout {
        overload: 0.0,
        cause: None,
        stop_scale_up: false,
        threshold: 100,
        header: false,
        reclaim_idle: false,
    };

    /// From here on functions are told.
    const HEADER: f64 = 0.35;
    /// From here on idle instances go: before anything above bulk is refused, which begins at ∛¼ ≈ .63.
    const RECLAIM: f64 = 0.5;

    /// What these call for.
    pub fn of(overloads: &Overloads) -> Brownout {
        let (overload, cause) = overloads.worst();
        let held = Cause::ALL
            .into_iter()
            .zip(overloads.0)
            .filter(|(cause, _)| *cause != Cause::Cpu);
        Brownout {
            overload,
            cause,
            stop_scale_up: overload > 0.0,
            threshold: threshold(overload),
            header: overload >= Self::HEADER,
            reclaim_idle: held.map(|(_, o)| o).fold(0.0, f64::max) >= Self::RECLAIM,
        }
    }

    /// The one word for it.
    pub fn stage(&self) -> Stage {
        let refuses = |class| self.threshold < score(class, u8::MAX);
        if refuses(Class::Critical) || self.threshold == 0 {
            Stage::Critical
        } else if self.threshold < score(Class::Degraded, 0) {
            Stage::Degraded
        } else if self.threshold < score(Class::BestEffort, 0) {
            Stage::BestEffort
        } else if self.overload >= Self::RECLAIM {
            Stage::Reclaim
        } else if self.header {
            Stage::Told
        } else if self.threshold < score(Class::Bulk, 0) {
            Stage::Bulk
        } else if self.stop_scale_up {
            Stage::NoScaleUp
        } else {
            Stage::None
        }
    }
}

/// The last measure that began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// All is well.
    None,
    /// No function gets another instance.
    NoScaleUp,
    /// The least of bulk is refused.
    Bulk,
    /// Functions are told.
    Told,
    /// Idle instances are stopped.
    Reclaim,
    /// All of bulk is refused, and of best effort some.
    BestEffort,
    /// All of best effort is, and of the default class some.
    Degraded,
    /// Everything may be.
    Critical,
}

impl Stage {
    /// All of them, in the order in which they begin.
    pub const ALL: [Stage; 8] = [
        Stage::None,
        Stage::NoScaleUp,
        Stage::Bulk,
        Stage::Told,
        Stage::Reclaim,
        Stage::BestEffort,
        Stage::Degraded,
        Stage::Critical,
    ];

    /// The name in logs, metrics and the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::None => "none",
            Stage::NoScaleUp => "no-scale-up",
            Stage::Bulk => "bulk",
            Stage::Told => "told",
            Stage::Reclaim => "reclaim",
            Stage::BestEffort => "best-effort",
            Stage::Degraded => "degraded",
            Stage::Critical => "critical",
        }
    }

    /// What is done, for people.
    pub fn describe(self) -> &'static str {
        match self {
            Stage::None => "nothing is held back",
            Stage::NoScaleUp => "no function gets more instances",
            Stage::Bulk => "some requests of class bulk are refused",
            Stage::Told => "functions are told by x-funcd-brownout",
            Stage::Reclaim => "idle instances are stopped",
            Stage::BestEffort => "bulk and some of best-effort are refused",
            Stage::Degraded => "best-effort and some of the default class are refused",
            Stage::Critical => "everything but the most critical is refused",
        }
    }
}

/// Scores above this are refused: 100·(1 − o³), as Netflix published for service-level prioritised load shedding.
pub fn threshold(overload: f64) -> u8 {
    (100.0 * (1.0 - overload.clamp(0.0, 1.0).powi(3))).round() as u8
}

/// The score of a request, from 1 (kept longest) to 100: a quarter for each class, and within it by rank, so that the same
/// callers lose.
pub fn score(class: Class, rank: u8) -> u8 {
    let within = 25 - u16::from(rank.min(127)) * 25 / 128;
    (class.index() as u16 * 25 + within) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_published_thresholds() {
        assert_eq!([0.0, 0.35, 0.8, 0.95, 1.0].map(threshold), [100, 96, 49, 14, 0]);
    }

    #[test]
    fn each_class_has_a_quarter_of_the_scores() {
        for (class, quarter) in Class::ALL.into_iter().zip([1..=25, 26..=50, 51..=75, 76..=100]) {
            assert_eq!(score(class, 127), *quarter.start());
            assert_eq!(score(class, 0), *quarter.end());
        }
    }

    fn of(measures: Measures) -> Brownout {
        Brownout::of(&Overloads::of(&measures, &Bands::default()))
    }

    #[test]
    fn measures_begin_in_order() {
        let at = |memory| {
            of(Measures {
                memory,
                ..Measures::default()
            })
        };
        let seen: Vec<Brownout> = (0..=1000)
            .map(|n| at(0.85 + 0.12 * f64::from(n) / 1000.0))
            .collect();
        let first = |has: fn(&Brownout) -> bool| seen.iter().position(has).unwrap();
        let order = [
            first(|b| b.stop_scale_up),
            first(|b| b.threshold < score(Class::Bulk, 0)),
            first(|b| b.header),
            first(|b| b.reclaim_idle),
            first(|b| b.threshold < score(Class::BestEffort, 0)),
            first(|b| b.threshold < score(Class::Degraded, 0)),
            first(|b| b.threshold < score(Class::Critical, 0)),
        ];
        assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
        let stages: Vec<Stage> = seen.iter().map(Brownout::stage).collect();
        assert!(stages.is_sorted(), "a stage never ends as the overload rises");
        for stage in Stage::ALL {
            assert!(stages.contains(&stage), "{stage:?}");
        }
    }

    #[test]
    fn nothing_measured_is_no_brownout() {
        assert_eq!(of(Measures::default()), Brownout::NONE);
        assert_eq!(Brownout::NONE.stage(), Stage::None);
    }

    #[test]
    fn the_cause_is_the_worst() {
        let brownout = of(Measures {
            memory: 0.9,
            descriptors: 0.93,
            ..Measures::default()
        });
        assert_eq!(brownout.cause, Some(Cause::Descriptors));
    }

    #[test]
    fn idle_instances_hold_no_cpu() {
        let cpu = of(Measures {
            cpu_delay: 0.085,
            ..Measures::default()
        });
        assert!(cpu.header && !cpu.reclaim_idle, "{cpu:?}");
    }

    #[test]
    fn a_large_host_need_not_keep_a_share_free() {
        const GIB: u64 = 1 << 30;
        assert_eq!(memory_in_use(GIB, 2 * GIB), 0.5);
        assert_eq!(memory_in_use(20 * GIB, 256 * GIB), 0.0);
        assert_eq!(memory_in_use(2 * GIB, 256 * GIB), 0.75);
        assert_eq!(memory_in_use(u64::MAX, 0), 0.0, "unknown");
    }

    #[test]
    fn one_sample_is_none_and_the_end_takes_a_second() {
        let of = |o| Overloads([o, 0.0, 0.0, 0.0]);
        let mut steady = Steady::default();
        let mut seen = Vec::new();
        for sample in [0.9, 0.0, 0.9, 0.8, 0.0, 0.0, 0.0, 0.0, 0.0] {
            seen.push(steady.take(of(sample)).0[0]);
        }
        assert_eq!(seen, [0.0, 0.0, 0.0, 0.8, 0.8, 0.8, 0.8, 0.0, 0.0]);
    }

    proptest! {
        /// More of anything never gives less away, and no measure makes it panic.
        #[test]
        fn it_rises(a in any::<f64>(), b in any::<f64>(), class in 0_usize..4, rank in any::<u8>()) {
            let band = Band { target: 0.8, max: 0.9 };
            let (low, high) = if a < b { (a, b) } else { (b, a) };
            prop_assert!(low.is_nan() || high.is_nan() || band.overload(low) <= band.overload(high));
            prop_assert!((1..=100).contains(&score(Class::ALL[class], rank)));
        }
    }
}
