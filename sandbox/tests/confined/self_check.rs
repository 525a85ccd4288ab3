//! The self-check finds what is not applied: its attacker is started with one mechanism after the other left out, as a launcher
//! with a defect would, and judged as on a host that keeps everything.

use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use funcd_sandbox::confine::Confinement;
use funcd_sandbox::property::Property;
use funcd_sandbox::self_check::{self, Target, Unexpected};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::start::{Start, UID, wait};

/// The role of the attacker.
pub(crate) fn attack() -> ! {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    self_check::attack(&Target::parse(&arguments).unwrap())
}

/// What the attacker says, and whether its datagram arrived.
fn attacked(change: fn(&mut Confinement)) -> (String, bool) {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_nonblocking(true).unwrap();
    let abstract_name = format!(
        "funcd-test-{}-{}",
        std::process::id(),
        udp.local_addr().unwrap().port()
    );
    let _listener =
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap();
    let target = Target {
        launcher: std::process::id() as i32,
        own_pids: false,
        tcp: tcp.local_addr().unwrap().port(),
        udp: udp.local_addr().unwrap().port(),
        abstract_name,
    };
    let arguments = target.arguments();
    let words: Vec<&str> = std::iter::once("confined")
        .chain(arguments.iter().map(String::as_str))
        .collect();
    let start = Start::new(&std::env::current_exe().unwrap())
        .system()
        .args(&words)
        .with(change);
    let (spawned, mut output) = start.spawn().unwrap();
    let mut said = String::new();
    while !self_check::is_done(&said) {
        let mut some = [0; 512];
        match output.read(&mut some).unwrap() {
            0 => break,
            length => said += std::str::from_utf8(&some[..length]).unwrap(),
        }
    }
    // With it, in its session, the one that it left behind.
    for process in descendants(spawned.pid) {
        let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
    }
    kill(Pid::from_raw(spawned.pid), Signal::SIGKILL).unwrap();
    wait(&spawned);
    (said, udp.recv(&mut [0; 8]).is_ok())
}

fn descendants(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// What is not applied, the property that is then found not to be kept, and by which attempt.
type Row = (&'static str, fn(&mut Confinement), Property, &'static str);

pub(crate) fn finds_each_mechanism_that_is_not_applied() {
    // Without cgroups nothing limits its processes but this, which counts those of its uid.
    let limited = |c: &mut Confinement| {
        c.rlimits.retain(|(limit, _)| *limit != libc::RLIMIT_NPROC);
        c.rlimits.push((libc::RLIMIT_NPROC, 16));
    };
    let (said, arrived) = attacked(limited);
    assert_eq!(self_check::judge(&said, |_| true, None), Ok(()), "{said}");
    assert!(!arrived);

    let table: &[Row] = &[
        ("mounts", |c| c.mounts = None, Property::Files, "see /etc/passwd"),
        ("Landlock", |c| c.landlock_abi = None, Property::Files, "list /"),
        (
            "mounts and Landlock",
            |c| (c.mounts, c.landlock_abi) = (None, None),
            Property::Files,
            "read /etc/passwd",
        ),
        (
            "network and Landlock",
            |c| (c.network, c.landlock_abi) = (None, None),
            Property::Network,
            "connect to the host by TCP",
        ),
        (
            "uid and Landlock",
            |c| (c.identity, c.landlock_abi) = (None, None),
            Property::Processes,
            "signal the launcher",
        ),
        (
            "seccomp",
            |c| c.seccomp = false,
            Property::KernelSurface,
            "open a netlink socket",
        ),
        ("uid", |c| c.identity = None, Property::Privileges, "run as root"),
        (
            "process limit",
            |c| c.rlimits.retain(|(limit, _)| *limit != libc::RLIMIT_NPROC),
            Property::PidLimit,
            "have more processes than its limit",
        ),
    ];
    for (what, change, property, attempt) in table {
        let (said, _) = attacked(*change);
        assert!(
            said.contains(&format!("reached {attempt}\n")),
            "without {what}: {said}"
        );
        let found = self_check::judge(&said, |kept| kept == *property, None).unwrap_err();
        assert!(
            matches!(&found, Unexpected::Reached { property: of, .. } if of == property),
            "{what}: {found}"
        );
        assert!(
            self_check::judge(&said, |_| true, None).is_err(),
            "without {what}: {said}"
        );
        // What is not promised is not held against it.
        assert_eq!(
            self_check::judge(&said, |_| false, None),
            Ok(()),
            "without {what}"
        );
    }
    let (_, arrived) = attacked(|c| c.network = None);
    assert!(
        arrived,
        "Landlock knows no UDP: without a network namespace it arrives"
    );
    // The control: with nothing but another uid, nearly everything succeeds.
    let (said, arrived) = attacked(|c| {
        (c.mounts, c.network, c.landlock_abi, c.seccomp) = (None, None, None, false);
        c.identity = Some((UID, UID));
    });
    for attempt in [
        "read /etc/passwd",
        "list /",
        "connect to the host by TCP",
        "connect to an abstract socket",
    ] {
        assert!(said.contains(attempt), "{attempt} failed outside, too: {said}");
    }
    for attempt in [
        "io_uring_setup",
        "clone3",
        "without a filter",
        "see the launcher in /proc",
        "process_vm_readv",
    ] {
        assert!(said.contains(attempt), "{attempt} failed outside, too: {said}");
    }
    assert!(arrived);
    println!("outside it reached {} things", said.lines().count() - 2);
}
