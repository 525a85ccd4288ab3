//! How an entry replaces an instance whose requests fail, and stops starting what never gets ready. The rules are in
//! [`crate::admission::eject`] and [`super::backoff`]; that a process is overloaded, stopped or debugged is never held against it.

use std::time::{Duration, Instant};

use funcd_sandbox::exit::Exit;
use funcd_sandbox::spec::InstanceId;
use funcd_sandbox::wire::Condition;

use super::effects::Effects;
use super::entry::Entry;
use super::place::{News, Slot};
use super::state::{Event, State};
use crate::admission::eject::Cause;
use crate::name::RevisionId;

/// So many health requests in a row without an answer are enough.
pub(super) const UNANSWERED: u32 = 3;
/// How far apart two looks at one instance are at least: what happened between them is what is judged.
const LOOKS_APART: Duration = Duration::from_millis(900);
/// And at most: an older one says nothing.
const LOOK_IS_OLD: Duration = Duration::from_secs(60);
/// Who uses this part of a core, or of its limit if that is less, is at work.
const BUSY: f64 = 0.8;

impl Entry {
    /// Takes what the attempts at its instances came to: whether one is to be judged.
    pub(super) fn take_attempts(&mut self, now: Instant) -> bool {
        let current = self.current.revision.id;
        for slot in &self.slots {
            let (Some(id), Some(instance)) = (slot.id, &slot.instance) else {
                continue;
            };
            if slot.state == State::Ready && slot.revision.id == current {
                self.ejector.came(id, slot.revision.manifest.scale.concurrency);
                self.ejector.saw(id, instance.tally.take(), now);
            }
        }
        let counts = |slot: &Slot| match slot.state {
            State::Ready | State::Frozen => slot.revision.id == current,
            _ => slot.ejected.is_some(),
        };
        let slots = &self.slots;
        let stays = |id| slots.iter().any(|slot| slot.id == Some(id) && counts(slot));
        self.ejector.retain(stays, now);
        !self.ejector.suspects(now).is_empty()
    }

    /// Replaces those that are certainly bad, and has those looked at that may only be kept from answering.
    pub(super) fn judge(&mut self, effects: &mut Effects<'_>) {
        for (id, cause) in self.ejector.suspects(effects.now) {
            match cause {
                Cause::Failing => {
                    let why = "requests to it failed: reset, or not HTTP".to_owned();
                    self.eject(id, Exit::Ejected, why, effects);
                }
                Cause::Silent => self.look_at(id, effects),
            }
        }
    }

