//! The loop: handles what is ready, then does one small piece of background work, so that nothing waits long for it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::signalfd::SignalFd;

use super::exits::{Leaving, OOM_LOOK};
use super::folders::Folders;
use super::handover::Descriptors;
use super::image::Image;
use super::listeners::Listeners;
use super::network::{Network, Networks};
use super::notify::{Due, Notify};
use super::poll::{Poll, Token};
use super::retire::Old;
use super::secrets::Secrets;
use super::standby::Waiting;
use super::supervisor::Supervisor;
use super::upgrade::Upgrade;
use super::{Host, LauncherError, log};
use crate::cgroup::{Pool, Tree};
use crate::floor::Floor;
use crate::probe::{Grade, Plan};
use crate::sandbox::Sandbox;
use crate::spec::{Digest, InstanceId};
use crate::store::{Copy, Progress, STEP, Store};
use crate::sys::ballast;
use crate::sys::process::{self, Child};
use crate::uids::Uids;
use crate::wire::{Event, MAX_MESSAGE, StoreError};

/// Beyond the time that the supervisor may drain: for it to notice, and to say goodbye.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);

/// The whole state of a running launcher. One owner, one thread.
pub(super) struct Launcher {
    pub(super) host: Host,
    pub(super) folders: Folders,
    pub(super) listeners: Listeners,
    pub(super) descriptors: Descriptors,
    pub(super) poll: Poll,
    pub(super) signals: SignalFd,
    pub(super) tree: Option<Tree>,
    pub(super) pool: Pool,
    pub(super) networks: Networks,
    pub(super) plan: Plan,
    pub(super) grades: Vec<Grade>,
    /// Whether cgroups limit the processes of each instance.
    pub(super) counts_pids: bool,
    pub(super) floor: Floor,
    pub(super) store: Store,
    pub(super) uids: Uids,
    pub(super) secrets: Secrets,
    /// All that functions may see of the system.
    pub(super) system: Vec<std::path::PathBuf>,
    pub(super) instances: BTreeMap<InstanceId, Instance>,
    /// Whose child a pid is.
    pub(super) children: HashMap<i32, InstanceId>,
    pub(super) leaving: Vec<Leaving>,
    /// Instances whose memory limit was reached, until the kernel's kill is seen.
    pub(super) short_of_memory: Vec<(InstanceId, Instant)>,
    /// Who asked for it, under which ticket, and how far it is.
    pub(super) copies: VecDeque<(u32, u64, CopyState)>,
    pub(super) usage: VecDeque<(u32, InstanceId)>,
    /// Nothing is made ahead before then.
    pub(super) rest_until: Instant,
    /// Instances that were prepared and let go of their status socket, and when they are looked at.
    pub(super) gone_on: VecDeque<(Instant, InstanceId)>,
    pub(super) last_id: u64,
    pub(super) supervisor: Option<Supervisor>,
    /// The one before it, while both live.
    pub(super) old: Option<Old>,
    /// The generation of the supervisor whose request is being answered.
    pub(super) asking: u32,
    pub(super) image: Image,
    pub(super) upgrade: Upgrade,
    /// There was a reload while one was under way.
    pub(super) again: bool,
    /// Instances that were asked to stop later than they should have been, and when they are killed.
    pub(super) late_kills: Vec<(Instant, InstanceId)>,
    pub(super) generation: u32,
    pub(super) short_lives: u32,
    pub(super) restart_at: Option<Instant>,
    pub(super) phase: Phase,
    pub(super) notify: Notify,
    pub(super) message: Box<[u8; MAX_MESSAGE]>,
    pub(super) buffer: Vec<u8>,
}

/// A running instance.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) sandbox: Sandbox,
    pub(super) artifact: Digest,
    /// `None` where it is the supervisor's alone.
    pub(super) stdout: Option<Rc<OwnedFd>>,
    pub(super) stderr: Rc<OwnedFd>,
    pub(super) network: Option<Network>,
    /// Whether the function listens on a port, so that sockets are made in its namespace.
    pub(super) has_port: bool,
    /// What the supervisor listens on in its namespace; every supervisor gets them.
    pub(super) ports: Vec<Rc<OwnedFd>>,
    pub(super) oom: Option<OwnedFd>,
    /// Shared by instances that were started alike.
    pub(super) memo: Rc<[u8]>,
    /// No sockets could be made to reach it, and that was said.
    pub(super) is_unreachable: bool,
    /// Until it runs, if it was prepared ahead.
    pub(super) waiting: Option<Waiting>,
    /// Whether it ends with the supervisor, which alone holds what it is reached by.
    pub(super) with_supervisor: bool,
    /// Its end is nothing that the supervisor must be told any more.
    pub(super) end_is_told: bool,
    /// The generation of the supervisor that started it, or took it over.
    pub(super) owner: u32,
    /// Whether the supervisor before that has requests in it too.
    pub(super) shared: bool,
}

