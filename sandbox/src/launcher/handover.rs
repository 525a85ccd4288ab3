//! One supervisor after the other: how it is told things, what a new one is handed (the configuration, the host's
//! descriptors, the instances that already run), and what happens when it ends.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use super::poll::Token;
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
            generation: self.generation,
            next_id: InstanceId(self.last_id + 1),
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
        self.drop_standbys();
        let welcome = self.welcome();
        // What ended before this supervisor knew of it is nothing that it must be told.
        for leaving in &mut self.leaving {
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
        let running = |(_, instance): &(_, &Instance)| !instance.end_is_told;
        for (&id, instance) in self.instances.iter().filter(running) {
            supervisor.tell(&inventory(id, instance), instance.descriptors())?;
        }
        supervisor.tell(&Event::InventoryEnd, Vec::new())
    }
}

impl Launcher {
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

    /// Its end of the connection is closed.
    pub(super) fn let_supervisor_go(&mut self) {
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.let_go(Instant::now());
        }
    }

    pub(super) fn on_supervisor_end(&mut self) {
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
        let supervisor = Supervisor::start(&self.host, tree)?;
        let watch = || -> io::Result<()> {
            self.poll.add(supervisor.pidfd(), Token::SupervisorEnd)?;
            supervisor
                .socket()
                .map_or(Ok(()), |socket| self.poll.add(socket, Token::Supervisor))
        };
        let watched = watch();
        self.supervisor = Some(supervisor);
        if let Some(watchdog) = &mut self.notify.watchdog {
            watchdog.afresh(Instant::now());
        }
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
}

fn inventory(id: InstanceId, instance: &Instance) -> Event {
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
