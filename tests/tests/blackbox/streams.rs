//! Bodies that are larger than what anybody keeps of them, and streams that never end.

use std::fs;
use std::path::Path;
use std::process::Command;

use funcd_tests::artifacts::{example, example_file};
use funcd_tests::host::Host;
use funcd_tests::http::{Connection, Request};
use funcd_tests::need::Need;
use funcd_tests::process::Process;
use funcd_tests::suite::Suite;
use funcd_tests::{eventually, until};

pub(crate) fn register(suite: &mut Suite) {
    const FILTERS: &[Need] = &[Need::Program("wc"), Need::Program("head"), Need::Program("cat")];
    funcd_tests::tests!(suite, "streams", [
        a_gibibyte_each_way_over_http1,
        a_gibibyte_each_way_over_http2,
        a_gibibyte_each_way_through_a_port: &[Need::Property("network")],
        a_gibibyte_each_way_through_a_process: FILTERS,
        what_is_kept_is_seen: FILTERS,
        each_event_arrives_before_the_next_one_is_made,
        who_stops_listening_to_events_ends_them,
        a_body_may_still_come_while_the_answer_goes,
    ]);
}

const GIB: u64 = 1 << 30;
/// What the supervisor may grow by, however large a body is: a fiftieth of it.
const FLAT: u64 = 20 << 20;

/// The most memory that a process had since it was last asked to forget it, in bytes (proc_pid_status(5), VmHWM).
fn peak(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// By how much a process grew at most while something was done.
fn growth(process: &Process, work: impl FnOnce()) -> u64 {
    // Forgets the peak (proc_pid_clear_refs(5)).
    fs::write(format!("/proc/{}/clear_refs", process.pid), "5").unwrap();
    let before = peak(process);
    work();
    // It may have given back what it had before.
    peak(process).saturating_sub(before)
}

#[track_caller]
fn is_flat(what: &str, grown: u64) {
    eprintln!("{what}: the supervisor grew by {} KiB", grown >> 10);
    assert!(
        grown <= FLAT,
        "{what}: the supervisor grew by {} MiB",
        grown >> 20
    );
}

/// Sends a body of zeros, and returns the answer.
fn upload(host: &Host, target: &str, length: u64) -> String {
    let mut caller = host.connect();
    let head = Request::new("POST", target).header("content-length", &length.to_string());
    caller.send_head(&head).unwrap();
    let piece = vec![0; 256 << 10];
    for _ in 0..length / piece.len() as u64 {
        caller.write(&piece).unwrap();
    }
    caller.response("POST").unwrap().text()
}

/// The length of an answer, which is not kept.
fn download(host: &Host, target: &str) -> u64 {
    let mut caller = host.connect();
    caller.send_head(&Request::get(target)).unwrap();
    let head = caller.head().unwrap();
    assert_eq!(head.status, 200, "{head:?}");
    chunks(&mut caller)
}

fn chunks(caller: &mut Connection) -> u64 {
    let mut length = 0;
    loop {
        match caller.chunk().unwrap().len() {
            0 => return length,
            piece => length += piece as u64,
        }
    }
}

fn each_way(what: &str, manifest: &str) {
    let host = Host::start();
    host.deploy("echo", "echo", &format!("{manifest}[request]\nbody = \"1G\"\n"));
    // What everything takes once.
    assert_eq!(upload(&host, "/echo/count", 4 << 20), (4 << 20).to_string());
    assert_eq!(download(&host, "/echo/bytes?n=4194304"), 4 << 20);
    let supervisor = host.supervisor();
    is_flat(
        &format!("{what}, up"),
        growth(&supervisor, || {
            assert_eq!(upload(&host, "/echo/count", GIB), GIB.to_string());
        }),
    );
    is_flat(
        &format!("{what}, down"),
        growth(&supervisor, || {
            assert_eq!(download(&host, &format!("/echo/bytes?n={GIB}")), GIB);
        }),
    );
}

fn a_gibibyte_each_way_over_http1() {
    each_way("http", "");
}

fn a_gibibyte_each_way_through_a_port() {
    each_way("port", "contract = \"port\"\n");
}

fn a_gibibyte_each_way_over_http2() {
    let host = Host::start();
    let manifest = fs::read_to_string(example_file("grpc/function.toml")).unwrap();
    host.deploy("talk", "grpc", &format!("{manifest}[request]\nbody = \"2G\"\n"));
    let flood = |lines: u64| {
        let mut client = Command::new(example("grpc-client"));
        let bytes = 64 << 10;
        client.arg(host.address().to_string());
        let output = client
            .args(["flood", &lines.to_string(), &bytes.to_string()])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim_end(),
            (lines * bytes).to_string(),
            "{output:?}\n{}",
            host.log_tail()
        );
    };
    flood(64);
    // Both ways at once.
    is_flat("h2c", growth(&host.supervisor(), || flood(GIB >> 16)));
}

