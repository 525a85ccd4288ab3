//! Stories of one function that grows, shrinks, freezes and crashes. Time is injected; nothing runs.

use std::sync::Arc;
use std::time::Duration;

use funcd_sandbox::exit::Exit;
use funcd_sandbox::spec::InstanceId;
use funcd_sandbox::wire::Usage;

use super::entry::Entry;
use super::entry_tests::{Story, revision};
use super::handle::Offered;
use super::instance::{Address, Instance};
use super::room::{Held, HostFacts};
use crate::catalog::manifest::Manifest;

const SECOND: Duration = Duration::from_secs(1);

fn admitted(story: &Story, count: usize) -> Vec<Offered> {
    (0..count).map(|_| story.ask()).collect()
}

/// Sweeps for so long.
fn sweeps(story: &mut Story, time: Duration) {
    let end = story.now + time;
    while story.now < end {
        story.now += super::sweep::SWEEP;
        if story.entry.sample(story.now) {
            story.with(Entry::follow);
        }
    }
}

fn states(story: &Story) -> Vec<&'static str> {
    story
        .entry
        .slots()
        .iter()
        .map(|slot| slot.state.as_str())
        .collect()
}

/// One instance that is ready, of a function that freezes after 10 s.
fn freezing(change: impl FnOnce(&mut Manifest)) -> Story {
    let mut story = Story::new(revision(1, |manifest| {
        manifest.scale.freeze = Some(10 * SECOND);
        change(manifest);
    }));
    let permits = admitted(&story, 1);
    story.with(Entry::wanted);
    story.ready(1);
    sweeps(&mut story, SECOND);
    drop(permits);
    story.asked();
    story
}

#[test]
fn places_that_are_nearly_full_bring_another_without_anybody_asking() {
    let mut story = Story::new(revision(1, |manifest| {
        manifest.scale.concurrency = 10;
        manifest.scale.max = 4;
    }));
    let mut permits = admitted(&story, 5);
    story.with(Entry::wanted);
    story.ready(1);
    assert_eq!(story.asked(), ["launch 1 of 1"]);
    permits.extend(admitted(&story, 4));
    sweeps(&mut story, 10 * SECOND);
    assert_eq!(story.asked(), ["launch 2 of 1"]);
    sweeps(&mut story, 60 * SECOND);
    assert_eq!(story.asked(), [""; 0], "and that is that");
}

#[test]
fn what_was_not_needed_for_a_minute_stops_while_the_rest_serves() {
    let mut story = Story::new(revision(1, |manifest| manifest.scale.max = 3));
    let mut permits = admitted(&story, 3);
    story.with(Entry::wanted);
    (1..=3).for_each(|id| drop(story.ready(id)));
    story.asked();
    permits.truncate(1);
    let lease = story.entry.handle.try_lease(None).unwrap().unwrap();
    assert_eq!(lease.instance().id, InstanceId(1));
    sweeps(&mut story, 58 * SECOND);
    assert_eq!(story.asked(), [""; 0]);
    sweeps(&mut story, 4 * SECOND);
    assert_eq!(
        story.asked(),
        ["terminate 3", "terminate 2"],
        "not the one that is leased"
    );
    assert_eq!(states(&story), ["ready", "draining", "draining"]);
}

#[test]
fn without_room_only_what_answers_at_all_is_started() {
    let mut story = Story::new(revision(1, |manifest| manifest.scale.max = 8));
    story.host = HostFacts {
        memory_available: 200 << 20,
        memory_total: 1 << 30,
        ..HostFacts::UNKNOWN
    };
    let _permits = admitted(&story, 6);
    story.with(Entry::wanted);
    // 64 MiB are expected of each, a twentieth stays free, and the first is not asked.
    assert_eq!(story.asked(), ["launch 1 of 1", "launch 2 of 1", "launch 3 of 1"]);
    assert_eq!(story.entry.held, Some(Held::Memory));
    story.host.memory_available = 1 << 30;
    sweeps(&mut story, SECOND);
    assert_eq!((story.asked().len(), story.entry.held), (3, None));
}

