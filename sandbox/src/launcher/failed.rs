//! A launch that failed, and how it is told: what, where, why and what to do next.

use std::io;

use crate::confine::Failure;
use crate::exit::Step;
use crate::spec::InstanceId;
use crate::wire::Event;

/// The longest message about a failed launch, in characters.
const MAX_WHY: usize = 2000;

/// A launch that failed.
pub(super) struct Failed {
    pub(super) step: Step,
    pub(super) errno: i32,
    pub(super) why: String,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "step {}: {}", self.step.as_str(), self.why)
    }
}

impl Failed {
    pub(super) fn new(step: Step, e: &io::Error, next: &str) -> Failed {
        Failed {
            step,
            errno: e.raw_os_error().unwrap_or(0),
            why: format!("{e}; {next}"),
        }
    }

    pub(super) fn refused(errno: i32, why: impl ToString) -> Failed {
        Failed {
            step: Step::Artifact,
            errno,
            why: why.to_string(),
        }
    }
}

/// What the supervisor is told of it.
pub(super) fn failed(function: &str, id: InstanceId, failed: Failed) -> Event {
    let Failed { step, errno, why } = failed;
    let message = format!(
        "{function:?}: instance {id} was not started at step {}: {why}",
        step.as_str()
    );
    Event::LaunchFailed {
        id,
        step,
        errno,
        // It may quote the spec, and thousands of them may wait for a supervisor that does not read.
        message: message.chars().take(MAX_WHY).collect(),
    }
}

pub(super) fn explain(failure: Failure) -> Failed {
    let Failure { step, errno } = failure;
    let why = match (step, errno) {
        (Step::Clone, 0) => {
            "it was killed before its first step: its cgroup, or that of the launcher, was killed \
                             once (cgroup.kill), and kills every new process at birth; restart funcd"
                .to_owned()
        }
        (_, 0) => {
            "it was killed at this step; look for the OOM killer in the kernel's log, and at its memory limit"
                .to_owned()
        }
        _ => {
            let next = match (step, errno) {
                (Step::Exec, libc::ENOEXEC) => {
                    "it is no executable of this machine: build it for this architecture"
                }
                (Step::Exec, libc::ENOENT) => {
                    "its interpreter is missing: link it statically, or install the interpreter"
                }
                (Step::Exec, libc::EACCES) => "its interpreter may not be executed: grant it with `read`",
                (Step::Exec, libc::E2BIG) => "shorten its arguments and environment",
                (Step::Clone | Step::Init, libc::EAGAIN) => {
                    "too many processes: raise the limits of the host"
                }
                (Step::Clone | Step::Init | Step::Mounts, libc::ENOMEM) => {
                    "raise its memory limit, or free memory of the host"
                }
                (Step::Mounts, _) => "look at its `read` and `write` grants, and at `funcd doctor`",
                (Step::Rlimits, _) => {
                    "lower `files` in its limits, or raise the limit of open files of funcd"
                }
                _ => "see `funcd doctor`",
            };
            format!("{}; {next}", nix::errno::Errno::from_raw(errno).desc())
        }
    };
    Failed { step, errno, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_in_a_killed_cgroup_is_told_by_name() {
        let failed = explain(Failure {
            step: Step::Clone,
            errno: 0,
        });
        assert!(failed.why.contains("cgroup.kill"), "{}", failed.why);
    }
}
