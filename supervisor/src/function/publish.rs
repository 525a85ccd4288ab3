//! What request paths see of a function: the revision, the instances that may be leased, or why every request is refused.
//! Changes nothing else.

use std::sync::Arc;

use super::effects::Effects;
use super::entry::Entry;
use super::handle::{Live, Refusal};
use super::prove::is_leased_while_starting;
use super::standby::Standby;
use super::state::State;

impl Entry {
    /// Replaces what is live, if that changes.
    pub(super) fn publish(&self, effects: &Effects<'_>) {
        let current = self.current.revision.id;
        let mut instances = Vec::new();
        let mut failed_until = None;
        for slot in self.slots.iter().filter(|slot| slot.revision.id == current) {
            let instance = slot.instance.as_ref().filter(|instance| instance.is_accepting());
            match (slot.state, instance) {
                (State::Ready, Some(instance)) => instances.push(Arc::clone(instance)),
                (State::Starting { .. }, Some(instance)) if is_leased_while_starting(instance) => {
                    instances.push(Arc::clone(instance));
                }
                (State::Failed { until }, _) => failed_until = Some(until),
                (State::Idle | State::Starting { .. } | State::Ready | State::Frozen, _) => {}
                (State::Draining { .. } | State::Backoff { .. }, _) => {}
            }
        }
        let failed_until = failed_until.filter(|until| *until > effects.now);
        if failed_until.is_some() {
            // One that is still being started will most likely end like the others: nobody shall wait for that.
            instances.retain(|instance| self.is_ready(instance.id));
        }
        // Only where nothing runs: a request that finds an instance shall not wake another one.
        if self.slots.is_empty()
            && let Some(Standby::Waits(instance)) = &self.standby
            && is_leased_while_starting(instance)
        {
            instances.push(Arc::clone(instance));
        }
        instances.extend(self.singles.waiting(&self.current.revision).map(Arc::clone));
        let singles_failed = self.singles.refused_until().filter(|until| *until > effects.now);
        let failed_until = failed_until.or(singles_failed);
        let refusal = match (self.removed, failed_until) {
            (true, _) => Some(Refusal {
                reason: "the function was removed".to_owned(),
                until: None,
            }),
            (false, Some(until)) if instances.is_empty() => {
                // Callers get the kind of end alone: the launcher's words name paths and settings of this host.
                let ended = self.last_exit.as_ref();
                let ended = ended.map_or_else(String::new, |ended| ended.exit.to_string());
                Some(Refusal {
                    reason: format!("its last instances ended before they were ready: {ended}"),
                    until: Some(until),
                })
            }
            (false, _) => None,
        };
        let live = Arc::clone(&*self.handle.live());
        let same_instances = live.instances.len() == instances.len()
            && live
                .instances
                .iter()
                .zip(&instances)
                .all(|(a, b)| Arc::ptr_eq(a, b));
        if !same_instances || live.refusal != refusal || !Arc::ptr_eq(&live.revision, &self.current.revision)
        {
            let revision = Arc::clone(&self.current.revision);
            self.handle.publish(Live {
                revision,
                instances,
                refusal,
            });
        }
        if self.tell_start() {
            self.handle.refresh();
        }
    }
}
