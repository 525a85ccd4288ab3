//! Properties of the autoscaler under loads of all kinds. Time is injected; nothing runs.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::function::demand::STABLE;

const SCALE: Scale = Scale {
    min: 0,
    max: 3,
    concurrency: 10,
    prewarm: 0,
    idle: Duration::from_secs(60),
    freeze: None,
};

fn awake(awake: usize) -> Places {
    Places { awake, frozen: 0 }
}

/// What a function that nobody asked before would start now.
fn first(scale: &Scale, admitted: usize, places: usize) -> usize {
    plan(
        scale,
        &mut Demand::default(),
        admitted,
        awake(places),
        Instant::now(),
    )
    .start
}

/// A function that follows its plans at once, looked at each 250 ms.
struct Life {
    scale: Scale,
    demand: Demand,
    places: Places,
    now: Instant,
    started: usize,
    stopped: usize,
}

impl Life {
    fn new(scale: Scale) -> Life {
        Life {
            scale,
            demand: Demand::default(),
            places: Places::default(),
            now: Instant::now(),
            started: 0,
            stopped: 0,
        }
    }

    fn total(&self) -> usize {
        self.places.awake + self.places.frozen
    }

    fn tick(&mut self, admitted: usize) -> Plan {
        self.now += Duration::from_millis(250);
        self.demand.note(admitted, self.now);
        let plan = plan(&self.scale, &mut self.demand, admitted, self.places, self.now);
        self.places.frozen -= plan.thaw;
        self.places.awake += plan.thaw + plan.start;
        self.places.awake -= plan.surplus.min(self.places.awake);
        self.started += plan.start;
        self.stopped += plan.surplus;
        plan
    }
}

#[test]
fn one_for_the_first_request_and_by_the_target_for_those_without_a_place() {
    assert_eq!(first(&SCALE, 0, 0), 0);
    assert_eq!(first(&SCALE, 1, 0), 1);
    assert_eq!(first(&SCALE, 10, 1), 0, "all have a place");
    assert_eq!(first(&SCALE, 11, 1), 1, "11 / 7 are 2");
    assert_eq!(first(&SCALE, 15, 1), 2, "15 / 7 are 3");
    assert_eq!(first(&SCALE, 1000, 1), 2, "at most 3");
    let single = Scale {
        concurrency: 1,
        max: 100,
        ..SCALE
    };
    assert_eq!(first(&single, 1, 0), 1, "one request never needs two");
    assert_eq!(first(&single, 9, 4), 5);
}

#[test]
fn the_minimum_is_kept_and_so_is_what_is_beyond_need() {
    let scale = Scale { min: 2, ..SCALE };
    assert_eq!(first(&scale, 0, 0), 2);
    assert_eq!((surplus(&scale, 3), surplus(&scale, 2)), (1, 0));
    let scale = Scale { prewarm: 1, ..SCALE };
    assert_eq!(first(&scale, 0, 0), 0, "only while it is in use");
    assert_eq!(first(&scale, 1, 0), 2);
    assert_eq!(first(&scale, 1, 2), 0);
    assert_eq!(first(&scale, 29, 3), 0, "and never above the most");
}

#[test]
fn full_places_bring_another_before_requests_wait() {
    let mut life = Life::new(SCALE);
    life.tick(5);
    life.tick(9);
    assert_eq!(life.places, awake(1));
    for _ in 0..4 * 6 {
        life.tick(9);
    }
    assert_eq!(life.places, awake(2), "9 of 10 are more than 70 %");
}

#[test]
fn frozen_ones_are_thawed_before_others_are_started() {
    let places = Places { awake: 0, frozen: 2 };
    let now = Instant::now();
    let plan_for = |admitted| {
        let mut demand = Demand::default();
        // There was a load, which the means remember.
        demand.note(20, now - Duration::from_secs(1));
        // There was a load, which the means remember.
        demand.note(20, now - Duration::from_secs(1));
        demand.note(20, now);
        plan(&SCALE, &mut demand, admitted, places, now)
    };
    assert_eq!(plan_for(0), Plan::default(), "nobody thaws without need");
    let wake = |thaw, start| Plan {
        thaw,
        start,
        surplus: 0,
    };
    assert_eq!(plan_for(1), wake(1, 0));
    assert_eq!(plan_for(20), wake(2, 1));
}

