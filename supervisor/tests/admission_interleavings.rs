//! Admission's gate and door under every interleaving that chance finds: the same source, with locks and atomics that switch
//! tasks at each use. Never proves that there is none; a seed that fails is printed and can be run again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shuttle::future::block_on;
use shuttle::{check_random, thread};

/// The files as they are; `sync` is what differs.
#[path = ""]
mod admission {
    #![allow(dead_code, unreachable_pub, missing_docs)]

    #[path = "../src/admission/class.rs"]
    pub mod class;
    #[path = "../src/admission/door.rs"]
    pub mod door;
    #[path = "../src/admission/gate.rs"]
    pub mod gate;
    #[path = "../src/admission/queue.rs"]
    pub mod queue;
    #[path = "../src/admission/route.rs"]
    pub mod route;

    mod sync {
        pub(super) use std::sync::Arc;

        pub(super) use shuttle::sync::Mutex;
        pub(super) use shuttle::sync::atomic::{AtomicU32, AtomicU64, Ordering};
    }
}

use admission::class::Class;
use admission::door::{Door, Entered};
use admission::gate::{Gate, Setting};
use admission::queue::{Conditions, Facts, Order};
use admission::route::RouteLimit;

/// Runs of each story; each another interleaving.
const RUNS: usize = 2_000;

fn facts() -> Facts {
    let now = Instant::now();
    Facts {
        class: Class::Degraded,
        rank: 0,
        arrived: now,
        deadline: now + Duration::from_secs(3600),
    }
}

fn setting(limit: u32) -> Setting {
    Setting {
        limit,
        places: limit,
        threshold: 100,
        conditions: Conditions {
            // Nobody is refused for being late: a run that waits for nothing would not end.
            cold_start: Some(Duration::from_secs(3600)),
            ..Conditions::default()
        },
    }
}

fn house(limit: u32) -> (Arc<Gate<Arc<admission::door::Slot>>>, Arc<Door>) {
    let gate = Arc::new(Gate::new(Order::Adaptive, Instant::now()));
    let door = Door::new(Arc::clone(&gate), Instant::now);
    set(&gate, &door, limit);
    (gate, door)
}

fn set(gate: &Gate<Arc<admission::door::Slot>>, door: &Door, limit: u32) {
    let mut verdicts = Vec::new();
    gate.set(&setting(limit), Instant::now(), &mut verdicts);
    door.tell(verdicts);
}

/// Goes in, waits if it must, and goes out again. Nobody is refused.
fn visit(door: &Arc<Door>) {
    match door.enter(&facts(), 1) {
        Entered::Go(permit) => {
            thread::yield_now();
            drop(permit);
        }
        Entered::Wait(ticket) => {
            let permit = block_on(ticket).expect("nobody is refused");
            thread::yield_now();
            drop(permit);
        }
        Entered::Shed(reason) => panic!("refused: {reason:?}"),
    }
}

/// Everybody gets a turn: a wake-up that is lost is a deadlock, which the scheduler reports.
#[test]
fn everybody_gets_a_turn_and_all_is_given_back() {
    check_random(
        || {
            let (gate, door) = house(1);
            let visitors: Vec<_> = (0..3)
                .map(|_| {
                    let door = Arc::clone(&door);
                    thread::spawn(move || visit(&door))
                })
                .collect();
            visitors.into_iter().for_each(|visitor| visitor.join().unwrap());
            assert_eq!((gate.in_flight(), gate.waiting()), (0, 0));
        },
        RUNS,
    );
}

/// Callers that leave at any moment, before, while or after they are let in, neither keep a place nor lose one that is
/// somebody else's.
#[test]
fn who_leaves_at_any_moment_leaks_nothing() {
    check_random(
        || {
            let (gate, door) = house(1);
            let leaving = Arc::clone(&door);
            let leaver = thread::spawn(move || {
                let entered = leaving.enter(&facts(), 1);
                thread::yield_now();
                drop(entered);
            });
            let stayers: Vec<_> = (0..2)
                .map(|_| {
                    let door = Arc::clone(&door);
                    thread::spawn(move || visit(&door))
                })
                .collect();
            leaver.join().unwrap();
            stayers.into_iter().for_each(|stayer| stayer.join().unwrap());
            assert_eq!((gate.in_flight(), gate.waiting()), (0, 0));
        },
        RUNS,
    );
}

