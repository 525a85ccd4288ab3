//! What a new supervisor is handed: the configuration, the host's descriptors, and the instances that already run.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::serve::{Instance, Launcher};
use super::supervisor::LinkError;
use crate::spec::InstanceId;
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
        }))
    }

    /// Hands everything to the supervisor that was just started.
    ///
    /// # Errors
    /// When it must be ended.
    pub(super) fn hand_over(&mut self) -> Result<(), LinkError> {
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
        for (&id, instance) in &self.instances {
            supervisor.tell(&inventory(id, instance), instance.output())?;
        }
        supervisor.tell(&Event::InventoryEnd, Vec::new())
    }
}

fn inventory(id: InstanceId, instance: &Instance) -> Event {
    Event::Inventory {
        id,
        pid: instance.sandbox.pid,
        terminating: instance.sandbox.is_terminating(),
        memo: instance.memo.clone(),
    }
}

/// Whether the welcome fits in a message.
///
/// # Errors
/// `InvalidData` when it does not: the configuration is too large.
pub(super) fn check(welcome: &Event) -> std::io::Result<()> {
    wire::encode(welcome).map(drop)
}
