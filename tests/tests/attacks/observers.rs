//! Attempts 53 to 60: at logs, metrics and terminals, at the host's own processes, and through a supervisor that was taken over.

use std::fs;
use std::process::{Command, Stdio};

use funcd_tests::artifacts::example;
use funcd_tests::host::Host;
use funcd_tests::http::Request;
use funcd_tests::need::{Need, is_root};
use funcd_tests::suite::Suite;
use funcd_tests::{eventually, until};
use nix::libc;

use crate::callers::{FLAT, resident};
use crate::context::{Runtime, attacker, attempt, context};
use crate::control::Control;
use crate::inside::{Attempt, Row, by, call, register as row};
use crate::table::{Title, story};

pub(crate) fn register(suite: &mut Suite) {
    story(
        suite,
        Title {
            number: 53,
            attempt: "flood the log, with a reader that doesn't read",
            mechanism: "rate limit, drop counter, rotation",
        },
        "log_flood",
        &[],
        log_flood,
    );
    story(
        suite,
        Title {
            number: 54,
            attempt: "escape sequences, carriage returns, bidi and forged records in the log",
            mechanism: "escaping of C0, C1 and bidi; one JSON record a line",
        },
        "log_forgery",
        &[],
        log_forgery,
    );
    story(
        suite,
        Title {
            number: 55,
            attempt: "make metrics by asking for random names, paths, methods, hosts",
            mechanism: "labels come from configuration only",
        },
        "metrics",
        &[],
        metrics,
    );
    static TERMINAL: Row = Row {
        title: Title {
            number: 56,
            attempt: "type into a terminal (TIOCSTI, TIOCLINUX), open one",
            mechanism: "P4 kernel surface: seccomp; no terminal, a session of its own",
        },
        name: "terminal",
        needs: &[Need::Property("kernel-surface"), Need::MountNamespaces],
        attempts: terminal,
        own: None,
        after: crate::inside::nothing,
    };
    row(suite, &TERMINAL);
    static CGROUPS: Row = Row {
        title: Title {
            number: 57,
            attempt: "see, leave or make cgroups",
            mechanism: "P1 files: no cgroupfs; max.descendants=0 (v2)",
        },
        name: "cgroups",
        needs: &[Need::MountNamespaces],
        attempts: cgroups,
        own: None,
        after: no_subgroups,
    };
    row(suite, &CGROUPS);
    story(
        suite,
        Title {
            number: 58,
            attempt: "claim to be ready, and to be another pid",
            mechanism: "pidfd; readiness is what it accepts or answers",
        },
        "claims",
        &[],
        claims,
    );
    story(
        suite,
        Title {
            number: 59,
            attempt: "a supervisor that was taken over talks to the launcher",
            mechanism: "P10 privileges: the launcher's floor and parser (also funcd-sandbox: a_start_below_the_floor_is_refused, a_supervisor_that_sends_garbage_is_replaced)",
        },
        "supervisor_taken_over",
        &[Need::Root],
        taken_over,
    );
    story(
        suite,
        Title {
            number: 60,
            attempt: "a memory bomb that reaches the supervisor",
            mechanism: "P5 memory-limit: cgroups of their own, oom_score_adj",
        },
        "oom_of_the_host",
        &[Need::Property("memory-limit")],
        oom_of_the_host,
    );
}

