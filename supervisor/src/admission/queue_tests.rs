//! The queue, by hand and by random strangers.

use proptest::prelude::*;

use super::*;

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn facts(class: Class, now: Instant) -> Facts {
    Facts {
        class,
        rank: 0,
        arrived: now,
        deadline: now + millis(10_000),
    }
}

struct World {
    queue: Queue<u32>,
    now: Instant,
    shed: Vec<(u32, Reason)>,
}

fn world(order: Order, bound: usize) -> World {
    let now = Instant::now();
    let mut queue = Queue::new(order, now);
    queue.set_conditions(Conditions {
        bound,
        ..Conditions::default()
    });
    World {
        queue,
        now,
        shed: Vec::new(),
    }
}

impl World {
    fn push(&mut self, class: Class, who: u32) -> Result<TicketId, (u32, Reason)> {
        self.queue
            .push(facts(class, self.now), who, self.now, &mut self.shed)
    }

    fn pop(&mut self) -> Option<u32> {
        self.queue.pop(self.now, &mut self.shed)
    }

    fn later(&mut self, n: u64) {
        self.now += millis(n);
    }

    /// Keeps somebody waiting in this class for longer than the interval.
    fn overload(&mut self, class: Class) {
        for who in 1000..1060 {
            self.push(class, who).unwrap();
            self.later(2);
        }
        assert!(self.queue.lanes[class.index()].is_overloaded(self.now));
    }
}

#[test]
fn healthy_is_first_in_first_out_and_overloaded_is_newest_first() {
    let mut world = world(Order::Adaptive, 100);
    for who in 0..3 {
        world.push(Class::Degraded, who).unwrap();
    }
    assert_eq!(world.pop(), Some(0));
    world.overload(Class::Degraded);
    world.push(Class::Degraded, 7).unwrap();
    world.push(Class::Degraded, 8).unwrap();
    assert_eq!(world.pop(), Some(8));
    assert_eq!(world.pop(), Some(7));
}

#[test]
fn overloaded_lets_nobody_wait_longer_than_half_an_answer() {
    let mut world = world(Order::Adaptive, 1000);
    let conditions = Conditions {
        p50: Some(millis(40)),
        ..world.queue.conditions()
    };
    world.queue.set_conditions(conditions);
    let healthy = world.queue.allowed(&facts(Class::Degraded, world.now), world.now);
    assert_eq!(healthy, millis(100));
    world.overload(Class::Degraded);
    let allowed = world.queue.allowed(&facts(Class::Degraded, world.now), world.now);
    assert_eq!(allowed, millis(20));
    world.shed.clear();
    world.queue.expire(world.now, &mut world.shed);
    assert!(world.shed.iter().all(|&(_, reason)| reason == Reason::Waited));
    assert!(world.queue.len() <= 11, "{}", world.queue.len());
    // The other classes are as healthy as before.
    let critical = world.queue.allowed(&facts(Class::Critical, world.now), world.now);
    assert_eq!(critical, millis(100));
}

#[test]
fn a_start_widens_what_is_allowed_and_keeps_the_order() {
    let mut world = world(Order::Adaptive, 1000);
    let conditions = Conditions {
        cold_start: Some(millis(800)),
        ..world.queue.conditions()
    };
    world.queue.set_conditions(conditions);
    world.push(Class::Degraded, 0).unwrap();
    world.overload(Class::Degraded);
    world.later(500);
    assert_eq!(world.pop(), Some(0));
    assert_eq!(world.shed, []);
    world.later(500);
    world.queue.expire(world.now, &mut world.shed);
    assert!(!world.shed.is_empty());
}

#[test]
fn a_full_queue_gives_up_the_oldest_of_the_lowest_class() {
    let mut world = world(Order::Adaptive, 4);
    world.push(Class::Bulk, 0).unwrap();
    world.push(Class::Bulk, 1).unwrap();
    world.push(Class::Degraded, 2).unwrap();
    world.push(Class::Degraded, 3).unwrap();
    world.push(Class::Critical, 4).unwrap();
    assert_eq!(world.shed, [(0, Reason::Evicted)]);
    // The last bulk request is its floor: now it is the next class's turn.
    world.push(Class::Critical, 5).unwrap();
    assert_eq!(world.shed[1], (2, Reason::Evicted));
    // Bulk has its floor, and nothing is lower.
    assert_eq!(world.push(Class::Bulk, 6), Err((6, Reason::QueueFull)));
    assert_eq!(world.queue.len(), 4);
}

