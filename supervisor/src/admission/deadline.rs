//! Until when somebody waits for an answer: read from a request's head, passed on as what is left. Pure; never a timer.

use std::time::{Duration, Instant};

/// gRPC's header: up to eight digits and a unit.
pub const GRPC_TIMEOUT: &str = "grpc-timeout";
/// Milliseconds, in decimal; also what funcd passes on.
pub const X_REQUEST_TIMEOUT_MS: &str = "x-request-timeout-ms";

/// The timeout of a request: the shortest of what its head says and the manifest's. What can't be read says nothing: it is
/// the caller's loss only.
pub fn timeout(grpc: Option<&str>, millis: Option<&str>, manifest: Duration) -> Duration {
    let said = [grpc.and_then(grpc_timeout), millis.and_then(milliseconds)];
    said.into_iter().flatten().fold(manifest, Duration::min)
}

/// The value of `grpc-timeout`: `TimeoutValue TimeoutUnit` (gRPC over HTTP/2, "Requests"): at most eight digits, then one
/// of `H M S m u n`.
pub fn grpc_timeout(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number = digits(number, 8)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The same the other way round, in milliseconds, or in seconds where those have more than eight digits.
pub fn to_grpc_timeout(left: Duration) -> String {
    const MOST: u128 = 99_999_999;
    match left.as_millis() {
        millis @ 0..=MOST => format!("{millis}m"),
        millis => format!("{}S", (millis / 1000).min(MOST)),
    }
}

/// The value of `x-request-timeout-ms`.
pub fn milliseconds(text: &str) -> Option<Duration> {
    digits(text, 10).map(Duration::from_millis)
}

fn digits(text: &str, most: usize) -> Option<u64> {
    let is_number = (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// What is left, in whole milliseconds, to pass on to the function and from it to others; `None`: nothing is.
pub fn left_millis(deadline: Instant, now: Instant) -> Option<u64> {
    let left = deadline.saturating_duration_since(now).as_millis();
    u64::try_from(left).ok().filter(|&left| left > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_shortest_counts() {
        let manifest = Duration::from_secs(30);
        assert_eq!(timeout(None, None, manifest), manifest);
        assert_eq!(
            timeout(Some("2S"), Some("500"), manifest),
            Duration::from_millis(500)
        );
        assert_eq!(timeout(Some("1H"), None, manifest), manifest);
        assert_eq!(timeout(Some("0n"), None, manifest), Duration::ZERO);
    }

    #[test]
    fn grpc_units() {
        assert_eq!(grpc_timeout("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(
            grpc_timeout("99999999M"),
            Some(Duration::from_secs(99_999_999 * 60))
        );
        assert_eq!(grpc_timeout("7m"), Some(Duration::from_millis(7)));
        assert_eq!(grpc_timeout("7u"), Some(Duration::from_micros(7)));
        for bad in [
            "",
            "m",
            "1",
            "1s",
            "-1S",
            "+1S",
            "1.5S",
            "100000000S",
            " 1S",
            "1µ",
            "é",
        ] {
            assert_eq!(grpc_timeout(bad), None, "{bad}");
        }
        for bad in ["", "+5", "-5", "5ms", "12345678901", " 5"] {
            assert_eq!(milliseconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_said_is_read_back() {
        for (seconds, said) in [
            (0, "0m"),
            (2, "2000m"),
            (99_999, "99999000m"),
            (100_000, "100000S"),
            (u64::MAX, "99999999S"),
        ] {
            let said_now = to_grpc_timeout(Duration::from_secs(seconds));
            assert_eq!(said_now, said);
            let read = grpc_timeout(&said_now).unwrap();
            assert_eq!(read, Duration::from_secs(seconds.min(99_999_999)));
        }
    }

    #[test]
    fn what_is_left_is_passed_on() {
        let now = Instant::now();
        assert_eq!(left_millis(now + Duration::from_millis(250), now), Some(250));
        assert_eq!(left_millis(now + Duration::from_micros(900), now), None);
        assert_eq!(left_millis(now, now + Duration::from_secs(1)), None);
    }

    proptest! {
        #[test]
        fn no_head_breaks_it(grpc in ".*", millis in ".*", manifest in 0_u64..1_000_000) {
            let manifest = Duration::from_millis(manifest);
            prop_assert!(timeout(Some(&grpc), Some(&millis), manifest) <= manifest);
        }
    }
}
