//! Too much, too late, and instances that are killed: what callers see of it.

use std::sync::Arc;

use funcd_tests::host::Host;
use funcd_tests::http::Request;
use funcd_tests::load::Load;
use funcd_tests::need::Need;
use funcd_tests::process::Process;
use funcd_tests::suite::Suite;
use funcd_tests::{eventually, until};
use nix::sys::signal::Signal;

pub(crate) fn register(suite: &mut Suite) {
    funcd_tests::tests!(
        suite,
        "overload",
        [
            an_instance_is_killed_again_and_again_and_no_get_fails,
            who_can_not_be_served_in_time_is_told_at_once,
            a_costly_route_leaves_the_others_their_places,
            a_new_revision_is_not_held_up_by_what_the_old_one_still_does,
            the_answer_comes_within_the_time_that_its_caller_has,
            a_function_that_is_busy_is_limited_and_shown_so: &[Need::Property("cpu-limit")],
        ]
    );
}

fn host() -> Arc<Host> {
    Host::shared("overload", |_| {})
}

#[track_caller]
fn wait_in_flight(host: &Host, function: &str, count: u64) {
    eventually("its places to be taken", || {
        let document = host.json(&["ps", function])?;
        match document["instances"][0]["in_flight"] == count {
            true => Ok(()),
            false => Err(document.to_string()),
        }
    });
}

/// The pid of the first of them.
#[track_caller]
fn until_two_run(host: &Host) -> i32 {
    eventually("two instances to serve", || {
        let instances = host.instances("many");
        let ready = instances.iter().filter(|row| row.state == "ready");
        let pids = ready.filter_map(|row| row.pid);
        // One that has just ended is listed for a moment.
        let alive = |pid: &i32| Process::of(*pid).is_some_and(|process| process.is_alive());
        let pids: Vec<i32> = pids.filter(alive).collect();
        match pids.len() >= 2 {
            true => Ok(pids[0]),
            false => Err(format!("{instances:?}")),
        }
    })
}

fn an_instance_is_killed_again_and_again_and_no_get_fails() {
    let host = host();
    host.deploy("many", "slow", "[scale]\nmin = 3\nmax = 3\n");
    until("three instances", || host.instances("many").len() == 3);
    let load = Load::start(host.address(), "/many/?ms=20", 6);
    load.wait_for_more(200);
    for _ in 0..6 {
        // Those that are killed before they ran for long come back later each time: two have to serve, not three.
        let victim = until_two_run(&host);
        Process::of(victim)
            .expect("nobody else ends it")
            .signal(Signal::SIGKILL);
        load.wait_for_more(100);
    }
    let tally = load.stop();
    assert_eq!(tally.failures, [""; 0], "of {}", tally.answered);
    // The control: requests were under way there.
    let metrics = host.admin_get("/metrics").text();
    let sent = "funcd_request_retries_total{function=\"many\",result=\"sent\"} ";
    let sent = metrics.lines().find_map(|line| line.strip_prefix(sent));
    assert!(sent.is_some_and(|sent| sent != "0"), "{sent:?}");
}

fn who_can_not_be_served_in_time_is_told_at_once() {
    let host = host();
    host.deploy("one", "slow", "[scale]\nmax = 1\nconcurrency = 1\n");
    host.get_ok("/one/?ms=1");
    std::thread::scope(|scope| {
        let first = scope.spawn(|| host.get("/one/?ms=4000"));
        wait_in_flight(&host, "one", 1);
        let request = Request::get("/one/?ms=1").header("x-request-id", "shed-one");
        let shed = host.ask(&request.header("x-funcd-class", "bulk"));
        assert_eq!(shed.status(), 503);
        assert_eq!(shed.header("x-funcd-shed"), Some("waited"));
        let after: u64 = shed
            .header("retry-after")
            .expect("when to come back")
            .parse()
            .expect("seconds");
        assert!((10..=30).contains(&after), "bulk comes back late: {after}");
        assert_eq!(shed.json()["type"], "urn:funcd:error:waited");
        assert_eq!(first.join().expect("a caller").status(), 200);
    });
    let told = host.json(&["explain", "shed-one"]).expect("it is remembered");
    assert!(told.to_string().contains("\"outcome\":\"shed\""), "{told}");
    let metrics = host.admin_get("/metrics").text();
    let line = "funcd_requests_shed_total{function=\"one\",reason=\"waited\",class=\"bulk\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

fn a_costly_route_leaves_the_others_their_places() {
    let host = host();
    let manifest = |path, limit| {
        format!(
            "[[route]]\npath = \"{path}\"\n[[route]]\npath = \"{path}/report\"\n{limit}\n\
             [scale]\nmax = 1\nconcurrency = 4\n"
        )
    };
    host.deploy("shop", "slow", &manifest("/shop", "limit = 1"));
    host.get_ok("/shop/?ms=1");
    std::thread::scope(|scope| {
        let first = scope.spawn(|| host.get("/shop/report?ms=4000"));
        wait_in_flight(&host, "shop", 1);
        let request = Request::get("/shop/report?ms=1").header("x-request-id", "shed-route");
        let shed = host.ask(&request);
        assert_eq!(
            (shed.status(), shed.header("x-funcd-shed")),
            (503, Some("route-limit"))
        );
        assert!(shed.header("retry-after").is_some());
        host.get_ok("/shop/?ms=1");
        assert_eq!(first.join().expect("a caller").status(), 200);
    });
    // The place comes back when the host sees the end of the answer, a moment after its caller.
    host.wait_for("/shop/report?ms=1", "200", |answer| answer.status() == 200);
    let told = host
        .json(&["explain", "shed-route"])
        .expect("it is remembered")
        .to_string();
    assert!(
        told.contains("\"outcome\":\"shed\"") && told.contains("route-limit"),
        "{told}"
    );
    let metrics = host.admin_get("/metrics").text();
    let line = "funcd_requests_shed_total{function=\"shop\",reason=\"route-limit\",class=\"degraded\"} ";
    assert!(metrics.contains(line), "{metrics}");
    // The control: without the limit both are answered.
    host.deploy("free", "slow", &manifest("/free", ""));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| host.get("/free/report?ms=2000"));
        wait_in_flight(&host, "free", 1);
        host.get_ok("/free/report?ms=1");
        assert_eq!(first.join().expect("a caller").status(), 200);
    });
}

