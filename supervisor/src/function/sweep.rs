//! When `control` looks at which function: one agenda of deadlines and one coarse sweep over those in use, instead of a timer
//! each. An idle function costs neither.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::control::Control;
use super::entry::Entry;
use crate::admission::brownout::Brownout;
use crate::name::FunctionName;

/// How often functions in use are looked at.
pub(super) const SWEEP: Duration = Duration::from_millis(250);
/// How often, meanwhile, the host is.
const FACTS: Duration = Duration::from_secs(1);

/// Of how many functions idle instances are stopped at once, four times a second, when the host is short of what they hold.
const RECLAIM: usize = 32;

/// When which function is due: pure.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    by_time: BTreeSet<(Instant, FunctionName)>,
    of: BTreeMap<FunctionName, Instant>,
}

impl Agenda {
    /// It is due then, and not at another time; `None`: never.
    pub(super) fn set(&mut self, name: &FunctionName, at: Option<Instant>) {
        if self.of.get(name).copied() == at {
            return;
        }
        if let Some(old) = self.of.remove(name) {
            self.by_time.remove(&(old, name.clone()));
        }
        if let Some(at) = at {
            self.of.insert(name.clone(), at);
            self.by_time.insert((at, name.clone()));
        }
    }

    /// When the first one is.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Those that are due by now; they stay until they are set again.
    pub(super) fn due(&self, now: Instant) -> Vec<FunctionName> {
        let due = self.by_time.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, name)| name.clone()).collect()
    }
}

impl Control {
    /// When there is something to do by itself.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let sweep = (!self.in_use.is_empty()).then_some(self.sweep_at);
        let busy = self.busy.deadline();
        self.agenda.next().into_iter().chain(sweep).chain(busy).min()
    }

    pub(super) fn on_tick(&mut self) {
        let now = Instant::now();
        if self.busy.deadline().is_some_and(|at| at <= now) {
            self.look_at_busy(now);
        }
        for name in self.agenda.due(now) {
            self.with(&name, Entry::tick);
        }
        if self.sweep_at <= now && !self.in_use.is_empty() {
            self.sweep_at = now + SWEEP;
            self.sweep(now);
        }
    }

    fn sweep(&mut self, now: Instant) {
        if self.facts_at + FACTS <= now {
            self.read_host(now);
        }
        let entries = &mut self.entries;
        let mut to_do = Vec::new();
        self.in_use.retain(|name| {
            let Some(entry) = entries.get_mut(name) else {
                return false;
            };
            if entry.sample(now) {
                to_do.push(name.clone());
                return true;
            }
            entry.is_in_use(now)
        });
        for name in to_do {
            self.with(&name, Entry::follow);
        }
    }

    /// Looks at what the host has left.
    pub(super) fn read_host(&mut self, now: Instant) {
        self.host = self.facts.read();
        self.host.brownout = self.brownout.stop_scale_up;
        self.facts_at = now;
    }

    /// The host holds back something else than before, or is to give back what is idle now.
    pub(super) fn on_brownout(&mut self, brownout: Brownout) {
        self.brownout = brownout;
        self.host.brownout = brownout.stop_scale_up;
        if !brownout.reclaim_idle {
            return;
        }
        let now = Instant::now();
        let mut idle: Vec<_> = self
            .entries
            .iter()
            .filter_map(|(name, entry)| Some((entry.reclaimable(now)?, name.clone())))
            .collect();
        // Those that nobody used for the longest time.
        idle.sort();
        for (_, name) in idle.into_iter().take(RECLAIM) {
            self.with(&name, Entry::reclaim);
        }
    }

    /// After anything happened to a function: when it is due, and whether it is in use.
    pub(super) fn note(&mut self, name: &FunctionName, now: Instant) {
        let entry = self.entries.get(name);
        self.agenda.set(name, entry.and_then(|entry| entry.deadline(now)));
        if entry.is_some_and(|entry| entry.is_in_use(now)) && !self.in_use.contains(name) {
            if self.in_use.is_empty() {
                self.sweep_at = now + SWEEP;
            }
            self.in_use.insert(name.clone());
        }
    }

    /// Functions that came into use without asking for a place.
    pub(super) fn look_for_use(&mut self, now: Instant) {
        let found: Vec<_> = self
            .entries
            .iter()
            .filter(|(name, entry)| entry.is_in_use(now) && !self.in_use.contains(*name))
            .map(|(name, _)| name.clone())
            .collect();
        if self.in_use.is_empty() {
            self.sweep_at = now;
        }
        self.in_use.extend(found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> FunctionName {
        FunctionName::parse(&format!("f{n}")).unwrap()
    }

    #[test]
    fn each_is_due_at_its_last_time_and_only_then() {
        let start = Instant::now();
        let at = |n: u64| start + Duration::from_secs(n);
        let mut agenda = Agenda::default();
        assert_eq!(agenda.next(), None);
        agenda.set(&name(1), Some(at(5)));
        agenda.set(&name(2), Some(at(3)));
        agenda.set(&name(2), Some(at(3)));
        assert_eq!((agenda.next(), agenda.due(at(2))), (Some(at(3)), vec![]));
        agenda.set(&name(2), Some(at(7)));
        assert_eq!(agenda.due(at(9)), [name(1), name(2)]);
        agenda.set(&name(1), None);
        assert_eq!((agenda.next(), agenda.due(at(9))), (Some(at(7)), vec![name(2)]));
        agenda.set(&name(2), None);
        assert!(agenda.by_time.is_empty() && agenda.of.is_empty());
    }

    /// The whole cost of the agenda for an event, whatever the number of functions: two lookups.
    #[test]
    fn a_thousand_functions_are_found_in_order() {
        let start = Instant::now();
        let mut agenda = Agenda::default();
        for n in 0..1000 {
            agenda.set(
                &name(n),
                Some(start + Duration::from_millis((n as u64 * 7919) % 1000)),
            );
        }
        assert_eq!(agenda.next(), Some(start));
        assert_eq!(agenda.due(start + Duration::from_millis(99)).len(), 100);
    }
}
