//! The one writer of what exists: takes what request paths, the launcher, the catalog and the admin API say, one
//! event after the other, and never blocks. Decisions are made in the pure modules beside it.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use funcd_sandbox::exit::Exit;
use funcd_sandbox::spec::{Digest, InstanceId};
use funcd_sandbox::wire::{Event, Request, StoreError};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::{mpsc, oneshot};

use super::effects::Effects;
use super::entry::{Ended, Entry, Rollout};
use super::handle::{Function, Revision, ToControl};
use super::instance::{Address, Instance, SocketStock};
use super::prove::prove;
use super::start::Memo;
use super::status::{self, FunctionStatus};
use crate::catalog::manifest::Contract;
use crate::catalog::{Candidate, Change};
use crate::ingress::Routes;
use crate::launcher::Launcher;
use crate::name::{FunctionName, RevisionId};
use crate::telemetry::Telemetry;

/// How many sockets of a network namespace are asked for at once.
const SOCKETS_AT_ONCE: u8 = 16;
/// An executable that changed or was still open for writing while it was stored is looked at again after this.
const STORE_AGAIN: Duration = Duration::from_millis(250);

/// What the rest of the daemon asks of `control`.
#[derive(Debug)]
pub enum Ask {
    /// What exists now.
    Status(oneshot::Sender<Vec<FunctionStatus>>),
    /// End every instance, answer when the last one has ended.
    Drain(oneshot::Sender<()>),
}

/// What `control` is built from.
pub struct Parts {
    /// The socket to the launcher, past its handover.
    pub launcher: Launcher,
    /// Instances that earlier supervisors started.
    pub inventory: Vec<Inherited>,
    /// The smallest free instance id.
    pub next_id: u64,
    /// The folder of the instances' sockets.
    pub sockets: OwnedFd,
    /// The route table that request paths look at.
    pub routes: Arc<ArcSwap<Routes>>,
    /// What the catalog says.
    pub changes: mpsc::UnboundedReceiver<Change>,
    /// What the admin API and the daemon ask.
    pub asks: mpsc::UnboundedReceiver<Ask>,
    /// Logs and metrics of functions, and the catalog's ear.
    pub telemetry: Telemetry,
    /// Told once when the folder was read and everything in it was stored or refused, and the launcher's other events.
    pub notices: mpsc::UnboundedSender<Notice>,
}

/// What `control` tells the daemon.
#[derive(Debug, PartialEq, Eq)]
pub enum Notice {
    /// The folder was read, and everything in it was stored or refused: callers may come.
    Synced,
    /// The launcher wants everything drained.
    Shutdown,
    /// The launcher wants the configuration read again.
    Reload,
    /// The launcher is gone.
    LauncherGone,
}

/// An instance that an earlier supervisor started.
#[derive(Debug)]
pub struct Inherited {
    /// Its id.
    pub id: InstanceId,
    /// The pid of its main process.
    pub pid: i32,
    /// Whether SIGTERM was already sent.
    pub terminating: bool,
    /// What the earlier supervisor said of it.
    pub memo: Vec<u8>,
    /// The read end of its stdout.
    pub stdout: OwnedFd,
    /// The read end of its stderr.
    pub stderr: OwnedFd,
}

/// The one writer of what exists.
pub struct Control {
    launcher: Launcher,
    entries: BTreeMap<FunctionName, Entry>,
    /// Whose each instance is, from its launch to its end.
    owners: HashMap<InstanceId, FunctionName>,
    /// Inherited instances of functions that the catalog has not named yet.
    inherited: HashMap<FunctionName, Vec<Inherited>>,
    /// Candidates whose executable is being stored, by ticket.
    storing: HashMap<u64, Candidate>,
    next_ticket: u64,
    next_id: u64,
    synced: Sync,
    draining: Vec<oneshot::Sender<()>>,
    routes: Arc<ArcSwap<Routes>>,
    sockets: PathBuf,
    _sockets: OwnedFd,
    telemetry: Telemetry,
    notices: mpsc::UnboundedSender<Notice>,
    to_control: mpsc::UnboundedSender<ToControl>,
    rng: SmallRng,
    requests: Vec<Request>,
    launches: Vec<(InstanceId, FunctionName)>,
}

/// How far the first reading of the folder is.
#[derive(Debug, PartialEq, Eq)]
enum Sync {
    /// The catalog has not told all of it.
    Reading,
    /// It has; these were told and are not stored yet.
    Storing,
    /// Everything is known.
    Done,
}

