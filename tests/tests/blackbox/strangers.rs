//! Callers that mean harm, against a live host: what they send is refused as a whole, the supervisor's memory stays where it
//! was, a neighbour is served, and everything is counted. The long tables are the ingress's own tests; these prove it
//! on the running program.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use funcd_tests::host::{Host, Plan};
use funcd_tests::http::Connection;
use funcd_tests::need::Need;
use funcd_tests::process::Process;
use funcd_tests::suite::Suite;
use funcd_tests::{tests, until};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::h2::{
    self, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, block, frame,
};

/// So many callers are idle at once.
const IDLE: usize = 10_000;
/// What each of them may cost the supervisor, in bytes of memory: what docs/operations.md says.
const EACH: u64 = 32 * 1024;
/// What the supervisor's memory may grow by in all of the floods together, in bytes.
const FLOOD: u64 = 32 << 20;

pub(crate) fn register(suite: &mut Suite) {
    tests!(suite, "strangers", [
        smuggled_requests_reach_nobody,
        floods_leave_the_memory_flat,
        ten_thousand_idle_callers: &[Need::OpenFiles(IDLE as u64 + 2000)],
    ]);
}

fn host() -> Arc<Host> {
    Host::shared("strangers", |host| {
        host.deploy("echo", "echo", "");
        host.deploy("garbage", "garbage", "");
        host.deploy("alone", "echo", "");
    })
}

/// The value of a counter of the host with this one label.
fn metric(host: &Host, name: &str, reason: &str) -> u64 {
    let line = format!("{name}{{reason=\"{reason}\"}} ");
    let shown = host.admin_get("/metrics").text();
    let value = shown
        .lines()
        .find_map(|shown| shown.strip_prefix(&*line).map(str::to_owned));
    value.map_or(0, |value| value.parse().unwrap())
}

/// Bytes of a process in memory.
fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn smuggled_requests_reach_nobody() {
    let host = host();
    let invocations = || {
        let shown = host.admin_get("/metrics").text();
        let line = "funcd_invocations_total{function=\"alone\",trigger=\"http\",code=\"2xx\"} ";
        let value = shown
            .lines()
            .find_map(|shown| shown.strip_prefix(line).map(str::to_owned));
        value.map_or(0, |value| value.parse::<u64>().unwrap())
    };
    let chunked = "Transfer-Encoding: chunked\r\n";
    let post = |fields: &str, body: &str| format!("POST /alone/ HTTP/1.1\r\nHost: h\r\n{fields}\r\n{body}");
    let table = [
        (
            post(&format!("Content-Length: 6\r\n{chunked}"), "0\r\n\r\nG"),
            400,
            "length-and-encoding",
        ),
        (
            post("Content-Length: 0\r\nContent-Length: 45\r\n", ""),
            400,
            "two-content-lengths",
        ),
        (post("Content-Length: +3\r\n", "abc"), 400, "content-length"),
        (
            post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
            400,
            "transfer-encoding",
        ),
        (
            post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
            400,
            "field-name",
        ),
        (
            post("X: y\r\n Transfer-Encoding: chunked\r\n", ""),
            400,
            "folded-field",
        ),
        (
            "GET /alone/ HTTP/1.1\nHost: h\r\n\r\n".into(),
            400,
            "bare-line-feed",
        ),
        (
            "GET /alone/ HTTP/1.1\r\nHost: h\r\nX: \0\r\n\r\n".into(),
            400,
            "control-character",
        ),
        (
            "GET /alone/ HTTP/1.1\r\nHost: h\r\nHost: g\r\n\r\n".into(),
            400,
            "two-hosts",
        ),
        (
            "GET /alone/ HTTP/9.1\r\nHost: h\r\n\r\n".into(),
            400,
            "request-line",
        ),
        (post(&"A: b\r\n".repeat(101), ""), 431, "many-fields"),
        (
            post(&format!("A: {}\r\n", "b".repeat(70_000)), ""),
            431,
            "large-head",
        ),
        (
            "GET /nobody/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".into(),
            404,
            "unknown-route",
        ),
    ];
    host.get_ok("/alone/");
    let served = 1;
    until("the first to be counted", || invocations() == served);
    for (bytes, status, reason) in table {
        let before = metric(&host, "funcd_requests_rejected_total", reason);
        let mut caller = host.connect();
        caller
            .write(format!("{bytes}GET /alone/smuggled HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes())
            .unwrap();
        let answer = caller.response("GET").unwrap();
        assert_eq!(answer.status(), status, "{reason}: {answer:?}");
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{reason}"
        );
        assert_eq!(caller.read_to_end(), b"", "{reason}");
        until(reason, || {
            metric(&host, "funcd_requests_rejected_total", reason) > before
        });
    }
    assert_eq!(invocations(), served, "the function was asked");
    host.get_ok("/alone/");
    until("the control to be counted", || invocations() == served + 1);
}

fn floods_leave_the_memory_flat() {
    let host = host();
    let get = h2::get("/echo/status");
    let request = block(&get);
    let mut post = get.clone();
    post[0].1 = b"POST";
    let post = frame(HEADERS, END_HEADERS, 1, &block(&post));
    let begin = frame(HEADERS, END_STREAM, 1, &request);
    let many = |frame: Vec<u8>| frame.repeat(1000);
    let piece = block(&[(b"x", &[b'y'; 1000])]);
    let reset = |number: u32| {
        let stream = 2 * number + 1;
        let ask = frame(HEADERS, END_HEADERS | END_STREAM, stream, &request);
        [ask, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    };
    // What comes first, and what comes again and again.
    type Piece<'a> = Box<dyn Fn(u32) -> Vec<u8> + 'a>;
    let floods: Vec<(&str, Vec<u8>, Piece<'_>)> = vec![
        ("pings", vec![], Box::new(|_| many(frame(PING, 0, 0, &[0; 8])))),
        (
            "settings",
            vec![],
            Box::new(|_| many(frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]))),
        ),
        (
            "empty data",
            post.clone(),
            Box::new(|_| many(frame(DATA, 0, 1, b""))),
        ),
        ("small data", post, Box::new(|_| many(frame(DATA, 0, 1, b"x")))),
        ("rapid resets", vec![], Box::new(reset)),
        (
            "continuations",
            begin,
            Box::new(|_| frame(CONTINUATION, 0, 1, &piece)),
        ),
    ];
    let supervisor = host.supervisor();
    // Once to warm up: what is allocated for the first flood of each kind stays.
    for round in 0..2 {
        let before = resident(&supervisor);
        for (what, first, piece) in &floods {
            for _ in 0..3 {
                let mut caller = h2::Caller::new(host.address());
                caller.send(first);
                let reading = caller.stream.try_clone().unwrap();
                let reader = std::thread::spawn(move || {
                    let mut reading = reading;
                    let mut scrap = [0; 64 * 1024];
                    while reading.read(&mut scrap).is_ok_and(|read| read > 0) {}
                });
                let ended = (0..100_000).any(|number| !caller.send(&piece(number)));
                assert!(ended, "{what} went on");
                reader.join().unwrap();
            }
            host.get_ok("/echo/status");
        }
        let grown = resident(&supervisor).saturating_sub(before);
        println!(
            "round {round}: the floods left {} KiB more in the supervisor",
            grown / 1024
        );
        assert!(grown < FLOOD, "{grown} bytes more");
    }
    // A function's storms of interim answers, and its endless heads.
    let before = resident(&supervisor);
    for _ in 0..20 {
        assert_eq!(host.get("/garbage/endless-head").status(), 502);
        assert_eq!(host.get("/garbage/storm").status(), 200);
    }
    let grown = resident(&supervisor).saturating_sub(before);
    assert!(grown < FLOOD, "{grown} bytes more");
    assert_eq!(host.supervisor().pid, supervisor.pid, "it is the same one still");
    assert!(metric(&host, "funcd_connections_ended_total", "http2-flood") >= 12);
}

