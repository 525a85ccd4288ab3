//! Functions that are spoken to over HTTP/2: gRPC with tonic on both sides, and such that do it wrong.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use funcd_tests::artifacts::{example, example_file};
use funcd_tests::host::Host;
use funcd_tests::http::Request;
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;
use funcd_tests::{eventually, until};
use nix::sys::signal::Signal;

use crate::refusals::problem;

pub(crate) fn register(suite: &mut Suite) {
    const NETWORK: &[Need] = &[Need::Property("network")];
    const CURL: &[Need] = &[Need::CurlHttp2];
    funcd_tests::tests!(suite, "grpc", [
        every_kind_of_call_passes,
        an_unmodified_server_on_port: NETWORK,
        the_deadline_is_passed_on_and_kept,
        own_errors_are_told_as_a_status_of_grpc,
        who_leaves_ends_the_call,
        a_killed_instance_is_told_and_no_call_is_made_twice,
        many_calls_share_few_connections: &[Need::Root],
        who_reads_nothing_harms_no_other_call,
        all_requests_with_h2c: CURL,
        one_that_speaks_http1_alone: CURL,
        strangers_who_say_grpc_harm_no_function_of_http1,
        what_was_not_done_is_sent_again: CURL,
        bad_frames_end_in_a_clear_status: CURL,
        one_that_never_reads_keeps_nobody_waiting: CURL,
        an_end_without_trailers_is_no_success,
    ]);
}

fn host() -> Arc<Host> {
    Host::shared("grpc", |host| {
        let manifest = fs::read_to_string(example_file("grpc/function.toml")).unwrap();
        host.deploy("talk", "grpc", &manifest);
    })
}

/// What the client printed, and its exit code, which is the status of the call.
fn call(host: &Host, arguments: &[&str]) -> (i32, String) {
    let mut client = Command::new(example("grpc-client"));
    let address = host.address().to_string();
    let output = client.arg(address).args(arguments).output().unwrap();
    read(&output)
}

fn read(output: &Output) -> (i32, String) {
    assert!(output.stderr.is_empty(), "{output:?}");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().unwrap(), printed)
}

#[track_caller]
fn ok(host: &Host, arguments: &[&str]) -> String {
    let (code, printed) = call(host, arguments);
    assert_eq!(code, 0, "{arguments:?}: {printed}\n{}", host.log_tail());
    printed
}

fn every_kind_of_call_passes() {
    let host = host();
    assert_eq!(ok(&host, &["say", "hello", "7"]), "7 hello\n");
    let counted = ok(&host, &["count", "x", "300"]);
    assert_eq!(counted.lines().count(), 300);
    assert_eq!(counted.lines().last(), Some("300 x"));
    assert_eq!(ok(&host, &["collect", "a", "b", "c"]), "3 abc\n");
    // The second line is said after the first was answered: neither stream waits for the end of the other.
    assert_eq!(ok(&host, &["chat", "one", "two", "three"]), "one\ntwo\nthree\n");
    // A status of the function's own arrives as it was said.
    let (code, printed) = call(&host, &["say", "fail"]);
    assert_eq!(code, 9, "{printed}");
    assert!(
        printed.starts_with("FailedPrecondition: as asked: 100 %\n"),
        "{printed}"
    );
}

fn an_unmodified_server_on_port() {
    let host = Host::start();
    let manifest = fs::read_to_string(example_file("grpc/function.toml")).unwrap();
    host.deploy("talk", "grpc", &format!("contract = \"port\"\n{manifest}"));
    // Its first call starts it.
    assert_eq!(ok(&host, &["say", "hello"]), "0 hello\n");
    assert_eq!(ok(&host, &["chat", "one", "two"]), "one\ntwo\n");
}

fn the_deadline_is_passed_on_and_kept() {
    let host = host();
    // Longer than a head may take: it is for the whole call.
    let said = ok(&host, &["say", "deadline", "0", "7200000"]);
    let left: u64 = said
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .max()
        .unwrap();
    assert!(
        (7_100_000..=7_200_000).contains(&left) && said.contains('m'),
        "{said}"
    );
    assert!(ok(&host, &["say", "deadline"]).contains("None"));
    // One that is not kept, told by funcd or by either end.
    let (code, printed) = call(&host, &["say", "wait", "60000", "50"]);
    assert!(matches!(code, 1 | 4), "{code} {printed}");
    until("the function to have given up", || {
        ok(&host, &["say", "underway"]) == "0 underway\n"
    });
}

