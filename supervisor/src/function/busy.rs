//! The functions that are asked now: one sweep every 100 ms asks the launcher what their instances use, and with its answers tells
//! admission of each how much of its CPU it uses, and how many requests hold places that are going away. A function that nobody asks is
//! not looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use funcd_sandbox::spec::InstanceId;
use funcd_sandbox::wire::Request;

use super::control::Control;
use super::entry::Entry;
use super::place::Slot;
use crate::admission::Admission;
use crate::name::FunctionName;

/// How often they are looked at.
pub(super) const TICK: Duration = Admission::<()>::TICK;
/// A function that was not asked for this long is not: by then its last window is closed, and what it said forgotten.
const CALM: Duration = Duration::from_secs(2);
/// The most instances whose CPU time is asked for in one sweep: the launcher reads files for each. Of more, each is in its turn.
const AT_ONCE: usize = 64;
/// Who uses less than this of a core does not compete for any.
const COMPETES: f64 = 0.05;

/// Functions that are asked now.
#[derive(Debug)]
pub(super) struct Busy {
    /// And when they were seen so last.
    functions: BTreeMap<FunctionName, Instant>,
    pub(super) at: Instant,
    /// Whose turn it is to be asked for its CPU time.
    turn: usize,
    /// So many sweeps ask all of them.
    turns: usize,
    /// Those whose answers this sweep waits for.
    awaited: BTreeSet<InstanceId>,
    /// When it asked, and what was idle since the one before.
    asked_at: Instant,
    idle: Option<f64>,
}

impl Busy {
    pub(super) fn new(now: Instant) -> Busy {
        Busy {
            functions: BTreeMap::new(),
            at: now,
            turn: 0,
            turns: 1,
            awaited: BTreeSet::new(),
            asked_at: now,
            idle: None,
        }
    }

    /// When the next sweep is; `None` while nobody is asked.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.functions.is_empty()).then_some(self.at)
    }

    /// Requests came. Whether it was not looked at before.
    pub(super) fn begins(&mut self, name: &FunctionName, now: Instant) -> bool {
        if self.functions.is_empty() {
            self.at = now + TICK;
        }
        self.functions.insert(name.clone(), now).is_none()
    }

    /// An instance answered, or never will. Whether it was the last one of this sweep.
    pub(super) fn hears(&mut self, id: InstanceId) -> bool {
        self.awaited.remove(&id) && self.awaited.is_empty()
    }

    /// So many of `all`, other ones each time if they are too many.
    fn take_turns(&mut self, all: Vec<InstanceId>) -> Vec<InstanceId> {
        self.turns = all.len().div_ceil(AT_ONCE).max(1);
        if all.len() <= AT_ONCE {
            return all;
        }
        let from = self.turn % all.len();
        self.turn = from + AT_ONCE;
        all.iter().cycle().skip(from).take(AT_ONCE).copied().collect()
    }
}

/// The CPU of the host, in cores: all, `idle`, `used` by all functions, of which so many `compete` for it.
#[derive(Debug, Clone, Copy)]
struct Cpu {
    cores: f64,
    idle: f64,
    used: f64,
    compete: usize,
}

impl Cpu {
    /// Of the CPU: less is nothing that others leave.
    const NOTHING: f64 = 0.05;

    /// The same of a function that gets what no other wants: others come first, and use all or leave it the rest. Kept from the CPU it
    /// uses next to none, and would seem to wait for something else.
    fn utilisation_of_rest(&self, used: f64, quota: f64) -> f64 {
        match self.rest() {
            rest if rest > 0.0 => used / quota.min(used + rest).max(1e-3),
            _ => 1.0,
        }
    }

    /// What nobody uses; none, if it is hardly any.
    fn rest(&self) -> f64 {
        self.idle - Self::NOTHING * self.cores
    }

    /// What part of the CPU that a function may use it uses: of its quota, or of what others leave it of the host. `used` and
    /// `quota` are its own, in cores.
    fn utilisation(&self, used: f64, quota: f64) -> f64 {
        let compete = self.compete as f64;
        // What is idle, and at least as much as each of those gets that want some: the kernel gives them the same share.
        let share = (used + self.idle).max((self.used + self.idle) / compete.max(1.0));
        // Processes that are no functions take some too. Who uses less than half of a fair share waits for something else.
        let fair = self.cores / (compete + 2.0);
        used / quota.min(share.max(fair / 2.0)).max(1e-3)
    }
}

