//! Hosts that something else than systemd starts: a shell, runit, s6, a container's init, or nobody at all, as PID 1.

use std::path::Path;
use std::process::Command;

use funcd_tests::host::Plan;
use funcd_tests::http::{Connection, Request};
use funcd_tests::need::Need;
use funcd_tests::process::Process;
use funcd_tests::suite::Suite;
use funcd_tests::{artifacts, eventually, until};
use nix::sys::signal::Signal;

use super::launcher::stopped;

pub(crate) fn register(suite: &mut Suite) {
    funcd_tests::tests!(suite, "without_systemd", [
        a_shell_is_told_how_it_ended,
        runit_starts_it_again_and_stops_it: &[Need::Program("runsv")],
        s6_starts_it_again_and_stops_it: &[Need::Program("s6-supervise")],
        an_init_of_containers_passes_signals_on: &[Need::Program("dumb-init")],
        as_pid_1_it_reaps_whom_nobody_waits_for: &[Need::Root, Need::Program("unshare"), Need::Program("nsenter")],
        a_container_with_cgroups_of_its_own_keeps_the_limits: &[
            Need::Root,
            Need::Property("memory-limit"),
            Need::Program("unshare"),
        ],
        doctor_says_what_a_container_without_cgroups_loses: &[Need::Root, Need::Program("unshare")],
        doctor_says_whether_there_is_systemd: &[Need::Root, Need::Program("unshare")],
    ]);
}

fn a_shell_is_told_how_it_ended() {
    // Not the last command, so that the shell stays to be told.
    let start = || {
        Plan::new()
            .through(&["sh", "-c", "\"$@\"; exit $(($? ^ 7))", "sh"])
            .start()
    };
    let host = start();
    assert_ne!(host.launcher(), &host.starter());
    let ended = stopped(&host, || host.signal(Signal::SIGTERM));
    assert_eq!(ended.code(), Some(7), "it ended with 0");
    let host = start();
    host.signal(Signal::SIGKILL);
    assert_eq!(host.wait_ended().code(), Some((128 + 9) ^ 7));
}

/// A service folder for whoever follows the conventions of daemontools, made of the command that comes after it.
const SERVICE: &str = r#"mkdir -p "$0" && { echo '#!/bin/sh'; printf exec; printf " '%s'" "$@"; echo; } > "$0/run" && chmod 755 "$0/run" && exec SUPERVISE "$0""#;

fn supervised(supervise: &str) {
    let plan = Plan::new();
    let service = plan.path().join("service").display().to_string();
    let host = plan
        .through(&["sh", "-c", &SERVICE.replace("SUPERVISE", supervise), &service])
        .start();
    host.deploy("one", "hello", "");
    host.get_ok("/one/");
    let function = host.instance("one");
    // It dies: nothing of it is left, and another one is started.
    let first = host.launcher().clone();
    first.signal(Signal::SIGKILL);
    until("the launcher to be gone", || !first.is_there());
    until("its function to be gone", || !function.is_there());
    let starter = host.starter();
    let second = || {
        starter
            .children_with_argument("serve")
            .pop()
            .filter(|second| *second != first)
    };
    eventually("another one to be ready", || {
        let mut admin =
            Connection::unix(&host.path().join("run/admin.sock")).map_err(|error| error.to_string())?;
        let answer = admin
            .ask(&Request::get("/readyz"))
            .map_err(|error| error.to_string())?;
        match (answer.status(), second()) {
            (200, Some(_)) => Ok(()),
            (status, _) => Err(format!("{status}")),
        }
    });
    let second = second().expect("it is ready");
    // Told to stop, it stops that and does not start it again.
    starter.signal(Signal::SIGTERM);
    assert_eq!(host.wait_ended().code(), Some(0), "{}", host.log_tail());
    until("that one to be gone", || !second.is_there());
}

fn runit_starts_it_again_and_stops_it() {
    supervised("runsv");
}

fn s6_starts_it_again_and_stops_it() {
    supervised("s6-supervise");
}

fn an_init_of_containers_passes_signals_on() {
    let host = Plan::new().through(&["dumb-init"]).start();
    let starter = host.starter();
    assert_ne!(host.launcher(), &starter);
    // To the whole process group: the supervisor and the functions must not be ended before they have answered.
    let ended = stopped(&host, || starter.signal(Signal::SIGTERM));
    assert_eq!(ended.code(), Some(0), "{}", host.log_tail());
}

fn as_pid_1_it_reaps_whom_nobody_waits_for() {
    let host = Plan::new()
        .through(&["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"])
        .start();
    host.deploy("one", "hello", "");
    host.get_ok("/one/");
    let launcher = host.launcher();
    let inside = |script: &str| {
        let target = launcher.pid.to_string();
        let entered = Command::new("nsenter")
            .args(["--target", &target, "--pid", "--mount", "sh", "-c", script])
            .status();
        assert!(entered.unwrap().success(), "{script}");
    };
    inside("[ \"$(tr '\\0' ' ' < /proc/1/cmdline | cut -d ' ' -f 2)\" = serve ]");
    // Its parent ends at once: it is the launcher's, which is the only one to wait for it.
    inside("sleep 98765 &");
    let orphan = || launcher.children_with_argument("98765").pop();
    until("the orphan to be the launcher's", || orphan().is_some());
    let orphan = orphan().unwrap();
    orphan.signal(Signal::SIGKILL);
    until("it to be reaped", || !orphan.is_there());
    host.get_ok("/one/");
    // PID 1 hears only signals that it asked for.
    let ended = stopped(&host, || inside("kill -TERM 1"));
    assert_eq!(ended.code(), Some(0), "{}", host.log_tail());
}

