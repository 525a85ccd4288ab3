//! What the launcher tells: how each event changes what exists. Asks the launcher for nothing but through
//! [`Control::requests`].

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use funcd_sandbox::exit::Exit;
use funcd_sandbox::spec::InstanceId;
use funcd_sandbox::wire::{Event, Request, Spent, Usage};

use super::awaited::in_vain;
use super::control::{Control, Notice};
use super::effects::Effects;
use super::entry::Entry;
use super::handle::Revision;
use super::instance::{Address, Directory, Ends, Instance, Pipes, SocketStock};
use super::liveness::watch_over;
use super::place::Ended;
use super::prove::prove;
use super::start;
use crate::catalog::guess::Guess;
use crate::catalog::manifest::Contract;
use crate::contract::lambda;
use crate::egress::{Taking, Whose};
use crate::name::FunctionName;

impl Control {
    pub(super) fn on_event(&mut self, event: Event, fds: Vec<OwnedFd>) {
        match event {
            Event::Bound { id } => self.on_bound(id),
            Event::Prepared { id } => self.on_prepared(id, fds),
            Event::Launched { id, pid } => self.on_launched(id, pid, fds),
            Event::LaunchFailed {
                id,
                step,
                errno,
                message,
            } => {
                self.on_exit(id, (Exit::Launch { step, errno }, Spent::default()), message);
            }
            Event::Exited { id, exit, spent } => {
                self.on_exit(id, (exit, spent), String::new());
                if self.busy.hears(id) {
                    self.tell_busy();
                }
            }
            Event::Stored { ticket, result } => self.on_stored(ticket, result),
            Event::Sockets { id } => {
                if let Some(instance) = self.instance(id)
                    && let Address::Port { stock, .. } = &instance.address
                {
                    stock.refill(fds);
                }
            }
            Event::Usage { id, usage } => self.on_usage(id, usage),
            Event::Looked { id, condition } => {
                if let Some(name) = self.owners.get(&id).cloned() {
                    self.with(&name, |entry, effects| entry.looked(id, condition, effects));
                }
            }
            Event::Shutdown => drop(self.notices.send(Notice::Shutdown)),
            Event::Reload => drop(self.notices.send(Notice::Reload)),
            Event::Upgraded { ticket, result } => {
                if let Some(answer) = self.upgrades.remove(&ticket) {
                    let _ = answer.send(result);
                }
            }
            Event::Retire => {
                self.retired = true;
                let _ = self.notices.send(Notice::Retire);
            }
            Event::Alone => self.on_alone(),
            Event::Passed { id } => self.on_passed(id, fds),
            Event::Inventory {
                id,
                pid,
                terminating,
                frozen,
                memo,
            } => self.inherit_late((id, pid), (terminating, frozen), memo, fds),
            // Sent with everything else, when this turn of control has come to its end.
            Event::Pulse => self.requests.push(Request::Pulse),
            Event::Welcome(_) | Event::Descriptors | Event::InventoryEnd => {
                tracing::warn!("the launcher sent a part of the handover again; ignored");
            }
        }
    }

    fn on_usage(&mut self, id: InstanceId, usage: Usage) {
        let Some(name) = self.owners.get(&id) else { return };
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let (total, new) = entry.note_usage(id, usage, Instant::now());
        self.report.usage(name, total, new);
        if self.busy.hears(id) {
            self.tell_busy();
        }
    }

    pub(super) fn instance(&self, id: InstanceId) -> Option<&Arc<Instance>> {
        self.entries
            .get(self.owners.get(&id)?)?
            .slot(id)?
            .instance
            .as_ref()
    }

    fn on_bound(&mut self, id: InstanceId) {
        let Some(name) = self.owners.get(&id).cloned() else {
            return;
        };
        let slot = self.entries.get(&name).and_then(|entry| entry.slot(id));
        let Some(revision) = slot.map(|slot| Arc::clone(&slot.revision)) else {
            return;
        };
        let instance = self.make_instance(&name, id, revision);
        self.with(&name, |entry, effects| entry.bound(id, instance, effects));
    }

