//! How a limit learns. Time is injected; nothing runs.

use proptest::prelude::*;

use super::*;

const PLACES: Places = Places {
    ready: 4,
    concurrency: 100,
};

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A window in which fifty were answered, with so many in flight all the time.
fn answered(p50: u64, in_flight: u32) -> Window {
    Window {
        p50: Some(millis(p50)),
        samples: 50,
        dropped: 0,
        left: 0,
        max_in_flight: in_flight,
    }
}

/// So many are in flight for longer than the newest utilisation is of.
fn holds(limit: &mut Limit, in_flight: u32) {
    (0..2).for_each(|_| limit.look(in_flight));
}

/// Closes `n` windows of 100 ms each, all alike.
fn windows(limit: &mut Limit, n: u32, p50: u64, busy: f64, now: &mut Instant) {
    for _ in 0..n {
        *now += millis(100);
        limit.utilisation(busy);
        let max_in_flight = limit.now(PLACES);
        holds(limit, max_in_flight);
        limit.close(&answered(p50, max_in_flight), PLACES, *now);
    }
}

#[test]
fn it_begins_at_twice_the_cores_and_no_less_than_eight() {
    assert_eq!(Limit::new(2.0, Instant::now()).learnt(), 8.0);
    assert_eq!(Limit::new(16.0, Instant::now()).learnt(), 32.0);
}

#[test]
fn a_window_closes_at_fifty_samples_or_a_second_and_not_before_a_tenth() {
    let now = Instant::now();
    let limit = Limit::new(4.0, now);
    assert!(!limit.is_due(1000, now + millis(99)));
    assert!(limit.is_due(50, now + millis(100)));
    assert!(!limit.is_due(49, now + millis(999)));
    assert!(limit.is_due(0, now + millis(1000)));
}

#[test]
fn slower_with_idle_cpu_grows_slower_with_busy_cpu_shrinks() {
    let (mut now, mut waiting) = (Instant::now(), Limit::without_room(4.0, Instant::now()));
    windows(&mut waiting, 20, 50, 0.5, &mut now);
    let mut saturated = waiting.clone();
    let (before, mut other) = (waiting.learnt(), now);
    windows(&mut waiting, 20, 400, 0.1, &mut now);
    windows(&mut saturated, 20, 400, 1.0, &mut other);
    assert!(waiting.learnt() > 1.5 * before, "{} {before}", waiting.learnt());
    assert!(
        saturated.learnt() < before / 2.0,
        "{} {before}",
        saturated.learnt()
    );
}

#[test]
fn with_cpu_to_spare_it_grows_at_once_and_never_past_it() {
    let now = Instant::now();
    let learnt = |utilisations: &[f64]| {
        let mut limit = Limit::new(4.0, now);
        utilisations.iter().for_each(|&busy| limit.utilisation(busy));
        holds(&mut limit, 20);
        limit.close(&answered(50, 20), PLACES, now + millis(100));
        limit.learnt()
    };
    // 20 use a quarter: 64 would use .8. Then the usual step: .2 · √64.
    assert!((learnt(&[0.25]) - 64.0).abs() < 0.001, "{}", learnt(&[0.25]));
    assert_eq!(learnt(&[0.001]), 160.0);
    assert!(learnt(&[0.79]) < 22.0);
    // The mean is still low, but the load just jumped.
    assert!(learnt(&[0.1, 0.1, 1.0]) < 10.0);
}

#[test]
fn without_the_gate_a_slow_dependency_shrinks_it_too() {
    let (mut now, mut limit) = (Instant::now(), Limit::without_gate(4.0, Instant::now()));
    windows(&mut limit, 20, 50, 0.5, &mut now);
    let before = limit.learnt();
    windows(&mut limit, 20, 400, 0.1, &mut now);
    assert!(limit.learnt() < before / 2.0);
}

