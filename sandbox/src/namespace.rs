//! Network and user namespaces, made without moving the launcher's thread. Never keeps one: callers own the descriptors.
//!
//! A short-lived child that shares the memory and the descriptor table goes into the namespace and leaves its descriptors
//! here. The thread itself could go and come back only with privileges over the host's namespace, which a launcher in a
//! user namespace does not have.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::spec::MAX_PORTS;
use crate::sys::calls;
use crate::sys::clone;
use crate::sys::{Errno, own};
use crate::wire::MAX_FDS;

/// Connections that a function may have waiting for the supervisor, on each port: more than a process opens at once.
const BACKLOG: u32 = 128;

/// Whether the loopback interface of a new network namespace is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loopback {
    /// 127.0.0.1 works inside: for functions that listen on a port.
    Up,
    /// Nothing is reachable, not even 127.0.0.1: for the namespace that all others share.
    Down,
}

/// Makes a new empty network namespace; the descriptor keeps it alive.
///
/// # Errors
/// Those of unshare(2), `EPERM` without `CAP_SYS_ADMIN`.
pub fn network(loopback: Loopback) -> io::Result<OwnedFd> {
    let namespace: Cell<RawFd> = Cell::new(-1);
    in_child(libc::CLONE_FILES, || {
        calls::unshare(libc::CLONE_NEWNET)?;
        if loopback == Loopback::Up {
            let socket = calls::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC)?;
            let result = calls::loopback_up(socket);
            calls::close(socket);
            result?;
        }
        namespace.set(calls::open(c"/proc/self/ns/net", libc::O_RDONLY, 0)?);
        Ok(())
    })?;
    Ok(own(namespace.get()))
}

/// Makes `count` (at most 32) unconnected TCP sockets (`AF_INET`, close-on-exec, non-blocking) inside a network namespace.
///
/// # Errors
/// Those of setns(2) and socket(2), with no socket left open; `InvalidInput` for more than 32.
pub fn sockets_in(netns: BorrowedFd<'_>, count: usize) -> io::Result<Vec<OwnedFd>> {
    let made = [const { Cell::new(-1) }; MAX_FDS];
    let Some(wanted) = made.get(..count) else {
        let what = format!("{count} sockets asked for, at most {MAX_FDS} can be made at once");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    };
    let result = in_child(libc::CLONE_FILES, || {
        calls::setns(netns.as_raw_fd(), libc::CLONE_NEWNET)?;
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        wanted.iter().try_for_each(|slot| {
            slot.set(calls::socket(libc::AF_INET, kind)?);
            Ok(())
        })
    });
    let sockets = made_ones(wanted);
    result.map(|()| sockets)
}

/// Makes a TCP socket (close-on-exec, non-blocking) for each of these ports (at most [`MAX_PORTS`]) that listens there on
/// 127.0.0.1 of a network namespace.
///
/// # Errors
/// Those of setns(2), bind(2) and listen(2), with no socket left open; `InvalidInput` for too many.
pub fn listeners_in(netns: BorrowedFd<'_>, ports: &[u16]) -> io::Result<Vec<OwnedFd>> {
    if ports.len() > MAX_PORTS {
        let what = format!(
            "{} ports asked for, at most {MAX_PORTS} can be listened on",
            ports.len()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let made = [const { Cell::new(-1) }; MAX_PORTS];
    let result = in_child(libc::CLONE_FILES, || {
        calls::setns(netns.as_raw_fd(), libc::CLONE_NEWNET)?;
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        made.iter().zip(ports).try_for_each(|(slot, &port)| {
            let socket = calls::socket(libc::AF_INET, kind)?;
            slot.set(socket);
            calls::listen_on_loopback(socket, port, BACKLOG)
        })
    });
    let sockets = made_ones(&made);
    result.map(|()| sockets)
}

/// What a child made for its parent before it ended, owned: whoever does not want them drops them.
fn made_ones(slots: &[Cell<RawFd>]) -> Vec<OwnedFd> {
    let made = slots.iter().map(Cell::get).filter(|fd| *fd >= 0);
    made.map(own).collect()
}

/// Called by a launcher without privileges at its start, while it has one thread: enters a user namespace that maps its
/// own uid and gid to themselves, and so gains all capabilities over the namespaces that it makes.
///
/// A child tries first, as there is no way back: some hosts let anybody make the namespace but nobody write its maps (Ubuntu's
/// AppArmor restriction, a read-only /proc), and in a namespace without maps nothing can be mounted or made.
///
/// # Errors
/// Those of unshare(2) (`EPERM` where user namespaces are switched off, `EINVAL` with more than one thread), and of writing
/// the maps; the process then stays where it was.
pub fn enter_user_namespace() -> io::Result<()> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    // Without privileges outside, the gid can be mapped only where nobody can use the map to drop a group.
    let maps = [
        (c"/proc/self/setgroups", "deny".to_owned()),
        (c"/proc/self/uid_map", format!("{uid} {uid} 1")),
        (c"/proc/self/gid_map", format!("{gid} {gid} 1")),
    ];
    let write = || {
        maps.iter()
            .try_for_each(|(path, map)| calls::write_file(path, map.as_bytes()))
    };
    in_child(libc::CLONE_NEWUSER, write)?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)?;
    write().map_err(io::Error::from_raw_os_error)?;
    ENTERED.store(true, Ordering::Relaxed);
    Ok(())
}

