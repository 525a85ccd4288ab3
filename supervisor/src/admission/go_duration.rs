//! `X-Timeout`, by which callers of OpenFaaS's functions say how long they wait: a duration as Go writes it. Pure.

use std::time::Duration;

/// The header's name.
pub const X_TIMEOUT: &str = "x-timeout";

/// A duration as Go writes it (`time.ParseDuration`), above zero: `1m30s`, `1.5h`, `250ms`. What of it is finer than a
/// nanosecond is lost.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut all = Duration::ZERO;
    while !rest.is_empty() {
        let (number, behind) = rest.split_at(rest.find(|c: char| c != '.' && !c.is_ascii_digit())?);
        let unit = behind.split(|c: char| c == '.' || c.is_ascii_digit()).next()?;
        let nanos: f64 = match unit {
            "h" => 3600e9,
            "m" => 60e9,
            "s" => 1e9,
            "ms" => 1e6,
            "us" | "µs" | "μs" => 1e3,
            "ns" => 1.0,
            _ => return None,
        };
        // Nine digits of hours are more than any manifest allows.
        let number: f64 = if number.len() <= 18 {
            number.parse().ok()?
        } else {
            return None;
        };
        all = all.checked_add(Duration::try_from_secs_f64(number * nanos / 1e9).ok()?)?;
        rest = &behind[unit.len()..];
    }
    (!all.is_zero()).then_some(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_go_reads_and_what_it_does_not() {
        for (text, millis) in [
            ("250ms", 250),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("+2s", 2000),
            ("5000µs", 5),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in [
            "", "0", "0s", "5", "s", "-1s", "1d", "1 s", ".s", "1s2", "1.2.3s", "1e3s", "é", "1é",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in "[+0-9.hmsnuµ]{0,12}|.*") {
            prop_assert!(parse(&text) != Some(Duration::ZERO));
        }
    }
}
