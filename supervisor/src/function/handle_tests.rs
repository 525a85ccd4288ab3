//! What request paths may rely on: permits and leases are neither lost nor counted twice, whoever gives up when.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use funcd_sandbox::spec::InstanceId;
use tokio::sync::mpsc;

use super::entry_tests::{patient, revision};
use super::handle::{Function, Lease, Live, Offered, Refusal, ToControl, Unavailable};
use super::instance::{Address, Instance};
use crate::admission::door::Permit;
use crate::admission::queue::Facts;
use crate::admission::{Class, Reason};
use crate::name::FunctionName;

fn function(concurrency: u32) -> (Arc<Function>, mpsc::UnboundedReceiver<ToControl>) {
    let (control, inbox) = mpsc::unbounded_channel();
    let name = FunctionName::parse("f").unwrap();
    (
        Function::new(name, revision(1, |m| m.scale.concurrency = concurrency), control),
        inbox,
    )
}

fn instance(function: &Function, id: u64) -> Arc<Instance> {
    let revision = Arc::clone(&function.live().revision);
    Arc::new(Instance::new(
        InstanceId(id),
        revision,
        Address::Unix(PathBuf::from("/nowhere")),
    ))
}

fn publish(function: &Function, instances: &[Arc<Instance>]) {
    let revision = Arc::clone(&function.live().revision);
    function.publish(Live {
        revision,
        instances: instances.to_vec(),
        refusal: None,
    });
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(1)
}

/// What a request does: its turn, and then a lease.
async fn enter(function: &Arc<Function>, deadline: Instant) -> Result<(Permit, Lease), Unavailable> {
    let facts = Facts {
        deadline,
        ..patient()
    };
    let permit = match function.offer(&facts, u32::MAX)? {
        Offered::Go(permit) => permit,
        Offered::Wait(ticket, _) => function.turn(ticket, deadline).await?,
    };
    let lease = function.lease(None, deadline).await?;
    Ok((permit, lease))
}

fn id(lease: &Lease) -> u64 {
    lease.instance().id.0
}

#[tokio::test]
async fn the_least_loaded_instance_is_leased() {
    let (function, _inbox) = function(2);
    publish(&function, &[instance(&function, 1), instance(&function, 2)]);
    let first = function.lease(None, soon()).await.unwrap();
    let second = function.lease(None, soon()).await.unwrap();
    assert_ne!(id(&first), id(&second));
    let third = function.lease(None, soon()).await.unwrap();
    drop(second);
    let fourth = function.lease(None, soon()).await.unwrap();
    assert_ne!((id(&third), id(&first)), (id(&fourth), id(&third)));
}

#[tokio::test]
async fn who_finds_no_place_asks_once_and_gets_the_one_that_comes() {
    let (function, mut inbox) = function(1);
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let function = Arc::clone(&function);
            tokio::spawn(async move { enter(&function, soon()).await.map(|(_permit, lease)| id(&lease)) })
        })
        .collect();
    assert_eq!(inbox.recv().await, Some(ToControl::Wanted(function.name.clone())));
    while function.waiting() < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(inbox.try_recv(), Ok(ToControl::InUse(function.name.clone())));
    assert!(inbox.try_recv().is_err(), "asked once");
    publish(&function, &[instance(&function, 7)]);
    for waiter in waiters {
        assert_eq!(
            waiter.await.unwrap(),
            Ok(7),
            "each in turn, as the one before ends"
        );
    }
    assert_eq!(function.waiting(), 0);
}

#[tokio::test]
async fn the_deadline_ends_the_wait() {
    let (function, _inbox) = function(1);
    let deadline = Instant::now() + Duration::from_millis(20);
    assert_eq!(
        enter(&function, deadline).await.unwrap_err(),
        Unavailable::DeadlineExceeded
    );
    assert_eq!(function.waiting(), 0);
}

#[tokio::test]
async fn a_refusal_reaches_those_who_wait() {
    let (function, mut inbox) = function(1);
    let waiter = {
        let function = Arc::clone(&function);
        tokio::spawn(async move { enter(&function, soon()).await.map(|_| ()) })
    };
    inbox.recv().await;
    let refusal = Refusal {
        reason: "gone".to_owned(),
        until: None,
    };
    let revision = Arc::clone(&function.live().revision);
    function.publish(Live {
        revision,
        instances: Vec::new(),
        refusal: Some(refusal.clone()),
    });
    assert_eq!(waiter.await.unwrap(), Err(Unavailable::Refused(refusal)));
    assert!(function.offer(&patient(), u32::MAX).is_err());
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let (function, _inbox) = function(1);
    // Two instances at most, with one place each.
    let waiters: Vec<_> = (0..20)
        .map(|_| function.offer(&patient(), u32::MAX).unwrap())
        .collect();
    assert_eq!((function.waiting(), function.admitted()), (20, 20));
    let one_more = function.offer(&patient(), u32::MAX).unwrap();
    assert_eq!(function.waiting(), 20, "the oldest made room");
    let less = Facts {
        class: Class::Bulk,
        ..patient()
    };
    drop(function.offer(&less, u32::MAX).unwrap());
    drop((one_more, waiters));
    assert_eq!((function.waiting(), function.admitted()), (0, 0));
}

/// A function whose requests are all refused is not in use, so that no sweep looks at it.
#[tokio::test]
async fn a_brownout_ends_for_who_was_refused_altogether() {
    let (function, mut inbox) = function(1);
    publish(&function, &[instance(&function, 1)]);
    let bulk = Facts {
        class: Class::Bulk,
        ..patient()
    };
    drop(function.offer(&bulk, u32::MAX).unwrap());
    function.tick(None, 50, Instant::now());
    assert!(!function.leave_alone());
    while inbox.try_recv().is_ok() {}
    let refused = function.offer(&bulk, u32::MAX).map(drop);
    assert_eq!(refused, Err(Unavailable::Shed(Reason::Brownout)));
    assert!(inbox.try_recv().is_err(), "nobody will look at it");
    function.note_threshold(100);
    assert!(matches!(function.offer(&bulk, u32::MAX), Ok(Offered::Go(_))));
}

