//! From nothing to the first answer, through crashes, to the end: what instances do and what `ps` says of it.

use std::sync::Arc;

use funcd_tests::host::Host;
use funcd_tests::http::Request;
use funcd_tests::need::Need;
use funcd_tests::process::zombies_of;
use funcd_tests::suite::Suite;
use funcd_tests::{eventually, until};
use nix::sys::signal::Signal;

pub(crate) fn register(suite: &mut Suite) {
    funcd_tests::tests!(suite, "lifecycle", [
        the_first_request_starts_it,
        requests_at_once_share_the_start,
        idle_instances_stop,
        an_instance_that_ended_uses_nothing_in_the_metrics: &[Need::Property("pid-limit")],
        a_minimum_of_one_runs_before_any_request,
        a_server_of_one_connection_at_a_time_gets_ready_under_requests,
        a_crash_is_followed_by_a_new_instance,
        ps_says_which_code_it_exited_with,
        ps_says_which_signal_killed_it,
        out_of_memory_is_named: &[Need::Property("memory-limit")],
        a_crash_in_the_middle_of_a_response_is_seen,
        a_crash_loop_is_refused_at_once_with_retry_after,
        a_repaired_crash_loop_answers_again,
        killed_from_outside_it_comes_back,
        it_is_warmed_up_before_callers_ask,
        a_slow_start_times_out_and_says_so,
        who_ignores_sigterm_is_killed: &[Need::Property("total-kill")],
        daemons_do_not_outlive_it: &[Need::Property("total-kill")],
        no_zombies_after_many_crashes,
    ]);
}

fn host() -> Arc<Host> {
    Host::shared("lifecycle", |_| {})
}

fn the_first_request_starts_it() {
    let host = host();
    host.deploy("first", "hello", "");
    assert_eq!(host.instances("first"), []);
    let row = host
        .ps()
        .into_iter()
        .find(|row| row.function == "first")
        .expect("ps shows idle functions");
    assert_eq!(row.state, "idle");
    assert_eq!(
        host.get("/first/").status(),
        200,
        "the very first request is answered"
    );
    let process = host.instance("first");
    until("ps to show it as ready", || {
        host.instances("first")
            .iter()
            .all(|instance| instance.state == "ready")
    });
    assert!(
        host.launcher().descendants().contains(&process),
        "the launcher is its ancestor"
    );
}

fn requests_at_once_share_the_start() {
    let host = host();
    host.deploy("rush", "slow", "env = { START_MS = \"300\" }\n");
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let host = Arc::clone(&host);
            std::thread::spawn(move || host.get("/rush/?ms=1").status())
        })
        .collect();
    let answers: Vec<u16> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
    assert_eq!(answers, [200; 8]);
}

fn idle_instances_stop() {
    let host = host();
    host.deploy("idler", "crash", "[scale]\nidle = \"1s\"\n");
    let first = host.get_ok("/idler/").text();
    let process = host.instance("idler");
    until("the idle instance to stop", || !process.is_there());
    host.wait_idle("idler");
    assert_eq!(host.get("/idler/").status(), 200, "after {first}");
    assert_ne!(host.instance("idler"), process);
}