    /// Has the launcher look at it, unless that was just asked.
    pub(super) fn look_at(&mut self, id: InstanceId, effects: &mut Effects<'_>) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == Some(id)) else {
            return;
        };
        let is_recent = |at: Instant| effects.now.saturating_duration_since(at) < LOOKS_APART;
        if !slot.look_at.is_some_and(is_recent) {
            slot.look_at = Some(effects.now);
            effects.look(id);
        }
    }

    /// What the launcher saw: the second look in a row that finds nothing to excuse its silence replaces it.
    pub(super) fn looked(&mut self, id: InstanceId, condition: Condition, effects: &mut Effects<'_>) {
        self.take_attempts(effects.now);
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == Some(id)) else {
            return;
        };
        let Some(instance) = slot.instance.clone() else {
            return;
        };
        let is_recent = |at: Instant| effects.now.saturating_duration_since(at) < LOOKS_APART;
        let age = |(then, _): &(Instant, Condition)| effects.now.saturating_duration_since(*then);
        let before = slot.looked.filter(|look| age(look) < LOOK_IS_OLD);
        let is_starved = self.starved_at.is_some_and(is_recent);
        let throttled = before.is_some_and(|(_, before)| condition.throttled > before.throttled);
        let excuse = match (slot.state, condition) {
            (State::Ready, Condition { is_traced: true, .. }) => Some("a debugger traces it"),
            (State::Ready, Condition { is_stopped: true, .. }) => Some("it is stopped by a signal"),
            (State::Ready, _) if throttled => Some("its CPU limit holds it back"),
            (State::Ready, _) if is_starved => Some("others use all of the CPU, and it gets what they leave"),
            (State::Ready, _) => None,
            // Whatever it did not answer, it is not what requests go to.
            (_, _) => return instance.tally.forgive(),
        };
        if let Some(why) = excuse {
            slot.looked = Some((effects.now, condition));
            instance.tally.forgive();
            self.ejector.forgive(id);
            self.news.push(News::Excused { instance: id, why });
            return;
        }
        let Some((then, before)) = before else {
            slot.looked = Some((effects.now, condition));
            return;
        };
        let apart = effects.now.saturating_duration_since(then);
        if apart < LOOKS_APART {
            return;
        }
        slot.looked = Some((effects.now, condition));
        let cores = condition.cpu_micros.saturating_sub(before.cpu_micros) as f64 / apart.as_micros() as f64;
        let may_use = f64::from(slot.revision.manifest.limits.cpu_millis) / 1000.0;
        let is_busy = cores >= BUSY * may_use.min(1.0);
        let unanswered = instance.tally.unanswered();
        let is_suspect = self.ejector.suspects(effects.now).contains(&(id, Cause::Silent));
        // What works hard and answers late is overloaded, unless the others show that it need not be.
        let is_worse = !is_busy || self.ejector.others_are_well(id);
        // What computes for a request that is not late yet does what it is there for, and may have no time for other questions.
        let manifest = &slot.revision.manifest;
        let silence = manifest.health.period.unwrap_or_default() * unanswered;
        let is_at_work = is_busy && instance.in_flight() > 0 && silence < manifest.request.timeout;
        if unanswered >= UNANSWERED && !is_at_work && self.ejector.room() > 0 {
            let why = format!("{unanswered} health requests in a row were not answered");
            self.eject(id, Exit::Unresponsive, why, effects);
        } else if is_suspect && is_worse {
            let why = "requests to it were not answered in time".to_owned();
            self.eject(id, Exit::Unresponsive, why, effects);
        }
        self.settle(effects);
    }

    /// Starts another in its stead, then lets it finish what it works on, and ends it. Not if as many as may be were started
    /// again lately: then later.
    fn eject(&mut self, id: InstanceId, exit: Exit, why: String, effects: &mut Effects<'_>) {
        let is_it = |slot: &Slot| slot.id == Some(id) && slot.state == State::Ready;
        let Some(index) = self.slots.iter().position(is_it) else {
            return;
        };
        if self.removed || self.may_restart(effects).is_err() {
            return;
        }
        self.ejector.eject(id);
        self.slots[index].ejected = Some(exit.clone());
        self.news.push(News::Ejected {
            instance: id,
            exit,
            why,
        });
        let revision = std::sync::Arc::clone(&self.slots[index].revision);
        self.start(revision, effects);
        self.apply(index, Event::Retire, effects);
    }

    /// The place at `index` is Failed now: what waits to be started again need not be tried as well.
    pub(super) fn give_up(&mut self, index: usize, reason: String, effects: &mut Effects<'_>) {
        let State::Failed { until } = self.slots[index].state else {
            return;
        };
        let pause = until.saturating_duration_since(effects.now);
        let revision = self.slots[index].revision.id;
        let serves = |slot: &Slot| slot.revision.id == revision && slot.state == State::Ready;
        let others_serve = self.slots.iter().any(serves);
        self.news.push(News::GaveUp {
            pause,
            reason,
            others_serve,
        });
        for other in 0..self.slots.len() {
            let slot = &self.slots[other];
            if slot.revision.id == revision && matches!(slot.state, State::Backoff { .. }) {
                self.apply(other, Event::Retire, effects);
            }
        }
    }

    /// One of this revision is ready: whatever kept the others from that is over.
    pub(super) fn recover(&mut self, revision: RevisionId, effects: &mut Effects<'_>) {
        if self.current.revision.id != revision || !self.current.backoff.is_ready() {
            return;
        }
        self.news.push(News::Recovered);
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if slot.revision.id == revision && matches!(slot.state, State::Failed { .. }) {
                self.apply(index, Event::Retire, effects);
            }
        }
    }

    /// How many of the current revision may be started now: none while it is Failed, and then one at a time until one is ready.
    pub(super) fn may_start(&self, now: Instant) -> usize {
        let current = self.current.revision.id;
        let own = || self.slots.iter().filter(|slot| slot.revision.id == current);
        let failed = |slot: &Slot| matches!(slot.state, State::Failed { until } if until > now);
        if own().any(failed) {
            return 0;
        }
        if !self.current.backoff.is_on_probation() {
            return usize::MAX;
        }
        let tried = |slot: &&Slot| matches!(slot.state, State::Starting { .. } | State::Backoff { .. });
        1_usize.saturating_sub(own().filter(tried).count())
    }

    /// Whether the instance is known to answer.
    pub(super) fn is_ready(&self, id: InstanceId) -> bool {
        self.slot(id).is_some_and(|slot| slot.state == State::Ready)
    }
}
