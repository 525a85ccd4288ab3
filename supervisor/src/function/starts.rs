//! How many starts after unwanted ends there may be: pure, time is an argument. First starts for a request are not counted, so
//! that no crash loop keeps another function from its first answer.

use std::time::{Duration, Instant};

/// A token bucket, as the generic cell rate algorithm: one number instead of a level and a time (ITU-T I.371).
#[derive(Debug, Clone)]
pub struct Bucket {
    every: Duration,
    burst: u32,
    /// When it would be full again.
    full_at: Option<Instant>,
}

impl Bucket {
    /// What the whole host may start again: 50 a second, which keeps the launcher busy for less than a tenth of its time.
    pub const HOST: Bucket = Bucket::new(Duration::from_millis(20), 100);
    /// What one function may: a tenth of it, so that one crash loop leaves room for the others.
    pub const FUNCTION: Bucket = Bucket::new(Duration::from_millis(200), 10);

    /// One token in each `every`, at most `burst` of them.
    pub const fn new(every: Duration, burst: u32) -> Bucket {
        Bucket {
            every,
            burst,
            full_at: None,
        }
    }

    /// When the next token is there.
    pub fn next(&self, now: Instant) -> Instant {
        let whole = self.every * self.burst.saturating_sub(1);
        self.full_at
            .and_then(|full| full.checked_sub(whole))
            .map_or(now, |at| at.max(now))
    }

    /// Takes one, which must be there.
    pub fn take(&mut self, now: Instant) {
        self.full_at = Some(self.full_at.map_or(now, |full| full.max(now)) + self.every);
    }
}

/// Takes one token of each if both have one; otherwise nothing, and tells when it is worth asking again.
///
/// # Errors
/// That time.
pub fn take(host: &mut Bucket, function: &mut Bucket, now: Instant) -> Result<(), Instant> {
    let at = host.next(now).max(function.next(now));
    if at > now {
        return Err(at);
    }
    host.take(now);
    function.take(now);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many of the asked-for starts a function gets within `seconds`, asking each millisecond.
    fn granted(functions: usize, seconds: u64) -> Vec<u64> {
        let start = Instant::now();
        let mut host = Bucket::HOST;
        let mut own = vec![Bucket::FUNCTION; functions];
        let mut granted = vec![0; functions];
        for millis in 0..seconds * 1000 {
            let now = start + Duration::from_millis(millis);
            for (bucket, count) in own.iter_mut().zip(&mut granted) {
                *count += u64::from(take(&mut host, bucket, now).is_ok());
            }
        }
        granted
    }

    #[test]
    fn one_crash_loop_gets_its_share_and_no_more() {
        assert_eq!(granted(1, 10), [10 + 49]);
    }

    #[test]
    fn a_crash_loop_leaves_tokens_for_the_others() {
        let start = Instant::now();
        let (mut host, mut looping) = (Bucket::HOST, Bucket::FUNCTION);
        for millis in 0..10_000 {
            let now = start + Duration::from_millis(millis);
            let _ = take(&mut host, &mut looping, now);
            assert_eq!(
                host.next(now),
                now,
                "another function would get one at {millis} ms"
            );
        }
    }

    #[test]
    fn many_crash_loops_together_stay_within_the_hosts() {
        let sum: u64 = granted(40, 10).iter().sum();
        assert_eq!(sum, 100 + 499);
    }

    proptest! {
        #[test]
        fn in_no_time_are_there_more_than_its_rate_and_its_burst(gaps in prop::collection::vec(0..500_u64, 1..200)) {
            let start = Instant::now();
            let (mut bucket, mut now, mut taken) = (Bucket::FUNCTION, start, Vec::new());
            for gap in gaps {
                now += Duration::from_millis(gap);
                if bucket.next(now) == now {
                    bucket.take(now);
                    taken.push(now);
                }
                for (index, &then) in taken.iter().enumerate() {
                    let most = 10 + (now - then).as_millis() / 200;
                    prop_assert!((taken.len() - index) as u128 <= most + 1);
                }
            }
        }

        #[test]
        fn what_is_told_is_when_there_is_one(before in 0..50_usize) {
            let now = Instant::now();
            let mut bucket = Bucket::FUNCTION;
            (0..before).for_each(|_| bucket.take(now));
            let at = bucket.next(now);
            prop_assert_eq!(bucket.next(at), at);
            prop_assert!(at == now || bucket.next(at - Duration::from_millis(1)) > at - Duration::from_millis(1));
        }
    }
}
