//! How much a function may log: a bucket of units that refills with time. Pure; time is an argument.

use std::time::Instant;

/// Units that a bucket gains in a second. A unit is a line of up to [`UNIT_BYTES`] bytes.
pub const UNITS_PER_SECOND: f64 = 1000.0;
/// Units that a bucket holds, at most: what a function may log at once after a silence.
pub const BURST: f64 = 4000.0;
/// A line costs one unit for each begun piece of this many bytes, so that long lines can't fill the disk either.
pub const UNIT_BYTES: usize = 256;

/// A bucket of units, full at first.
#[derive(Debug, Clone)]
pub struct Bucket {
    units: f64,
    since: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(now: Instant) -> Bucket {
        Bucket {
            units: BURST,
            since: now,
        }
    }

    /// Takes what a line of this many bytes costs; false when there is not enough, and then nothing is taken.
    pub fn take(&mut self, bytes: usize, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.since).as_secs_f64() * UNITS_PER_SECOND;
        self.units = (self.units + gained).min(BURST);
        self.since = self.since.max(now);
        let cost = bytes.div_ceil(UNIT_BYTES).max(1) as f64;
        let enough = self.units >= cost;
        if enough {
            self.units -= cost;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn take_all(bucket: &mut Bucket, bytes: usize, now: Instant) -> usize {
        (0..100_000).take_while(|_| bucket.take(bytes, now)).count()
    }

    #[test]
    fn a_burst_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        assert_eq!(take_all(&mut bucket, 80, start), 4000);
        assert_eq!(take_all(&mut bucket, 80, start + Duration::from_millis(500)), 500);
        assert_eq!(take_all(&mut bucket, 80, start + Duration::from_secs(3600)), 4000);
    }

    #[test]
    fn long_lines_cost_more_and_empty_ones_are_not_free() {
        let start = Instant::now();
        assert_eq!(take_all(&mut Bucket::new(start), 8192, start), 125);
        assert_eq!(take_all(&mut Bucket::new(start), 257, start), 2000);
        assert_eq!(take_all(&mut Bucket::new(start), 0, start), 4000);
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_gains_nothing() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut bucket = Bucket::new(start);
        take_all(&mut bucket, 1, start);
        assert!(!bucket.take(1, start - Duration::from_secs(5)));
        assert!(!bucket.take(1, start));
    }
}
