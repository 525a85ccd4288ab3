//! The mini-init of a pid namespace: its first process, which reaps, passes signals on and reports how the function ended.
//! It runs on a copy of the launcher's memory, without any privilege, and never executes anything.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::socket::{MsgFlags, setsockopt, sockopt};

use super::prepare::{Prepared, above};
use super::word::{self, BORN, Ends, HELLO, Said};
use super::{Failure, Spawned, reap, standby};
use crate::exit::Step;
use crate::sys::calls;
use crate::sys::clone::{self, Fork};

/// Starts the function below a mini-init.
pub(super) fn spawn(prepared: &Prepared<'_>) -> Result<Spawned, Failure> {
    let (spawned, status) = fork(prepared, None)?;
    match listen(status.as_fd()) {
        Ok(main) => Ok(Spawned { main, ..spawned }),
        Err(failure) => {
            // The main process may live on for a moment; it goes with its namespace.
            let _ = calls::kill(spawned.pid, libc::SIGKILL);
            reap(spawned.pid);
            Err(failure)
        }
    }
}

/// Forks the mini-init, which goes on by itself and tells on the socket. With a gate its main process waits there right
/// before exec: the end that it reads, and the two that are nobody's in there.
pub(super) fn fork(prepared: &Prepared<'_>, gate: Option<[RawFd; 3]>) -> Result<(Spawned, OwnedFd), Failure> {
    let failed = |errno| Failure {
        step: Step::Init,
        errno,
    };
    let at = |errno: nix::errno::Errno| failed(errno as i32);
    let Ends { ours, low, status } = Ends::new().map_err(failed)?;
    setsockopt(&ours, sockopt::PassCred, &true).map_err(at)?;
    let (report, report_end) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(at)?;
    let report_high = above(report_end.as_raw_fd()).map_err(failed)?;

    let flags = prepared.clone_flags() | libc::CLONE_NEWPID as u64;
    let child = match clone::fork(flags, prepared.confinement.cgroup) {
        Err(errno) => {
            return Err(Failure {
                step: Step::Clone,
                errno,
            });
        }
        Ok(Fork::Child) => {
            // Once the launcher's ends are only the launcher's, a write tells whether it is still there, and so does a read.
            [ours.as_raw_fd(), low.as_raw_fd()]
                .into_iter()
                .for_each(calls::close);
            gate.iter()
                .flat_map(|[_, rest @ ..]| rest)
                .for_each(|fd| calls::close(*fd));
            run(
                prepared,
                status.as_raw_fd(),
                report_high.as_raw_fd(),
                gate.map(|[gate, ..]| gate),
            )
        }
        Ok(Fork::Parent(child)) => child,
    };
    let spawned = Spawned {
        pid: child.pid,
        main: child.pid,
        pidfd: child.pidfd,
        report: Some(report),
    };
    Ok((spawned, ours))
}

/// In the launcher: until the main process has executed. Its pid.
fn listen(status: BorrowedFd<'_>) -> Result<i32, Failure> {
    let mut main = None;
    let mut last = Step::Clone;
    loop {
        let message = match word::receive(status, MsgFlags::empty()) {
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => {
                return Err(Failure {
                    step: Step::Init,
                    errno: errno as i32,
                });
            }
            Ok(message) => message,
        };
        match message.said {
            // All its ends are closed: by exec, or because it was killed.
            None => return main.ok_or(Failure { step: last, errno: 0 }),
            Some(Said::Born) => last = Step::Process,
            Some(Said::Hello) => main = message.sender,
            Some(Said::Ready | Said::Going) => {}
            Some(Said::Failed(failure)) => return Err(failure),
        }
    }
}

/// In the child, which is pid 1 of its namespace.
fn run(prepared: &Prepared<'_>, status: RawFd, report: RawFd, gate: Option<RawFd>) -> ! {
    let _ = calls::prctl(libc::PR_SET_PDEATHSIG, [libc::SIGKILL as usize, 0, 0, 0]);
    word::tell(status, word::mark(BORN));
    if let Err(failure) = prepared.enclose() {
        word::fail(status, failure);
    }
    // Its memory is a copy of the launcher's, which is not the function's to read where both have one uid. Exec undoes this.
    let _ = calls::prctl(libc::PR_SET_DUMPABLE, [0; 4]);
    match clone::plain_fork() {
        Err(errno) => word::fail(
            status,
            Failure {
                step: Step::Init,
                errno,
            },
        ),
        Ok(0) => {
            word::tell(status, word::mark(HELLO));
            // A session of its own: what it sends to its process group must not reach the mini-init.
            let _ = calls::setsid();
            match gate {
                Some(gate) => standby::wait(prepared, status, gate),
                None => word::fail(status, prepared.last_steps()),
            }
        }
        Ok(main) => tend(main, report),
    }
}

/// Until the main process ends; the kernel then kills what is left in the namespace.
fn tend(main: i32, report: RawFd) -> ! {
    // The status socket must be closed here, and nothing of the launcher may stay open.
    if calls::duplicate(report, 0).is_err() || calls::close_range(1, 0).is_err() {
        calls::exit(1);
    }
    loop {
        match calls::next_signal() {
            Ok(libc::SIGCHLD) => {
                // One signal may stand for many children.
                while let Ok((pid, status)) = calls::wait(-1, libc::WNOHANG) {
                    if pid == 0 {
                        break;
                    }
                    if pid == main {
                        let _ = calls::write(0, &status.to_ne_bytes());
                        calls::exit(code(status));
                    }
                }
            }
            Ok(signal) => drop(calls::kill(main, signal)),
            Err(_) => {}
        }
    }
}

/// As shells do: the exit code, or 128 and the signal.
fn code(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    }
}
