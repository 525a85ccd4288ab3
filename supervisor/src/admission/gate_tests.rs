//! The gate and the door: counts stay exact, nobody waits while there is a place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::class::Class;
use super::door::{Door, Entered};
use super::gate::{Gate, Offer, Setting};
use super::queue::{Conditions, Facts, Order, Reason};

fn facts(now: Instant) -> Facts {
    Facts {
        class: Class::Degraded,
        rank: 0,
        arrived: now,
        deadline: now + Duration::from_secs(10),
    }
}

fn setting(limit: u32) -> Setting {
    Setting {
        limit,
        places: limit,
        threshold: 100,
        conditions: Conditions {
            bound: 4,
            ..Conditions::default()
        },
    }
}

#[test]
fn below_the_limit_nobody_waits_and_above_it_the_next_goes_when_one_is_done() {
    let now = Instant::now();
    let gate = Gate::new(Order::Adaptive, now);
    let mut told = Vec::new();
    gate.set(&setting(1), now, &mut told);
    assert_eq!(gate.offer(&facts(now), 1, now, || 0, &mut told), Offer::Go);
    let offer = gate.offer(&facts(now), 1, now, || 1, &mut told);
    assert!(
        matches!(offer, Offer::Wait { wants_place: true, until, .. } if until == now + Duration::from_millis(100))
    );
    assert_eq!((gate.in_flight(), gate.waiting()), (1, 1));
    gate.release(now, &mut told);
    assert_eq!(told, [(1, Ok(()))]);
    assert_eq!((gate.in_flight(), gate.waiting()), (1, 0));
    assert_eq!(gate.take_highest(), 1);
}

/// A start takes longer than anybody may wait without one. Who waited for it goes when it is over.
#[test]
fn who_waited_for_a_start_goes_when_the_instance_is_there() {
    let now = Instant::now();
    let gate = Gate::new(Order::Adaptive, now);
    let mut told = Vec::new();
    let mut starting = setting(0);
    starting.conditions.cold_start = Some(Duration::from_secs(5));
    gate.set(&starting, now, &mut told);
    let offer = gate.offer(&facts(now), 1, now, || 1, &mut told);
    assert!(matches!(offer, Offer::Wait { .. }));
    let later = now + Duration::from_millis(1700);
    gate.set(&setting(1), later, &mut told);
    assert_eq!(told, [(1, Ok(()))]);
}

#[test]
fn a_raised_limit_lets_in_who_waits_and_a_closed_gate_nobody() {
    let now = Instant::now();
    let gate = Gate::new(Order::Adaptive, now);
    let mut told = Vec::new();
    for who in 0..3 {
        assert!(matches!(
            gate.offer(&facts(now), 1, now, || who, &mut told),
            Offer::Wait {
                wants_place: true,
                ..
            }
        ));
    }
    assert_eq!(told, []);
    gate.set(&setting(2), now, &mut told);
    assert_eq!(told, [(0, Ok(())), (1, Ok(()))]);
    gate.set(&setting(1), now, &mut told);
    gate.release(now, &mut told);
    assert_eq!((gate.in_flight(), gate.waiting()), (1, 1));
}

#[test]
fn short_of_limit_is_not_short_of_places() {
    let now = Instant::now();
    let gate = Gate::new(Order::Adaptive, now);
    let mut told = Vec::new();
    let setting = Setting {
        places: 10,
        ..setting(1)
    };
    gate.set(&setting, now, &mut told);
    assert_eq!(gate.offer(&facts(now), 1, now, || 0, &mut told), Offer::Go);
    assert!(matches!(
        gate.offer(&facts(now), 1, now, || 1, &mut told),
        Offer::Wait {
            wants_place: false,
            ..
        }
    ));
}

#[test]
fn too_late_and_too_unimportant_are_refused_before_anything_is_counted() {
    let now = Instant::now();
    let gate = Gate::new(Order::Adaptive, now);
    let mut told = Vec::new();
    let conditions = Conditions {
        p50: Some(Duration::from_secs(11)),
        ..Conditions::default()
    };
    let setting = Setting {
        threshold: 50,
        conditions,
        ..setting(1)
    };
    gate.set(&setting, now, &mut told);
    let mut offer = |score| gate.offer(&facts(now), score, now, || 0, &mut told);
    assert_eq!(offer(51), Offer::Shed(Reason::Brownout));
    assert_eq!(offer(50), Offer::Shed(Reason::Deadline));
    assert_eq!((gate.in_flight(), gate.waiting()), (0, 0));
}

