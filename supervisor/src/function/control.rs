//! The one writer of what exists: takes what request paths, the launcher, the catalog and the admin API say, one
//! event after the other, and never blocks. Decisions are made in the pure modules beside it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use funcd_sandbox::exit::Exit;
use funcd_sandbox::spec::InstanceId;
use funcd_sandbox::wire::{Request, Spent};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::{mpsc, oneshot, watch};

use super::busy::Busy;
use super::deploy::{Sync, Tidiness};
use super::effects::Effects;
use super::entry::Entry;
use super::facts::HostReader;
use super::handle::ToControl;
use super::place::Rollout;
use super::report::Report;
use super::room::HostFacts;
use super::standby::Standbys;
use super::starts::Bucket;
use super::state::State;
use super::status::{self, FunctionStatus};
use super::succession::{Later, Waited};
use super::sweep::Agenda;
use crate::admission::brownout::Brownout;
use crate::catalog::manifest::Defaults;
use crate::catalog::{Candidate, Change};
use crate::contract::lambda;
use crate::egress::{self, Egress, Exits};
use crate::ingress::{Routes, Shared};
use crate::launcher::Launcher;
use crate::name::FunctionName;

/// How many sockets of a network namespace are asked for at once.
const SOCKETS_AT_ONCE: u8 = 16;
/// How often the instances' use of memory and CPU is asked for.
const SURVEY: Duration = Duration::from_secs(5);
/// The most instances that one survey asks for, so that the message stays within its bound.
const USAGE_AT_ONCE: usize = 4096;

/// What the rest of the daemon asks of `control`.
#[derive(Debug)]
pub enum Ask {
    /// What exists now.
    Status(oneshot::Sender<Vec<FunctionStatus>>),
    /// End every instance, then say goodbye to the launcher.
    Drain,
    /// Put the program in place that lies there by now; what came of it.
    Upgrade(oneshot::Sender<Result<String, String>>),
    /// Leave what instances ask and write to the next supervisor; what of it has to be passed on. `None`: not yet.
    Leave(oneshot::Sender<Option<Waited>>),
    /// That was done, and is passed on here; told once it was.
    Left(Vec<(InstanceId, Vec<OwnedFd>)>, oneshot::Sender<()>),
    /// Tell the launcher that callers are accepted.
    Serving,
}

/// What `control` is built from.
pub struct Parts {
    /// The socket to the launcher, past its handover.
    pub launcher: Launcher,
    /// Whether no other supervisor serves.
    pub alone: bool,
    /// Instances that earlier supervisors started.
    pub inventory: Vec<Inherited>,
    /// The host's defaults for manifests, to read those of the inventory again.
    pub defaults: Defaults,
    /// The smallest free instance id.
    pub next_id: u64,
    /// How many instances may wait right before exec.
    pub standbys: usize,
    /// How many workers there are.
    pub workers: usize,
    /// What bindings may reach, and how.
    pub outside: egress::Settings,
    /// How HTTP is served, also that of functions.
    pub shared: Arc<Shared>,
    /// Whether instances can be frozen on this host.
    pub can_freeze: bool,
    /// What tells what the host has left.
    pub facts: HostReader,
    /// What the host holds back.
    pub brownout: watch::Receiver<Brownout>,
    /// The folder of the instances' sockets.
    pub sockets: OwnedFd,
    /// The route table that request paths look at.
    pub routes: Arc<ArcSwap<Routes>>,
    /// What the catalog says.
    pub changes: mpsc::UnboundedReceiver<Change>,
    /// What the admin API and the daemon ask.
    pub asks: mpsc::UnboundedReceiver<Ask>,
    /// Where what happens is told.
    pub report: Report,
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
    /// The next supervisor serves.
    Retire,
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
    /// Whether it is frozen.
    pub frozen: bool,
    /// What the earlier supervisor said of it.
    pub memo: Vec<u8>,
    /// The read end of its stdout.
    pub stdout: OwnedFd,
    /// The read end of its stderr.
    pub stderr: OwnedFd,
    /// Where it asks the supervisor, within its network namespace.
    pub ports: Vec<OwnedFd>,
}

