//! Instances that were prepared ahead: they wait, execute when they are told, and never outlive who could tell them.
//! Stories on live processes.

use std::io::Write;

use super::*;

/// A prepared instance, and the pipe that lets it execute.
struct Prepared {
    id: InstanceId,
    go: fs::File,
    pid: i32,
}

fn prepare(host: &mut Running, spec: Spec) -> InstanceId {
    let id = InstanceId(host.next);
    host.next += 1;
    let spec = Box::new(spec);
    host.send(&Request::Prepare { id, spec }, &[]);
    id
}

/// Prepares one; `None` where the host can't.
fn prepared(host: &mut Running, spec: Spec) -> Option<Prepared> {
    if !host.handover.can_stand_by {
        println!("skipped: this host can't prepare instances ahead");
        return None;
    }
    let asked = prepare(host, spec);
    let (event, fds) = host.recv();
    assert_eq!(event, Event::Prepared { id: asked });
    let [go] = <[OwnedFd; 1]>::try_from(fds).unwrap();
    let [pid] = waiting(host)[..] else {
        panic!("one waits: {:?}", waiting(host));
    };
    Some(Prepared {
        id: asked,
        go: go.into(),
        pid,
    })
}

/// The processes that wait right before exec.
fn waiting(host: &Running) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", host.pid())).unwrap();
    let waits = |pid: &&str| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "funcd-standby\n")
    };
    let pids = children.split_whitespace().filter(waits);
    pids.map(|pid| pid.parse().unwrap()).collect()
}

fn refusal(host: &mut Running, asked: InstanceId) -> String {
    match host.recv().0 {
        Event::LaunchFailed { id, message, .. } if id == asked => message,
        other => panic!("{other:?} instead of a refusal"),
    }
}

pub(super) fn a_prepared_instance_executes_when_it_is_told(who: As) {
    let (mut host, digest) = started(who);
    let spec = host.spec(digest, &["serve"]);
    let before = host.holds();
    let Some(mut ready) = prepared(&mut host, spec) else {
        return;
    };
    // Callers queue in its socket from the beginning.
    let caller = host.connect(ready.id);
    ready.go.write_all(&[1]).unwrap();
    let (event, fds) = host.recv();
    assert_eq!(
        event,
        Event::Launched {
            id: ready.id,
            pid: ready.pid
        }
    );
    assert_eq!(fds.len(), 3, "stdout, stderr and its listener");
    assert_eq!(read_all(caller), "hello\n");
    assert_eq!(waiting(&host), [0; 0]);
    drop(fds);
    host.send(&Request::Terminate { id: ready.id }, &[]);
    assert_eq!(host.exit_of(ready.id), Exit::Stopped);
    drop(ready);
    host.holds_no_more(&before);
    host.stop();
}

pub(super) fn what_has_just_executed_is_frozen_too(who: As) {
    let (mut host, digest) = started(who);
    let spec = host.spec(digest, &["serve"]);
    let Some(mut ready) = prepared(&mut host, spec).filter(|_| host.handover.can_freeze) else {
        return;
    };
    // The launcher has not seen yet that it executed.
    host.signal(Signal::SIGSTOP);
    let caller = host.connect(ready.id);
    ready.go.write_all(&[1]).unwrap();
    assert_eq!(read_all(caller), "hello\n");
    host.send(&Request::Freeze { id: ready.id }, &[]);
    host.send(&Request::Usage { ids: vec![ready.id] }, &[]);
    host.signal(Signal::SIGCONT);
    while !matches!(host.recv().0, Event::Usage { .. }) {}
    assert!(!super::freezer::says_something(&host.connect(ready.id), 200));
    host.send(&Request::Kill { id: ready.id }, &[]);
    host.exit_of(ready.id);
    host.stop();
}

pub(super) fn one_that_waits_holds_nothing_of_the_launcher(who: As) {
    let (mut host, digest) = started(who);
    let other = host.launch(host.spec(digest, &["serve"]));
    let spec = host.spec(digest, &["serve"]);
    let Some(ready) = prepared(&mut host, spec) else {
        return;
    };
    if nix::unistd::geteuid().is_root() {
        // Its three and its listener; the executable, the ruleset, and how it is told and tells.
        let open = fs::read_dir(format!("/proc/{}/fd", ready.pid)).unwrap().count();
        assert_eq!(open, 8);
    }
    // Were its copy of them open, the other's pipes would not end with it.
    host.send(&Request::Kill { id: other.id }, &[]);
    host.exit_of(other.id);
    assert!(!read_all(other.stdout).contains("hello"));
    host.stop();
}

pub(super) fn one_that_waits_ends_with_whoever_could_tell_it(who: As) {
    let (mut host, digest) = started(who);
    let spec = host.spec(digest, &["serve"]);
    let before = host.holds();
    // The pipe is closed.
    let Some(ready) = prepared(&mut host, spec.clone()) else {
        return;
    };
    drop(ready.go);
    let why = refusal(&mut host, ready.id);
    assert!(why.contains("step exec"), "{why}");
    host.holds_no_more(&before);
    // It is killed.
    let ready = prepared(&mut host, spec.clone()).unwrap();
    host.send(&Request::Kill { id: ready.id }, &[]);
    refusal(&mut host, ready.id);
    drop(ready);
    host.holds_no_more(&before);
    // The supervisor dies: the next one knows nothing of it.
    let ready = prepared(&mut host, spec.clone()).unwrap();
    kill(Pid::from_raw(host.supervisor()), Signal::SIGKILL).unwrap();
    host.take_over();
    assert_eq!(host.inventory.len(), 0);
    assert!(host.handover.next_id > ready.id);
    drop(ready);
    host.holds_no_more(&before);
    // And that one prepares its own; nothing is told of the one before.
    let ready = prepared(&mut host, spec).unwrap();
    host.signal(Signal::SIGKILL);
    host.ended();
    while Path::new(&format!("/proc/{}", ready.pid)).exists() {
        std::thread::yield_now();
    }
}

