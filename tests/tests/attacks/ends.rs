//! Attempts 48 to 52: to outlive the end, and to make a mess of it.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use funcd_tests::artifacts::example;
use funcd_tests::host::Host;
use funcd_tests::http::Request;
use funcd_tests::need::Need;
use funcd_tests::process::{Process, zombies_of};
use funcd_tests::suite::Suite;
use funcd_tests::{eventually, until};
use nix::libc;
use nix::sys::signal::Signal;

use crate::context::{Runtime, attacker, attempt, context};
use crate::table::{Title, story};

pub(crate) fn register(suite: &mut Suite) {
    const TOTAL: &[Need] = &[Need::Property("total-kill")];
    story(
        suite,
        Title {
            number: 48,
            attempt: "a daemon, forked twice, in a session of its own",
            mechanism: "P8 total-kill: cgroup.kill, or pid namespace",
        },
        "daemon",
        TOTAL,
        daemon,
    );
    story(
        suite,
        Title {
            number: 49,
            attempt: "ignore SIGTERM and every other signal",
            mechanism: "P8 total-kill: a deadline, then killed",
        },
        "deaf",
        TOTAL,
        deaf,
    );
    story(
        suite,
        Title {
            number: 50,
            attempt: "fork all the time while being killed",
            mechanism: "P8 total-kill: cgroup.kill, or pid namespace",
        },
        "fork_storm",
        TOTAL,
        fork_storm,
    );
    story(
        suite,
        Title {
            number: 51,
            attempt: "crash again and again, with children that nobody waits for",
            mechanism: "backoff, breaker, reaping",
        },
        "crash_loop",
        &[],
        crash_loop,
    );
    story(
        suite,
        Title {
            number: 52,
            attempt: "leave a core dump, start the machine's core handler",
            mechanism: "CORE limit 1, which seccomp keeps; not dumpable for others",
        },
        "core_dump",
        &[Need::Property("kernel-surface")],
        core_dump,
    );
}

/// A mount namespace, held so that no later one gets its number.
struct Namespace {
    link: PathBuf,
    _held: File,
}

impl Namespace {
    fn of(process: &Process) -> Namespace {
        let path = format!("/proc/{}/ns/mnt", process.pid);
        let held = File::open(&path).unwrap();
        Namespace {
            link: fs::read_link(&path).unwrap(),
            _held: held,
        }
    }

    /// Who lives in it.
    fn inhabitants(&self) -> Vec<i32> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let lives =
            |pid: &i32| fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok_and(|link| link == self.link);
        pids.filter(lives).collect()
    }
}

fn daemon() -> (String, String) {
    let host = &context().host;
    let name = attacker(Runtime::Static, "daemon", "");
    let main = host.instance(&name);
    let before = main.companions();
    attempt(host, &name, &["keep-daemon".to_owned()]);
    let mut daemons = Vec::new();
    until("the daemon to be there", || {
        daemons = main.companions();
        daemons.retain(|process| !before.contains(process));
        !daemons.is_empty()
    });
    host.remove(&name);
    until("the daemon to be gone", || {
        !main.is_there() && daemons.iter().all(|daemon| !daemon.is_there())
    });
    // Outside a daemon survives who started it.
    let output = Command::new("sh")
        .args(["-c", "setsid sleep 600 >/dev/null 2>&1 & echo $!"])
        .output()
        .unwrap();
    let survivor = Process::of(String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()).unwrap();
    assert!(survivor.is_alive());
    survivor.signal(Signal::SIGKILL);
    (
        "gone with its function".to_owned(),
        "outside it survives".to_owned(),
    )
}

