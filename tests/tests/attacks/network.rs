//! Attempts 28 to 31: other kinds of sockets, and networks.

use funcd_tests::need::Need;
use funcd_tests::suite::Suite;
use nix::libc;

use crate::control::Control::{self, IfThere, Local, None as Without, Root, Works};
use crate::inside::{Attempt, Row, by, call, nothing, register as row};
use crate::table::Title;

pub(crate) fn register(suite: &mut Suite) {
    const NETWORK: &[Need] = &[Need::Property("network")];
    static ROWS: [Row; 4] = [
        Row {
            title: Title {
                number: 28,
                attempt: "PACKET, NETLINK, ALG, VSOCK, raw and other sockets",
                mechanism: "P4 kernel surface, P2 network: seccomp",
            },
            name: "sockets",
            needs: &[Need::Property("kernel-surface")],
            attempts: sockets,
            own: None,
            after: nothing,
        },
        Row {
            title: Title {
                number: 29,
                attempt: "the cloud's metadata service, 169.254.169.254, and other addresses",
                mechanism: "P2 network: network namespace",
            },
            name: "metadata",
            needs: NETWORK,
            attempts: metadata,
            own: None,
            after: nothing,
        },
        Row {
            title: Title {
                number: 30,
                attempt: "TCP and UDP of the host's loopback interface, funcd's own port among them",
                mechanism: "P2 network: network namespace",
            },
            name: "loopback",
            needs: NETWORK,
            attempts: loopback,
            own: None,
            after: nothing,
        },
        Row {
            title: Title {
                number: 31,
                attempt: "connect by sending (TCP fast open), MPTCP, SMC, SCTP, UDP-Lite",
                mechanism: "P2 network, P4 kernel surface: seccomp looks at flags, options and protocols",
            },
            name: "side_doors",
            needs: NETWORK,
            attempts: side_doors,
            own: None,
            after: nothing,
        },
    ];
    for one in &ROWS {
        row(suite, one);
    }
}

const NO_FAMILY: &[&str] = &["EAFNOSUPPORT"];

fn sockets() -> Vec<Attempt> {
    let of = |label, family: i32, rest: &str, control: Control| {
        call(
            label,
            libc::SYS_socket,
            &format!("{family} {rest}"),
            NO_FAMILY,
            control,
        )
    };
    // Families that this kernel was built without prove nothing outside.
    const BUILT: Control = IfThere(&[
        "EAFNOSUPPORT",
        "EPROTONOSUPPORT",
        "ESOCKTNOSUPPORT",
        "EPERM",
        "ENODEV",
    ]);
    vec![
        of("NETLINK", libc::AF_NETLINK, "3 0", Works),
        of("NETLINK audit", libc::AF_NETLINK, "3 9", BUILT),
        of("PACKET", libc::AF_PACKET, "3 0", BUILT),
        of("VSOCK", libc::AF_VSOCK, "1 0", BUILT),
        of("ALG", libc::AF_ALG, "5 0", BUILT),
        of("KEY", libc::AF_KEY, "3 2", BUILT),
        of("BLUETOOTH", libc::AF_BLUETOOTH, "3 1", BUILT),
        of("XDP", libc::AF_XDP, "3 0", BUILT),
        of("TIPC", libc::AF_TIPC, "1 0", BUILT),
        of("CAN", libc::AF_CAN, "3 1", BUILT),
        of("SMC", 43, "1 0", BUILT),
        of("KCM", 41, "5 0", BUILT),
        of("RDS", libc::AF_RDS, "5 0", BUILT),
        call(
            "family with an upper half",
            libc::SYS_socket,
            &format!("{} 3 0", i64::from(libc::AF_NETLINK) | 1 << 40),
            NO_FAMILY,
            Works,
        ),
        call(
            "NETLINK pair",
            libc::SYS_socketpair,
            "16 3 0 z:8",
            NO_FAMILY,
            IfThere(&["EOPNOTSUPP"]),
        ),
        call("raw", libc::SYS_socket, "2 3 1", &["EPERM"], Root),
        call("raw IPv6", libc::SYS_socket, "10 3 58", &["EPERM"], BUILT),
        call(
            "raw by upper flags",
            libc::SYS_socket,
            "2 0x80003 255",
            &["EPERM"],
            Root,
        ),
        call(
            "ping",
            libc::SYS_socket,
            "2 2 1",
            &["EOPNOTSUPP"],
            IfThere(&["EACCES", "EPERM"]),
        ),
    ]
}