fn ten_thousand_idle_callers() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    }
    let plan = Plan::new()
        .variable("FUNCD_CLIENT_CONNECTIONS", "16000")
        .variable("FUNCD_CLIENT_IDLE", "40s");
    let host = plan.start();
    host.deploy("echo", "echo", "");
    host.get_ok("/echo/status");
    let supervisor = host.supervisor();
    let connections = || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", supervisor.pid));
        fds.map_or(0, Iterator::count)
    };
    let (before, fds) = (resident(&supervisor), connections());
    let address = host.address();
    let callers: Vec<TcpStream> = std::thread::scope(|scope| {
        let some = |_| {
            scope.spawn(move || {
                let one = |_| {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.set_read_timeout(Some(funcd_tests::patience())).unwrap();
                    // Idle callers have asked something before.
                    stream
                        .write_all(b"GET /echo/status HTTP/1.1\r\nHost: h\r\n\r\n")
                        .unwrap();
                    let mut answer = [0; 4096];
                    let read = stream.read(&mut answer).unwrap();
                    assert!(
                        answer[..read].starts_with(b"HTTP/1.1 200 "),
                        "{:?}",
                        &answer[..read]
                    );
                    stream
                };
                (0..IDLE / 4).map(one).collect::<Vec<_>>()
            })
        };
        let threads: Vec<_> = (0..4).map(some).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    if fds > 0 {
        assert!(
            connections() >= fds + IDLE,
            "they are not all there: {}",
            connections()
        );
    }
    let each = resident(&supervisor).saturating_sub(before) / IDLE as u64;
    println!("an idle caller costs the supervisor {each} bytes of memory");
    assert!(each < EACH, "{each} bytes for each");
    // One more is served.
    host.get_ok("/echo/status");
    let mut more = Connection::tcp(address).unwrap();
    assert_eq!(
        more.ask(&funcd_tests::http::Request::get("/echo/status"))
            .unwrap()
            .status(),
        200
    );
    // And all are closed in time, by the host.
    let closed = || metric(&host, "funcd_connections_ended_total", "idle");
    let mut end = [0];
    for mut caller in callers {
        caller
            .set_read_timeout(Some(4 * funcd_tests::patience()))
            .unwrap();
        assert_eq!(caller.read(&mut end).unwrap(), 0, "it is still open");
    }
    until("all of them to be counted", || closed() >= IDLE as u64);
}