impl Instance {
    /// The descriptors that a supervisor gets with it.
    pub(super) fn descriptors(&self) -> Vec<Rc<OwnedFd>> {
        let output = self.stdout.iter().chain([&self.stderr]);
        output.chain(&self.ports).map(Rc::clone).collect()
    }
}

/// A copy that waits for its turn, or is under way.
#[derive(Debug)]
pub(super) enum CopyState {
    Waiting(OwnedFd),
    Running(Box<Copy>),
}

/// Where in its life the launcher is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It serves.
    Serving,
    /// It was told to stop; the supervisor drains until then at the latest.
    Draining(Instant),
    /// Nothing is left but to end everything.
    Over,
}

impl Launcher {
    /// Serves until it is told to stop.
    ///
    /// # Errors
    /// When the kernel does not let it wait for events.
    pub(super) fn serve(&mut self) -> Result<(), LauncherError> {
        while self.phase != Phase::Over {
            let timeout = self.timeout(Instant::now());
            let ready = self.poll.wait(timeout).map_err(|source| LauncherError::Kernel {
                what: "epoll_wait",
                source,
            })?;
            for token in ready {
                self.handle(token);
            }
            self.on_time(Instant::now());
            self.work(Instant::now());
        }
        Ok(())
    }

    fn handle(&mut self, token: Token) {
        match token {
            Token::Signal => self.on_signals(),
            Token::Supervisor(generation) => self.on_supervisor_socket(generation),
            Token::SupervisorEnd(generation) => self.on_supervisor_end(generation),
            Token::CheckEnd => self.on_check_end(),
            Token::InstanceEnd(id) => self.on_instance_end(id),
            Token::InstanceOom(id) => self.on_oom(id),
            Token::Standby(id) => self.on_standby_event(id),
            Token::Secrets => self.secrets.renew(),
        }
    }

    /// How long the loop may wait: not at all while there is background work.
    fn timeout(&self, now: Instant) -> Option<Duration> {
        if self.has_work(now) {
            return Some(Duration::ZERO);
        }
        let drain = match self.phase {
            Phase::Draining(until) => Some(until),
            Phase::Serving | Phase::Over => None,
        };
        let stuck = self.supervisor.as_ref().and_then(Supervisor::stuck_at);
        let upgrade = self.upgrade.due();
        let retiring = self.old.as_ref().and_then(Old::due);
        let kills = self.late_kills.iter().map(|(at, _)| *at).min();
        let looks = self.short_of_memory.first().map(|_| now + OOM_LOOK);
        let leaving = self.leaving.iter().map(|leaving| leaving.next).min();
        let refill = self.is_low().then_some(self.rest_until);
        let secrets = self.secrets.look_at();
        let gone_on = self.gone_on.front().map(|(at, _)| *at);
        let next = [
            drain,
            stuck,
            looks,
            leaving,
            self.restart_at,
            refill,
            secrets,
            gone_on,
            upgrade,
            retiring,
            kills,
            self.notify.look_at(),
        ]
        .into_iter()
        .flatten()
        .min();
        next.map(|next| next.saturating_duration_since(now))
    }

    /// What has become due.
    fn on_time(&mut self, now: Instant) {
        if let Phase::Draining(until) = self.phase
            && now >= until
        {
            log(format_args!(
                "the supervisor did not drain in time: ending everything"
            ));
            self.phase = Phase::Over;
        }
        if self.restart_at.is_some_and(|at| now >= at) {
            self.restart_at = None;
            self.replace_supervisor(now);
        }
        if self
            .supervisor
            .as_ref()
            .and_then(Supervisor::stuck_at)
            .is_some_and(|at| now >= at)
        {
            self.end_supervisor(self.generation, "it does not read its messages, or does not end");
        }
        self.on_old_time(now);
        self.on_upgrade_time(now);
        self.notify.on_time(now);
        self.look_after_supervisor(now);
        if self.secrets.look_at().is_some_and(|at| now >= at) {
            self.secrets.renew();
        }
        while let Some(&(at, id)) = self.gone_on.front()
            && at <= now
        {
            self.gone_on.pop_front();
            self.on_standby(id);
        }
        self.look_for_oom_kills(now);
        self.remove_leaving(now);
        if ballast::is_gone() {
            // Nothing new is started before it is back.
            ballast::take();
        }
    }

