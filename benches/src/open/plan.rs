//! When which request is due. Pure: the same seed is the same schedule, whatever the server does.

use std::time::Duration;

use crate::simulate::chance::Chance;

/// Requests that are alike.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    /// The whole request, as it is sent.
    pub(crate) request: Vec<u8>,
    /// From the moment in which it is due until its caller leaves.
    pub(crate) deadline: Duration,
}

impl Kind {
    /// `GET path`, with `headers` as they are sent, each with its line end.
    pub(crate) fn get(path: &str, headers: &str, deadline: Duration) -> Kind {
        Kind {
            request: format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").into_bytes(),
            deadline,
        }
    }
}

/// A time in which requests come at constant rates.
#[derive(Debug, Clone)]
pub(crate) struct Phase {
    length: Duration,
    /// By kind, in requests a second.
    rates: Vec<f64>,
}

impl Phase {
    /// For `seconds`, with a rate for each kind.
    pub(crate) fn of(seconds: f64, rates: &[f64]) -> Phase {
        Phase {
            length: Duration::from_secs_f64(seconds),
            rates: rates.to_vec(),
        }
    }
}

/// A request that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// Since the start of the run.
    pub(crate) at: Duration,
    /// Which one.
    pub(crate) kind: usize,
}

/// All requests of a run, in order: Poisson in each phase.
#[derive(Debug)]
pub(crate) struct Schedule {
    phases: std::vec::IntoIter<Phase>,
    current: Option<Phase>,
    /// Where the current phase began.
    began: Duration,
    /// The last arrival, or where the current phase began.
    at: Duration,
    chance: Chance,
}

impl Schedule {
    /// Draws from `seed`.
    pub(crate) fn of(phases: Vec<Phase>, seed: u64) -> Schedule {
        let mut phases = phases.into_iter();
        Schedule {
            current: phases.next(),
            phases,
            began: Duration::ZERO,
            at: Duration::ZERO,
            chance: Chance::new(seed),
        }
    }
}

impl Iterator for Schedule {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        loop {
            let phase = self.current.as_ref()?;
            let rate: f64 = phase.rates.iter().sum();
            let end = self.began + phase.length;
            if rate > 0.0 {
                let at = self.at + Duration::from_secs_f64(self.chance.until_next(rate));
                if at < end {
                    self.at = at;
                    let kind = pick(&phase.rates, self.chance.unit() * rate);
                    return Some(Arrival { at, kind });
                }
            }
            // The process has no memory, so what would have come after the end is drawn anew.
            (self.began, self.at) = (end, end);
            self.current = self.phases.next();
        }
    }
}

/// The kind in whose part of the sum of all rates `point` lies.
fn pick(rates: &[f64], mut point: f64) -> usize {
    for (kind, rate) in rates.iter().enumerate() {
        if point < *rate {
            return kind;
        }
        point -= rate;
    }
    // Rounding can leave the point at the very end.
    rates.iter().rposition(|rate| *rate > 0.0).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(seed: u64) -> Vec<Arrival> {
        let phases = vec![
            Phase::of(2.0, &[100.0, 0.0]),
            Phase::of(1.0, &[0.0, 0.0]),
            Phase::of(2.0, &[500.0, 1500.0]),
        ];
        Schedule::of(phases, seed).collect()
    }

    #[test]
    fn the_same_seed_is_the_same_schedule_and_another_is_not() {
        assert_eq!(arrivals(7), arrivals(7));
        assert_ne!(arrivals(7), arrivals(8));
    }

    #[test]
    fn each_phase_has_its_rates_and_a_silent_one_has_nothing() {
        let all = arrivals(1);
        let within = |from: u64, to: u64, kind: usize| {
            let range = Duration::from_secs(from)..Duration::from_secs(to);
            let those = all.iter().filter(|a| a.kind == kind && range.contains(&a.at));
            those.count() as f64
        };
        // Five standard deviations of a Poisson count.
        let near = |count: f64, mean: f64| (count - mean).abs() < 5.0 * mean.sqrt();
        assert!(near(within(0, 2, 0), 200.0));
        assert_eq!(
            (within(0, 2, 1), within(2, 3, 0), within(2, 3, 1)),
            (0.0, 0.0, 0.0)
        );
        assert!(near(within(3, 5, 0), 1000.0) && near(within(3, 5, 1), 3000.0));
        assert!(all.is_sorted_by_key(|arrival| arrival.at));
    }

    #[test]
    fn gaps_are_exponential_not_even() {
        let all = arrivals(3);
        let last: Vec<f64> = all
            .iter()
            .map(|a| a.at.as_secs_f64())
            .filter(|at| *at > 3.0)
            .collect();
        let gaps: Vec<f64> = last.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        let spread = variance.sqrt() / mean;
        assert!((0.9..1.1).contains(&spread), "{spread}");
    }
}
