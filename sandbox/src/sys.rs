//! The only unsafe code of this crate: raw system calls and descriptor ownership, each with its proof.

pub(crate) mod process;

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes ownership of a descriptor that the kernel just made for this process.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: callers pass descriptors that a system call of theirs returned and that nothing else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
