//! Builds a launcher from what the one before it in this process left. Nothing is lost before all of it is there.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::carried::{self, Carried};
use super::exits::Leaving;
use super::folders::Folders;
use super::handover::{self, Descriptors};
use super::image::Image;
use super::listeners::Listeners;
use super::network::Network;
use super::poll::Token;
use super::serve::{Instance, Launcher};
use super::standby::Waiting;
use super::start::{self, Made};
use super::supervisor::{self, Outgoing, Supervisor};
use super::{Host, LauncherError, log};
use crate::cgroup::Tree;
use crate::confine::{self, Standby};
use crate::namespace;
use crate::sandbox::Sandbox;
use crate::store::Store;
use crate::sys::calls;
use crate::uids::Uids;
use crate::wire::Descriptor;

/// Goes on, or goes back.
///
/// # Errors
/// When neither is possible.
pub(super) fn resume(carried: Carried, host: Host) -> Result<Launcher, LauncherError> {
    let mut launcher = match rebuild(&carried, host) {
        Ok(launcher) => launcher,
        Err(e) => return Err(carried.go_back(&e.to_string())),
    };
    if let Some(tree) = &mut launcher.tree {
        tree.join_cpu();
    }
    let back = carried.shared(carried.document.head.image);
    let (ticket, why) = (carried.document.ticket, carried.why.clone());
    let host = carried.document.host.clone();
    // What was not taken over by now is not needed.
    drop(carried);
    match (why, back) {
        (Some(why), _) => {
            launcher.refuse(ticket, why);
            if launcher.supervisor.is_none() {
                launcher.replace_supervisor(Instant::now());
            }
        }
        (None, Ok(back)) => launcher.begin_trial(ticket, (back, host)),
        (None, Err(e)) => return Err(LauncherError::Carried(e.to_string())),
    }
    Ok(launcher)
}

/// Takes everything over, without changing anything that the program before could miss.
fn rebuild(carried: &Carried, mut host: Host) -> Result<Launcher, LauncherError> {
    start::check(&host)?;
    if !nix::unistd::geteuid().is_root() {
        host.supervisor = None;
    }
    let document = &carried.document;
    if !carried.is_back() {
        carried::fits(document, &host).map_err(LauncherError::Carried)?;
    }
    if let Some(supervisor) = &document.supervisor
        && supervisor.wire < crate::wire::OLDEST
    {
        return Err(LauncherError::Carried("its supervisor is too old".to_owned()));
    }
    // Else it would be a number (/dev/fd/7).
    let name = c"funcd".as_ptr() as usize;
    let _ = calls::prctl(libc::PR_SET_NAME, [name, 0, 0, 0]);
    let _ = calls::keep_capabilities(false);
    if document.in_user_namespace {
        namespace::note_entered();
    }
    crate::sys::ballast::take();
    let signals = start::prepare_process(true)?;
    let broken = |e: io::Error| LauncherError::Carried(e.to_string());
    let mut own = |fd: RawFd| carried.own(fd);
    let folders = Folders::again(&host, &document.folders, &mut own).map_err(broken)?;
    let uids = Uids::load(&folders.uids, host.uid_first, host.uid_count)?;
    let store = Store::open(&folders.store)
        .map_err(broken)?
        .knowing(document.known.clone());
    let descriptors = document.descriptors.iter();
    let descriptors: io::Result<Vec<_>> = descriptors
        .map(|(kind, fd)| Ok((*kind, carried.shared(*fd)?)))
        .collect();
    let descriptors = Descriptors(descriptors.map_err(broken)?);
    let listeners = listeners(&host, carried, &descriptors).map_err(broken)?;
    confine::drop_inheritable().map_err(broken)?;
    let (tree, pool) = Tree::again(document.tree.clone());
    let image = Image::of_this_process(Some(document.path.clone()))?;
    let instances = instances(carried, &tree).map_err(broken)?;
    let supervisor = document.supervisor.as_ref();
    let supervisor = supervisor
        .map(|it| supervisor_again(it, carried, &host))
        .transpose();
    let supervisor = supervisor.map_err(broken)?;
    let leaving = document.leaving.iter().map(|leaving| Leaving {
        leaf: tree.leaf(&leaving.leaf),
        tell: leaving.tell.clone(),
        tries: 0,
        next: Instant::now(),
    });
    let leaving = leaving.collect();
    let made = Made {
        folders,
        listeners,
        descriptors,
        signals,
        store,
        uids,
        tree,
        pool,
        image,
    };
    let mut launcher = start::build(host, made)?;
    launcher.leaving = leaving;
    launcher.children = instances
        .iter()
        .map(|(id, it)| (it.sandbox.child, *id))
        .collect::<HashMap<_, _>>();
    launcher.instances = instances;
    launcher.last_id = document.last_id;
    launcher.generation = document.generation;
    launcher.short_lives = document.short_lives;
    launcher.supervisor = supervisor;
    launcher.watch_again().map_err(broken)?;
    launcher.secrets.take_over(document.secrets.clone());
    if let Some(watched) = launcher.secrets.watched() {
        launcher.poll.add(watched, Token::Secrets).map_err(broken)?;
    }
    let soon = Instant::now() + Duration::from_secs(1);
    launcher.short_of_memory = document.short_of_memory.iter().map(|id| (*id, soon)).collect();
    log(format_args!(
        "funcd {} goes on with {} instances of funcd {}",
        env!("CARGO_PKG_VERSION"),
        launcher.instances.len(),
        document.head.program
    ));
    Ok(launcher)
}

