//! Builds everything that a launcher has, in one place; nothing runs before all of it is there.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};

use super::folders::{self, Folders};
use super::handover::{self, Descriptors};
use super::image::Image;
use super::listeners::{self, Listeners};
use super::network::Networks;
use super::notify::Notify;
use super::poll::{Poll, Token};
use super::secrets::Secrets;
use super::serve::{Launcher, Phase};
use super::upgrade::Upgrade;
use super::{Host, LauncherError, examine, log};
use crate::cgroup::{Join, Pool, Tree};
use crate::floor::Floor;
use crate::probe::{Grade, Plan};
use crate::store::Store;
use crate::uids::Uids;
use crate::wire::{Descriptor, MAX_MESSAGE};
use crate::without::Without;
use crate::{confine, namespace, system};

/// Makes a launcher and starts its first supervisor.
///
/// # Errors
/// What can't be had; nothing stays behind.
pub(super) fn start(mut host: Host) -> Result<Launcher, LauncherError> {
    check(&host)?;
    if !nix::unistd::geteuid().is_root() {
        // The same user then: there is nothing to give away, and nobody to become.
        host.supervisor = None;
    }
    crate::sys::ballast::take();
    let signals = prepare_process(false)?;
    let folders = folders::prepare(&host)?;
    let uids = Uids::load(&folders.uids, host.uid_first, host.uid_count)?;
    let store = Store::open(&folders.store).map_err(|source| LauncherError::Folder {
        path: folders.store.clone(),
        what: "read",
        source,
        fix: "make it readable for the user that funcd runs as",
    })?;
    let mut listeners = listeners::bind_after(&host, folders.crashed)?;
    let lines: String = listeners
        .addresses
        .iter()
        .map(|address| format!("{address}\n"))
        .collect();
    folders.tell("listen", &lines)?;
    if let Some((_, address)) = &listeners.admin_tcp {
        folders.tell("admin-listen", &format!("{address}\n"))?;
    }
    confine::drop_inheritable().map_err(kernel("dropping privileges that children could inherit"))?;
    let tree = Tree::create(&subtree_name(&folders), Join::Always);
    let made = Made {
        descriptors: descriptors(&mut listeners, &folders)?,
        folders,
        listeners,
        signals,
        store,
        uids,
        pool: tree.pool(),
        tree,
        image: Image::of_this_process(None)?,
    };
    let mut launcher = build(host, made)?;
    match launcher.begin() {
        Ok(()) => Ok(launcher),
        Err(e) => {
            launcher.end();
            Err(e)
        }
    }
}

/// Whether a configuration can work at all.
///
/// # Errors
/// [`LauncherError::Config`].
pub(super) fn check(host: &Host) -> Result<(), LauncherError> {
    let refuse = |what: String| Err(LauncherError::Config(what));
    let root = nix::unistd::geteuid().is_root();
    let last = host.uid_first.checked_add(host.uid_count);
    match (root, host.supervisor, last) {
        (true, None, _) => refuse("as root, a user for the supervisor is needed: set `user`".to_owned()),
        (true, Some((0, _)), _) => {
            refuse("the supervisor may not run as root: set another `user`".to_owned())
        }
        (true, _, None) => refuse("`uid_first` plus `uid_count` is larger than any uid".to_owned()),
        (true, Some((uid, _)), Some(last)) if (host.uid_first..last).contains(&uid) => refuse(format!(
            "the supervisor's uid {uid} is one that functions could get: move `uid_first`"
        )),
        (true, _, _) if host.uid_first == 0 => refuse("`uid_first` may not be 0, which is root".to_owned()),
        (false, Some((uid, _)), _) if uid != nix::unistd::geteuid().as_raw() => refuse(
            "only root can run the supervisor as another user: start funcd as root, or unset `user`"
                .to_owned(),
        ),
        _ => Ok(()),
    }
}

/// Signals, descriptors and namespaces of this process. Without privileges it first enters a user namespace, in which it
/// then does the same as root with what it has; `again`: the program before this one in this process did so.
///
/// # Errors
/// Those of the kernel.
pub(super) fn prepare_process(again: bool) -> Result<SignalFd, LauncherError> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD] {
        set.add(signal);
    }
    // SIGIO would come from a lease that is broken in the moment between its taking and giving back, SIGXFSZ from a file that
    // may not become as large as it should (`LimitFSIZE=`): writing it fails, which is enough.
    let mut blocked = set;
    blocked.add(Signal::SIGIO);
    blocked.add(Signal::SIGXFSZ);
    blocked
        .thread_block()
        .map_err(|e| kernel("blocking signals")(e.into()))?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&set, flags).map_err(|e| kernel("signalfd")(e.into()))?;
    umask(Mode::from_bits_truncate(0o077));
    // What instances leave behind comes to this process to be reaped, also where PID 1 reaps nothing.
    nix::sys::prctl::set_child_subreaper(true).map_err(|e| kernel("becoming a subreaper")(e.into()))?;
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Three descriptors for each instance; what instances themselves get is in their spec.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    if !again
        && !nix::unistd::geteuid().is_root()
        && let Err(e) = namespace::enter_user_namespace()
    {
        log(format_args!(
            "no user namespace: {e}; what can't be kept without is refused by name"
        ));
    }
    Ok(signals)
}