/// The loopback interface is down, and there is no other.
const UNREACHABLE: &[&str] = &["ENETUNREACH"];
/// In an IPv6 without an address of its own the kernel may say this first.
const UNREACHABLE_6: &[&str] = &["ENETUNREACH", "EADDRNOTAVAIL", "EAFNOSUPPORT"];

fn metadata() -> Vec<Attempt> {
    vec![
        by(
            "TCP",
            "tcp 169.254.169.254:80",
            UNREACHABLE,
            Local("169.254.169.254"),
        ),
        by(
            "UDP",
            "udp 169.254.169.254:80",
            UNREACHABLE,
            Local("169.254.169.254"),
        ),
        by("a resolver", "udp 1.1.1.1:53", UNREACHABLE, Local("1.1.1.1")),
        by(
            "a private network",
            "tcp 10.0.0.1:80",
            UNREACHABLE,
            Local("10.0.0.1"),
        ),
        by(
            "multicast",
            "udp 224.0.0.251:5353",
            UNREACHABLE,
            Without("it would leave the machine"),
        ),
        by(
            "IPv6",
            "tcp [fd00:ec2::254]:80",
            UNREACHABLE_6,
            Without("the machine may have no IPv6"),
        ),
    ]
}

fn loopback() -> Vec<Attempt> {
    vec![
        by("TCP", "tcp {tcp}", UNREACHABLE, Works),
        by("UDP", "udp {udp}", UNREACHABLE, Works),
        by("funcd", "tcp {http}", UNREACHABLE, Works),
        by(
            "any address",
            "tcp 0.0.0.0:80",
            &["ENETUNREACH", "ECONNREFUSED"],
            Without("it is 127.0.0.1"),
        ),
        by(
            "IPv6",
            "tcp [::1]:80",
            UNREACHABLE_6,
            Without("the machine may have no IPv6"),
        ),
    ]
}

fn side_doors() -> Vec<Attempt> {
    const REFUSED: &[&str] = &["EOPNOTSUPP"];
    // Whether the host's kernel has client fast open switched on is not ours to choose.
    const OPEN: Control = IfThere(&["EOPNOTSUPP", "EINPROGRESS"]);
    let protocol = |label, number: i32| {
        by(
            label,
            &format!("stream {number} {{tcp}}"),
            REFUSED,
            IfThere(&[
                "EPROTONOSUPPORT",
                "ESOCKTNOSUPPORT",
                "ENOPROTOOPT",
                "ECONNREFUSED",
                "EPERM",
            ]),
        )
    };
    vec![
        by("sendto", "fast-open sendto {tcp}", REFUSED, OPEN),
        by(
            "sendto, upper half",
            "fast-open sendto-upper {tcp}",
            REFUSED,
            OPEN,
        ),
        by("sendmsg", "fast-open sendmsg {tcp}", REFUSED, OPEN),
        by("sendmmsg", "fast-open sendmmsg {tcp}", REFUSED, OPEN),
        by("TCP_FASTOPEN_CONNECT", "fast-open option {tcp}", REFUSED, OPEN),
        protocol("MPTCP", 262),
        protocol("SMC", 256),
        protocol("SCTP", 132),
        protocol("UDP-Lite", 136),
        protocol("DCCP", 33),
    ]
}