#[test]
fn cpu_that_is_used_up_brings_no_more_processes_to_who_competes_for_it() {
    let mut story = Story::new(revision(1, |_| {}));
    let _permits = admitted(&story, 1);
    story.with(Entry::wanted);
    story.ready(1);
    story.asked();
    for second in 0..2 {
        let usage = Usage {
            cpu_micros: second * 500_000,
            ..Usage::default()
        };
        story
            .entry
            .note_usage(InstanceId(1), usage, story.now + second as u32 * SECOND);
    }
    story.host.cpu_idle = 0.0;
    let _more = admitted(&story, 1);
    story.with(Entry::wanted);
    assert_eq!((story.asked(), story.entry.held), (vec![], Some(Held::Cpu)));
    story.host.cpu_idle = 0.5;
    story.with(Entry::wanted);
    assert_eq!((story.asked().len(), story.entry.held), (1, None));
}

#[test]
fn nobody_asks_so_it_freezes_and_the_next_request_lets_it_go_on() {
    let mut story = freezing(|_| {});
    story.pass();
    assert_eq!(
        (story.asked(), states(&story)),
        (vec!["freeze 1".to_owned()], vec!["frozen"])
    );
    sweeps(&mut story, 5 * SECOND);
    assert_eq!(
        story.asked(),
        [""; 0],
        "what was asked before is no reason to go on"
    );
    assert!(
        story.entry.handle.try_lease(None).unwrap().is_none(),
        "it answers nobody"
    );
    let _permit = admitted(&story, 1);
    story.with(Entry::wanted);
    assert_eq!(story.asked(), ["thaw 1"]);
    let lease = story.entry.handle.try_lease(None).unwrap();
    assert_eq!(lease.unwrap().instance().id, InstanceId(1));
}

#[test]
fn a_frozen_one_stops_in_its_time_and_hears_that_it_should() {
    let mut story = freezing(|_| {});
    story.pass();
    story.asked();
    story.pass();
    assert_eq!(story.asked(), ["thaw 1", "terminate 1"]);
    story.exits(1, Exit::Stopped);
    sweeps(&mut story, 5 * SECOND);
    assert_eq!(story.asked(), [""; 0], "nor to start again");
    assert_eq!(states(&story), [""; 0]);
}

#[test]
fn a_minimum_freezes_and_stays() {
    let mut story = freezing(|manifest| manifest.scale.min = 1);
    story.pass();
    assert_eq!(story.asked(), ["freeze 1"]);
    assert_eq!(
        story.entry.deadline(story.now),
        None,
        "nothing more happens by itself"
    );
}

#[test]
fn one_in_use_does_not_freeze() {
    let mut story = freezing(|_| {});
    let permit = admitted(&story, 1);
    let lease = story.entry.handle.try_lease(None).unwrap();
    story.now += 11 * SECOND;
    story.with(Entry::tick);
    assert_eq!(story.asked(), [""; 0]);
    drop((lease, permit));
}

#[test]
fn a_request_that_comes_while_it_freezes_finds_its_place() {
    let mut story = freezing(|_| {});
    // Its lease is seen only once nobody else is let in any more.
    let lease = story.entry.handle.try_lease(None).unwrap().unwrap();
    story.now += 600 * SECOND;
    story.with(|entry, effects| entry.rest(effects));
    assert!(!story.asked().contains(&"freeze 1".to_owned()));
    drop(lease);
}

#[test]
fn one_that_is_told_to_freeze_where_that_is_not_possible_runs_on() {
    let mut story = freezing(|_| {});
    story.entry.freezes = false;
    story.pass();
    assert_eq!(story.asked(), ["terminate 1"], "idle comes as ever");
}

#[test]
fn a_frozen_one_of_an_older_revision_goes_when_the_next_is_ready() {
    let mut story = freezing(|_| {});
    story.pass();
    story.asked();
    story.with(|entry, effects| entry.deploy(revision(2, |_| {}), effects));
    assert_eq!(story.asked(), ["launch 2 of 2"]);
    story.ready(2);
    assert_eq!(story.asked(), ["thaw 1", "terminate 1"]);
}

