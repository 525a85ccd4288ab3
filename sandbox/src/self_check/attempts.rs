//! What is tried. Each attempt is `Ok` when it succeeded; an errno that only a kernel which looks at the arguments gives counts
//! as success as well.

use std::ffi::{CStr, CString};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::{PIDS, Target};
use crate::property::Property::{self, Files, KernelSurface, Network, PidLimit, Privileges, Processes};
use crate::sys::attempts as tries;
use crate::sys::{Errno, calls};

type Outcome = Result<(), Errno>;

/// One thing that a function must not be able to do.
pub(super) struct Attempt {
    /// Ends the sentence "a function could …".
    pub(super) name: &'static str,
    /// The properties each of which promises that it fails.
    pub(super) promised: &'static [Property],
    pub(super) act: fn(&Target) -> Outcome,
}

const fn attempt(name: &'static str, promised: &'static [Property], act: fn(&Target) -> Outcome) -> Attempt {
    Attempt { name, promised, act }
}

/// All of them, those that could change this process last.
pub(super) const ALL: &[Attempt] = &[
    attempt("read /etc/passwd", &[Files], |_| {
        open(c"/etc/passwd", libc::O_RDONLY)
    }),
    attempt("see /etc/passwd", &[Files], |_| {
        open(c"/etc/passwd", libc::O_PATH)
    }),
    attempt("list /", &[Files], |_| {
        open(c"/", libc::O_RDONLY | libc::O_DIRECTORY)
    }),
    attempt("write to /", &[Files], |_| make(c"/funcd-self-check")),
    attempt("write to /dev", &[Files], |_| make(c"/dev/funcd-self-check")),
    attempt("execute what it wrote to /tmp", &[Files], |_| execute_from_tmp()),
    attempt("use descriptors of the launcher", &[Files, Privileges], |_| {
        yes((4..256).any(tries::is_open))
    }),
    attempt("connect to the host by TCP", &[Network], connect),
    attempt(
        "connect to an abstract socket of the host",
        &[Network],
        connect_abstract,
    ),
    attempt("see the launcher in /proc", &[Files], |target| {
        elsewhere(target)?;
        open(&of_launcher(target, "stat")?, libc::O_PATH)
    }),
    attempt("read of the launcher in /proc", &[Files, Processes], |target| {
        // Where the host's /proc is, so are the host's pids, also for who has others.
        open(&of_launcher(target, "comm")?, libc::O_RDONLY)?;
        yes(
            std::fs::read(format!("/proc/{}/cmdline", target.launcher)).is_ok_and(|line| {
                !line
                    .split(|byte| *byte == 0)
                    .any(|word| word == super::ROLE.as_bytes())
            }),
        )
    }),
    attempt("signal the launcher", &[Processes], |target| {
        elsewhere(target)?;
        calls::kill(target.launcher, 0)
    }),
    attempt("trace the launcher", &[Processes, KernelSurface], |target| {
        elsewhere(target)?;
        reach(tries::seize(target.launcher))
    }),
    attempt("trace a process", &[KernelSurface], |_| {
        reach(tries::seize(i32::MAX))
    }),
    attempt("run without a filter of system calls", &[KernelSurface], |_| {
        yes(calls::prctl(libc::PR_GET_SECCOMP, [0; 4]) != Ok(2))
    }),
    attempt("gain privileges by exec", &[KernelSurface, Privileges], |_| {
        yes(calls::prctl(libc::PR_GET_NO_NEW_PRIVS, [0; 4]) != Ok(1))
    }),
    attempt("call bpf", &[KernelSurface], |_| reach(tries::bpf())),
    attempt("call perf_event_open", &[KernelSurface], |_| {
        reach(tries::perf_event_open())
    }),
    attempt("call userfaultfd", &[KernelSurface], |_| {
        reach(tries::userfaultfd())
    }),
    attempt("call io_uring_setup", &[KernelSurface], |_| {
        reach(tries::io_uring_setup())
    }),
    attempt("call add_key", &[KernelSurface], |_| reach(tries::add_key())),
    attempt("call keyctl", &[KernelSurface], |_| reach(tries::keyctl())),
    attempt("call open_by_handle_at", &[KernelSurface], |_| {
        reach(tries::open_by_handle_at())
    }),
    attempt("call process_vm_readv", &[KernelSurface], |_| {
        reach(tries::process_vm_readv())
    }),
    attempt("call clone3", &[KernelSurface], |_| reach(tries::clone3())),
    attempt("open a netlink socket", &[KernelSurface], |_| {
        socket(libc::AF_NETLINK, libc::SOCK_RAW)
    }),
    attempt("open a packet socket", &[KernelSurface], |_| {
        socket(libc::AF_PACKET, libc::SOCK_RAW)
    }),
    attempt("open a vsock socket", &[KernelSurface], |_| {
        socket(libc::AF_VSOCK, libc::SOCK_STREAM)
    }),
    attempt("open a raw socket", &[KernelSurface], |_| {
        socket(libc::AF_INET, libc::SOCK_RAW)
    }),
    attempt("make a user namespace", &[KernelSurface], |_| {
        tries::in_clone(libc::CLONE_NEWUSER, || Ok(()))
    }),
    attempt("move to a user namespace", &[KernelSurface], |_| {
        tries::in_clone(0, || calls::unshare(libc::CLONE_NEWUSER))
    }),
    // Of a kind that does not exist: who may mount is told that, and nothing is mounted.
    attempt("mount a file system", &[Files, KernelSurface], |_| {
        reach(calls::mount(Some(c"none"), c"/", Some(c"funcd-none"), 0, None))
    }),
    attempt("hold capabilities", &[Privileges], |_| {
        yes((0..64).any(calls::has_capability))
    }),
    attempt("hold capabilities in its bounding set", &[Privileges], |_| {
        yes((0..64).any(|capability| calls::prctl(libc::PR_CAPBSET_READ, [capability, 0, 0, 0]) == Ok(1)))
    }),
    attempt("gain capabilities", &[Privileges], |_| {
        tries::in_clone(0, tries::all_capabilities)
    }),
    attempt("run as root", &[Privileges], |_| {
        yes(nix::unistd::getuid().is_root()
            || nix::unistd::geteuid().is_root()
            || nix::unistd::getegid().as_raw() == 0)
    }),
    attempt("become root", &[Privileges], |_| {
        tries::in_clone(0, || calls::set_uid(0))
    }),
    attempt("have more processes than its limit", &[PidLimit], |_| crowd()),
    // Judged by the launcher, which sees whether it arrives.
    attempt("send to the host by UDP", &[Network], |target| {
        send(target);
        Err(libc::EPERM)
    }),
];

