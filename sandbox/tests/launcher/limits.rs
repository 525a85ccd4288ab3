//! What a running instance may use and be: memory, uids, grants, its place in an out-of-memory host. Stories on live
//! processes.

use super::*;

pub(super) fn a_function_out_of_memory_dies_as_a_whole(who: As) {
    let (mut host, digest) = started(who);
    for what in ["eat", "eat-child"] {
        let function = host.launch(host.spec(digest, &[what]));
        assert_eq!(host.exit_of(function.id), Exit::Oom, "{what}");
        assert_eq!(read_all(function.stdout), "", "{what}");
    }
    host.stop();
}

pub(super) fn usage_is_told(who: As) {
    let (mut host, digest) = started(who);
    let function = host.launch(host.spec(digest, &["serve"]));
    read_line(&function.stdout);
    host.send(
        &Request::Usage {
            ids: vec![function.id],
        },
        &[],
    );
    let (Event::Usage { id, usage }, _) = host.recv() else {
        panic!("usage comes next");
    };
    assert_eq!(id, function.id);
    assert!(
        usage.memory_bytes > 0 && usage.memory_bytes < 32 << 20,
        "{usage:?}"
    );
    assert!((1..=2).contains(&usage.pids), "{usage:?}");
    assert!(usage.cpu_micros > 0, "{usage:?}");
    host.stop();
}

/// The control is one beside it that is as usual.
pub(super) fn one_that_gets_what_no_other_wants_does_once_it_runs(who: As) {
    let (mut host, digest) = started(who);
    let mut weight_of = |cpu_idle| {
        let mut spec = host.spec(digest, &["serve"]);
        spec.limits.cpu_idle = cpu_idle;
        let function = host.launch(spec);
        read_line(&function.stdout);
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", function.pid)).unwrap();
        let read = |file: &str| {
            let mut dirs = groups.lines().filter_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                let root = match controllers.split(',').any(|one| one == "cpu") {
                    true => "/sys/fs/cgroup/cpu",
                    false if controllers.is_empty() => "/sys/fs/cgroup",
                    false => return None,
                };
                Some(format!("{root}{path}/{file}"))
            });
            dirs.find_map(|path| fs::read_to_string(path).ok())
                .map(|text| text.trim().to_owned())
        };
        let found = (read("cpu.idle"), read("cpu.weight").or(read("cpu.shares")));
        assert_eq!(host.call(function.id), "hello\n");
        found
    };
    let (bulk, usual) = (weight_of(true), weight_of(false));
    if usual == (None, None) {
        println!("skipped: its cgroup has no cpu controller");
        return host.stop();
    }
    // Linux 5.15 has cpu.idle; before, the least weight comes nearest.
    let is_least = |(idle, weight): &(Option<String>, Option<String>)| match idle {
        Some(idle) => idle == "1",
        None => matches!(weight.as_deref(), Some("1" | "2")),
    };
    assert!(is_least(&bulk) && !is_least(&usual), "{bulk:?} {usual:?}");
    host.stop();
}

pub(super) fn a_stopped_process_is_seen_as_one(who: As) {
    let (mut host, digest) = started(who);
    let function = host.launch(host.spec(digest, &["serve"]));
    read_line(&function.stdout);
    let pid = nix::unistd::Pid::from_raw(function.pid);
    let mut look = || {
        host.send(&Request::Look { id: function.id }, &[]);
        match host.recv().0 {
            Event::Looked { id, condition } if id == function.id => condition,
            other => panic!("{other:?}"),
        }
    };
    let before = look();
    assert!(
        !before.is_stopped && !before.is_traced && before.throttled == 0,
        "{before:?}"
    );
    for (signal, is_stopped) in [(Signal::SIGSTOP, true), (Signal::SIGCONT, false)] {
        kill(pid, signal).unwrap();
        // The signal is taken when it next runs.
        while look().is_stopped != is_stopped {
            std::thread::yield_now();
        }
    }
    // One that is not there gets no answer, and nothing else changes.
    host.send(
        &Request::Look {
            id: InstanceId(u64::MAX),
        },
        &[],
    );
    assert_eq!(host.call(function.id), "hello\n");
    host.stop();
}

pub(super) fn each_function_has_a_uid(who: As) {
    let (mut host, digest) = started(who);
    for (name, uid) in [
        ("first", UID_FIRST),
        ("second", UID_FIRST + 1),
        ("first", UID_FIRST),
    ] {
        let mut spec = host.spec(digest, &["serve"]);
        spec.function = name.into();
        let function = host.launch(spec);
        assert_eq!(read_line(&function.stdout), format!("serving as {uid}"));
    }
    let path = host.dir.path().join("state/uids");
    host.stop_keeping(|| {
        assert_eq!(
            fs::read_to_string(path).unwrap(),
            format!("first {UID_FIRST}\nsecond {}\n", UID_FIRST + 1)
        );
    });
}

pub(super) fn a_missing_grant_is_made_for_the_function(who: As) {
    use std::os::unix::fs::MetadataExt;
    let (mut host, digest) = started(who);
    let data = host.dir.path().join("data/actor");
    let mut spec = host.spec(digest, &["serve"]);
    spec.write.push(data.clone());
    let function = host.launch(spec);
    assert_eq!(host.call(function.id), "hello\n");
    assert_eq!(fs::metadata(&data).unwrap().uid(), UID_FIRST);
    host.stop();
}

pub(super) fn a_mini_init_keeps_its_memory_to_itself(who: As) {
    use std::os::unix::fs::MetadataExt;
    let (mut host, digest) = started(who);
    let function = host.launch(host.spec(digest, &["serve"]));
    read_line(&function.stdout);
    let status = fs::read_to_string(format!("/proc/{}/status", function.pid)).unwrap();
    let parent = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .unwrap();
    let parent: i32 = parent.trim().parse().unwrap();
    if parent == host.pid() {
        println!("no mini-init is needed here");
    } else {
        // The files of a process that is not dumpable are root's (proc(5)).
        assert_eq!(fs::metadata(format!("/proc/{parent}/mem")).unwrap().uid(), 0);
    }
    host.stop();
}

pub(super) fn functions_go_first_when_the_host_is_out_of_memory(who: As) {
    let (mut host, digest) = started(who);
    let function = host.launch(host.spec(digest, &["serve"]));
    read_line(&function.stdout);
    let score = |pid: i32| -> i32 {
        let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        text.trim().parse().unwrap()
    };
    let own = score(std::process::id() as i32);
    // The launcher, and so each supervisor, keeps what it was started with.
    assert_eq!([score(host.pid()), score(host.supervisor())], [own, own]);
    assert!(score(function.pid) > own || own == 1000);
    host.stop();
}
