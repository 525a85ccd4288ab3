//! How many instances there are, and what becomes of those that nobody asks: they freeze, go on, stop.

use std::sync::Arc;

use funcd_tests::host::Host;
use funcd_tests::need::Need;
use funcd_tests::process::Process;
use funcd_tests::suite::Suite;
use funcd_tests::{eventually, until};
use nix::sys::signal::Signal;

pub(crate) fn register(suite: &mut Suite) {
    const FREEZER: &[Need] = &[Need::Freezer];
    funcd_tests::tests!(suite, "scale", [
        places_that_are_nearly_full_bring_another,
        requests_without_a_place_bring_as_many_as_they_need,
        bulk_gets_the_cpu_that_nobody_wants: &[Need::Property("cpu-limit")],
        a_frozen_spinner_takes_no_cpu_and_the_next_request_is_answered: FREEZER,
        a_frozen_one_is_drained_by_sigterm: FREEZER,
        a_frozen_one_that_is_killed_comes_back: FREEZER,
        a_frozen_one_outlives_the_supervisor: FREEZER,
        a_frozen_one_stops_when_it_is_idle_for_long: FREEZER,
        the_first_answer_of_a_frozen_one: FREEZER,
        frozen_and_asked_again_and_again_no_answer_is_lost: FREEZER,
        a_host_ends_with_what_is_frozen: FREEZER,
    ]);
}

fn host() -> Arc<Host> {
    Host::shared("scale", |_| {})
}

/// Keeps so many requests under way until told to stop.
fn with_load(host: &Arc<Host>, target: &'static str, requests: usize, act: impl FnOnce()) {
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..requests)
            .map(|_| scope.spawn(|| host.get(target).status()))
            .collect();
        act();
        for caller in callers {
            assert_eq!(caller.join().unwrap(), 200);
        }
    });
}

fn places_that_are_nearly_full_bring_another() {
    let host = host();
    host.deploy("busy", "slow", "[scale]\nconcurrency = 10\nmax = 3\n");
    // The first is there, so that none of them waits for a place.
    host.get_ok("/busy/?ms=1");
    with_load(&host, "/busy/?ms=12000", 9, || {
        until("a second instance", || host.instances("busy").len() == 2);
    });
}

fn requests_without_a_place_bring_as_many_as_they_need() {
    let host = host();
    host.deploy("crowd", "slow", "[scale]\nconcurrency = 1\nmax = 4\n");
    with_load(&host, "/crowd/?ms=1000", 4, || {
        until("four instances", || host.instances("crowd").len() == 4);
    });
    assert!(host.instances("crowd").len() <= 4);
}

/// What the scheduler knows of a process's cgroup: whether it only gets what is left.
fn is_idle(process: &Process) -> bool {
    let places = process.cgroup_folders();
    let told: Vec<String> = places
        .iter()
        .filter_map(|dir| {
            // Before Linux 5.15 the least weight comes nearest.
            let read = |file| std::fs::read_to_string(dir.join(file)).ok();
            read("cpu.idle").or_else(|| {
                let weight = read("cpu.weight").or_else(|| read("cpu.shares"))?;
                Some(u8::from(["1", "2"].contains(&weight.trim())).to_string())
            })
        })
        .collect();
    assert!(!told.is_empty(), "no cpu controller in {places:?}");
    told.iter().any(|idle| idle.trim() == "1")
}

