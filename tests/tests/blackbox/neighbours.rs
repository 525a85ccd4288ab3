//! Functions that misbehave, each beside a victim that is asked all the time: the victim sees no error, and what the other one
//! takes is bounded. And the host itself: what it holds back when it is short of something. Judges no times.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Instant;

use funcd_tests::host::{Host, Plan};
use funcd_tests::http::{Connection, Request};
use funcd_tests::load::Load;
use funcd_tests::need::Need;
use funcd_tests::process::Process;
use funcd_tests::suite::Suite;
use funcd_tests::{eventually, until};
use serde_json::Value;

pub(crate) fn register(suite: &mut Suite) {
    funcd_tests::tests!(suite, "neighbours", [
        who_spins_gets_its_share_and_no_more: &[Need::Property("cpu-limit")],
        a_fork_bomb_ends_at_its_limit: &[Need::Property("pid-limit")],
        a_memory_bomb_ends_alone: &[Need::Property("memory-limit")],
        who_leaks_descriptors_runs_out_of_its_own,
        a_flood_of_logs_is_cut,
        a_flood_of_requests_is_refused,
        a_crash_loop_is_slowed_down,
        readers_that_do_not_read_hold_little,
        writers_that_do_not_write_are_waited_for_alone,
        a_host_that_is_short_of_descriptors_holds_back_and_recovers: &[Need::Program("prlimit")],
        a_host_that_is_merely_busy_holds_back_nothing,
        callers_do_not_get_the_last_descriptors: &[Need::Program("prlimit")],
    ]);
}

/// How many answers the victim gets before, during and after.
const ANSWERS: usize = 60;

fn host() -> Arc<Host> {
    Host::shared("neighbours", |host| {
        host.deploy(
            "victim",
            "hello",
            "scale = { min = 1, max = 1, concurrency = 50 }\n",
        );
        host.get_ok("/victim/");
    })
}

/// Does it while the victim is asked, which must notice nothing.
#[track_caller]
fn beside_a_victim<T>(host: &Host, act: impl FnOnce() -> T) -> T {
    let victim = host.instance("victim");
    let load = Load::start(host.address(), "/victim/", 2);
    load.wait_for_more(ANSWERS);
    let came = act();
    load.wait_for_more(ANSWERS);
    let tally = load.stop();
    assert_eq!(tally.failures, [""; 0], "the victim noticed\n{}", host.log_tail());
    assert_eq!(host.instance("victim"), victim, "the victim is the same process");
    came
}

/// Waits until the victim was served for a while.
fn victim_is_served(host: &Host) {
    let load = Load::start(host.address(), "/victim/", 1);
    load.wait_for_more(ANSWERS);
    assert_eq!(load.stop().failures, [""; 0]);
}

fn who_spins_gets_its_share_and_no_more() {
    let host = host();
    host.deploy(
        "spinner",
        "hog",
        "limits = { cpu = 0.25 }\nscale = { idle = \"1h\" }\n",
    );
    beside_a_victim(&host, || {
        for _ in 0..4 {
            host.get_ok("/spinner/spin");
        }
        let process = host.instance("spinner");
        let (began, before) = (Instant::now(), process.cpu_ticks());
        let ticks = || process.cpu_ticks() - before;
        until("it to have spun for half a second", || ticks() >= 50);
        // What it takes of a quarter of a core, and what it may have saved: the control is `scale`'s spinner without a limit.
        let share = began.elapsed().as_secs_f64() * 25.0;
        let ticks = ticks();
        assert!(
            ticks as f64 <= share * 1.2 + 15.0,
            "{ticks} ticks, where {share} are its share"
        );
    });
    host.remove("spinner");
}

fn a_fork_bomb_ends_at_its_limit() {
    let host = host();
    host.deploy("bomb", "forkbomb", "limits = { pids = 40 }\n");
    let told = beside_a_victim(&host, || host.get_ok("/bomb/bomb").json());
    let forked = told["forked"].as_u64().unwrap();
    assert!((1..40).contains(&forked) && told["refused"] == "EAGAIN", "{told}");
    host.remove("bomb");
}

fn a_memory_bomb_ends_alone() {
    let host = host();
    host.deploy("eater", "hog", "limits = { memory = \"48M\" }\n");
    beside_a_victim(&host, || {
        for _ in 0..3 {
            let answer = host.get("/eater/memory?mb=200");
            assert!(answer.status() >= 500, "{}: it was not stopped", answer.status());
        }
        host.wait_exit("eater", "oom");
    });
    // The control: within its limit it may.
    host.wait_for("/eater/memory?mb=1", "200", |answer| answer.status() == 200);
    host.remove("eater");
}