/// Whether this process is in a user namespace of its own making. There is no way back.
static ENTERED: AtomicBool = AtomicBool::new(false);

/// Takes note that this process was executed by one that had entered.
pub(crate) fn note_entered() {
    ENTERED.store(true, Ordering::Relaxed);
}

/// Whether [`enter_user_namespace`] succeeded.
pub(crate) fn in_own_user_namespace() -> bool {
    ENTERED.load(Ordering::Relaxed)
}

/// Runs `act` in a child that shares this memory, while this thread waits. It must not allocate.
pub(crate) fn in_child(flags: i32, act: impl Fn() -> Result<(), Errno>) -> io::Result<()> {
    // What a child that was killed leaves here.
    let result = Cell::new(Err(libc::ECANCELED));
    let child = clone::vfork(flags as u64, None, || {
        result.set(act());
        0
    })
    .map_err(io::Error::from_raw_os_error)?;
    let _ = calls::wait(child.pid, 0);
    result.get().map_err(io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    fn skipped() -> bool {
        let skip = !nix::unistd::geteuid().is_root();
        if skip {
            println!("skipped: making network namespaces needs root");
        }
        skip
    }

    #[test]
    fn a_new_network_is_another_one_and_this_thread_stays() {
        if skipped() {
            return;
        }
        let here = || fs::read_link("/proc/thread-self/ns/net").unwrap();
        let before = here();
        let namespace = network(Loopback::Down).unwrap();
        let made = fs::read_link(format!("/proc/self/fd/{}", namespace.as_raw_fd())).unwrap();
        assert!(made.to_string_lossy().starts_with("net:["), "{made:?}");
        assert_ne!(made, before);
        assert_eq!(here(), before);
    }

    #[test]
    fn sockets_live_in_the_namespace_that_they_were_made_in() {
        if skipped() {
            return;
        }
        let host = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = host.local_addr().unwrap().port();
        assert!(
            TcpStream::connect(("127.0.0.1", port)).is_ok(),
            "the control: reachable from here"
        );
        for (loopback, expected) in [
            (Loopback::Up, libc::ECONNREFUSED),
            (Loopback::Down, libc::ENETUNREACH),
        ] {
            let namespace = network(loopback).unwrap();
            let sockets = sockets_in(namespace.as_fd(), 3).unwrap();
            assert_eq!(sockets.len(), 3);
            for socket in sockets {
                let address = nix::sys::socket::SockaddrIn::new(127, 0, 0, 1, port);
                let result = nix::sys::socket::connect(socket.as_raw_fd(), &address);
                let errno = match result {
                    Err(nix::errno::Errno::EINPROGRESS) | Ok(()) => {
                        nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::SocketError).unwrap()
                    }
                    Err(errno) => errno as i32,
                };
                assert_eq!(errno, expected, "{loopback:?}");
            }
        }
        assert!(sockets_in(namespace_fd().as_fd(), MAX_FDS + 1).is_err());
    }

    #[test]
    fn listeners_are_reached_from_their_namespace_alone() {
        if skipped() {
            return;
        }
        let host = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = host.local_addr().unwrap().port();
        let namespace = network(Loopback::Up).unwrap();
        // The host's own port is free in there, and one below 1024 is open to the launcher.
        let listeners = listeners_in(namespace.as_fd(), &[port, 80]).unwrap();
        let listeners: Vec<TcpListener> = listeners.into_iter().map(TcpListener::from).collect();
        for (listener, port) in listeners.iter().zip([port, 80]) {
            let socket = sockets_in(namespace.as_fd(), 1).unwrap().remove(0);
            let there = nix::sys::socket::SockaddrIn::new(127, 0, 0, 1, port);
            let _ = nix::sys::socket::connect(socket.as_raw_fd(), &there);
            assert!(listener.accept().is_ok(), "the control: from within");
        }
        let _from_here = TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert!(host.accept().is_ok(), "the host's own gets it");
        assert!(listeners[0].accept().is_err(), "and the other one does not");
        // A port that is taken: nothing is left open.
        let taken = listeners_in(namespace.as_fd(), &[81, 80]).unwrap_err();
        assert_eq!(taken.raw_os_error(), Some(libc::EADDRINUSE));
        assert!(
            listeners_in(namespace.as_fd(), &[81]).is_ok(),
            "81 was not left open"
        );
        assert!(listeners_in(namespace.as_fd(), &[1; MAX_PORTS + 1]).is_err());
    }

    fn namespace_fd() -> OwnedFd {
        fs::File::open("/proc/self/ns/net").unwrap().into()
    }
}
