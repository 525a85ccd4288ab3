//! Stories of instances whose requests fail, and of functions that never get ready. Time is injected; nothing runs.

use std::time::Duration;

use funcd_sandbox::exit::Exit;
use funcd_sandbox::spec::InstanceId;
use funcd_sandbox::wire::Condition;

use super::entry::Entry;
use super::entry_tests::{Story, revision};
use super::judge::UNANSWERED;
use super::place::News;
use crate::admission::Outcome;

const WELL: Condition = Condition {
    is_stopped: false,
    is_traced: false,
    throttled: 0,
    cpu_micros: 0,
};

/// So many instances are ready.
fn story(instances: u32) -> Story {
    let mut story = Story::new(revision(1, |manifest| {
        manifest.scale.min = instances;
        manifest.scale.max = instances;
        manifest.scale.concurrency = 4;
    }));
    story.with(Entry::tick);
    (1..=u64::from(instances)).for_each(|id| drop(story.ready(id)));
    story.asked();
    story
}

fn ends(story: &mut Story, id: u64, times: u32, outcome: Outcome) {
    let slot = story.entry.slot(InstanceId(id)).expect("it is there");
    let instance = slot.instance.clone().expect("it was launched");
    (0..times).for_each(|_| story.entry.handle.note_attempt(&instance, outcome));
}

/// What the sweep does.
fn sweep(story: &mut Story) -> Vec<String> {
    story.now += Duration::from_secs(1);
    if story.entry.sample(story.now) {
        story.with(Entry::follow);
    }
    story.asked()
}

fn look(story: &mut Story, id: u64, condition: Condition) -> Vec<String> {
    story.now += Duration::from_secs(1);
    story.with(|entry, effects| entry.looked(InstanceId(id), condition, effects));
    story.asked()
}

#[test]
fn one_whose_connections_break_is_replaced_before_it_ends() {
    let mut story = story(3);
    ends(&mut story, 2, 4, Outcome::Failed);
    assert_eq!(sweep(&mut story), [""; 0]);
    ends(&mut story, 2, 1, Outcome::Failed);
    let lease = story.entry.handle.try_lease(None).unwrap().unwrap();
    assert_ne!(lease.instance().id, InstanceId(2), "others are asked first");
    drop(lease);
    assert_eq!(sweep(&mut story), ["launch 4 of 1", "terminate 2"]);
    assert!(matches!(
        story.entry.news[..],
        [News::Ejected {
            instance: InstanceId(2),
            exit: Exit::Ejected,
            ..
        }]
    ));
    story.ready(4);
    story.exits(2, Exit::Stopped);
    assert_eq!(sweep(&mut story), [""; 0]);
    let live = story.entry.handle.live();
    let ids: Vec<u64> = live.instances.iter().map(|instance| instance.id.0).collect();
    assert_eq!(ids, [1, 3, 4]);
}

#[test]
fn one_that_works_on_something_may_finish_it() {
    let mut story = story(1);
    let lease = story.entry.handle.try_lease(None).unwrap().unwrap();
    ends(&mut story, 1, 5, Outcome::Failed);
    assert_eq!(sweep(&mut story), ["launch 2 of 1"]);
    drop(lease);
    story.with(|entry, effects| entry.drained(InstanceId(1), effects));
    assert_eq!(story.asked(), ["terminate 1"]);
}

#[test]
fn if_all_are_bad_none_is_replaced() {
    let mut story = story(3);
    for id in 1..=3 {
        ends(&mut story, id, 9, Outcome::Failed);
    }
    assert_eq!(sweep(&mut story), [""; 0]);
    assert!(
        story.entry.handle.try_lease(None).unwrap().is_some(),
        "and they are asked"
    );
}

#[test]
fn one_that_others_leave_no_cpu_is_not_held_to_be_silent() {
    let mut story = story(3);
    for starved in [true, false] {
        ends(&mut story, 1, 5, Outcome::Dropped);
        sweep(&mut story);
        let mut asked = Vec::new();
        for _ in 0..3 {
            story.entry.starved_at = starved.then(|| story.now + Duration::from_secs(1));
            asked.extend(look(&mut story, 1, WELL));
        }
        let is_ended = asked.iter().any(|asked| asked.starts_with("terminate"));
        assert_ne!(is_ended, starved, "{asked:?}");
    }
}

#[test]
fn silence_is_judged_by_two_looks() {
    let mut story = story(3);
    ends(&mut story, 1, 5, Outcome::Dropped);
    assert_eq!(sweep(&mut story), ["Look { id: InstanceId(1) }"]);
    assert_eq!(look(&mut story, 1, WELL), [""; 0]);
    assert_eq!(sweep(&mut story), ["Look { id: InstanceId(1) }"]);
    assert_eq!(look(&mut story, 1, WELL), ["launch 4 of 1", "terminate 1"]);
}

