//! A process that has taken every step of its confinement and waits right before exec: a start that is paid for ahead.
//! It has a memory and descriptors of its own, and nothing of the launcher's is left open in it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::MsgFlags;
use serde::{Deserialize, Serialize};

use super::init;
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
    /// Below a mini-init: the pid of the process that waits.
    main: Option<i32>,
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
/// told by [`Standby::progress`]. With a pid namespace it is the main process below the mini-init that waits.
///
/// # Errors
/// [`Step::Clone`] and those of the steps before it.
pub fn stand_by(confinement: &Confinement) -> Result<(Spawned, Standby), Failure> {
    let at = |step| move |errno| Failure { step, errno };
    let prepared = Prepared::new(confinement)?;
    let (low_gate, go) =
        nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| at(Step::Descriptors)(errno as i32))?;
    // Whoever writes to it never waits: the word fits, or something is wrong.
    fcntl(&go, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|errno| at(Step::Descriptors)(errno as i32))?;
    let gate = above(low_gate.as_raw_fd()).map_err(at(Step::Descriptors))?;
    let (spawned, socket) = match confinement.pid_namespace {
        true => init::fork(
            &prepared,
            Some([gate.as_raw_fd(), low_gate.as_raw_fd(), go.as_raw_fd()]),
        )?,
        false => fork(&prepared, gate.as_raw_fd())?,
    };
    let standby = Standby {
        socket,
        go: Some(go),
        at: Step::Clone,
        main: None,
        going: false,
    };
    Ok((spawned, standby))
}

fn fork(prepared: &Prepared<'_>, gate: RawFd) -> Result<(Spawned, OwnedFd), Failure> {
    let at = |step| move |errno| Failure { step, errno };
    let Ends { ours, low, status } = Ends::new().map_err(at(Step::Descriptors))?;
    let child = match clone::fork(prepared.clone_flags(), prepared.confinement.cgroup) {
        Err(errno) => return Err(at(Step::Clone)(errno)),
        Ok(Fork::Child) => run(prepared, status.as_raw_fd(), gate),
        Ok(Fork::Parent(child)) => child,
    };
    drop((low, status));
    let spawned = Spawned {
        pid: child.pid,
        main: child.pid,
        pidfd: child.pidfd,
        report: None,
    };
    Ok((spawned, ours))
}

/// A standby as one launcher leaves it to the next.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Carried {
    socket: RawFd,
    go: Option<RawFd>,
    at: Step,
    main: Option<i32>,
    going: bool,
}

impl Standby {
    /// For the next launcher, with its descriptors.
    pub(crate) fn carry(&self) -> (Carried, Vec<RawFd>) {
        let (socket, go) = (self.socket.as_raw_fd(), self.go.as_ref().map(|go| go.as_raw_fd()));
        let carried = Carried {
            socket,
            go,
            at: self.at,
            main: self.main,
            going: self.going,
        };
        (carried, [Some(socket), go].into_iter().flatten().collect())
    }

    /// From the launcher before; `own` gives its descriptors.
    ///
    /// # Errors
    /// Those of `own`.
    pub(crate) fn again(
        carried: &Carried,
        own: &mut dyn FnMut(RawFd) -> io::Result<OwnedFd>,
    ) -> io::Result<Standby> {
        Ok(Standby {
            socket: own(carried.socket)?,
            go: carried.go.map(own).transpose()?,
            at: carried.at,
            main: carried.main,
            going: carried.going,
        })
    }
    /// Becomes readable when there is progress.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The pid of the process that waits, where it is not the launcher's child itself: known once it waits.
    pub fn main(&self) -> Option<i32> {
        self.main
    }

    /// Whether it has said that it waits: what comes after is that it executed, or failed.
    pub fn is_ready(&self) -> bool {
        self.go.is_none()
    }

    /// What became of it so far; waits for nothing.
    pub fn progress(&mut self) -> Progress {
        loop {
            let (said, sender) = match word::receive(self.socket.as_fd(), MsgFlags::MSG_DONTWAIT) {
                Ok(message) => (Ok(message.said), message.sender),
                Err(errno) => (Err(errno), None),
            };
            match said {
                Ok(Some(Said::Born)) => self.at = Step::Process,
                Ok(Some(Said::Ready)) => {
                    self.at = Step::Exec;
                    if let Some(go) = self.go.take() {
                        return Progress::Ready(go);
                    }
                }
                Ok(Some(Said::Going)) => self.going = true,
                Ok(Some(Said::Hello)) => self.main = sender,
                Err(Errno::EINTR) => {}
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
    if let Err(failure) = prepared.enclose() {
        word::fail(status, failure);
    }
    wait(prepared, status, gate)
}

/// In the child, once it is enclosed: what is left of its steps, then waits for the word.
pub(super) fn wait(prepared: &Prepared<'_>, status: RawFd, gate: RawFd) -> ! {
    if let Err(failure) = close_up(prepared, [status, gate]) {
        word::fail(status, failure);
    }
    word::tell(status, word::mark(READY));
    let told = match prepared.confinement.takes_variables {
        true => prepared.vectors.receive(gate),
        false => match calls::read(gate, &mut [0]) {
            Ok(1) => Ok(()),
            Ok(_) | Err(_) => Err(libc::EPIPE),
        },
    };
    match told {
        Ok(()) => {}
        // When nobody is left who could say so, it ends.
        Err(libc::EPIPE) => calls::exit(1),
        Err(errno) => word::fail(
            status,
            Failure {
                step: Step::Exec,
                errno,
            },
        ),
    }
    word::tell(status, word::mark(GOING));
    word::fail(status, prepared.execute())
}

fn close_up(prepared: &Prepared<'_>, keep: [RawFd; 2]) -> Result<(), Failure> {
    prepared.close_all_but(keep)?;
    // Its memory is a copy of the launcher's, which is not the function's to read. Exec undoes both.
    let _ = calls::prctl(libc::PR_SET_DUMPABLE, [0; 4]);
    let _ = calls::prctl(libc::PR_SET_NAME, [NAME.as_ptr() as usize, 0, 0, 0]);
    prepared.close_behind()
}
