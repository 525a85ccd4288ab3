//! One running instance: its pidfd, its leaf, and how it ended. Never blocks, and never signals by pid.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cgroup::{self, Leaf};
use crate::confine::Spawned;
use crate::exit::Exit;
use crate::sys::process::{self, Child, Status};
use crate::wire::{Spent, Strain, Usage};

/// What an instance was short of is read this often, at most.
const STRAIN_EVERY: Duration = Duration::from_secs(4);

/// A running instance.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// The child of the launcher: the function, or its mini-init.
    pub(crate) child: i32,
    /// The function's main process as the host sees it.
    pub(crate) pid: i32,
    pidfd: OwnedFd,
    report: Option<OwnedFd>,
    leaf: Leaf,
    asked: Asked,
    frozen: bool,
    /// What it was short of, and when that was read.
    strain: Option<(Instant, Strain)>,
}

/// An instance as one launcher leaves it to the next.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Carried {
    pub(crate) child: i32,
    pid: i32,
    pidfd: RawFd,
    report: Option<RawFd>,
    leaf: cgroup::CarriedLeaf,
    asked: Asked,
    frozen: bool,
}

/// What was done to an instance on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// SIGTERM was sent.
    pub(crate) terminate: bool,
    /// All of it was killed.
    pub(crate) kill: bool,
}

impl Sandbox {
    /// Takes charge of a process that was started into `leaf`.
    pub(crate) fn new(spawned: Spawned, mut leaf: Leaf) -> Sandbox {
        leaf.close();
        Sandbox {
            child: spawned.pid,
            pid: spawned.main,
            pidfd: spawned.pidfd,
            report: spawned.report,
            leaf,
            asked: Asked::default(),
            frozen: false,
            strain: None,
        }
    }

    /// For the next launcher, with its descriptors.
    pub(crate) fn carry(&self) -> (Carried, Vec<RawFd>) {
        let (pidfd, report) = (
            self.pidfd.as_raw_fd(),
            self.report.as_ref().map(|fd| fd.as_raw_fd()),
        );
        let carried = Carried {
            child: self.child,
            pid: self.pid,
            pidfd,
            report,
            leaf: self.leaf.carry(),
            asked: self.asked,
            frozen: self.frozen,
        };
        (carried, [Some(pidfd), report].into_iter().flatten().collect())
    }

    /// From the launcher before; `own` gives its descriptors, `leaf` its leaf.
    ///
    /// # Errors
    /// Those of `own`.
    pub(crate) fn again(
        carried: &Carried,
        own: &mut dyn FnMut(RawFd) -> io::Result<OwnedFd>,
        leaf: impl Fn(&cgroup::CarriedLeaf) -> Leaf,
    ) -> io::Result<Sandbox> {
        Ok(Sandbox {
            child: carried.child,
            pid: carried.pid,
            pidfd: own(carried.pidfd)?,
            report: carried.report.map(own).transpose()?,
            leaf: leaf(&carried.leaf),
            asked: carried.asked,
            frozen: carried.frozen,
            strain: None,
        })
    }

    /// Becomes readable when it ends.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Its leaf.
    pub(crate) fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// What it uses. What it was short of is as of a few seconds ago: most who ask do so every tenth of a second, for its CPU time.
    pub(crate) fn usage(&mut self, now: Instant) -> Usage {
        let fresh = self
            .strain
            .filter(|(then, _)| now.saturating_duration_since(*then) < STRAIN_EVERY);
        let (_, strain) = *self
            .strain
            .insert(fresh.unwrap_or_else(|| (now, self.leaf.strain())));
        Usage {
            strain,
            ..self.leaf.usage()
        }
    }

    /// What keeps it from answering, if something does.
    pub(crate) fn condition(&self) -> crate::wire::Condition {
        crate::condition::of(self.pid, &self.leaf)
    }

    /// Whether it was told to stop.
    pub(crate) fn is_terminating(&self) -> bool {
        self.asked.terminate
    }

