//! A launcher that runs out of something: it says so by name, goes on with what runs, and starts again once there is more.

use funcd_sandbox::spec::{InstanceId, Spec};
use nix::sys::resource::Resource;

use super::*;

/// Lowers, or raises again, a soft limit of the launcher.
fn limit(host: &Running, resource: Resource, soft: u64) {
    let mut old = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: one rlimit is written, which lives through the call.
    let got = unsafe { libc::prlimit(host.pid(), resource as _, std::ptr::null(), &mut old) };
    assert_eq!(got, 0);
    let new = libc::rlimit {
        rlim_cur: soft.min(old.rlim_max),
        rlim_max: old.rlim_max,
    };
    // SAFETY: one rlimit is read, which lives through the call.
    let set = unsafe { libc::prlimit(host.pid(), resource as _, &new, std::ptr::null_mut()) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// The limit below which the launcher has room for so many descriptors: its own may have gaps between them.
fn limit_with_room(host: &Running, room: usize) -> u64 {
    let names = fs::read_dir(format!("/proc/{}/fd", host.pid())).unwrap();
    let open = names.map(|name| {
        name.unwrap()
            .file_name()
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    });
    let open: std::collections::BTreeSet<u64> = open.collect();
    (0..).filter(|number| !open.contains(number)).nth(room).unwrap()
}

/// A field of the launcher's status, in bytes.
fn status(host: &Running, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let number = line.trim_matches([':', '\t', ' ']).split(' ').next().unwrap();
    number.parse::<u64>().unwrap() * 1024
}

impl Running {
    /// Asks for a launch; its id when it runs, else what was said.
    fn attempt(&mut self, spec: Spec) -> Result<InstanceId, String> {
        let id = self.ask(spec);
        match self.answer_to(id) {
            Event::Launched { .. } => Ok(id),
            Event::LaunchFailed { message, .. } => Err(message),
            other => panic!("{other:?} instead of an answer"),
        }
    }
}

pub(super) fn without_descriptors_it_says_so_and_goes_on(who: As) {
    let (mut host, digest) = started(who);
    let witness = host.launch(host.spec(digest, &["serve"]));
    read_line(&witness.stdout);
    let before = host.holds();
    let (mut failed, mut started) = (0, 0);
    // From no descriptor at all to enough for a start: each step of it fails once.
    for room in 0..40 {
        let doomed = host.launch(host.spec(digest, &["daemon"]));
        assert_eq!(read_line(&doomed.stdout), "daemon");
        host.holds();
        limit(&host, Resource::RLIMIT_NOFILE, limit_with_room(&host, room));
        match host.attempt(host.spec(digest, &["serve"])) {
            Ok(id) => {
                started += 1;
                host.send(&Request::Kill { id }, &[]);
                host.exit_of(id);
            }
            Err(said) => {
                failed += 1;
                let named = ["Too many open files", "open files", "os error 24"]
                    .iter()
                    .any(|word| said.contains(word));
                assert!(named, "with room for {room}: {said}");
                assert!(said.contains("actor") && said.contains("step "), "{said}");
            }
        }
        // What runs is served, told of, and can be ended with all of its processes.
        assert_eq!(host.call(witness.id), "hello\n");
        host.send(
            &Request::Usage {
                ids: vec![witness.id],
            },
            &[],
        );
        assert!(
            matches!(host.recv().0, Event::Usage { .. }),
            "with room for {room}"
        );
        host.send(&Request::Kill { id: doomed.id }, &[]);
        assert_eq!(
            host.exit_of(doomed.id),
            Exit::StartTimeout,
            "with room for {room}"
        );
        if who == As::Root {
            assert_eq!(read_all(doomed.stdout), "");
        }
        limit(&host, Resource::RLIMIT_NOFILE, u64::MAX);
    }
    assert!(failed > 3 && started > 3, "{failed} failed, {started} started");
    println!("{failed} failed, {started} started");

    // Not even a copy or a new supervisor can be had; then they can.
    limit(&host, Resource::RLIMIT_NOFILE, 5);
    let file = fs::File::open(actor()).unwrap();
    host.send(&Request::Store { ticket: 8 }, &[file.as_raw_fd()]);
    let said = format!("{:?}", host.recv().0);
    assert!(
        said.contains("ticket: 8") && said.contains("limit of open files"),
        "{said}"
    );
    kill(Pid::from_raw(host.supervisor()), Signal::SIGKILL).unwrap();
    while host.find_supervisor().is_some() {
        std::thread::yield_now();
    }
    assert_eq!(host.call(witness.id), "hello\n");
    limit(&host, Resource::RLIMIT_NOFILE, u64::MAX);
    host.take_over();
    assert_eq!(host.inventory.len(), 1);
    let again = host.attempt(host.spec(digest, &["exit"])).unwrap();
    assert_eq!(host.exit_of(again), Exit::Code { code: 7 });
    host.holds_no_more(&before);
    host.stop();
}

pub(super) fn without_memory_it_says_so_and_goes_on(who: As) {
    let (mut host, digest) = started(who);
    let witness = host.launch(host.spec(digest, &["serve"]));
    read_line(&witness.stdout);
    let large = |host: &Running| {
        let mut spec = host.spec(digest, &["serve"]);
        spec.memo = vec![1; 24 * 1024];
        spec.env = (0..100).map(|n| (format!("V{n}"), "x".repeat(250))).collect();
        spec
    };
    let (mut failed, mut running) = (0, Vec::new());
    // As much as it has now, and no more.
    limit(&host, Resource::RLIMIT_AS, status(&host, "VmSize"));
    for _ in 0..200 {
        match host.attempt(large(&host)) {
            Ok(id) => running.push(id),
            Err(said) => {
                failed += 1;
                assert!(said.contains("memory"), "{said}");
            }
        }
    }
    println!("{failed} failed, {} started", running.len());
    assert!(failed > 0, "the limit limits nothing");
    // What runs is served and can be ended, also with nothing left.
    assert_eq!(host.call(witness.id), "hello\n");
    host.send(
        &Request::Usage {
            ids: vec![witness.id],
        },
        &[],
    );
    assert!(matches!(host.recv().0, Event::Usage { .. }));
    for id in running {
        host.send(&Request::Kill { id }, &[]);
        host.exit_of(id);
    }
    limit(&host, Resource::RLIMIT_AS, u64::MAX);
    let again = host.attempt(large(&host)).unwrap();
    assert_eq!(host.call(again), "hello\n");
    host.stop();
}

/// What a supervisor does not read is kept for it, in memory that there may not be: then it is the supervisor that goes.
pub(super) fn without_memory_it_keeps_nothing_for_who_does_not_read(who: As) {
    let mut host = Running::start_with(who, "hand");
    let digest = host.store(&actor());
    let witness = host.launch(host.spec(digest, &["serve"]));
    read_line(&witness.stdout);
    for _ in 0..2 {
        limit(&host, Resource::RLIMIT_AS, status(&host, "VmSize"));
        compromised::never_read(&host);
        assert_eq!(host.call(witness.id), "hello\n");
        limit(&host, Resource::RLIMIT_AS, u64::MAX);
        host.take_over();
        assert_eq!(host.inventory.len(), 1);
        assert_eq!(host.call(witness.id), "hello\n");
    }
    host.stop();
}

/// With `LimitFSIZE=` a write fails, and sends a signal that would end the launcher.
pub(super) fn a_file_that_may_not_grow_is_said_so(who: As) {
    let (mut host, digest) = started(who);
    let other = host.dir.path().join("other");
    fs::write(&other, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).unwrap();
    limit(&host, Resource::RLIMIT_FSIZE, 0);
    let said = refused_copy(&mut host, &other);
    assert!(
        said.contains("can't be written to the store") && said.contains("File too large"),
        "{said}"
    );
    let function = host.launch(host.spec(digest, &["serve"]));
    assert_eq!(host.call(function.id), "hello\n");
    limit(&host, Resource::RLIMIT_FSIZE, u64::MAX);
    host.store(&other);
    host.stop();
}

/// Why a copy was refused; tried again while another test's fork holds the file.
fn refused_copy(host: &mut Running, path: &Path) -> String {
    let file = fs::File::open(path).unwrap();
    loop {
        host.send(&Request::Store { ticket: 6 }, &[file.as_raw_fd()]);
        match host.recv().0 {
            Event::Stored {
                result: Err(funcd_sandbox::wire::StoreError::BeingWritten),
                ..
            } => {}
            Event::Stored {
                ticket: 6,
                result: Err(why),
            } => return format!("{why:?}"),
            other => panic!("{other:?} instead of a refusal"),
        }
    }
}

pub(super) fn full_folders_are_said_so_and_can_be_emptied(who: As) {
    let mut host = Running::start_in(who, "relay", |dir| {
        fs::write(dir.join("small-state"), "size=4m,mode=755").unwrap();
        fs::write(dir.join("small-run"), "size=4m,nr_inodes=16,mode=755").unwrap();
    });
    let digest = host.store(&actor());
    let large = host.dir.path().join("large");
    fs::write(&large, vec![1; 8 << 20]).unwrap();
    fs::set_permissions(&large, fs::Permissions::from_mode(0o755)).unwrap();
    for _ in 0..3 {
        let said = refused_copy(&mut host, &large);
        assert!(
            said.contains("No space left") && said.contains("make room"),
            "{said}"
        );
    }
    // What did not fit is gone again: something small fits.
    fs::write(&large, "#!/bin/sh\n").unwrap();
    host.store(&large);
    let mut running = Vec::new();
    let said = loop {
        match host.attempt(host.spec(digest, &["serve"])) {
            Ok(id) => running.push(id),
            Err(said) => break said,
        }
        assert!(running.len() < 20, "the folder is never full");
    };
    assert!(
        said.contains("step socket") && said.contains("No space left") && said.contains("run folder"),
        "{said}"
    );
    let id = running.pop().unwrap();
    host.send(&Request::Kill { id }, &[]);
    host.exit_of(id);
    host.attempt(host.spec(digest, &["serve"])).unwrap();
}

pub(super) fn a_thousand_instances_take_little_memory(who: As) {
    const MOST: u64 = 8 * 1000 * 1000;
    let (mut host, digest) = started(who);
    let before = (status(&host, "VmRSS"), status(&host, "RssAnon"));
    for number in 0..1000 {
        let mut spec = host.spec(digest, &["serve"]);
        spec.function = format!("f{}", number % 100);
        // As large as supervisors make it.
        spec.memo = vec![1; 600];
        host.attempt(spec).unwrap();
    }
    let after = (status(&host, "VmRSS"), status(&host, "RssAnon"));
    println!(
        "RSS {} kB, {} kB of it its own; before {} kB, {} kB",
        after.0 / 1024,
        after.1 / 1024,
        before.0 / 1024,
        before.1 / 1024
    );
    assert!(after.0 < MOST, "{} bytes with 1,000 instances", after.0);
    host.stop();
}
