//! Instances that go bad, requests that kill, functions that never get ready: who is replaced, who is left alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use funcd_tests::host::Host;
use funcd_tests::http::{Request, Response};
use funcd_tests::need::Need;
use funcd_tests::process::Process;
use funcd_tests::suite::Suite;
use funcd_tests::{eventually, until};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

pub(crate) fn register(suite: &mut Suite) {
    funcd_tests::tests!(
        suite,
        "faults",
        [
            a_bad_one_of_three_is_replaced_after_five_failures_at_most,
            if_all_are_bad_none_is_replaced,
            a_request_that_kills_two_is_refused,
            a_request_that_kills_who_has_just_begun_fails_no_other,
            one_that_hangs_is_replaced_and_one_that_is_stopped_is_not,
            one_that_hangs_in_a_debugger_is_replaced_only_once_that_is_gone: &[Need::Root],
            a_silent_one_is_replaced_without_health_requests_but_not_a_stopped_one,
            a_crash_loop_fails_at_once_and_heals_when_its_cause_is_gone,
        ]
    );
}

fn host() -> Arc<Host> {
    Host::shared("faults", |_| {})
}

/// Deploys so many instances; their pids once all are ready.
#[track_caller]
fn deploy(host: &Host, name: &str, instances: usize, manifest: &str) -> BTreeSet<i32> {
    let scale = format!("[scale]\nmin = {instances}\nmax = {instances}\nconcurrency = 8\n{manifest}");
    host.deploy(name, "sour", &scale);
    ready(host, name, instances)
}

/// The pids, once so many are ready and nothing else is there.
#[track_caller]
fn ready(host: &Host, name: &str, instances: usize) -> BTreeSet<i32> {
    eventually(&format!("{instances} of {name} to be ready"), || {
        let rows = host.instances(name);
        match rows.len() == instances && rows.iter().all(|row| row.state == "ready") {
            true => Ok(rows.iter().filter_map(|row| row.pid).collect()),
            false => Err(format!("{rows:?}")),
        }
    })
}