/// `funcd-` and the first 8 hexadecimal digits of the hash of the run folder, which names a host.
fn subtree_name(folders: &Folders) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, folders.run.as_os_str().as_encoded_bytes());
    let digits: String = hash
        .as_ref()
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("funcd-{digits}")
}

/// What a launcher is built from.
pub(super) struct Made {
    pub(super) folders: Folders,
    pub(super) listeners: Listeners,
    pub(super) descriptors: Descriptors,
    pub(super) signals: SignalFd,
    pub(super) store: Store,
    pub(super) uids: Uids,
    pub(super) tree: Tree,
    pub(super) pool: Pool,
    pub(super) image: Image,
}

/// Builds a launcher in which nothing runs yet.
///
/// # Errors
/// Those of the kernel, and of what tests say that the host is without.
pub(super) fn build(host: Host, made: Made) -> Result<Launcher, LauncherError> {
    let Made {
        folders,
        listeners,
        descriptors,
        signals,
        store,
        uids,
        tree,
        pool,
        image,
    } = made;
    let has_uids = host.supervisor.is_some() && host.uid_count > 0;
    let without = Without::of_environment().map_err(|e| LauncherError::Config(e.to_string()))?;
    let (facts, grades) = examine(&tree, folders.store_owned_by_root, has_uids, &without);
    tell_what_is_missing(&host, &grades);
    Ok(Launcher {
        floor: Floor::new(&host, &grades),
        descriptors,
        poll: Poll::new().map_err(kernel("epoll"))?,
        signals,
        counts_pids: facts.cgroup.pids,
        pool,
        tree: Some(tree),
        networks: Networks::default(),
        plan: Plan::new(&facts),
        grades,
        store,
        uids,
        secrets: Secrets::new(host.secrets.clone(), host.credentials.clone(), &folders.run),
        system: system::paths(),
        instances: BTreeMap::new(),
        children: HashMap::new(),
        leaving: Vec::new(),
        short_of_memory: Vec::new(),
        copies: VecDeque::new(),
        usage: VecDeque::new(),
        rest_until: Instant::now(),
        gone_on: VecDeque::new(),
        last_id: 0,
        supervisor: None,
        old: None,
        asking: 0,
        image,
        upgrade: Upgrade::None,
        again: false,
        late_kills: Vec::new(),
        generation: 0,
        short_lives: 0,
        restart_at: None,
        phase: Phase::Serving,
        notify: Notify::of_environment(),
        message: Box::new([0; MAX_MESSAGE]),
        buffer: Vec::new(),
        host,
        folders,
        listeners,
    })
}

/// What functions run without, or are refused for, is in the log of every start.
fn tell_what_is_missing(host: &Host, grades: &[Grade]) {
    for grade in grades.iter().filter(|grade| grade.mechanism.is_none()) {
        let Grade {
            property, cause, fix, ..
        } = grade;
        let code = property.code();
        if host.degraded.contains(property) {
            log(format_args!(
                "functions run without {code} `{property}`, which was accepted: {cause}"
            ));
        } else {
            log(format_args!(
                "no function can be started: {code} `{property}` is missing: {cause}; {fix}"
            ));
        }
    }
}

impl Launcher {
    /// What may fail once all is built.
    fn begin(&mut self) -> Result<(), LauncherError> {
        let too_large =
            |_| LauncherError::Config("the configuration is too large to hand to the supervisor".to_owned());
        handover::check(&self.welcome()).map_err(too_large)?;
        self.poll
            .add(&self.signals, Token::Signal)
            .map_err(kernel("epoll_ctl"))?;
        if let Err(e) = self.networks.prepare(&self.plan) {
            log(format_args!(
                "can't make a network namespace ahead of the first start: {e}"
            ));
        }
        self.self_check()?;
        self.start_supervisor()
    }
}

/// What every supervisor is handed, in this order.
fn descriptors(listeners: &mut Listeners, folders: &Folders) -> Result<Descriptors, LauncherError> {
    let copy = |fd: &OwnedFd| fd.try_clone().map(Rc::new).map_err(kernel("dup"));
    let mut all = Vec::new();
    for listener in listeners.callers.drain(..) {
        all.push((Descriptor::Listener, Rc::new(listener)));
    }
    all.push((Descriptor::Admin, copy(&listeners.admin)?));
    if let Some((fd, _)) = &listeners.admin_tcp {
        all.push((Descriptor::AdminTcp, copy(fd)?));
    }
    all.push((Descriptor::Functions, copy(&folders.functions)?));
    all.push((Descriptor::Sockets, copy(&folders.sockets)?));
    all.push((Descriptor::Logs, copy(&folders.logs)?));
    Ok(Descriptors(all))
}

fn kernel(what: &'static str) -> impl Fn(std::io::Error) -> LauncherError {
    move |source| LauncherError::Kernel { what, source }
}
