//! System calls of the launcher that nix does not have: pidfd signals, waiting without losing real-time signals, file
//! leases and early write-back. Never blocks, except where it says so.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It called `exit` with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Status {
    /// Reads the status word of `wait(2)`; `None` when it says that the process goes on (stopped, continued).
    pub(crate) fn from_wait(word: i32) -> Option<Status> {
        if libc::WIFEXITED(word) {
            Some(Status::Code(libc::WEXITSTATUS(word)))
        } else if libc::WIFSIGNALED(word) {
            Some(Status::Signal(libc::WTERMSIG(word)))
        } else {
            None
        }
    }
}

/// Which child to look at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Child<'fd> {
    /// The one behind this pidfd.
    Pidfd(BorrowedFd<'fd>),
    /// The one with this pid.
    Pid(i32),
    /// Any.
    Any,
}

/// Looks for a child that ended; with `reap` its zombie goes. `None`: none ended yet. Never blocks.
///
/// Not nix's `waitid`: that one fails for a child that a real-time signal ended, after having reaped it.
///
/// # Errors
/// Those of `waitid`; `ECHILD` when there is no such child.
pub(crate) fn wait(child: Child<'_>, reap: bool) -> io::Result<Option<(i32, Status)>> {
    let ended = wait_and_account(child, reap)?;
    Ok(ended.map(|(pid, status, _)| (pid, status)))
}