    /// Whether it was frozen and not thawed.
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Stops all of it where it is; one that was told to stop must go on to do that.
    ///
    /// # Errors
    /// Those of the kernel; it goes on then.
    pub(crate) fn freeze(&mut self) -> io::Result<()> {
        if self.asked.terminate {
            return Ok(());
        }
        self.leaf.freeze(true)?;
        self.frozen = true;
        Ok(())
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// Those of the kernel; it stays frozen then.
    pub(crate) fn thaw(&mut self) -> io::Result<()> {
        if self.frozen {
            self.leaf.freeze(false)?;
            self.frozen = false;
        }
        Ok(())
    }

    /// Tells its main process to stop.
    pub(crate) fn terminate(&mut self) {
        self.asked.terminate = true;
        // Frozen it would not hear of it; if it can't be thawed, the kill that follows works all the same.
        let _ = self.thaw();
        // It may have ended by itself; then there is an event for that.
        let _ = process::signal(self.pidfd(), libc::SIGTERM);
    }

    /// Kills all of it because somebody asked for that.
    pub(crate) fn kill(&mut self) {
        self.asked.kill = true;
        self.kill_all();
    }

    /// Kills all of it for a reason of the launcher's own.
    pub(crate) fn kill_all(&self) {
        self.leaf.kill();
        // Without any cgroup this is all there is; with a pid namespace it is enough.
        let _ = process::signal(self.pidfd(), libc::SIGKILL);
    }

    /// Reaps it if it has ended, kills what it left behind, and says why it ended, and what it used in all. What is returned must be
    /// removed until nothing of it is left.
    pub(crate) fn try_end(&mut self) -> io::Result<Option<(Exit, Spent)>> {
        let Some((_, child, cpu)) = process::wait_and_account(Child::Pidfd(self.pidfd()), true)? else {
            return Ok(None);
        };
        let status = self.reported().unwrap_or(child);
        let oom_kills = self.leaf.oom_kills();
        self.leaf.kill();
        let spent = Spent {
            // Not from the cgroup: that would be one more file for each request of those that have a process for each.
            cpu_micros: cpu.as_micros().try_into().unwrap_or(u64::MAX),
            oom_kills,
        };
        Ok(Some((why(status, oom_kills > 0, self.asked), spent)))
    }

    /// Gives up the leaf, to be removed.
    pub(crate) fn into_leaf(self) -> Leaf {
        self.leaf
    }

    /// What the mini-init, which has ended, said about the function.
    fn reported(&mut self) -> Option<Status> {
        let mut word = [0; 4];
        // The mini-init is gone and was the only writer, so this does not wait.
        std::fs::File::from(self.report.take()?)
            .read_exact(&mut word)
            .ok()?;
        Status::from_wait(i32::from_ne_bytes(word))
    }
}

/// Why an instance ended, from how its main process ended, whether the kernel killed for memory, and what was asked.
fn why(status: Status, oom: bool, asked: Asked) -> Exit {
    match (status, asked) {
        (
            Status::Signal(libc::SIGKILL),
            Asked {
                kill: true,
                terminate: true,
            },
        ) => Exit::StopTimeout,
        // The supervisor kills without asking first for one reason only.
        (
            Status::Signal(libc::SIGKILL),
            Asked {
                kill: true,
                terminate: false,
            },
        ) => Exit::StartTimeout,
        // Where the kernel killed a child of it, the main process often ends with a code of its own.
        (
            _,
            Asked {
                kill: false,
                terminate: false,
            },
        ) if oom => Exit::Oom,
        (
            Status::Signal(libc::SIGKILL),
            Asked {
                kill: false,
                terminate: true,
            },
        ) if oom => Exit::Oom,
        (Status::Code(_) | Status::Signal(libc::SIGTERM), Asked { terminate: true, .. }) => Exit::Stopped,
        (Status::Code(code), Asked { terminate: false, .. }) => Exit::Code { code },
        (Status::Signal(signal), _) => Exit::Signal { signal },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_it_ended() {
        const NOBODY: Asked = Asked {
            terminate: false,
            kill: false,
        };
        const TERM: Asked = Asked {
            terminate: true,
            kill: false,
        };
        const KILL: Asked = Asked {
            terminate: false,
            kill: true,
        };
        const BOTH: Asked = Asked {
            terminate: true,
            kill: true,
        };
        let (code, signal) = (Status::Code, Status::Signal);
        for (status, oom, asked, expected) in [
            (code(0), false, NOBODY, Exit::Code { code: 0 }),
            (code(3), false, NOBODY, Exit::Code { code: 3 }),
            (code(3), false, TERM, Exit::Stopped),
            (code(3), false, BOTH, Exit::Stopped),
            (code(3), false, KILL, Exit::Code { code: 3 }),
            (code(137), true, NOBODY, Exit::Oom),
            (signal(15), false, NOBODY, Exit::Signal { signal: 15 }),
            (signal(15), false, TERM, Exit::Stopped),
            (signal(11), false, TERM, Exit::Signal { signal: 11 }),
            (signal(40), false, NOBODY, Exit::Signal { signal: 40 }),
            (signal(9), false, NOBODY, Exit::Signal { signal: 9 }),
            (signal(9), true, NOBODY, Exit::Oom),
            (signal(9), true, TERM, Exit::Oom),
            (signal(9), false, TERM, Exit::Signal { signal: 9 }),
            (signal(9), false, KILL, Exit::StartTimeout),
            (signal(9), true, KILL, Exit::StartTimeout),
            (signal(9), false, BOTH, Exit::StopTimeout),
        ] {
            assert_eq!(why(status, oom, asked), expected, "{status:?} {oom} {asked:?}");
        }
    }
}