/// Instances come and go at any moment (the limit is raised, falls to nothing, and rises again): nobody who waits is forgotten.
#[test]
fn instances_that_come_and_go_leave_nobody_behind() {
    check_random(
        || {
            let (gate, door) = house(0);
            let visitors: Vec<_> = (0..3)
                .map(|_| {
                    let door = Arc::clone(&door);
                    thread::spawn(move || visit(&door))
                })
                .collect();
            let (control, its_door) = (Arc::clone(&gate), Arc::clone(&door));
            let control = thread::spawn(move || {
                for limit in [2, 0, 1] {
                    set(&control, &its_door, limit);
                }
            });
            control.join().unwrap();
            visitors.into_iter().for_each(|visitor| visitor.join().unwrap());
            assert_eq!((gate.in_flight(), gate.waiting()), (0, 0));
        },
        RUNS,
    );
}

/// The limit is never exceeded: with one place nobody is inside with another.
#[test]
fn never_two_in_one_place() {
    check_random(
        || {
            let (_, door) = house(1);
            let inside = Arc::new(shuttle::sync::atomic::AtomicU32::new(0));
            let visitors: Vec<_> = (0..3)
                .map(|_| {
                    let (door, inside) = (Arc::clone(&door), Arc::clone(&inside));
                    thread::spawn(move || {
                        let permit = match door.enter(&facts(), 1) {
                            Entered::Go(permit) => permit,
                            Entered::Wait(ticket) => block_on(ticket).expect("nobody is refused"),
                            Entered::Shed(reason) => panic!("refused: {reason:?}"),
                        };
                        let order = shuttle::sync::atomic::Ordering::SeqCst;
                        assert_eq!(inside.fetch_add(1, order), 0, "two are inside");
                        inside.fetch_sub(1, order);
                        drop(permit);
                    })
                })
                .collect();
            visitors.into_iter().for_each(|visitor| visitor.join().unwrap());
        },
        RUNS,
    );
}

/// Requests by a route of two places go and wait for the function's one place; callers vanish, a revision changes the limit:
/// never more than the limit are inside, and all places are given back.
#[test]
fn a_route_never_has_more_than_its_places_and_gets_all_of_them_back() {
    check_random(
        || {
            let (gate, door) = house(1);
            let route = RouteLimit::new(2);
            let inside = Arc::new(shuttle::sync::atomic::AtomicU32::new(0));
            let order = shuttle::sync::atomic::Ordering::SeqCst;
            let visitors: Vec<_> = (0..3)
                .map(|n| {
                    let (door, route, inside) = (Arc::clone(&door), Arc::clone(&route), Arc::clone(&inside));
                    thread::spawn(move || {
                        let Some(place) = route.enter() else { return };
                        assert!(inside.fetch_add(1, order) < 2, "more than two are inside");
                        let permit = match door.enter(&facts(), 1) {
                            Entered::Go(permit) => permit,
                            // Its caller vanishes while it waits.
                            Entered::Wait(ticket) if n == 0 => {
                                inside.fetch_sub(1, order);
                                drop((ticket, place));
                                return;
                            }
                            Entered::Wait(ticket) => block_on(ticket).expect("nobody is refused"),
                            Entered::Shed(reason) => panic!("refused: {reason:?}"),
                        };
                        let permit = permit.with(Some(place));
                        inside.fetch_sub(1, order);
                        drop(permit);
                    })
                })
                .collect();
            // Another revision.
            route.set(1);
            visitors.into_iter().for_each(|visitor| visitor.join().unwrap());
            assert_eq!((route.in_flight(), gate.in_flight()), (0, 0));
            let place = route.enter();
            assert!(place.is_some() && route.enter().is_none());
        },
        RUNS,
    );
}

/// The control: somebody who waits for ever is noticed, so the stories above would not pass with a lost wake-up.
#[test]
#[should_panic(expected = "deadlock")]
fn the_scheduler_notices_who_waits_for_ever() {
    check_random(
        || {
            let (gate, door) = house(1);
            let Entered::Go(permit) = door.enter(&facts(), 1) else {
                panic!("the first one goes");
            };
            let Entered::Wait(ticket) = door.enter(&facts(), 1) else {
                panic!("the second one waits");
            };
            // The place is never given back.
            std::mem::forget(permit);
            assert_eq!(gate.in_flight(), 1);
            let _ = block_on(ticket);
        },
        1,
    );
}
