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
    pub(super) fn on_supervisor_socket(&mut self, generation: u32) {
        self.flush_supervisor(generation);
        for _ in 0..BATCH {
            // Not by `by_generation`, as what is read into is another part of this.
            let old = self.old.as_ref().map(|old| &old.supervisor);
            let supervisor = self
                .supervisor
                .iter()
                .chain(old)
                .find(|it| it.generation == generation);
            let Some(socket) = supervisor.and_then(|supervisor| supervisor.socket()) else {
                return;
            };
            self.asking = generation;
            match wire::recv(socket, &mut self.message) {
                Ok(Some((request, fds))) => self.on_request(request, fds),
                // It ended, or is about to; how is told by its pidfd.
                Ok(None) => return self.let_supervisor_go(generation),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(e) => {
                    return self.end_supervisor(generation, &format!("it sent what is no message: {e}"));
                }
            }
        }
    }

    fn on_request(&mut self, request: Request, fds: Vec<OwnedFd>) {
        // While two supervisors have requests in the same instances.
        if let Some(request) = self.put_off(request) {
            self.act(request, fds);
        }
    }

    pub(super) fn act(&mut self, request: Request, fds: Vec<OwnedFd>) {
        let asker = self.asking;
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
                self.usage
                    .extend(ids.into_iter().take(room).map(|id| (asker, id)));
            }
            Request::Look { id } => {
                if let Some(instance) = self.instances.get(&id) {
                    let condition = instance.sandbox.condition();
                    self.tell(asker, &Event::Looked { id, condition }, Vec::new());
                }
            }
            Request::Serving => self.on_serving(asker),
            Request::Pulse => self.notify.answered(),
            Request::Goodbye => match self.phase {
                _ if asker != self.generation => {}
                Phase::Draining(_) | Phase::Over => self.phase = Phase::Over,
                Phase::Serving => self.end_supervisor(asker, "it said goodbye unasked"),
            },
            Request::Upgrade { ticket } => self.upgrade(Some(ticket)),
            Request::Yielded => self.on_yielded(asker),
            Request::Pass { id } => self.pass(asker, id, fds),
        }
    }

    /// Callers are accepted now. A supervisor may say so as often as it likes.
    fn on_serving(&mut self, asker: u32) {
        if self.phase == Phase::Serving && asker == self.generation {
            self.notify.ready();
            self.on_ready();
        }
    }

    /// One that waits right before exec has nothing to freeze, and could not be woken.
    fn on_freeze(&mut self, id: InstanceId) {
        // That it executed may not have been looked at yet: then it would be taken for frozen, and go on.
        self.on_standby(id);
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
            return self.tell(self.asking, &refuse(what), Vec::new());
        };
        if self.copies.len() >= MAX_COPIES {
            return self.tell(
                self.asking,
                &refuse("too many executables wait to be stored: try again"),
                Vec::new(),
            );
        }
        self.copies
            .push_back((self.asking, ticket, CopyState::Waiting(file)));
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
        self.tell(
            self.asking,
            &Event::Sockets { id },
            sockets.into_iter().map(Rc::new).collect(),
        );
    }
}
