//! The mini-init of a pid namespace: its first process, which reaps, passes signals on and reports how the function ended.
//! It runs on a copy of the launcher's memory, without any privilege, and never executes anything.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, setsockopt, sockopt};

use super::prepare::{Prepared, above};
use super::word::{self, BORN, Ends, HELLO, Said, Word};
use super::{Failure, Spawned, reap};
use crate::exit::Step;
use crate::sys::calls;
use crate::sys::clone::{self, Fork};

/// Starts the function below a mini-init.
pub(super) fn spawn(prepared: &Prepared<'_>) -> Result<Spawned, Failure> {
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
        Ok(Fork::Child) => run(
            prepared,
            [ours.as_raw_fd(), low.as_raw_fd()],
            status.as_raw_fd(),
            report_high.as_raw_fd(),
        ),
        Ok(Fork::Parent(child)) => child,
    };
    drop((low, status, report_end, report_high));
    match listen(ours.as_fd()) {
        Ok(main) => Ok(Spawned {
            pid: child.pid,
            pidfd: child.pidfd,
            main,
            report: Some(report),
        }),
        Err(failure) => {
            // The main process may live on for a moment; it goes with its namespace.
            let _ = calls::kill(child.pid, libc::SIGKILL);
            reap(child.pid);
            Err(failure)
        }
    }
}

/// In the launcher: until the main process has executed. Its pid.
fn listen(status: BorrowedFd<'_>) -> Result<i32, Failure> {
    let mut main = None;
    let mut last = Step::Clone;
    loop {
        let mut word = Word::default();
        let mut control = nix::cmsg_space!(nix::sys::socket::UnixCredentials);
        let mut parts = [IoSliceMut::new(&mut word)];
        let received = recvmsg::<UnixAddr>(
            status.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::empty(),
        );
        let (length, sender) = match received {
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => {
                return Err(Failure {
                    step: Step::Init,
                    errno: errno as i32,
                });
            }
            Ok(message) => {
                let sender = message
                    .cmsgs()
                    .into_iter()
                    .flatten()
                    .find_map(|control| match control {
                        ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.pid()),
                        _ => None,
                    });
                (message.bytes, sender)
            }
        };
        if length == 0 {
            // All its ends are closed: by exec, or because it was killed.
            return main.ok_or(Failure { step: last, errno: 0 });
        }
        match word::read(word) {
            Said::Born => last = Step::Process,
            Said::Hello => main = sender,
            Said::Ready | Said::Going => {}
            Said::Failed(failure) => return Err(failure),
        }
    }
}

/// In the child, which is pid 1 of its namespace.
fn run(prepared: &Prepared<'_>, close: [RawFd; 2], status: RawFd, report: RawFd) -> ! {
    // Once the launcher's end is only the launcher's, a write tells whether it is still there.
    close.into_iter().for_each(calls::close);
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
            word::fail(status, prepared.last_steps())
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
