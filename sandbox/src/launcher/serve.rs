//! The loop: handles what is ready, then does one small piece of background work, so that nothing waits long for it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::signalfd::SignalFd;

use super::folders::Folders;
use super::handover::Descriptors;
use super::listeners::Listeners;
use super::network::{Network, Networks};
use super::poll::{Poll, Token};
use super::supervisor::{self, LinkError, Supervisor};
use super::{Host, LauncherError, log};
use crate::cgroup::{Leaf, Pool, Tree};
use crate::exit::Exit;
use crate::floor::Floor;
use crate::probe::{Grade, Plan};
use crate::sandbox::Sandbox;
use crate::spec::{Digest, InstanceId};
use crate::store::{Copy, Progress, STEP, Store};
use crate::sys::process::{self, Child, Status};
use crate::uids::Uids;
use crate::wire::{Event, MAX_MESSAGE};

/// Beyond the time that the supervisor may drain: for it to notice, and to say goodbye.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);
/// How long after a v1 out-of-memory event the kernel's kill is looked for.
const OOM_WATCH: Duration = Duration::from_secs(1);
/// How often.
const OOM_LOOK: Duration = Duration::from_millis(5);

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
    pub(super) floor: Floor,
    pub(super) store: Store,
    pub(super) uids: Uids,
    /// What of the system dynamic executables and scripts see.
    pub(super) system: Vec<std::path::PathBuf>,
    pub(super) instances: BTreeMap<InstanceId, Instance>,
    /// Whose child a pid is.
    pub(super) children: HashMap<i32, InstanceId>,
    pub(super) leaving: Vec<Leaving>,
    /// Instances whose memory limit was reached, until the kernel's kill is seen.
    pub(super) short_of_memory: Vec<(InstanceId, Instant)>,
    pub(super) copies: VecDeque<(u64, CopyState)>,
    pub(super) usage: VecDeque<InstanceId>,
    pub(super) last_id: u64,
    pub(super) supervisor: Option<Supervisor>,
    pub(super) generation: u32,
    pub(super) short_lives: u32,
    pub(super) restart_at: Option<Instant>,
    pub(super) phase: Phase,
    pub(super) message: Box<[u8; MAX_MESSAGE]>,
    pub(super) buffer: Vec<u8>,
}

/// A running instance.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) sandbox: Sandbox,
    pub(super) artifact: Digest,
    pub(super) stdout: Rc<OwnedFd>,
    pub(super) stderr: Rc<OwnedFd>,
    pub(super) network: Option<Network>,
    /// Whether the function listens on a port, so that sockets are made in its namespace.
    pub(super) has_port: bool,
    pub(super) oom: Option<OwnedFd>,
    pub(super) memo: Vec<u8>,
}

impl Instance {
    /// The descriptors that a supervisor gets with it.
    pub(super) fn output(&self) -> Vec<Rc<OwnedFd>> {
        vec![Rc::clone(&self.stdout), Rc::clone(&self.stderr)]
    }
}

