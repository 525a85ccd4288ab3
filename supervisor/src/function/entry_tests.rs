//! Stories of one function: deploys, crashes, idleness, removal. Time is injected; nothing runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use funcd_sandbox::exit::Exit;
use funcd_sandbox::spec::InstanceId;
use funcd_sandbox::wire::{Request, Spent, Usage};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::mpsc;

use super::effects::Effects;
use super::entry::Entry;
use super::handle::{Offered, Revision, ToControl, Unavailable};
use super::instance::{Address, Instance};
use super::place::{Ended, Rollout};
use super::room::HostFacts;
use super::starts::Bucket;
use crate::admission::Class;
use crate::admission::queue::Facts;
use crate::catalog::manifest::{Defaults, Manifest, Scale};
use crate::name::FunctionName;

/// What a request asks that waits as long as it takes.
pub(super) fn patient() -> Facts {
    let now = Instant::now();
    Facts {
        class: Class::Degraded,
        rank: 0,
        arrived: now,
        deadline: now + Duration::from_secs(86_400),
    }
}

/// One function, and everything that it asked of the launcher.
pub(super) struct Story {
    pub(super) entry: Entry,
    pub(super) now: Instant,
    rng: SmallRng,
    pub(super) host: HostFacts,
    restarts: Bucket,
    pub(super) inbox: mpsc::UnboundedReceiver<ToControl>,
    requests: Vec<Request>,
    pub(super) launches: Vec<(InstanceId, FunctionName)>,
    next_id: u64,
}

pub(super) fn revision(n: u8, change: impl FnOnce(&mut Manifest)) -> Arc<Revision> {
    let name = FunctionName::parse("f").unwrap();
    let mut manifest = Manifest::read(&name, Path::new("f"), None, &Defaults::default()).unwrap();
    manifest.scale = Scale {
        min: 0,
        max: 2,
        concurrency: 1,
        prewarm: 0,
        idle: Duration::from_secs(60),
        freeze: None,
    };
    manifest.health.stop_within = Duration::from_secs(3);
    change(&mut manifest);
    crate::ingress::tests::revision(n, manifest)
}

impl Story {
    pub(super) fn new(revision: Arc<Revision>) -> Story {
        let (to_control, inbox) = mpsc::unbounded_channel();
        let name = FunctionName::parse("f").unwrap();
        Story {
            entry: Entry::new(name, revision, to_control, SystemTime::UNIX_EPOCH),
            now: Instant::now(),
            rng: SmallRng::seed_from_u64(7),
            host: HostFacts::UNKNOWN,
            restarts: Bucket::HOST,
            inbox,
            requests: Vec::new(),
            launches: Vec::new(),
            next_id: 1,
        }
    }