fn deaf() -> (String, String) {
    let host = &context().host;
    let name = attacker(Runtime::Static, "deaf", "[health]\nstop_within = \"300ms\"\n");
    let main = host.instance(&name);
    attempt(host, &name, &["keep-deaf".to_owned()]);
    main.signal(Signal::SIGTERM);
    main.signal(Signal::SIGHUP);
    assert_eq!(
        host.get_ok(&format!("/{name}/cwd")).text(),
        "/",
        "the control: it ignores them"
    );
    assert!(main.is_alive());
    host.remove(&name);
    until("it to be killed", || !main.is_there());
    (
        "killed at its deadline".to_owned(),
        "it ignores SIGTERM sent by hand".to_owned(),
    )
}

fn fork_storm() -> (String, String) {
    let host = &context().host;
    let manifest = "[limits]\npids = 60\n[health]\nstop_within = \"100ms\"\n";
    let name = attacker(Runtime::Static, "storm", manifest);
    let main = host.instance(&name);
    let namespace = Namespace::of(&main);
    attempt(host, &name, &["keep-storm".to_owned(), "8".to_owned()]);
    let one = namespace.inhabitants();
    until("the storm to rage", || {
        let now = namespace.inhabitants();
        now.len() > 4 && now.iter().any(|pid| !one.contains(pid))
    });
    host.get_ok("/neighbour/");
    // As one step: a folder that is half gone is another revision.
    fs::rename(host.function_path(&name), host.path().join("storm-gone")).unwrap();
    until("the storm to be over", || {
        !main.is_there() && host.instances(&name).is_empty() && namespace.inhabitants().is_empty()
    });
    // A list of pids may miss who forks meanwhile; not again and again.
    for _ in 0..5 {
        assert_eq!(namespace.inhabitants(), [0; 0], "survivors");
        host.get_ok("/neighbour/");
    }
    (
        "no survivor".to_owned(),
        "before, there are ever new pids".to_owned(),
    )
}

fn crash_loop() -> (String, String) {
    let host = Host::start();
    host.deploy("mayfly", "attack", "");
    for _ in 0..8 {
        host.wait_for("/mayfly/", "200", |answer| answer.status() == 200);
        let children = "/mayfly/keep-zombies?30";
        assert_eq!(host.ask(&Request::post(children, "x")).status(), 502);
    }
    host.deploy("looper", "crash", "env = { CRASH = \"start\" }\n");
    let answer = host.wait_for("/looper/", "503", |answer| answer.status() == 503);
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    host.remove("mayfly");
    host.remove("looper");
    let launcher = host.launcher().clone();
    until("every dead process to be reaped", || {
        zombies_of(&launcher).is_empty()
            && zombies_of(&host.supervisor()).is_empty()
            && launcher.descendants().len() == 1
    });
    (
        "no zombie after 248 deaths; the loop is refused with Retry-After".to_owned(),
        "the crashes are seen by their callers".to_owned(),
    )
}

fn core_dump() -> (String, String) {
    let host = &context().host;
    let name = attacker(Runtime::Static, "static", "");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(attempt(host, &name, &words("dump-core")).text(), "none");
    let core = libc::RLIMIT_CORE;
    let unlimited = "h:ffffffffffffffffffffffffffffffff";
    for line in [
        format!("call {} 0 {core} {unlimited} 0", libc::SYS_prlimit64),
        format!(
            "call {} 0 {core} h:00000000000000000000000000000000 0",
            libc::SYS_prlimit64
        ),
        format!("call {} 4 1 0 0 0", libc::SYS_prctl),
        format!("call {} 4 4294967297 0 0 0", libc::SYS_prctl),
    ] {
        assert_eq!(attempt(host, &name, &words(&line)).text(), "EPERM", "{line}");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut control = Command::new(example("attack"));
    let output = control
        .args(["try", "dump-core"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let outside = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    // Whether this machine dumps at all is its own affair: then the calls are the control.
    assert!(["ok", "none"].contains(&outside.as_str()), "{outside}");
    eventually("the neighbour to answer", || {
        if host.get("/neighbour/").status() == 200 {
            Ok(())
        } else {
            Err(String::new())
        }
    });
    (
        "no core; EPERM for raising or zeroing the limit and for becoming dumpable".to_owned(),
        format!("outside: {outside}"),
    )
}
