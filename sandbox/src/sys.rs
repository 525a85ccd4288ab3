//! The only unsafe code of this crate: raw system calls and descriptor ownership, each with its proof.
//!
//! Nothing in here decides anything. The calls in `calls` are safe to make between clone and exec: they neither allocate,
//! nor take a lock, nor touch `errno`.

pub(crate) mod attempts;
pub mod ballast;
pub(crate) mod calls;
pub(crate) mod clone;
pub(crate) mod exec;
mod raw;

pub(crate) mod process;

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// An error number of the kernel, positive.
pub(crate) type Errno = i32;

/// Takes ownership of a descriptor that the kernel just made for this process.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: callers pass descriptors that a system call of theirs returned and that nothing else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
