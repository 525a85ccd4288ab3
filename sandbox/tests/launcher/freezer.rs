//! Instances that are frozen: they answer nobody, end when they are told to, and only what runs is frozen. Stories on live
//! processes.

use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;

/// A function that runs; `None` where the host can't freeze.
fn running(who: As) -> Option<(Running, InstanceId)> {
    let (mut host, digest) = started(who);
    if !host.handover.can_freeze {
        println!("skipped: this host can't freeze instances");
        return None;
    }
    let spec = host.spec(digest, &["serve"]);
    let id = host.launch(spec).id;
    Some((host, id))
}

pub(super) fn says_something(caller: &impl AsFd, millis: u16) -> bool {
    let mut fds = [PollFd::new(caller.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(millis)).unwrap() > 0
}

pub(super) fn a_frozen_instance_answers_nobody_until_it_is_thawed(who: As) {
    let Some((mut host, id)) = running(who) else {
        return;
    };
    assert_eq!(host.call(id), "hello\n", "it does before");
    host.send(&Request::Freeze { id }, &[]);
    // An answer to a later request tells that this one was read.
    host.send(&Request::Usage { ids: vec![id] }, &[]);
    assert!(matches!(host.recv().0, Event::Usage { .. }));
    let caller = host.connect(id);
    assert!(!says_something(&caller, 200));
    host.send(&Request::Thaw { id }, &[]);
    assert_eq!(read_all(caller), "hello\n", "and after");
    host.stop();
}

pub(super) fn a_frozen_instance_ends_when_it_is_told_to(who: As) {
    let Some((mut host, id)) = running(who) else {
        return;
    };
    host.send(&Request::Freeze { id }, &[]);
    host.send(&Request::Terminate { id }, &[]);
    // Told to stop, it is not frozen again.
    host.send(&Request::Freeze { id }, &[]);
    assert_eq!(host.exit_of(id), Exit::Stopped);
    let digest = host.store(&actor());
    let spec = host.spec(digest, &["serve"]);
    let id = host.launch(spec).id;
    host.send(&Request::Freeze { id }, &[]);
    host.send(&Request::Kill { id }, &[]);
    assert_eq!(
        host.exit_of(id),
        Exit::StartTimeout,
        "killed without a word before"
    );
    host.stop();
}

pub(super) fn what_is_frozen_without_an_instance_changes_nothing(who: As) {
    let Some((host, id)) = running(who) else { return };
    for other in [0, id.0 + 1, u64::MAX].map(InstanceId) {
        host.send(&Request::Freeze { id: other }, &[]);
        host.send(&Request::Thaw { id: other }, &[]);
    }
    assert_eq!(host.call(id), "hello\n");
    host.stop();
}
