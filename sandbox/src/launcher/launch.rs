//! From a request to a running instance: what is made for it, in order; what fails is undone and told by name.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::listeners;
use super::poll::Token;
use super::serve::{Instance, Launcher};
use crate::cgroup::{Ceiling, Leaf};
use crate::confine::{self, Confinement, Failure, Mounts};
use crate::exit::Step;
use crate::floor::Grants;
use crate::rlimit;
use crate::sandbox::Sandbox;
use crate::spec::{Image, InstanceId, Socket, Spec, System};
use crate::wire::Event;

/// After a start the launcher leaves the cores to the new process and its first request; what was made ahead and is used
/// up is replaced later.
const REST: Duration = Duration::from_millis(5);

/// Connections that wait in an instance's socket; the kernel lowers it to net.core.somaxconn.
const BACKLOG: i32 = 1024;

/// How far an id may lie above the last: a supervisor that took the largest at once would leave none to those after it.
const ID_GAP: u64 = 1 << 16;

/// The longest message about a failed launch, in characters.
const MAX_WHY: usize = 2000;

/// A launch that failed.
struct Failed {
    step: Step,
    errno: i32,
    why: String,
}

impl Failed {
    fn new(step: Step, e: &io::Error, next: &str) -> Failed {
        Failed {
            step,
            errno: e.raw_os_error().unwrap_or(0),
            why: format!("{e}; {next}"),
        }
    }

    fn refused(errno: i32, why: impl ToString) -> Failed {
        Failed {
            step: Step::Artifact,
            errno,
            why: why.to_string(),
        }
    }
}

/// What is bound for an instance before it exists.
struct Ends {
    listener: Option<OwnedFd>,
    stdout: (OwnedFd, OwnedFd),
    stderr: (OwnedFd, OwnedFd),
}

impl Launcher {
    /// Starts an instance, or tells why not.
    pub(super) fn on_launch(&mut self, id: InstanceId, spec: Spec) {
        let function = spec.function.clone();
        if let Err(Failed { step, errno, why }) = self.launch(id, spec) {
            let message = format!(
                "{function:?}: instance {id} was not started at step {}: {why}",
                step.as_str()
            );
            // It may quote the spec, and thousands of them may wait for a supervisor that does not read.
            let message = message.chars().take(MAX_WHY).collect();
            self.tell(
                &Event::LaunchFailed {
                    id,
                    step,
                    errno,
                    message,
                },
                Vec::new(),
            );
        }
    }

    fn launch(&mut self, id: InstanceId, spec: Spec) -> Result<(), Failed> {
        let ids = self.last_id.saturating_add(1)..=self.last_id.saturating_add(ID_GAP).min(Token::MAX_ID);
        if !ids.contains(&id.0) {
            let why = format!(
                "its id is not larger than {}, or by far too much; this is a bug of the supervisor",
                self.last_id
            );
            return Err(Failed::refused(libc::EINVAL, why));
        }
        self.last_id = id.0;
        if self.instances.len() >= self.host.max_instances {
            let why = format!(
                "{} instances run already; raise `max_instances`",
                self.host.max_instances
            );
            return Err(Failed::refused(libc::EAGAIN, why));
        }
        self.floor
            .check(&spec)
            .map_err(|why| Failed::refused(libc::EPERM, why))?;
        let executable = self.store.executable(&spec.artifact).map_err(|e| {
            Failed::new(
                Step::Artifact,
                &e,
                "copy the executable into the functions folder again",
            )
        })?;
        let identity = self.identity(&spec)?;
        let grants = self
            .floor
            .resolve(&spec, identity)
            .map_err(|why| Failed::refused(libc::EPERM, why))?;
        let ceiling = Ceiling {
            memory_bytes: spec.limits.memory_bytes,
            cpu_millis: spec.limits.cpu_millis,
            pids: spec.limits.pids,
        };
        let leaf = self
            .pool
            .take(ceiling)
            .map_err(|e| Failed::new(Step::Cgroup, &e, "look at the limits in the function's manifest"))?;
        match self.start(id, &spec, &executable, identity, (grants, &leaf)) {
            Ok((spawned, network, stdout, stderr, listener)) => {
                let instance = Instance {
                    sandbox: Sandbox::new(spawned, leaf),
                    artifact: spec.artifact,
                    stdout,
                    stderr,
                    network,
                    has_port: matches!(spec.socket, Socket::Port(_)),
                    oom: None,
                    memo: spec.memo,
                };
                self.take_in(id, instance, listener)
            }
            Err(failed) => {
                let _ = std::fs::remove_file(self.folders.socket(&id.to_string()));
                self.secrets.remove(id);
                self.leave(leaf, None);
                Err(failed)
            }
        }
    }

