//! A process that has taken every step of its confinement and waits right before exec: a start that is paid for ahead.
//! It has a memory and descriptors of its own, and nothing of the launcher's is left open in it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::prepare::{Prepared, above};
use super::word::{self, BORN, Ends, GOING, READY, Said};
use super::{Confinement, Failure, Spawned};
use crate::exit::Step;
use crate::sys::calls;
use crate::sys::clone::{self, Fork};

/// What `ps` and `top` show of one that waits; exec replaces it.
const NAME: &std::ffi::CStr = c"funcd-standby";

/// The launcher's side of a process that waits right before exec.
#[derive(Debug)]
pub struct Standby {
    socket: OwnedFd,
    go: Option<OwnedFd>,
    /// The last step that it is known to have come to.
    at: Step,
    going: bool,
}

/// How far a standby is.
#[derive(Debug)]
pub enum Progress {
    /// On its way, or waiting.
    Underway,
    /// It waits from now on: for a byte from this pipe, and ends when that is closed.
    Ready(OwnedFd),
    /// Exec succeeded.
    Executed,
    /// It failed at this step, or was killed there (errno 0). It has ended, or is about to.
    Failed(Failure),
}

/// Starts a process that takes every step but exec. Unlike [`super::spawn`] this waits for nothing: steps that fail are
/// told by [`Standby::progress`].
///
/// # Errors
/// [`Step::Clone`] and those of the steps before it. A confinement with a pid namespace can't stand by: `EINVAL`.
pub fn stand_by(confinement: &Confinement) -> Result<(Spawned, Standby), Failure> {
    let at = |step| move |errno| Failure { step, errno };
    if confinement.pid_namespace {
        return Err(at(Step::Clone)(libc::EINVAL));
    }
    let prepared = Prepared::new(confinement)?;
    let Ends { ours, low, status } = Ends::new().map_err(at(Step::Descriptors))?;
    let (low_gate, go) =
        nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| at(Step::Descriptors)(errno as i32))?;
    let gate = above(low_gate.as_raw_fd()).map_err(at(Step::Descriptors))?;
    let child = match clone::fork(prepared.clone_flags(), confinement.cgroup) {
        Err(errno) => return Err(at(Step::Clone)(errno)),
        Ok(Fork::Child) => run(&prepared, status.as_raw_fd(), gate.as_raw_fd()),
        Ok(Fork::Parent(child)) => child,
    };
    drop((low, status, low_gate, gate));
    let spawned = Spawned {
        pid: child.pid,
        main: child.pid,
        pidfd: child.pidfd,
        report: None,
    };
    let standby = Standby {
        socket: ours,
        go: Some(go),
        at: Step::Clone,
        going: false,
    };
    Ok((spawned, standby))
}

impl Standby {
    /// Becomes readable when there is progress.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether it has said that it waits: what comes after is that it executed, or failed.
    pub fn is_ready(&self) -> bool {
        self.go.is_none()
    }

    /// What became of it so far; waits for nothing.
    pub fn progress(&mut self) -> Progress {
        loop {
            match word::receive(self.socket.as_fd()) {
                Ok(Some(Said::Born)) => self.at = Step::Process,
                Ok(Some(Said::Ready)) => {
                    self.at = Step::Exec;
                    if let Some(go) = self.go.take() {
                        return Progress::Ready(go);
                    }
                }
                Ok(Some(Said::Going)) => self.going = true,
                Ok(Some(Said::Hello)) | Err(Errno::EINTR) => {}
                Ok(Some(Said::Failed(failure))) => return Progress::Failed(failure),
                Err(Errno::EAGAIN) => return Progress::Underway,
                Ok(None) if self.going => return Progress::Executed,
                // It was killed.
                Ok(None) | Err(_) => {
                    let (step, errno) = (self.at, 0);
                    return Progress::Failed(Failure { step, errno });
                }
            }
        }
    }
}

/// In the child.
fn run(prepared: &Prepared<'_>, status: RawFd, gate: RawFd) -> ! {
    word::tell(status, word::mark(BORN));
    if let Err(failure) = prepare(prepared, [status, gate]) {
        word::fail(status, failure);
    }
    word::tell(status, word::mark(READY));
    // When nobody is left who could say so, it ends.
    if calls::read(gate, &mut [0]) != Ok(1) {
        calls::exit(1);
    }
    word::tell(status, word::mark(GOING));
    word::fail(status, prepared.execute())
}

fn prepare(prepared: &Prepared<'_>, keep: [RawFd; 2]) -> Result<(), Failure> {
    prepared.enclose()?;
    prepared.close_all_but(keep)?;
    // Its memory is a copy of the launcher's, which is not the function's to read. Exec undoes both.
    let _ = calls::prctl(libc::PR_SET_DUMPABLE, [0; 4]);
    let _ = calls::prctl(libc::PR_SET_NAME, [NAME.as_ptr() as usize, 0, 0, 0]);
    prepared.close_behind()
}