    /// Asks the supervisor whether it is alive, as often as the service manager wants to know; one that does not answer is
    /// replaced before the manager ends everything.
    fn look_after_supervisor(&mut self, now: Instant) {
        match self.notify.watchdog.as_mut().map(|watchdog| watchdog.due(now)) {
            None | Some(Due::Nothing) => {}
            Some(Due::Ask) => self.tell(self.generation, &Event::Pulse, Vec::new()),
            Some(Due::Stuck) => self.end_supervisor(
                self.generation,
                "it does not answer, and the service manager's watchdog waits",
            ),
        }
    }

    fn has_work(&self, now: Instant) -> bool {
        !self.copies.is_empty()
            || !self.usage.is_empty()
            || self.uids.is_unsaved(now)
            || (self.is_low() && self.rest_until <= now)
    }

    /// Whether something that is made ahead was used up.
    fn is_low(&self) -> bool {
        self.pool.is_low() || self.networks.is_low()
    }

    /// One piece of background work, about a millisecond at most.
    fn work(&mut self, now: Instant) {
        let rested = self.rest_until <= now;
        if self.pool.is_low() && rested {
            if let Err(e) = self.pool.refill() {
                log(format_args!("can't make a cgroup ahead of a start: {e}"));
            }
        } else if self.networks.is_low() && rested {
            if let Err(e) = self.networks.refill() {
                log(format_args!(
                    "can't make a network namespace ahead of a start: {e}"
                ));
            }
        } else if self.uids.is_unsaved(Instant::now()) {
            if let Err(e) = self.uids.save() {
                log(format_args!("{e}"));
            }
        } else if let Some((asker, id)) = self.usage.pop_front() {
            self.tell_usage(asker, id);
        } else if let Some((asker, ticket, state)) = self.copies.pop_front() {
            self.copy(asker, ticket, state);
        }
    }

    pub(super) fn tell_usage(&mut self, asker: u32, id: InstanceId) {
        if let Some(instance) = self.instances.get_mut(&id) {
            let usage = instance.sandbox.usage(Instant::now());
            self.tell(asker, &Event::Usage { id, usage }, Vec::new());
        }
    }

    fn copy(&mut self, asker: u32, ticket: u64, state: CopyState) {
        let progress = match state {
            CopyState::Waiting(source) => self.store.begin(source),
            CopyState::Running(copy) => match self
                .buffer
                .try_reserve_exact(STEP.saturating_sub(self.buffer.len()))
            {
                Ok(()) => {
                    self.buffer.resize(STEP, 0);
                    self.store.step(copy, &mut self.buffer)
                }
                Err(_) => Err(StoreError::Refused(
                    "there is no memory to copy it with: free some, and copy the executable again".to_owned(),
                )),
            },
        };
        let result = match progress {
            Ok(Progress::More(copy)) => {
                self.copies.push_front((asker, ticket, CopyState::Running(copy)));
                return;
            }
            Ok(Progress::Stored(digest, size)) => Ok((digest, size)),
            Err(e) => Err(e),
        };
        if self.copies.is_empty() {
            self.buffer = Vec::new();
        }
        self.tell(asker, &Event::Stored { ticket, result }, Vec::new());
    }

    fn on_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match info.ssi_signo as i32 {
                libc::SIGTERM | libc::SIGINT => self.on_stop(),
                libc::SIGHUP => {
                    self.secrets.renew();
                    self.tell(self.generation, &Event::Reload, Vec::new());
                    self.upgrade(None);
                }
                libc::SIGCHLD => self.reap(),
                _ => {}
            }
        }
    }

    fn on_stop(&mut self) {
        match self.phase {
            Phase::Serving => {
                let until = Instant::now() + Duration::from_millis(self.host.drain_millis) + DRAIN_MARGIN;
                self.phase = Phase::Draining(until);
                self.give_up_upgrade();
                self.notify
                    .stopping(until.saturating_duration_since(Instant::now()) + super::end::PATIENCE);
                if self.supervisor.is_none() {
                    // Nobody is there to drain.
                    self.phase = Phase::Over;
                }
                self.tell(self.generation, &Event::Shutdown, Vec::new());
            }
            Phase::Draining(_) | Phase::Over => {
                log(format_args!("told to stop again: ending everything at once"));
                self.phase = Phase::Over;
            }
        }
    }

    /// Reaps what instances left behind: as their subreaper the launcher inherits it.
    pub(super) fn reap(&mut self) {
        let mut last = 0;
        while let Ok(Some((pid, _))) = process::wait(Child::Any, false) {
            // One that can't be reaped would be found for ever.
            if std::mem::replace(&mut last, pid) == pid {
                return;
            }
            if let Some(&id) = self.children.get(&pid) {
                self.on_instance_end(id);
            } else if let Some(generation) = self.generation_of(pid) {
                self.on_supervisor_end(generation);
            } else if self.upgrade.is_checked_by(pid) {
                self.on_check_end();
            } else if process::wait(Child::Pid(pid), true).is_err() {
                return;
            }
        }
    }
}