    /// Delivers the secrets that the spec names; the folder that they are in.
    fn deliver(
        &mut self,
        id: InstanceId,
        spec: &Spec,
        identity: Option<(u32, u32)>,
    ) -> Result<Option<PathBuf>, Failed> {
        if spec.secrets.is_empty() {
            return Ok(None);
        }
        let failed = |why: String| Failed {
            step: Step::Secrets,
            errno: libc::ENOKEY,
            why,
        };
        if !self.plan.mounts {
            let why = "its secrets can't be delivered for it alone: this host can't make mount namespaces; see \
                       `funcd doctor`";
            return Err(failed(why.to_owned()));
        }
        let place = self.secrets.deliver(id, &spec.function, &spec.secrets, identity);
        // The first time, there is something to watch now; the other times, it is watched already.
        if let Some(watched) = self.secrets.watched() {
            let _ = self.poll.add(watched, Token::Secrets);
        }
        place.map(Some).map_err(|why| failed(why.to_string()))
    }

    fn identity(&mut self, spec: &Spec) -> Result<Option<(u32, u32)>, Failed> {
        if !self.plan.identity {
            return Ok(None);
        }
        let uid = self.uids.get(&spec.function).map_err(|why| Failed {
            step: Step::Identity,
            errno: libc::EAGAIN,
            why: why.to_string(),
        })?;
        Ok(Some((uid, uid)))
    }

    #[expect(clippy::type_complexity, reason = "used once, named where it is taken apart")]
    fn start(
        &mut self,
        id: InstanceId,
        spec: &Spec,
        executable: &OwnedFd,
        identity: Option<(u32, u32)>,
        (grants, leaf): (Grants, &Leaf),
    ) -> Result<
        (
            confine::Spawned,
            Option<super::network::Network>,
            Rc<OwnedFd>,
            Rc<OwnedFd>,
            Option<OwnedFd>,
        ),
        Failed,
    > {
        let credentials = self.deliver(id, spec, identity)?;
        let ends = self.ends(id, spec)?;
        let network = self
            .networks
            .take(&self.plan, spec.socket)
            .map_err(|e| Failed::new(Step::Network, &e, "see `funcd doctor`"))?;
        if ends.listener.is_some() {
            // While the process is made on this core, the request finds its way to the socket on another.
            self.tell(&Event::Bound { id }, Vec::new());
        }
        let confinement = Confinement {
            executable: executable.as_raw_fd(),
            artifact_path: self.artifact_path(spec),
            args: strings(spec.args.iter().cloned()),
            env: strings(environment(spec)),
            stdout: ends.stdout.1.as_raw_fd(),
            stderr: ends.stderr.1.as_raw_fd(),
            listener: ends.listener.as_ref().map(|fd| fd.as_raw_fd()),
            cgroup: leaf.directory(),
            tasks: leaf.tasks(),
            network: network.as_ref().map(super::network::Network::fd),
            read: match &spec.system {
                System::Whole => [self.system.clone(), grants.read].concat(),
                System::Parts { .. } => [grants.system, grants.read].concat(),
            },
            links: match &spec.system {
                System::Whole => Vec::new(),
                System::Parts { links, .. } => links.clone(),
            },
            write: grants.write,
            credentials,
            mounts: self.plan.mounts.then(|| Mounts {
                staging: self.folders.staging.clone(),
                tmp_bytes: spec.limits.tmp_bytes,
                // Runtimes look there for themselves; a static executable gets by without the price of the mount.
                proc: spec.image != Image::Static,
            }),
            pid_namespace: self.plan.pid_namespace,
            rlimits: self.rlimits(spec),
            identity,
            landlock_abi: self.plan.landlock_abi,
            seccomp: self.plan.seccomp,
            first_out_of_memory: true,
        };
        let spawned = confine::spawn(&confinement).map_err(explain)?;
        let (stdout, stderr) = (Rc::new(ends.stdout.0), Rc::new(ends.stderr.0));
        Ok((spawned, network, stdout, stderr, ends.listener))
    }

