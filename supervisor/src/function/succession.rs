//! From one supervisor to the next while both live: what instances write and ask is one's alone, the old one's until it yields.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use funcd_sandbox::spec::InstanceId;
use funcd_sandbox::wire::{MAX_FDS, Request};
use tokio::sync::oneshot;

use super::control::Control;
use super::entry::Entry;
use super::instance::{Address, Instance};
use crate::catalog::manifest::Contract;
use crate::egress::Taking;
use crate::name::FunctionName;

/// What belongs to an instance and is read, or listened to, by one supervisor at a time.
#[derive(Debug)]
pub(super) struct Later {
    pub(super) id: InstanceId,
    /// Its stdout and stderr.
    pub(super) output: [Option<OwnedFd>; 2],
    /// Where it asks the supervisor, within its network namespace.
    pub(super) ports: Vec<OwnedFd>,
}

/// The connections that instances wait on, from their desks.
pub(super) type Waited = Vec<(InstanceId, oneshot::Receiver<Vec<OwnedFd>>)>;

impl Control {
    /// Reads what an instance writes, and listens to what it asks.
    pub(super) fn take_shared(&mut self, name: &FunctionName, instance: &Arc<Instance>, shared: Later) {
        self.report
            .attach(name, &instance.revision, shared.id, shared.output);
        self.take_ports(name, instance, shared.ports);
    }

    /// The supervisor before this one has yielded.
    pub(super) fn on_alone(&mut self) {
        for shared in self.later.take().into_iter().flatten() {
            // It may have ended meanwhile; what it wrote last is told all the same.
            let name = self.owners.get(&shared.id).cloned();
            if let (Some(name), Some(instance)) = (name, self.instance(shared.id).map(Arc::clone)) {
                self.take_shared(&name, &instance, shared);
            }
        }
    }

    /// The next supervisor takes what instances write and ask from here on: what Lambda functions wait on goes there too. `None`:
    /// not yet, as there are requests that only this one's desks can have answered.
    pub(super) fn leave(&mut self) -> Option<Waited> {
        let is_asked = |entry: &Entry| {
            let is_lambda = matches!(entry.current().manifest.contract, Contract::Lambda { .. });
            is_lambda && entry.handle.admitted() + entry.handle.waiting() > 0
        };
        if self.entries.values().any(is_asked) {
            return None;
        }
        self.report.logs.stop();
        self.has_left = true;
        for (id, exits) in &self.exits {
            let goes_on = self
                .instance(*id)
                .is_some_and(|instance| instance.address.outlives());
            exits.take(if goes_on { Taking::None } else { Taking::Last });
        }
        let mut waited = Vec::new();
        for id in self.owners.keys() {
            if let Some(instance) = self.instance(*id)
                && let Address::Lambda(api) = &instance.address
            {
                waited.push((*id, api.leave()));
            }
        }
        Some(waited)
    }

    /// All of it was left.
    ///
    /// # Errors
    /// When the launcher is gone.
    pub(super) fn left(&mut self, waited: Vec<(InstanceId, Vec<OwnedFd>)>) -> io::Result<()> {
        for (id, mut connections) in waited {
            while !connections.is_empty() {
                let rest = connections.split_off(connections.len().min(MAX_FDS));
                self.launcher.send(&Request::Pass { id }, connections)?;
                connections = rest;
            }
        }
        self.launcher.send(&Request::Yielded, Vec::new())
    }

    /// Connections of an instance that the supervisor before this one had.
    pub(super) fn on_passed(&mut self, id: InstanceId, fds: Vec<OwnedFd>) {
        if let Some(instance) = self.instance(id)
            && let Address::Lambda(api) = &instance.address
        {
            fds.into_iter().for_each(|fd| api.take(fd));
        }
    }
}
