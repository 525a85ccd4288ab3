//! How an entry carries out its plan: thaws, starts, stops and freezes instances, as far as the host has room. The rules are
//! in [`super::scale`] and [`super::room`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::effects::Effects;
use super::entry::Entry;
use super::place::Slot;
use super::room::{self, Appetite};
use super::scale::{self, Places, Plan};
use super::state::{Event, State};

/// What an instance of which nothing is known yet is expected to use: this part of what it may use.
const EXPECTED: u64 = 4;

/// A function that was used within this time may be about to be used again.
const RECLAIM_AFTER: Duration = Duration::from_secs(2);

impl Entry {
    /// Thaws and starts what is missing.
    pub(super) fn rescale(&mut self, effects: &mut Effects<'_>) {
        self.demand.note(self.handle.admitted(), effects.now);
        let plan = self.plan(effects.now);
        for index in self.frozen().into_iter().take(plan.thaw) {
            self.apply(index, Event::Wanted, effects);
        }
        let places = self.places();
        let scale = &self.current.revision.manifest.scale;
        // What is needed to answer at all is never held back.
        let total = places.awake + places.frozen;
        let sure = (scale.min.max(1) as usize).saturating_sub(total).min(plan.start);
        let appetite = self.appetite(total);
        self.held = None;
        let mut start = plan.start;
        if sure < plan.start {
            let (more, held) = room::room(effects.host, &appetite, plan.start - sure);
            start = sure + more;
            self.held = held;
        }
        for _ in 0..start.min(self.may_start(effects.now)) {
            let left = effects.host.memory_available.saturating_sub(appetite.memory);
            effects.host.memory_available = left;
            self.start(Arc::clone(&self.current.revision), effects);
        }
    }

    /// Takes a sample of what is asked of it: whether there is something to do about it.
    pub(super) fn sample(&mut self, now: Instant) -> bool {
        self.demand.note(self.handle.admitted(), now);
        let has_suspects = self.take_attempts(now);
        if self.is_per_request() {
            return has_suspects || self.singles_want(now);
        }
        !self.removed && (has_suspects || self.plan(now) != Plan::default())
    }

    /// Whether samples are worth taking: something runs and was asked within the stable window.
    pub(super) fn is_in_use(&self, now: Instant) -> bool {
        !(self.slots.is_empty() && self.singles.is_empty())
            && (self.handle.admitted() > 0
                || !self.demand.is_calm(now)
                || now.saturating_duration_since(self.handle.last_used()) < Duration::from_secs(1))
    }

    /// What the sample asked for: also stops what was not needed for a stable window.
    pub(super) fn follow(&mut self, effects: &mut Effects<'_>) {
        self.judge(effects);
        let surplus = match self.is_per_request() {
            true => 0,
            false => self.plan(effects.now).surplus,
        };
        let mut ready = self.rested();
        // Those with the least to finish; of two alike the newer one.
        ready.sort_by_key(|&i| {
            let leases = |slot: &Slot| slot.instance.as_ref().map_or(0, |instance| instance.in_flight());
            (leases(&self.slots[i]), std::cmp::Reverse(self.slots[i].id))
        });
        for index in ready.into_iter().take(surplus) {
            self.apply(index, Event::Retire, effects);
        }
        self.settle(effects);
    }