impl Control {
    /// Runs until the launcher is gone or everything was drained.
    pub async fn run(parts: Parts) {
        let (to_control, mut inbox) = mpsc::unbounded_channel();
        let raw: RawFd = parts.sockets.as_raw_fd();
        let mut control = Control {
            launcher: parts.launcher,
            entries: BTreeMap::new(),
            owners: HashMap::new(),
            inherited: HashMap::new(),
            storing: HashMap::new(),
            next_ticket: 0,
            next_id: parts.next_id,
            synced: Sync::Reading,
            draining: Vec::new(),
            routes: parts.routes,
            // The folder may lie where this user can't walk to; the descriptor always leads there, and the path stays
            // short enough for a socket address.
            sockets: PathBuf::from(format!("/proc/self/fd/{raw}")),
            _sockets: parts.sockets,
            telemetry: parts.telemetry,
            notices: parts.notices,
            to_control,
            rng: SmallRng::from_os_rng(),
            requests: Vec::new(),
            launches: Vec::new(),
        };
        control.inherit(parts.inventory);
        let (mut changes, mut asks) = (parts.changes, parts.asks);
        loop {
            let deadline = control.deadline();
            tokio::select! {
                biased;
                Some(message) = inbox.recv() => control.on_message(message),
                event = control.launcher.recv() => match event {
                    Ok(Some((event, fds))) => control.on_event(event, fds),
                    Ok(None) => return control.lost(None),
                    Err(e) => return control.lost(Some(e)),
                },
                Some(change) = changes.recv() => control.on_change(change),
                Some(ask) = asks.recv() => control.on_ask(ask),
                () = sleep_until(deadline) => control.on_tick(),
            }
            if let Err(e) = control.send_requests() {
                return control.lost(Some(e));
            }
            if control.owners.is_empty() {
                control.draining.drain(..).for_each(|done| drop(done.send(())));
            }
        }
    }

    fn lost(&mut self, why: Option<io::Error>) {
        match why {
            Some(e) => tracing::error!(error = %e, "lost the launcher"),
            None => tracing::error!("the launcher has closed its end"),
        }
        let _ = self.notices.send(Notice::LauncherGone);
    }

