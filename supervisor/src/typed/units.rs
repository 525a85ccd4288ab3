//! Sizes, durations, shares of a CPU and networks as people write them. A number without its unit is refused where the
//! unit could be guessed wrong.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

/// A size in bytes: `"64K"`, `"256M"`, `"1.5G"`, `"2T"` (powers of 1024; `KiB` or `KB` mean the same), or a whole number of
/// bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// Reads a size.
    ///
    /// # Errors
    /// What a size looks like.
    pub fn parse(text: &str) -> Result<Size, String> {
        let bad = || {
            format!("{text:?} is not a size: write a number of bytes, or \"64K\", \"256M\", \"1.5G\", \"2T\"")
        };
        let (number, unit) = split_unit(text).ok_or_else(bad)?;
        let unit = unit.strip_suffix("iB").or(unit.strip_suffix('B')).unwrap_or(unit);
        let scale = match unit {
            "" => 1_u64,
            "K" | "k" => 1 << 10,
            "M" => 1 << 20,
            "G" => 1 << 30,
            "T" => 1 << 40,
            _ => return Err(bad()),
        };
        scaled(number, u128::from(scale))
            .and_then(|n| u64::try_from(n).ok())
            .map(Size)
            .ok_or_else(bad)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
        let unit = units
            .into_iter()
            .find(|(scale, _)| self.0 >= *scale && self.0.is_multiple_of(*scale));
        match unit {
            Some((scale, unit)) => write!(f, "{}{unit}", self.0 / scale),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A length of time: `"500ms"`, `"60s"`, `"5m"`, `"1h"`, `"1d"`, also added up as in `"1m30s"`. Always with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// Reads a length of time of at most 365 days.
    ///
    /// # Errors
    /// What a length of time looks like.
    pub fn parse(text: &str) -> Result<Span, String> {
        let bad = || {
            format!(
                "{text:?} is not a length of time: write for example \"500ms\", \"60s\", \"5m\" or \"1h\""
            )
        };
        let mut rest = text;
        let mut nanos = 0_u128;
        while !rest.is_empty() {
            let (number, after) = split_unit(rest).ok_or_else(bad)?;
            let unit_length = after
                .find(|c: char| !c.is_ascii_alphabetic())
                .unwrap_or(after.len());
            let (unit, next) = after.split_at(unit_length);
            let scale = match unit {
                "us" => 1_000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" | "min" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                "d" => 86_400_000_000_000,
                _ => return Err(bad()),
            };
            nanos = nanos
                .checked_add(scaled(number, scale).ok_or_else(bad)?)
                .ok_or_else(bad)?;
            rest = next;
        }
        if text.is_empty() || nanos > 365 * 86_400_000_000_000 {
            return Err(bad());
        }
        let nanos = u64::try_from(nanos).expect("a year fits");
        Ok(Span(Duration::from_nanos(nanos)))
    }
}

/// The digits (with at most one point) that a text begins with, and the rest.
fn split_unit(text: &str) -> Option<(&str, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    (end > 0 && end <= 24).then(|| text.split_at(end))
}

/// `number` × `scale`, exactly: digits after the point that make less than one unit are refused.
fn scaled(number: &str, scale: u128) -> Option<u128> {
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || part.is_empty() || part.contains('.') || part.len() > 9 {
        return None;
    }
    let whole = whole.parse::<u128>().ok()?.checked_mul(scale)?;
    let tenths = 10_u128.pow(u32::try_from(part.len()).ok()?);
    let fraction = part.parse::<u128>().ok()?.checked_mul(scale)?;
    // Rounded down: "1.3G" is no whole number of bytes, and nobody means one.
    if scale == 1 && fraction % tenths != 0 {
        return None;
    }
    whole.checked_add(fraction / tenths)
}

/// A share of CPU time: `1.5` is one and a half cores. Kept in thousandths of a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpu(pub u32);

impl Cpu {
    /// From cores.
    ///
    /// # Errors
    /// What a share looks like.
    pub fn from_cores(cores: f64) -> Result<Cpu, String> {
        if !(0.01..=1024.0).contains(&cores) {
            return Err(format!(
                "{cores} is not a share of CPU: write cores, from 0.01 to 1024"
            ));
        }
        // In range, so neither truncated nor negative.
        Ok(Cpu((cores * 1000.0).round() as u32))
    }
}

/// A network: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// Reads a network.
    ///
    /// # Errors
    /// What a network looks like; an address with bits below the prefix is refused, since one of the two is a mistake.
    pub fn parse(text: &str) -> Result<Cidr, String> {
        let bad = || {
            format!(
                "{text:?} is not a network: write for example \"10.0.0.0/8\", \"fd00::/8\" or one address"
            )
        };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| bad())?
            }
            Some(_) => return Err(bad()),
        };
        if prefix > bits {
            return Err(bad());
        }
        let network = Cidr { address, prefix };
        let (masked, whole) = network.masked(address);
        if masked != whole {
            let first = match address {
                IpAddr::V4(_) => IpAddr::V4((u32::try_from(masked).expect("masked from 32 bits")).into()),
                IpAddr::V6(_) => IpAddr::V6(masked.into()),
            };
            return Err(format!(
                "{text:?} is not a network: did you mean \"{first}/{prefix}\" or \"{address}\"?"
            ));
        }
        Ok(network)
    }

    /// The address with the bits below the prefix cleared, and the address.
    fn masked(&self, address: IpAddr) -> (u128, u128) {
        let (value, bits) = match address {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
            IpAddr::V6(v6) => (u128::from(v6), 128),
        };
        let low = bits - u32::from(self.prefix);
        (
            value.checked_shr(low).unwrap_or(0).checked_shl(low).unwrap_or(0),
            value,
        )
    }

    /// Whether an address is in it. An IPv4 address written as IPv6 (`::ffff:10.0.0.1`) is that IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && self.masked(address).0 == self.masked(self.address).1
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;
    fn try_from(text: String) -> Result<Cidr, String> {
        Cidr::parse(&text)
    }
}