    /// The resource limits. `RLIMIT_NPROC` counts the processes of a uid, so all instances of a function together: with it, a
    /// function could not grow beyond a few instances. It is kept only where no cgroup counts each instance by itself.
    fn rlimits(&self, spec: &Spec) -> Vec<(u32, u64)> {
        let mut limits = rlimit::limits(&spec.limits);
        if self.counts_pids {
            limits.retain(|(limit, _)| *limit != libc::RLIMIT_NPROC);
        }
        limits
    }

    /// Where a script is found by its interpreter.
    fn artifact_path(&self, spec: &Spec) -> Option<PathBuf> {
        match spec.image {
            Image::Static | Image::Dynamic => None,
            Image::Script if self.plan.mounts => Some(Path::new("/function").join(&spec.function)),
            Image::Script => Some(self.store.path(&spec.artifact)),
        }
    }

    fn ends(&self, id: InstanceId, spec: &Spec) -> Result<Ends, Failed> {
        let listener = match spec.socket {
            Socket::Port(_) => None,
            Socket::Unix => Some(
                self.bind(id)
                    .map_err(|e| Failed::new(Step::Socket, &e, "look at the run folder"))?,
            ),
        };
        let pipe = || pipe().map_err(|e| Failed::new(Step::Descriptors, &e, "raise the limit of open files"));
        Ok(Ends {
            listener,
            stdout: pipe()?,
            stderr: pipe()?,
        })
    }

    /// Binds the instance's socket, for the supervisor's user alone; callers queue in it before the process exists.
    fn bind(&self, id: InstanceId) -> io::Result<OwnedFd> {
        let path = self.folders.socket(&id.to_string());
        let listener = listeners::unix(&path, BACKLOG)?;
        if let Some((uid, gid)) = self.host.supervisor {
            std::os::unix::fs::lchown(&path, Some(uid), Some(gid))?;
        }
        Ok(listener)
    }

    /// Takes a started instance into the inventory and tells of it. The listener goes to the supervisor alone: it sees
    /// there when the instance has accepted, and drops it, so that callers of a dead instance are not left waiting.
    fn take_in(
        &mut self,
        id: InstanceId,
        instance: Instance,
        listener: Option<OwnedFd>,
    ) -> Result<(), Failed> {
        let pid = instance.sandbox.pid;
        let watched = self.poll.add(instance.sandbox.pidfd(), Token::InstanceEnd(id));
        let mut output = instance.output();
        output.extend(listener.map(Rc::new));
        self.children.insert(instance.sandbox.child, id);
        self.instances.insert(id, instance);
        if let Err(e) = watched {
            if let Some(instance) = self.instances.remove(&id) {
                instance.sandbox.kill_all();
                self.children.remove(&instance.sandbox.child);
                let _ = std::fs::remove_file(self.folders.socket(&id.to_string()));
                self.secrets.remove(id);
                self.leave(instance.sandbox.into_leaf(), None);
            }
            return Err(Failed::new(Step::Clone, &e, "raise fs.epoll.max_user_watches"));
        }
        self.tell(&Event::Launched { id, pid }, output);
        self.rest_until = Instant::now() + REST;
        // From here on nobody waits.
        if let Some(instance) = self.instances.get_mut(&id)
            && let Ok(Some(event)) = instance.sandbox.leaf().watch_oom()
            && self.poll.add(&event, Token::InstanceOom(id)).is_ok()
        {
            instance.oom = Some(event);
        }
        Ok(())
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    // The reader shares it with the launcher; the function's own end stays as programs expect it.
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((read, write))
}

fn strings(strings: impl IntoIterator<Item = String>) -> Vec<CString> {
    let convert = |string| CString::new(string).expect("the floor refuses NUL");
    strings.into_iter().map(convert).collect()
}

/// The environment that the spec asks for, and what socket activation needs (sd_listen_fds(3)).
fn environment(spec: &Spec) -> Vec<String> {
    let mut env: Vec<String> = spec
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let contract: &[(&str, &str)] = match spec.socket {
        Socket::Unix => &[("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "http")],
        Socket::Port(_) => &[],
    };
    for (name, value) in contract {
        if !spec.env.iter().any(|(given, _)| given == name) {
            env.push(format!("{name}={value}"));
        }
    }
    env
}

fn explain(failure: Failure) -> Failed {
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
