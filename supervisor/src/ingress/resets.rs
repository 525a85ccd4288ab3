//! How many streams of one connection to an instance may be reset before it gets no new ones. Pure: time is an argument.
//!
//! Callers may give up as many calls as they like, and each becomes a `RST_STREAM` to the function. But libraries close a connection on
//! which too many come in a short time (CVE-2023-44487: Netty after 200 in 30 s, nghttp2 and Node after 1,000), with everybody's
//! calls. With those that are open when it wears out, a connection gets at most [`BURST`] + 30 + 128 within 30 s.

use std::time::{Duration, Instant};

/// So many at once wear a connection out.
const BURST: u32 = 32;
/// For each one that was sent it has to last so long.
const EACH: Duration = Duration::from_secs(1);

/// What one connection was asked to bear.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resets {
    /// When those that were sent are forgotten.
    forgotten: Instant,
}

impl Resets {
    /// Of a fresh connection.
    pub(super) fn new(now: Instant) -> Resets {
        Resets { forgotten: now }
    }

    /// So many were sent.
    pub(super) fn sent(&mut self, count: u32, now: Instant) {
        self.forgotten = self.forgotten.max(now) + EACH * count;
    }

    /// Whether it should get no new streams.
    pub(super) fn is_worn(&self, now: Instant) -> bool {
        self.forgotten.saturating_duration_since(now) >= EACH * BURST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_wears_it_out_and_time_mends_it() {
        let now = Instant::now();
        let mut resets = Resets::new(now);
        resets.sent(BURST - 1, now);
        assert!(!resets.is_worn(now));
        resets.sent(1, now);
        assert!(resets.is_worn(now));
        assert!(!resets.is_worn(now + EACH));
    }

    #[test]
    fn a_few_now_and_then_never_do() {
        let mut now = Instant::now();
        let mut resets = Resets::new(now);
        for _ in 0..1000 {
            now += EACH;
            resets.sent(1, now);
            assert!(!resets.is_worn(now));
        }
    }

    #[test]
    fn no_thirty_seconds_see_as_many_as_the_strictest_library_takes() {
        const STREAMS: usize = 128;
        let start = Instant::now();
        let mut resets = Resets::new(start);
        let mut sent = Vec::new();
        // The worst caller: whenever it may, it opens all streams, and gives them up at once.
        for millis in (0..600_000).step_by(100) {
            let now = start + Duration::from_millis(millis);
            if !resets.is_worn(now) {
                resets.sent(STREAMS as u32, now);
                sent.extend([now; STREAMS]);
            }
        }
        let most = sent.iter().map(|from| {
            let until = *from + Duration::from_secs(30);
            sent.iter().filter(|at| (*from..until).contains(*at)).count()
        });
        let most = most.max().unwrap();
        assert!((STREAMS..200).contains(&most), "{most}");
    }
}