#[test]
fn what_one_moment_of_the_last_minute_needed_does_not_stop() {
    let mut life = Life::new(SCALE);
    life.tick(25);
    assert_eq!(life.places, awake(3));
    for _ in 0..4 * 59 {
        life.tick(1);
    }
    assert_eq!(life.places, awake(3));
    for _ in 0..4 * 3 {
        life.tick(1);
    }
    assert_eq!(life.places, awake(1));
}

#[test]
fn what_was_taken_over_is_kept_for_a_stable_window() {
    let mut life = Life::new(SCALE);
    life.places = awake(3);
    life.demand.hold(life.now);
    for _ in 0..4 * 59 {
        assert_eq!(life.tick(1).surplus, 0);
    }
    for _ in 0..4 * 2 {
        life.tick(1);
    }
    assert_eq!(life.places, awake(1));
}

fn scales() -> impl Strategy<Value = Scale> {
    (0..5_u32, 1..20_u32, 1..100_u32, 0..4_u32).prop_map(|(min, more, concurrency, prewarm)| Scale {
        min,
        max: min + more,
        concurrency,
        prewarm,
        ..SCALE
    })
}

proptest! {
    #[test]
    fn never_below_the_minimum_nor_above_the_most(
        scale in scales(),
        loads in prop::collection::vec((0..400_usize, 1..40_usize), 1..20),
    ) {
        let mut life = Life::new(scale.clone());
        for (load, ticks) in loads {
            for _ in 0..ticks {
                life.tick(load);
                prop_assert!(life.total() >= scale.min as usize && life.total() <= scale.max as usize);
            }
        }
    }

    #[test]
    fn the_first_request_and_each_without_a_place_are_decided_at_once(scale in scales(), load in 1..400_usize) {
        let mut life = Life::new(scale.clone());
        life.tick(load);
        let places = life.total() * scale.concurrency as usize;
        prop_assert!(places >= load || life.total() == scale.max as usize);
    }

    #[test]
    fn a_constant_load_starts_and_stops_nothing_once_it_is_known(scale in scales(), load in 0..400_usize) {
        let mut life = Life::new(scale);
        for _ in 0..4 * 70 {
            life.tick(load);
        }
        let before = (life.started, life.stopped);
        for _ in 0..4 * 200 {
            life.tick(load);
        }
        prop_assert_eq!((life.started, life.stopped), before);
        prop_assert_eq!(life.stopped, 0, "and nothing was started in vain");
    }

    #[test]
    fn a_load_that_comes_and_goes_within_the_window_stops_nothing(
        scale in scales(), high in 0..200_usize, low in 0..200_usize, period in 1..100_usize,
    ) {
        let mut life = Life::new(scale);
        for tick in 0..4 * 300 {
            life.tick(if (tick / period) % 2 == 0 { high } else { low });
        }
        prop_assert_eq!(life.stopped, 0);
    }

    #[test]
    fn panic_never_stops_any(scale in scales(), calm in 1..10_usize, factor in 2..20_usize) {
        let mut life = Life::new(scale);
        for _ in 0..4 * 90 {
            life.tick(calm);
        }
        let burst = life.places.awake * life.scale.concurrency as usize * factor + 1;
        life.tick(burst);
        prop_assume!(life.demand.is_in_panic(life.now));
        let (end, at_least) = (life.now + STABLE, life.total());
        while life.now + Duration::from_millis(250) < end {
            prop_assert_eq!(life.tick(calm).surplus, 0);
            prop_assert!(life.total() >= at_least);
        }
    }
}