fn program(host: &Host, name: &str, program: &str, manifest: &str) {
    let found = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(program));
    let path = found.iter().find(|path| path.exists()).unwrap();
    host.drop_folder(name, path, manifest);
    host.wait_live(name);
}

const STREAMING: &str = "contract = \"stdio\"\n[stdio]\nmode = \"streaming\"\n[request]\nbody = \"1G\"\n";

fn a_gibibyte_each_way_through_a_process() {
    let host = Host::start();
    program(&host, "wc", "wc", &format!("args = [\"-c\"]\n{STREAMING}"));
    program(
        &host,
        "head",
        "head",
        &format!("args = [\"-c\", \"1G\", \"/dev/zero\"]\n{STREAMING}"),
    );
    assert_eq!(upload(&host, "/wc/", 4 << 20).trim(), (4 << 20).to_string());
    let supervisor = host.supervisor();
    is_flat(
        "stdio, up",
        growth(&supervisor, || {
            assert_eq!(upload(&host, "/wc/", GIB).trim(), GIB.to_string());
        }),
    );
    is_flat(
        "stdio, down",
        growth(&supervisor, || assert_eq!(download(&host, "/head/"), GIB)),
    );
}

/// The control of the tests above: what the supervisor is told to keep until the end is found by the same measurement.
fn what_is_kept_is_seen() {
    let host = Host::start();
    let manifest =
        "args = [\"-c\", \"100M\", \"/dev/zero\"]\ncontract = \"stdio\"\n[stdio]\noutput = \"128M\"\n";
    program(&host, "head", "head", manifest);
    let grown = growth(&host.supervisor(), || {
        assert_eq!(host.get_ok("/head/").body.len(), 100 << 20);
    });
    assert!(grown > 90 << 20, "{grown}");
}

fn each_event_arrives_before_the_next_one_is_made() {
    let host = Host::start();
    host.deploy("ticker", "ticker", "[request]\ntimeout = \"2s\"\n");
    let mut caller = host.connect();
    // The second is an hour away: nobody can have waited for it to pass on the first.
    caller
        .send_head(&Request::get("/ticker/events?interval_ms=3600000"))
        .unwrap();
    let head = caller.head().unwrap();
    assert_eq!(
        (head.status, head.header("content-type")),
        (200, Some("text/event-stream"))
    );
    assert_eq!(caller.chunk().unwrap(), b"data: 1\n\n");
    // The time-out is for the head: a stream goes on for as long as its caller listens.
    let mut caller = host.connect();
    caller
        .send_head(&Request::get("/ticker/events?interval_ms=1000"))
        .unwrap();
    caller.head().unwrap();
    for number in 1..=4 {
        assert_eq!(caller.chunk().unwrap(), format!("data: {number}\n\n").as_bytes());
    }
}

fn who_stops_listening_to_events_ends_them() {
    let host = Host::start();
    host.deploy("ticker", "ticker", "[scale]\nmax = 1\n");
    {
        let mut caller = host.connect();
        caller
            .send_head(&Request::get("/ticker/events?interval_ms=3600000"))
            .unwrap();
        caller.head().unwrap();
        assert_eq!(caller.chunk().unwrap(), b"data: 1\n\n");
        until("it to be seen", || in_flight(&host, "ticker") == Some(1));
    }
    // Nothing is written to it: its end alone is what tells.
    eventually("the stream to be over", || match in_flight(&host, "ticker") {
        Some(0) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

fn in_flight(host: &Host, name: &str) -> Option<u64> {
    let document = host.json(&["ls"]).ok()?;
    let functions = document["functions"].as_array()?;
    functions.iter().find(|row| row["name"] == name)?["function"]["in_flight"].as_u64()
}

fn a_body_may_still_come_while_the_answer_goes() {
    let host = Host::start();
    host.deploy("echo", "echo", "");
    let mut caller = host.connect();
    let head = Request::new("POST", "/echo/pipe").header("transfer-encoding", "chunked");
    caller.send_head(&head).unwrap();
    caller.write(b"3\r\none\r\n").unwrap();
    assert_eq!(caller.head().unwrap().status, 200);
    assert_eq!(caller.chunk().unwrap(), b"one");
    caller.write(b"3\r\ntwo\r\n").unwrap();
    assert_eq!(caller.chunk().unwrap(), b"two");
    caller.write(b"0\r\n\r\n").unwrap();
    assert_eq!(chunks(&mut caller), 0);
}