/// A leaf whose main process has ended, until nothing is in it.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) leaf: Leaf,
    /// Who is to be told, and what.
    pub(super) tell: Option<(InstanceId, Exit)>,
    pub(super) tries: u32,
    pub(super) next: Instant,
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
            self.work();
        }
        Ok(())
    }

    fn handle(&mut self, token: Token) {
        match token {
            Token::Signal => self.on_signals(),
            Token::Supervisor => self.on_supervisor_socket(),
            Token::SupervisorEnd => self.on_supervisor_end(),
            Token::InstanceEnd(id) => self.on_instance_end(id),
            Token::InstanceOom(id) => self.on_oom(id),
        }
    }

    /// How long the loop may wait: not at all while there is background work.
    fn timeout(&self, now: Instant) -> Option<Duration> {
        if self.has_work() {
            return Some(Duration::ZERO);
        }
        let drain = match self.phase {
            Phase::Draining(until) => Some(until),
            Phase::Serving | Phase::Over => None,
        };
        let stuck = self.supervisor.as_ref().and_then(Supervisor::stuck_at);
        let looks = self.short_of_memory.first().map(|_| now + OOM_LOOK);
        let leaving = self.leaving.iter().map(|leaving| leaving.next).min();
        let next = [drain, stuck, looks, leaving, self.restart_at]
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
            self.end_supervisor(&LinkError::Stalled.to_string());
        }
        self.look_for_oom_kills(now);
        self.remove_leaving(now);
    }

    fn has_work(&self) -> bool {
        !self.copies.is_empty()
            || !self.usage.is_empty()
            || self.pool.is_low()
            || self.networks.is_low()
            || self.uids.is_unsaved()
    }

    /// One piece of background work, about a millisecond at most.
    fn work(&mut self) {
        if self.pool.is_low() {
            if let Err(e) = self.pool.refill() {
                log(format_args!("can't make a cgroup ahead of a start: {e}"));
            }
        } else if self.networks.is_low() {
            if let Err(e) = self.networks.refill() {
                log(format_args!(
                    "can't make a network namespace ahead of a start: {e}"
                ));
            }
        } else if self.uids.is_unsaved() {
            if let Err(e) = self.uids.save() {
                log(format_args!("{e}"));
            }
        } else if let Some(id) = self.usage.pop_front() {
            if let Some(instance) = self.instances.get(&id) {
                let usage = instance.sandbox.leaf().usage();
                self.tell(&Event::Usage { id, usage }, Vec::new());
            }
        } else if let Some((ticket, state)) = self.copies.pop_front() {
            self.copy(ticket, state);
        }
    }

    fn copy(&mut self, ticket: u64, state: CopyState) {
        let progress = match state {
            CopyState::Waiting(source) => self
                .store
                .begin(source)
                .map(|copy| Progress::More(Box::new(copy))),
            CopyState::Running(copy) => {
                self.buffer.resize(STEP, 0);
                self.store.step(copy, &mut self.buffer)
            }
        };
        let result = match progress {
            Ok(Progress::More(copy)) => {
                self.copies.push_front((ticket, CopyState::Running(copy)));
                return;
            }
            Ok(Progress::Stored(digest, size)) => Ok((digest, size)),
            Err(e) => Err(e),
        };
        if self.copies.is_empty() {
            self.buffer = Vec::new();
        }
        self.tell(&Event::Stored { ticket, result }, Vec::new());
    }

    // Signals.

    fn on_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match info.ssi_signo as i32 {
                libc::SIGTERM | libc::SIGINT => self.on_stop(),
                libc::SIGHUP => self.tell(&Event::Reload, Vec::new()),
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
                if self.supervisor.is_none() {
                    // Nobody is there to drain.
                    self.phase = Phase::Over;
                }
                self.tell(&Event::Shutdown, Vec::new());
            }
            Phase::Draining(_) | Phase::Over => {
                log(format_args!("told to stop again: ending everything at once"));
                self.phase = Phase::Over;
            }
        }
    }

    /// Reaps what instances left behind: as their subreaper the launcher inherits it.
    pub(super) fn reap(&mut self) {
        while let Ok(Some((pid, _))) = process::wait(Child::Any, false) {
            if let Some(&id) = self.children.get(&pid) {
                self.on_instance_end(id);
            } else if self
                .supervisor
                .as_ref()
                .is_some_and(|supervisor| supervisor.pid == pid)
            {
                self.on_supervisor_end();
            } else if process::wait(Child::Pid(pid), true).is_err() {
                return;
            }
        }
    }

    // The supervisor.

    /// Tells the supervisor, if there is one.
    pub(super) fn tell(&mut self, event: &Event, fds: Vec<Rc<OwnedFd>>) {
        let Some(supervisor) = &mut self.supervisor else {
            return;
        };
        let was_waiting = supervisor.is_waiting();
        match supervisor.tell(event, fds) {
            Ok(()) => self.watch_writable(was_waiting),
            Err(e) => self.end_supervisor(&e.to_string()),
        }
    }

    /// Writability is only of interest while something waits.
    fn watch_writable(&mut self, was_waiting: bool) {
        let Some(supervisor) = &self.supervisor else {
            return;
        };
        let Some(socket) = supervisor.socket() else {
            return;
        };
        let waits = supervisor.is_waiting();
        if waits != was_waiting
            && let Err(e) = self.poll.watch_writable(socket, Token::Supervisor, waits)
        {
            self.end_supervisor(&e.to_string());
        }
    }

    pub(super) fn flush_supervisor(&mut self) {
        let Some(supervisor) = &mut self.supervisor else {
            return;
        };
        let was_waiting = supervisor.is_waiting();
        match supervisor.flush() {
            Ok(()) => self.watch_writable(was_waiting),
            Err(e) => self.end_supervisor(&e.to_string()),
        }
    }

    /// Ends a supervisor that can't be worked with; its end brings the next one.
    pub(super) fn end_supervisor(&mut self, why: &str) {
        if let Some(supervisor) = &mut self.supervisor {
            log(format_args!("ending supervisor {}: {why}", supervisor.pid));
            supervisor.give_up();
        }
    }

    fn on_supervisor_end(&mut self) {
        let Some(status) = self.supervisor.as_ref().and_then(Supervisor::try_reap) else {
            return;
        };
        let Some(ended) = self.supervisor.take() else {
            return;
        };
        // Nobody waits for these answers any more.
        self.copies.clear();
        self.usage.clear();
        if self.phase != Phase::Serving {
            self.phase = Phase::Over;
            return;
        }
        let how = match status {
            Status::Code(code) => Exit::Code { code },
            Status::Signal(signal) => Exit::Signal { signal },
        };
        let now = Instant::now();
        self.short_lives = if supervisor::was_short(ended.started, now) {
            self.short_lives.saturating_add(1)
        } else {
            0
        };
        let pause = supervisor::pause(self.short_lives);
        log(format_args!(
            "supervisor {}: {how}; starting another in {} ms",
            ended.pid,
            pause.as_millis()
        ));
        if pause.is_zero() {
            self.replace_supervisor(now);
        } else {
            self.restart_at = Some(now + pause);
        }
    }

    fn replace_supervisor(&mut self, now: Instant) {
        self.generation += 1;
        if let Err(e) = self.start_supervisor() {
            self.short_lives = self.short_lives.saturating_add(1);
            let pause = supervisor::pause(self.short_lives);
            log(format_args!("{e}; trying again in {} ms", pause.as_millis()));
            self.restart_at = Some(now + pause);
        }
    }

    /// Starts a supervisor and hands it what there is.
    ///
    /// # Errors
    /// When it can't be started.
    pub(super) fn start_supervisor(&mut self) -> Result<(), LauncherError> {
        let tree = self
            .tree
            .as_ref()
            .expect("the tree is there until `end`, which starts nothing");
        let supervisor = Supervisor::start(&self.host, tree)?;
        let watch = || -> io::Result<()> {
            self.poll.add(supervisor.pidfd(), Token::SupervisorEnd)?;
            supervisor
                .socket()
                .map_or(Ok(()), |socket| self.poll.add(socket, Token::Supervisor))
        };
        let watched = watch();
        self.supervisor = Some(supervisor);
        if let Err(source) = watched {
            self.end_supervisor("it can't be watched");
            return Err(LauncherError::Kernel {
                what: "epoll_ctl",
                source,
            });
        }
        if let Err(e) = self.hand_over() {
            self.end_supervisor(&e.to_string());
        }
        self.watch_writable(false);
        Ok(())
    }

    // Instances.

    pub(super) fn on_instance_end(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        let exit = match instance.sandbox.try_end() {
            Ok(Some(exit)) => exit,
            Ok(None) => return,
            Err(e) => {
                log(format_args!("instance {id} can't be waited for: {e}"));
                Exit::Lost
            }
        };
        let Some(instance) = self.instances.remove(&id) else {
            return;
        };
        self.children.remove(&instance.sandbox.child);
        self.short_of_memory.retain(|(other, _)| *other != id);
        let _ = std::fs::remove_file(self.folders.socket(&id.to_string()));
        self.leave(instance.sandbox.into_leaf(), Some((id, exit)));
    }

    /// Removes a leaf now, or as soon as nothing is in it; then tells.
    pub(super) fn leave(&mut self, leaf: Leaf, tell: Option<(InstanceId, Exit)>) {
        let now = Instant::now();
        self.leaving.push(Leaving {
            leaf,
            tell,
            tries: 0,
            next: now,
        });
        self.remove_leaving(now);
    }

    pub(super) fn remove_leaving(&mut self, now: Instant) {
        let mut index = 0;
        while let Some(leaving) = self.leaving.get_mut(index) {
            if leaving.next > now || !leaving.try_remove(now) {
                index += 1;
                continue;
            }
            if let Some((id, exit)) = self.leaving.swap_remove(index).tell {
                self.tell(&Event::Exited { id, exit }, Vec::new());
            }
        }
    }

    /// v1 tells that the limit is reached just before it kills; v2 kills the whole group by itself.
    fn on_oom(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get(&id) else {
            return;
        };
        if let Some(event) = &instance.oom {
            // Only to have it silent again; the count says nothing.
            let _ = nix::unistd::read(event, &mut [0; 8]);
        }
        self.short_of_memory.push((id, Instant::now() + OOM_WATCH));
    }

    fn look_for_oom_kills(&mut self, now: Instant) {
        let instances = &mut self.instances;
        self.short_of_memory.retain(|(id, until)| {
            let Some(instance) = instances.get_mut(id) else {
                return false;
            };
            let killed = instance.sandbox.leaf().oom_kills() > 0;
            if killed {
                instance.sandbox.kill_all();
            }
            !killed && now < *until
        });
    }
}

impl Leaving {
    /// Whether it is gone; otherwise it is tried again later, the more rarely the longer it takes.
    pub(super) fn try_remove(&mut self, now: Instant) -> bool {
        match self.leaf.remove() {
            Ok(true) => return true,
            Ok(false) => {}
            Err(e) if self.tries == 0 => log(format_args!("a cgroup can't be removed: {e}")),
            Err(_) => {}
        }
        // On v1 what forked during the last kill is still there.
        self.leaf.kill();
        let pause = Duration::from_millis(1) * 2_u32.saturating_pow(self.tries.min(6));
        self.tries += 1;
        self.next = now + pause;
        false
    }
}