fn an_instance_that_ended_uses_nothing_in_the_metrics() {
    let host = host();
    host.deploy("brief", "hello", "[scale]\nidle = \"6s\"\n");
    host.get_ok("/brief/");
    let pids = || {
        let metrics = host.admin_get("/metrics").text();
        let line = |line: &&str| line.starts_with("funcd_cgroup_pids{") && line.contains("\"brief\"");
        let line = metrics.lines().find(line)?;
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    until("a survey to count it", || pids().is_some_and(|pids| pids > 0.0));
    host.wait_idle("brief");
    until("nothing to be left of it", || pids() == Some(0.0));
}

fn a_minimum_of_one_runs_before_any_request() {
    let host = host();
    host.deploy("eager", "hello", "[scale]\nmin = 1\n");
    until("an instance without a request", || {
        !host.instances("eager").is_empty()
    });
    let process = host.instance("eager");
    process.signal(Signal::SIGKILL);
    eventually("another instance", || match host.instances("eager").as_slice() {
        [one] if one.pid != Some(process.pid) => Ok(()),
        others => Err(format!("{others:?}")),
    });
}

/// The probe of readiness came first, and the request behind it never.
fn a_server_of_one_connection_at_a_time_gets_ready_under_requests() {
    let host = host();
    let manifest = "env = { START_MS = \"300\" }\n[scale]\nmin = 1\nmax = 1\n";
    host.deploy("single", "attack", manifest);
    host.get_ok("/single/");
    assert_eq!(host.get_ok("/single/").text(), host.get_ok("/single/").text());
    let row = host.ps().into_iter().find(|row| row.function == "single");
    assert_eq!(row.unwrap().last_exit, None, "the first instance answered");
}

fn a_crash_is_followed_by_a_new_instance() {
    let host = host();
    host.deploy("crasher", "crash", "");
    host.get_ok("/crasher/");
    let first = host.instance("crasher");
    let answer = host.ask(&Request::post("/crasher/?code=3", "x"));
    assert_eq!(
        answer.status(),
        502,
        "a POST that killed it is not tried again: {}",
        answer.text()
    );
    let problem = answer.json();
    assert_eq!(problem["status"], 502, "{problem}");
    host.wait_for("/crasher/", "200", |answer| answer.status() == 200);
    assert_ne!(host.instance("crasher"), first);
}

fn ps_says_which_code_it_exited_with() {
    let host = host();
    host.deploy("coder", "crash", "");
    host.ask(&Request::post("/coder/?code=42", ""));
    let message = host.wait_exit("coder", "code");
    assert!(message.contains("42"), "{message}");
}

fn ps_says_which_signal_killed_it() {
    let host = host();
    host.deploy("signaller", "crash", "");
    host.ask(&Request::post("/signaller/?signal=6", ""));
    let message = host.wait_exit("signaller", "signal");
    assert!(message.contains("SIGABRT"), "{message}");
}

fn out_of_memory_is_named() {
    let host = host();
    host.deploy("hog", "hog", "[limits]\nmemory = \"64M\"\n");
    host.deploy("hog-neighbour", "hello", "");
    host.get_ok("/hog-neighbour/");
    let neighbour = host.instance("hog-neighbour");
    let answer = host.ask(&Request::post("/hog/memory?mb=512", ""));
    assert_eq!(answer.status(), 502, "{}", answer.text());
    host.wait_exit("hog", "oom");
    host.get_ok("/hog-neighbour/");
    assert_eq!(
        host.instance("hog-neighbour"),
        neighbour,
        "the neighbour did not notice"
    );
    host.wait_for("/hog/", "200 from a new instance", |answer| {
        answer.status() == 200
    });
}

fn a_crash_in_the_middle_of_a_response_is_seen() {
    let host = host();
    host.deploy("halver", "crash", "");
    let mut caller = host.connect();
    let broken = caller.ask(&Request::get("/halver/half"));
    assert!(
        broken.is_err(),
        "the caller must see that it broke off: {broken:?}"
    );
    host.wait_exit("halver", "code");
}

fn a_crash_loop_is_refused_at_once_with_retry_after() {
    let host = host();
    host.deploy("looper", "crash", "env = { CRASH = \"start\" }\n");
    let answer = host.wait_for("/looper/", "503", |answer| answer.status() == 503);
    let after = answer
        .header("retry-after")
        .expect("a 503 says when to try again");
    assert!(
        after
            .parse::<u32>()
            .is_ok_and(|seconds| (1..=62).contains(&seconds)),
        "{after}"
    );
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert!(
        answer
            .header("proxy-status")
            .is_some_and(|status| status.contains("destination_unavailable")),
        "{answer:?}"
    );
    let state = host.entry("looper").unwrap().state.unwrap();
    assert!(
        ["backoff", "failed", "starting"].contains(&state.as_str()),
        "{state}"
    );
    host.wait_exit("looper", "code");
    // Asked again and again it fails for good, and says so.
    eventually("the function to be failed", || {
        host.get("/looper/");
        match host.entry("looper").and_then(|entry| entry.state).as_deref() {
            Some("failed") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let answer = host.get("/looper/");
    assert_eq!(answer.status(), 503, "{}", answer.text());
}

fn a_repaired_crash_loop_answers_again() {
    let host = host();
    host.deploy("repaired", "crash", "env = { CRASH = \"start\" }\n");
    host.wait_for("/repaired/", "503", |answer| answer.status() == 503);
    host.drop_folder(
        "repaired",
        &funcd_tests::artifacts::example("crash"),
        "env = { CRASH = \"no\" }\n",
    );
    host.wait_for("/repaired/", "200 with the next revision", |answer| {
        answer.status() == 200
    });
}

fn killed_from_outside_it_comes_back() {
    let host = host();
    host.deploy("victim", "hello", "");
    host.get_ok("/victim/");
    let process = host.instance("victim");
    process.signal(Signal::SIGKILL);
    host.wait_exit("victim", "signal");
    host.wait_for("/victim/", "200", |answer| answer.status() == 200);
    assert_ne!(host.instance("victim"), process);
}

fn it_is_warmed_up_before_callers_ask() {
    let host = host();
    host.deploy("cold", "slow", "");
    assert_eq!(host.get_ok("/cold/asked").text(), "0\n");
    host.deploy("warm", "slow", "[health]\nwarmup = [\"/\", \"/a\"]\n");
    assert_eq!(host.get_ok("/warm/asked").text(), "2\n");
}

fn a_slow_start_times_out_and_says_so() {
    let host = host();
    // No request is answered before it is ready, and it is not ready before it answers this path.
    let manifest =
        "env = { START_MS = \"600000\" }\n[health]\npath = \"/healthz\"\nready_within = \"500ms\"\n";
    host.deploy("sleeper", "slow", manifest);
    let answer = host.get("/sleeper/?ms=1");
    assert!(
        [503, 504].contains(&answer.status()),
        "{} {}",
        answer.status(),
        answer.text()
    );
    host.wait_exit("sleeper", "start-timeout");
}

fn who_ignores_sigterm_is_killed() {
    let host = host();
    host.deploy("deaf", "deaf", "[health]\nstop_within = \"500ms\"\n");
    host.get_ok("/deaf/");
    let process = host.instance("deaf");
    host.remove("deaf");
    until("the deaf instance to be killed", || !process.is_there());
}

fn daemons_do_not_outlive_it() {
    let host = host();
    host.deploy("daemon", "daemon", "");
    host.get_ok("/daemon/");
    let main = host.instance("daemon");
    let before = main.companions();
    host.get_ok("/daemon/daemonise");
    let mut daemons = main.companions();
    daemons.retain(|process| !before.contains(process));
    assert!(!daemons.is_empty(), "the daemon should be seen from outside");
    host.remove("daemon");
    until("the daemon to be gone", || {
        !main.is_there() && daemons.iter().all(|daemon| !daemon.is_there())
    });
}

fn no_zombies_after_many_crashes() {
    let host = Host::start();
    host.deploy("mayfly", "crash", "");
    for n in 0..10 {
        // Each another one: one of which two died would be refused.
        host.ask(&Request::post(&format!("/mayfly/?code=1&n={n}"), ""));
    }
    until("every dead process to be reaped", || {
        zombies_of(host.launcher()).is_empty() && zombies_of(&host.supervisor()).is_empty()
    });
}
