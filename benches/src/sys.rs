//! The only unsafe code of the benches: a bare vfork and exec, and two questions to the C library. Never a sandbox:
//! what starts here is the floor that funcd is compared with.

#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use nix::unistd::Pid;

/// The child only makes a few system calls, so its stack can be small.
const STACK: usize = 64 * 1024;
/// Room for `LISTEN_PID=` and any pid.
const LISTEN_PID: &[u8; 22] = b"LISTEN_PID=\0\0\0\0\0\0\0\0\0\0\0";
/// Where the digits go.
const DIGITS_AT: usize = "LISTEN_PID=".len();

/// What the child needs, all of it made before the child exists.
struct Plan {
    program: *const c_char,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    listen_pid: [u8; 22],
    listener: RawFd,
    null: RawFd,
    output: RawFd,
    errno: c_int,
}

/// Starts `argv` with `clone(VM | VFORK)` and exec, the cheapest start that Linux has: descriptor 3 is `listener`
/// (`LISTEN_FDS=1`, `LISTEN_PID` its own pid), 0 is `null`, 1 and 2 are `output`, the environment is otherwise empty.
/// Returns when the program runs.
///
/// # Errors
/// What clone or exec said.
pub(crate) fn spawn(
    argv: &[CString],
    listener: BorrowedFd<'_>,
    null: BorrowedFd<'_>,
    output: BorrowedFd<'_>,
) -> io::Result<Pid> {
    let listen_fds = c"LISTEN_FDS=1";
    let mut plan = Plan {
        program: argv.first().ok_or(io::ErrorKind::InvalidInput)?.as_ptr(),
        argv: argv
            .iter()
            .map(|word| word.as_ptr())
            .chain([ptr::null()])
            .collect(),
        envp: vec![listen_fds.as_ptr(), ptr::null(), ptr::null()],
        listen_pid: *LISTEN_PID,
        listener: listener.as_raw_fd(),
        null: null.as_raw_fd(),
        output: output.as_raw_fd(),
        errno: 0,
    };
    plan.envp[1] = plan.listen_pid.as_ptr().cast();
    let mut stack = vec![0_u128; STACK / 16];
    let top = stack.as_mut_ptr_range().end;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let plan_pointer: *mut Plan = &mut plan;
    // SAFETY: the stack is ours alone, 16-byte aligned, and grows down from its end; VFORK suspends us until the child
    // has executed or exited, so plan and stack outlive its use of them, and nobody else reads them meanwhile.
    let pid = unsafe { libc::clone(child, top.cast(), flags, plan_pointer.cast()) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the child, which may have written it, is past exec or gone.
    let errno = unsafe { ptr::read_volatile(&raw const (*plan_pointer).errno) };
    if errno != 0 {
        let _ = nix::sys::wait::waitpid(Pid::from_raw(pid), None);
        return Err(io::Error::from_raw_os_error(errno));
    }
    Ok(Pid::from_raw(pid))
}

/// What runs in the child: system calls only, as it shares our memory.
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes a live Plan and is suspended, so this is the only access.
    let plan = unsafe { &mut *plan.cast::<Plan>() };
    // SAFETY: dup2, fcntl, getpid, execve and _exit are async-signal-safe, and every pointer is of the Plan.
    unsafe {
        libc::dup2(plan.null, 0);
        libc::dup2(plan.output, 1);
        libc::dup2(plan.output, 2);
        if plan.listener == 3 {
            libc::fcntl(3, libc::F_SETFD, 0);
        } else {
            libc::dup2(plan.listener, 3);
        }
        write_digits(libc::getpid().unsigned_abs(), &mut plan.listen_pid[DIGITS_AT..]);
        libc::execve(plan.program, plan.argv.as_ptr(), plan.envp.as_ptr());
        plan.errno = *libc::__errno_location();
        libc::_exit(127)
    }
}

/// Writes a number without allocating; the rest of `room` stays as it was.
fn write_digits(number: u32, room: &mut [u8]) {
    let length = number.checked_ilog10().unwrap_or(0) as usize + 1;
    let mut rest = number;
    for place in room.iter_mut().take(length).rev() {
        *place = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

/// Has `command` run in this mount namespace, which stays open as long as the command is used.
pub(crate) fn enter_mounts(command: &mut Command, namespace: BorrowedFd<'_>) {
    let namespace = namespace.as_raw_fd();
    // SAFETY: setns is a system call and allocates nothing; the child has one thread.
    unsafe {
        command.pre_exec(move || match libc::setns(namespace, libc::CLONE_NEWNS) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

/// The scheduler's ticks in a second: the coarse clock advances once a tick.
pub(crate) fn tick_hz() -> u64 {
    let mut resolution = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a timespec of ours.
    unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &mut resolution) };
    let nanos = u64::try_from(resolution.tv_nsec).unwrap_or(0).max(1);
    (1_000_000_000 + nanos / 2) / nanos
}

/// While it lives, this thread goes before everything else on the machine that is not as urgent: it stands for callers on other
/// machines. What it starts is not urgent.
#[derive(Debug)]
pub(crate) struct Urgent {
    real_time: bool,
}

impl Urgent {
    /// Where the kernel lets it.
    pub(crate) fn thread() -> Urgent {
        let urgent = libc::sched_param { sched_priority: 1 };
        let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
        // SAFETY: the pointer is to a sched_param of ours; 0 is this thread.
        let real_time = unsafe { libc::sched_setscheduler(0, policy, &raw const urgent) } == 0;
        Urgent { real_time }
    }

    /// The kernel let it.
    pub(crate) fn is_real_time(&self) -> bool {
        self.real_time
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        let usual = libc::sched_param { sched_priority: 0 };
        // SAFETY: as above.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const usual) };
    }
}

/// The C library of this program.
pub(crate) fn libc_version() -> String {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: glibc returns a pointer to a constant string.
        let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
        format!("glibc {}", version.to_string_lossy())
    }
    #[cfg(not(target_env = "gnu"))]
    {
        "not glibc".to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixListener;

    use nix::sys::wait::{WaitStatus, waitpid};

    use super::*;

    fn run(script: &str) -> io::Result<WaitStatus> {
        let folder = tempfile::tempdir()?;
        let listener = UnixListener::bind(folder.path().join("socket"))?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let argv = ["/bin/sh", "-c", script].map(|word| CString::new(word).unwrap());
        Ok(waitpid(
            spawn(&argv, listener.as_fd(), null.as_fd(), null.as_fd())?,
            None,
        )?)
    }

    #[test]
    fn the_child_finds_its_socket_and_its_own_pid() {
        let status = run("test -S /dev/fd/3 && test $LISTEN_PID = $$ && test $LISTEN_FDS = 1").unwrap();
        assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_and_leaves_no_child() {
        let null = File::open("/dev/null").unwrap();
        let argv = [c"/nonexistent/program".to_owned()];
        let error = spawn(&argv, null.as_fd(), null.as_fd(), null.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn digits_are_written_from_the_start() {
        let mut room = *b"\0\0\0\0\0\0\0\0\0\0\0";
        write_digits(4_194_304, &mut room);
        assert_eq!(&room, b"4194304\0\0\0\0");
        write_digits(0, &mut room);
        assert_eq!(room[0], b'0');
    }

    #[test]
    fn the_tick_is_one_of_those_that_linux_knows() {
        assert!((100..=1000).contains(&tick_hz()), "{}", tick_hz());
    }
}