#[tokio::test]
async fn a_place_that_comes_goes_to_who_waits_and_its_end_to_the_next() {
    let (function, _inbox) = function(1);
    let mut waiters: Vec<_> = (0..2)
        .map(|_| function.offer(&patient(), u32::MAX).unwrap())
        .collect();
    publish(&function, &[instance(&function, 7)]);
    let next = async |waiter| match waiter {
        Offered::Wait(ticket, _) => function.turn(ticket, soon()).await,
        Offered::Go(_) => panic!("nothing ran"),
    };
    let first = next(waiters.remove(0)).await.unwrap();
    assert_eq!((function.waiting(), function.admitted()), (1, 2));
    drop(first);
    drop(next(waiters.remove(0)).await.unwrap());
    assert_eq!(function.admitted(), 0);
}

#[tokio::test]
async fn who_has_a_permit_and_finds_no_place_waits_for_one() {
    let (function, mut inbox) = function(1);
    let only = instance(&function, 1);
    publish(&function, &[Arc::clone(&only)]);
    only.stop_accepting();
    let waiter = {
        let function = Arc::clone(&function);
        tokio::spawn(async move { enter(&function, soon()).await.map(|(_permit, lease)| id(&lease)) })
    };
    while function.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(std::iter::from_fn(|| inbox.try_recv().ok()).any(|told| matches!(told, ToControl::Wanted(_))));
    publish(&function, &[instance(&function, 2)]);
    assert_eq!(waiter.await.unwrap(), Ok(2));
}

/// Who has a permit and waits for a place is not the only one that waits for a change: those in the queue do too, and began earlier.
#[tokio::test]
async fn a_place_that_is_free_again_is_told_to_who_may_have_it() {
    let (function, _inbox) = function(1);
    let both = [instance(&function, 1), instance(&function, 2)];
    publish(&function, &both);
    let (first_permit, first) = enter(&function, soon()).await.unwrap();
    let (_second_permit, second) = enter(&function, soon()).await.unwrap();
    // The second one's instance ends, and it is to be sent again.
    let (stays, goes) = match id(&first) {
        1 => (&both[0], &both[1]),
        _ => (&both[1], &both[0]),
    };
    goes.close();
    publish(&function, std::slice::from_ref(stays));
    drop(second);
    let spawn = |function: &Arc<Function>| {
        let function = Arc::clone(function);
        let later = soon() + Duration::from_secs(60);
        tokio::spawn(async move { enter(&function, later).await.map(drop) })
    };
    let queued = spawn(&function);
    while function.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    let again = {
        let function = Arc::clone(&function);
        tokio::spawn(async move { function.lease(None, soon()).await.map(|lease| id(&lease)) })
    };
    while function.turned_away() == 0 {
        tokio::task::yield_now().await;
    }
    let its = id(&first);
    drop(first);
    drop(first_permit);
    assert_eq!(again.await.unwrap(), Ok(its));
    queued.abort();
}

#[tokio::test]
async fn a_draining_instance_gives_no_lease_and_tells_when_the_last_one_ends() {
    let (function, mut inbox) = function(2);
    let only = instance(&function, 1);
    publish(&function, &[Arc::clone(&only)]);
    let leases = [
        function.lease(None, soon()).await.unwrap(),
        function.lease(None, soon()).await.unwrap(),
    ];
    only.stop_accepting();
    assert!(function.try_lease(None).unwrap().is_none());
    let [first, second] = leases;
    drop(first);
    assert!(inbox.try_recv().is_err());
    drop(second);
    assert_eq!(inbox.try_recv(), Ok(ToControl::Drained(InstanceId(1))));
}

/// Many threads lease and release while another drains: whoever got a lease is seen by the drain.
#[test]
fn a_drain_and_a_lease_never_miss_each_other() {
    for _ in 0..200 {
        let (function, _inbox) = function(64);
        let only = instance(&function, 1);
        publish(&function, &[Arc::clone(&only)]);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| function.try_lease(None).unwrap()))
                .collect();
            only.stop_accepting();
            let leases: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            let held = leases.iter().flatten().count() as u32;
            assert_eq!(only.in_flight(), held);
        });
        assert_eq!(only.in_flight(), 0);
    }
}

#[test]
fn a_try_that_fails_takes_no_place_for_a_moment() {
    let (function, _inbox) = function(1);
    let only = instance(&function, 1);
    publish(&function, &[Arc::clone(&only)]);
    let held = function.try_lease(None).unwrap().unwrap();
    std::thread::scope(|scope| {
        let tries = scope.spawn(|| (0..100_000).all(|_| function.try_lease(None).unwrap().is_none()));
        while !tries.is_finished() {
            // Another try that saw two would fail, and wait, though the lease had just ended.
            assert_eq!(only.in_flight(), 1);
        }
        assert!(tries.join().unwrap());
    });
    drop(held);
}

#[tokio::test]
async fn a_try_during_the_drain_tells_that_it_was_none() {
    let (function, mut inbox) = function(1);
    let draining = instance(&function, 1);
    publish(&function, &[Arc::clone(&draining)]);
    draining.stop_accepting();
    // `control` may have looked while this try was counted.
    assert!(function.try_lease(None).unwrap().is_none());
    assert_eq!(inbox.try_recv(), Ok(ToControl::Drained(InstanceId(1))));
}
