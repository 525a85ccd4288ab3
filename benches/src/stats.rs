//! Order statistics. Pure: it never measures.

use std::time::Duration;

/// Times of single events, in nanoseconds.
#[derive(Debug, Default, Clone)]
pub(crate) struct Samples(Vec<u64>);

impl Samples {
    /// Adds one time.
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds those of another.
    pub(crate) fn add(&mut self, other: &Samples) {
        self.0.extend_from_slice(&other.0);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The statistics, in nanoseconds; `None` without a sample.
    pub(crate) fn summary(&self) -> Option<Summary> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        Some(Summary {
            min: *sorted.first()? as f64,
            p50: nearest_rank(&sorted, 50)? as f64,
            p99: nearest_rank(&sorted, 99)? as f64,
        })
    }
}

/// What is reported of [`Samples`], in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    /// The smallest.
    pub(crate) min: f64,
    /// The median.
    pub(crate) p50: f64,
    /// All but one in a hundred are at most this.
    pub(crate) p99: f64,
}

/// The smallest value that at least `percent` of a hundred values do not exceed: the nearest-rank method, so that
/// a percentile is always a time that was seen.
fn nearest_rank(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// The middle value, or the mean of the two middle ones; `None` without a value.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((sorted[sorted.len() / 2 - 1] + upper) / 2.0)
}

/// The median of the ratios of values of the same round: drift of the machine between rounds cancels.
pub(crate) fn paired_ratio(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
    median(&ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: impl IntoIterator<Item = u64>) -> Samples {
        let mut samples = Samples::default();
        values
            .into_iter()
            .for_each(|nanos| samples.push(Duration::from_nanos(nanos)));
        samples
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let summary = samples((1..=1000).rev()).summary().unwrap();
        assert_eq!(
            summary,
            Summary {
                min: 1.0,
                p50: 500.0,
                p99: 990.0
            }
        );
    }

    #[test]
    fn one_sample_is_every_percentile() {
        let summary = samples([7]).summary().unwrap();
        assert_eq!((summary.min, summary.p50, summary.p99), (7.0, 7.0, 7.0));
    }

    #[test]
    fn no_sample_has_no_summary() {
        assert_eq!(samples([]).summary(), None);
        assert_eq!(median(&[]), None);
        assert_eq!(paired_ratio(&[], &[]), None);
    }

    #[test]
    fn the_median_of_an_even_count_is_between_the_middle_two() {
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
    }

    #[test]
    fn a_round_is_compared_with_itself_only() {
        // The machine was ten times slower in the second round, for both.
        assert_eq!(paired_ratio(&[2.0, 20.0, 2.0], &[1.0, 10.0, 1.0]), Some(2.0));
    }
}
