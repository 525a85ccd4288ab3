//! One supervisor after the other: how it is told things, what a new one is handed (the configuration, the host's
//! descriptors, the instances that already run), and what happens when it ends.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use super::poll::{Poll, Token};
use super::serve::{Instance, Launcher, Phase};
use super::standby;
use super::supervisor::{self, LinkError, Supervisor};
use super::{LauncherError, log};
use crate::cgroup::Tree;
use crate::exit::Exit;
use crate::spec::InstanceId;
use crate::sys::process::Status;
use crate::wire::{self, Descriptor, Event, Handover, MAX_FDS};

/// The descriptors of a host, in the order of [`Handover::descriptors`].
#[derive(Debug)]
pub(super) struct Descriptors(pub(super) Vec<(Descriptor, Rc<OwnedFd>)>);

impl Launcher {
    /// The first message to a supervisor.
    pub(super) fn welcome(&self) -> Event {
        Event::Welcome(Box::new(Handover {
            config: self.host.config.clone(),
            descriptors: self.descriptors.0.iter().map(|(kind, _)| *kind).collect(),
            version: wire::VERSION,
            generation: self.generation,
            next_id: InstanceId(self.supervisor.as_ref().map_or(self.last_id, |it| it.last_id) + 1),
            alone: self.old.as_ref().is_none_or(|old| old.yielded),
            grades: self.grades.clone(),
            can_stand_by: standby::can_stand_by(&self.plan),
            can_freeze: self.tree.as_ref().is_some_and(Tree::can_freeze),
        }))
    }

    /// Hands everything to the supervisor that was just started.
    ///
    /// # Errors
    /// When it must be ended.
    pub(super) fn hand_over(&mut self) -> Result<(), LinkError> {
        let old = self.old.as_ref().map(|old| old.supervisor.generation);
        self.drop_standbys(old);
        let welcome = self.welcome();
        // What ended before this supervisor knew of it is nothing that it must be told.
        for leaving in self.leaving.iter_mut().filter(|_| old.is_none()) {
            leaving.tell = None;
        }
        let Some(supervisor) = &mut self.supervisor else {
            return Ok(());
        };
        supervisor.tell(&welcome, Vec::new())?;
        for chunk in self.descriptors.0.chunks(MAX_FDS) {
            let fds = chunk.iter().map(|(_, fd)| Rc::clone(fd)).collect();
            supervisor.tell(&Event::Descriptors, fds)?;
        }
        let running = |(_, instance): &(_, &mut Instance)| {
            !instance.end_is_told && instance.waiting.is_none() && !instance.with_supervisor
        };
        for (&id, instance) in self.instances.iter_mut().filter(running) {
            instance.shared |= Some(instance.owner) == old;
            instance.owner = supervisor.generation;
            supervisor.tell(&inventory(id, instance), instance.descriptors())?;
        }
        supervisor.tell(&Event::InventoryEnd, Vec::new())
    }
}

impl Launcher {
    /// The supervisors that live.
    pub(super) fn supervisors(&mut self) -> impl Iterator<Item = &mut Supervisor> {
        let old = self.old.as_mut().map(|old| &mut old.supervisor);
        self.supervisor.iter_mut().chain(old)
    }

    /// One of them.
    pub(super) fn by_generation(&mut self, generation: u32) -> Option<&mut Supervisor> {
        self.supervisors()
            .find(|supervisor| supervisor.generation == generation)
    }

    /// Which of them a process is.
    pub(super) fn generation_of(&mut self, pid: i32) -> Option<u32> {
        let mut supervisors = self.supervisors();
        supervisors.find_map(|supervisor| (supervisor.pid == pid).then_some(supervisor.generation))
    }

    /// Tells a supervisor, if it is there.
    pub(super) fn tell(&mut self, generation: u32, event: &Event, fds: Vec<Rc<OwnedFd>>) {
        let Some(supervisor) = self.by_generation(generation) else {
            return;
        };
        let was_waiting = supervisor.is_waiting();
        match supervisor.tell(event, fds) {
            Ok(()) => self.watch_writable(generation, was_waiting),
            Err(e) => self.end_supervisor(generation, &e.to_string()),
        }
    }

    /// Tells all: what is news to one of them only, the other does not know.
    pub(super) fn tell_all(&mut self, event: &Event) {
        let generations: Vec<u32> = self
            .supervisors()
            .map(|supervisor| supervisor.generation)
            .collect();
        for generation in generations {
            self.tell(generation, event, Vec::new());
        }
    }

