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

/// What is measured of the host, every 250 ms. Each from 0 to 1, of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Measures {
    /// CPU in use.
    pub cpu: f64,
    /// The time for which some task waited for memory, from `/proc/pressure/memory`; 0 where the kernel does not say.
    pub memory_pressure: f64,
    /// Memory in use.
    pub memory: f64,
    /// File descriptors of the supervisor in use.
    pub descriptors: f64,
}

/// The bands of each measure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bands {
    /// Of CPU. `max` is above 1 on purpose: a busy CPU alone is no emergency, since each function's limit already keeps
    /// its own latency; it only keeps the least important away.
    pub cpu: Band,
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
            cpu: band(0.95, 1.10),
            memory_pressure: band(0.10, 0.40),
            memory: band(0.85, 0.97),
            descriptors: band(0.80, 0.95),
        }
    }
}

/// What is done now. In the order in which it begins as `o` rises: no more instances, bulk refused, the header, idle instances
/// stopped, the classes above bulk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Brownout {
    /// `o`, of whatever is worst.
    pub overload: f64,
    /// No function gets another instance while it has one.
    pub stop_scale_up: bool,
    /// Requests with a [`score`] above this are refused. 100: none.
    pub threshold: u8,
    /// Functions are told by `x-funcd-brownout`, so that they can do less.
    pub header: bool,
    /// Idle instances are stopped, not frozen.
    pub reclaim_idle: bool,
}

impl Brownout {
    /// From here on functions are told.
    const HEADER: f64 = 0.35;
    /// From here on idle instances go: before anything above bulk is refused, which begins at ∛¼ ≈ .63.
    const RECLAIM: f64 = 0.5;

    /// What these measures call for.
    pub fn of(measures: &Measures, bands: &Bands) -> Brownout {
        let overload = [
            bands.cpu.overload(measures.cpu),
            bands.memory_pressure.overload(measures.memory_pressure),
            bands.memory.overload(measures.memory),
            bands.descriptors.overload(measures.descriptors),
        ]
        .into_iter()
        .fold(0.0, f64::max);
        Brownout {
            overload,
            stop_scale_up: overload > 0.0,
            threshold: threshold(overload),
            header: overload >= Self::HEADER,
            reclaim_idle: overload >= Self::RECLAIM,
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

    #[test]
    fn measures_begin_in_order() {
        let at = |memory| {
            let measures = Measures {
                memory,
                ..Measures::default()
            };
            Brownout::of(&measures, &Bands::default())
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
    }

    #[test]
    fn a_busy_cpu_alone_refuses_little() {
        let measures = Measures {
            cpu: 1.0,
            ..Measures::default()
        };
        assert_eq!(Brownout::of(&measures, &Bands::default()).threshold, 96);
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
