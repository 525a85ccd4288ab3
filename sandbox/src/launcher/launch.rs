//! From a request to a running instance: what is made for it, in order; what fails is undone and told by name.

use std::ffi::CString;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg, socketpair,
};

use super::failed::{Failed, explain, failed};
use super::listeners;
use super::network::Network;
use super::poll::Token;
use super::serve::{Instance, Launcher};
use super::standby::{self, Waiting};
use crate::cgroup::{Ceiling, Leaf};
use crate::confine::{self, Confinement, Mounts, Spawned, Standby};
use crate::exit::Step;
use crate::floor::Grants;
use crate::namespace;
use crate::rlimit;
use crate::sandbox::Sandbox;
use crate::spec::{Image, InstanceId, Socket, Spec, System};
use crate::sys::{ballast, own};
use crate::wire::Event;

/// After a start the launcher leaves the cores to the new process and its first request; what was made ahead and is used
/// up is replaced later.
pub(super) const REST: Duration = Duration::from_millis(5);

/// How far an id may lie above the last: a supervisor that took the largest at once would leave none to those after it.
const ID_GAP: u64 = 1 << 16;

/// Whether an instance runs at once, or waits right before exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Now,
    Told,
}

/// What a start has made.
pub(super) struct Started {
    pub(super) spawned: Spawned,
    standby: Option<Standby>,
    pub(super) network: Option<Network>,
    pub(super) ends: Ends,
}

/// How requests will come to an instance.
pub(super) enum Way {
    /// It listens by itself.
    None,
    /// On its socket, which is bound.
    Listener(OwnedFd),
    /// On its stdin: its end, and the supervisor's.
    Stdin(OwnedFd, OwnedFd),
    /// On a socket that it will bind: where its directory comes out, and where the child sends it.
    Exchange(OwnedFd, OwnedFd),
}

impl Way {
    /// What goes to the supervisor beside the output, once the child has executed: a child that did has sent its directory.
    fn into_gift(self) -> Option<OwnedFd> {
        match self {
            Way::None => None,
            Way::Listener(end) | Way::Stdin(_, end) => Some(end),
            Way::Exchange(ours, _) => receive_descriptor(&ours).ok(),
        }
    }
}

/// What is made for an instance before it exists.
pub(super) struct Ends {
    pub(super) way: Way,
    /// Those of the supervisor, in the instance's network namespace.
    pub(super) ports: Vec<Rc<OwnedFd>>,
    pub(super) stdout: (OwnedFd, OwnedFd),
    pub(super) stderr: (OwnedFd, OwnedFd),
}

impl Launcher {
    /// Starts an instance, or tells why not.
    pub(super) fn on_launch(&mut self, id: InstanceId, spec: Spec, when: When) {
        let function = spec.function.clone();
        if let Err(why) = self.launch(id, spec, when) {
            self.tell(self.asking, &failed(&function, id, why), Vec::new());
        }
    }