fn a_new_revision_is_not_held_up_by_what_the_old_one_still_does() {
    let host = host();
    let manifest = |n| format!("env = {{ N = \"{n}\" }}\n[scale]\nmax = 1\nconcurrency = 2\n");
    host.deploy("moves", "slow", &manifest(1));
    let old = host.get_ok("/moves/?ms=1");
    drop(old);
    let before = host.instance("moves");
    std::thread::scope(|scope| {
        let long: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| host.get("/moves/?ms=8000")))
            .collect();
        wait_in_flight(&host, "moves", 2);
        host.deploy("moves", "slow", &manifest(2));
        until("the new one to serve", || {
            let serves = |row: &funcd_tests::operate::Instance| {
                row.state == "ready" && row.pid.is_some_and(|pid| pid != before.pid)
            };
            host.instances("moves").iter().any(serves)
        });
        // Both places of the old one are taken still.
        host.get_ok("/moves/?ms=1");
        assert!(before.is_there(), "the old one finishes what it has");
        for long in long {
            assert_eq!(long.join().expect("a caller").status(), 200);
        }
    });
}

fn the_answer_comes_within_the_time_that_its_caller_has() {
    let host = host();
    host.deploy("late", "slow", "");
    host.get_ok("/late/?ms=1");
    let late = host.ask(&Request::get("/late/?ms=15000").header("x-request-timeout-ms", "300"));
    assert_eq!(
        (late.status(), &late.json()["type"]),
        (504, &"urn:funcd:error:response-timeout".into())
    );
    let never = host.ask(&Request::get("/late/?ms=1").header("x-request-timeout-ms", "0"));
    assert_eq!(
        (never.status(), never.header("x-funcd-shed")),
        (503, Some("deadline"))
    );
    // More than the manifest allows says nothing.
    let fine = host.ask(&Request::get("/late/?ms=1").header("x-request-timeout-ms", "9999999999"));
    assert_eq!(fine.status(), 200);
}

fn a_function_that_is_busy_is_limited_and_shown_so() {
    let host = host();
    host.deploy("asked", "hello", "[scale]\nmax = 1\n");
    let load = Load::start(host.address(), "/asked/", 2);
    load.wait_for_more(100);
    eventually("funcd ps to show what admission knows", || {
        let document = host.json(&["ps", "asked"])?;
        let admission = &document["instances"][0]["admission"];
        let known = admission["limit"]
            .as_u64()
            .is_some_and(|limit| (1..=64).contains(&limit));
        match known && admission["p50_micros"].as_u64().is_some_and(|p50| p50 > 0) {
            true => Ok(()),
            false => Err(document.to_string()),
        }
    });
    // One that waits for something else than CPU is known to.
    host.deploy("waits", "slow", "");
    let waits = Load::start(host.address(), "/waits/?ms=20", 2);
    eventually("its CPU to be seen to be idle", || {
        let document = host.json(&["ps", "waits"])?;
        match document["instances"][0]["admission"]["saturated"].as_bool() {
            Some(false) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(waits.stop().failures, [""; 0]);
    eventually("the metrics to", || {
        let metrics = host.admin_get("/metrics").text();
        let limit = "funcd_concurrency_limit{function=\"asked\"} ";
        let value = metrics.lines().find_map(|line| line.strip_prefix(limit));
        match value.and_then(|value| value.parse::<f64>().ok()) {
            Some(limit) if limit >= 1.0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(load.stop().failures, [""; 0]);
}
