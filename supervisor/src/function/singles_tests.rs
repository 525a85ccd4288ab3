//! Stories of processes for one request each, with the launcher and the requests played.

use std::os::fd::OwnedFd;

use funcd_sandbox::exit::Step;

use super::*;
use crate::catalog::manifest::Contract;
use crate::function::entry_tests::{Story, revision};

fn story() -> Story {
    let revision = revision(1, |manifest| {
        manifest.contract = Contract::Stdio;
        manifest.scale.concurrency = 1;
        manifest.scale.max = 3;
    });
    let mut story = Story::new(revision);
    story.with(Entry::tick);
    story
}

/// What was asked of the launcher: the ids to prepare, then those to kill.
fn asked(story: &mut Story) -> (Vec<u64>, Vec<u64>) {
    let (mut prepared, mut killed) = (Vec::new(), Vec::new());
    for said in story.asked() {
        match said.split_once("Prepare { id: InstanceId(") {
            Some((_, rest)) => prepared.push(rest.split(')').next().unwrap().parse().unwrap()),
            None => killed.push(said.strip_prefix("kill ").unwrap().parse().unwrap()),
        }
    }
    (prepared, killed)
}

/// It waits; this is the other end of what wakes it.
fn prepared(story: &mut Story, id: u64) -> OwnedFd {
    let (gate, go) = nix::unistd::pipe().unwrap();
    let (stdin, stdout) = (go.try_clone().unwrap(), gate.try_clone().unwrap());
    let ends = Ends { stdin, stdout };
    story.with(|entry, effects| entry.single_prepared(InstanceId(id), go, ends, effects));
    gate
}

fn ends(story: &mut Story, id: u64, exit: Exit) {
    let ended = Ended {
        instance: InstanceId(id),
        exit,
        message: String::new(),
        at: SystemTime::UNIX_EPOCH,
    };
    story.with(|entry, effects| entry.single_ended(ended, effects));
}

#[test]
fn a_process_is_for_one_lease_and_another_takes_its_place() {
    let mut story = story();
    assert_eq!(
        asked(&mut story),
        (vec![1], vec![]),
        "one waits before anybody asks"
    );
    let _gate = prepared(&mut story, 1);
    let function = Arc::clone(&story.entry.handle);
    let lease = function.try_lease(None).unwrap().unwrap();
    assert!(
        function.try_lease(None).unwrap().is_none(),
        "it has one place, once"
    );
    lease.instance().wake_with(b"METHOD=GET\0").unwrap();
    story.with(|entry, effects| entry.single_woken(InstanceId(1), effects));
    let (more, killed) = asked(&mut story);
    assert!(!more.is_empty() && killed.is_empty(), "{more:?} {killed:?}");
    assert!(story.entry.singles.running().next().is_some());
    // It may end by itself for a while, and no longer.
    drop(lease);
    story.with(|entry, effects| entry.single_left(InstanceId(1), effects));
    assert_eq!(asked(&mut story).1, Vec::<u64>::new());
    story.now += GRACE;
    story.with(Entry::tick);
    assert_eq!(asked(&mut story).1, [1]);
    ends(&mut story, 1, Exit::Signal { signal: 9 });
    assert!(story.entry.singles.get(InstanceId(1)).is_none());
}

#[test]
fn one_that_is_of_no_use_is_killed_at_once() {
    let mut story = story();
    asked(&mut story);
    let _gate = prepared(&mut story, 1);
    let function = Arc::clone(&story.entry.handle);
    let lease = function.try_lease(None).unwrap().unwrap();
    lease.instance().wake_with(b"").unwrap();
    story.with(|entry, effects| entry.single_woken(InstanceId(1), effects));
    asked(&mut story);
    lease.instance().spoil();
    story.with(|entry, effects| entry.single_left(InstanceId(1), effects));
    assert_eq!(asked(&mut story).1, [1]);
}