    /// Stops or freezes what nobody asked for long.
    pub(super) fn rest(&mut self, effects: &mut Effects<'_>) {
        let now = effects.now;
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.idle_at(now)) {
            let rested = self.rested();
            let surplus = scale::surplus(&self.current.revision.manifest.scale, rested.len());
            for &index in rested.iter().rev().take(surplus) {
                self.apply(index, Event::Retire, effects);
            }
        }
        if is_due(self.freeze_at(now)) {
            for index in self.ready() {
                self.freeze(index, effects);
            }
        }
    }

    /// Since when nobody has used it, if a host that is short of memory may have its instances back: not of one that was
    /// used just now, and never below `scale.min`.
    pub(super) fn reclaimable(&self, now: Instant) -> Option<Instant> {
        let used = self.handle.last_used();
        let is_idle = self.handle.admitted() == 0 && now.saturating_duration_since(used) >= RECLAIM_AFTER;
        let surplus = scale::surplus(&self.current.revision.manifest.scale, self.rested().len());
        (is_idle && surplus > 0).then_some(used)
    }

    /// Stops what is idle beyond `scale.min`, frozen or not.
    pub(super) fn reclaim(&mut self, effects: &mut Effects<'_>) {
        let rested = self.rested();
        let surplus = scale::surplus(&self.current.revision.manifest.scale, rested.len());
        for &index in rested.iter().rev().take(surplus) {
            self.apply(index, Event::Retire, effects);
        }
    }

    fn freeze(&mut self, index: usize, effects: &mut Effects<'_>) {
        let Some(instance) = &self.slots[index].instance else {
            return;
        };
        // A request that comes now either is seen here, or sees that it has to ask for a place.
        instance.stop_accepting();
        if instance.in_flight() == 0 {
            self.apply(index, Event::Freeze, effects);
            return;
        }
        instance.start_accepting();
        // Who was turned away meanwhile looks again.
        let live = self.handle.live().as_ref().clone();
        self.handle.publish(live);
    }

    /// When [`Entry::tick`] is to look next; `None` while nothing of it runs or waits.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let late = self.slots.iter().filter_map(|slot| slot.state.deadline()).min();
        let rests = [self.idle_at(now), self.freeze_at(now)];
        let singles = self.singles.deadline();
        late.into_iter()
            .chain(rests.into_iter().flatten())
            .chain(singles)
            .min()
    }

    /// When its surplus instances have been idle for long enough; `None` without surplus.
    fn idle_at(&self, now: Instant) -> Option<Instant> {
        let scale = &self.current.revision.manifest.scale;
        (scale::surplus(scale, self.rested().len()) > 0).then(|| self.unused_for(scale.idle, now))
    }

    /// When its instances that run have been idle for long enough to be frozen; `None` without any, or if they never are.
    fn freeze_at(&self, now: Instant) -> Option<Instant> {
        let after = self.current.revision.manifest.scale.freeze;
        let after = after.filter(|_| self.freezes && !self.ready().is_empty())?;
        Some(self.unused_for(after, now))
    }

    /// When nobody will have asked it for so long, or, while it is in use, may not have at the earliest: the end of a
    /// request wakes nobody.
    fn unused_for(&self, time: Duration, now: Instant) -> Instant {
        if self.handle.admitted() > 0 {
            return now + time;
        }
        // An instance that was started and then not asked is idle from when it became ready.
        let ready_at = self.slots.iter().filter_map(|slot| slot.ready_at).max();
        let last = ready_at.map_or(self.handle.last_used(), |at| at.max(self.handle.last_used()));
        last + time
    }

    fn plan(&mut self, now: Instant) -> Plan {
        let (admitted, places) = (self.handle.admitted(), self.places());
        let scale = &self.current.revision.manifest.scale;
        scale::plan(scale, &mut self.demand, admitted, places, now)
    }

    fn places(&self) -> Places {
        let frozen = self.frozen().len();
        let counts = |slot: &&Slot| {
            slot.revision.id == self.current.revision.id && !matches!(slot.state, State::Draining { .. })
        };
        Places {
            awake: self.slots.iter().filter(counts).count() - frozen,
            frozen,
        }
    }

    /// The places of the current revision that are ready.
    fn ready(&self) -> Vec<usize> {
        self.which(|state| state == State::Ready)
    }

    /// The places of the current revision that are frozen.
    fn frozen(&self) -> Vec<usize> {
        self.which(|state| state == State::Frozen)
    }

    /// Both.
    fn rested(&self) -> Vec<usize> {
        self.which(|state| matches!(state, State::Ready | State::Frozen))
    }

    fn which(&self, which: impl Fn(State) -> bool) -> Vec<usize> {
        let current = self.current.revision.id;
        let slots = self.slots.iter().enumerate();
        let found = slots.filter(|(_, slot)| slot.revision.id == current && which(slot.state));
        found.map(|(index, _)| index).collect()
    }

    fn appetite(&self, instances: usize) -> Appetite {
        let limits = &self.current.revision.manifest.limits;
        let known: Vec<f64> = self
            .slots
            .iter()
            .map(|slot| slot.cpu)
            .filter(|cpu| *cpu > 0.0)
            .collect();
        let largest = self.slots.iter().map(|slot| slot.usage.memory_bytes).max();
        Appetite {
            instances,
            cpu: match known.len() {
                0 => 0.0,
                n => known.iter().sum::<f64>() / n as f64,
            },
            cpu_limit: f64::from(limits.cpu_millis) / 1000.0,
            memory: largest
                .filter(|bytes| *bytes > 0)
                .unwrap_or(limits.memory_bytes / EXPECTED),
        }
    }
}
