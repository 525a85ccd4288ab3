//! Two supervisors at once: the one that serves, and the one before it, which finishes what it has. Both have requests in the same
//! instances, so that what the new one wants to end or stop waits until the old one is gone.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::handover::inventory;
use super::log;
use super::poll::Token;
use super::serve::Launcher;
use super::supervisor::Supervisor;
use crate::spec::InstanceId;
use crate::wire::{Event, Request};

/// Ids that the old one may still give: the new one begins behind them.
const IDS: u64 = 1 << 15;
/// Beyond the time that it may drain.
const MARGIN: Duration = Duration::from_secs(5);
/// What is left over when the old one is gone and was to be killed may stop by itself for so long.
const STOP: Duration = Duration::from_secs(5);

/// The supervisor before the one that serves.
#[derive(Debug)]
pub(super) struct Old {
    pub(super) supervisor: Supervisor,
    /// Set once it was told to retire: it must be gone by then.
    until: Option<Instant>,
    /// It accepts nothing and reads nothing any more.
    pub(super) yielded: bool,
    /// What the new one asked for and has to wait.
    put_off: PutOff,
}

/// What a supervisor asked for while the one before it has requests in the same instances, in its order.
#[derive(Debug, Default)]
struct PutOff(Vec<Request>);

impl PutOff {
    /// `most`: a supervisor that asks for more is not heard.
    fn add(&mut self, request: Request, most: usize) {
        if matches!(request, Request::Retain { .. }) {
            self.stored();
        }
        // One that asks for the same again and again has it once.
        if self.0.len() < most && !self.0.contains(&request) {
            self.0.push(request);
        }
    }

    /// What was to be retained before this was stored would not have it: whoever stores tells again.
    fn stored(&mut self) {
        self.0
            .retain(|request| !matches!(request, Request::Retain { .. }));
    }

    /// It is wanted again.
    fn thawed(&mut self, id: InstanceId) {
        self.0.retain(|request| *request != Request::Freeze { id });
    }
}

impl Old {
    /// It serves until it is told to retire.
    pub(super) fn new(mut supervisor: Supervisor) -> Old {
        supervisor.max_id = supervisor.last_id.saturating_add(IDS);
        Old {
            supervisor,
            until: None,
            yielded: false,
            put_off: PutOff::default(),
        }
    }

    /// Who asked for it is gone, and what is served with now is for the next one to say.
    pub(super) fn forget_put_off(&mut self) {
        self.put_off = PutOff::default();
    }

    /// When it is to be looked at.
    pub(super) fn due(&self) -> Option<Instant> {
        let stuck = self.supervisor.stuck_at();
        self.until.into_iter().chain(stuck).min()
    }
}

impl Launcher {
    /// The last id before those of a supervisor that is about to be started.
    pub(super) fn last_id_for_another(&self) -> u64 {
        let gap = if self.old.is_some() { IDS } else { 0 };
        self.last_id.saturating_add(gap).min(Token::MAX_ID - 1)
    }

    /// Whether the old one was told to retire.
    pub(super) fn is_retiring(&self) -> bool {
        self.old.as_ref().is_some_and(|old| old.until.is_some())
    }

    /// The new one serves: the old one finishes.
    pub(super) fn retire_old(&mut self, now: Instant) {
        let drain = Duration::from_millis(self.host.drain_millis) + MARGIN;
        let Some(old) = &mut self.old else {
            return self.tell(self.generation, &Event::Alone, Vec::new());
        };
        old.until = Some(now + drain);
        let generation = old.supervisor.generation;
        self.tell(generation, &Event::Retire, Vec::new());
    }

    pub(super) fn on_yielded(&mut self, asker: u32) {
        if let Some(old) = &mut self.old
            && old.supervisor.generation == asker
            && !std::mem::replace(&mut old.yielded, true)
        {
            self.tell(self.generation, &Event::Alone, Vec::new());
        }
    }

    /// Connections of an instance go from the old one to the new one.
    pub(super) fn pass(&mut self, asker: u32, id: InstanceId, fds: Vec<OwnedFd>) {
        let shared = self.instances.get(&id).is_some_and(|instance| instance.shared);
        if asker != self.generation && shared {
            let fds = fds.into_iter().map(Rc::new).collect();
            self.tell(self.generation, &Event::Passed { id }, fds);
        }
    }