#[test]
fn what_executes_nothing_is_tried_less_and_less() {
    let mut story = story();
    let failed = Exit::Launch {
        step: Step::Exec,
        errno: 2,
    };
    let mut pauses = Vec::new();
    for _ in 0..4 {
        let (ids, _) = asked(&mut story);
        let [id] = ids[..] else {
            panic!("one is tried: {ids:?}")
        };
        ends(&mut story, id, failed.clone());
        assert_eq!(asked(&mut story), (vec![], vec![]), "not at once");
        let until = story.entry.singles.deadline().unwrap();
        pauses.push((until - story.now).as_millis());
        let refused = story.entry.handle.live().refusal.is_some();
        assert_eq!(refused, pauses.len() >= FAILED as usize, "{pauses:?}");
        story.now = until;
        story.with(Entry::tick);
    }
    assert_eq!(pauses, [100, 200, 400, 800]);
}

#[test]
fn none_waits_ahead_for_what_is_looked_up_at_the_start() {
    let granted = revision(1, |manifest| {
        manifest.contract = Contract::Cgi;
        manifest.secrets = vec!["key".to_owned()];
    });
    let mut story = Story::new(granted);
    story.with(Entry::tick);
    assert_eq!(asked(&mut story), (vec![], vec![]));
}

#[test]
fn what_waits_is_replaced_when_libraries_change() {
    let mut story = story();
    asked(&mut story);
    let _gate = prepared(&mut story, 1);
    let now = Stamp::sample(2);
    assert!(!story.entry.has_outdated_singles(now), "it is static");
    let single = story.entry.singles.all.get_mut(&InstanceId(1)).unwrap();
    single.libraries = Some(Stamp::sample(1));
    assert!(story.entry.has_outdated_singles(now));
    story.with(|entry, effects| entry.renew_singles(now, effects));
    assert_eq!(asked(&mut story), (vec![2], vec![1]));
}

#[test]
fn a_function_that_is_removed_keeps_none() {
    let mut story = story();
    asked(&mut story);
    let _gate = prepared(&mut story, 1);
    story.with(Entry::remove);
    assert_eq!(asked(&mut story), (vec![], vec![1]));
    ends(
        &mut story,
        1,
        Exit::Launch {
            step: Step::Exec,
            errno: 0,
        },
    );
    assert!(story.entry.singles.is_empty());
}

fn counts(requests: usize, ready: usize, busy: usize) -> Counts {
    Counts {
        requests,
        ready,
        busy,
        ..Counts::default()
    }
}

#[test]
fn every_request_that_waits_gets_one_while_there_may_be_more() {
    assert_eq!(plan(counts(3, 0, 0), 8, 0, None), (3, 0));
    assert_eq!(plan(counts(3, 2, 0), 8, 0, None), (1, 0));
    assert_eq!(plan(counts(3, 0, 7), 8, 0, None), (1, 0));
    assert_eq!(plan(counts(3, 0, 8), 8, 0, Some(9)), (0, 0));
}

#[test]
fn one_waits_for_the_next_request_and_more_while_there_are_many() {
    assert_eq!(plan(counts(0, 0, 0), 8, 0, Some(9)), (1, 0), "just dropped");
    assert_eq!(
        plan(counts(0, 0, 0), 8, 0, Some(0)),
        (0, 0),
        "the host has no room"
    );
    assert_eq!(
        plan(counts(0, 0, 0), 8, 0, None),
        (0, 0),
        "none can be made early"
    );
    assert_eq!(plan(counts(0, 0, 0), 8, 3, Some(9)), (3, 0), "asked for");
    let used = Counts {
        peak: 4,
        in_use: true,
        ..counts(0, 1, 2)
    };
    assert_eq!(plan(used, 8, 0, Some(9)), (4, 0));
    assert_eq!(plan(used, 4, 0, Some(9)), (1, 0), "`max` counts all");
    assert_eq!(
        plan(Counts { peak: 99, ..used }, 1000, 0, Some(99)),
        (MOST_AHEAD - 1, 0)
    );
    assert_eq!(
        plan(counts(0, 5, 0), 8, 0, Some(9)),
        (0, 4),
        "what rests keeps one"
    );
}
