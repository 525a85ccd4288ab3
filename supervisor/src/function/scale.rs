//! How many instances a function needs: pure, time is an argument. Like Knative's autoscaler (KPA): a share of the places in
//! use is aimed at; what is short is started at once or by a mean, what is too much stops only after a whole stable window.

use std::time::Instant;

use super::demand::{Concurrency, Demand};
use crate::catalog::manifest::Scale;

/// Of `concurrency`, in thousandths: 70 % (Knative's `container-concurrency-target-percentage`).
const TARGET: u64 = 700;

/// The instances of the current revision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Places {
    /// That run, start or wait to be started again.
    pub awake: usize,
    /// That are frozen.
    pub frozen: usize,
}

/// What is to be done about them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Plan {
    /// Frozen ones to thaw.
    pub thaw: usize,
    /// Instances to start.
    pub start: usize,
    /// Instances that were not needed at any moment of the stable window.
    pub surplus: usize,
}

/// Instances that so many concurrent requests need. One request never needs two.
fn need(scale: &Scale, concurrent: Concurrency) -> usize {
    let target = (u64::from(scale.concurrency) * TARGET).max(1000);
    let need = (concurrent.request_millis * 1000).div_ceil(concurrent.over_millis * target);
    usize::try_from(need).unwrap_or(usize::MAX)
}

/// What to do, given the requests between permit and end of body now and what `demand` knows of the last minute.
///
/// - Requests without a place: `⌈admitted / target⌉` at once.
/// - Otherwise the mean over the stable window, or over the panic window while that asks for twice what there is.
/// - Too many: more than the highest moment of the stable window needs, and never in panic. What this keeps is never less
///   than what the rules above start, so that a constant load starts and stops nothing.
pub fn plan(scale: &Scale, demand: &mut Demand, admitted: usize, places: Places, now: Instant) -> Plan {
    let (min, max) = (scale.min as usize, scale.max as usize);
    let total = places.awake + places.frozen;
    let free_places = places.awake.saturating_mul(scale.concurrency as usize);
    let at_once = match admitted > free_places {
        true => need(scale, Concurrency::of(admitted)),
        false => admitted.div_ceil(scale.concurrency as usize),
    };
    let soon = need(scale, demand.panic(now));
    if places.awake > 0 && at_once.max(soon) >= 2 * places.awake {
        demand.panics(now);
    }
    let in_panic = demand.is_in_panic(now);
    let mean = need(scale, demand.stable(now));
    // A mean is there long after the last request: alone it would start again what has stopped for being idle.
    let needed = match admitted {
        0 => 0,
        _ => at_once.max(mean).max(if in_panic { soon } else { 0 }),
    };
    let beyond = |needed: usize| match needed {
        0 => 0,
        needed => needed.saturating_add(scale.prewarm as usize).min(max),
    };
    let wanted = beyond(needed);
    let surplus = match in_panic || demand.is_held(now) {
        true => 0,
        false => {
            let highest = need(scale, Concurrency::of(demand.peak(now))).max(needed);
            // The last one stops by `idle` alone.
            total.saturating_sub(beyond(highest).max(min).max(1))
        }
    };
    Plan {
        thaw: wanted.saturating_sub(places.awake).min(places.frozen),
        start: wanted.max(min).saturating_sub(total),
        surplus,
    }
}

/// How many of `running` instances may stop, given that no request came for `scale.idle`.
pub fn surplus(scale: &Scale, running: usize) -> usize {
    running.saturating_sub(scale.min as usize)
}

#[cfg(test)]
#[path = "scale_tests.rs"]
mod tests;
