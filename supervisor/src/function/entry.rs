//! One function as `control` knows it: its revisions and the places of their instances. Decides by the pure modules
//! beside it and carries the decisions out through [`Effects`].

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use funcd_sandbox::exit::Exit;
use funcd_sandbox::spec::{Digest, InstanceId};
use funcd_sandbox::wire::Usage;
use rand::Rng;
use tokio::sync::mpsc;

use super::backoff;
use super::demand::Demand;
use super::effects::Effects;
use super::handle::{Function, Revision, ToControl};
use super::instance::Instance;
use super::place::{Ended, Generation, News, Rollout, Slot};
use super::room::Held;
use super::singles::Singles;
use super::standby::Standby;
use super::starts::{self, Bucket};
use super::state::{Action, AfterExit, Bounds, Drain, Event, State, step};
use crate::admission::eject::Ejector;
use crate::name::{FunctionName, RevisionId};

/// One function.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) handle: Arc<Function>,
    /// What requests go to.
    pub(super) current: Generation,
    /// What they will go to once it is proven.
    pub(super) next: Option<Generation>,
    pub(super) slots: Vec<Slot>,
    /// An instance of the current revision that waits right before exec; asked for while nothing runs.
    pub(super) standby: Option<Standby>,
    /// Processes for one request each.
    pub(super) singles: Singles,
    /// The last one came to nothing: not tried again before a start has worked.
    pub(super) standby_failed: bool,
    pub(super) removed: bool,
    /// What was asked of it in the last minute.
    pub(super) demand: Demand,
    /// What it may start again.
    restarts: Bucket,
    /// Why it has fewer instances than it asks for.
    pub(super) held: Option<Held>,
    /// Whether its instances can be frozen on this host.
    pub(super) freezes: bool,
    idle_since: SystemTime,
    /// How long a start takes, from the request to the launcher until it is ready: the mean of the last ones.
    pub(super) start_took: Option<Duration>,
    /// The newest revision that was given up, and why.
    pub(super) rejected: Option<(RevisionId, String)>,
    /// The last end that is worth telling.
    pub(super) last_exit: Option<Ended>,
    /// Which of its instances are worse than the others.
    pub(super) ejector: Ejector<InstanceId>,
    /// When others last left it no CPU, if it gets only what they leave.
    pub(super) starved_at: Option<Instant>,
    /// What was not told yet.
    pub(super) news: Vec<News>,
}

impl Entry {
    /// A function with nothing running; [`Entry::tick`] starts its minimum.
    pub(super) fn new(
        name: FunctionName,
        revision: Arc<Revision>,
        to_control: mpsc::UnboundedSender<ToControl>,
        since: SystemTime,
    ) -> Entry {
        Entry {
            handle: Function::new(name, Arc::clone(&revision), to_control),
            current: Generation::new(revision),
            next: None,
            slots: Vec::new(),
            standby: None,
            singles: Singles::default(),
            standby_failed: false,
            removed: false,
            demand: Demand::default(),
            restarts: Bucket::FUNCTION,
            held: None,
            freezes: true,
            idle_since: since,
            start_took: None,
            rejected: None,
            last_exit: None,
            ejector: Ejector::default(),
            starved_at: None,
            news: Vec::new(),
        }
    }

    pub(super) fn current(&self) -> &Arc<Revision> {
        &self.current.revision
    }

