//! Admission as a whole, without a simulator.

use super::*;

fn state(ready: u32) -> State {
    State {
        places: Places {
            ready,
            concurrency: 50,
        },
        leaving: 0,
        most_places: 200,
        cold_start: None,
        timeout: Duration::from_secs(1),
        threshold: 100,
    }
}

struct World {
    admission: Admission<u32>,
    now: Instant,
}

impl World {
    fn new(ready: u32) -> World {
        let now = Instant::now();
        World {
            admission: Admission::new(Parts::default(), 4.0, state(ready), now),
            now,
        }
    }

    fn offer(&self, chance: u32) -> Offer {
        let facts = Facts {
            class: Class::Degraded,
            rank: 0,
            arrived: self.now,
            deadline: self.now + Duration::from_secs(1),
        };
        self.admission
            .offer(&facts, chance, self.now, || 0, &mut Vec::new())
    }

    /// A tick with so many requests that ended like this.
    fn tick(&mut self, n: u32, outcome: Outcome, millis: u64, busy: f64) {
        for _ in 0..n {
            self.admission.ended(outcome, Duration::from_millis(millis));
        }
        self.now += Admission::<u32>::TICK;
        self.admission.tick(Some(busy), self.now, &mut Vec::new());
    }
}

#[test]
fn a_new_function_takes_all_that_its_instances_take() {
    let world = World::new(1);
    for _ in 0..50 {
        assert_eq!(world.offer(0), Offer::Go);
    }
    assert!(matches!(
        world.offer(0),
        Offer::Wait {
            wants_place: true,
            ..
        }
    ));
}

#[test]
fn once_it_is_known_the_limit_is() {
    let mut world = World::new(1);
    (0..20).for_each(|_| assert_eq!(world.offer(0), Offer::Go));
    world.tick(60, Outcome::Answered, 20, 1.0);
    let view = world.admission.view();
    assert!(view.limit < 20, "{view:?}");
    assert!(
        (view.p50.unwrap().as_secs_f64() - 0.020).abs() < 0.002,
        "{view:?}"
    );
    assert!(matches!(
        world.offer(0),
        Offer::Wait {
            wants_place: false,
            ..
        }
    ));
    // Another revision: nothing is known.
    world.admission.reset(world.now, &mut Vec::new());
    assert_eq!(world.admission.view().limit, 50);
}

#[test]
fn an_answer_that_takes_too_long_refuses_and_is_forgotten() {
    let mut world = World::new(1);
    world.tick(60, Outcome::Answered, 3000, 0.1);
    assert_eq!(world.offer(0), Offer::Shed(Reason::Deadline));
    // Nobody was let in, so nobody answered: one has to try.
    (0..10).for_each(|_| world.tick(0, Outcome::Answered, 0, 0.1));
    assert_eq!(world.offer(0), Offer::Go);
}

#[test]
fn what_fails_is_asked_less() {
    let mut world = World::new(1);
    world.tick(100, Outcome::Answered, 20, 0.5);
    assert_eq!(world.offer(0), Offer::Go);
    for _ in 0..20 {
        world.tick(100, Outcome::Failed, 20, 0.5);
    }
    assert!(world.admission.view().breaker > 0.7);
    assert_eq!(world.offer(0), Offer::Shed(Reason::Breaker));
    assert_eq!(world.offer(u32::MAX), Offer::Go);
}

#[test]
fn what_is_too_late_for_want_of_cpu_is_not_for_the_breaker() {
    let refused = |busy: f64| {
        let mut world = World::new(1);
        world.tick(100, Outcome::Answered, 20, busy);
        (0..20).for_each(|_| world.tick(100, Outcome::Dropped, 1000, busy));
        world.admission.view().breaker
    };
    assert_eq!(refused(1.0), 0.0, "the limit mends it");
    assert!(refused(0.1) > 0.7, "it hangs");
}

#[test]
fn a_burst_out_of_a_rest_is_let_in_by_and_by() {
    let mut world = World::new(4);
    let gone = |world: &World| (0..500).take_while(|_| world.offer(0) == Offer::Go).count();
    assert_eq!(gone(&world), 64);
    // Nobody knows yet what they cost; then they are seen to wait for something else.
    world.now += Admission::<u32>::TICK;
    world.admission.tick(None, world.now, &mut Vec::new());
    assert_eq!(world.admission.gate().in_flight(), 65, "the one that waited went");
    assert_eq!(gone(&world), 63);
    world.tick(0, Outcome::Answered, 0, 0.01);
    assert_eq!(world.admission.view().limit, 200);
    // So long who comes with the burst may wait; not where every place is taken.
    let until = |ready: u32| {
        let world = World::new(ready);
        for _ in 0..64 {
            let _ = world.offer(0);
        }
        match world.offer(0) {
            Offer::Wait { until, .. } => until - world.now,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        (until(4), until(1)),
        (Duration::from_millis(300), Duration::from_millis(100))
    );
}

#[test]
fn while_the_first_instance_starts_who_comes_may_wait_until_the_deadline() {
    let world = World::new(0);
    let cold = State {
        cold_start: Some(Duration::from_millis(5)),
        ..state(0)
    };
    world.admission.set_places(cold, world.now, &mut Vec::new());
    let Offer::Wait {
        until, wants_place, ..
    } = world.offer(0)
    else {
        panic!("it waits");
    };
    assert!(wants_place);
    assert_eq!(until, world.now + Duration::from_secs(1));
    let mut verdicts = Vec::new();
    world.admission.set_places(state(1), world.now, &mut verdicts);
    assert_eq!(verdicts, [(0, Ok(()))]);
}

#[test]
fn what_drains_elsewhere_takes_no_place_of_those_that_serve() {
    let world = World::new(1);
    (0..50).for_each(|_| assert_eq!(world.offer(0), Offer::Go));
    assert!(matches!(world.offer(0), Offer::Wait { .. }));
    // Another instance serves from now on; what the old one has goes on.
    let moved = State {
        leaving: 50,
        ..state(1)
    };
    let mut verdicts = Vec::new();
    world.admission.set_places(moved, world.now, &mut verdicts);
    assert_eq!(verdicts, [(0, Ok(()))]);
    (0..49).for_each(|_| assert_eq!(world.offer(0), Offer::Go));
    assert!(matches!(world.offer(0), Offer::Wait { .. }));
}

#[test]
fn who_waits_is_let_wait_longer_once_an_instance_is_being_started() {
    let world = World::new(1);
    (0..50).for_each(|_| assert_eq!(world.offer(0), Offer::Go));
    let Offer::Wait { ticket, until, .. } = world.offer(0) else {
        panic!("it waits");
    };
    assert_eq!(until, world.now + Duration::from_millis(100));
    let start = Duration::from_millis(300);
    let starting = State {
        cold_start: Some(start),
        ..state(1)
    };
    world.admission.set_places(starting, world.now, &mut Vec::new());
    let gate = world.admission.gate();
    assert_eq!(gate.until(ticket, world.now), Some(until + start));
    gate.cancel(ticket, world.now);
    assert_eq!(gate.until(ticket, world.now), None);
}

#[test]
fn retries_are_a_tenth_and_a_few() {
    let world = World::new(1);
    assert_eq!(
        (0..100).filter(|_| world.admission.may_retry(world.now)).count(),
        10
    );
}