    fn on_launched(&mut self, id: InstanceId, pid: i32, fds: Vec<OwnedFd>) {
        if let Some(name) = self.owners.get(&id).cloned()
            && self
                .entries
                .get(&name)
                .is_some_and(|entry| entry.singles.get(id).is_some())
        {
            return self.on_single_launched(&name, id, pid, fds);
        }
        // It may not have answered yet.
        self.on_woken(id);
        if self.instance(id).is_none() {
            self.on_bound(id);
        }
        let (Some(name), Some(instance)) = (self.owners.get(&id).cloned(), self.instance(id).cloned()) else {
            return;
        };
        self.with(&name, |entry, effects| entry.launched(id, pid, effects));
        let mut fds = fds.into_iter();
        // One with pipes brings its stderr first; the ends of the pipes come last.
        let has_pipes = matches!(instance.address, Address::Pipes(_));
        let stdout = if has_pipes { None } else { fds.next() };
        let output = [stdout, fds.next()];
        self.report.attach(&name, &instance.revision, id, output);
        let ports = start::ports(&instance.revision.manifest).count();
        let ports = fds.by_ref().take(ports).collect();
        self.take_ports(&name, &instance, ports);
        let listener = match &instance.address {
            Address::Unix(_) => fds.next(),
            Address::Port { .. } | Address::Lambda(_) => None,
            Address::Pipes(pipes) => {
                if let (Some(stdin), Some(stdout)) = (fds.next(), fds.next()) {
                    pipes.put(Ends { stdin, stdout });
                }
                None
            }
            Address::Directory(directory) => {
                if let Some(found) = fds.next() {
                    directory.found(found);
                }
                None
            }
        };
        let requests_wait = self
            .entries
            .get(&name)
            .is_some_and(|entry| entry.handle.admitted() > 0);
        self.watch_over(&name, &instance);
        tokio::spawn(prove(instance, listener, requests_wait, self.to_control.clone()));
    }

    /// What listens within its network is for its desk, and for its bindings.
    pub(super) fn take_ports(&mut self, name: &FunctionName, instance: &Arc<Instance>, ports: Vec<OwnedFd>) {
        let mut ports = ports.into_iter();
        if let Address::Lambda(api) = &instance.address
            && let Some(listener) = ports.next()
        {
            api.listen(listener);
        }
        self.let_out(name, instance, ports.collect());
    }

    /// Serves the bindings of an instance from now on, until it has ended.
    pub(super) fn let_out(&mut self, name: &FunctionName, instance: &Arc<Instance>, listeners: Vec<OwnedFd>) {
        // One that was prepared brings them twice.
        if !instance.revision.manifest.bindings.is_empty() && !self.exits.contains_key(&instance.id) {
            let whose = Whose {
                function: name.clone(),
                instance: Arc::clone(instance),
            };
            // The next supervisor has taken over all that it will before this one ends.
            let taking = if self.has_left { Taking::Last } else { Taking::All };
            let exits = self.egress.open(whose, listeners, taking);
            self.exits.insert(instance.id, exits);
        }
    }

