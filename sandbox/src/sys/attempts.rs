//! System calls that a sandbox refuses, for the process that tries whether it does (see [`crate::self_check`]). With arguments
//! that do nothing even where they are let through.

use super::Errno;
use super::raw::syscall;

type Result<T = ()> = std::result::Result<T, Errno>;

/// With null pointers and zeros only, which no call can do anything with.
fn empty(number: libc::c_long) -> Result {
    // SAFETY: there is no pointer that the kernel could read or write through.
    unsafe { syscall(number, [0; 6]) }.map(drop)
}

// Calls that the filter refuses whatever their arguments.

pub(crate) fn bpf() -> Result {
    empty(libc::SYS_bpf)
}

pub(crate) fn perf_event_open() -> Result {
    empty(libc::SYS_perf_event_open)
}

pub(crate) fn io_uring_setup() -> Result {
    empty(libc::SYS_io_uring_setup)
}

pub(crate) fn add_key() -> Result {
    empty(libc::SYS_add_key)
}

pub(crate) fn keyctl() -> Result {
    empty(libc::SYS_keyctl)
}

pub(crate) fn open_by_handle_at() -> Result {
    empty(libc::SYS_open_by_handle_at)
}

pub(crate) fn process_vm_readv() -> Result {
    empty(libc::SYS_process_vm_readv)
}

pub(crate) fn userfaultfd() -> Result {
    closing(libc::SYS_userfaultfd)
}

/// Without arguments it is invalid.
pub(crate) fn clone3() -> Result {
    empty(libc::SYS_clone3)
}

/// A call that makes a descriptor, which is closed again.
fn closing(number: libc::c_long) -> Result {
    // SAFETY: as in `empty`.
    let made = unsafe { syscall(number, [0; 6]) }?;
    super::calls::close(made as i32);
    Ok(())
}

/// `PTRACE_SEIZE`, which does not stop the process, and ends with this one.
pub(crate) fn seize(pid: i32) -> Result {
    const SEIZE: usize = 0x4206;
    // SAFETY: SEIZE takes no pointers.
    unsafe { syscall(libc::SYS_ptrace, [SEIZE, pid as usize, 0, 0, 0, 0]) }.map(drop)
}

/// Runs `act` in a child made with clone(2) and these flags; its end is this child's.
///
/// # Errors
/// That of clone, or of `act`.
pub(crate) fn in_clone(flags: i32, act: impl FnOnce() -> Result) -> Result {
    let child = clone(flags)?;
    if child == 0 {
        super::calls::exit(act().err().unwrap_or(0));
    }
    let (_, status) = super::calls::wait(child, 0)?;
    match libc::WEXITSTATUS(status) {
        0 if libc::WIFEXITED(status) => Ok(()),
        0 => Err(libc::EPERM),
        errno => Err(errno),
    }
}

/// clone(2) as fork uses it: the filter has no clone3. 0 in the child, which has a copy of the memory and no threads.
pub(crate) fn clone(flags: i32) -> Result<i32> {
    let flags = (flags | libc::SIGCHLD) as usize;
    // SAFETY: without a stack and without sharing memory both sides go on with (a copy of) this one.
    unsafe { syscall(libc::SYS_clone, [flags, 0, 0, 0, 0, 0]) }.map(|pid| pid as i32)
}

/// Asks for all capabilities.
pub(crate) fn all_capabilities() -> Result {
    const VERSION_3: u32 = 0x2008_0522;
    let (header, data) = ([VERSION_3, 0], [u32::MAX; 6]);
    let args = [header.as_ptr() as usize, data.as_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: a header and data as of version 3 (capset(2)), which the call only reads.
    unsafe { syscall(libc::SYS_capset, args) }.map(drop)
}

/// Whether a descriptor is open.
pub(crate) fn is_open(fd: i32) -> bool {
    // SAFETY: F_GETFD takes no pointer.
    unsafe { syscall(libc::SYS_fcntl, [fd as usize, libc::F_GETFD as usize, 0, 0, 0, 0]) }.is_ok()
}

/// Executes a file by its path, without arguments and environment; returns only when that failed.
pub(crate) fn execute(path: &std::ffi::CStr) -> Errno {
    let none = [0usize; 1];
    let args = [
        path.as_ptr() as usize,
        none.as_ptr() as usize,
        none.as_ptr() as usize,
        0,
        0,
        0,
    ];
    // SAFETY: the path ends in NUL, and both lists are empty and end in a null pointer.
    unsafe { syscall(libc::SYS_execve, args) }.err().unwrap_or(0)
}

/// Waits to be killed.
pub(crate) fn wait_for_the_end() -> ! {
    loop {
        // SAFETY: no descriptor is given, so the null pointer is not read; it waits for ever.
        let _ = unsafe { syscall(libc::SYS_ppoll, [0; 6]) };
    }
}
