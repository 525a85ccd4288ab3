//! Processes for one request each: how many wait right before exec, which of them work, and how each ends. Counts are
//! decided by pure functions; what follows of them is carried out through [`Effects`].

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use funcd_sandbox::exit::Exit;
use funcd_sandbox::spec::InstanceId;
use funcd_sandbox::wire::Usage;

use super::effects::Effects;
use super::entry::Entry;
use super::handle::Revision;
use super::instance::{Ends, Instance};
use super::place::Ended;
use crate::catalog::view::Stamp;

/// A process may go on for so long after its answer was complete, to end by itself.
const GRACE: Duration = Duration::from_secs(1);
/// A kill that nothing came of is repeated after this.
const KILL_AGAIN: Duration = Duration::from_secs(5);
/// The most that wait for requests that have not come yet, of one function.
const MOST_AHEAD: usize = 16;
/// After the first start that failed, and the longest pause.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// So many in a row: requests are refused at once until the pause is over.
const FAILED: u32 = 3;

/// The processes of one function that are for one request each.
#[derive(Debug, Default)]
pub(super) struct Singles {
    all: BTreeMap<InstanceId, Single>,
    /// Starts that failed, one after the other.
    failures: u32,
    /// Nothing is started before then.
    pause_until: Option<Instant>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Single {
    pub(super) revision: Arc<Revision>,
    pub(super) since: SystemTime,
    pub(super) pid: Option<i32>,
    /// The state of the system's libraries that it will see: they were bound when it was prepared. `None`: it sees none.
    libraries: Option<Stamp>,
    /// As of the last survey.
    usage: Usage,
    phase: Phase,
}

impl Singles {
    /// What one of them uses.
    pub(super) fn usage(&mut self, id: InstanceId) -> Option<&mut Usage> {
        self.all.get_mut(&id).map(|single| &mut single.usage)
    }

    /// What each of them uses.
    pub(super) fn usages(&self) -> impl Iterator<Item = &Usage> {
        self.all.values().map(|single| &single.usage)
    }
}

#[derive(Debug)]
enum Phase {
    /// The launcher was asked for it.
    Asked,
    /// It waits right before exec.
    Waits(Arc<Instance>),
    /// It works on a request.
    Works(Arc<Instance>),
    /// Its request is over: killed at that time.
    Leaves(Arc<Instance>, Instant),
}

impl Single {
    /// Whether it works on a request, or did so a moment ago.
    pub(super) fn runs(&self) -> bool {
        match &self.phase {
            Phase::Asked => false,
            // Whoever woke it tells nobody: that would take the CPU from it.
            Phase::Waits(instance) => instance.is_woken(),
            Phase::Works(_) | Phase::Leaves(..) => true,
        }
    }

    /// Whether it was ended while it waited, because nobody needs it.
    pub(super) fn is_dismissed(&self) -> bool {
        matches!(&self.phase, Phase::Waits(instance) if !instance.is_accepting() && !instance.is_woken())
    }

    /// What requests see of it, once it waits.
    pub(super) fn instance(&self) -> Option<&Arc<Instance>> {
        match &self.phase {
            Phase::Asked => None,
            Phase::Waits(instance) | Phase::Works(instance) | Phase::Leaves(instance, _) => Some(instance),
        }
    }
}

/// What there is, and what is asked of it.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    /// Requests that wait for a process.
    requests: usize,
    /// Processes that wait, or will in a moment.
    ready: usize,
    /// Processes that work.
    busy: usize,
    /// The most at any moment of the last minute.
    peak: usize,
    /// Whether it was asked lately.
    in_use: bool,
}

/// How many are to be made, and how many that wait are too many: `max` is the most that there may be, `ahead` how many more
/// the host lets wait for requests that have not come.
fn plan(counts: Counts, max: usize, least: usize, ahead: Option<usize>) -> (usize, usize) {
    let Counts {
        requests,
        ready,
        busy,
        ..
    } = counts;
    // One more than were ever needed at once: the next request comes while the last process is being replaced.
    let target = match counts.in_use {
        true => counts.peak + 1,
        false => 1,
    };
    let target = target.max(least).min(MOST_AHEAD).min(max);
    let room = max.saturating_sub(ready + busy);
    let needed = requests.saturating_sub(ready);
    let early = match ahead {
        None => 0,
        Some(ahead) => target.saturating_sub(ready.max(requests)).min(ahead),
    };
    let surplus = match ahead {
        None => 0,
        Some(_) => ready.saturating_sub(target.max(requests)),
    };
    ((needed + early).min(room), surplus)
}