/// A counter, over all series that have all of `labels`.
fn counter(host: &Host, name: &str, labels: &[&str]) -> f64 {
    let metrics = host.admin_get("/metrics").text();
    let fits =
        |line: &&str| line.starts_with(&format!("{name}{{")) && labels.iter().all(|l| line.contains(l));
    let values = metrics.lines().filter(fits);
    values
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

fn a_bad_one_of_three_is_replaced_after_five_failures_at_most() {
    let host = host();
    let before = deploy(&host, "turning", 3, "");
    let turned: Process = {
        let answer = host.get_ok("/turning/turn").text();
        // Its pid is that of its own namespace; on the host it is the one that goes.
        assert!(!answer.is_empty());
        let mut failures = 0;
        let gone = eventually("one to be replaced", || {
            failures += usize::from(host.ask(&Request::post("/turning/", "x")).status() != 200);
            let rows = host.instances("turning");
            let draining = rows.iter().find(|row| row.state == "draining");
            let gone = before
                .iter()
                .find(|pid| !rows.iter().any(|row| row.pid == Some(**pid)));
            let gone = draining.and_then(|row| row.pid).or(gone.copied());
            gone.ok_or(format!("{failures} failures, {rows:?}"))
        });
        // Nobody fails any more, meanwhile or afterwards.
        for _ in 0..50 {
            failures += usize::from(host.ask(&Request::post("/turning/", "x")).status() != 200);
        }
        assert!((1..=5).contains(&failures), "{failures} requests failed");
        Process::of(gone).unwrap_or_else(|| host.launcher().clone())
    };
    if turned != *host.launcher() {
        until("the bad one to be gone", || !turned.is_there());
    }
    let after = ready(&host, "turning", 3);
    assert_eq!(before.intersection(&after).count(), 2, "{before:?} {after:?}");
    let message = host.wait_exit("turning", "ejected");
    assert!(message.contains("replaced"), "{message}");
    let ejections = counter(
        &host,
        "funcd_ejections_total",
        &["function=\"turning\"", "reason=\"ejected\""],
    );
    assert_eq!(ejections, 1.0);
    assert!(
        host.log().contains("replaced: another is started"),
        "{}",
        host.log_tail()
    );
}

fn if_all_are_bad_none_is_replaced() {
    let host = host();
    let before = deploy(&host, "all-bad", 3, "");
    // All of them are asked at the same time, and none is better than the others.
    std::thread::scope(|scope| {
        for _ in 0..9 {
            scope.spawn(|| {
                for _ in 0..8 {
                    let answer = host.ask(&Request::post("/all-bad/reset?ms=100", "x"));
                    // Who fails all the time is sent fewer requests.
                    let refused = answer.header("x-funcd-shed") == Some("breaker");
                    assert!(answer.status() == 502 || refused, "{}", answer.text());
                }
            });
        }
    });
    // Longer than a sweep takes: another function's instance is judged meanwhile.
    until("one to be answered again", || {
        host.get("/all-bad/").status() == 200
    });
    assert_eq!(ready(&host, "all-bad", 3), before);
    assert_eq!(counter(&host, "funcd_ejections_total", &["\"all-bad\""]), 0.0);
}

fn a_request_that_kills_two_is_refused() {
    let host = host();
    deploy(&host, "poisoned", 3, "");
    let ask = || host.ask(&Request::post("/poisoned/die?how=fast", "now"));
    let kind = |answer: &Response| answer.json()["type"].as_str().unwrap_or_default().to_owned();
    // On a slow machine half a second passes in between, and one more is sent to see.
    let (mut killed, mut refused) = (0, Vec::new());
    while refused.len() < 3 {
        let answer = ask();
        assert_eq!(answer.status(), 502, "{}", answer.text());
        match &*kind(&answer) {
            "urn:funcd:error:connection-terminated" => killed += 1,
            "urn:funcd:error:quarantined" => refused.push(answer),
            other => panic!("{other}"),
        }
        assert!((2..6).contains(&killed) || refused.is_empty(), "{killed}");
    }
    for answer in &refused {
        assert_eq!(answer.header("x-funcd-shed"), Some("quarantined"));
    }
    // Only the like of it: another target is sent, and so is the same with another method.
    host.get_ok("/poisoned/?how=fast");
    until("those to have been started again", || {
        host.instances("poisoned").len() == 3
    });
    let exits = counter(
        &host,
        "funcd_instance_exits_total",
        &["\"poisoned\"", "\"signal\""],
    );
    assert_eq!(exits, f64::from(killed));
    assert!(counter(&host, "funcd_quarantines_total", &["\"poisoned\""]) >= 1.0);
    let shed = counter(
        &host,
        "funcd_requests_shed_total",
        &["\"poisoned\"", "\"quarantined\""],
    );
    assert_eq!(shed, 3.0);
    let log = host.log();
    assert!(
        log.contains("in quarantine: two instances died of this request"),
        "{}",
        host.log_tail()
    );
    let id = refused[0].header("x-request-id").expect("each answer has one");
    let explained = host.json(&["explain", id]).unwrap().to_string();
    assert!(explained.contains("quarantined"), "{explained}");
}

const ASKED: &str = "[health]\npath = \"/healthz\"\nperiod = \"1s\"\n";

/// Nothing runs: each instance is started by the request that kills it, and answers nothing before.
fn a_request_that_kills_who_has_just_begun_fails_no_other() {
    let host = host();
    host.deploy("idle-poisoned", "sour", "");
    let mut refused = 0;
    until(
        "five to be refused, though one is sent to see now and then",
        || {
            let answer = host.get("/idle-poisoned/die");
            assert_eq!(answer.status(), 502, "{}", answer.text());
            refused += usize::from(answer.header("x-funcd-shed") == Some("quarantined"));
            refused >= 5
        },
    );
    host.get_ok("/idle-poisoned/");
    assert_eq!(counter(&host, "funcd_gave_up_total", &["\"idle-poisoned\""]), 0.0);
}

fn one_that_hangs_is_replaced_and_one_that_is_stopped_is_not() {
    let host = host();
    deploy(&host, "paused", 1, ASKED);
    let paused = host.instance("paused");
    paused.signal(Signal::SIGSTOP);
    // The control: the same health requests end one that hangs.
    deploy(&host, "hung", 1, ASKED);
    let hung = host.instance("hung");
    host.get_ok("/hung/hang");
    let message = host.wait_exit("hung", "unresponsive");
    assert!(message.contains("replaced"), "{message}");
    assert!(!hung.is_there());
    host.get_ok("/hung/");
    // It was asked as often, and looked at each time.
    until("the stopped one to have been excused four times", || {
        counter(
            &host,
            "funcd_health_requests_total",
            &["\"paused\"", "result=\"excused\""],
        ) >= 4.0
    });
    assert!(paused.is_there());
    assert_eq!(counter(&host, "funcd_ejections_total", &["\"paused\""]), 0.0);
    paused.signal(Signal::SIGCONT);
    host.get_ok("/paused/");
    assert_eq!(host.instance("paused"), paused, "the same process answers");
    assert!(
        host.log().contains("it is stopped by a signal"),
        "{}",
        host.log_tail()
    );
}

fn one_that_hangs_in_a_debugger_is_replaced_only_once_that_is_gone() {
    let host = host();
    let pids = deploy(&host, "debugged", 1, ASKED);
    let debugged = host.instance("debugged");
    let pid = Pid::from_raw(*pids.first().expect("one is ready"));
    // As `gdb -p` does, but for the stop: this thread is the debugger.
    ptrace::seize(pid, ptrace::Options::empty()).expect("tests of faults run as root");
    host.get_ok("/debugged/hang");
    until("it to have been excused four times", || {
        counter(
            &host,
            "funcd_health_requests_total",
            &["\"debugged\"", "result=\"excused\""],
        ) >= 4.0
    });
    assert!(debugged.is_there());
    assert!(host.log().contains("a debugger traces it"), "{}", host.log_tail());
    ptrace::interrupt(pid).unwrap();
    waitpid(pid, None).unwrap();
    ptrace::detach(pid, None).unwrap();
    host.wait_exit("debugged", "unresponsive");
    assert!(!debugged.is_there());
}

fn a_silent_one_is_replaced_without_health_requests_but_not_a_stopped_one() {
    let host = host();
    const SHORT: &str = "[request]\ntimeout = \"200ms\"\n";
    deploy(&host, "still", 1, SHORT);
    deploy(&host, "mute", 1, SHORT);
    let (still, mute) = (host.instance("still"), host.instance("mute"));
    still.signal(Signal::SIGSTOP);
    host.get_ok("/mute/hang");
    let ask = |name: &str| host.get(&format!("/{name}/")).status();
    eventually("the silent one to be replaced", || {
        assert_ne!(ask("still"), 200);
        match (ask("mute"), mute.is_there()) {
            (200, false) => Ok(()),
            (status, there) => Err(format!("{status}, there: {there}")),
        }
    });
    host.wait_exit("mute", "unresponsive");
    assert!(still.is_there());
    assert_eq!(counter(&host, "funcd_ejections_total", &["\"still\""]), 0.0);
    still.signal(Signal::SIGCONT);
    host.wait_for("/still/", "200", |answer| answer.status() == 200);
    assert_eq!(host.instance("still"), still);
}

fn a_crash_loop_fails_at_once_and_heals_when_its_cause_is_gone() {
    let host = host();
    let volume = host.volume("cause");
    let cause = volume.join("broken");
    std::fs::write(&cause, "").unwrap();
    let manifest = format!(
        "env = {{ BROKEN = {:?} }}\n[sandbox]\nwrite = [{:?}]\n[scale]\nmin = 2\nmax = 2\n",
        cause.to_str().unwrap(),
        volume.to_str().unwrap()
    );
    host.deploy("looping", "sour", &manifest);
    let refused = host.wait_for("/looping/", "to fail", |answer| {
        answer.status() == 503 && host.entry("looping").unwrap().state.as_deref() == Some("failed")
    });
    let seconds = |answer: &Response| {
        answer
            .header("retry-after")
            .and_then(|after| after.parse::<u32>().ok())
    };
    assert!(
        seconds(&refused).is_some_and(|seconds| seconds > 1),
        "{refused:?}"
    );
    assert!(
        refused.text().contains("exited with code 5"),
        "{}",
        refused.text()
    );
    assert_eq!(counter(&host, "funcd_gave_up_total", &["\"looping\""]), 1.0);
    assert!(host.log().contains("ALERT: failed"), "{}", host.log_tail());
    std::fs::remove_file(&cause).unwrap();
    // It waits for half a minute, and says how much of it is left.
    host.wait_for("/looping/", "half of it to be over", |answer| {
        answer.status() == 200 || seconds(answer).is_some_and(|seconds| seconds <= 16)
    });
    eventually("it to run again without a request", || {
        match host.instances("looping") {
            rows if rows.len() == 2 && rows.iter().all(|row| row.state == "ready") => Ok(()),
            rows => Err(format!("{rows:?}")),
        }
    });
    host.get_ok("/looping/");
    assert!(
        host.log().contains("recovered: one got ready again"),
        "{}",
        host.log_tail()
    );
}
