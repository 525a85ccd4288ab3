//! The next start of an idle function is prepared: what callers and operators see of that, and what they must not.

use funcd_tests::host::{Host, Plan};
use funcd_tests::need::Need;
use funcd_tests::process::Process;
use funcd_tests::suite::Suite;
use funcd_tests::{eventually, until};
use nix::sys::signal::Signal;

pub(crate) fn register(suite: &mut Suite) {
    const STANDBY: &[Need] = &[Need::Standby];
    funcd_tests::tests!(suite, "standby", [
        the_prepared_process_is_the_one_that_answers: STANDBY,
        it_is_prepared_again_when_the_function_comes_to_rest: STANDBY,
        it_is_no_instance_yet: STANDBY,
        a_prepared_process_that_is_killed_costs_no_answer: STANDBY,
        one_of_an_older_revision_never_answers: STANDBY,
        a_removed_function_leaves_none: STANDBY,
        a_new_supervisor_prepares_its_own: STANDBY,
        there_are_never_more_than_was_said: STANDBY,
        none_is_prepared_when_that_was_said,
    ]);
}

/// The processes of a host that wait right before exec.
fn waiting(host: &Host) -> Vec<Process> {
    let all = host.launcher().descendants();
    all.into_iter()
        .filter(|process| process.name() == "funcd-standby")
        .collect()
}

#[track_caller]
fn the_one(host: &Host) -> Process {
    eventually("one prepared process", || {
        match <[_; 1]>::try_from(waiting(host)) {
            Ok([one]) if is_known(host) => Ok(one),
            Ok(_) => Err("the host does not know of it yet".to_owned()),
            Err(others) => Err(format!("{others:?}\n{}", host.log_tail())),
        }
    })
}

/// Whether some function has its next start prepared, as far as the host knows.
fn is_known(host: &Host) -> bool {
    let ls = host.json(&["ls"]).unwrap_or_default();
    let mut entries = ls["functions"].as_array().into_iter().flatten();
    entries.any(|entry| entry["function"]["standby"] == true)
}

fn the_prepared_process_is_the_one_that_answers() {
    let host = Host::start();
    host.deploy("one", "hello", "");
    let prepared = the_one(&host);
    host.get_ok("/one/");
    assert_eq!(host.instance("one"), prepared);
    assert_eq!(waiting(&host), []);
    assert_ne!(prepared.name(), "funcd-standby");
}

fn it_is_prepared_again_when_the_function_comes_to_rest() {
    let host = Host::start();
    host.deploy("one", "hello", "[scale]\nidle = \"10ms\"\n");
    let mut before = Vec::new();
    for _ in 0..5 {
        let prepared = the_one(&host);
        assert!(!before.contains(&prepared));
        host.get_ok("/one/");
        host.wait_idle("one");
        before.push(prepared);
    }
}

fn it_is_no_instance_yet() {
    let host = Host::start();
    host.deploy("one", "hello", "");
    the_one(&host);
    let row = host.ps().into_iter().find(|row| row.function == "one").unwrap();
    assert_eq!((row.state.as_str(), row.pid), ("idle", None));
    until("the metric to count it", || {
        let metrics = host.admin_get("/metrics").text();
        metrics
            .lines()
            .any(|line| line == "funcd_instances{state=\"standby\"} 1")
    });
}

fn a_prepared_process_that_is_killed_costs_no_answer() {
    let host = Host::start();
    host.deploy("one", "hello", "");
    let prepared = the_one(&host);
    prepared.signal(Signal::SIGKILL);
    // At once, and whatever the host knows of it by now.
    host.get_ok("/one/");
    assert_ne!(host.instance("one"), prepared);
    // Held still, it can't execute when it is told; killed then, its request goes to the next one.
    host.deploy("two", "hello", "");
    let prepared = the_one(&host);
    prepared.signal(Signal::SIGSTOP);
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| host.get("/two/").status());
        until("a start to be under way", || {
            host.ps()
                .iter()
                .any(|row| row.function == "two" && row.state == "starting")
        });
        prepared.signal(Signal::SIGKILL);
        assert_eq!(caller.join().unwrap(), 200);
    });
    assert_ne!(host.instance("two"), prepared);
}

fn one_of_an_older_revision_never_answers() {
    let host = Host::start();
    host.deploy("one", "echo", "env = { WHICH = \"old\" }\n");
    let old = the_one(&host);
    host.deploy("one", "echo", "env = { WHICH = \"new\" }\n");
    until("the old one to be gone", || !old.is_there());
    let facts = host.get_ok("/one/facts").json();
    let env = facts["env"].as_array().unwrap();
    assert!(env.contains(&"WHICH=new".into()), "{env:?}");
}

fn a_removed_function_leaves_none() {
    let host = Host::start();
    host.deploy("one", "hello", "");
    let prepared = the_one(&host);
    host.remove("one");
    until("it to be gone", || !prepared.is_there());
    assert_eq!(waiting(&host), []);
}

fn a_new_supervisor_prepares_its_own() {
    let host = Host::start();
    host.deploy("one", "hello", "");
    let (prepared, supervisor) = (the_one(&host), host.supervisor());
    supervisor.signal(Signal::SIGKILL);
    until("it to be gone with its supervisor", || !prepared.is_there());
    let next = the_one(&host);
    host.get_ok("/one/");
    assert_eq!(host.instance("one"), next);
}

fn there_are_never_more_than_was_said() {
    let host = Plan::new().variable("FUNCD_STANDBYS", "2").start();
    let names = ["a", "b", "c", "d"];
    for name in names {
        host.deploy(name, "hello", "[scale]\nidle = \"10ms\"\n");
    }
    until("two to be prepared", || waiting(&host).len() == 2);
    for name in names.into_iter().cycle().take(12) {
        host.get_ok(&format!("/{name}/"));
        host.wait_idle(name);
        // Whose place was taken has been killed, and may take a moment to be gone.
        until("no more than two to wait", || waiting(&host).len() <= 2);
        // Use has a place made for it.
        let latest = |process: &Process| process.uid() == host_uid(&host, name);
        until("the one just used to be prepared", || {
            waiting(&host).iter().any(latest)
        });
    }
}

/// The uid that a function runs as: what its last instance had.
fn host_uid(host: &Host, name: &str) -> Option<u32> {
    let uids = std::fs::read_to_string(host.path().join("state/uids")).unwrap();
    let line = uids.lines().find(|line| line.contains(name)).unwrap();
    line.split(|c: char| !c.is_ascii_digit())
        .find_map(|word| word.parse().ok())
}

fn none_is_prepared_when_that_was_said() {
    let host = Plan::new().variable("FUNCD_STANDBYS", "0").start();
    host.deploy("one", "hello", "[scale]\nidle = \"10ms\"\n");
    for _ in 0..2 {
        host.get_ok("/one/");
        host.wait_idle("one");
        assert_eq!(waiting(&host), []);
    }
}
