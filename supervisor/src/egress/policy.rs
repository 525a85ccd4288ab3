//! Which addresses no binding leads to unless the operator says so. A manifest is written by who deploys; what its names mean is
//! said by name servers, who could point one at the host itself, or at the cloud's metadata (DNS rebinding). So each address is
//! judged when it is connected to, wherever it came from.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::typed::units::Cidr;

/// An exception: a network, or one port of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    network: Cidr,
    port: Option<u16>,
}

impl Allowed {
    /// Reads `127.0.0.1:5432`, `[::1]:5432`, or a network alone, which is allowed with all ports.
    ///
    /// # Errors
    /// What it looks like.
    pub fn parse(text: &str) -> Result<Allowed, String> {
        let bad = || {
            format!(
                "{text:?} is not a network or a port of one: write for example \"127.0.0.1:5432\", \"[::1]:5432\" or \"10.0.0.0/8\""
            )
        };
        let (network, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (network, port) = rest.split_once(']').ok_or_else(bad)?;
                (network, Some(port.strip_prefix(':').ok_or_else(bad)?))
            }
            None => match text.split_once(':') {
                Some((network, port)) if !port.contains(':') => (network, Some(port)),
                _ => (text, None),
            },
        };
        let port = match port {
            None => None,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                Some(digits.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?)
            }
            Some(_) => return Err(bad()),
        };
        Ok(Allowed {
            network: Cidr::parse(network)?,
            port,
        })
    }

    fn covers(&self, address: SocketAddr) -> bool {
        self.network.contains(address.ip()) && self.port.is_none_or(|port| port == address.port())
    }
}

/// Why an address is not connected to; `None`: it may be. `is_own`: whether it is one of this host's.
pub(super) fn refusal(address: SocketAddr, is_own: bool, allow: &[Allowed]) -> Option<&'static str> {
    if allow.iter().any(|allowed| allowed.covers(address)) {
        return None;
    }
    let ip = plain(address.ip());
    if is_metadata(ip) {
        Some("it is where clouds hand out credentials")
    } else if ip.is_loopback() || ip.is_unspecified() || is_this_network(ip) || is_own {
        Some("it is this host itself")
    } else if is_link_local(ip) {
        Some("it is link-local")
    } else if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some("it is no host's address")
    } else {
        None
    }
}

/// Whether an address is one of this host's, however it is written. Sends nothing.
///
/// # Errors
/// When there is no descriptor to ask with.
pub(super) fn is_own(address: SocketAddr) -> io::Result<bool> {
    let meant = SocketAddr::new(plain(address.ip()), address.port());
    if meant != address && is_own(meant)? {
        return Ok(true);
    }
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // The kernel calls this host from the address that is called, ...
    let from = calls_from(any, address)?;
    // (a loopback address calls nothing but this host)
    if from.is_some_and(|from| from == address.ip().to_canonical() || from.is_loopback()) {
        return Ok(true);
    }
    // ... but for an interface's further IPv4 addresses, which it calls from the first one. Only who has an address may call from it.
    match address {
        SocketAddr::V4(_) => Ok(calls_from(address.ip(), address)? == Some(address.ip())),
        SocketAddr::V6(_) => Ok(false),
    }
}

/// The address that another one would be called from by whoever is bound to `local`; `None`: not from there.
fn calls_from(local: IpAddr, address: SocketAddr) -> io::Result<Option<IpAddr>> {
    let socket = match UdpSocket::bind((local, 0)) {
        Ok(socket) => socket,
        // No such address here, or no IPv6: nothing can be connected to either.
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable
            ) =>
        {
            return Ok(None);
        }
        Err(e) if e.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => return Ok(None),
        Err(e) => return Err(e),
    };
    // There is no way to it: then it is not here.
    if socket.connect(address).is_err() {
        return Ok(None);
    }
    Ok(Some(socket.local_addr()?.ip().to_canonical()))
}

