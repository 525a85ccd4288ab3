//! The timer: reads, decides by the pure module, tells. Never acts on a function itself.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use metrics::{counter, gauge};
use tokio::time::sleep_until;

use super::{Gauges, Readings, State, Told};
use crate::admission::brownout::{Bands, Brownout, Cause, Overloads, Stage, Steady};
use crate::telemetry::names;

/// Between two samples.
const PERIOD: Duration = Duration::from_millis(250);
/// The same while the host has next to nothing to do: a sample is fifty system calls, most of what an idle supervisor costs.
const CALM: Duration = Duration::from_secs(1);
/// Less of the host's CPU in use than this is next to nothing.
const BUSY: f64 = 0.1;

/// Watches the host, for ever. With `acts` false it is measured and shown only.
pub async fn watch(mut gauges: Gauges, told: Told, acts: bool) {
    let bands = Bands::default();
    let mut steady = Steady::default();
    let mut state = State::new(SystemTime::now());
    let mut due = tokio::time::Instant::now();
    loop {
        sleep_until(due).await;
        let late = Instant::now().saturating_duration_since(due.into_std());
        state.readings = gauges.read(late);
        let overloads = steady.take(Overloads::of(&state.readings.measures, &bands));
        let brownout = Brownout::of(&overloads);
        if brownout.stage() != state.brownout.stage() {
            state.since = SystemTime::now();
            report(&state.brownout, &brownout, &state, acts);
        }
        state.brownout = brownout;
        record(&overloads, &brownout);
        told.tell(&state, acts);
        // After a pause of the whole machine one sample is enough.
        due = tokio::time::Instant::now() + pause(&state.readings, &overloads);
    }
}

/// Until the next sample.
fn pause(readings: &Readings, overloads: &Overloads) -> Duration {
    match readings.cpu_busy < BUSY && overloads.0 == [0.0; 4] {
        true => CALM,
        false => PERIOD,
    }
}

impl Told {
    fn tell(&self, state: &State, acts: bool) {
        let brownout = if acts { state.brownout } else { Brownout::NONE };
        let header = if brownout.header {
            (brownout.overload * 100.0).round() as u8
        } else {
            0
        };
        self.header.store(header, Ordering::Relaxed);
        self.control.send_if_modified(|last| {
            let changed = *last != brownout;
            *last = brownout;
            // What is idle now was not when it was told before.
            changed || brownout.reclaim_idle
        });
        self.admin.send_replace(state.clone());
    }
}

fn report(before: &Brownout, now: &Brownout, state: &State, acts: bool) {
    let (from, to) = (before.stage(), now.stage());
    let cause = now.cause.or(before.cause).map_or("none", Cause::as_str);
    counter!(names::BROWNOUT_CHANGES_TOTAL, "stage" => to.as_str(), "cause" => cause).increment(1);
    let measures = &state.readings.measures;
    let (from, what) = (from.as_str(), to.describe());
    let what = if acts {
        what
    } else {
        "`brownout` is off: nothing is done"
    };
    let numbers = format!(
        "waits {:.0} ms for a CPU, memory {:.0} % used, stalled for memory {:.0} % of the time, descriptors {:.0} % used",
        measures.cpu_delay * 1e3,
        measures.memory * 100.0,
        measures.memory_pressure * 100.0,
        measures.descriptors * 100.0
    );
    match to {
        Stage::None => tracing::info!(from, cause, numbers, "brownout: over, {what}"),
        _ => tracing::warn!(from, to = to.as_str(), cause, numbers, "brownout: {what}"),
    }
}

fn record(overloads: &Overloads, brownout: &Brownout) {
    for (cause, overload) in Cause::ALL.into_iter().zip(overloads.0) {
        gauge!(names::HOST_OVERLOAD, "cause" => cause.as_str()).set(overload);
    }
    gauge!(names::BROWNOUT_THRESHOLD).set(f64::from(brownout.threshold));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn told() -> (Told, tokio::sync::watch::Receiver<Brownout>) {
        let (control, seen) = tokio::sync::watch::channel(Brownout::NONE);
        let told = Told {
            header: Arc::default(),
            control,
            admin: tokio::sync::watch::channel(State::new(SystemTime::UNIX_EPOCH)).0,
        };
        (told, seen)
    }

    fn state(memory: f64) -> State {
        State {
            brownout: Brownout::of(&Overloads([0.0, 0.0, memory, 0.0])),
            ..State::new(SystemTime::UNIX_EPOCH)
        }
    }

    #[test]
    fn a_host_that_is_busy_or_short_of_something_is_looked_at_more_often() {
        let after = |cpu_busy, overload| {
            let readings = Readings {
                cpu_busy,
                ..Readings::default()
            };
            pause(&readings, &Overloads([0.0, 0.0, overload, 0.0]))
        };
        assert_eq!(after(0.01, 0.0), CALM);
        assert_eq!(after(0.5, 0.0), PERIOD);
        assert_eq!(after(0.01, 0.2), PERIOD);
    }

    #[test]
    fn who_refuses_who_forwards_and_who_scales_are_told() {
        let (told, mut control) = told();
        told.tell(&state(0.0), true);
        assert!(!control.has_changed().unwrap(), "nothing has changed");
        for _ in 0..2 {
            told.tell(&state(0.8), true);
            assert_eq!(control.borrow().threshold, 49);
            assert_eq!(told.header.load(Ordering::Relaxed), 80);
            assert!(
                control.has_changed().unwrap(),
                "each time: something else may be idle now"
            );
            assert!(control.borrow_and_update().reclaim_idle);
        }
        told.tell(&state(0.0), true);
        assert_eq!(told.header.load(Ordering::Relaxed), 0);
        assert_eq!(*control.borrow_and_update(), Brownout::NONE);
    }

    #[test]
    fn switched_off_it_is_only_shown() {
        let (told, control) = told();
        told.tell(&state(0.8), false);
        assert_eq!(control.borrow().threshold, 100);
        assert!(!control.has_changed().unwrap());
        assert_eq!(told.admin.borrow().brownout.threshold, 49);
    }
}
