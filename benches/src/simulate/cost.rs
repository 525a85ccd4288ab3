//! What a decision costs: admission alone, on this machine.

use std::hint::black_box;
use std::time::{Duration, Instant};

use funcd::admission::gate::Offer;
use funcd::admission::limit::{Limit, Places};
use funcd::admission::queue::Facts;
use funcd::admission::{Admission, Class, Parts, State};

use super::goal::Goal;

/// CPU of single decisions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// To let one in and out again far below the limit.
    pub(crate) admit: Duration,
    /// To refuse one, while the queue is full: another has to make room.
    pub(crate) refuse: Duration,
}

/// Decisions at a time …
const BATCH: u32 = 1000;
/// … and times; the fastest counts, because what others on the machine do only adds.
const BATCHES: u32 = 200;

/// Measures.
pub(crate) fn measure() -> Cost {
    let now = Instant::now();
    let state = State {
        places: Places {
            ready: 1,
            concurrency: Limit::BURST,
        },
        leaving: 0,
        most_places: Limit::BURST,
        cold_start: None,
        timeout: Duration::from_secs(1),
        threshold: 100,
    };
    let admission = Admission::new(Parts::default(), 4.0, state, now);
    let mut told = Vec::with_capacity(8);
    let facts = |now: Instant, n: u32| Facts {
        class: Class::Degraded,
        rank: (n % 128) as u8,
        arrived: now,
        deadline: now + Duration::from_secs(1),
    };
    let admit = fastest(|n| {
        let offer = admission.offer(&facts(now, n), n, now, || n, &mut told);
        assert_eq!(offer, Offer::Go);
        admission.gate().release(now, &mut told);
    });
    // Every place is taken and the queue is full.
    for n in 0..Limit::BURST {
        assert_eq!(
            admission.offer(&facts(now, n), n, now, || n, &mut told),
            Offer::Go
        );
    }
    for n in 0..1000 {
        admission.offer(&facts(now, n), n, now, || n, &mut told);
    }
    let refuse = fastest(|n| {
        told.clear();
        black_box(admission.offer(&facts(now, n), n, now, || n, &mut told));
        assert_eq!(told.len(), 1);
    });
    Cost { admit, refuse }
}

fn fastest(mut decide: impl FnMut(u32)) -> Duration {
    let batch = |_| {
        let began = Instant::now();
        (0..BATCH).for_each(&mut decide);
        began.elapsed() / BATCH
    };
    (0..BATCHES).map(batch).min().unwrap_or_default()
}

impl Cost {
    pub(crate) fn goals(&self) -> Vec<Goal> {
        let micros = |cost: Duration| cost.as_secs_f64() * 1e6;
        vec![
            Goal::at_most("decision", "admit and release, µs", micros(self.admit), 5.0, ""),
            Goal::at_most(
                "decision",
                "refuse with a full queue, µs",
                micros(self.refuse),
                5.0,
                "sub-ms",
            ),
        ]
    }
}