fn bulk_gets_the_cpu_that_nobody_wants() {
    let host = host();
    let explained = |name: &str| {
        let out = host.funcd(&["explain-sandbox", name]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    for (name, manifest, idle) in [
        ("crawler", "[request]\npriority = \"bulk\"\n", true),
        ("shop", "", false),
    ] {
        host.deploy(name, "slow", manifest);
        host.get_ok(&format!("/{name}/?ms=1"));
        assert_eq!(is_idle(&host.instance(name)), idle, "{name}");
        let text = explained(name);
        assert_eq!(text.contains("only what no other function wants"), idle, "{text}");
    }
}

#[track_caller]
fn wait_state(host: &Host, function: &str, state: &str) {
    eventually(&format!("{function} to be {state}"), || {
        match host.try_ps()?.iter().find(|row| row.function == function) {
            Some(row) if row.state == state => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// Deploys a function that is asked once and then frozen: its process.
#[track_caller]
fn frozen(host: &Host, name: &str, manifest: &str) -> Process {
    host.deploy(
        name,
        "hog",
        &format!("{manifest}[scale]\nfreeze = \"300ms\"\nidle = \"1h\"\n"),
    );
    host.get_ok(&format!("/{name}/spin"));
    let process = host.instance(name);
    wait_state(host, name, "frozen");
    process
}

fn a_frozen_spinner_takes_no_cpu_and_the_next_request_is_answered() {
    let host = host();
    // The control: the same, never frozen.
    host.deploy("spins-on", "hog", "");
    host.get_ok("/spins-on/spin");
    let control = host.instance("spins-on");
    let process = frozen(&host, "spinner", "");
    let metrics = host.admin_get("/metrics").text();
    assert!(metrics.contains("funcd_instances{state=\"frozen\"}"), "{metrics}");
    eventually("it to stand still while the other one spins", || {
        let (own, other) = (process.cpu_ticks(), control.cpu_ticks());
        until("the other one to spin", || control.cpu_ticks() >= other + 20);
        match process.cpu_ticks() - own {
            0 => Ok(()),
            ticks => Err(format!("{ticks} ticks")),
        }
    });
    let before = process.cpu_ticks();
    assert_eq!(host.get_ok("/spinner/").text(), "ok\n");
    assert_eq!(host.instance("spinner"), process, "the same process goes on");
    until("it to spin again", || process.cpu_ticks() > before);
    wait_state(&host, "spinner", "frozen");
    host.remove("spins-on");
    host.remove("spinner");
}

fn a_frozen_one_is_drained_by_sigterm() {
    let host = host();
    // Only SIGTERM can end it in time.
    let process = frozen(&host, "drained", "health = { stop_within = \"1h\" }\n");
    host.remove("drained");
    until("it to have stopped", || !process.is_there());
}

fn a_frozen_one_that_is_killed_comes_back() {
    let host = host();
    let process = frozen(&host, "shot", "");
    process.signal(Signal::SIGKILL);
    host.wait_exit("shot", "signal");
    host.get_ok("/shot/");
    assert_ne!(host.instance("shot"), process);
    host.remove("shot");
}

fn a_frozen_one_outlives_the_supervisor() {
    let host = Host::start();
    let process = frozen(&host, "lasting", "");
    let supervisor = host.supervisor();
    supervisor.signal(Signal::SIGKILL);
    until("the supervisor to be gone", || !supervisor.is_there());
    wait_state(&host, "lasting", "frozen");
    let before = process.cpu_ticks();
    host.get_ok("/lasting/");
    assert_eq!(host.instance("lasting"), process);
    until("it to go on", || process.cpu_ticks() > before);
}

fn a_frozen_one_stops_when_it_is_idle_for_long() {
    let host = host();
    host.deploy("leaves", "hog", "[scale]\nfreeze = \"200ms\"\nidle = \"2s\"\n");
    host.get_ok("/leaves/");
    let process = host.instance("leaves");
    wait_state(&host, "leaves", "frozen");
    until("it to stop", || !process.is_there());
    host.wait_idle("leaves");
    host.get_ok("/leaves/");
}

/// Not a promise of a time, as machines are shared; printed for SPECIFICATION.md.
fn the_first_answer_of_a_frozen_one() {
    let host = host();
    let manifest = "[scale]\nfreeze = \"20ms\"\nidle = \"1h\"\n";
    host.deploy("thawed", "hello", manifest);
    host.deploy("awake", "hello", "");
    let mut caller = host.connect();
    let mut median_of = |function: &str, ready: &dyn Fn()| {
        let request = funcd_tests::http::Request::get(&format!("/{function}/"));
        assert_eq!(caller.ask(&request).unwrap().status(), 200);
        let mut times: Vec<_> = (0..30)
            .map(|_| {
                ready();
                let began = std::time::Instant::now();
                assert_eq!(caller.ask(&request).unwrap().status(), 200);
                began.elapsed()
            })
            .collect();
        times.sort();
        times[times.len() / 2]
    };
    let awake = median_of("awake", &|| {});
    let frozen = median_of("thawed", &|| wait_state(&host, "thawed", "frozen"));
    println!("a request to an instance that is ready takes {awake:?}, to one that is frozen {frozen:?}");
}

/// Requests that come at about the moment in which it freezes.
fn frozen_and_asked_again_and_again_no_answer_is_lost() {
    let host = host();
    host.deploy("twitch", "hello", "[scale]\nfreeze = \"1ms\"\nidle = \"1h\"\n");
    let mut caller = host.connect();
    for pause in 0..400_u64 {
        let answer = caller.ask(&funcd_tests::http::Request::get("/twitch/")).unwrap();
        assert_eq!(answer.status(), 200);
        // Not waited for anything: the moment is what is tried.
        let until = std::time::Instant::now() + std::time::Duration::from_micros(pause * 10);
        while std::time::Instant::now() < until {
            std::hint::spin_loop();
        }
    }
    assert_eq!(host.instances("twitch").len(), 1);
}

fn a_host_ends_with_what_is_frozen() {
    let host = Host::start();
    let process = frozen(&host, "left", "health = { stop_within = \"1h\" }\n");
    host.signal(Signal::SIGTERM);
    until("it to be gone", || !process.is_there());
}