fn who_leaks_descriptors_runs_out_of_its_own() {
    let host = host();
    host.deploy("leaker", "attack", "");
    let open = || {
        host.json(&["host"]).unwrap()["descriptors_open"]
            .as_u64()
            .unwrap()
    };
    let before = open();
    let said = beside_a_victim(&host, || host.get_ok("/leaker/descriptors?4000").text());
    assert!(said.contains("EMFILE after"), "{said}");
    assert!(
        open() <= before + 64,
        "{} of the supervisor, {before} before",
        open()
    );
    host.remove("leaker");
}

fn a_flood_of_logs_is_cut() {
    let host = host();
    host.deploy("shouter", "echo", "scale = { concurrency = 8 }\n");
    let line = "x".repeat(200) + "\n";
    let flood = line.repeat(4000);
    beside_a_victim(&host, || {
        for _ in 0..8 {
            let answer = host.ask(&Request::post("/shouter/log", flood.clone()));
            assert_eq!(answer.status(), 200);
        }
    });
    eventually("lines to be dropped", || {
        let metrics = host.admin_get("/metrics").text();
        let dropped = metrics
            .lines()
            .find(|line| line.starts_with("funcd_log_lines_dropped_total{function=\"shouter\"}"));
        dropped.map(|_| ()).ok_or(metrics)
    });
    host.remove("shouter");
}

fn a_flood_of_requests_is_refused() {
    let host = host();
    host.deploy("flooded", "slow", "scale = { max = 1, concurrency = 1 }\n");
    host.get_ok("/flooded/?ms=1");
    let refused = beside_a_victim(&host, || {
        let flood = Load::start(host.address(), "/flooded/?ms=100", 48);
        victim_is_served(&host);
        flood.stop().failures
    });
    let is_refusal = |failure: &&String| failure.starts_with("503");
    assert!(
        refused.iter().any(|failure| is_refusal(&failure)),
        "nobody was refused: {refused:?}"
    );
    assert!(refused.iter().all(|failure| is_refusal(&failure)), "{refused:?}");
    host.remove("flooded");
}