fn listeners(host: &Host, carried: &Carried, descriptors: &Descriptors) -> io::Result<Listeners> {
    let of = |wanted: Descriptor| descriptors.0.iter().find(|(kind, _)| *kind == wanted);
    let missing = || io::Error::new(io::ErrorKind::NotFound, "a listening socket is missing");
    let admin = of(Descriptor::Admin).ok_or_else(missing)?.1.try_clone()?;
    let admin_tcp = match (of(Descriptor::AdminTcp), carried.document.admin_address) {
        (Some((_, fd)), Some(address)) => Some((fd.try_clone()?, address)),
        _ => None,
    };
    let addresses = carried.document.addresses.clone();
    Ok(Listeners::again(host, addresses, (admin, admin_tcp)))
}

fn instances(carried: &Carried, tree: &Tree) -> io::Result<BTreeMap<crate::spec::InstanceId, Instance>> {
    let mut memos: HashMap<Vec<u8>, Rc<[u8]>> = HashMap::new();
    let mut own = |fd: RawFd| carried.own(fd);
    let generation = carried.document.generation;
    let mut instances = BTreeMap::new();
    for it in &carried.document.instances {
        let share = |fds: &[RawFd]| -> io::Result<Vec<Rc<OwnedFd>>> {
            fds.iter().map(|fd| carried.shared(*fd)).collect()
        };
        let waiting = match &it.waiting {
            None => None,
            Some(waiting) => Some(Waiting {
                standby: Standby::again(&waiting.standby, &mut own)?,
                gifts: share(&waiting.gifts)?,
                function: waiting.function.clone(),
            }),
        };
        let memo = memos
            .entry(it.memo.clone())
            .or_insert_with(|| it.memo.as_slice().into());
        let instance = Instance {
            sandbox: Sandbox::again(&it.sandbox, &mut own, |leaf| tree.leaf(leaf))?,
            artifact: it.artifact,
            stdout: it.stdout.map(|fd| carried.shared(fd)).transpose()?,
            stderr: carried.shared(it.stderr)?,
            network: it
                .network
                .map(|fd| carried.shared(fd))
                .transpose()?
                .map(Network::again),
            has_port: it.has_port,
            ports: share(&it.ports)?,
            oom: it.oom.map(|fd| carried.own(fd)).transpose()?,
            memo: Rc::clone(memo),
            is_unreachable: it.is_unreachable,
            waiting,
            with_supervisor: it.with_supervisor,
            end_is_told: it.end_is_told,
            owner: generation,
            shared: false,
        };
        instances.insert(it.id, instance);
    }
    Ok(instances)
}

fn supervisor_again(it: &carried::Supervisor, carried: &Carried, host: &Host) -> io::Result<Supervisor> {
    let queue = it.queue.iter().map(|outgoing| {
        let fds = outgoing.fds.iter().map(|fd| carried.shared(*fd));
        Ok(Outgoing {
            bytes: outgoing.bytes.clone(),
            fds: fds.collect::<io::Result<_>>()?,
        })
    });
    let age = Duration::from_millis(it.age_millis);
    Ok(Supervisor {
        generation: it.generation,
        wire: it.wire,
        last_id: it.last_id,
        max_id: Token::MAX_ID,
        pid: it.pid,
        started: Instant::now().checked_sub(age).unwrap_or_else(Instant::now),
        pidfd: carried.own(it.pidfd)?,
        socket: it.socket.map(|fd| carried.own(fd)).transpose()?,
        queue: queue.collect::<io::Result<_>>()?,
        capacity: supervisor::capacity(host),
        stalled: None,
        // One that was let go of is given its time again.
        end_by: it
            .socket
            .is_none()
            .then(|| Instant::now() + Duration::from_secs(2)),
    })
}

impl Launcher {
    /// Watches everything that the launcher before watched.
    fn watch_again(&mut self) -> io::Result<()> {
        self.poll.add(&self.signals, Token::Signal)?;
        for (&id, instance) in &mut self.instances {
            self.poll.add(instance.sandbox.pidfd(), Token::InstanceEnd(id))?;
            if let Some(event) = &instance.oom {
                self.poll.add(event, Token::InstanceOom(id))?;
            }
            if let Some(waiting) = &instance.waiting {
                self.poll.add(waiting.standby.socket(), Token::Standby(id))?;
                if waiting.standby.is_ready() {
                    self.poll
                        .watch_closing(waiting.standby.socket(), Token::Standby(id))?;
                    // It may have told everything before this launcher was there to hear.
                    self.gone_on.push_back((Instant::now(), id));
                }
            }
        }
        if let Some(supervisor) = &self.supervisor {
            handover::watch(&self.poll, supervisor)?;
            if supervisor.is_waiting()
                && let Some(socket) = supervisor.socket()
            {
                let token = Token::Supervisor(supervisor.generation);
                self.poll.watch_writable(socket, token, true)?;
            }
        }
        Ok(())
    }
}