    /// Writability is only of interest while something waits.
    fn watch_writable(&mut self, generation: u32, was_waiting: bool) {
        let old = self.old.as_ref().map(|old| &old.supervisor);
        let mut supervisors = self.supervisor.iter().chain(old);
        let Some(supervisor) = supervisors.find(|supervisor| supervisor.generation == generation) else {
            return;
        };
        let Some(socket) = supervisor.socket() else {
            return;
        };
        let waits = supervisor.is_waiting();
        if waits != was_waiting
            && let Err(e) = self
                .poll
                .watch_writable(socket, Token::Supervisor(generation), waits)
        {
            self.end_supervisor(generation, &e.to_string());
        }
    }

    pub(super) fn flush_supervisor(&mut self, generation: u32) {
        let Some(supervisor) = self.by_generation(generation) else {
            return;
        };
        let was_waiting = supervisor.is_waiting();
        match supervisor.flush() {
            Ok(()) => self.watch_writable(generation, was_waiting),
            Err(e) => self.end_supervisor(generation, &e.to_string()),
        }
    }

    /// Ends a supervisor that can't be worked with; its end brings the next one.
    pub(super) fn end_supervisor(&mut self, generation: u32, why: &str) {
        if let Some(supervisor) = self.by_generation(generation) {
            log(format_args!("ending supervisor {}: {why}", supervisor.pid));
            supervisor.give_up();
        }
    }

    /// Its end of the connection is closed.
    pub(super) fn let_supervisor_go(&mut self, generation: u32) {
        let retires = self.is_retiring() && generation != self.generation;
        if let Some(supervisor) = self.by_generation(generation) {
            supervisor.let_go(Instant::now());
            if retires {
                // It has its own time.
                supervisor.end_by = None;
            }
        }
    }

    pub(super) fn on_supervisor_end(&mut self, generation: u32) {
        if generation != self.generation {
            return self.on_old_end(generation);
        }
        let Some(status) = self.supervisor.as_ref().and_then(Supervisor::try_reap) else {
            return;
        };
        if self.is_on_trial() {
            self.supervisor = None;
            return self.go_back(&format!("the new supervisor {} before it was ready", how(status)));
        }
        let Some(ended) = self.supervisor.take() else {
            return;
        };
        if let Some(old) = &mut self.old {
            old.forget_put_off();
        }
        // Nobody waits for these answers any more.
        self.copies.retain(|(asker, ..)| *asker != generation);
        self.usage.retain(|(asker, _)| *asker != generation);
        if self.phase != Phase::Serving {
            self.phase = Phase::Over;
            return;
        }
        let how = how(status);
        self.notify
            .interrupted("the supervisor ended; callers wait for the next one");
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

    pub(super) fn replace_supervisor(&mut self, now: Instant) {
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
        let last_id = self.last_id_for_another();
        let supervisor = Supervisor::start(&self.host, tree, (self.generation, last_id))?;
        let watched = watch(&self.poll, &supervisor);
        self.supervisor = Some(supervisor);
        if let Some(watchdog) = &mut self.notify.watchdog {
            watchdog.afresh(Instant::now());
        }
        if let Err(source) = watched {
            self.end_supervisor(self.generation, "it can't be watched");
            return Err(LauncherError::Kernel {
                what: "epoll_ctl",
                source,
            });
        }
        if let Err(e) = self.hand_over() {
            self.end_supervisor(self.generation, &e.to_string());
        }
        self.watch_writable(self.generation, false);
        Ok(())
    }
}

/// How it ended, in words.
fn how(status: Status) -> Exit {
    match status {
        Status::Code(code) => Exit::Code { code },
        Status::Signal(signal) => Exit::Signal { signal },
    }
}

/// From now on what it says is heard, and that it ends.
///
/// # Errors
/// Those of epoll_ctl.
pub(super) fn watch(poll: &Poll, supervisor: &Supervisor) -> io::Result<()> {
    let generation = supervisor.generation;
    poll.add(supervisor.pidfd(), Token::SupervisorEnd(generation))?;
    supervisor
        .socket()
        .map_or(Ok(()), |socket| poll.add(socket, Token::Supervisor(generation)))
}

pub(super) fn inventory(id: InstanceId, instance: &Instance) -> Event {
    Event::Inventory {
        id,
        pid: instance.sandbox.pid,
        terminating: instance.sandbox.is_terminating(),
        frozen: instance.sandbox.is_frozen(),
        memo: instance.memo.to_vec(),
    }
}

/// Whether the welcome fits in a message.
///
/// # Errors
/// `InvalidData` when it does not: the configuration is too large.
pub(super) fn check(welcome: &Event) -> io::Result<()> {
    wire::encode(welcome).map(drop)
}