impl From<Cidr> for String {
    fn from(network: Cidr) -> String {
        network.to_string()
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        struct OfSize;
        impl Visitor<'_> for OfSize {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"256M\", or a number of bytes")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                Size::parse(text).map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                let bytes = u64::try_from(bytes);
                bytes.map(Size).map_err(|_| E::custom("a size is not negative"))
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }
        }
        deserializer.deserialize_any(OfSize)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        struct OfSpan;
        impl Visitor<'_> for OfSpan {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a length of time with its unit, such as \"500ms\" or \"60s\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                Span::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(OfSpan)
    }
}

impl<'de> Deserialize<'de> for Cpu {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Cpu, D::Error> {
        struct OfCpu;
        impl Visitor<'_> for OfCpu {
            type Value = Cpu;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of cores such as 0.5 or 2")
            }
            fn visit_f64<E: de::Error>(self, cores: f64) -> Result<Cpu, E> {
                Cpu::from_cores(cores).map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, cores: i64) -> Result<Cpu, E> {
                Cpu::from_cores(cores as f64).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(OfCpu)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("64K", 64 << 10),
            ("64k", 64 << 10),
            ("64KiB", 64 << 10),
            ("256M", 256 << 20),
            ("1.5G", 3 << 29),
            ("1.3G", 1_395_864_371),
            ("2T", 2 << 40),
            ("100B", 100),
        ] {
            assert_eq!(Size::parse(text), Ok(Size(bytes)), "{text}");
        }
        for bad in [
            "",
            "M",
            "-1",
            "1,5G",
            "1.G",
            ".5G",
            "1.5",
            "1 G",
            "1GG",
            "1e9",
            "99999999999999999999",
            "9999999999T",
            "½G",
        ] {
            assert!(Size::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn spans() {
        for (text, millis) in [
            ("500ms", 500),
            ("60s", 60_000),
            ("5m", 300_000),
            ("5min", 300_000),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
            ("1.5s", 1_500),
            ("1m30s", 90_000),
            ("0s", 0),
        ] {
            assert_eq!(
                Span::parse(text),
                Ok(Span(Duration::from_millis(millis))),
                "{text}"
            );
        }
        for bad in [
            "",
            "60",
            "s",
            "-1s",
            "1 s",
            "1y",
            "1s30",
            "400d",
            "99999999999999999999999d",
            "1..5s",
        ] {
            assert!(Span::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cores() {
        assert_eq!(Cpu::from_cores(1.5), Ok(Cpu(1500)));
        assert_eq!(Cpu::from_cores(0.01), Ok(Cpu(10)));
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
            assert!(Cpu::from_cores(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("0.0.0.0/0", "1.2.3.4", "::1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::/0", "2001:db8::1", "1.2.3.4"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"),
        ] {
            let parsed = Cidr::parse(network).unwrap();
            assert!(parsed.contains(inside.parse().unwrap()), "{network} {inside}");
            assert!(!parsed.contains(outside.parse().unwrap()), "{network} {outside}");
            assert_eq!(Cidr::parse(&parsed.to_string()), Ok(parsed));
        }
        for bad in [
            "",
            "10.0.0.0/33",
            "10/8",
            "::/129",
            "a",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
        ] {
            assert!(Cidr::parse(bad).is_err(), "{bad}");
        }
        let said = Cidr::parse("10.1.2.3/8").unwrap_err();
        assert!(said.contains("did you mean \"10.0.0.0/8\""), "{said}");
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,40}|[0-9.KMGTiBsmhdu]{0,30}|[0-9a-f:./]{0,40}") {
            let _ = Size::parse(&text);
            let _ = Span::parse(&text);
            let _ = Cidr::parse(&text);
        }
    }
}
