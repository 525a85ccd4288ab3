//! Seeded chance and the distributions that are drawn from it. The same seed is the same run.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// All chance of one run.
#[derive(Debug)]
pub(crate) struct Chance(SmallRng);

impl Chance {
    pub(crate) fn new(seed: u64) -> Chance {
        Chance(SmallRng::seed_from_u64(seed))
    }

    /// Uniform in 0..1.
    pub(crate) fn unit(&mut self) -> f64 {
        self.0.random_range(0.0..1.0)
    }

    /// Uniform over all of `u32`.
    pub(crate) fn word(&mut self) -> u32 {
        self.0.random()
    }

    /// Uniform below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0.random_range(0..n)
    }

    /// The time to the next of events that come at `rate` a second, independently.
    pub(crate) fn until_next(&mut self, rate: f64) -> f64 {
        -(1.0 - self.unit()).ln() / rate
    }

    /// Around `mean`, as the work of requests is: lognormal with σ = ½.
    pub(crate) fn around(&mut self, mean: f64) -> f64 {
        const SIGMA: f64 = 0.5;
        let (a, b) = (1.0 - self.unit(), self.unit());
        let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
        mean * (SIGMA * normal - SIGMA * SIGMA / 2.0).exp()
    }
}