impl Singles {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Those that work.
    pub(super) fn running(&self) -> impl Iterator<Item = (InstanceId, &Single)> {
        let all = self.all.iter().filter(|(_, single)| single.runs());
        all.map(|(id, single)| (*id, single))
    }

    /// Those that wait for a request, of one revision.
    pub(super) fn waiting<'a>(&'a self, revision: &'a Revision) -> impl Iterator<Item = &'a Arc<Instance>> {
        let waits = |single: &'a Single| match &single.phase {
            Phase::Waits(instance) if single.revision.id == revision.id && instance.is_accepting() => {
                Some(instance)
            }
            _ => None,
        };
        self.all.values().filter_map(waits)
    }

    /// How many wait for a request or will in a moment.
    pub(super) fn ahead(&self) -> usize {
        // By their phases, which change here alone: one that a request wakes meanwhile is counted until that is known.
        let waits = |single: &&Single| matches!(single.phase, Phase::Asked | Phase::Waits(_));
        self.all.values().filter(waits).count()
    }

    pub(super) fn get(&self, id: InstanceId) -> Option<&Single> {
        self.all.get(&id)
    }

    /// Until when requests are refused, if they are.
    pub(super) fn refused_until(&self) -> Option<Instant> {
        self.pause_until.filter(|_| self.failures >= FAILED)
    }

    /// When something is due by itself.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let leaves = self.all.values().filter_map(|single| match single.phase {
            Phase::Leaves(_, until) => Some(until),
            _ => None,
        });
        leaves.chain(self.pause_until).min()
    }

    fn started(&mut self) {
        self.failures = 0;
        self.pause_until = None;
    }

    fn failed(&mut self, now: Instant) {
        let pause = PAUSE.0 * 2_u32.saturating_pow(self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.pause_until = Some(now + pause.min(PAUSE.1));
    }
}

impl Entry {
    /// Whether requests to its current revision get a process each.
    pub(super) fn is_per_request(&self) -> bool {
        self.current().manifest.contract.is_per_request()
    }

    /// It waits right before exec.
    pub(super) fn single_prepared(
        &mut self,
        id: InstanceId,
        go: OwnedFd,
        ends: Ends,
        effects: &mut Effects<'_>,
    ) {
        let Some(single) = self.singles.all.get_mut(&id) else {
            return;
        };
        let instance = Instance::for_one_request(id, Arc::clone(&single.revision), go, ends);
        single.phase = Phase::Waits(Arc::new(instance));
        self.settle(effects);
    }

    /// A request has woken it.
    pub(super) fn single_woken(&mut self, id: InstanceId, effects: &mut Effects<'_>) {
        if let Some(single) = self.singles.all.get_mut(&id)
            && let Phase::Waits(instance) = &single.phase
        {
            single.phase = Phase::Works(Arc::clone(instance));
            single.since = effects.wall;
            self.settle(effects);
        }
    }

    /// It executed.
    pub(super) fn single_launched(&mut self, id: InstanceId, pid: i32) -> Option<Arc<Revision>> {
        self.singles.started();
        self.current.proven = true;
        let single = self.singles.all.get_mut(&id)?;
        single.pid = Some(pid);
        if let Some(instance) = single.instance() {
            instance.note_running();
        }
        Some(Arc::clone(&single.revision))
    }

    /// Its request is over, or went away before it came to it.
    pub(super) fn single_left(&mut self, id: InstanceId, effects: &mut Effects<'_>) {
        let Some(single) = self.singles.all.get_mut(&id) else {
            return;
        };
        match &single.phase {
            Phase::Waits(instance) | Phase::Works(instance)
                if instance.is_spoiled() || !instance.is_woken() =>
            {
                effects.kill(id);
                single.phase = Phase::Leaves(Arc::clone(instance), effects.now + KILL_AGAIN);
            }
            Phase::Waits(instance) | Phase::Works(instance) => {
                single.phase = Phase::Leaves(Arc::clone(instance), effects.now + GRACE);
            }
            Phase::Asked | Phase::Leaves(..) => {}
        }
        self.settle(effects);
    }