#[test]
fn fifo_refuses_who_comes_and_lets_everybody_wait() {
    let mut world = world(Order::Fifo, 2);
    world.push(Class::Degraded, 0).unwrap();
    world.push(Class::Degraded, 1).unwrap();
    assert_eq!(world.push(Class::Degraded, 2), Err((2, Reason::QueueFull)));
    world.later(5000);
    assert_eq!(world.pop(), Some(0));
    assert_eq!(world.shed, []);
}

#[test]
fn who_can_not_be_answered_in_time_does_not_wait_and_does_not_go() {
    let mut world = world(Order::Adaptive, 100);
    let conditions = Conditions {
        p50: Some(millis(50)),
        rate: Some(100.0),
        ..world.queue.conditions()
    };
    world.queue.set_conditions(conditions);
    let now = world.now;
    let hurry = |left| Facts {
        deadline: now + millis(left),
        ..facts(Class::Degraded, now)
    };
    // Nobody is before it: 50 ms are enough, 49 are not.
    assert_eq!(
        world.queue.push(hurry(49), 0, now, &mut world.shed),
        Err((0, Reason::Deadline))
    );
    world.queue.push(hurry(51), 1, now, &mut world.shed).unwrap();
    // One is: that is 10 ms more.
    assert_eq!(
        world.queue.push(hurry(59), 2, now, &mut world.shed),
        Err((2, Reason::Deadline))
    );
    world.later(2);
    assert_eq!(world.pop(), None);
    assert_eq!(world.shed, [(1, Reason::Deadline)]);
}

#[test]
fn the_same_callers_win_while_overloaded() {
    let mut world = world(Order::Adaptive, 1000);
    world.overload(Class::Degraded);
    for (who, rank) in [(1, 5), (2, 90), (3, 7)] {
        let facts = Facts {
            rank,
            ..facts(Class::Degraded, world.now)
        };
        world.queue.push(facts, who, world.now, &mut world.shed).unwrap();
    }
    assert_eq!(world.pop(), Some(2));
    assert_eq!(world.pop(), Some(3));
    assert_eq!(world.pop(), Some(1));
}

/// Little's law again: a thousand a second leave, five milliseconds are allowed, so five have a chance; the others are told at once.
#[test]
fn while_overloaded_no_more_wait_than_leave_in_the_time_that_is_allowed() {
    let mut world = world(Order::Adaptive, 1000);
    world.overload(Class::Degraded);
    world.queue.set_conditions(Conditions {
        bound: 1000,
        p50: Some(millis(10)),
        rate: Some(1000.0),
        cold_start: None,
    });
    // The last of those that overloaded it is still there.
    world.later(2);
    let refused = (0..50)
        .filter(|who| world.push(Class::Degraded, *who) == Err((*who, Reason::QueueFull)))
        .count();
    assert_eq!((world.queue.len(), refused), (5, 46));
    // Who loses first makes room for others of the same class, and other classes have a lane of their own.
    world.shed.clear();
    let better = Facts {
        rank: 9,
        ..facts(Class::Degraded, world.now)
    };
    world.queue.push(better, 77, world.now, &mut world.shed).unwrap();
    assert_eq!(
        (world.queue.len(), &world.shed[..]),
        (5, &[(1059, Reason::Evicted)][..])
    );
    world.push(Class::Critical, 78).unwrap();
    assert_eq!((world.pop(), world.pop()), (Some(78), Some(77)));
    // That nobody is left for a moment does not mean that all is well again.
    while world.pop().is_some() {}
    world.push(Class::Degraded, 80).unwrap();
    assert!(world.queue.lanes[Class::Degraded.index()].is_overloaded(world.now));
    // It does after a while in which nobody was refused.
    world.pop();
    world.later(101);
    world.push(Class::Degraded, 81).unwrap();
    assert!(!world.queue.lanes[Class::Degraded.index()].is_overloaded(world.now));
}

/// One place, an answer takes 50 ms, and one comes each quarter of a millisecond: whoever waits is evicted so soon that nobody waits
/// for long. It is as overloaded as it can be, and who comes is told at once.
#[test]
fn a_queue_that_evictions_keep_short_is_overloaded() {
    let mut world = world(Order::Adaptive, 10);
    world.queue.set_conditions(Conditions {
        bound: 10,
        p50: Some(millis(50)),
        rate: Some(20.0),
        cold_start: None,
    });
    let mut evicted = Vec::new();
    for round in 0..10 {
        world.shed.clear();
        for who in 0..200 {
            let _ = world.push(Class::Degraded, who);
            world.now += Duration::from_micros(250);
        }
        evicted.push((round, world.shed.len()));
        assert!(world.pop().is_some());
    }
    // Within the first 100 ms all that can't stay wait first; then nobody does.
    assert_eq!(evicted[0], (0, 190));
    assert!(
        evicted[3..].iter().all(|(_, evicted)| *evicted <= 2),
        "{evicted:?}"
    );
}

