//! From one supervisor to the next while both live: what instances write and ask is one's alone, the old one's until it yields.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use funcd_sandbox::spec::InstanceId;
use funcd_sandbox::wire::Request;

use super::control::Control;
use super::instance::{Address, Instance};
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

    /// The next supervisor takes what instances write and ask from here on.
    pub(super) fn yield_to_next(&mut self) {
        self.report.logs.stop();
        for exits in self.exits.values() {
            exits.close();
        }
        self.requests.push(Request::Yielded);
    }

    /// Connections of an instance that the supervisor before this one had.
    pub(super) fn on_passed(&mut self, id: InstanceId, fds: Vec<OwnedFd>) {
        if let Some(instance) = self.instance(id)
            && let Address::Lambda(_api) = &instance.address
        {
            drop(fds);
        }
    }
}