fn own_errors_are_told_as_a_status_of_grpc() {
    let host = Host::start();
    let manifest = fs::read_to_string(example_file("grpc/function.toml")).unwrap();
    // Nobody answers there.
    let (code, printed) = call(&host, &["say", "x"]);
    assert_eq!(code, 12, "{printed}");
    assert!(
        printed.contains("(unknown-route)") && printed.contains("x-request-id: "),
        "{printed}"
    );
    // One at a time, and none waits: the second is shed, and told when to come back.
    let narrow = "[scale]\nmax = 1\nconcurrency = 1\n[request]\ntimeout = \"600ms\"\n";
    host.deploy("talk", "grpc", &format!("{manifest}{narrow}"));
    assert_eq!(ok(&host, &["say", "hello"]), "0 hello\n");
    let (code, printed) = call(&host, &["say", "wait", "60000"]);
    assert_eq!(code, 4, "{printed}");
    assert!(printed.contains("(response-timeout)"), "{printed}");
    assert!(
        printed.contains("proxy-status: funcd; error=http_response_timeout"),
        "{printed}"
    );
    // It is in the ledger as what it was, not as the 200 that carries it.
    let id = printed
        .lines()
        .find_map(|line| line.strip_prefix("x-request-id: "))
        .unwrap();
    eventually("the ledger to have it", || {
        let explained = host.funcd(&["explain", id]).output().unwrap();
        let text = String::from_utf8_lossy(&explained.stdout).into_owned();
        match text.contains("504") && text.contains("response-timeout") {
            true => Ok(()),
            false => Err(text),
        }
    });
    let metrics = host.admin_get("/metrics").text();
    let counted = metrics.lines().any(|line| {
        line.starts_with("funcd_invocation_errors_total")
            && line.contains("response-timeout")
            && line.contains("talk")
    });
    assert!(counted, "{metrics}");
}

fn who_leaves_ends_the_call() {
    let host = host();
    assert_eq!(ok(&host, &["leave"]), "in\n");
    until("the function to know it", || {
        ok(&host, &["say", "underway"]) == "0 underway\n"
    });
    // Also before there was a head: the client gives up by its own deadline.
    let _ = call(&host, &["say", "wait", "60000", "30"]);
    until("the function to know it", || {
        ok(&host, &["say", "underway"]) == "0 underway\n"
    });
}

