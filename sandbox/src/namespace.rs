//! Network and user namespaces, made without moving the launcher's thread for good. Never keeps one: callers own the descriptors.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

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
    let _ = loopback;
    Err(io::ErrorKind::Unsupported.into())
}

/// Makes `count` (at most 32) unconnected TCP sockets (`AF_INET`, close-on-exec, non-blocking) inside a network namespace.
///
/// # Errors
/// Those of setns(2) and socket(2); `InvalidInput` for more than 32.
pub fn sockets_in(netns: BorrowedFd<'_>, count: usize) -> io::Result<Vec<OwnedFd>> {
    let _ = (netns, count);
    Err(io::ErrorKind::Unsupported.into())
}

/// Called by a launcher without privileges at its start, while it has one thread: enters a user namespace that maps its
/// own uid and gid to themselves, and so gains all capabilities over the namespaces that it makes.
///
/// # Errors
/// Those of unshare(2) (`EPERM` where user namespaces are switched off), and of writing the maps.
pub fn enter_user_namespace() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
