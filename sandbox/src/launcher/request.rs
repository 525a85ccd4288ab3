//! Answers to the supervisor's requests. Trusts nothing in them.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::launch::When;
use super::log;
use super::serve::{CopyState, Launcher, Phase};
use crate::namespace;
use crate::spec::InstanceId;
use crate::wire::{self, Event, MAX_FDS, Request, StoreError};

/// Requests that are answered before other events get their turn.
const BATCH: usize = 16;
/// Executables that may wait to be stored: each holds a descriptor.
const MAX_COPIES: usize = 4096;

impl Launcher {
    /// Reads what the supervisor sent, and sends what waits for it.
    pub(super) fn on_supervisor_socket(&mut self) {
        self.flush_supervisor();
        for _ in 0..BATCH {
            let Some(socket) = self
                .supervisor
                .as_ref()
                .and_then(|supervisor| supervisor.socket())
            else {
                return;
            };
            match wire::recv(socket, &mut self.message) {
                Ok(Some((request, fds))) => self.on_request(request, fds),
                // It ended, or is about to; how is told by its pidfd.
                Ok(None) => return self.let_supervisor_go(),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(e) => return self.end_supervisor(&format!("it sent what is no message: {e}")),
            }
        }
    }

    fn on_request(&mut self, request: Request, fds: Vec<OwnedFd>) {
        match request {
            Request::Store { ticket } => self.on_store(ticket, fds),
            Request::Retain { artifacts } => {
                let artifacts: BTreeSet<_> = artifacts.into_iter().collect();
                let runs = |digest| {
                    self.instances
                        .values()
                        .any(|instance| instance.artifact == digest)
                };
                if let Err(e) = self
                    .store
                    .retain(|digest| artifacts.contains(digest) || runs(*digest))
                {
                    log(format_args!("can't clear the store: {e}"));
                }
            }
            Request::Launch { id, spec } => self.on_launch(id, *spec, When::Now),
            Request::Prepare { id, spec } => self.on_launch(id, *spec, When::Told),
            Request::Terminate { id } => {
                if let Some(instance) = self.instances.get_mut(&id) {
                    instance.sandbox.terminate();
                }
            }
            Request::Kill { id } => {
                if let Some(instance) = self.instances.get_mut(&id) {
                    instance.sandbox.kill();
                }
            }
            Request::Freeze { id } => self.on_freeze(id),
            Request::Thaw { id } => self.on_thaw(id),
            Request::Sockets { id, count } => self.on_sockets(id, count.into()),
            // A bounded queue: who asks faster than it can be answered asks in vain.
            Request::Usage { ids } => {
                let room = (2 * self.host.max_instances).saturating_sub(self.usage.len());
                self.usage.extend(ids.into_iter().take(room));
            }
            Request::Look { id } => {
                if let Some(instance) = self.instances.get(&id) {
                    let condition = instance.sandbox.condition();
                    self.tell(&Event::Looked { id, condition }, Vec::new());
                }
            }
            Request::Serving => self.on_serving(),
            Request::Pulse => self.notify.answered(),
            Request::Goodbye => match self.phase {
                Phase::Draining(_) | Phase::Over => self.phase = Phase::Over,
                Phase::Serving => self.end_supervisor("it said goodbye unasked"),
            },
        }
    }

    /// Callers are accepted now. A supervisor may say so as often as it likes.
    fn on_serving(&mut self) {
        if self.phase == Phase::Serving {
            self.notify.ready();
        }
    }

    /// One that waits right before exec has nothing to freeze, and could not be woken.
    fn on_freeze(&mut self, id: InstanceId) {
        let runs = |instance: &&mut super::serve::Instance| instance.waiting.is_none();
        let Some(instance) = self.instances.get_mut(&id).filter(runs) else {
            return;
        };
        if let Err(e) = instance.sandbox.freeze() {
            log(format_args!("instance {id} can't be frozen and goes on: {e}"));
        }
    }

    fn on_thaw(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        if let Err(e) = instance.sandbox.thaw() {
            log(format_args!("instance {id} can't be thawed and is killed: {e}"));
            instance.sandbox.kill_all();
        }
    }

    fn on_store(&mut self, ticket: u64, fds: Vec<OwnedFd>) {
        let refuse = |what: &str| Event::Stored {
            ticket,
            result: Err(StoreError::Refused(what.to_owned())),
        };
        let Ok([file]) = <[OwnedFd; 1]>::try_from(fds) else {
            // Or none came, because there is no room for it.
            let what = "exactly one file must come with the request: raise the limit of open files of funcd";
            return self.tell(&refuse(what), Vec::new());
        };
        if self.copies.len() >= MAX_COPIES {
            return self.tell(
                &refuse("too many executables wait to be stored: try again"),
                Vec::new(),
            );
        }
        self.copies.push_back((ticket, CopyState::Waiting(file)));
    }

    /// An instance that is gone gets no answer: its end was told before.
    fn on_sockets(&mut self, id: InstanceId, count: usize) {
        let Some(instance) = self.instances.get_mut(&id).filter(|instance| instance.has_port) else {
            return;
        };
        let count = count.min(MAX_FDS);
        let made = match &instance.network {
            Some(network) => {
                use std::os::fd::AsFd;
                namespace::sockets_in(network.namespace().as_fd(), count)
            }
            None => super::network::host_sockets(count),
        };
        let sockets = made.unwrap_or_else(|e| {
            // Each request for it asks again.
            if !std::mem::replace(&mut instance.is_unreachable, true) {
                log(format_args!("instance {id}: can't make sockets to reach it: {e}"));
            }
            Vec::new()
        });
        self.tell(&Event::Sockets { id }, sockets.into_iter().map(Rc::new).collect());
    }
}
