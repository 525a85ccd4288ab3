//! What the instances of a function use, as the launcher tells: kept with each place. Asks nobody.

use std::time::{Duration, Instant};

use funcd_sandbox::spec::InstanceId;
use funcd_sandbox::wire::{Spent, Strain, Usage};

use super::busy::TICK;
use super::entry::Entry;

/// The CPU that an instance uses is taken over at least this long.
const RATE: Duration = Duration::from_secs(1);

impl Entry {
    /// Notes what an instance uses. What all use together, and the CPU time and the strain that are new.
    pub(super) fn note_usage(&mut self, id: InstanceId, usage: Usage, now: Instant) -> (Usage, Usage) {
        let mut new = Usage::default();
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == Some(id)) {
            new = since(&slot.usage, &usage);
            let rate = |(before, then): (u64, Instant)| {
                let micros = now.saturating_duration_since(then).as_micros().max(1);
                usage.cpu_micros.saturating_sub(before) as f64 / micros as f64
            };
            // Without a single microsecond it is not counted on this host.
            let counted = usage.cpu_micros > 0;
            // A survey may come right after a sweep: over next to no time nothing can be said.
            let is_just_told = |(_, then)| now.saturating_duration_since(then) < TICK / 2;
            if !slot.told.is_some_and(is_just_told) {
                slot.rate = slot.told.filter(|_| counted).map(rate).map(|cores| (cores, 0));
                slot.told = Some((usage.cpu_micros, now));
            }
            // That of a tenth of a second says little about how many instances are needed.
            match slot.surveyed_at {
                Some((_, then)) if now.saturating_duration_since(then) < RATE => {}
                before => {
                    slot.cpu = before.map_or(0.0, rate);
                    slot.surveyed_at = Some((usage.cpu_micros, now));
                }
            }
            slot.usage = usage;
        } else if let Some(before) = self.singles.usage(id) {
            new = since(before, &usage);
            *before = usage;
        }
        (self.usage(), new)
    }

    /// Notes that an instance has ended: it uses nothing any more. What is new.
    pub(super) fn note_end_of_use(&mut self, id: InstanceId, spent: Spent) -> Usage {
        let slot = self.slots.iter_mut().find(|slot| slot.id == Some(id));
        let Some(before) = slot
            .map(|slot| &mut slot.usage)
            .or_else(|| self.singles.usage(id))
        else {
            return Usage::default();
        };
        let mut last = *before;
        last.cpu_micros = last.cpu_micros.max(spent.cpu_micros);
        last.strain.oom_kills = last.strain.oom_kills.max(spent.oom_kills);
        since(&std::mem::take(before), &last)
    }

    /// What all instances use together, as of the last survey.
    pub(super) fn usage(&self) -> Usage {
        let mut total = Usage::default();
        let slots = self.slots.iter().map(|slot| &slot.usage);
        for usage in slots.chain(self.singles.usages()) {
            total.memory_bytes += usage.memory_bytes;
            total.cpu_micros += usage.cpu_micros;
            total.pids += usage.pids;
        }
        total
    }
}

/// What only grows, since the last time.
fn since(before: &Usage, now: &Usage) -> Usage {
    let (old, new) = (&before.strain, &now.strain);
    let mut pressure_micros = new.pressure_micros;
    for (new, old) in pressure_micros.iter_mut().zip(&old.pressure_micros) {
        for (new, old) in new.iter_mut().zip(old) {
            *new = new.saturating_sub(*old);
        }
    }
    Usage {
        cpu_micros: now.cpu_micros.saturating_sub(before.cpu_micros),
        strain: Strain {
            throttled_micros: new.throttled_micros.saturating_sub(old.throttled_micros),
            oom_kills: new.oom_kills.saturating_sub(old.oom_kills),
            pressure_micros,
        },
        ..Usage::default()
    }
}