    /// The executables that it may yet start: none once it is removed.
    pub(super) fn artifacts(&self) -> impl Iterator<Item = Digest> {
        let generations = self.next.iter().chain((!self.removed).then_some(&self.current));
        generations.map(|generation| generation.revision.artifact)
    }

    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(super) fn slot(&self, id: InstanceId) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.id == Some(id))
    }

    pub(super) fn is_removed(&self) -> bool {
        self.removed
    }

    /// The state that stands for all places: the one that serves best, else the one that explains most.
    pub(super) fn state(&self) -> State {
        let rank = |state: &State| match state {
            State::Ready => 0,
            State::Starting { .. } => 1,
            State::Frozen => 2,
            State::Failed { .. } => 3,
            State::Backoff { .. } => 4,
            State::Draining { .. } => 5,
            State::Idle => 6,
        };
        let states = self.slots.iter().map(|slot| &slot.state);
        let works = self.singles.running().next().map(|_| &State::Ready);
        let failed = self.singles.refused_until().map(|until| State::Failed { until });
        states
            .chain(works)
            .chain(&failed)
            .min_by_key(|state| rank(state))
            .copied()
            .unwrap_or(State::Idle)
    }

    /// Since when it is in that state, or since when nothing runs.
    pub(super) fn since(&self) -> SystemTime {
        let state = self.state();
        let singles = self
            .singles
            .running()
            .map(|(_, single)| (State::Ready, single.since));
        self.slots
            .iter()
            .map(|slot| (slot.state, slot.since))
            .chain(singles)
            .filter(|(other, _)| *other == state)
            .map(|(_, since)| since)
            .min()
            .unwrap_or(self.idle_since)
    }

    /// A revision is to get the traffic. What was never proven is replaced at once; else the new one is proven first.
    pub(super) fn deploy(&mut self, revision: Arc<Revision>, effects: &mut Effects<'_>) {
        let was_removed = std::mem::take(&mut self.removed);
        self.rejected = None;
        if let Some(given_up) = self.next.take_if(|next| next.revision.id != revision.id) {
            self.retire(&given_up.revision, effects);
        }
        if self.current.revision.id == revision.id || self.next.is_some() {
            self.settle(effects);
            return;
        }
        // What gets a process for each request has nothing to prove before the first.
        if !self.current.proven || was_removed || revision.manifest.contract.is_per_request() {
            self.promote(Generation::new(revision), effects);
            self.settle(effects);
            return;
        }
        self.next = Some(Generation::new(Arc::clone(&revision)));
        self.start(revision, effects);
    }

    /// An instance that an earlier supervisor started, and that runs the current revision.
    pub(super) fn adopt(
        &mut self,
        (id, pid): (InstanceId, i32),
        frozen: bool,
        instance: Arc<Instance>,
        effects: &mut Effects<'_>,
    ) {
        self.current.proven = true;
        self.demand.hold(effects.now);
        instance.note_running();
        if frozen {
            instance.stop_accepting();
        }
        let revision = Arc::clone(&self.current.revision);
        self.slots.push(Slot {
            state: if frozen { State::Frozen } else { State::Ready },
            id: Some(id),
            pid: Some(pid),
            instance: Some(instance),
            ready_at: Some(effects.now),
            ..Slot::new(revision, effects.wall)
        });
        self.settle(effects);
    }

    /// Its files are gone: no new requests, and everything ends.
    pub(super) fn remove(&mut self, effects: &mut Effects<'_>) {
        self.removed = true;
        self.next = None;
        for index in (0..self.slots.len()).rev() {
            self.apply(index, Event::Retire, effects);
        }
        self.settle(effects);
    }

    /// A request found no free place.
    pub(super) fn wanted(&mut self, effects: &mut Effects<'_>) {
        self.handle.wish_seen();
        self.settle(effects);
        // Admission may have been made while something was published.
        self.handle.refresh();
    }

    /// Requests come again.
    pub(super) fn asked(&mut self, effects: &mut Effects<'_>) {
        self.demand.note(self.handle.admitted(), effects.now);
        // Admission may have been made while something was published.
        self.handle.refresh();
    }

    /// It can be connected to, before its process exists or, for one that listens itself, once it does.
    pub(super) fn bound(&mut self, id: InstanceId, instance: Arc<Instance>, effects: &mut Effects<'_>) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == Some(id)) {
            if matches!(slot.state, State::Draining { .. }) {
                instance.stop_accepting();
            }
            slot.instance = Some(instance);
        }
        self.publish(effects);
    }

    /// Its process runs.
    pub(super) fn launched(&mut self, id: InstanceId, pid: i32, effects: &mut Effects<'_>) {
        self.standby_failed = false;
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == Some(id)) {
            slot.pid = Some(pid);
            if let Some(instance) = &slot.instance {
                instance.note_running();
            }
        }
        self.settle(effects);
    }

    /// It is ready.
    pub(super) fn answered(&mut self, id: InstanceId, effects: &mut Effects<'_>) -> Rollout {
        let Some(index) = self.slots.iter().position(|slot| slot.id == Some(id)) else {
            return Rollout::Unchanged;
        };
        self.apply(index, Event::Answered, effects);
        let slot = &mut self.slots[index];
        if slot.state != State::Ready {
            return Rollout::Unchanged;
        }
        slot.ready_at.get_or_insert(effects.now);
        if let Some(began) = slot.started_at.take() {
            let took = effects.now.saturating_duration_since(began);
            self.start_took = Some(self.start_took.map_or(took, |mean| (mean + took) / 2));
        }
        let ready = slot.revision.id;
        self.recover(ready, effects);
        let mut rollout = Rollout::Unchanged;
        if let Some(mut next) = self.next.take_if(|next| next.revision.id == ready) {
            next.proven = true;
            self.promote(next, effects);
            rollout = Rollout::Promoted;
        } else if self.current.revision.id == ready {
            self.current.proven = true;
        }
        self.settle(effects);
        rollout
    }

    /// It did not do in time what it has to: it ends, and what goes on in it may finish.
    pub(super) fn overdue(&mut self, id: InstanceId, effects: &mut Effects<'_>) {
        if let Some(index) = self.slots.iter().position(|slot| slot.id == Some(id)) {
            self.apply(index, Event::Retire, effects);
            self.settle(effects);
        }
    }

    /// A draining instance has no lease left.
    pub(super) fn drained(&mut self, id: InstanceId, effects: &mut Effects<'_>) {
        if let Some(index) = self.slots.iter().position(|slot| slot.id == Some(id)) {
            self.apply(index, Event::Drained, effects);
        }
    }

    /// The process ended, or never began.
    pub(super) fn exited(&mut self, ended: Ended, effects: &mut Effects<'_>) -> Rollout {
        let Some(index) = self.slots.iter().position(|slot| slot.id == Some(ended.instance)) else {
            return Rollout::Unchanged;
        };
        let slot = &mut self.slots[index];
        let ready_for = slot.ready_at.take().map(|at| effects.now.duration_since(at));
        // It came as far as to a request that kills: its start has not failed, or that one would have all others refused.
        let was_killed = self.handle.poison().was_killed(ended.instance, effects.now);
        let ready_for = ready_for.or(was_killed.then_some(Duration::ZERO));
        let revision = slot.revision.id;
        let unasked = !matches!(slot.state, State::Draining { .. });
        let serves = |(other, slot): (usize, &Slot)| {
            other != index && slot.state == State::Ready && slot.revision.id == revision
        };
        let others_serve = self.slots.iter().enumerate().any(serves);
        let generation = match &mut self.next {
            Some(next) if next.revision.id == revision => next,
            _ => &mut self.current,
        };
        // What was asked to end does not count, whatever it said last.
        let after = match unasked {
            true => {
                let end = backoff::Ended {
                    ready_for,
                    ready_within: generation.revision.manifest.health.ready_within,
                    others_serve,
                };
                let after = generation.backoff.after_exit(end, effects.now, effects.rng);
                let after = match after {
                    // The others take theirs when their time has come.
                    AfterExit::Restart => self.may_restart(effects).map_or_else(AfterExit::Wait, |()| after),
                    AfterExit::Wait(_) | AfterExit::GiveUp(_) => after,
                };
                let wait = match after {
                    AfterExit::Restart => Some(Duration::ZERO),
                    AfterExit::Wait(until) => Some(until.saturating_duration_since(effects.now)),
                    AfterExit::GiveUp(_) => None,
                };
                self.news.extend(wait.map(|wait| News::Restarts { wait }));
                after
            }
            false => AfterExit::Restart,
        };
        let reason = ended.describe();
        if unasked || ended.exit != Exit::Stopped {
            self.last_exit = Some(ended);
        }
        let gave_up = matches!(after, AfterExit::GiveUp(_));
        let proving = self
            .next
            .as_ref()
            .is_some_and(|next| next.revision.id == revision);
        if gave_up && proving && unasked {
            self.next = None;
            self.apply(index, Event::Exited(after), effects);
            self.apply(index, Event::Retire, effects);
            self.settle(effects);
            self.rejected = Some((revision, reason.clone()));
            return Rollout::Abandoned(reason);
        }
        self.apply(index, Event::Exited(after), effects);
        if gave_up {
            self.give_up(index, reason, effects);
        }
        self.settle(effects);
        Rollout::Unchanged
    }

    /// Deadlines that have passed, and idleness.
    pub(super) fn tick(&mut self, effects: &mut Effects<'_>) {
        for index in (0..self.slots.len()).rev() {
            let state = self.slots[index].state;
            if state.deadline().is_none_or(|at| at > effects.now) {
                continue;
            }
            let postponed = match state {
                State::Backoff { .. } => self.may_restart(effects).err(),
                _ => None,
            };
            self.apply(index, postponed.map_or(Event::Late, Event::Postponed), effects);
        }
        self.rest(effects);
        self.settle(effects);
    }

    /// Takes what a start after an unwanted end costs, or tells when to ask again: not all at the same time, or the first of
    /// them would be the first each time.
    pub(super) fn may_restart(&mut self, effects: &mut Effects<'_>) -> Result<(), Instant> {
        let spread = Duration::from_millis(effects.rng.random_range(0..100));
        starts::take(effects.restarts, &mut self.restarts, effects.now).map_err(|at| at + spread)
    }

    fn promote(&mut self, generation: Generation, effects: &mut Effects<'_>) {
        let old = std::mem::replace(&mut self.current, generation);
        self.handle.poison().forget();
        // New requests must find the new revision before the old one stops taking them.
        self.publish(effects);
        self.retire(&old.revision, effects);
    }

    fn retire(&mut self, revision: &Arc<Revision>, effects: &mut Effects<'_>) {
        for index in (0..self.slots.len()).rev() {
            if self.slots[index].revision.id == revision.id {
                self.apply(index, Event::Retire, effects);
            }
        }
    }

    pub(super) fn start(&mut self, revision: Arc<Revision>, effects: &mut Effects<'_>) {
        self.slots.push(Slot::new(revision, effects.wall));
        self.apply(self.slots.len() - 1, Event::Wanted, effects);
    }

    /// One step of one place, with its effects.
    pub(super) fn apply(&mut self, index: usize, event: Event, effects: &mut Effects<'_>) {
        let slot = &mut self.slots[index];
        let manifest = &slot.revision.manifest;
        let bounds = Bounds {
            ready_within: manifest.health.ready_within,
            finish_within: manifest.request.timeout,
            stop_within: manifest.health.stop_within,
        };
        let (state, actions) = step(slot.state, event, &bounds, effects.now);
        if state != slot.state {
            slot.since = effects.wall;
        }
        slot.state = state;
        if matches!(event, Event::Exited(_)) {
            if let Some(instance) = slot.instance.take() {
                instance.close();
                if slot.pid.is_none() {
                    instance.note_stillborn();
                }
            }
            slot.pid = None;
            (slot.rate, slot.told, slot.started_at) = (None, None, None);
            slot.usage = Usage::default();
            (slot.cpu, slot.surveyed_at) = (0.0, None);
            (slot.look_at, slot.looked, slot.ejected) = (None, None, None);
            slot.id = None;
        }
        for action in actions {
            match (action, slot.id) {
                (Action::Launch, _) => {
                    slot.started_at = Some(effects.now);
                    let revision = slot.revision.id;
                    let usable = |standby: &mut Standby| matches!(standby, Standby::Waits(instance) if instance.revision.id == revision);
                    match self.standby.take_if(usable) {
                        Some(Standby::Waits(instance)) => {
                            effects.wake(&self.handle.name, &instance);
                            slot.id = Some(instance.id);
                            slot.instance = Some(instance);
                        }
                        Some(Standby::Asked(..)) | None => {
                            slot.id = Some(effects.launch(&self.handle.name, &slot.revision))
                        }
                    }
                }
                (Action::Freeze, Some(id)) => effects.freeze(id),
                (Action::Thaw, Some(id)) => {
                    effects.thaw(id);
                    if let Some(instance) = &slot.instance {
                        instance.start_accepting();
                    }
                }
                (Action::Withdraw, _) => {
                    if let Some(instance) = &slot.instance {
                        instance.stop_accepting();
                    }
                }
                (Action::Terminate, Some(id)) => effects.terminate(id),
                (Action::Kill, Some(id)) => effects.kill(id),
                (Action::Freeze | Action::Thaw | Action::Terminate | Action::Kill, None) => {}
            }
        }
        let finishing = matches!(
            slot.state,
            State::Draining {
                phase: Drain::Finishing,
                ..
            }
        );
        if finishing
            && slot
                .instance
                .as_ref()
                .is_none_or(|instance| instance.in_flight() == 0)
        {
            self.apply(index, Event::Drained, effects);
        }
    }

    /// After any change: forget empty places, start what is missing, show request paths what is live.
    pub(super) fn settle(&mut self, effects: &mut Effects<'_>) {
        if self.slots.iter().any(|slot| slot.state == State::Idle) {
            self.slots.retain(|slot| slot.state != State::Idle);
            self.idle_since = effects.wall;
        }
        let current = self.current.revision.id;
        let stale = |standby: &Standby| self.removed || standby.revision().id != current;
        if self.standby.as_ref().is_some_and(stale) {
            self.end_standby(effects);
        }
        self.settle_singles(effects);
        if !self.removed && !self.is_per_request() {
            self.rescale(effects);
        }
        self.publish(effects);
    }
}