#[test]
fn what_is_stopped_debugged_or_throttled_is_left_alone() {
    let excuses: [fn(u64) -> Condition; 3] = [
        |_| Condition {
            is_stopped: true,
            ..WELL
        },
        |_| Condition {
            is_traced: true,
            ..WELL
        },
        |n| Condition { throttled: n, ..WELL },
    ];
    for excuse in excuses {
        let mut story = story(1);
        look(&mut story, 1, excuse(0));
        for n in 1..20 {
            ends(&mut story, 1, 5, Outcome::Dropped);
            assert_eq!(sweep(&mut story), ["Look { id: InstanceId(1) }"]);
            assert_eq!(look(&mut story, 1, excuse(n)), [""; 0]);
        }
        // The control: with nothing to excuse it, the same is replaced.
        for _ in 0..2 {
            ends(&mut story, 1, 5, Outcome::Dropped);
            sweep(&mut story);
            let still = Condition {
                throttled: 19,
                ..WELL
            };
            if look(&mut story, 1, still).contains(&"launch 2 of 1".to_owned()) {
                break;
            }
        }
        assert!(story.entry.slot(InstanceId(2)).is_some());
    }
}

#[test]
fn an_overloaded_one_is_left_alone_unless_the_others_are_well() {
    let busy = |seconds: u64| Condition {
        cpu_micros: seconds * 2_000_000,
        ..WELL
    };
    let mut lone = story(1);
    for n in 1..9 {
        ends(&mut lone, 1, 9, Outcome::Dropped);
        sweep(&mut lone);
        assert_eq!(look(&mut lone, 1, busy(n)), [""; 0]);
    }
    let mut three = story(3);
    ends(&mut three, 2, 20, Outcome::Answered);
    ends(&mut three, 1, 9, Outcome::Dropped);
    sweep(&mut three);
    look(&mut three, 1, busy(1));
    sweep(&mut three);
    assert_eq!(look(&mut three, 1, busy(2)), ["launch 4 of 1", "terminate 1"]);
}

#[test]
fn health_requests_without_an_answer_replace_it() {
    let mut story = story(1);
    for n in 1..=UNANSWERED {
        let instance = story.entry.slot(InstanceId(1)).unwrap().instance.clone().unwrap();
        instance.tally.is_silent();
        story.now += Duration::from_secs(1);
        story.with(|entry, effects| entry.look_at(InstanceId(1), effects));
        assert_eq!(story.asked(), ["Look { id: InstanceId(1) }"]);
        let asked = look(&mut story, 1, WELL);
        match n == UNANSWERED {
            true => assert_eq!(asked, ["launch 2 of 1", "terminate 1"]),
            false => assert_eq!(asked, [""; 0]),
        }
    }
}

#[test]
fn one_that_computes_for_a_request_is_given_as_long_as_the_request_has() {
    let mut story = Story::new(revision(1, |manifest| {
        manifest.scale.min = 1;
        manifest.scale.max = 1;
        manifest.request.timeout = Duration::from_secs(60);
        manifest.health.period = Some(Duration::from_secs(10));
    }));
    story.with(Entry::tick);
    drop(story.ready(1));
    story.asked();
    let lease = story.entry.handle.try_lease(None).unwrap().unwrap();
    let mut cpu_micros = 0;
    for n in 1..=6 {
        lease.instance().tally.is_silent();
        cpu_micros += 2_000_000;
        let asked = look(&mut story, 1, Condition { cpu_micros, ..WELL });
        match n < 6 {
            true => assert_eq!(asked, [""; 0], "{n} periods of 10 s, of a minute"),
            false => assert_eq!(asked, ["launch 2 of 1"], "and it may finish"),
        }
    }
}

#[test]
fn a_function_that_fails_starts_nothing_and_then_one_at_a_time() {
    let mut story = Story::new(revision(1, |manifest| {
        manifest.scale.min = 3;
        manifest.scale.max = 3;
    }));
    story.with(Entry::tick);
    let mut id = 0;
    while story.entry.state().as_str() != "failed" {
        let launched: Vec<u64> = story
            .entry
            .slots()
            .iter()
            .filter_map(|s| s.id)
            .map(|id| id.0)
            .collect();
        for one in launched {
            id = id.max(one);
            story.exits(one, Exit::Code { code: 1 });
        }
        if story.entry.state().as_str() == "backoff" {
            story.pass();
        }
        assert!(id < 20, "it never gives up");
    }
    assert!(matches!(story.entry.news.last(), Some(News::GaveUp { .. })));
    assert!(story.offer().is_err(), "refused at once");
    // Those that were still being started may end as well.
    while let Some(one) = story.entry.slots().iter().find_map(|slot| slot.id) {
        story.exits(one.0, Exit::Code { code: 1 });
    }
    story.asked();
    assert_eq!(sweep(&mut story), [""; 0], "nothing is started meanwhile");
    while story
        .entry
        .slots()
        .iter()
        .any(|slot| slot.state.as_str() == "failed")
    {
        story.pass();
    }
    let asked = story.asked();
    assert_eq!(asked.len(), 1, "one finds out: {asked:?}");
    let probe = story.entry.slots().iter().find_map(|slot| slot.id).unwrap();
    story.ready(probe.0);
    assert_eq!(story.entry.news.last(), Some(&News::Recovered));
    assert_eq!(story.asked().len(), 2, "and then the others follow");
}