#[test]
fn a_drop_takes_a_tenth_and_an_idle_window_nothing() {
    let mut now = Instant::now();
    let mut limit = Limit::new(4.0, now);
    windows(&mut limit, 20, 50, 0.5, &mut now);
    let before = limit.learnt();
    let mut window = answered(50, 1);
    now += millis(100);
    limit.close(&window, PLACES, now);
    assert_eq!(limit.learnt(), before);
    window.dropped = 1;
    now += millis(100);
    limit.close(&window, PLACES, now);
    assert_eq!(limit.learnt(), 0.9 * before);
}

#[test]
fn below_ten_requests_a_second_every_place_opens_but_not_to_one_burst() {
    let now = Instant::now();
    let mut limit = Limit::new(4.0, now);
    assert_eq!(limit.now(PLACES), Limit::BURST);
    // Nothing is known of the CPU: so many more with each look.
    limit.look(60);
    assert_eq!(limit.now(PLACES), 60 + Limit::BURST);
    // They wait for something else: at once.
    let mut waiting = limit.clone();
    waiting.utilisation(0.01);
    waiting.look(60);
    assert_eq!(waiting.now(PLACES), 400);
    limit.look(400);
    let window = |samples| Window {
        samples,
        ..answered(50, 400)
    };
    limit.close(&window(9), PLACES, now + millis(1000));
    assert_eq!(limit.now(PLACES), 400);
    limit.close(&window(10), PLACES, now + millis(2000));
    assert!(limit.now(PLACES) < 20);
}

#[test]
fn whoever_uses_little_of_its_cpu_is_not_held_at_what_it_began_with() {
    let (mut now, mut limit) = (Instant::now(), Limit::new(4.0, Instant::now()));
    let mut quick = |limit: &mut Limit, busy| {
        now += millis(100);
        limit.utilisation(busy);
        limit.look(2);
        limit.close(&answered(2, 3), PLACES, now);
        limit.now(PLACES)
    };
    // When its neighbours keep it from the CPU for a moment, what comes meanwhile does not queue.
    limit.value = 4.0;
    assert_eq!(quick(&mut limit, 0.7), 10);
    // Until it is what is short.
    assert!(quick(&mut limit, 0.9) < 6);
}

#[test]
fn few_that_are_heavy_are_limited_too() {
    let now = Instant::now();
    let mut limit = Limit::new(4.0, now);
    let window = Window {
        samples: 5,
        ..answered(900, 400)
    };
    limit.utilisation(0.5);
    limit.look(400);
    limit.close(&window, PLACES, now + millis(1000));
    assert_eq!(limit.now(PLACES), 400);
    (0..10).for_each(|_| limit.utilisation(1.0));
    assert_eq!(limit.now(PLACES), 8);
}

#[test]
fn that_some_leave_does_not_keep_it_from_falling() {
    let mut now = Instant::now();
    let mut limit = strained(&mut now);
    limit.value = 300.0;
    let slow = Window {
        left: 20,
        ..answered(200, 245)
    };
    for _ in 0..20 {
        now += millis(100);
        limit.utilisation(1.0);
        limit.close(
            &Window {
                max_in_flight: limit.learnt() as u32,
                ..slow
            },
            PLACES,
            now,
        );
    }
    assert!(limit.learnt() < 100.0, "{}", limit.learnt());
}

#[test]
fn when_an_overload_is_over_it_is_twice_what_it_began_with_within_a_second() {
    let mut now = Instant::now();
    let mut limit = Limit::new(2.0, now);
    windows(&mut limit, 20, 10, 1.0, &mut now);
    windows(&mut limit, 100, 40, 1.0, &mut now);
    assert!(limit.learnt() <= 8.0, "{}", limit.learnt());
    // What is in flight at the ends of its windows would never have it grow by itself.
    for _ in 0..10 {
        now += millis(100);
        limit.utilisation(0.7);
        holds(&mut limit, 1);
        limit.close(&answered(12, limit.now(PLACES)), PLACES, now);
    }
    assert!((15.0..=32.0).contains(&limit.learnt()), "{}", limit.learnt());
}