fn a_crash_loop_is_slowed_down() {
    let host = host();
    host.deploy("crasher", "crash", "env = { CRASH = \"start\" }\n");
    beside_a_victim(&host, || {
        eventually("it to be given up", || {
            let answer = host.get("/crasher/");
            assert!(answer.status() >= 500, "{}: it never starts", answer.status());
            match host.try_ps()?.iter().find(|row| row.function == "crasher") {
                Some(row) if row.state == "failed" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        // From now on nothing is started for anybody who asks.
        let exits = || {
            let metrics = host.admin_get("/metrics").text();
            let lines = metrics.lines();
            let own =
                lines.filter(|line| line.starts_with("funcd_instance_exits_total{function=\"crasher\""));
            own.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
                .sum::<u64>()
        };
        let before = exits();
        assert!(before >= 5, "{before} ends show no loop");
        for _ in 0..20 {
            assert_eq!(host.get("/crasher/").status(), 503);
        }
        assert!(exits() <= before + 1, "{} ends, {before} before", exits());
    });
    host.remove("crasher");
}

fn resident_kilobytes(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

fn readers_that_do_not_read_hold_little() {
    /// Callers, and what each asks for.
    const READERS: usize = 40;
    const MEGABYTES: u64 = 32;
    let host = host();
    host.deploy("pourer", "echo", "scale = { max = 1, concurrency = 64 }\n");
    host.get_ok("/pourer/");
    let supervisor = host.supervisor();
    let before = resident_kilobytes(&supervisor);
    beside_a_victim(&host, || {
        let readers: Vec<Connection> = (0..READERS)
            .map(|_| {
                let mut reader = host.connect();
                let target = format!("/pourer/bytes?n={}", MEGABYTES << 20);
                reader.send_head(&Request::get(&target)).unwrap();
                assert!(reader.line().unwrap().contains("200"));
                reader
            })
            .collect();
        victim_is_served(&host);
        let more = resident_kilobytes(&supervisor).saturating_sub(before);
        let asked = READERS as u64 * MEGABYTES * 1024;
        assert!(more < asked / 10, "{more} KiB more, where {asked} were asked for");
        drop(readers);
    });
    host.remove("pourer");
}

fn writers_that_do_not_write_are_waited_for_alone() {
    let host = host();
    host.deploy("counter", "echo", "scale = { max = 1, concurrency = 64 }\n");
    host.get_ok("/counter/");
    beside_a_victim(&host, || {
        let writers: Vec<Connection> = (0..40)
            .map(|_| {
                let mut writer = host.connect();
                writer
                    .write(b"POST /counter/count HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\nx")
                    .unwrap();
                writer
            })
            .collect();
        until("all of them to be under way", || {
            let ls = host.json(&["ls"]).unwrap_or_default();
            let functions = ls["functions"].as_array().into_iter().flatten();
            let mut own = functions.filter(|entry| entry["name"] == "counter");
            own.next()
                .is_some_and(|entry| entry["function"]["in_flight"].as_u64() >= Some(40))
        });
        victim_is_served(&host);
        // The control: the function has places left for who does write.
        assert_eq!(host.ask(&Request::post("/counter/count", "12345")).text(), "5");
        drop(writers);
    });
    host.remove("counter");
}

// The host itself.

/// What of its headers a function is told.
fn told(caller: &mut Connection) -> Option<String> {
    let request = Request::get("/awake/").header("x-funcd-brownout", "a caller's");
    let headers = caller.ask(&request).unwrap().json()["headers"].clone();
    let headers: Vec<(String, String)> = serde_json::from_value(headers).unwrap();
    let headers: BTreeMap<_, _> = headers.into_iter().collect();
    headers.get("x-funcd-brownout").cloned()
}

fn state_of(host: &Host) -> Value {
    host.json(&["host"]).unwrap()
}

fn a_host_that_is_short_of_descriptors_holds_back_and_recovers() {
    const LIMIT: u64 = 400;
    let host = Plan::new()
        .open_files(LIMIT)
        .arguments(&["--workers", "1"])
        .start();
    let few = "limits = { files = 64 }\n";
    let critical = "request = { priority = \"critical\" }\n";
    host.deploy(
        "awake",
        "echo",
        &format!("{few}{critical}scale = {{ idle = \"1h\" }}\n"),
    );
    host.deploy("idle", "hello", &format!("{few}scale = {{ idle = \"1h\" }}\n"));
    host.deploy(
        "kept",
        "hello",
        &format!("{few}scale = {{ min = 1, idle = \"1h\" }}\n"),
    );
    let many = "limits = { files = 300 }\nscale = { max = 1, concurrency = 300 }\n";
    host.deploy("slow", "slow", many);
    for target in ["/idle/", "/kept/", "/slow/?ms=1"] {
        host.get_ok(target);
    }
    let (idle, kept, supervisor) = (host.instance("idle"), host.instance("kept"), host.supervisor());
    let mut caller = host.connect();
    // The control: nothing is short yet.
    assert_eq!(told(&mut caller), None, "what a caller says is not passed on");
    let before = state_of(&host);
    assert_eq!(
        (&before["brownout"]["stage"], before["descriptors_limit"].as_u64()),
        (&Value::from("none"), Some(LIMIT))
    );

    // Each takes two: its own, and one to the instance. Nine of ten are taken then. Callers are held back earlier than that, so all of
    // them are in before any of them asks; and they ask in small groups, or some would be refused as a burst.
    let (mut open, mut counted) = (0, Value::Null);
    until("what is open to be counted twice alike", || {
        let state = state_of(&host);
        let is_new = state != counted;
        let now = state["descriptors_open"].as_u64().unwrap();
        let alike = is_new && now == open;
        (open, counted) = (now, state);
        alike
    });
    let missing = (LIMIT * 9 / 10 - open) / 2;
    let mut callers: Vec<Connection> = (0..missing).map(|_| host.connect()).collect();
    until("all callers to be in", || {
        state_of(&host)["descriptors_open"].as_u64().unwrap() >= open + missing
    });
    let mut asked = 0;
    for group in callers.chunks_mut(32) {
        for caller in group.iter_mut() {
            caller.send_head(&Request::get("/slow/?ms=60000")).unwrap();
        }
        asked += group.len();
        eventually("those to be in flight", || {
            let metrics = host.admin_get("/metrics").text();
            let line = format!("funcd_invocations_in_flight{{function=\"slow\"}} {asked}");
            match metrics.lines().any(|other| other == line) {
                true => Ok(()),
                false => Err(format!("{asked}: {}", state_of(&host))),
            }
        });
    }
    eventually("functions to be told", || {
        match told(&mut caller).map(|told| told.parse::<u8>()) {
            Some(Ok(50..=100)) => Ok(()),
            other => Err(format!("{other:?} {}", state_of(&host))),
        }
    });
    let state = state_of(&host)["brownout"].clone();
    assert!(
        state["cause"] == "descriptors" && state["threshold"].as_u64() < Some(90),
        "{state}"
    );
    let ps = String::from_utf8(host.funcd(&["ps"]).output().unwrap().stdout).unwrap();
    assert!(ps.contains("the host is short of descriptors"), "{ps}");
    // Until the idle one is stopped only what is refused is asked of the other: by then nobody looks at it any more.
    let bulk = Request::get("/awake/").header("x-funcd-class", "bulk");
    let mut is_refused = || caller.ask(&bulk).unwrap().header("x-funcd-shed") == Some("brownout");
    until("bulk to be refused", &mut is_refused);
    until("the idle instance to be stopped", || {
        assert!(is_refused());
        !idle.is_there()
    });
    assert!(kept.is_there(), "a minimum is kept");

    drop(callers);
    eventually("it to be over", || match state_of(&host)["brownout"].clone() {
        over if over["stage"] == "none" => Ok(()),
        other => Err(other.to_string()),
    });
    until("nobody to be refused any more", || {
        host.ask(&bulk).status() == 200
    });
    assert_eq!(told(&mut caller), None);
    assert_eq!(caller.ask(&Request::get("/idle/")).unwrap().status(), 200);
    let log = host.log();
    for part in ["WARN brownout: ", "INFO brownout: over", "cause=\"descriptors\""] {
        assert!(log.contains(part), "{part}: {log}");
    }
    let metrics = host.admin_get("/metrics").text();
    let over = "funcd_brownout_changes_total{stage=\"none\",cause=\"descriptors\"} 1";
    assert!(metrics.contains(over), "{metrics}");
    assert_eq!(host.supervisor(), supervisor, "the same as before");
}

/// Whether the supervisor has a cgroup v2 of its own, which tells what it waits for.
fn has_own_pressure() -> bool {
    let told = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(|mount| format!("{mount}/cpu.pressure"));
    funcd_tests::need::is_root() && told.iter().any(|file| fs::read_to_string(file).is_ok())
}

/// Every core is taken by functions within their shares: that is what a host is for.
fn a_host_that_is_merely_busy_holds_back_nothing() {
    let host = Host::start();
    host.deploy("victim", "hello", "scale = { min = 1 }\n");
    host.deploy(
        "busy",
        "hog",
        "limits = { cpu = 64.0 }\nscale = { idle = \"1h\", min = 1 }\n",
    );
    let cores = std::thread::available_parallelism().unwrap().get();
    for _ in 0..cores * 2 {
        host.get_ok("/busy/spin");
    }
    beside_a_victim(&host, || {
        let mut busy = 0;
        until("the host to have been busy for a while", || {
            // Each look takes a process of its own, and so is another sample.
            busy += usize::from(state_of(&host)["cpu_busy"].as_f64() > Some(0.95));
            busy >= 20
        });
    });
    if has_own_pressure() {
        until("the supervisor's own cgroup to tell that it waited", || {
            state_of(&host)["cpu_pressure"].as_f64() > Some(0.0)
        });
    }
    // The control is the story of a host that is short of something.
    let metrics = host.admin_get("/metrics").text();
    let ours = |cause: &str| {
        metrics.contains(&format!(
            "funcd_brownout_changes_total{{stage=\"no-scale-up\",cause=\"{cause}\"}}"
        ))
    };
    assert!(!ours("cpu"), "{metrics}\n{}", host.log_tail());
    assert!(
        metrics.contains("funcd_host_overload{cause=\"cpu\"} "),
        "{metrics}"
    );
}

fn callers_do_not_get_the_last_descriptors() {
    let host = Plan::new().open_files(200).arguments(&["--workers", "1"]).start();
    host.deploy("first", "hello", "limits = { files = 64 }\n");
    host.deploy("second", "hello", "limits = { files = 64 }\n");
    host.get_ok("/first/");
    let mut early = host.connect();
    assert_eq!(early.ask(&Request::get("/first/")).unwrap().status(), 200);
    let mut callers = Vec::new();
    let refusal = eventually("a caller to be refused", || {
        let mut caller = host.connect();
        let answer = caller
            .ask(&Request::get("/first/"))
            .map_err(|error| error.to_string())?;
        callers.push(caller);
        match answer.status() {
            503 => Ok(answer.text()),
            200 if callers.len() < 300 => Err(format!("{} were let in", callers.len())),
            other => panic!("{other} after {}", callers.len()),
        }
    });
    assert!(refusal.contains("too-many-connections"), "{refusal}");
    assert!(callers.len() > 50, "only {} were let in", callers.len());
    // Those that were let in are served, also by what has to be started first.
    for target in ["/first/", "/second/"] {
        assert_eq!(early.ask(&Request::get(target)).unwrap().status(), 200);
    }
    let metrics = host.admin_get("/metrics").text();
    let counted = "funcd_connections_ended_total{reason=\"descriptors\"}";
    assert!(metrics.contains(counted), "{metrics}");
}