/// A container as runtimes make them on a machine with cgroup v1 or a hybrid one: it sees its own cgroups alone. `$0` is their name.
const CONTAINER: &str = r#"
set -e
for dir in /sys/fs/cgroup/memory /sys/fs/cgroup/pids /sys/fs/cgroup/cpu /sys/fs/cgroup/cpuacct /sys/fs/cgroup/freezer /sys/fs/cgroup/unified; do
    [ -e "$dir/cgroup.procs" ] || continue
    mkdir -p "$dir/$0"
    echo $$ > "$dir/$0/cgroup.procs"
done
exec unshare --cgroup --mount --pid --fork --mount-proc --kill-child sh -ec '
mount -t tmpfs none /sys/fs/cgroup
for name in memory pids cpu cpuacct freezer; do
    mkdir "/sys/fs/cgroup/$name"
    mount -t cgroup -o "$name" none "/sys/fs/cgroup/$name"
done
mkdir /sys/fs/cgroup/unified
mount -t cgroup2 none /sys/fs/cgroup/unified
exec "$@"' sh "$@"
"#;

/// The cgroups of a container, removed with it.
struct Cgroups(String);

impl Drop for Cgroups {
    fn drop(&mut self) {
        for controller in ["memory", "pids", "cpu", "cpuacct", "freezer", "unified"] {
            let dir = Path::new("/sys/fs/cgroup").join(controller).join(&self.0);
            if std::thread::panicking() {
                let _ = std::fs::remove_dir(&dir);
                continue;
            }
            // What has ended in it may take a moment to be gone.
            until("its cgroup to be empty", || {
                !dir.exists() || std::fs::remove_dir(&dir).is_ok()
            });
        }
    }
}

fn a_container_with_cgroups_of_its_own_keeps_the_limits() {
    if !Path::new("/sys/fs/cgroup/memory/cgroup.procs").exists() {
        return eprintln!("skipped: this machine has no cgroup v1; with v2 systemd's delegation is the same");
    }
    let cgroups = Cgroups(format!("funcd-container-{}", std::process::id()));
    let host = Plan::new().through(&["sh", "-c", CONTAINER, &cgroups.0]).start();
    host.deploy("hog", "hog", "[limits]\nmemory = \"64M\"\n");
    host.get_ok("/hog/");
    // It lives within the container's cgroups, which nobody else's are.
    let functions = || host.launcher().descendants();
    let within = |process: &Process| {
        process
            .cgroups()
            .iter()
            .any(|path| path.contains(&format!("{}/funcd", cgroups.0)))
    };
    assert!(
        functions().iter().any(within),
        "{:?}",
        functions().iter().map(Process::cgroups).collect::<Vec<_>>()
    );
    let answer = host.ask(&Request::post("/hog/memory?mb=512", ""));
    assert_eq!(answer.status(), 502, "{}", answer.text());
    host.wait_exit("hog", "oom");
    let ended = stopped(&host, || host.signal(Signal::SIGTERM));
    assert_eq!(ended.code(), Some(0), "{}", host.log_tail());
    drop(host);
}

/// What `funcd doctor` says after a script has changed what it sees of this machine.
fn doctor(script: &str) -> (serde_json::Value, String) {
    let ask = |more: &[&str]| {
        let output = Command::new("unshare")
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--mount-proc",
                "sh",
                "-ec",
                &format!("{script}\nexec \"$@\""),
                "sh",
            ])
            .arg(artifacts::funcd())
            .args(more)
            .args(["doctor", "--admin", "/nonexistent/admin.sock"])
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    (serde_json::from_str(&ask(&["--json"])).unwrap(), ask(&[]))
}

fn doctor_says_what_a_container_without_cgroups_loses() {
    let lost = |doctor: &serde_json::Value| {
        let properties = doctor["properties"].as_array().unwrap().iter();
        let missing = properties.filter(|property| property["kept"] == false);
        missing
            .map(|property| property["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let (without, said) = doctor("mount -t tmpfs none /sys/fs/cgroup");
    for name in ["memory-limit", "pid-limit", "cpu-limit"] {
        assert!(lost(&without).iter().any(|lost| lost == name), "{without}");
        assert!(said.contains(&format!("{name} is missing")), "{said}");
    }
    // And so it is: it refuses to start, by the same names.
    let refused = Plan::new()
        .through(&[
            "unshare",
            "--mount",
            "sh",
            "-ec",
            "mount -t tmpfs none /sys/fs/cgroup\nexec \"$@\"",
            "sh",
        ])
        .start();
    refused.deploy("one", "hello", "");
    let answer = refused.get("/one/");
    assert!(answer.status() >= 500, "{}", answer.text());
    let said = answer.text() + &refused.log();
    assert!(said.contains("memory-limit"), "{said}");
}

fn doctor_says_whether_there_is_systemd() {
    let (with, said) = doctor("mount -t tmpfs none /run\nmkdir -p /run/systemd/system");
    assert_eq!(with["systemd"], true, "{with}");
    assert!(!said.contains("no systemd"), "{said}");
    let (without, said) = doctor("mount -t tmpfs none /run");
    assert_eq!(without["systemd"], false, "{without}");
    for word in ["no systemd", "standard error", "start it again", "OOMScoreAdjust"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}