#[test]
fn a_frozen_one_is_taken_over_frozen() {
    let current = revision(1, |manifest| manifest.scale.freeze = Some(10 * SECOND));
    let mut story = Story::new(Arc::clone(&current));
    let instance = Instance::new(InstanceId(9), current, Address::Unix("/nowhere".into()));
    story.with(|entry, effects| entry.adopt((InstanceId(9), 100), true, Arc::new(instance), effects));
    assert_eq!(states(&story), ["frozen"]);
    assert!(story.entry.handle.try_lease(None).unwrap().is_none());
    let _permit = admitted(&story, 1);
    story.with(Entry::wanted);
    assert_eq!(story.asked(), ["thaw 9"]);
    assert!(story.entry.handle.try_lease(None).unwrap().is_some());
}

#[test]
fn a_frozen_one_that_is_killed_is_started_again() {
    let mut story = freezing(|_| {});
    story.pass();
    story.asked();
    story.now += SECOND;
    story.exits(1, Exit::Signal { signal: 9 });
    assert_eq!(
        story.asked(),
        ["launch 2 of 1"],
        "at once: it lived for more than 10 s"
    );
}

#[test]
fn what_is_left_of_a_drain_changes_nothing_for_a_frozen_one() {
    let mut story = freezing(|_| {});
    story.pass();
    story.asked();
    // Told by a request that looked just before.
    assert!(story.entry.handle.try_lease(None).unwrap().is_none());
    story.with(|entry, effects| entry.drained(InstanceId(1), effects));
    assert_eq!((story.asked(), states(&story)), (vec![], vec!["frozen"]));
}

#[test]
fn many_that_crash_together_are_started_again_within_the_budget() {
    let mut story = Story::new(revision(1, |manifest| {
        manifest.scale.min = 40;
        manifest.scale.max = 40;
    }));
    story.with(Entry::tick);
    (1..=40).for_each(|id| drop(story.ready(id)));
    story.asked();
    story.now += 11 * SECOND;
    let crashed = story.now;
    for id in 1..=40 {
        story.exits(id, Exit::Signal { signal: 9 });
    }
    let mut launched = story.asked().len();
    while launched < 40 {
        story.pass();
        launched += story.asked().len();
        let most = 10 + (story.now - crashed).as_millis() / 200;
        assert!(
            launched as u128 <= most + 1,
            "{launched} after {:?}",
            story.now - crashed
        );
    }
    assert!(story.now - crashed < 30 * SECOND);
}

#[test]
fn a_host_that_is_short_of_memory_gets_back_what_is_idle_and_nothing_else() {
    let mut story = freezing(|_| {});
    let used = story.entry.handle.last_used();
    assert_eq!(
        story.entry.reclaimable(used + SECOND),
        None,
        "it was used just now"
    );
    assert!(story.entry.reclaimable(used + 5 * SECOND).is_some());
    let permit = admitted(&story, 1);
    assert_eq!(story.entry.reclaimable(used + 5 * SECOND), None, "it is in use");
    drop(permit);
    story.with(Entry::reclaim);
    assert_eq!(story.asked(), ["terminate 1"]);

    let story = freezing(|manifest| manifest.scale.min = 1);
    let used = story.entry.handle.last_used();
    assert_eq!(
        story.entry.reclaimable(used + 60 * SECOND),
        None,
        "its minimum stays"
    );
}

#[test]
fn a_brownout_adds_no_instances_but_the_first() {
    let mut story = Story::new(revision(1, |manifest| manifest.scale.max = 8));
    story.host.brownout = true;
    let _permits = admitted(&story, 3);
    story.with(Entry::wanted);
    assert_eq!(story.asked(), ["launch 1 of 1"]);
    assert_eq!(story.entry.held, Some(Held::Brownout));
    story.host.brownout = false;
    story.ready(1);
    sweeps(&mut story, SECOND);
    assert_eq!(
        story.asked(),
        ["launch 2 of 1", "launch 3 of 1"],
        "afterwards it is made up for"
    );
}