fn log_flood() -> (String, String) {
    let host = Host::start();
    host.deploy("flood", "echo", "");
    host.deploy("calm", "echo", "");
    host.get_ok("/flood/");
    let supervisor = host.supervisor();
    let before = resident(&supervisor);
    let mut reader = host
        .funcd(&["logs", "-f", "flood"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = "x".repeat(99) + "\n";
    for _ in 0..5 {
        host.ask(&Request::post("/flood/log", lines.repeat(100_000)));
        host.get_ok("/calm/");
    }
    let dropped = || {
        let metrics = host.admin_get("/metrics").text();
        let line =
            |line: &&str| line.starts_with("funcd_log_lines_dropped_total{") && line.contains("\"flood\"");
        metrics
            .lines()
            .find(line)
            .and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    until("drops to be counted", || dropped() > 100_000.0);
    let grown = resident(&supervisor).saturating_sub(before);
    assert!(grown < FLAT, "the supervisor grew by {grown} bytes");
    let logs = fs::read_dir(host.path().join("state/logs")).unwrap().flatten();
    let kept: u64 = logs
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("flood.log"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert!(kept < 18 << 20, "{kept} bytes are kept");
    host.get_ok("/flood/");
    reader.kill().unwrap();
    reader.wait().unwrap();
    host.ask(&Request::post("/calm/log", "one\ntwo\nthree\n"));
    eventually("a calm log to be whole", || {
        let log = host.funcd(&["logs", "calm"]).output().unwrap();
        let log = String::from_utf8_lossy(&log.stdout).into_owned();
        if ["one", "two", "three"].iter().all(|line| log.contains(line)) {
            Ok(())
        } else {
            Err(log)
        }
    });
    (
        "drops are counted; memory flat, files bounded, others answered".to_owned(),
        "a few lines are all kept".to_owned(),
    )
}

fn log_forgery() -> (String, String) {
    let host = &context().host;
    host.deploy("forger", "echo", "");
    let forged = "before\u{1b}[2J\u{1b}]0;title\u{7} \u{9b}31m red \u{202e}reversed \u{2066}x\u{0}\u{8}\u{7f}\rover\n\
                  {\"function\":\"neighbour\",\"stream\":\"platform\",\"line\":\"killed\"}\n\"},{\"function\":\"neighbour\"}\nafter\n";
    host.ask(&Request::post("/forger/log", forged));
    let file = host.path().join("state/logs/forger.log");
    let text = eventually("the log to arrive", || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        if text.contains("after") {
            Ok(text)
        } else {
            Err(text)
        }
    });
    let bad = |c: char| {
        (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!text.contains(bad), "{text:?}");
    for line in text.lines() {
        let record: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_ne!(record["function"], "neighbour", "{line}");
        let of_funcd = record["stream"] == "platform";
        assert!(!(of_funcd && line.contains("killed\\\"")), "{line}");
    }
    for arguments in [vec!["logs", "forger"], vec!["--json", "logs", "forger"]] {
        let output = host.funcd(&arguments).output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            shown.contains("after") && !shown.contains(bad),
            "{arguments:?}: {shown:?}"
        );
    }
    assert!(forged.contains(bad), "the control: they were sent");
    let neighbours = host.funcd(&["logs", "neighbour"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&neighbours.stdout).contains("killed"));
    (
        "escaped in file, on the terminal and as JSON; each line is one record of its own function"
            .to_owned(),
        "what was sent has them".to_owned(),
    )
}

fn metrics() -> (String, String) {
    let host = Host::start();
    host.deploy("measured", "echo", "");
    host.get_ok("/measured/");
    let series = || {
        host.admin_get("/metrics")
            .text()
            .lines()
            .filter(|line| !line.starts_with('#'))
            .count()
    };
    // Each kind once, so that what any caller causes is there.
    host.get("/nobody/");
    host.ask(&Request::new("BREW", "/measured/"));
    let before = series();
    for n in 0..200 {
        host.get(&format!("/nobody-{n}/x?{n}"));
        host.ask(
            &Request::new(&format!("METHOD{n}"), &format!("/measured/path/{n}"))
                .header("Host", &format!("h{n}.example")),
        );
        host.ask(
            &Request::get(&format!("/measured/status?code={}", 200 + n % 100))
                .header("X-Request-Id", &format!("id-{n}")),
        );
    }
    let grown = series().saturating_sub(before);
    assert!(grown < 20, "{grown} series more");
    let now = series();
    host.deploy("another", "echo", "");
    host.get_ok("/another/");
    until("the control: a function has series of its own", || series() > now);
    (
        format!("{grown} more series after 600 requests"),
        "one more function adds series".to_owned(),
    )
}

fn terminal() -> Vec<Attempt> {
    const GONE: &[&str] = &["ENOENT"];
    let past = Control::PastTheCheck(&["ENOTTY", "EINVAL"]);
    vec![
        by("TIOCSTI", "push-input 0x5412", &["EPERM"], past),
        by("TIOCLINUX", "push-input 0x541c", &["EPERM"], past),
        by("TIOCSTI, upper half", "push-input 0x100005412", &["EPERM"], past),
        by("/dev/tty", "open /dev/tty", GONE, Control::IfThere(&["ENXIO"])),
        by("/dev/ptmx", "open /dev/ptmx", GONE, Control::Works),
        by(
            "/dev/console",
            "open /dev/console",
            GONE,
            Control::None("not every machine has one"),
        ),
        by(
            "/dev/kmsg",
            "open /dev/kmsg",
            GONE,
            Control::IfThere(&["EPERM", "EACCES", "ENOENT"]),
        ),
    ]
}

fn cgroups() -> Vec<Attempt> {
    const GONE: &[&str] = &["ENOENT"];
    vec![
        by("list", "list /sys/fs/cgroup", GONE, Control::Works),
        by(
            "make",
            "mkdir /sys/fs/cgroup/out",
            &["ENOENT", "EROFS", "EACCES"],
            Control::Works,
        )
        .control_with("mkdir {tmp}/out"),
        by(
            "leave",
            "write /sys/fs/cgroup/cgroup.procs",
            GONE,
            Control::None("it would move the tests"),
        ),
        by(
            "by descriptor",
            "list /proc/{launcher}/root/sys/fs/cgroup",
            GONE,
            Control::Works,
        ),
        call(
            "mount one",
            libc::SYS_mount,
            "s:cgroup s:{tmp} s:cgroup2 0 0",
            &["EPERM"],
            Control::None("it would be the machine's"),
        ),
    ]
}

/// The kernel itself refuses a group below a function's, where there is cgroup v2.
fn no_subgroups(function: &str) {
    let paths = context().host.instance(function).cgroups();
    let leaves = paths
        .iter()
        .filter(|path| path.contains("funcd-"))
        .flat_map(|path| {
            ["", "unified"]
                .map(|hierarchy| std::path::PathBuf::from(format!("/sys/fs/cgroup/{hierarchy}{path}")))
        });
    for leaf in leaves.filter(|leaf| leaf.join("cgroup.max.descendants").exists()) {
        assert_eq!(
            fs::read_to_string(leaf.join("cgroup.max.descendants"))
                .unwrap()
                .trim(),
            "0",
            "{}",
            leaf.display()
        );
        if is_root() {
            let made = fs::create_dir(leaf.join("sub")).map_err(|error| error.raw_os_error());
            assert_eq!(made, Err(Some(libc::EAGAIN)), "not even for root");
        }
    }
}

fn claims() -> (String, String) {
    let host = Host::start();
    let manifest = "args = [\"claim\"]\n[health]\nready_within = \"700ms\"\n[scale]\nmin = 1\n";
    host.drop_folder("claimant", &example("attack"), manifest);
    host.wait_exit("claimant", "start-timeout");
    let log = host.funcd(&["logs", "claimant"]).output().unwrap();
    assert!(
        String::from_utf8_lossy(&log.stdout).contains("READY=1"),
        "it said so: {log:?}"
    );
    let rows = host.ps();
    assert!(
        rows.iter().all(|row| row.state != "ready" && row.pid != Some(1)),
        "{rows:?}"
    );
    host.deploy(
        "honest",
        "attack",
        "[health]\nready_within = \"60s\"\n[scale]\nmin = 1\n",
    );
    host.get_ok("/honest/");
    until("the control: who accepts is ready", || {
        host.instances("honest").iter().all(|one| one.state == "ready")
    });
    (
        "ignored: not ready in time".to_owned(),
        "the same program is ready when it accepts".to_owned(),
    )
}

fn taken_over() -> (String, String) {
    let host = Host::start();
    host.deploy("lasting", "attack", "");
    let pid = host.get_ok("/lasting/").text();
    let (supervisor, function) = (host.supervisor(), host.instance("lasting"));
    // With root's rights over the supervisor: its socket to the launcher, and noise on it.
    let mut noise = Command::new(example("attack"));
    let output = noise
        .args(["try", "noise", &supervisor.pid.to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("ok by descriptor"), "{said}");
    until("the launcher to end that supervisor", || !supervisor.is_there());
    let answer = host.wait_for("/lasting/", "200", |answer| answer.status() == 200);
    assert_eq!(answer.text(), pid);
    assert_eq!(
        host.instance("lasting"),
        function,
        "functions go on under another supervisor"
    );
    // Nobody else gets there: neither the socket nor the supervisor is in a function's reach.
    let inside = context();
    let name = attacker(Runtime::Static, "static", "");
    for line in [
        "opath /proc/{supervisor}/fd/3",
        "list {run}",
        "signal {supervisor} 19",
    ] {
        let came = attempt(&inside.host, &name, &inside.words(line, None, "/tmp")).text();
        assert!(
            ["ENOENT", "EPERM", "ESRCH"].contains(&came.as_str()),
            "{line}: {came}"
        );
    }
    (
        "the supervisor is replaced, functions go on; a function reaches neither".to_owned(),
        "noise did arrive: by root's rights over the supervisor".to_owned(),
    )
}

fn oom_of_the_host() -> (String, String) {
    let host = Host::start();
    host.deploy("bomb", "attack", "[limits]\nmemory = \"64M\"\n");
    host.get_ok("/bomb/");
    let (bomb, supervisor) = (host.instance("bomb"), host.supervisor());
    let score = |pid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        text.trim().parse::<i32>().unwrap()
    };
    assert!(
        score(bomb.pid) > score(supervisor.pid) && score(bomb.pid) > score(host.launcher().pid),
        "who goes first when the whole machine is out of memory"
    );
    assert_ne!(bomb.cgroups(), supervisor.cgroups());
    for _ in 0..2 {
        host.wait_for("/bomb/", "200", |answer| answer.status() == 200);
        // Its answer may have begun when it dies: then it is cut off.
        let _ = host.connect().ask(&Request::post("/bomb/eat?128", "x"));
        host.wait_exit("bomb", "oom");
    }
    assert_eq!(host.supervisor(), supervisor, "it survived");
    assert!(host.launcher().is_alive());
    (
        "the function dies, alone; it would go first on the machine too".to_owned(),
        "its instances do die of it".to_owned(),
    )
}