    /// What may be done now of a request; the rest waits, or is nothing to its asker any more.
    pub(super) fn put_off(&mut self, request: Request) -> Option<Request> {
        let asker = self.asking;
        let retires = self.is_retiring();
        let Some(old) = &mut self.old else {
            return Some(request);
        };
        let is_old = old.supervisor.generation == asker;
        let instances = &self.instances;
        let is_shared = |id: &InstanceId| instances.get(id).is_some_and(|instance| instance.shared);
        let disturbs = match &request {
            Request::Terminate { id } | Request::Kill { id } | Request::Freeze { id } => is_shared(id),
            Request::Retain { .. } => true,
            Request::Thaw { id } => {
                old.put_off.thawed(*id);
                false
            }
            Request::Store { .. } => {
                if !is_old {
                    old.put_off.stored();
                }
                false
            }
            Request::Launch { .. }
            | Request::Prepare { .. }
            | Request::Sockets { .. }
            | Request::Usage { .. }
            | Request::Look { .. }
            | Request::Goodbye
            | Request::Serving
            | Request::Pulse
            | Request::Upgrade { .. }
            | Request::Yielded
            | Request::Pass { .. } => false,
        };
        match (disturbs, is_old) {
            (false, _) => Some(request),
            // Until it retires, it is the one that serves.
            (true, true) => (!retires).then_some(request),
            (true, false) => {
                old.put_off.add(request, 4 * self.host.max_instances);
                None
            }
        }
    }

    pub(super) fn on_old_end(&mut self, generation: u32) {
        let ended = self.old.as_ref().is_some_and(|old| {
            old.supervisor.generation == generation && old.supervisor.try_reap().is_some()
        });
        if !ended {
            return;
        }
        let Some(old) = self.old.take() else { return };
        self.copies.retain(|(asker, ..)| *asker != generation);
        self.usage.retain(|(asker, _)| *asker != generation);
        let retired = old.until.is_some();
        log(format_args!(
            "supervisor {} {}",
            old.supervisor.pid,
            if retired {
                "has finished what it had"
            } else {
                "ended during the upgrade"
            }
        ));
        if retired && !old.yielded {
            self.tell(self.generation, &Event::Alone, Vec::new());
        }
        self.take_over_from(generation, retired);
        for request in old.put_off.0.iter().cloned() {
            match request {
                // It was to stop first, and was not asked to until now.
                Request::Kill { id } if old.put_off.0.contains(&Request::Terminate { id }) => {
                    self.late_kills.push((Instant::now() + STOP, id));
                }
                request => {
                    self.asking = self.generation;
                    self.act(request, Vec::new());
                }
            }
        }
        self.on_old_gone();
    }

    /// What the old one started for itself: what only it can reach ends, the rest is told to the new one.
    fn take_over_from(&mut self, generation: u32, retired: bool) {
        let mut left = Vec::new();
        for (&id, instance) in &mut self.instances {
            instance.shared = false;
            if instance.owner != generation || instance.end_is_told {
                continue;
            }
            if instance.waiting.is_some() || instance.with_supervisor {
                instance.waiting = None;
                instance.end_is_told = true;
                instance.sandbox.kill_all();
            } else {
                instance.owner = self.generation;
                left.push((inventory(id, instance), instance.descriptors()));
            }
        }
        // A supervisor that is not ready yet goes the way of the upgrade.
        if retired || self.is_on_trial() {
            for (event, fds) in left {
                self.tell(self.generation, &event, fds);
            }
        }
    }

    pub(super) fn on_old_time(&mut self, now: Instant) {
        if let Some(old) = &mut self.old
            && old.due().is_some_and(|at| now >= at)
        {
            log(format_args!(
                "supervisor {} did not finish in time: ending it, and what it had",
                old.supervisor.pid
            ));
            old.supervisor.give_up();
            old.supervisor.stalled = None;
            old.until = old.until.map(|_| now + MARGIN);
        }
        let due: Vec<InstanceId> = self
            .late_kills
            .iter()
            .filter_map(|(at, id)| (now >= *at).then_some(*id))
            .collect();
        self.late_kills.retain(|(at, _)| now < *at);
        for id in due {
            if let Some(instance) = self.instances.get_mut(&id) {
                instance.sandbox.kill();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_to_be_retained_before_something_was_stored_is_no_longer_asked_for() {
        let (early, late) = (
            Request::Retain {
                artifacts: Vec::new(),
            },
            Request::Retain {
                artifacts: vec![crate::spec::Digest([7; 32])],
            },
        );
        let kill = Request::Kill { id: InstanceId(3) };
        let mut put_off = PutOff::default();
        put_off.add(early.clone(), 9);
        put_off.add(kill.clone(), 9);
        put_off.stored();
        assert_eq!(put_off.0, std::slice::from_ref(&kill));
        // And of two the later one counts.
        put_off.add(early, 9);
        put_off.add(late.clone(), 9);
        assert_eq!(put_off.0, [kill, late]);
    }

    #[test]
    fn what_waits_is_bounded_and_there_once() {
        let freeze = |id| Request::Freeze { id: InstanceId(id) };
        let mut put_off = PutOff::default();
        for id in [1, 1, 2, 3] {
            put_off.add(freeze(id), 2);
        }
        assert_eq!(put_off.0, [freeze(1), freeze(2)]);
        put_off.thawed(InstanceId(1));
        assert_eq!(put_off.0, [freeze(2)]);
    }
}
