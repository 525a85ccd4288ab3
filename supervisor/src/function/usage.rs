//! What the instances of a function use, as the launcher tells: kept with each place. Asks nobody.

use std::time::{Duration, Instant};

use funcd_sandbox::spec::InstanceId;
use funcd_sandbox::wire::Usage;

use super::entry::Entry;

/// The CPU that an instance uses is taken over at least this long.
const RATE: Duration = Duration::from_secs(1);

impl Entry {
    /// Notes what an instance uses. What all use together, and the CPU time that is new, in microseconds.
    pub(super) fn note_usage(&mut self, id: InstanceId, usage: Usage, now: Instant) -> (Usage, u64) {
        let mut new_cpu = 0;
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == Some(id)) {
            new_cpu = usage.cpu_micros.saturating_sub(slot.usage.cpu_micros);
            let rate = |(before, then): (u64, Instant)| {
                let micros = now.saturating_duration_since(then).as_micros().max(1);
                usage.cpu_micros.saturating_sub(before) as f64 / micros as f64
            };
            // Without a single microsecond it is not counted on this host.
            let counted = usage.cpu_micros > 0;
            slot.rate = slot.told.filter(|_| counted).map(rate).map(|cores| (cores, 0));
            slot.told = Some((usage.cpu_micros, now));
            // That of a tenth of a second says little about how many instances are needed.
            match slot.surveyed_at {
                Some((_, then)) if now.saturating_duration_since(then) < RATE => {}
                before => {
                    slot.cpu = before.map_or(0.0, rate);
                    slot.surveyed_at = Some((usage.cpu_micros, now));
                }
            }
            slot.usage = usage;
        }
        (self.usage(), new_cpu)
    }

    /// What all instances use together, as of the last survey.
    pub(super) fn usage(&self) -> Usage {
        let mut total = Usage::default();
        for slot in &self.slots {
            total.memory_bytes += slot.usage.memory_bytes;
            total.cpu_micros += slot.usage.cpu_micros;
            total.pids += slot.usage.pids;
        }
        total
    }
}