fn yes(it_is: bool) -> Outcome {
    if it_is { Ok(()) } else { Err(libc::EPERM) }
}

/// Only where pids mean the same to both.
fn elsewhere(target: &Target) -> Outcome {
    yes(!target.own_pids)
}

/// Refused by the filter or for want of a privilege, or let through to where the arguments are looked at.
fn reach(result: Outcome) -> Outcome {
    match result {
        Err(libc::EPERM | libc::EACCES | libc::ENOSYS) => result,
        Err(_) | Ok(()) => Ok(()),
    }
}

fn of_launcher(target: &Target, file: &str) -> Result<CString, Errno> {
    CString::new(format!("/proc/{}/{file}", target.launcher)).map_err(|_| libc::EINVAL)
}

fn open(path: &CStr, flags: i32) -> Outcome {
    calls::open(path, flags, 0).map(calls::close)
}

fn make(path: &CStr) -> Outcome {
    calls::open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, 0o600).map(calls::close)?;
    // Where it should not have been possible, nothing of it stays.
    let _ = nix::unistd::unlink(path);
    Ok(())
}

fn execute_from_tmp() -> Outcome {
    let path = c"/tmp/funcd-self-check";
    let file = calls::open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, 0o700)?;
    let _ = calls::write(file, b"x");
    calls::close(file);
    // It is no program: a kernel that lets it be executed says so.
    let errno = tries::execute(path);
    let _ = nix::unistd::unlink(path);
    yes(errno == libc::ENOEXEC)
}

fn socket(domain: i32, kind: i32) -> Outcome {
    calls::socket(domain, kind | libc::SOCK_CLOEXEC).map(calls::close)
}

fn connect(target: &Target) -> Outcome {
    yes(target.tcp != 0)?;
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, target.tcp));
    let result = TcpStream::connect_timeout(&to, Duration::from_secs(1));
    result
        .map(drop)
        .map_err(|e| e.raw_os_error().unwrap_or(libc::EPERM))
}

fn send(target: &Target) {
    if let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        && target.udp != 0
    {
        let _ = socket.send_to(target.abstract_name.as_bytes(), (Ipv4Addr::LOCALHOST, target.udp));
    }
}

fn connect_abstract(target: &Target) -> Outcome {
    use std::os::linux::net::SocketAddrExt;
    let refused = |e: std::io::Error| e.raw_os_error().unwrap_or(libc::EPERM);
    let address =
        std::os::unix::net::SocketAddr::from_abstract_name(&target.abstract_name).map_err(refused)?;
    std::os::unix::net::UnixStream::connect_addr(&address)
        .map(drop)
        .map_err(refused)
}

/// Children that have ended count until they are waited for.
fn crowd() -> Outcome {
    let mut made = 0;
    for _ in 0..2 * PIDS {
        match tries::clone(0) {
            Ok(0) => calls::exit(0),
            Ok(_) => made += 1,
            Err(_) => break,
        }
    }
    for _ in 0..made {
        let _ = calls::wait(-1, 0);
    }
    yes(made == 2 * PIDS)
}