#[test]
fn with_busy_cpu_and_quick_answers_it_is_back_within_two_seconds() {
    let (mut now, mut limit) = (Instant::now(), Limit::new(4.0, Instant::now()));
    windows(&mut limit, 20, 50, 1.0, &mut now);
    assert!(limit.learnt() > 200.0, "{}", limit.learnt());
    // Not when answers take a little longer: that is the beginning of a queue.
    let mut longer = Limit::new(4.0, now);
    windows(&mut longer, 1, 50, 1.0, &mut now);
    windows(&mut longer, 20, 60, 1.0, &mut now);
    assert!(longer.learnt() < 40.0, "{}", longer.learnt());
}

#[test]
fn a_long_overload_does_not_become_its_own_measure() {
    let mut now = Instant::now();
    let mut limit = Limit::new(4.0, now);
    windows(&mut limit, 20, 10, 0.5, &mut now);
    windows(&mut limit, 1200, 40, 1.0, &mut now);
    assert!(limit.learnt() <= 8.0, "{}", limit.learnt());
    // Once it is over, what is slow now is the measure, within a minute.
    windows(&mut limit, 700, 40, 0.5, &mut now);
    windows(&mut limit, 50, 40, 1.0, &mut now);
    assert!(limit.learnt() > 50.0, "{}", limit.learnt());
}

/// A function that was saturated at 40 in flight, with 400 places.
fn strained(now: &mut Instant) -> Limit {
    let mut limit = Limit::new(4.0, *now);
    windows(&mut limit, 20, 50, 0.5, now);
    windows(&mut limit, 80, 200, 1.0, now);
    assert!(limit.learnt() < 40.0, "{}", limit.learnt());
    limit
}

#[test]
fn the_end_of_a_load_is_no_reason_to_let_more_in() {
    let mut now = Instant::now();
    let mut limit = strained(&mut now);
    let before = limit.learnt();
    let window = answered(60, 40);
    holds(&mut limit, 40);
    for _ in 0..5 {
        now += millis(100);
        limit.utilisation(0.05);
        limit.look(0);
        limit.close(&window, PLACES, now);
    }
    assert!(limit.learnt() < before + 10.0, "{before} {}", limit.learnt());
    // And after a rest it is not everything at once.
    now += millis(1000);
    let rest = Window {
        p50: None,
        samples: 0,
        max_in_flight: 0,
        ..window
    };
    limit.close(&rest, PLACES, now);
    assert!(limit.now(PLACES) < 100);
    // Unless they only wait.
    holds(&mut limit, 30);
    limit.close(
        &Window {
            max_in_flight: 30,
            ..rest
        },
        PLACES,
        now + millis(1000),
    );
    assert!(limit.now(PLACES) > 100);
}

#[test]
fn who_has_just_come_says_nothing_of_what_may_come() {
    let now = Instant::now();
    let mut limit = Limit::new(4.0, now);
    holds(&mut limit, 0);
    limit.utilisation(0.05);
    limit.look(40);
    limit.close(&answered(50, 40), PLACES, now + millis(100));
    assert!(limit.learnt() < 10.0, "{}", limit.learnt());
    // The control: forty that were there all the time.
    let mut held = Limit::new(4.0, now);
    held.utilisation(0.05);
    holds(&mut held, 40);
    held.close(&answered(50, 40), PLACES, now + millis(100));
    assert!(held.learnt() > 300.0, "{}", held.learnt());
}

#[test]
fn one_that_is_never_reached_falls_while_answers_are_slow_for_want_of_cpu() {
    let now = Instant::now();
    let after = |busy: f64| {
        let (mut limit, mut now) = (Limit::new(4.0, now), now);
        windows(&mut limit, 1, 50, 0.5, &mut now);
        limit.value = 400.0;
        for _ in 0..10 {
            now += millis(100);
            limit.utilisation(busy);
            holds(&mut limit, 120);
            limit.close(&answered(200, 120), PLACES, now);
        }
        limit.learnt()
    };
    assert!(after(1.0) < 150.0, "{}", after(1.0));
    // The control: they wait for something else.
    assert!(after(0.3) >= 320.0, "{}", after(0.3));
}