impl Control {
    /// Asks what the functions that are asked now use.
    pub(super) fn look_at_busy(&mut self, now: Instant) {
        self.busy.at = now + TICK;
        self.busy.asked_at = now;
        self.busy.idle = self.facts.idle_cores();
        // The launcher is behind: what is asked now would come later still.
        let is_late = !self.busy.awaited.is_empty();
        self.busy.awaited.clear();
        let mut instances = Vec::new();
        let mut calm = Vec::new();
        for (name, seen) in &mut self.busy.functions {
            let Some(entry) = self.entries.get_mut(name) else {
                calm.push(name.clone());
                continue;
            };
            entry.age_rates(self.busy.turns);
            if entry.handle.admitted() > 0 {
                *seen = now;
            } else {
                *seen = entry.handle.last_used().min(now).max(*seen);
            }
            if now.saturating_duration_since(*seen) >= CALM {
                calm.push(name.clone());
            } else if !is_late {
                instances.extend(
                    entry
                        .slots()
                        .iter()
                        .filter(|slot| slot.pid.is_some())
                        .filter_map(|slot| slot.id),
                );
            }
        }
        for name in calm {
            let entry = self.entries.get(&name);
            if !entry.is_some_and(|entry| entry.handle.leave_alone()) {
                self.busy.functions.remove(&name);
            }
        }
        let ids = self.busy.take_turns(instances);
        if ids.is_empty() {
            return self.tell_busy();
        }
        self.busy.awaited.extend(&ids);
        self.requests.push(Request::Usage { ids });
    }

    /// The answers are there, or won't be: each function's admission learns from what it uses.
    pub(super) fn tell_busy(&mut self) {
        let threshold = self.brownout.threshold;
        let used = |name: &FunctionName| self.entries.get(name).and_then(Entry::cores_used);
        let all: Vec<f64> = self.busy.functions.keys().filter_map(used).collect();
        let compete = all.iter().filter(|used| **used > COMPETES).count();
        let cpu = Cpu {
            cores: self.host.cores,
            // Where it can't be read the quota alone counts.
            idle: self.busy.idle.unwrap_or(f64::MAX),
            used: all.iter().sum(),
            compete,
        };
        for name in self.busy.functions.keys() {
            let Some(entry) = self.entries.get_mut(name) else {
                continue;
            };
            let gets_the_rest = entry.gets_the_rest();
            if gets_the_rest && cpu.rest() <= 0.0 {
                entry.starved_at = Some(self.busy.asked_at);
            }
            let utilisation = entry.cores_used().map(|used| match gets_the_rest {
                true => cpu.utilisation_of_rest(used, entry.quota()),
                false => cpu.utilisation(used, entry.quota()),
            });
            entry.tick_admission(utilisation, threshold, self.busy.asked_at);
        }
    }
}

impl Entry {
    /// Cores that its instances used lately; `None`: not known.
    fn cores_used(&self) -> Option<f64> {
        let known: Vec<f64> = self
            .slots()
            .iter()
            .filter_map(|slot| slot.rate)
            .map(|(cores, _)| cores)
            .collect();
        (!known.is_empty()).then(|| known.iter().sum())
    }

    /// Cores that the same instances may use.
    fn quota(&self) -> f64 {
        let known = self.slots().iter().filter(|slot| slot.rate.is_some());
        known
            .map(|slot| f64::from(slot.revision.manifest.limits.cpu_millis) / 1000.0)
            .sum()
    }

    /// Whether it gets only the CPU that no other function wants.
    fn gets_the_rest(&self) -> bool {
        let mut known = self.slots().iter().filter(|slot| slot.rate.is_some());
        known.all(|slot| slot.revision.manifest.limits.cpu_idle)
    }

    /// Tells admission what has changed since the last time.
    pub(super) fn tick_admission(&mut self, utilisation: Option<f64>, threshold: u8, now: Instant) {
        self.tell_start();
        self.handle.tick(utilisation, threshold, now);
    }

    /// It is asked again: what its instances used since they were looked at last is mostly of its rest.
    pub(super) fn forget_rates(&mut self) {
        for slot in &mut self.slots {
            (slot.rate, slot.told) = (None, None);
        }
    }

    /// Another sweep looked at what its instances use. Each is told anew within so many: what was told before those, and one
    /// more in case the answer was late, is not known any more.
    fn age_rates(&mut self, turns: usize) {
        for slot in &mut self.slots {
            slot.rate = slot
                .rate
                .map(|(cores, sweeps)| (cores, sweeps + 1))
                .filter(|(_, sweeps)| *sweeps <= turns);
        }
    }

    /// Tells admission what it can't see: whether an instance is being started, and what is in flight at instances that take no
    /// more. Whether that has changed.
    pub(super) fn tell_start(&self) -> bool {
        use super::state::State;
        let current = self.current.revision.id;
        let begins = |slot: &Slot| {
            slot.revision.id == current
                && matches!(slot.state, State::Starting { .. } | State::Backoff { .. })
        };
        let starting = self.slots.iter().any(begins);
        let live = self.handle.live();
        let takes = |slot: &Slot| {
            let live = live.instances.iter();
            slot.id
                .is_some_and(|id| live.clone().any(|instance| instance.id == id))
        };
        let leaving = self.slots.iter().filter(|slot| !takes(slot));
        let leaving = leaving
            .filter_map(|slot| Some(slot.instance.as_ref()?.in_flight()))
            .sum();
        self.handle.note_start(starting, self.start_took, leaving)
    }
}