/// The same, and the CPU time of the child and of the children that it has waited for: the kernel tells it in the same call.
///
/// # Errors
/// As [`wait`].
pub(crate) fn wait_and_account(child: Child<'_>, reap: bool) -> io::Result<Option<(i32, Status, Duration)>> {
    let (kind, id) = match child {
        Child::Pidfd(fd) => (libc::P_PIDFD, fd.as_raw_fd() as libc::id_t),
        Child::Pid(pid) => (libc::P_PID, pid as libc::id_t),
        Child::Any => (libc::P_ALL, 0),
    };
    // `__WALL`: also children that were cloned with another exit signal than SIGCHLD.
    let flags = libc::WEXITED | libc::WNOHANG | libc::__WALL | if reap { 0 } else { libc::WNOWAIT };
    // SAFETY: a zeroed siginfo_t is valid: it holds integers and pointers only.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: a zeroed rusage is valid: it holds integers only.
    let mut used: libc::rusage = unsafe { std::mem::zeroed() };
    // Not the C library's: it leaves out the last argument.
    // SAFETY: `info` and `used` live through the call, which writes at most one siginfo_t and one rusage to them.
    if unsafe { libc::syscall(libc::SYS_waitid, kind, id, &mut info, flags, &mut used) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: waitid succeeded, so the SIGCHLD members of the union are set (or still zero: no child ended).
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let status = if info.si_code == libc::CLD_EXITED {
        Status::Code(status)
    } else {
        Status::Signal(status)
    };
    let time = |spent: libc::timeval| {
        let micros = spent
            .tv_sec
            .saturating_mul(1_000_000)
            .saturating_add(spent.tv_usec);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    };
    Ok(Some((pid, status, time(used.ru_utime) + time(used.ru_stime))))
}

/// Sends a signal to the process behind a pidfd, and to no other.
///
/// # Errors
/// Those of `pidfd_send_signal`; `ESRCH` when it has ended.
pub(crate) fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: plain integers and a null siginfo pointer, which the kernel takes as "like kill(2)".
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Takes a read lease on a file and gives it back at once: succeeds when nobody has the file open for writing.
///
/// # Errors
/// `EAGAIN` when somebody has; `EACCES` when the file is another user's and `CAP_LEASE` is missing; `EINVAL` when the
/// file system has no leases.
pub(crate) fn try_lease(file: BorrowedFd<'_>) -> io::Result<()> {
    for lease in [libc::F_RDLCK, libc::F_UNLCK] {
        // SAFETY: fcntl with an integer argument.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, lease) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Starts to write a range of a file to disk; with `wait` it also waits until it is there. File systems without this
/// call are left alone: the `fsync` at the end does it all.
pub(crate) fn write_back(file: BorrowedFd<'_>, offset: u64, length: u64, wait: bool) {
    let mut flags = libc::SYNC_FILE_RANGE_WRITE;
    if wait {
        flags |= libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    }
    // SAFETY: plain integers. The result only matters to the fsync that follows, which reports errors itself.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset as i64, length as i64, flags) };
}

/// Takes ownership of a connected `SOCK_SEQPACKET` Unix socket that this process inherited. Call it once for each
/// descriptor, before anything else uses it.
///
/// # Errors
/// `NotFound` when it is something else, or nothing.
pub(crate) fn inherited_socket(fd: RawFd) -> io::Result<OwnedFd> {
    let mut kind: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `kind`, which lives through the call.
    let result = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_TYPE,
            (&raw mut kind).cast(),
            &mut length,
        )
    };
    if result == -1 || kind != libc::SOCK_SEQPACKET {
        let what = format!("descriptor {fd} is not the launcher's socket; start it by `funcd serve`");
        return Err(io::Error::new(io::ErrorKind::NotFound, what));
    }
    // SAFETY: fcntl with an integer argument, on a descriptor that was just seen to be open.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(super::own(fd))
}

/// A descriptor that this process was started with, above standard error; close-on-exec from now on. `None` when it was
/// taken before.
///
/// # Errors
/// `EBADF` when there is none.
pub(crate) fn take_descriptor(fd: RawFd) -> io::Result<Option<OwnedFd>> {
    use std::sync::Mutex;
    static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());
    if fd <= libc::STDERR_FILENO {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: fcntl with an integer argument; on a number that is no descriptor it fails.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    let mut taken = TAKEN.lock().unwrap_or_else(|poison| poison.into_inner());
    if taken.contains(&fd) {
        return Ok(None);
    }
    taken.push(fd);
    Ok(Some(super::own(fd)))
}

/// Whether systemd (or another manager) gave this cgroup directory away: xattr `user.delegate`, before systemd 251
/// `trusted.delegate`, is `1`.
pub(crate) fn is_delegated(dir: &Path) -> bool {
    let Ok(dir) = CString::new(dir.as_os_str().as_bytes()) else {
        return false;
    };
    [c"user.delegate", c"trusted.delegate"].iter().any(|name| {
        let mut value = [0_u8; 1];
        // SAFETY: both strings end in NUL, and the kernel writes at most `value.len()` bytes to `value`.
        let length = unsafe {
            libc::getxattr(
                dir.as_ptr(),
                name.as_ptr(),
                value.as_mut_ptr().cast(),
                value.len(),
            )
        };
        length == 1 && value[0] == b'1'
    })
}

/// Lets go of the pages of code that this process has used so far: what it uses from now on comes back from the page cache.
/// Most of a program's code runs once, at its start.
pub(crate) fn forget_code() {
    // What can't be read stays.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, length) in maps.lines().filter_map(code) {
        // SAFETY: private, executable and read-only pages of a file: nobody has written to them (there are no text relocations on
        // these architectures), so the file has what is read there next.
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
}

/// Start and length of a line of /proc/PID/maps (proc_pid_maps(5)) that is code of a file.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, flags) = (fields.next()?, fields.next()?);
    let path = fields.nth(3)?;
    if flags != "r-xp" || !path.starts_with('/') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (number(start)?, number(end)?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::fd::AsFd;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_lease_tells_whether_somebody_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let writer = std::fs::File::create(&path).unwrap();
        let reader = OpenOptions::new().read(true).open(&path).unwrap();
        let busy = try_lease(reader.as_fd()).unwrap_err();
        assert_eq!(busy.raw_os_error(), Some(libc::EAGAIN));
        drop(writer);
        // Other tests fork, and a fork holds this test's writer until it executes.
        while try_lease(reader.as_fd()).is_err() {
            std::thread::yield_now();
        }
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "what is tested waits for it")]
    fn a_real_time_signal_is_a_status_like_any_other() {
        let child = Command::new("sh").args(["-c", "kill -40 $$"]).spawn().unwrap();
        let pid = child.id() as i32;
        let status = loop {
            match wait(Child::Pid(pid), true).unwrap() {
                Some((_, status)) => break status,
                None => std::thread::yield_now(),
            }
        };
        assert_eq!(status, Status::Signal(40));
    }

    #[test]
    fn only_code_of_files_is_let_go_of() {
        let line = "55e0-55f0 r-xp 00001000 fe:00 123    /usr/bin/funcd (deleted)";
        assert_eq!(code(line), Some((0x55e0, 0x10)));
        for other in [
            "55e0-55f0 r--p 00001000 fe:00 123    /usr/bin/funcd",
            "55e0-55f0 rw-p 00001000 fe:00 123    /usr/bin/funcd",
            "55e0-55f0 r-xp 00000000 00:00 0      [vdso]",
            "55e0-55f0 r-xp 00000000 00:00 0",
            "",
        ] {
            assert_eq!(code(other), None, "{other}");
        }
        let resident = || {
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let mut is_code = false;
            let mut sum = 0;
            for line in smaps.lines() {
                if line
                    .split_ascii_whitespace()
                    .nth(1)
                    .is_some_and(|flags| flags.len() == 4 && flags.ends_with('p'))
                {
                    is_code = code(line).is_some();
                } else if let Some(rest) = line.strip_prefix("Rss:").filter(|_| is_code) {
                    sum += rest.trim().split(' ').next().unwrap().parse::<u64>().unwrap();
                }
            }
            sum
        };
        let before = resident();
        forget_code();
        assert!(
            resident() < before,
            "{} of {before} kB of code are resident",
            resident()
        );
    }

    #[test]
    fn wait_words_read_as_wait_says() {
        assert_eq!(Status::from_wait(3 << 8), Some(Status::Code(3)));
        assert_eq!(Status::from_wait(9), Some(Status::Signal(9)));
        assert_eq!(Status::from_wait(0x137f), None);
    }
}