    fn launch(&mut self, id: InstanceId, spec: Spec, when: When) -> Result<(), Failed> {
        if let Some(supervisor) = self.by_generation(self.asking) {
            let last = supervisor.last_id;
            let ids = last.saturating_add(1)..=last.saturating_add(ID_GAP).min(supervisor.max_id);
            if !ids.contains(&id.0) {
                let why = format!(
                    "its id is not larger than {last}, or by far too much; this is a bug of the supervisor"
                );
                return Err(Failed::refused(libc::EINVAL, why));
            }
            supervisor.last_id = id.0;
        }
        self.last_id = self.last_id.max(id.0);
        let standbys = self.standbys();
        if when == When::Told && standbys >= standby::MOST {
            let why = format!("{standbys} instances wait already; this is a bug of the supervisor");
            return Err(Failed::refused(libc::EAGAIN, why));
        }
        if let Some(why) = standby::refusal(&self.plan, &spec).filter(|_| when == When::Told) {
            return Err(Failed::refused(libc::EINVAL, why));
        }
        if self.instances.len() - standbys >= self.host.max_instances {
            let why = format!(
                "{} instances run already; raise `max_instances`",
                self.host.max_instances
            );
            return Err(Failed::refused(libc::EAGAIN, why));
        }
        if ballast::is_gone() && !ballast::take() {
            let why = "the launcher has no memory left for another instance: free memory of the host, or raise its limits";
            return Err(Failed::refused(libc::ENOMEM, why));
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
            cpu_idle: spec.limits.cpu_idle,
            pids: spec.limits.pids,
        };
        // A process that gets only the CPU that no other wants may take seconds for its first steps, which are waited for here: until
        // they are taken it is as usual. Else bulk would keep everybody waiting who is to be started.
        let at_first = Ceiling {
            cpu_idle: false,
            ..ceiling
        };
        let mut leaf = self
            .pool
            .take(at_first)
            .map_err(|e| Failed::new(Step::Cgroup, &e, "look at the limits in the function's manifest"))?;
        let confinement = self.confinement(&spec, &executable, identity, (grants, &leaf));
        match self.start(id, &spec, confinement, when) {
            Ok(started) => {
                let Started {
                    spawned,
                    standby,
                    network,
                    ends,
                } = started;
                // Should the kernel refuse, it has the usual part: that is no reason to end it.
                let _ = leaf.limit(ceiling);
                // Its ends of the pipes go to the supervisor alone: they end with it, and with that the instance.
                let mut stdout = Some(Rc::new(ends.stdout.0));
                let with_supervisor = matches!(spec.socket, Socket::Pipes | Socket::Directory);
                let mut gifts: Vec<Rc<OwnedFd>> = ends.way.into_gift().into_iter().map(Rc::new).collect();
                if spec.socket == Socket::Pipes {
                    gifts.extend(stdout.take());
                }
                let waiting = standby.map(|standby| Waiting {
                    standby,
                    gifts: std::mem::take(&mut gifts),
                    function: spec.function,
                });
                let instance = Instance {
                    sandbox: Sandbox::new(spawned, leaf),
                    artifact: spec.artifact,
                    stdout,
                    with_supervisor,
                    stderr: Rc::new(ends.stderr.0),
                    network,
                    has_port: matches!(spec.socket, Socket::Port(_)),
                    ports: ends.ports,
                    oom: None,
                    memo: spec.memo.into(),
                    is_unreachable: false,
                    waiting,
                    end_is_told: false,
                    owner: self.asking,
                    shared: false,
                };
                self.take_in(id, instance, gifts)
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

    /// Makes the process. The confinement lacks what is made for this instance alone, which comes in here.
    pub(super) fn start(
        &mut self,
        id: InstanceId,
        spec: &Spec,
        mut confinement: Confinement,
        when: When,
    ) -> Result<Started, Failed> {
        confinement.credentials = self.deliver(id, spec, confinement.identity)?;
        let mut ends = self.ends(id, spec)?;
        let network = self
            .networks
            .take(&self.plan, spec)
            .map_err(|e| Failed::new(Step::Network, &e, "see `funcd doctor`"))?;
        if !spec.ports.is_empty() {
            ends.ports = listen_within(network.as_ref(), &spec.ports)?;
        }
        if let Way::Listener(listener) = &ends.way {
            confinement.listener = Some(listener.as_raw_fd());
        }
        if confinement.listener.is_some() && when == When::Now {
            // While the process is made on this core, the request finds its way to the socket on another.
            self.tell(self.asking, &Event::Bound { id }, Vec::new());
        }
        confinement.stdout = ends.stdout.1.as_raw_fd();
        confinement.stderr = ends.stderr.1.as_raw_fd();
        match &ends.way {
            Way::None | Way::Listener(_) => {}
            Way::Stdin(read, _) => confinement.stdin = Some(read.as_raw_fd()),
            Way::Exchange(_, theirs) => confinement.exchange = Some(theirs.as_raw_fd()),
        }
        confinement.network = network.as_ref().map(Network::fd);
        let (spawned, standby) = match when {
            When::Now => (confine::spawn(&confinement).map_err(explain)?, None),
            When::Told => {
                let (spawned, standby) = confine::stand_by(&confinement).map_err(explain)?;
                (spawned, Some(standby))
            }
        };
        Ok(Started {
            spawned,
            standby,
            network,
            ends,
        })
    }

    /// How an instance of this spec is confined, without what is made for one start alone.
    pub(super) fn confinement(
        &self,
        spec: &Spec,
        executable: &OwnedFd,
        identity: Option<(u32, u32)>,
        (grants, leaf): (Grants, &Leaf),
    ) -> Confinement {
        const NONE: RawFd = -1;
        Confinement {
            executable: executable.as_raw_fd(),
            artifact_path: self.artifact_path(spec),
            args: strings(spec.args.iter().cloned()),
            env: strings(environment(spec)),
            stdin: None,
            stdout: NONE,
            stderr: NONE,
            listener: None,
            exchange: None,
            takes_variables: spec.socket == Socket::Pipes,
            cgroup: leaf.directory(),
            tasks: leaf.tasks(),
            network: None,
            loopback: spec.has_own_network(),
            read: match &spec.system {
                System::Whole => [self.system.clone(), grants.read].concat(),
                System::Parts { .. } => [grants.system, grants.read].concat(),
            },
            links: match &spec.system {
                System::Whole => Vec::new(),
                System::Parts { links, .. } => links.clone(),
            },
            write: grants.write,
            credentials: None,
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
        }
    }

    /// The resource limits. `RLIMIT_NPROC` counts the processes of a uid, so all instances of a function together: with it, a
    /// function could not grow beyond a few instances. It is kept only where no cgroup counts each instance by itself.
    fn rlimits(&self, spec: &Spec) -> Vec<(u32, u64)> {
        let mut limits = rlimit::limits(&spec.limits);
        if self.counts_pids {
            limits.retain(|(limit, _)| *limit != crate::rlimit::NPROC);
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
        let few = |e: io::Error| Failed::new(Step::Descriptors, &e, "raise the limit of open files");
        let way = match spec.socket {
            Socket::Port(_) | Socket::None => Way::None,
            Socket::Unix => Way::Listener(
                self.bind(id)
                    .map_err(|e| Failed::new(Step::Socket, &e, "look at the run folder"))?,
            ),
            Socket::Pipes => {
                let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| few(e.into()))?;
                set_nonblocking(&write).map_err(few)?;
                Way::Stdin(read, write)
            }
            Socket::Directory if !self.plan.mounts => {
                return Err(Failed {
                    step: Step::Socket,
                    errno: libc::EPERM,
                    why: "this host can't make mount namespaces, so it has no /tmp that its socket could be found in; \
                          see `funcd doctor`"
                        .to_owned(),
                });
            }
            Socket::Directory => {
                let (family, kind) = (AddressFamily::Unix, SockType::SeqPacket);
                let pair = socketpair(family, kind, None, SockFlag::SOCK_CLOEXEC);
                let (ours, theirs) = pair.map_err(|e| few(e.into()))?;
                Way::Exchange(ours, theirs)
            }
        };
        Ok(Ends {
            way,
            ports: Vec::new(),
            stdout: pipe().map_err(few)?,
            stderr: pipe().map_err(few)?,
        })
    }

    /// Binds the instance's socket, for the supervisor's user alone; callers queue in it before the process exists.
    fn bind(&self, id: InstanceId) -> io::Result<OwnedFd> {
        let path = self.folders.socket(&id.to_string());
        let listener = listeners::unix(&path)?;
        if let Some((uid, gid)) = self.host.supervisor {
            std::os::unix::fs::lchown(&path, Some(uid), Some(gid))?;
        }
        Ok(listener)
    }

    /// Takes a started instance into the inventory and tells of it. Its listener goes to the supervisor alone: it sees
    /// there when the instance has accepted, and drops it, so that callers of a dead instance are not left waiting.
    fn take_in(&mut self, id: InstanceId, instance: Instance, gifts: Vec<Rc<OwnedFd>>) -> Result<(), Failed> {
        let pid = instance.sandbox.pid;
        let watched = self
            .poll
            .add(instance.sandbox.pidfd(), Token::InstanceEnd(id))
            .and_then(|()| match &instance.waiting {
                Some(waiting) => self.poll.add(waiting.standby.socket(), Token::Standby(id)),
                None => Ok(()),
            });
        let waits = instance.waiting.is_some();
        let mut descriptors = instance.descriptors();
        descriptors.extend(gifts);
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
        if !waits {
            self.tell(self.asking, &Event::Launched { id, pid }, descriptors);
            self.rest_until = Instant::now() + REST;
        }
        // From here on nobody waits.
        self.share_memo(id);
        if let Some(instance) = self.instances.get_mut(&id)
            && let Ok(Some(event)) = instance.sandbox.leaf().watch_oom()
            && self.poll.add(&event, Token::InstanceOom(id)).is_ok()
        {
            instance.oom = Some(event);
        }
        Ok(())
    }
}

impl Launcher {
    /// Instances of one function are started with the same memo: a thousand of them need not hold it a thousand times.
    fn share_memo(&mut self, id: InstanceId) {
        /// How many of those before it are looked at.
        const NEAR: usize = 64;
        let before = self.instances.range(..id).rev().take(NEAR);
        let Some(instance) = self.instances.get(&id) else {
            return;
        };
        let twin = before
            .map(|(_, other)| &other.memo)
            .find(|memo| **memo == instance.memo)
            .map(Rc::clone);
        if let (Some(memo), Some(instance)) = (twin, self.instances.get_mut(&id)) {
            instance.memo = memo;
        }
    }
}

/// Sockets of the supervisor within an instance's network namespace, made before its process exists: what it connects to first
/// is there.
fn listen_within(network: Option<&Network>, ports: &[u16]) -> Result<Vec<Rc<OwnedFd>>, Failed> {
    let Some(network) = network else {
        let why = "its bindings, or its Lambda API, are on ports of its own network namespace, and this host can't make one: \
                   see `funcd doctor`";
        return Err(Failed {
            step: Step::Network,
            errno: libc::EOPNOTSUPP,
            why: why.to_owned(),
        });
    };
    let made = namespace::listeners_in(network.namespace().as_fd(), ports);
    let made = made.map_err(|e| Failed::new(Step::Network, &e, "raise the limit of open files"))?;
    Ok(made.into_iter().map(Rc::new).collect())
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    // The reader shares it with the launcher; the function's own end stays as programs expect it.
    set_nonblocking(&read)?;
    Ok((read, write))
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

/// The descriptor that came over a socket.
fn receive_descriptor(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let rights = |control| match control {
        ControlMessageOwned::ScmRights(fds) => fds.into_iter().map(own).next(),
        _ => None,
    };
    let found = message.cmsgs()?.find_map(rights);
    found.ok_or_else(|| io::ErrorKind::NotFound.into())
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
        Socket::Port(_) | Socket::None | Socket::Pipes | Socket::Directory => &[],
    };
    for (name, value) in contract {
        if !spec.env.iter().any(|(given, _)| given == name) {
            env.push(format!("{name}={value}"));
        }
    }
    env
}