proptest! {
    /// Against a list of who is where: after each step the counts are exact, and nobody waits while there is a place.
    #[test]
    fn it_counts(steps in prop::collection::vec((0_u8..5, 0_u32..6, 0_u64..60), 1..300)) {
        let mut now = Instant::now();
        let gate = Gate::new(Order::Adaptive, now);
        let (mut waiting, mut going) = (Vec::new(), 0_u32);
        let mut limit = 0;
        for (who, (step, n, millis)) in steps.into_iter().enumerate() {
            let mut told = Vec::new();
            match step {
                0 | 1 => match gate.offer(&facts(now), 1, now, || who, &mut told) {
                    Offer::Go => going += 1,
                    Offer::Wait { ticket, .. } => waiting.push((ticket, who)),
                    Offer::Shed(_) => {}
                },
                2 if going > 0 => {
                    gate.release(now, &mut told);
                    going -= 1;
                }
                3 if !waiting.is_empty() => {
                    let (ticket, who) = waiting.remove(n as usize % waiting.len());
                    prop_assert_eq!(gate.cancel(ticket, now), Some(who));
                }
                4 => {
                    gate.set(&setting(n), now, &mut told);
                    limit = n;
                }
                _ => now += Duration::from_millis(millis),
            }
            for (who, verdict) in told {
                let at = waiting.iter().position(|&(_, other)| other == who);
                prop_assert!(at.is_some(), "{who} was told twice");
                waiting.remove(at.unwrap());
                going += u32::from(verdict.is_ok());
            }
            prop_assert_eq!((gate.in_flight(), gate.waiting() as usize), (going, waiting.len()));
            prop_assert!(waiting.is_empty() || going >= limit);
        }
    }
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_permit_that_is_dropped_goes_to_who_waits_and_a_ticket_that_is_dropped_to_the_next() {
    let now = Instant::now();
    let gate = Arc::new(Gate::new(Order::Adaptive, now));
    let door = Door::new(Arc::clone(&gate), Instant::now);
    let mut told = Vec::new();
    gate.set(&setting(1), now, &mut told);
    let enter = || door.enter(&facts(Instant::now()), 1);
    let (Entered::Go(permit), Entered::Wait(mut first), Entered::Wait(mut second)) =
        (enter(), enter(), enter())
    else {
        panic!("one goes and two wait");
    };
    assert!(poll(&mut first).is_pending());
    drop(permit);
    assert_eq!(gate.in_flight(), 1);
    // It was let in, and leaves without having looked.
    drop(first);
    let Poll::Ready(Ok(permit)) = poll(&mut second) else {
        panic!("the place is free");
    };
    assert_eq!((gate.in_flight(), gate.waiting()), (1, 0));
    drop(permit);
    assert_eq!(gate.in_flight(), 0);
}

struct Woken(AtomicU32);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn who_asked_last_is_woken() {
    let now = Instant::now();
    let gate = Arc::new(Gate::new(Order::Adaptive, now));
    let door = Door::new(Arc::clone(&gate), Instant::now);
    let Entered::Wait(mut ticket) = door.enter(&facts(Instant::now()), 1) else {
        panic!("there is no place");
    };
    let wakers = [(); 2].map(|()| Arc::new(Woken(AtomicU32::new(0))));
    for woken in &wakers {
        let waker = Waker::from(Arc::clone(woken));
        let polled = std::pin::Pin::new(&mut ticket).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    }
    let mut told = Vec::new();
    gate.set(&setting(1), Instant::now(), &mut told);
    door.tell(told);
    assert_eq!(
        wakers.each_ref().map(|woken| woken.0.load(Ordering::SeqCst)),
        [0, 1]
    );
    assert!(matches!(poll(&mut ticket), Poll::Ready(Ok(_))));
}