pub(super) fn one_that_was_woken_last_is_kept_for_the_next_supervisor(who: As) {
    let (mut host, digest) = started(who);
    let spec = host.spec(digest, &["serve"]);
    let Some(mut ready) = prepared(&mut host, spec) else {
        return;
    };
    let caller = host.connect(ready.id);
    // The launcher sees both at once: that it executed, and that nobody is left to be told so.
    host.signal(Signal::SIGSTOP);
    ready.go.write_all(&[1]).unwrap();
    while waiting(&host) == [ready.pid] {
        std::thread::yield_now();
    }
    kill(Pid::from_raw(host.supervisor()), Signal::SIGKILL).unwrap();
    host.signal(Signal::SIGCONT);
    host.take_over();
    let kept: Vec<_> = host.inventory.iter().map(|(id, ..)| *id).collect();
    assert_eq!(kept, [ready.id]);
    assert_eq!(read_all(caller), "hello\n");
    host.send(&Request::Terminate { id: ready.id }, &[]);
    assert_eq!(host.exit_of(ready.id), Exit::Stopped);
    host.stop();
}

pub(super) fn what_can_not_be_prepared_is_refused_by_name(who: As) {
    let (mut host, digest) = started(who);
    let data = host.dir.path().join("data");
    let spec = host.spec(digest, &["serve"]);
    type Change<'a> = &'a dyn Fn(&mut Spec);
    let cases: [(Change<'_>, &str); 4] = [
        (&|spec| spec.socket = Socket::Port(8080), "of its own"),
        (&|spec| spec.read = vec![data.clone()], "with grants or secrets"),
        (&|spec| spec.write = vec![data.clone()], "with grants or secrets"),
        (
            &|spec| spec.secrets = vec!["key".into()],
            "with grants or secrets",
        ),
    ];
    for (change, why) in cases {
        let mut spec = spec.clone();
        change(&mut spec);
        let asked = prepare(&mut host, spec);
        let said = refusal(&mut host, asked);
        let why = if host.handover.can_stand_by { why } else { "ABI 6" };
        assert!(said.contains(why), "{said}");
    }
    // An id is used up by whatever it was used for.
    let id = InstanceId(host.next - 1);
    let spec = Box::new(spec);
    host.send(&Request::Launch { id, spec }, &[]);
    assert!(refusal(&mut host, id).contains("not larger"));
    host.stop();
}

pub(super) fn a_prepared_instance_that_can_not_execute_says_so(who: As) {
    let (mut host, _) = started(who);
    let broken = host.dir.path().join("broken");
    fs::write(&broken, b"\x7fELF and nothing more").unwrap();
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();
    let digest = host.store(&broken);
    let spec = host.spec(digest, &["serve"]);
    let before = host.holds();
    let Some(mut ready) = prepared(&mut host, spec) else {
        return;
    };
    ready.go.write_all(&[1]).unwrap();
    let why = refusal(&mut host, ready.id);
    assert!(why.contains("no executable of this machine"), "{why}");
    drop(ready);
    host.holds_no_more(&before);
    host.stop();
}

/// As many wait as a configuration may ask for, and one of them makes room for another.
pub(super) fn another_is_prepared_while_one_still_ends(who: As) {
    const MOST: usize = 64;
    let (mut host, digest) = started(who);
    if !host.handover.can_stand_by {
        return println!("skipped: this host can't prepare instances ahead");
    }
    let spec = host.spec(digest, &["serve"]);
    let before = host.holds();
    let mut go = Vec::new();
    for _ in 0..MOST {
        let id = prepare(&mut host, spec.clone());
        let (event, fds) = host.recv();
        assert_eq!(event, Event::Prepared { id });
        go.push((id, fds));
    }
    // Both are there before the launcher looks: the first has not ended when the second is asked for.
    let launcher = Pid::from_raw(host.pid());
    kill(launcher, Signal::SIGSTOP).unwrap();
    let oldest = go[0].0;
    host.send(&Request::Kill { id: oldest }, &[]);
    let next = prepare(&mut host, spec.clone());
    kill(launcher, Signal::SIGCONT).unwrap();
    let mut told: Vec<_> = (0..2).map(|_| host.recv()).collect();
    let is_prepared = |(event, _): &(Event, _)| *event == Event::Prepared { id: next };
    assert!(told.iter().any(is_prepared), "{told:?}");
    let is_over = |(event, _): &(Event, _)| matches!(event, Event::LaunchFailed { id, .. } if *id == oldest);
    assert!(told.iter().any(is_over), "{told:?}");
    // But not without end.
    let refused = (0..=MOST).find_map(|_| {
        prepare(&mut host, spec.clone());
        told.push(host.recv());
        match &told.last()?.0 {
            Event::LaunchFailed { message, .. } => Some(message.clone()),
            _ => None,
        }
    });
    assert!(refused.unwrap().contains("wait already"));
    let count = told
        .iter()
        .filter(|(event, _)| matches!(event, Event::Prepared { .. }))
        .count();
    drop((go, told));
    // All of them end with the pipes that would have woken them.
    for _ in 0..MOST - 1 + count {
        assert!(matches!(host.recv().0, Event::LaunchFailed { .. }));
    }
    host.holds_no_more(&before);
    host.stop();
}