    /// Runs a decision about one function, then does what it asked for.
    fn with<T>(&mut self, name: &FunctionName, decide: impl FnOnce(&mut Entry, &mut Effects<'_>) -> T) -> Option<T> {
        let mut effects = Effects {
            now: Instant::now(),
            wall: SystemTime::now(),
            rng: &mut self.rng,
            to_control: &self.to_control,
            requests: &mut self.requests,
            launches: &mut self.launches,
            next_id: &mut self.next_id,
        };
        let entry = self.entries.get_mut(name)?;
        let before = entry.state();
        let result = decide(entry, &mut effects);
        let (after, gone) = (entry.state(), entry.is_removed() && entry.slots().is_empty());
        if before != after {
            tracing::debug!(function = %name, from = before, to = after, "state");
        }
        if gone {
            self.entries.remove(name);
        }
        self.owners.extend(self.launches.drain(..));
        Some(result)
    }

    fn send_requests(&mut self) -> io::Result<()> {
        for request in std::mem::take(&mut self.requests) {
            match (self.launcher.send(&request, Vec::new()), &request) {
                (Ok(()), _) => {}
                // Too large to be sent: the launch fails as if the launcher had refused it.
                (Err(e), Request::Launch { id, .. }) if e.kind() == io::ErrorKind::InvalidData => {
                    let message = format!("the request to launch it is too large: {e}; shorten args and env");
                    let launch = Exit::Launch { step: funcd_sandbox::exit::Step::Artifact, errno: 0 };
                    self.on_exit(*id, launch, message);
                }
                (Err(e), _) => return Err(e),
            }
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        self.entries.values().filter_map(Entry::deadline).min()
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        let due = |entry: &Entry| entry.deadline().is_some_and(|at| at <= now);
        let names: Vec<_> = self.entries.iter().filter(|(_, e)| due(e)).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.with(&name, Entry::tick);
        }
    }

    fn on_message(&mut self, message: ToControl) {
        match message {
            ToControl::Wanted(name) => {
                self.with(&name, Entry::wanted);
            }
            ToControl::Drained(id) => {
                if let Some(name) = self.owners.get(&id).cloned() {
                    self.with(&name, |entry, effects| entry.drained(id, effects));
                }
            }
            ToControl::Answered(id) => {
                if let Some(name) = self.owners.get(&id).cloned() {
                    let rollout = self.with(&name, |entry, effects| entry.answered(id, effects));
                    self.after_rollout(&name, rollout.unwrap_or(Rollout::Unchanged));
                }
            }
            ToControl::SocketsLow(id) => {
                self.requests.push(Request::Sockets { id, count: SOCKETS_AT_ONCE });
            }
        }
    }

    fn after_rollout(&mut self, name: &FunctionName, rollout: Rollout) {
        match rollout {
            Rollout::Unchanged => {}
            Rollout::Promoted => {
                let revision = self.entries.get(name).map(|entry| entry.current().id.short());
                tracing::info!(function = %name, revision, "the new revision is ready and has the traffic");
                self.telemetry.accepted(name);
                self.publish_routes();
            }
            Rollout::Abandoned(reason) => {
                tracing::warn!(function = %name, reason, "the new revision never got ready; the old one stays");
                self.telemetry.refused(name, "never-ready", format!("the new revision never got ready: {reason}"));
            }
        }
    }

    fn on_event(&mut self, event: Event, fds: Vec<OwnedFd>) {
        match event {
            Event::Launched { id, pid } => self.on_launched(id, pid, fds),
            Event::LaunchFailed { id, step, errno, message } => {
                self.on_exit(id, Exit::Launch { step, errno }, message);
            }
            Event::Exited { id, exit } => self.on_exit(id, exit, String::new()),
            Event::Stored { ticket, result } => self.on_stored(ticket, result),
            Event::Sockets { id } => {
                if let Some(instance) = self.instance(id)
                    && let Address::Port { stock, .. } = &instance.address
                {
                    stock.refill(fds);
                }
            }
            Event::Usage { id, usage } => {
                if let Some(name) = self.owners.get(&id) {
                    self.telemetry.usage(name, id, usage);
                }
            }
            Event::Shutdown => drop(self.notices.send(Notice::Shutdown)),
            Event::Reload => drop(self.notices.send(Notice::Reload)),
            Event::Welcome(_) | Event::Descriptors | Event::Inventory { .. } | Event::InventoryEnd => {
                tracing::warn!("the launcher sent a part of the handover again; ignored");
            }
        }
    }

    fn instance(&self, id: InstanceId) -> Option<&Arc<Instance>> {
        let entry = self.entries.get(self.owners.get(&id)?)?;
        entry.slots().iter().find(|slot| slot.id == Some(id))?.instance.as_ref()
    }

    fn on_launched(&mut self, id: InstanceId, pid: i32, fds: Vec<OwnedFd>) {
        let Some(name) = self.owners.get(&id).cloned() else { return };
        let slot = self.entries.get(&name).and_then(|e| e.slots().iter().find(|slot| slot.id == Some(id)));
        let Some(revision) = slot.map(|slot| Arc::clone(&slot.revision)) else { return };
        let mut fds = fds.into_iter();
        if let (Some(stdout), Some(stderr)) = (fds.next(), fds.next()) {
            self.telemetry.attach(&name, &revision, id, stdout, stderr);
        }
        let listener = fds.next();
        let instance = self.make_instance(id, revision);
        let requests_wait = self.entries.get(&name).is_some_and(|entry| entry.handle.admitted() > 0);
        self.with(&name, |entry, effects| entry.launched(id, pid, Arc::clone(&instance), effects));
        tokio::spawn(prove(instance, listener, requests_wait, self.to_control.clone()));
    }

    fn make_instance(&self, id: InstanceId, revision: Arc<Revision>) -> Arc<Instance> {
        let address = match revision.manifest.contract {
            Contract::Http => Address::Unix(self.sockets.join(id.to_string())),
            Contract::Port(port) => Address::Port { port, stock: SocketStock::new(self.to_control.clone()) },
        };
        Arc::new(Instance::new(id, revision, address))
    }

    fn on_exit(&mut self, id: InstanceId, exit: Exit, message: String) {
        let Some(name) = self.owners.remove(&id) else { return };
        let ended = Ended { instance: id, exit, message, at: SystemTime::now() };
        self.telemetry.ended(&name, id, &ended.exit, &ended.describe());
        if let Some(rollout) = self.with(&name, |entry, effects| entry.exited(ended, effects)) {
            self.after_rollout(&name, rollout);
        }
    }

    fn on_change(&mut self, change: Change) {
        match change {
            Change::Deploy(candidate) => self.store(candidate),
            Change::Remove(name) => {
                tracing::info!(function = %name, "removed");
                self.storing.retain(|_, candidate| candidate.name != name);
                self.with(&name, Entry::remove);
                self.publish_routes();
            }
            Change::Entries(entries) => {
                self.telemetry.entries(entries);
                if self.synced == Sync::Reading {
                    self.synced = Sync::Storing;
                }
            }
        }
        self.check_synced();
    }

    fn store(&mut self, candidate: Candidate) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        // A newer candidate of the same function replaces one that is still being stored.
        self.storing.retain(|_, older| older.name != candidate.name);
        let executable = match candidate.executable.try_clone() {
            Ok(executable) => executable,
            Err(e) => return self.refuse(&candidate.name, format!("can't duplicate its descriptor: {e}")),
        };
        if let Err(e) = self.launcher.send(&Request::Store { ticket }, vec![executable]) {
            return self.refuse(&candidate.name, format!("can't hand it to the launcher: {e}"));
        }
        self.storing.insert(ticket, candidate);
    }

