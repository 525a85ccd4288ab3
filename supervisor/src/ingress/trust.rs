//! Which peers' forwarding headers are believed. Pure.

use std::net::IpAddr;

/// Networks whose word is taken for who called and how.
#[derive(Debug, Default)]
pub(super) struct Trust(Vec<Network>);

#[derive(Debug)]
struct Network {
    address: IpAddr,
    bits: u32,
}

/// A network that is not `address/prefix`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{network:?} is not a network: write an address, or address/bits as in 10.0.0.0/8 or fd00::/8")]
pub struct BadNetwork {
    /// What was given.
    pub network: String,
}

impl Trust {
    /// Reads `address` and `address/bits`.
    pub(super) fn parse(networks: &[String]) -> Result<Trust, BadNetwork> {
        networks
            .iter()
            .map(|text| {
                parse(text).ok_or_else(|| BadNetwork {
                    network: text.clone(),
                })
            })
            .collect::<Result<_, _>>()
            .map(Trust)
    }

    /// Whether this peer lies in one of them.
    pub(super) fn believes(&self, peer: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(peer))
    }
}

fn parse(text: &str) -> Option<Network> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let widest = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(widest);
    (bits <= widest).then_some(Network { address, bits })
}

impl Network {
    fn contains(&self, peer: IpAddr) -> bool {
        // `leading_zeros` of the difference is the length of the common prefix.
        match (self.address, peer) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                (ours.to_bits() ^ theirs.to_bits()).leading_zeros() >= self.bits
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                (ours.to_bits() ^ theirs.to_bits()).leading_zeros() >= self.bits
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_own_addresses_only() {
        let networks = ["10.0.0.0/8", "192.0.2.7", "fd00::/8", "0.0.0.0/0"].map(str::to_owned);
        let trust = Trust::parse(&networks[..3]).unwrap();
        for inside in ["10.255.0.1", "192.0.2.7", "fdff::1"] {
            assert!(trust.believes(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["11.0.0.1", "192.0.2.8", "fe80::1", "::1"] {
            assert!(!trust.believes(outside.parse().unwrap()), "{outside}");
        }
        assert!(
            Trust::parse(&networks[3..])
                .unwrap()
                .believes("203.0.113.1".parse().unwrap())
        );
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "fd00::/129",
            "x/8",
            "10.0.0.0/-1",
            "10.0.0.0/",
        ] {
            assert!(Trust::parse(&[bad.to_owned()]).is_err(), "{bad:?}");
        }
    }
}
