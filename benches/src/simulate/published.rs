//! Limiters that others published, beside ours: each after its source, constants included. None has a queue: what is
//! above the limit is refused, as their authors deploy them.
//!
//! - Vegas, Gradient2 and AIMD: Netflix's `concurrency-limits`, classes `VegasLimit`, `Gradient2Limit`, `AIMDLimit` and
//!   `WindowedLimit` with the defaults of their builders. AIMD's timeout is the callers' deadline, the one constant its
//!   users have to set.
//! - Envoy: the gradient controller of the adaptive concurrency filter; formulas from its documentation, the configuration
//!   is the example there.

use std::time::Duration;

use super::chance::Chance;

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Published {
    /// No limit at all.
    None,
    Vegas,
    Gradient2,
    Aimd,
    Envoy,
}

/// A limiter at work: everything that was measured of an answer goes into [`Limiter::sample`].
#[derive(Debug)]
pub(crate) struct Limiter {
    limit: f64,
    kind: Kind,
    window: Window,
    every: Duration,
}

#[derive(Debug)]
enum Kind {
    None,
    Vegas { no_load: f64, probes: u32, jitter: f64 },
    Gradient2 { long: Mean },
    Aimd,
    Envoy(Envoy),
}

/// What was sampled since the last update, in seconds.
#[derive(Debug, Default)]
struct Window {
    until: f64,
    times: Vec<f64>,
    most: u32,
    dropped: bool,
}

#[derive(Debug)]
struct Envoy {
    least: Option<f64>,
    /// The limit to come back to while the least is measured anew.
    kept: f64,
    measure_again_at: f64,
    at_least_for: u32,
}

impl Limiter {
    pub(crate) fn new(kind: Published) -> Limiter {
        let (kind, limit, every) = match kind {
            Published::None => (Kind::None, f64::INFINITY, 1000),
            Published::Vegas => {
                let vegas = Kind::Vegas {
                    no_load: 0.0,
                    probes: 0,
                    jitter: 0.75,
                };
                (vegas, 20.0, 1000)
            }
            Published::Gradient2 => (
                Kind::Gradient2 {
                    long: Mean::default(),
                },
                20.0,
                100,
            ),
            Published::Aimd => (Kind::Aimd, 20.0, 0),
            // `min_concurrency` is 3, and holds while the least time is measured.
            Published::Envoy => {
                let envoy = Envoy {
                    least: None,
                    kept: 3.0,
                    measure_again_at: 60.0,
                    at_least_for: 0,
                };
                (Kind::Envoy(envoy), 3.0, 100)
            }
        };
        Limiter {
            limit,
            kind,
            window: Window::default(),
            every: Duration::from_millis(every),
        }
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit.min(1e9) as u32
    }

    /// An answer came at `now` (seconds) after `time` seconds, with so many in flight; or did not come in time.
    pub(crate) fn sample(&mut self, now: f64, time: f64, in_flight: u32, dropped: bool, chance: &mut Chance) {
        self.window.times.push(time);
        self.window.most = self.window.most.max(in_flight);
        self.window.dropped |= dropped;
        if let Kind::Envoy(envoy) = &mut self.kind {
            // `request_count` 50 at `min_concurrency` make a new least time.
            if envoy.least.is_none() {
                if self.window.times.len() >= 50 {
                    envoy.least = Some(median(&mut self.window.times));
                    self.limit = envoy.kept;
                    // `interval` 60 s, `jitter` 15 %.
                    envoy.measure_again_at = now + 60.0 * (1.0 + 0.15 * chance.unit());
                    self.begin(now);
                }
                return;
            }
        }
        if now < self.window.until {
            return;
        }
        // `WindowedLimit` forgets windows with fewer than ten samples; the others have no such rule.
        let least = match self.kind {
            Kind::Vegas { .. } | Kind::Gradient2 { .. } => 10,
            Kind::None | Kind::Aimd | Kind::Envoy(_) => 1,
        };
        if self.window.times.len() >= least {
            self.update(now, chance);
        }
        self.begin(now);
    }

    fn begin(&mut self, now: f64) {
        self.window = Window {
            until: now + self.every.as_secs_f64(),
            ..Window::default()
        };
    }

    fn update(&mut self, now: f64, chance: &mut Chance) {
        let (limit, most) = (self.limit, f64::from(self.window.most));
        let mean = self.window.times.iter().sum::<f64>() / self.window.times.len() as f64;
        match &mut self.kind {
            Kind::None => {}
            Kind::Vegas {
                no_load,
                probes,
                jitter,
            } => {
                *probes += 1;
                let probe = *jitter * 30.0 * limit <= f64::from(*probes);
                if probe || *no_load == 0.0 || mean < *no_load {
                    if probe {
                        (*probes, *jitter) = (0, 0.5 + chance.unit() / 2.0);
                    }
                    *no_load = mean;
                    return;
                }
                let queue = (limit * (1.0 - *no_load / mean)).ceil();
                let log = limit.log10().floor().max(1.0);
                let next = if self.window.dropped {
                    limit - log
                } else if 2.0 * most < limit {
                    limit
                } else if queue <= log {
                    limit + 6.0 * log
                } else if queue < 3.0 * log {
                    limit + log
                } else if queue > 6.0 * log {
                    limit - log
                } else {
                    limit
                };
                self.limit = next.clamp(1.0, 1000.0);
            }
            Kind::Gradient2 { long } => {
                let long_time = long.add(mean);
                if long_time / mean > 2.0 {
                    long.value *= 0.95;
                }
                if most < limit / 2.0 {
                    return;
                }
                let gradient = (1.5 * long_time / mean).clamp(0.5, 1.0);
                self.limit = (0.8 * limit + 0.2 * (limit * gradient + 4.0)).clamp(20.0, 200.0);
            }
            Kind::Aimd => {
                let next = match self.window.dropped {
                    true => (limit * 0.9).floor(),
                    false if 2.0 * most >= limit => limit + 1.0,
                    false => limit,
                };
                self.limit = next.clamp(20.0, 200.0);
            }
            Kind::Envoy(envoy) => {
                let Some(least) = envoy.least else { return };
                let p50 = median(&mut self.window.times);
                let gradient = (least * 1.25 / p50).clamp(0.5, 2.0);
                self.limit = (gradient * limit + limit.sqrt()).clamp(3.0, 1000.0);
                envoy.at_least_for = if self.limit <= 3.0 {
                    envoy.at_least_for + 1
                } else {
                    0
                };
                if now >= envoy.measure_again_at || envoy.at_least_for >= 5 {
                    (envoy.kept, envoy.least, envoy.at_least_for) = (self.limit, None, 0);
                    self.limit = 3.0;
                }
            }
        }
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() / 2]
}

/// `ExpAvgMeasurement(600, 10)`: a plain mean of the first ten, then exponential.
#[derive(Debug, Default)]
struct Mean {
    value: f64,
    sum: f64,
    seen: u32,
}

impl Mean {
    fn add(&mut self, time: f64) -> f64 {
        if self.seen < 10 {
            self.seen += 1;
            self.sum += time;
            self.value = self.sum / f64::from(self.seen);
        } else {
            let factor = 2.0 / 601.0;
            self.value = self.value * (1.0 - factor) + time * factor;
        }
        self.value
    }
}
