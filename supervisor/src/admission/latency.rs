//! Times of one window, counted by all workers without a lock: a histogram whose buckets are a sixteenth of an octave wide.
//! Never knows which request a time belongs to.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Sixteen buckets to the octave: a value is known to 6 %.
const FINE: u32 = 4;
/// From 1 µs to 2²⁶ µs, about a minute; what is longer counts as that.
const OCTAVES: u32 = 26;
const BUCKETS: usize = ((OCTAVES - FINE + 2) << FINE) as usize;

/// Times, counted.
pub struct Latencies(Box<[AtomicU32; BUCKETS]>);

impl std::fmt::Debug for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Latencies({})", self.count())
    }
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies(Box::new([const { AtomicU32::new(0) }; BUCKETS]))
    }
}

fn bucket(time: Duration) -> usize {
    let micros = u64::try_from(time.as_micros())
        .unwrap_or(u64::MAX)
        .min((1 << (OCTAVES + 1)) - 1) as u32;
    if micros < 1 << FINE {
        return micros as usize;
    }
    let octave = 31 - micros.leading_zeros() - FINE;
    (((octave + 1) << FINE) + ((micros >> octave) - (1 << FINE))) as usize
}

/// Where a bucket begins, in microseconds.
fn begin(bucket: usize) -> f64 {
    let (octave, fine) = (bucket >> FINE, bucket % (1 << FINE));
    match octave {
        0 => fine as f64,
        _ => (((1 << FINE) + fine) as f64) * f64::from(1_u32 << (octave - 1)),
    }
}

impl Latencies {
    /// Counts one.
    pub fn record(&self, time: Duration) {
        self.0[bucket(time)].fetch_add(1, Ordering::Relaxed);
    }

    /// How many were counted since they were taken last.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|n| u64::from(n.load(Ordering::Relaxed))).sum()
    }

    /// How many there are and their median; begins anew.
    pub fn take(&self) -> (u64, Option<Duration>) {
        let counts: Vec<u32> = self
            .0
            .iter()
            .map(|n| match n.load(Ordering::Relaxed) {
                0 => 0,
                _ => n.swap(0, Ordering::Relaxed),
            })
            .collect();
        let total: u64 = counts.iter().map(|&n| u64::from(n)).sum();
        let mut before = 0_u64;
        for (bucket, &n) in counts.iter().enumerate() {
            let n = u64::from(n);
            if n > 0 && 2 * (before + n) >= total {
                // Within a bucket the times are taken to be spread evenly.
                let part = (total as f64 / 2.0 - before as f64) / n as f64;
                let (low, high) = (begin(bucket), begin(bucket + 1));
                let micros = low + (high - low) * part;
                return (total, Some(Duration::from_nanos((micros * 1e3) as u64)));
            }
            before += n;
        }
        (0, None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_are_without_gap() {
        for micros in 0..1_000_000_u64 {
            let bucket = bucket(Duration::from_micros(micros));
            assert!(
                begin(bucket) <= micros as f64 && (micros as f64) < begin(bucket + 1),
                "{micros}"
            );
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn taking_begins_anew() {
        let latencies = Latencies::default();
        assert_eq!(latencies.take(), (0, None));
        latencies.record(Duration::from_millis(3));
        assert_eq!(latencies.count(), 1);
        assert_eq!(latencies.take().0, 1);
        assert_eq!(latencies.take(), (0, None));
    }

    proptest! {
        #[test]
        fn the_median_is_within_a_sixteenth(mut micros in prop::collection::vec(1_u64..10_000_000, 1..300)) {
            let latencies = Latencies::default();
            micros.iter().for_each(|&n| latencies.record(Duration::from_micros(n)));
            let (count, p50) = latencies.take();
            micros.sort_unstable();
            prop_assert_eq!(count, micros.len() as u64);
            let true_p50 = micros[(micros.len() - 1) / 2] as f64;
            let p50 = p50.unwrap().as_secs_f64() * 1e6;
            prop_assert!((p50 - true_p50).abs() <= true_p50 / 16.0 + 1.0, "{p50} {true_p50}");
        }
    }
}