#[test]
fn who_is_gone_is_not_sent() {
    let mut world = world(Order::Adaptive, 10);
    let ticket = world.push(Class::Degraded, 0).unwrap();
    world.push(Class::Degraded, 1).unwrap();
    assert_eq!(world.queue.cancel(ticket, world.now), Some(0));
    assert_eq!(world.queue.cancel(ticket, world.now), None);
    assert_eq!(world.pop(), Some(1));
    assert_eq!(world.pop(), None);
}

#[test]
fn the_bound_is_what_can_be_answered_in_time() {
    let second = Duration::from_secs(1);
    assert_eq!(Conditions::bound(10, None, None, second), 100);
    assert_eq!(Conditions::bound(100, Some(100.0), Some(millis(500)), second), 50);
    assert_eq!(Conditions::bound(0, Some(0.0), None, second), 1);
}

#[derive(Debug, Clone)]
enum Step {
    Push(u8, u8, u64),
    Pop,
    Cancel(usize),
    Later(u64),
    Conditions(usize, Option<u64>, Option<u64>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_u8, any::<u8>(), 0..500_u64).prop_map(|(c, r, d)| Step::Push(c, r, d)),
        3 => Just(Step::Pop),
        1 => any::<usize>().prop_map(Step::Cancel),
        2 => (0..50_u64).prop_map(Step::Later),
        1 => (0..20_usize, prop::option::of(0..100_u64), prop::option::of(0..1000_u64))
            .prop_map(|(b, p, c)| Step::Conditions(b, p, c)),
    ]
}

proptest! {
    /// Each request leaves exactly once: sent, refused or cancelled; nobody is sent after its deadline; the bound holds.
    #[test]
    fn each_leaves_once(steps in prop::collection::vec(step(), 1..300), fifo in any::<bool>()) {
        let mut world = world(if fifo { Order::Fifo } else { Order::Adaptive }, 10);
        let mut facts_of = Vec::new();
        let mut tickets = Vec::new();
        let mut gone = std::collections::HashMap::<u32, &str>::new();
        let mut leave = |who: u32, how: &'static str| assert_eq!(gone.insert(who, how), None, "{who} {how}");
        for step in steps {
            match step {
                Step::Push(class, rank, left) => {
                    let who = facts_of.len() as u32;
                    let facts = Facts {
                        class: Class::ALL[class as usize],
                        rank,
                        arrived: world.now,
                        deadline: world.now + millis(left),
                    };
                    facts_of.push(facts);
                    let bound = world.queue.conditions().bound;
                    let before = world.queue.len();
                    match world.queue.push(facts, who, world.now, &mut world.shed) {
                        Ok(ticket) => tickets.push((ticket, who)),
                        Err((who, _)) => leave(who, "refused"),
                    }
                    prop_assert!(world.queue.len() <= bound.max(before).max(1));
                }
                Step::Pop => {
                    if let Some(who) = world.pop() {
                        prop_assert!(facts_of[who as usize].deadline > world.now);
                        leave(who, "sent");
                    }
                }
                Step::Cancel(n) if !tickets.is_empty() => {
                    let (ticket, who) = tickets[n % tickets.len()];
                    if let Some(out) = world.queue.cancel(ticket, world.now) {
                        prop_assert_eq!(out, who);
                        leave(who, "cancelled");
                    }
                }
                Step::Cancel(_) => {}
                Step::Later(n) => world.later(n),
                Step::Conditions(bound, p50, cold) => world.queue.set_conditions(Conditions {
                    bound,
                    p50: p50.map(millis),
                    rate: Some(100.0),
                    cold_start: cold.map(millis),
                }),
            }
            for (who, _) in world.shed.drain(..) {
                leave(who, "shed");
            }
            for lane in &world.queue.lanes {
                prop_assert_eq!(lane.by_age.len(), lane.by_rank.len());
            }
        }
        prop_assert_eq!(gone.len() + world.queue.len(), facts_of.len());
    }
}