    /// It ended, or never began; what is worth telling of it.
    pub(super) fn single_ended(&mut self, ended: Ended, effects: &mut Effects<'_>) {
        let Some(single) = self.singles.all.remove(&ended.instance) else {
            return;
        };
        if let Some(instance) = single.instance() {
            instance.note_end(ended.exit.clone());
        }
        if single.is_dismissed() {
            return self.settle(effects);
        }
        if matches!(ended.exit, Exit::Launch { .. }) && !self.removed {
            self.singles.failed(effects.now);
        }
        if !matches!(ended.exit, Exit::Code { code: 0 } | Exit::Stopped) {
            self.last_exit = Some(ended);
        }
        self.settle(effects);
    }

    /// Whether one that waits would see other libraries than what is started now.
    pub(super) fn has_outdated_singles(&self, now: Stamp) -> bool {
        let outdated = |single: &Single| single.libraries.is_some_and(|then| then != now) && !single.runs();
        self.singles.all.values().any(outdated)
    }

    /// Replaces those.
    pub(super) fn renew_singles(&mut self, now: Stamp, effects: &mut Effects<'_>) {
        for (&id, single) in &self.singles.all {
            if let Phase::Waits(instance) = &single.phase
                && single.libraries.is_some_and(|then| then != now)
                && instance.withdraw()
            {
                effects.kill(id);
            }
        }
        self.settle(effects);
    }

    /// Whether there is something to do about them by itself.
    pub(super) fn singles_want(&self, now: Instant) -> bool {
        let due = self.singles.deadline().is_some_and(|at| at <= now);
        due || (self.is_per_request() && !self.removed && self.singles_plan(now, Some(0)) != (0, 0))
    }

    fn singles_plan(&self, now: Instant, ahead: Option<usize>) -> (usize, usize) {
        let manifest = &self.current().manifest;
        let current = self.current().id;
        let counts = Counts {
            requests: self.handle.turned_away(),
            ready: self
                .singles
                .all
                .values()
                .filter(|single| single.revision.id == current && !single.runs() && !single.is_dismissed())
                .count(),
            busy: self.singles.running().count(),
            peak: self.demand.peak(now),
            in_use: self.handle.admitted() > 0
                || now.saturating_duration_since(self.handle.last_used()) < manifest.scale.idle,
        };
        let least = manifest.scale.min.max(manifest.scale.prewarm) as usize;
        plan(counts, manifest.scale.max as usize, least, ahead)
    }

    /// Kills what is late or of no use any more, and has made what is missing.
    pub(super) fn settle_singles(&mut self, effects: &mut Effects<'_>) {
        let per_request = self.is_per_request();
        let current = self.current().id;
        let removed = self.removed;
        for (&id, single) in &mut self.singles.all {
            match &mut single.phase {
                Phase::Leaves(_, until) if *until <= effects.now => {
                    *until = effects.now + KILL_AGAIN;
                    effects.kill(id);
                }
                Phase::Waits(instance)
                    if (removed || !per_request || single.revision.id != current) && instance.withdraw() =>
                {
                    effects.kill(id);
                }
                Phase::Asked | Phase::Waits(_) | Phase::Works(_) | Phase::Leaves(..) => {}
            }
        }
        if self.singles.pause_until.is_some_and(|until| until <= effects.now) {
            self.singles.pause_until = None;
        }
        if !per_request || removed || self.singles.pause_until.is_some() {
            return;
        }
        self.demand.note(self.handle.admitted(), effects.now);
        // What is granted is looked up when it is needed.
        let manifest = &self.current().manifest;
        let is_granted =
            !(manifest.read.is_empty() && manifest.write.is_empty() && manifest.secrets.is_empty());
        let ahead = (!is_granted && effects.may_prepare).then_some(effects.ahead);
        let (missing, surplus) = self.singles_plan(effects.now, ahead);
        for _ in 0..missing {
            let revision = Arc::clone(self.current());
            // Taken first: a change that comes meanwhile is noticed later.
            let sees = revision.wanted.sees_the_system(revision.manifest.system);
            let libraries = sees.then(Stamp::now);
            let id = effects.prepare(&self.handle.name, &revision);
            let single = Single {
                revision,
                since: effects.wall,
                pid: None,
                libraries,
                usage: Usage::default(),
                phase: Phase::Asked,
            };
            self.singles.all.insert(id, single);
        }
        let waiting = self
            .singles
            .all
            .iter()
            .filter_map(|(id, single)| match &single.phase {
                Phase::Waits(instance) => Some((*id, instance)),
                _ => None,
            });
        for (id, instance) in waiting.take(surplus) {
            if instance.withdraw() {
                effects.kill(id);
            }
        }
    }
}

#[cfg(test)]
#[path = "singles_tests.rs"]
mod tests;