#[test]
fn one_who_asks_for_something_dear_again_and_again_does_not_take_the_others_places() {
    let mut now = Instant::now();
    let mut limit = Limit::new(4.0, now);
    windows(&mut limit, 1, 1, 1.0, &mut now);
    limit.value = 8.0;
    for _ in 0..100 {
        now += millis(100);
        limit.utilisation(1.0);
        holds(&mut limit, 1);
        limit.close(&answered(50, 1), PLACES, now);
    }
    assert_eq!(limit.learnt(), 8.0);
    assert!(!limit.strained);
}

#[test]
fn few_who_leave_do_not_hold_it_where_it_is() {
    let now = Instant::now();
    let grown = |left| {
        let mut limit = Limit::new(4.0, now);
        limit.utilisation(0.2);
        holds(&mut limit, 20);
        let window = Window {
            left,
            ..answered(50, 20)
        };
        limit.close(&window, PLACES, now + millis(100));
        limit.learnt()
    };
    assert!(grown(5) > 60.0, "{}", grown(5));
    assert_eq!(grown(6), 8.0);
}

#[test]
fn the_quick_ones_of_a_beginning_are_no_measure() {
    let mut now = Instant::now();
    let mut limit = Limit::new(4.0, now);
    windows(&mut limit, 5, 50, 0.5, &mut now);
    let few = Window {
        samples: 12,
        ..answered(10, 30)
    };
    for in_flight in [0, 0, 30] {
        limit.look(in_flight);
    }
    limit.close(&few, PLACES, now + millis(1000));
    assert_eq!(limit.quickest(), Some(millis(50)));
    // The control: they come all the time.
    holds(&mut limit, 30);
    limit.close(&few, PLACES, now + millis(2000));
    assert_eq!(limit.quickest(), Some(millis(10)));
}

#[test]
fn when_nothing_is_answered_in_time_for_want_of_cpu_it_is_halved() {
    let mut now = Instant::now();
    let mut limit = strained(&mut now);
    let late = |max_in_flight| Window {
        p50: None,
        samples: 0,
        dropped: 25,
        left: 25,
        max_in_flight,
    };
    limit.value = 400.0;
    limit.close(&late(300), PLACES, now + millis(100));
    assert_eq!(limit.learnt(), 150.0);
    limit.close(&late(150), PLACES, now + millis(200));
    assert_eq!(limit.learnt(), 75.0);
    // A dependency that does not answer is no want of CPU.
    (0..20).for_each(|_| limit.utilisation(0.1));
    limit.close(&late(75), PLACES, now + millis(300));
    assert_eq!(limit.learnt(), 67.5);
    // Callers who leave for reasons of their own change nothing.
    let left = Window {
        dropped: 0,
        left: 50,
        ..late(75)
    };
    limit.close(&left, PLACES, now + millis(400));
    assert_eq!(limit.learnt(), 67.5);
}

proptest! {
    /// Whatever it is told, it stays between one for each instance and all places, and is never not a number.
    #[test]
    fn it_stays_in_its_bounds(
        steps in prop::collection::vec((0_u64..5_000_000, 0_u64..500, 0_u64..100, 0_u64..100, 0_u32..1000, 0.0..2.0_f64, 0_u32..20), 1..200)
    ) {
        let mut now = Instant::now();
        let mut limit = Limit::new(4.0, now);
        for (micros, samples, dropped, left, max_in_flight, busy, ready) in steps {
            now += millis(100);
            let places = Places { ready, concurrency: 10 };
            limit.utilisation(busy);
            limit.look(max_in_flight);
            let p50 = (samples > 0).then_some(Duration::from_micros(micros));
            limit.close(&Window { p50, samples, dropped, left, max_in_flight }, places, now);
            prop_assert!(limit.learnt().is_finite() && limit.learnt() >= 1.0);
            let allowed = limit.now(places);
            prop_assert!(allowed >= ready && allowed <= places.total());
        }
    }
}