/// What an IPv6 address means that holds an IPv4 address: mapped, compatible, translated (RFC 6052, 7915, 8215), or behind 6to4.
fn plain(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let low = |v6: Ipv6Addr| Ipv4Addr::from(u128::from(v6) as u32);
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, _, _]
        | [0, 0, 0, 0, 0xffff, 0, _, _]
        | [0x64, 0xff9b, 0, 0, 0, 0, _, _]
        | [0x64, 0xff9b, 1, _, _, _, _, _] => low(v6).into(),
        [0x2002, ..] => Ipv4Addr::from((u128::from(v6) >> 80) as u32).into(),
        [0, 0, 0, 0, 0, 0, high, _] if high != 0 => low(v6).into(),
        _ => ip,
    }
}

fn is_metadata(ip: IpAddr) -> bool {
    // AWS, GCP, Azure and most others; Azure's agent; Alibaba; AWS over IPv6.
    const V4: [Ipv4Addr; 3] = [
        Ipv4Addr::new(169, 254, 169, 254),
        Ipv4Addr::new(168, 63, 129, 16),
        Ipv4Addr::new(100, 100, 100, 200),
    ];
    const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match ip {
        IpAddr::V4(v4) => V4.contains(&v4),
        IpAddr::V6(v6) => v6 == V6,
    }
}