fn a_killed_instance_is_told_and_no_call_is_made_twice() {
    let host = Host::start();
    let manifest = fs::read_to_string(example_file("grpc/function.toml")).unwrap();
    host.deploy("talk", "grpc", &format!("{manifest}[scale]\nmax = 1\n"));
    assert_eq!(ok(&host, &["say", "hello"]), "0 hello\n");
    let mut load = Command::new(example("grpc-client"))
        .arg(host.address().to_string())
        .args(["load", "hello", "8"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    for _ in 0..3 {
        let killed = host.instance("talk");
        let answered = requests(&host);
        until("calls to be answered", || requests(&host) > answered + 100);
        killed.signal(Signal::SIGKILL);
        until("another one to answer", || {
            host.instances("talk")
                .iter()
                .any(|one| one.pid.is_some_and(|pid| Some(pid) != Some(killed.pid)))
        });
    }
    drop(load.stdin.take());
    let output = load.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let count = |result: &str| {
        let line = printed
            .lines()
            .find_map(|line| line.strip_prefix(result)?.strip_prefix(' '));
        line.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    // A call is a POST: what may have been read is not sent again, and its caller is told that it may try again.
    let all: u64 = printed
        .lines()
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum();
    assert!(count("Ok") > 300, "{printed}");
    assert_eq!(all, count("Ok") + count("Unavailable"), "{printed}");
    assert!(
        count("Unavailable") <= 3 * 8,
        "at most those that were in flight: {printed}"
    );
}

/// Requests that the host has answered.
fn requests(host: &Host) -> u64 {
    let metrics = host.admin_get("/metrics").text();
    let counts = metrics
        .lines()
        .filter(|line| line.starts_with("funcd_invocations_total"));
    counts
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// Sockets that a process has open.
fn sockets(pid: i32) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

fn many_calls_share_few_connections() {
    let host = Host::start();
    let manifest = fs::read_to_string(example_file("grpc/function.toml")).unwrap();
    host.deploy(
        "talk",
        "grpc",
        &format!("{manifest}[scale]\nmax = 1\nconcurrency = 256\n"),
    );
    assert_eq!(ok(&host, &["say", "hello"]), "0 hello\n");
    let before = sockets(host.instance("talk").pid);
    let mut callers: Vec<_> = (0..40)
        .map(|_| {
            Command::new(example("grpc-client"))
                .arg(host.address().to_string())
                .args(["say", "wait", "600000"])
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    until("all of them to be under way", || {
        ok(&host, &["say", "underway"]) == "40 underway\n"
    });
    let more = sockets(host.instance("talk").pid) - before;
    for caller in &mut callers {
        caller.kill().unwrap();
        caller.wait().unwrap();
    }
    eprintln!("40 calls under way: {more} connections more");
    // One for each worker.
    assert!(more <= 8, "{more} connections for 40 calls");
    until("none to be under way", || {
        ok(&host, &["say", "underway"]) == "0 underway\n"
    });
}

fn who_reads_nothing_harms_no_other_call() {
    const LINES: u32 = 30_000;
    let host = Host::start();
    let manifest = fs::read_to_string(example_file("grpc/function.toml")).unwrap();
    host.deploy(
        "talk",
        "grpc",
        &format!("{manifest}[scale]\nmax = 1\nconcurrency = 256\n[request]\nqueue = \"fifo\"\n"),
    );
    let begin = |calls: u32| {
        let mut client = Command::new(example("grpc-client"))
            .arg(host.address().to_string())
            .args(["stall", &calls.to_string(), &LINES.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(client.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "begun\n");
        (client, said)
    };
    assert_eq!(ok(&host, &["say", "hello"]), "0 hello\n");
    // Many small frames, as many as fit: what each of them takes to keep is more than what is in it. Connections of callers go
    // to one worker or another, and each of those has one to the instance.
    let mut stalled: Vec<_> = (0..3).map(|_| begin(12)).collect();
    let process = host.instance("talk");
    let mut before = 0;
    until("the function to have written all that it can", || {
        let now = process.cpu_ticks();
        std::mem::replace(&mut before, now) == now
    });
    for _ in 0..8 {
        assert_eq!(ok(&host, &["say", "hello"]), "0 hello\n");
    }
    // And nothing of theirs is lost.
    for (client, said) in &mut stalled {
        drop(client.stdin.take());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, format!("{}\n", 12 * LINES), "{}", host.log_tail());
        client.wait().unwrap();
    }
}

/// The answer to a request over HTTP/1.1, with its head.
fn curl(host: &Host, arguments: &[&str], target: &str) -> String {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--include", "--max-time", "30"])
        .args(arguments);
    let output = curl
        .arg(format!("http://{}{target}", host.address()))
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn frames(host: &Host, name: &str, how: &str, more: &str) {
    let manifest = format!("h2c = true\nenv = {{ FRAMES = \"{how}\" }}\n{more}");
    host.deploy(name, "frames", &manifest);
}

fn all_requests_with_h2c() {
    let host = host();
    // It is asked whether it is ready in the same way.
    frames(&host, "well", "well", "[health]\npath = \"/healthy\"\n");
    for _ in 0..3 {
        let answer = curl(&host, &[], "/well/");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    let answer = curl(&host, &["--data-binary", "hello"], "/well/");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

fn one_that_speaks_http1_alone() {
    let host = host();
    let grpc = [
        "--http2-prior-knowledge",
        "--header",
        "content-type: application/grpc",
        "--data-binary",
        "",
    ];
    // One closes the connection without a word, as servers with hyper do; the other answers in HTTP/1, as most others do.
    for (name, executable, error, status) in [
        ("old", "hello", "connection_terminated", 14),
        ("older", "sour", "http_protocol_error", 13),
    ] {
        host.deploy(name, executable, "h2c = true\n");
        let target = format!("/{name}/");
        let answer = host.get(&target);
        problem(&answer, 502, error);
        let document = answer.json();
        let detail = document["detail"].as_str().unwrap();
        assert!(
            detail.contains("HTTP/2") && detail.contains("h2c = true"),
            "{detail}"
        );
        // The same function, as it is.
        host.deploy(name, executable, "[scale]\nmax = 4\n");
        host.wait_for(&target, "200", |answer| answer.status() == 200);
        // A call of gRPC goes over HTTP/2 whatever the manifest says, but where that says not to.
        let answer = curl(&host, &grpc, &target);
        let said = format!("grpc-status: {status}\r\n");
        assert!(
            answer.starts_with("HTTP/2 200") && answer.contains(&said),
            "{answer}"
        );
        assert!(answer.contains("HTTP/2 with prior knowledge"), "{answer}");
    }
    host.deploy("old", "hello", "h2c = false\n");
    until("the other manifest to be live", || {
        !curl(&host, &grpc, "/old/").contains("grpc-status")
    });
    host.remove("old");
}

/// Named for the attack: any caller can say that it calls gRPC, and what a function of HTTP/1 makes of HTTP/2 is no answer. That says
/// nothing of the function.
fn strangers_who_say_grpc_harm_no_function_of_http1() {
    let host = Host::start();
    for (name, executable) in [("mute", "hello"), ("sour", "sour")] {
        host.deploy(name, executable, "[scale]\nmin = 1\nmax = 1\n");
        let target = format!("/{name}/");
        host.wait_for(&target, "200", |answer| answer.status() == 200);
        let before = host.instance(name).pid;
        // Each of these many in a row would have been more than enough to have it replaced, or its callers refused.
        for _ in 0..60 {
            for method in ["GET", "POST"] {
                let call = Request::new(method, &target).header("content-type", "application/grpc");
                let answer = host.ask(&call);
                assert!(answer.header("grpc-status").is_some(), "{answer:?}");
            }
        }
        for _ in 0..20 {
            assert_eq!(host.get(&target).status(), 200, "{}", host.log_tail());
        }
        assert_eq!(host.instance(name).pid, before, "{}", host.log_tail());
    }
    let metrics = host.admin_get("/metrics").text();
    let shed = |line: &&str| line.starts_with("funcd_requests_shed_total") && line.contains("breaker");
    let shed: Vec<_> = metrics.lines().filter(shed).collect();
    assert!(shed.iter().all(|line| line.ends_with(" 0")), "{shed:?}");
    let retried = metrics
        .lines()
        .find(|line| line.starts_with("funcd_request_retries_total"));
    assert!(retried.is_none_or(|line| line.ends_with(" 0")), "{retried:?}");
}

fn what_was_not_done_is_sent_again() {
    let host = host();
    for how in ["refuse", "leave"] {
        frames(&host, how, how, "[scale]\nmax = 1\n");
        for round in 0..4 {
            // A POST, which is never sent twice when it may have been read.
            let answer = curl(&host, &["--data-binary", "hello"], &format!("/{how}/"));
            assert!(
                answer.starts_with("HTTP/1.1 200 OK\r\n"),
                "{how} {round}: {answer}"
            );
        }
    }
    // With a large body it is, or is refused: by how much of that was sent before.
    fs::write(host.path().join("large"), vec![b'x'; 1 << 20]).unwrap();
    let file = format!("@{}", host.path().join("large").display());
    let answers: Vec<String> = (0..4)
        .map(|_| curl(&host, &["--data-binary", &file], "/refuse/"))
        .collect();
    assert!(
        answers
            .iter()
            .all(|answer| answer.contains("HTTP/1.1 200 OK") || answer.contains("connection-refused")),
        "{answers:?}"
    );
}

fn bad_frames_end_in_a_clear_status() {
    let host = host();
    for (how, status, said) in [
        ("reset", "502", "INTERNAL_ERROR"),
        ("pings", "502", "floods its connection"),
        ("settings", "502", "floods its connection"),
    ] {
        frames(&host, how, how, "");
        let answer = curl(&host, &[], &format!("/{how}/"));
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(said),
            "{how}: {answer}"
        );
        host.remove(how);
    }
    // A head, a part, and an end: cut off, not complete.
    frames(&host, "half", "half", "");
    let cut = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            &format!("http://{}/half/", host.address()),
        ])
        .output()
        .unwrap();
    assert!(!cut.status.success(), "{cut:?}");
    frames(&host, "mute", "mute", "[request]\ntimeout = \"1s\"\n");
    let answer = curl(&host, &[], "/mute/");
    assert!(
        answer.starts_with("HTTP/1.1 504 ") && answer.contains("response-timeout"),
        "{answer}"
    );
    host.remove("mute");
}

fn one_that_never_reads_keeps_nobody_waiting() {
    let host = host();
    frames(
        &host,
        "deaf",
        "deaf",
        "[request]\ntimeout = \"500ms\"\nbody = \"64M\"\n",
    );
    fs::write(host.path().join("zeros"), vec![0; 8 << 20]).unwrap();
    let file = format!("@{}", host.path().join("zeros").display());
    let answer = curl(&host, &["--data-binary", &file], "/deaf/");
    assert!(answer.contains("HTTP/1.1 504 "), "{answer}");
    // Everybody else goes on.
    assert_eq!(ok(&host, &["say", "hello"]), "0 hello\n");
    host.remove("deaf");
}

fn an_end_without_trailers_is_no_success() {
    let host = Host::start();
    let route = "[[route]]\npath = \"/funcd.example.Talk\"\n";
    frames(&host, "untold", "untold", route);
    let (code, printed) = call(&host, &["say", "hello"]);
    assert_ne!(code, 0, "{printed}");
    frames(&host, "untold", "half", route);
    until("the other manifest to be live", || {
        call(&host, &["say", "hello"]).1.contains("ended early")
    });
    let (code, printed) = call(&host, &["say", "hello"]);
    assert_eq!(code, 14, "{printed}");
    // The control: the same frames with trailers.
    frames(&host, "untold", "well", route);
    until("the other manifest to be live", || {
        call(&host, &["say", "hello"]) == (0, "0 \n".to_owned())
    });
}