#[cfg(test)]
mod tests {
    use funcd_sandbox::wire::Usage;

    use super::super::entry_tests::{Story, revision};
    use super::*;

    fn utilisation(used: f64, quota: f64, idle: f64, all: f64, compete: usize) -> f64 {
        let cpu = Cpu {
            cores: 2.0,
            idle,
            used: all,
            compete,
        };
        cpu.utilisation(used, quota)
    }

    #[test]
    fn alone_it_may_use_its_quota_and_what_the_host_has() {
        assert_eq!(utilisation(0.5, 1.0, 1.5, 0.5, 1), 0.5);
        assert_eq!(utilisation(1.0, 1.0, 1.0, 1.0, 1), 1.0);
        // Somebody else, no function, uses the other core, or most of both.
        assert_eq!(utilisation(1.0, 8.0, 0.0, 1.0, 1), 1.0);
        assert_eq!(utilisation(0.5, 8.0, 0.0, 0.5, 1), 1.0);
    }

    #[test]
    fn who_waits_for_something_else_is_not_saturated_by_its_neighbours() {
        assert!(utilisation(0.1, 8.0, 0.0, 2.0, 2) < 0.2);
        assert_eq!(utilisation(1.0, 8.0, 0.0, 2.0, 2), 1.0);
        // All of the CPU is used by what is no function.
        assert!(utilisation(0.02, 1.0, 0.0, 0.02, 0) < 0.2);
    }

    #[test]
    fn who_gets_the_rest_is_short_of_cpu_while_there_is_none() {
        let of_rest = |used, idle| {
            let cpu = Cpu {
                cores: 2.0,
                idle,
                used: 2.0,
                compete: 1,
            };
            (cpu.utilisation_of_rest(used, 1.0), cpu.utilisation(used, 1.0))
        };
        for used in [0.0, 0.005, 0.5] {
            assert_eq!(of_rest(used, 0.0).0, 1.0, "{used}");
        }
        // The control: with the usual share it seems to wait for something else.
        assert!(of_rest(0.005, 0.0).1 < 0.1);
        // There is some, and it does not want it.
        assert!(of_rest(0.005, 1.0).0 < 0.1);
        assert_eq!(of_rest(0.5, f64::MAX).0, 0.5);
    }

    #[test]
    fn nothing_is_divided_by_nothing() {
        assert_eq!(utilisation(0.0, 0.0, 0.0, 0.0, 0), 0.0);
        assert_eq!(utilisation(0.5, 1.0, f64::MAX, 0.5, 1), 0.5);
    }

    #[test]
    fn too_many_to_be_asked_at_once_take_turns() {
        let mut busy = Busy::new(Instant::now());
        let all: Vec<InstanceId> = (0..100).map(InstanceId).collect();
        let first = busy.take_turns(all.clone());
        let second = busy.take_turns(all.clone());
        assert_eq!((first.len(), second[0]), (AT_ONCE, InstanceId(64)));
        assert!(all.iter().all(|id| first.contains(id) || second.contains(id)));
    }

    #[test]
    fn what_is_told_holds_until_the_next_turn() {
        let mut busy = Busy::new(Instant::now());
        let revision = revision(1, |manifest| {
            manifest.scale.min = 150;
            manifest.scale.max = 150;
        });
        let mut story = Story::new(revision);
        story.with(Entry::tick);
        let all: Vec<InstanceId> = story.entry.slots().iter().filter_map(|slot| slot.id).collect();
        assert_eq!(all.len(), 150);
        let usage = |sweep: u64| Usage {
            cpu_micros: sweep * 50_000,
            ..Usage::default()
        };
        let mut sweep = |story: &mut Story, n: u64, answers: bool| {
            story.now += TICK;
            story.entry.age_rates(busy.turns);
            for id in busy.take_turns(all.clone()).into_iter().filter(|_| answers) {
                story.entry.note_usage(id, usage(n), story.now);
            }
        };
        // Twice each, for a rate.
        for n in 1..=6 {
            sweep(&mut story, n, true);
        }
        for n in 7..20 {
            sweep(&mut story, n, true);
            let used = story.entry.cores_used().unwrap();
            assert!((used - 75.0).abs() < 1.0, "half a core each: {used}");
            assert_eq!(story.entry.quota(), 150.0);
        }
        // Nobody answers any more.
        for n in 20..24 {
            assert!(story.entry.cores_used().is_some());
            sweep(&mut story, n, false);
        }
        assert_eq!(story.entry.cores_used(), None);
    }
}