fn is_this_network(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(v4) if v4.octets()[0] == 0)
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        let ip: IpAddr = text.parse().unwrap();
        (ip, 80).into()
    }

    #[test]
    fn the_host_its_links_and_the_metadata_are_refused_however_they_are_written() {
        for (address, why) in [
            ("127.0.0.1", "this host itself"),
            ("127.9.9.9", "this host itself"),
            ("::1", "this host itself"),
            ("::ffff:127.0.0.1", "this host itself"),
            ("64:ff9b::7f00:1", "this host itself"),
            ("64:ff9b:1::7f00:1", "this host itself"),
            ("::ffff:0:7f00:1", "this host itself"),
            ("2002:7f00:1::", "this host itself"),
            ("0.0.0.0", "this host itself"),
            ("0.1.2.3", "this host itself"),
            ("::", "this host itself"),
            ("169.254.169.254", "credentials"),
            ("::ffff:169.254.169.254", "credentials"),
            ("64:ff9b::a9fe:a9fe", "credentials"),
            ("fd00:ec2::254", "credentials"),
            ("168.63.129.16", "credentials"),
            ("169.254.1.1", "link-local"),
            ("fe80::1", "link-local"),
            ("224.0.0.1", "no host's"),
            ("ff02::1", "no host's"),
            ("255.255.255.255", "no host's"),
        ] {
            let refusal = refusal(at(address), false, &[]);
            assert!(
                refusal.is_some_and(|said| said.contains(why)),
                "{address}: {refusal:?}"
            );
        }
        for address in [
            "10.0.0.5",
            "192.168.1.1",
            "203.0.113.7",
            "2001:db8::1",
            "fd00::1",
            "100.64.0.1",
        ] {
            assert_eq!(refusal(at(address), false, &[]), None, "{address}");
            assert!(
                refusal(at(address), true, &[]).is_some(),
                "{address}, when it is the host's own"
            );
        }
    }

    #[test]
    fn the_operator_allows_a_network_or_one_port_of_it() {
        let one = Allowed::parse("127.0.0.1:5432").unwrap();
        let database = SocketAddr::from(([127, 0, 0, 1], 5432));
        assert_eq!(refusal(database, true, &[one]), None);
        assert!(refusal(at("127.0.0.1"), true, &[one]).is_some(), "another port");
        assert!(
            refusal(SocketAddr::from(([127, 0, 0, 2], 5432)), true, &[one]).is_some(),
            "another address"
        );
        let mapped: SocketAddr = "[::ffff:127.0.0.1]:5432".parse().unwrap();
        assert_eq!(refusal(mapped, true, &[one]), None, "the same place");
        for (text, address) in [
            ("[::1]:80", "::1"),
            ("::1", "::1"),
            ("127.0.0.0/8", "127.1.2.3"),
            ("10.0.0.0/8:80", "10.1.1.1"),
        ] {
            let allowed = Allowed::parse(text).unwrap();
            assert_eq!(refusal(at(address), true, &[allowed]), None, "{text}");
        }
        for text in [
            "",
            "localhost",
            "127.0.0.1:",
            "127.0.0.1:0",
            "127.0.0.1:x",
            "[::1]",
            "[::1]80",
            "127.0.0.1:99999",
        ] {
            assert!(Allowed::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_kernel_tells_the_hosts_own_addresses_from_others() {
        assert!(is_own(at("127.0.0.1")).unwrap());
        assert!(is_own(at("127.1.2.3")).unwrap());
        // For documentation alone (RFC 5737): on no host, whether there is a way to it or not.
        assert!(!is_own(at("203.0.113.7")).unwrap());
    }

    /// On a thread in a network of its own, with two addresses of one IPv4 network and two of an IPv6 one.
    fn in_a_network_of_its_own(check: impl FnOnce() + Send + 'static) {
        const ADDRESSES: [&str; 4] = ["10.9.0.4/31", "10.9.0.5/31", "fd00:9::5/64", "fd00:9::6/64"];
        let ip = |args: &[&str]| std::process::Command::new("ip").args(args).status();
        let thread = std::thread::spawn(move || {
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err()
                || !ip(&["link", "set", "lo", "up"]).is_ok_and(|status| status.success())
            {
                return eprintln!("skipped: no networks can be made here");
            }
            for address in ADDRESSES {
                // What it prints about a host without IPv6 is told by `check`.
                let _ = ip(&["address", "add", address, "dev", "lo"]);
            }
            // A way to all others, which a host with a name server has.
            let _ = ip(&["route", "add", "default", "dev", "lo"]);
            while has_tentative_addresses() {
                std::thread::yield_now();
            }
            check();
        });
        thread.join().unwrap();
    }

    /// An IPv6 address is one of the host's only once the kernel has looked for others who have it (rtnetlink, `IFA_F_TENTATIVE`).
    fn has_tentative_addresses() -> bool {
        let addresses = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
        addresses.lines().any(|line| {
            let flags = line.split_whitespace().nth(4);
            flags.is_some_and(|flags| u8::from_str_radix(flags, 16).unwrap() & 0x40 != 0)
        })
    }

    #[test]
    fn all_addresses_of_an_interface_are_the_hosts_own_not_its_first_one_alone() {
        in_a_network_of_its_own(|| {
            for address in ["10.9.0.4", "10.9.0.5", "::ffff:10.9.0.5", "64:ff9b::a09:5"] {
                assert!(is_own(at(address)).unwrap(), "{address}");
            }
            for address in ["10.9.0.7", "64:ff9b::a09:7", "203.0.113.7"] {
                assert!(!is_own(at(address)).unwrap(), "{address}");
            }
            // Hosts that take over others' addresses let everybody bind what is not theirs.
            std::fs::write("/proc/sys/net/ipv4/ip_nonlocal_bind", "1").unwrap();
            assert!(UdpSocket::bind("203.0.113.7:0").is_ok(), "the control");
            assert!(!is_own(at("203.0.113.7")).unwrap());
            assert!(is_own(at("10.9.0.5")).unwrap());
        });
    }

    #[test]
    fn so_are_all_of_its_ipv6_addresses() {
        in_a_network_of_its_own(|| {
            if UdpSocket::bind("[fd00:9::5]:0").is_ok() {
                assert!(is_own(at("fd00:9::5")).unwrap());
                assert!(is_own(at("fd00:9::6")).unwrap());
                assert!(!is_own(at("fd00:9::7")).unwrap());
            }
        });
    }
}
