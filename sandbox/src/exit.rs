//! Why an instance ended: a closed list, so that every reader (log, metric, `ps`, restart policy) agrees.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why an instance ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum Exit {
    /// The main process called `exit` with this code.
    Code {
        /// The exit code, 0 to 255.
        code: i32,
    },
    /// A signal that funcd did not send ended the main process.
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// The kernel killed it because its cgroup reached the memory limit.
    Oom,
    /// It was not ready within `ready_within`, and was killed.
    StartTimeout,
    /// It was told to stop, did not within its grace, and was killed.
    StopTimeout,
    /// It was told to stop, and did.
    Stopped,
    /// It never ran: a step between clone and exec failed.
    Launch {
        /// Which step.
        step: Step,
        /// The errno of that step.
        errno: i32,
    },
    /// The launcher lost track of it (for example killed from outside before its first step).
    Lost,
    /// Requests to it failed while others were answered: the supervisor replaced it, and it stopped or was killed. The
    /// launcher never says so.
    Ejected,
    /// It did not answer requests or health requests in time: as above.
    Unresponsive,
}

/// The steps between the request to launch and a running executable, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Step {
    /// Looking up the stored executable.
    Artifact,
    /// Making the leaf cgroup and writing its limits.
    Cgroup,
    /// Binding the instance's socket.
    Socket,
    /// Making the network namespace.
    Network,
    /// Delivering its secrets.
    Secrets,
    /// clone3 itself.
    Clone,
    /// Joining the v1 cgroups.
    JoinCgroup,
    /// PDEATHSIG, session, signal dispositions, umask.
    Process,
    /// Placing descriptors 0 to 3.
    Descriptors,
    /// Joining the network namespace.
    JoinNetwork,
    /// Building the root of the mount namespace.
    Mounts,
    /// Resource limits.
    Rlimits,
    /// The session keyring.
    Keyring,
    /// uid, gid, groups.
    Identity,
    /// Capabilities and securebits.
    Capabilities,
    /// The mini-init of a pid namespace.
    Init,
    /// `no_new_privs`.
    NoNewPrivs,
    /// Landlock.
    Landlock,
    /// seccomp.
    Seccomp,
    /// exec of the stored executable.
    Exec,
}

impl Step {
    /// Every step, in order; the index of each is its value on the status pipe.
    pub const ALL: [Step; 20] = [
        Step::Artifact,
        Step::Cgroup,
        Step::Socket,
        Step::Network,
        Step::Secrets,
        Step::Clone,
        Step::JoinCgroup,
        Step::Process,
        Step::Descriptors,
        Step::JoinNetwork,
        Step::Mounts,
        Step::Rlimits,
        Step::Keyring,
        Step::Identity,
        Step::Capabilities,
        Step::Init,
        Step::NoNewPrivs,
        Step::Landlock,
        Step::Seccomp,
        Step::Exec,
    ];

    /// The step's name as users see it, for example `join-cgroup`.
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Artifact => "artifact",
            Step::Cgroup => "cgroup",
            Step::Socket => "socket",
            Step::Network => "network",
            Step::Secrets => "secrets",
            Step::Clone => "clone",
            Step::JoinCgroup => "join-cgroup",
            Step::Process => "process",
            Step::Descriptors => "descriptors",
            Step::JoinNetwork => "join-network",
            Step::Mounts => "mounts",
            Step::Rlimits => "rlimits",
            Step::Keyring => "keyring",
            Step::Identity => "identity",
            Step::Capabilities => "capabilities",
            Step::Init => "init",
            Step::NoNewPrivs => "no-new-privs",
            Step::Landlock => "landlock",
            Step::Seccomp => "seccomp",
            Step::Exec => "exec",
        }
    }
}

impl Exit {
    /// The reason as a label for metrics and JSON: one of a small closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Exit::Code { .. } => "code",
            Exit::Signal { .. } => "signal",
            Exit::Oom => "oom",
            Exit::StartTimeout => "start-timeout",
            Exit::StopTimeout => "stop-timeout",
            Exit::Stopped => "stopped",
            Exit::Launch { .. } => "launch",
            Exit::Lost => "lost",
            Exit::Ejected => "ejected",
            Exit::Unresponsive => "unresponsive",
        }
    }

    /// Whether funcd asked for this end, so that it does not count against the function.
    pub fn is_asked_for(&self) -> bool {
        match self {
            Exit::Stopped | Exit::StopTimeout | Exit::Ejected | Exit::Unresponsive => true,
            Exit::Code { .. }
            | Exit::Signal { .. }
            | Exit::Oom
            | Exit::StartTimeout
            | Exit::Launch { .. }
            | Exit::Lost => false,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code { code } => write!(f, "exited with code {code}"),
            Exit::Signal { signal } => match nix::sys::signal::Signal::try_from(*signal) {
                Ok(name) => write!(f, "killed by {name}"),
                Err(_) => write!(f, "killed by signal {signal}"),
            },
            Exit::Oom => f.write_str("out of memory: reached its memory limit"),
            Exit::StartTimeout => f.write_str("not ready in time, killed"),
            Exit::StopTimeout => f.write_str("did not stop in time, killed"),
            Exit::Stopped => f.write_str("stopped"),
            Exit::Launch { step, errno } => {
                write!(
                    f,
                    "launch failed at step {}: {}",
                    step.as_str(),
                    nix::errno::Errno::from_raw(*errno).desc()
                )
            }
            Exit::Lost => f.write_str("lost: it ended before its first step"),
            Exit::Ejected => f.write_str("replaced: requests to it failed"),
            Exit::Unresponsive => f.write_str("replaced: it did not answer in time"),
        }
    }
}