/// The one writer of what exists.
pub struct Control {
    pub(super) launcher: Launcher,
    pub(super) entries: BTreeMap<FunctionName, Entry>,
    /// Whose each instance is, from its launch to its end.
    pub(super) owners: HashMap<InstanceId, FunctionName>,
    /// The catalog's number of the last candidate of each function, for answers to it.
    pub(super) serials: HashMap<FunctionName, u64>,
    /// Candidates whose executable is being stored, by ticket.
    pub(super) storing: HashMap<u64, Candidate>,
    pub(super) next_ticket: u64,
    pub(super) next_id: u64,
    /// To read the memos of instances.
    pub(super) defaults: Defaults,
    pub(super) synced: Sync,
    /// Functions, their bindings, and the functions that those lead to and that do not exist.
    pub(super) astray: BTreeSet<(FunctionName, String, FunctionName)>,
    pub(super) tidiness: Tidiness,
    /// Everything is on its way out.
    pub(super) draining: bool,
    /// The launcher was told that nothing is left.
    pub(super) said_goodbye: bool,
    /// The next supervisor serves; this one finishes what it has.
    pub(super) retired: bool,
    /// What is left to the supervisor before this one until that yields; `None`: nothing any more.
    pub(super) later: Option<Vec<Later>>,
    /// Who waits for an upgrade, by ticket.
    pub(super) upgrades: HashMap<u64, oneshot::Sender<Result<String, String>>>,
    pub(super) routes: Arc<ArcSwap<Routes>>,
    pub(super) sockets: PathBuf,
    pub(super) _sockets: OwnedFd,
    pub(super) report: Report,
    pub(super) notices: mpsc::UnboundedSender<Notice>,
    pub(super) to_control: mpsc::UnboundedSender<ToControl>,
    pub(super) rng: SmallRng,
    pub(super) requests: Vec<Request>,
    pub(super) launches: Vec<(InstanceId, FunctionName)>,
    /// Starts that were not told of yet.
    pub(super) started: Vec<(InstanceId, FunctionName)>,
    pub(super) standbys: Standbys,
    /// Where Lambda functions ask.
    pub(super) desks: lambda::Threads,
    /// Where bindings are served.
    pub(super) egress: Egress,
    /// The bindings of instances that run, served for as long as they are in here.
    pub(super) exits: HashMap<InstanceId, Exits>,
    /// What instances write and ask is another supervisor's.
    pub(super) has_left: bool,
    /// The most processes for one request each that may wait, on the whole host.
    prepares_ahead: usize,
    /// How many do.
    singles_ahead: usize,
    /// Instances that were killed because they can't be reached, and why.
    pub(super) refused_instances: HashMap<InstanceId, String>,
    pub(super) can_freeze: bool,
    /// When which function is due.
    pub(super) agenda: Agenda,
    /// The functions that are looked at in each sweep.
    pub(super) in_use: BTreeSet<FunctionName>,
    pub(super) sweep_at: Instant,
    /// Those that are asked now.
    pub(super) busy: Busy,
    pub(super) facts: HostReader,
    pub(super) facts_at: Instant,
    /// What the host has left, as of `facts_at`.
    pub(super) host: HostFacts,
    /// What it holds back.
    pub(super) brownout: Brownout,
    /// What may be started again.
    pub(super) restarts: Bucket,
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
            serials: HashMap::new(),
            storing: HashMap::new(),
            next_ticket: 0,
            next_id: parts.next_id,
            defaults: Defaults::default(),
            synced: Sync::Reading,
            astray: BTreeSet::new(),
            tidiness: Tidiness::new(Instant::now()),
            draining: false,
            said_goodbye: false,
            retired: false,
            later: (!parts.alone).then(Vec::new),
            upgrades: HashMap::new(),
            routes: parts.routes,
            // The folder may lie where this user can't walk to; the descriptor always leads there, and the path stays
            // short enough for a socket address.
            sockets: PathBuf::from(format!("/proc/self/fd/{raw}")),
            _sockets: parts.sockets,
            report: parts.report,
            notices: parts.notices,
            to_control,
            rng: SmallRng::from_os_rng(),
            requests: Vec::new(),
            launches: Vec::new(),
            started: Vec::new(),
            standbys: Standbys::new(parts.standbys),
            desks: lambda::Threads::new(parts.workers),
            egress: Egress::new(parts.workers, parts.outside, parts.shared),
            exits: HashMap::new(),
            has_left: false,
            prepares_ahead: parts.standbys,
            singles_ahead: 0,
            refused_instances: HashMap::new(),
            can_freeze: parts.can_freeze,
            agenda: Agenda::default(),
            in_use: BTreeSet::new(),
            sweep_at: Instant::now(),
            busy: Busy::new(Instant::now()),
            facts: parts.facts,
            facts_at: Instant::now(),
            host: HostFacts::UNKNOWN,
            brownout: Brownout::NONE,
            restarts: Bucket::HOST,
        };
        control.inherit(parts.inventory, &parts.defaults);
        let (mut changes, mut asks, mut brownout) = (parts.changes, parts.asks, parts.brownout);
        let mut survey = tokio::time::interval(SURVEY);
        survey.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
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
                Ok(()) = brownout.changed() => control.on_brownout(*brownout.borrow_and_update()),
                () = sleep_until(deadline) => control.on_tick(),
                _ = survey.tick() => control.on_survey(),
            }
            if let Err(e) = control.send_requests() {
                return control.lost(Some(e));
            }
            control.report_starts();
            if control.draining && control.owners.is_empty() {
                control.draining = false;
                control.said_goodbye = true;
                if let Err(e) = control.launcher.send(&Request::Goodbye, Vec::new()) {
                    return control.lost(Some(e));
                }
            }
        }
    }

    fn lost(&mut self, why: Option<io::Error>) {
        match why {
            Some(e) => tracing::error!(error = %e, "lost the launcher"),
            // After the goodbye that is the answer to it.
            None if self.said_goodbye => {}
            None => tracing::error!("the launcher has closed its end"),
        }
        let _ = self.notices.send(Notice::LauncherGone);
    }

    /// Runs a decision about one function, then does what it asked for.
    pub(super) fn with<T>(
        &mut self,
        name: &FunctionName,
        decide: impl FnOnce(&mut Entry, &mut Effects<'_>) -> T,
    ) -> Option<T> {
        let waited = self.entries.get(name).map_or(0, |entry| entry.singles.ahead());
        let mut effects = Effects {
            now: Instant::now(),
            wall: SystemTime::now(),
            rng: &mut self.rng,
            host: &mut self.host,
            restarts: &mut self.restarts,
            requests: &mut self.requests,
            launches: &mut self.launches,
            may_prepare: self.prepares_ahead > 0,
            ahead: self.prepares_ahead.saturating_sub(self.singles_ahead),
            next_id: &mut self.next_id,
        };
        let entry = self.entries.get_mut(name)?;
        let before = entry.state();
        let was_held = entry.held.is_some();
        let result = decide(entry, &mut effects);
        let (after, gone) = (
            entry.state(),
            entry.is_removed() && entry.slots().is_empty() && entry.singles.is_empty(),
        );
        self.singles_ahead = (self.singles_ahead + entry.singles.ahead()).saturating_sub(waited);
        if before.as_str() != after.as_str() {
            tracing::debug!(function = %name, from = before.as_str(), to = after.as_str(), "state");
        }
        if let Some(why) = entry.held.filter(|_| !was_held) {
            self.report.held(name, why);
        }
        for news in std::mem::take(&mut entry.news) {
            self.report.news(name, news);
        }
        if gone {
            self.entries.remove(name);
        }
        self.note(name, Instant::now());
        self.started.extend_from_slice(&self.launches);
        for (id, name) in self.launches.drain(..) {
            self.standbys.remove(id);
            self.owners.insert(id, name);
        }
        let came_to_rest = before != State::Idle && after == State::Idle;
        self.stand_by(name, came_to_rest);
        Some(result)
    }

    /// Tells of starts once they are under way: writing a line of log takes as long as waking the launcher.
    fn report_starts(&mut self) {
        for (id, function) in std::mem::take(&mut self.started) {
            if let Some(slot) = self.entries.get(&function).and_then(|entry| entry.slot(id)) {
                self.report.starting(&function, id, &slot.revision);
            }
        }
    }

    fn send_requests(&mut self) -> io::Result<()> {
        // A launch that fails here may ask for the next one.
        while !self.requests.is_empty() {
            for request in std::mem::take(&mut self.requests) {
                match (self.launcher.send(&request, Vec::new()), &request) {
                    (Ok(()), _) => {}
                    // Too large to be sent: the launch fails as if the launcher had refused it.
                    (Err(e), Request::Launch { id, .. } | Request::Prepare { id, .. })
                        if e.kind() == io::ErrorKind::InvalidData =>
                    {
                        let message =
                            format!("the request to launch it is too large: {e}; shorten args and env");
                        let launch = Exit::Launch {
                            step: funcd_sandbox::exit::Step::Artifact,
                            errno: 0,
                        };
                        self.on_exit(*id, (launch, Spent::default()), message);
                    }
                    (Err(e), _) => return Err(e),
                }
            }
        }
        Ok(())
    }

    fn on_message(&mut self, message: ToControl) {
        match message {
            ToControl::Wanted(name) => {
                self.with(&name, Entry::wanted);
            }
            ToControl::InUse(name) => {
                if self.busy.begins(&name, Instant::now())
                    && let Some(entry) = self.entries.get_mut(&name)
                {
                    entry.forget_rates();
                }
                self.with(&name, |entry, effects| entry.asked(effects));
            }
            ToControl::Drained(id) => {
                if let Some(name) = self.owners.get(&id).cloned() {
                    self.with(&name, |entry, effects| match entry.singles.get(id) {
                        Some(_) => entry.single_left(id, effects),
                        None => entry.drained(id, effects),
                    });
                }
            }
            ToControl::Answered(id) => {
                self.on_woken(id);
                if let Some(name) = self.owners.get(&id).cloned() {
                    let began = self
                        .entries
                        .get(&name)
                        .and_then(|entry| entry.slot(id)?.started_at);
                    let rollout = self.with(&name, |entry, effects| entry.answered(id, effects));
                    if let Some(began) = began {
                        self.report.ready(&name, began.elapsed());
                    }
                    self.after_rollout(&name, rollout.unwrap_or(Rollout::Unchanged));
                }
            }
            ToControl::Overdue(id) => {
                if let Some(name) = self.owners.get(&id).cloned() {
                    self.with(&name, |entry, effects| entry.overdue(id, effects));
                }
            }
            ToControl::Broken(id) => self.requests.push(Request::Kill { id }),
            ToControl::Refused(id, why) => {
                if let Some(name) = self.owners.get(&id) {
                    self.report.refused_instance(name, id, &why);
                }
                self.refused_instances.insert(id, why);
                self.requests.push(Request::Kill { id });
            }
            // Judged by the next sweep: until then the launcher has told of an end, if that is why.
            ToControl::Failing(id) => {
                if let Some(name) = self.owners.get(&id).cloned() {
                    self.note(&name, Instant::now());
                }
            }
            ToControl::Unanswered(id) => {
                if let Some(name) = self.owners.get(&id).cloned() {
                    self.with(&name, |entry, effects| entry.look_at(id, effects));
                }
            }
            ToControl::SocketsLow(id) => {
                self.requests.push(Request::Sockets {
                    id,
                    count: SOCKETS_AT_ONCE,
                });
            }
        }
    }

    pub(super) fn after_rollout(&mut self, name: &FunctionName, rollout: Rollout) {
        match rollout {
            Rollout::Unchanged => {}
            Rollout::Promoted => {
                let revision = self.entries.get(name).map(|entry| entry.current().id.short());
                tracing::info!(function = %name, revision, "the new revision is ready and has the traffic");
                self.publish_routes();
            }
            Rollout::Abandoned(reason) => {
                let reason = format!("the new revision never got ready, the old one stays: {reason}");
                self.refuse(name, "never-ready", reason);
            }
        }
    }

    /// Asks what the instances use, tells how many there are in each state, tidies the store, and renews what waits.
    fn on_survey(&mut self) {
        let now = Instant::now();
        if !self.retired {
            self.tidy(now);
        }
        self.look_for_woken();
        if !self.retired {
            self.renew_standbys();
        }
        self.read_host(now);
        self.look_for_use(now);
        let mut ids: Vec<InstanceId> = self.owners.keys().copied().collect();
        ids.truncate(USAGE_AT_ONCE);
        if !ids.is_empty() {
            self.requests.push(Request::Usage { ids });
        }
        let mut by_state = BTreeMap::new();
        for slot in self.entries.values().flat_map(Entry::slots) {
            *by_state.entry(slot.state.as_str()).or_default() += 1;
        }
        by_state.insert("standby", self.standbys.len());
        self.report.instances(&by_state);
    }

    fn on_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Status(answer) => {
                let _ = answer.send(status::of(&self.entries, &self.egress));
            }
            Ask::Drain => {
                let names: Vec<_> = self.entries.keys().cloned().collect();
                for name in names {
                    self.with(&name, Entry::remove);
                }
                self.draining = true;
            }
            Ask::Upgrade(answer) => {
                let ticket = self.next_ticket;
                self.next_ticket += 1;
                self.upgrades.insert(ticket, answer);
                self.requests.push(Request::Upgrade { ticket });
            }
            Ask::Leave(answer) => drop(answer.send(self.leave())),
            Ask::Left(waited, done) => {
                // Without the launcher everything ends.
                let _ = self.left(waited);
                let _ = done.send(());
            }
            Ask::Serving => self.requests.push(Request::Serving),
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