    pub(super) fn with<T>(&mut self, act: impl FnOnce(&mut Entry, &mut Effects<'_>) -> T) -> T {
        let mut effects = Effects {
            now: self.now,
            wall: SystemTime::UNIX_EPOCH,
            rng: &mut self.rng,
            host: &mut self.host,
            restarts: &mut self.restarts,
            requests: &mut self.requests,
            launches: &mut self.launches,
            may_prepare: true,
            ahead: 8,
            next_id: &mut self.next_id,
        };
        act(&mut self.entry, &mut effects)
    }

    /// The launcher's requests since the last look, in short.
    pub(super) fn asked(&mut self) -> Vec<String> {
        let short = |request: Request| match request {
            Request::Launch { id, spec } => format!("launch {id} of {:?}", spec.artifact.0[0]),
            Request::Terminate { id } => format!("terminate {id}"),
            Request::Kill { id } => format!("kill {id}"),
            Request::Freeze { id } => format!("freeze {id}"),
            Request::Thaw { id } => format!("thaw {id}"),
            other => format!("{other:?}"),
        };
        self.requests.drain(..).map(short).collect()
    }

    /// A request that waits as long as it takes.
    pub(super) fn offer(&self) -> Result<Offered, Unavailable> {
        self.entry.handle.offer(&patient(), u32::MAX)
    }

    pub(super) fn ask(&self) -> Offered {
        self.offer().unwrap()
    }

    fn launched(&mut self, id: u64) {
        let slot = self
            .entry
            .slots()
            .iter()
            .find(|slot| slot.id == Some(InstanceId(id)));
        let revision = Arc::clone(&slot.expect("the instance was asked for").revision);
        let instance = Instance::new(InstanceId(id), revision, Address::Unix(PathBuf::from("/nowhere")));
        self.with(|entry, effects| entry.bound(InstanceId(id), Arc::new(instance), effects));
        self.with(|entry, effects| entry.launched(InstanceId(id), 100, effects));
    }

    pub(super) fn ready(&mut self, id: u64) -> Rollout {
        self.launched(id);
        self.with(|entry, effects| entry.answered(InstanceId(id), effects))
    }

    pub(super) fn exits(&mut self, id: u64, exit: Exit) -> Rollout {
        let ended = Ended {
            instance: InstanceId(id),
            exit,
            message: String::new(),
            at: SystemTime::UNIX_EPOCH,
        };
        self.with(|entry, effects| entry.exited(ended, effects))
    }

    /// Moves the time to the next deadline and lets it pass.
    pub(super) fn pass(&mut self) {
        self.now = self
            .entry
            .deadline(self.now)
            .expect("something is due")
            .max(self.now);
        self.with(Entry::tick);
    }
}

#[test]
fn the_first_request_starts_one_and_waits_in_its_socket() {
    let mut story = Story::new(revision(1, |_| {}));
    assert_eq!(story.asked(), [""; 0]);
    let _permit = story.ask();
    story.with(Entry::wanted);
    assert_eq!(story.asked(), ["launch 1 of 1"]);
    assert!(
        story.entry.handle.try_lease(None).unwrap().is_none(),
        "nothing listens yet"
    );
    story.launched(1);
    assert!(
        story.entry.handle.try_lease(None).unwrap().is_some(),
        "the socket is bound before it is ready"
    );
    assert_eq!(story.entry.state().as_str(), "starting");
}

#[test]
fn more_requests_than_places_start_more_up_to_the_most() {
    let mut story = Story::new(revision(1, |_| {}));
    let _permits: Vec<_> = (0..9).map(|_| story.ask()).collect();
    story.with(Entry::wanted);
    story.with(Entry::wanted);
    assert_eq!(story.asked(), ["launch 1 of 1", "launch 2 of 1"]);
}

#[test]
fn idle_instances_stop_in_order_and_none_in_use() {
    let mut story = Story::new(revision(1, |_| {}));
    let permit = story.ask();
    story.with(Entry::wanted);
    story.ready(1);
    let lease = story.entry.handle.try_lease(None).unwrap();
    let look = story.now + Duration::from_secs(60);
    assert_eq!(
        story.entry.deadline(story.now),
        Some(look),
        "in use: idle then at the earliest"
    );
    drop((lease, permit));
    story.asked();
    story.now += Duration::from_secs(61);
    story.with(Entry::tick);
    assert_eq!(story.asked(), ["terminate 1"]);
    story.exits(1, Exit::Stopped);
    assert_eq!(
        (story.entry.state().as_str(), story.entry.deadline(story.now)),
        ("idle", None)
    );
    assert_eq!(story.asked(), [""; 0], "an end that was asked for starts nothing");
}

#[test]
fn one_that_does_not_stop_is_killed() {
    let mut story = Story::new(revision(1, |m| m.scale.min = 1));
    story.with(Entry::tick);
    story.ready(1);
    story.with(Entry::remove);
    assert_eq!(story.asked(), ["launch 1 of 1", "terminate 1"]);
    story.pass();
    assert_eq!(story.asked(), ["kill 1"]);
    story.exits(1, Exit::StopTimeout);
    assert!(story.entry.is_removed() && story.entry.slots().is_empty());
}

#[test]
fn a_drain_waits_for_the_lease() {
    let mut story = Story::new(revision(1, |m| m.scale.min = 1));
    story.with(Entry::tick);
    story.ready(1);
    story.asked();
    let lease = story.entry.handle.try_lease(None).unwrap().unwrap();
    story.with(Entry::remove);
    assert_eq!(story.asked(), [""; 0]);
    drop(lease);
    assert_eq!(story.inbox.try_recv(), Ok(ToControl::Drained(InstanceId(1))));
    story.with(|entry, effects| entry.drained(InstanceId(1), effects));
    assert_eq!(story.asked(), ["terminate 1"]);
}

#[test]
fn a_crash_restarts_at_once_and_then_after_backoff() {
    let mut story = Story::new(revision(1, |_| {}));
    let _permit = story.ask();
    story.with(Entry::wanted);
    story.ready(1);
    story.now += Duration::from_secs(11);
    story.exits(1, Exit::Signal { signal: 11 });
    assert_eq!(story.asked(), ["launch 1 of 1", "launch 2 of 1"]);
    story.ready(2);
    story.exits(2, Exit::Code { code: 3 });
    assert_eq!((story.asked(), story.entry.state().as_str()), (vec![], "backoff"));
    story.pass();
    assert_eq!(story.asked(), ["launch 3 of 1"]);
    assert_eq!(
        story.entry.last_exit.as_ref().unwrap().exit,
        Exit::Code { code: 3 }
    );
}

#[test]
fn five_failed_starts_refuse_at_once_and_recover_by_themselves() {
    let mut story = Story::new(revision(1, |_| {}));
    let permit = story.ask();
    story.with(Entry::wanted);
    for id in 1..=5 {
        story.exits(id, Exit::Code { code: 1 });
        if id < 5 && story.entry.state().as_str() == "backoff" {
            story.pass();
        }
    }
    assert_eq!(story.entry.state().as_str(), "failed");
    drop(permit);
    let Err(Unavailable::Refused(refusal)) = story.offer() else {
        panic!("admitted")
    };
    assert!(
        refusal.reason.contains("exited with code 1"),
        "{}",
        refusal.reason
    );
    assert_eq!(refusal.until, story.entry.deadline(story.now));
    story.asked();
    story.pass();
    let _permit = story.offer().expect("the refusal is lifted");
    story.with(Entry::wanted);
    assert_eq!(story.asked(), ["launch 6 of 1"]);
}

#[test]
fn a_proven_revision_serves_until_the_next_is_ready() {
    let mut story = Story::new(revision(1, |m| m.scale.min = 1));
    story.with(Entry::tick);
    story.ready(1);
    story.asked();
    story.with(|entry, effects| entry.deploy(revision(2, |m| m.scale.min = 1), effects));
    assert_eq!(story.asked(), ["launch 2 of 2"]);
    story.launched(2);
    let lease = story.entry.handle.try_lease(None).unwrap().unwrap();
    assert_eq!(lease.instance().id, InstanceId(1));
    drop(lease);
    assert_eq!(story.ready(2), Rollout::Promoted);
    let lease = story.entry.handle.try_lease(None).unwrap().unwrap();
    assert_eq!(lease.instance().id, InstanceId(2));
    assert_eq!(story.asked(), ["terminate 1"]);
}

#[test]
fn what_the_old_one_still_has_takes_no_place_of_the_new_one() {
    let mut story = Story::new(revision(1, |m| m.scale.min = 1));
    story.with(Entry::tick);
    story.ready(1);
    let permit = story.ask();
    let lease = story.entry.handle.try_lease(None).unwrap().unwrap();
    assert!(matches!(story.ask(), Offered::Wait(..)), "it has one place");
    story.with(|entry, effects| entry.deploy(revision(2, |m| m.scale.min = 1), effects));
    story.ready(2);
    let next = story.ask();
    assert!(matches!(next, Offered::Go(_)), "{next:?}");
    let next_lease = story.entry.handle.try_lease(None).unwrap().unwrap();
    assert_eq!(next_lease.instance().id, InstanceId(2));
    assert!(matches!(story.ask(), Offered::Wait(..)), "and no more than that");
    drop((lease, permit));
    // Once it is looked at.
    story.entry.tick_admission(None, 100, story.now);
    assert!(matches!(story.ask(), Offered::Wait(..)));
}

#[test]
fn a_start_that_is_under_way_may_be_waited_for() {
    let mut story = Story::new(revision(1, |_| {}));
    let first = story.ask();
    story.with(Entry::wanted);
    story.now += Duration::from_millis(700);
    story.ready(1);
    assert_eq!(story.entry.start_took, Some(Duration::from_millis(700)));
    // Its place is taken; another instance begins.
    let Offered::Wait(second, _) = story.ask() else {
        panic!("it has one place")
    };
    story.with(Entry::wanted);
    assert_eq!(story.asked(), ["launch 1 of 1", "launch 2 of 1"]);
    let longer = second.until_now().unwrap().duration_since(second.until());
    assert_eq!(longer, Duration::from_millis(700));
    drop(first);
}

#[test]
fn a_revision_that_never_gets_ready_changes_nothing() {
    let mut story = Story::new(revision(1, |m| m.scale.min = 1));
    story.with(Entry::tick);
    story.ready(1);
    story.with(|entry, effects| entry.deploy(revision(2, |_| {}), effects));
    let mut outcome = Rollout::Unchanged;
    for id in 2..=6 {
        outcome = story.exits(id, Exit::Code { code: 9 });
        if story
            .entry
            .slots()
            .iter()
            .any(|slot| slot.state.as_str() == "backoff")
        {
            story.pass();
        }
    }
    assert_eq!(outcome, Rollout::Abandoned("exited with code 9".to_owned()));
    assert_eq!(story.entry.state().as_str(), "ready");
    let lease = story.entry.handle.try_lease(None).unwrap().unwrap();
    assert_eq!(lease.instance().id, InstanceId(1));
    assert_eq!(story.entry.slots().len(), 1);
}

#[test]
fn a_revision_that_was_never_proven_is_replaced_at_once() {
    let mut story = Story::new(revision(1, |_| {}));
    story.with(|entry, effects| entry.deploy(revision(2, |_| {}), effects));
    let _permit = story.ask();
    story.with(Entry::wanted);
    assert_eq!(story.asked(), ["launch 1 of 2"]);
}

#[test]
fn deploying_what_is_there_changes_nothing() {
    let mut story = Story::new(revision(1, |m| m.scale.min = 1));
    story.with(Entry::tick);
    story.ready(1);
    story.asked();
    story.with(|entry, effects| entry.deploy(revision(1, |m| m.scale.min = 1), effects));
    assert_eq!(story.asked(), [""; 0]);
}

#[test]
fn a_third_revision_takes_the_place_of_one_that_is_being_proven() {
    let mut story = Story::new(revision(1, |m| m.scale.min = 1));
    story.with(Entry::tick);
    story.ready(1);
    story.with(|entry, effects| entry.deploy(revision(2, |_| {}), effects));
    story.launched(2);
    story.asked();
    story.with(|entry, effects| entry.deploy(revision(3, |_| {}), effects));
    assert_eq!(story.asked(), ["terminate 2", "launch 3 of 3"]);
    assert_eq!(story.ready(3), Rollout::Promoted);
}

#[test]
fn a_late_start_is_killed() {
    let mut story = Story::new(revision(1, |_| {}));
    let _permit = story.ask();
    story.with(Entry::wanted);
    story.launched(1);
    story.asked();
    story.pass();
    assert_eq!(story.asked(), ["kill 1"]);
    story.exits(1, Exit::StartTimeout);
    story.pass();
    assert_eq!(story.asked(), ["launch 2 of 1"]);
}

#[test]
fn what_ended_uses_nothing_and_its_cpu_time_is_counted_once() {
    let mut story = Story::new(revision(1, |_| {}));
    let _permit = story.ask();
    story.with(Entry::wanted);
    story.launched(1);
    let id = InstanceId(1);
    let usage = |cpu_micros, memory_bytes| Usage {
        cpu_micros,
        memory_bytes,
        pids: 2,
        ..Usage::default()
    };
    let new = |cpu_micros| Usage {
        cpu_micros,
        ..Usage::default()
    };
    assert_eq!(
        story.entry.note_usage(id, usage(70, 9), story.now),
        (usage(70, 9), new(70))
    );
    assert_eq!(
        story.entry.note_usage(id, usage(100, 8), story.now),
        (usage(100, 8), new(30))
    );
    let spent = Spent {
        cpu_micros: 120,
        oom_kills: 1,
    };
    let mut last = new(20);
    last.strain.oom_kills = 1;
    assert_eq!(story.entry.note_end_of_use(id, spent), last);
    assert_eq!(story.entry.usage(), Usage::default());
}