    fn refuse(&mut self, name: &FunctionName, reason: String) {
        tracing::warn!(function = %name, reason, "refused");
        self.telemetry.refused(name, "not-stored", reason);
    }

    fn on_stored(&mut self, ticket: u64, result: Result<(Digest, u64), StoreError>) {
        let Some(candidate) = self.storing.remove(&ticket) else { return };
        let name = candidate.name.clone();
        match result {
            Ok((artifact, _)) => self.deploy(candidate, artifact),
            Err(StoreError::BeingWritten | StoreError::Changed) => {
                self.telemetry.retry(&name, STORE_AGAIN);
            }
            Err(StoreError::Refused(reason)) => self.refuse(&name, reason),
        }
        self.check_synced();
    }

    fn deploy(&mut self, candidate: Candidate, artifact: Digest) {
        let Candidate { name, manifest, manifest_text, image, .. } = candidate;
        let id = RevisionId::of(artifact, &manifest_text);
        let revision = Arc::new(Revision { id, artifact, image, manifest });
        let known = self.entries.get(&name).map(|entry| entry.current().id);
        if known != Some(id) {
            tracing::info!(function = %name, revision = id.short(), "deploying");
        }
        match known {
            None => {
                let effects = Effects {
                    now: Instant::now(),
                    wall: SystemTime::now(),
                    rng: &mut self.rng,
                    to_control: &self.to_control,
                    requests: &mut self.requests,
                    launches: &mut self.launches,
                    next_id: &mut self.next_id,
                };
                let entry = Entry::new(name.clone(), revision, &effects);
                self.entries.insert(name.clone(), entry);
                self.adopt(&name, id);
                self.with(&name, |entry, effects| entry.tick(effects));
            }
            Some(_) => {
                self.with(&name, |entry, effects| entry.deploy(revision, effects));
            }
        }
        self.telemetry.accepted(&name);
        self.publish_routes();
    }

    fn publish_routes(&mut self) {
        let live = self.entries.values().filter(|entry| !entry.is_removed());
        self.routes.store(Arc::new(Routes::new(live.map(|entry| Arc::clone(&entry.handle)))));
    }

    /// Notes what earlier supervisors left running, until the catalog names their functions.
    fn inherit(&mut self, inventory: Vec<Inherited>) {
        for inherited in inventory {
            match serde_json::from_slice::<Memo>(&inherited.memo) {
                Ok(memo) => self.inherited.entry(memo.function).or_default().push(inherited),
                Err(e) => {
                    tracing::warn!(instance = %inherited.id, error = %e, "unknown inherited instance; killed");
                    self.requests.push(Request::Kill { id: inherited.id });
                }
            }
        }
    }

    /// Takes over the inherited instances of a function that the catalog just named.
    fn adopt(&mut self, name: &FunctionName, current: RevisionId) {
        for inherited in self.inherited.remove(name).unwrap_or_default() {
            let Inherited { id, pid, terminating, memo, stdout, stderr } = inherited;
            let same = serde_json::from_slice::<Memo>(&memo).is_ok_and(|m| m.revision == current.to_string());
            if terminating || !same {
                // It ran a revision that is no longer in the folder; its callers went with the old supervisor.
                self.requests.push(Request::Kill { id });
                continue;
            }
            let Some(entry) = self.entries.get(name) else { continue };
            let revision = Arc::clone(entry.current());
            self.telemetry.attach(name, &revision, id, stdout, stderr);
            let instance = self.make_instance(id, revision);
            self.owners.insert(id, name.clone());
            self.with(name, |entry, effects| entry.adopt(id, pid, instance, effects));
        }
    }

    fn check_synced(&mut self) {
        if self.synced != Sync::Storing || !self.storing.is_empty() {
            return;
        }
        self.synced = Sync::Done;
        for (name, leftover) in std::mem::take(&mut self.inherited) {
            tracing::info!(function = %name, "its files went while no supervisor ran; its instances are killed");
            self.requests.extend(leftover.iter().map(|inherited| Request::Kill { id: inherited.id }));
        }
        let kept: Vec<Digest> = self.entries.values().map(|entry| entry.current().artifact).collect();
        // Forgetting is put off until everything is known, so that nothing in use is forgotten.
        for artifacts in [kept] {
            self.requests.push(Request::Retain { artifacts });
        }
        let _ = self.notices.send(Notice::Synced);
    }

    fn on_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Status(answer) => {
                let _ = answer.send(status::of(&self.entries));
            }
            Ask::Drain(done) => {
                let names: Vec<_> = self.entries.keys().cloned().collect();
                for name in names {
                    self.with(&name, Entry::remove);
                }
                self.draining.push(done);
            }
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// The functions that exist, for tests of what surrounds `control`.
pub type Functions = Vec<Arc<Function>>;