    /// Until now it was not known that a request has woken it.
    fn on_single_launched(&mut self, name: &FunctionName, id: InstanceId, pid: i32, fds: Vec<OwnedFd>) {
        let launched = |entry: &mut Entry, effects: &mut Effects<'_>| {
            entry.single_woken(id, effects);
            entry.single_launched(id, pid)
        };
        let revision = self.with(name, launched).flatten();
        if let (Some(revision), Some(stderr)) = (revision, fds.into_iter().next()) {
            self.report.attach(name, &revision, id, [None, Some(stderr)]);
        }
    }

    /// Asks it now and then whether it is alive, if its manifest says so.
    pub(super) fn watch_over(&self, name: &FunctionName, instance: &Arc<Instance>) {
        if instance.revision.manifest.health.period.is_some() {
            let instance = Arc::downgrade(instance);
            tokio::spawn(watch_over(name.clone(), instance, self.to_control.clone()));
        }
    }

    pub(super) fn make_instance(
        &self,
        name: &FunctionName,
        id: InstanceId,
        revision: Arc<Revision>,
    ) -> Arc<Instance> {
        let address = match revision.manifest.contract {
            Contract::Http => Address::Unix(self.sockets.join(id.to_string())),
            Contract::Port(port) => Address::Port {
                port,
                stock: SocketStock::new(self.to_control.clone()),
            },
            Contract::Lambda { invoke } => {
                let whose = (id, &*revision);
                let setting = lambda::Setting::new(name, whose, invoke, self.to_control.clone());
                Address::Lambda(self.desks.open(setting))
            }
            Contract::Stdio | Contract::Cgi | Contract::Ironhttp => Address::Pipes(Pipes::default()),
            Contract::Fn => Address::Directory(Directory::default()),
        };
        Arc::new(Instance::new(id, revision, address))
    }

    pub(super) fn on_exit(&mut self, id: InstanceId, (exit, spent): (Exit, Spent), message: String) {
        // Its connections end with it.
        self.exits.remove(&id);
        if let Some(name) = self.standbys.remove(id) {
            tracing::debug!(function = %name, instance = %id, reason = message, "a prepared instance is gone");
            self.with(&name, |entry, effects| entry.lose_standby(id, effects));
            return;
        }
        let Some(name) = self.owners.remove(&id) else {
            return;
        };
        let entry = self.entries.get_mut(&name);
        let new = entry.map_or_else(Usage::default, |entry| entry.note_end_of_use(id, spent));
        // Nobody asks for an instance that is gone: without this the metrics would show its memory for ever.
        let left = self.entries.get(&name).map_or_else(Usage::default, Entry::usage);
        self.report.usage(&name, left, new);
        let exit = self.autopsy(&name, id, exit);
        let message = self.epitaph(&name, id, &exit, message);
        let ended = Ended {
            instance: id,
            exit,
            message,
            at: SystemTime::now(),
        };
        if let Some(single) = self.entries.get(&name).and_then(|entry| entry.singles.get(id)) {
            if !single.is_dismissed() {
                self.report
                    .ended_single(&name, id, &ended.exit, &ended.describe());
            }
            self.with(&name, |entry, effects| entry.single_ended(ended, effects));
            return;
        }
        self.report.ended(&name, id, &ended.exit, &ended.describe());
        if let Some(rollout) = self.with(&name, |entry, effects| entry.exited(ended, effects)) {
            self.after_rollout(&name, rollout);
        }
    }

    /// What is told of its end beside the exit, for whoever has to set it right. Nothing where the exit says it all.
    fn epitaph(&mut self, name: &FunctionName, id: InstanceId, exit: &Exit, message: String) -> String {
        if let Some(refused) = self.refused_instances.remove(&id) {
            return refused;
        }
        let Some(entry) = self.entries.get(name).filter(|_| message.is_empty()) else {
            return message;
        };
        if exit.is_asked_for() {
            return match (exit, entry.singles.get(id)) {
                (Exit::StopTimeout, Some(_)) => "killed: its request was over before it was".to_owned(),
                _ => message,
            };
        }
        let late = entry.slot(id).filter(|_| *exit == Exit::StartTimeout);
        let late = late.and_then(|slot| slot.instance.as_ref());
        let found = entry.current().manifest.found.as_ref();
        let found = found.filter(|_| !entry.current.proven);
        match (late, found) {
            (None, None) => message,
            (late, found) => {
                let awaited = late.map(|instance| format!(": {}", in_vain(&instance.revision.manifest)));
                let advice = found.map(Guess::advice);
                format!(
                    "{exit}{}{}",
                    awaited.unwrap_or_default(),
                    advice.unwrap_or_default()
                )
            }
        }
    }

    /// What its end is called: one that was replaced and then stopped ended for that reason. If it died by itself, the
    /// requests that it had are suspected.
    fn autopsy(&self, name: &FunctionName, id: InstanceId, exit: Exit) -> Exit {
        // A process of one request is never waited for to get ready: it was killed because its request was over.
        let is_single = self
            .entries
            .get(name)
            .is_some_and(|entry| entry.singles.get(id).is_some());
        if is_single && exit == Exit::StartTimeout {
            return Exit::StopTimeout;
        }
        let Some((entry, slot)) = self
            .entries
            .get(name)
            .and_then(|entry| Some((entry, entry.slot(id)?)))
        else {
            return exit;
        };
        // One that was never ready may have ended before it read any.
        let instance = slot.instance.as_ref();
        let was_ready = slot.ready_at.is_some() || instance.is_some_and(|instance| instance.has_read());
        let died = was_ready && !exit.is_asked_for();
        let in_flight = instance.map_or(0, |instance| instance.in_flight());
        for quarantined in entry.handle.poison().ended(id, died, in_flight, Instant::now()) {
            self.report.quarantined(name, &quarantined);
        }
        match &slot.ejected {
            Some(why) if exit.is_asked_for() => why.clone(),
            Some(_) | None => exit,
        }
    }
}
