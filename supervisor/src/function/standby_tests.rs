//! Stories of one function whose next start is prepared. Time is injected; nothing runs.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use funcd_sandbox::exit::Exit;
use funcd_sandbox::spec::InstanceId;

use super::entry::Entry;
use super::entry_tests::{Story, revision};
use super::handle::Revision;
use super::instance::{Address, Instance};

/// A pipe's write end, and the other one that is to see the byte.
fn pipe() -> (OwnedFd, OwnedFd) {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).unwrap();
    (read, write)
}

fn is_woken(read: &OwnedFd) -> bool {
    nix::unistd::read(read, &mut [0]) == Ok(1)
}

/// Has this instance prepared.
fn prepared(story: &mut Story, id: u64, revision: &Arc<Revision>) -> OwnedFd {
    let (read, go) = pipe();
    let address = Address::Unix(PathBuf::from("/nowhere"));
    let instance = Instance::waiting(InstanceId(id), Arc::clone(revision), address, go);
    story.entry.preparing(InstanceId(id), Arc::clone(revision));
    story.with(|entry, effects| entry.prepared(Arc::new(instance), effects));
    read
}

#[test]
fn a_request_wakes_it_without_asking_anybody() {
    let first = revision(1, |_| {});
    let mut story = Story::new(Arc::clone(&first));
    assert_eq!(story.entry.wants_standby(), Some(&first));
    let woken = prepared(&mut story, 7, &first);
    assert_eq!(story.entry.wants_standby(), None, "it has one");
    let _permit = story.ask();
    let leases: Vec<_> = (0..2)
        .map(|_| story.entry.handle.try_lease(None).unwrap())
        .collect();
    assert!(leases[0].is_some() && leases[1].is_none(), "it has one place");
    assert!(is_woken(&woken) && !is_woken(&woken), "once");
    assert!(story.inbox.try_recv().is_err(), "control is left asleep");
    assert_eq!(story.entry.state().as_str(), "idle", "control does not know yet");
    story.with(|entry, effects| entry.woken(InstanceId(7), effects));
    assert_eq!(story.entry.state().as_str(), "starting");
    assert_eq!(story.asked(), [""; 0], "nothing is launched for it");
    assert_eq!(story.launches.len(), 1, "and it is the function's from here on");
    story.with(|entry, effects| entry.launched(InstanceId(7), 100, effects));
    story.with(|entry, effects| entry.answered(InstanceId(7), effects));
    assert_eq!(story.entry.state().as_str(), "ready");
    assert_eq!(story.entry.wants_standby(), None, "not while it runs");
}

#[test]
fn a_minimum_or_a_wish_wakes_it_too() {
    let first = revision(1, |m| m.health.path = Some("/healthz".into()));
    let mut story = Story::new(Arc::clone(&first));
    let woken = prepared(&mut story, 7, &first);
    let _permit = story.ask();
    assert!(
        story.entry.handle.try_lease(None).unwrap().is_none(),
        "with a health path nobody leases what did not answer there"
    );
    story.with(Entry::wanted);
    assert!(is_woken(&woken));
    assert_eq!(story.asked(), [""; 0]);
    assert_eq!(story.entry.state().as_str(), "starting");
}

#[test]
fn one_of_an_older_revision_is_never_woken() {
    let first = revision(1, |_| {});
    let mut story = Story::new(Arc::clone(&first));
    let woken = prepared(&mut story, 7, &first);
    story.with(|entry, effects| entry.deploy(revision(2, |_| {}), effects));
    assert_eq!(story.asked(), ["kill 7"]);
    assert!(story.entry.handle.try_lease(None).unwrap().is_none());
    // Told of too late, it changes nothing.
    story.with(|entry, effects| entry.woken(InstanceId(7), effects));
    assert_eq!(story.entry.state().as_str(), "idle");
    let _permit = story.ask();
    story.with(Entry::wanted);
    assert_eq!(story.asked(), ["launch 1 of 2"]);
    assert!(!is_woken(&woken));
}

#[test]
fn one_that_was_woken_just_now_answers_before_it_goes() {
    let first = revision(1, |_| {});
    let mut story = Story::new(Arc::clone(&first));
    let woken = prepared(&mut story, 7, &first);
    let _permit = story.ask();
    let lease = story.entry.handle.try_lease(None).unwrap();
    assert!(is_woken(&woken));
    // Replaced before `control` has heard of it.
    story.with(|entry, effects| entry.deploy(revision(2, |_| {}), effects));
    assert_eq!(story.asked(), ["launch 1 of 2"]);
    assert_eq!(story.launches.len(), 2, "the old one is an instance that drains");
    drop(lease);
    story.with(|entry, effects| entry.drained(InstanceId(7), effects));
    assert_eq!(story.asked(), ["terminate 7"]);
}

#[test]
fn a_removed_function_keeps_none() {
    let first = revision(1, |_| {});
    let mut story = Story::new(Arc::clone(&first));
    let _woken = prepared(&mut story, 7, &first);
    story.with(Entry::remove);
    assert_eq!(story.asked(), ["kill 7"]);
    assert_eq!(story.entry.wants_standby(), None);
}

#[test]
fn one_that_failed_is_not_tried_again_before_a_start_has_worked() {
    let first = revision(1, |_| {});
    let mut story = Story::new(Arc::clone(&first));
    let _woken = prepared(&mut story, 7, &first);
    story.with(|entry, effects| entry.lose_standby(InstanceId(7), effects));
    assert!(
        story.entry.handle.try_lease(None).unwrap().is_none(),
        "it is not leased any more"
    );
    assert_eq!(story.entry.wants_standby(), None);
    let permit = story.ask();
    story.with(Entry::wanted);
    story.ready(1);
    drop(permit);
    story.pass();
    story.exits(1, Exit::Stopped);
    assert_eq!(story.entry.wants_standby(), Some(&first));
}

#[test]
fn a_woken_one_that_can_not_start_is_started_again_the_usual_way() {
    let first = revision(1, |_| {});
    let mut story = Story::new(Arc::clone(&first));
    let _woken = prepared(&mut story, 7, &first);
    let _permit = story.ask();
    let lease = story.entry.handle.try_lease(None).unwrap();
    story.with(|entry, effects| entry.woken(InstanceId(7), effects));
    drop(lease);
    let exit = Exit::Launch {
        step: funcd_sandbox::exit::Step::Exec,
        errno: 0,
    };
    story.exits(7, exit);
    story.pass();
    assert_eq!(story.asked(), ["launch 1 of 1"]);
}
