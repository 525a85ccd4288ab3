//! Functions that break their contract. Each ends in three things: a clear status, a problem of a stable type, and a line of
//! the log that says what to do next.

use std::fs;
use std::sync::Arc;

use funcd_tests::eventually;
use funcd_tests::host::Host;
use funcd_tests::http::{Request, Response};
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;

use crate::programs::{bash, post, problem};

pub(crate) fn register(suite: &mut Suite) {
    const NETWORK: Need = Need::Property("network");
    const BASH: &[Need] = &[Need::Program("/bin/bash")];
    const PYTHON: &[Need] = &[NETWORK, Need::Program("/usr/bin/python3")];
    funcd_tests::tests!(suite, "bad", [
        a_lambda_function_that_answers_another_id_is_told: PYTHON,
        a_lambda_function_that_answers_twice_is_told: PYTHON,
        a_lambda_function_that_answers_too_much_is_told: PYTHON,
        a_lambda_function_that_never_answers_is_ended: PYTHON,
        a_lambda_function_that_never_asks_is_ended: PYTHON,
        an_fdk_whose_socket_is_elsewhere_is_killed: &[Need::Program("/usr/bin/python3"), Need::MountNamespaces],
        an_fdk_without_a_socket_is_killed: &[Need::Program("/usr/bin/python3"), Need::MountNamespaces],
        a_server_on_the_wrong_port_is_told_the_right_one: PYTHON,
        a_server_on_the_other_loopback_is_told_so: PYTHON,
        a_program_that_never_reads_is_answered_for: BASH,
        a_program_that_never_ends_is_killed: BASH,
        a_program_that_writes_for_ever_is_killed: BASH,
        a_program_that_writes_headers_for_ever_is_killed: BASH,
        a_program_without_headers_is_told: BASH,
    ]);
}

fn host() -> Arc<Host> {
    Host::shared("bad", |_| {})
}

/// Waits for one line of the host's log with all of these words: what happened to whom, and what to do next.
#[track_caller]
fn told(host: &Host, words: &[&str]) -> String {
    eventually(&format!("a line of the log with {words:?}"), || {
        let log = host.log();
        let mut lines = log.lines();
        let found = lines.find(|line| words.iter().all(|word| line.contains(word)));
        found.map(str::to_owned).ok_or(host.log_tail())
    })
}

/// Asks until the log has a line on this failure, with all of these words: one a second is written, and other tests fail
/// requests of this host, too. Each answer is this problem.
#[track_caller]
fn fails(host: &Host, request: &Request, (status, kind): (u16, &str), words: &[&str]) {
    eventually(&format!("a line of the log with {words:?}"), || {
        let answer = host.ask(request);
        problem(&answer, status, kind);
        let log = host.log();
        let is_it =
            |line: &&str| line.contains("a request failed") && words.iter().all(|word| line.contains(word));
        log.lines().find(is_it).map(drop).ok_or(answer.text())
    });
}

/// Deploys a script in Python.
fn python(host: &Host, name: &str, text: &str, manifest: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bootstrap");
    fs::write(&path, format!("#!/usr/bin/python3\n{text}")).unwrap();
    host.drop_folder(name, &path, manifest);
    host.wait_live(name);
}

/// The first answer of a kind that stays, for functions that never get ready: a start that is slow, or is tried again, may
/// take the time of the requests before.
#[track_caller]
fn refused(host: &Host, target: &str) -> Response {
    let answer = host.wait_for(target, "503", |answer| answer.status() == 503);
    problem(&answer, 503, "unavailable");
    assert!(
        answer.text().contains("ended before they were ready"),
        "{}",
        answer.text()
    );
    answer
}

/// What each of them is asked in, but for what it does about it.
const LAMBDA: &str = "\
import http.client, json, os, time
api = http.client.HTTPConnection(os.environ['AWS_LAMBDA_RUNTIME_API'])
runtime = '/2018-06-01/runtime/invocation/'
def call(method, path, body=None):
    api.request(method, path, body)
    response = api.getresponse()
    return response, response.read().decode()
def answer(id, body):
    response, said = call('POST', runtime + id + '/response', body)
    return response.status, json.loads(said).get('errorType')
while True:
    asked, event = call('GET', runtime + 'next')
    id, path = asked.headers['Lambda-Runtime-Aws-Request-Id'], json.loads(event)['rawPath']
    if path == '/fine':
        answer(id, json.dumps('fine'))
        continue
";

/// A function that asks, does this with every request but those for `/fine`, and asks again.
fn lambda(host: &Host, name: &str, does: &str, timeout: &str) {
    let body: String = does.lines().map(|line| format!("    {line}\n")).collect();
    let manifest = format!("exec = \"bootstrap\"\ncontract = \"lambda\"\n[request]\ntimeout = {timeout:?}\n");
    python(host, name, &format!("{LAMBDA}{body}"), &manifest);
    let fine = host.wait_for(&format!("/{name}/fine"), "200", |answer| answer.status() == 200);
    assert_eq!(fine.text(), "\"fine\"", "the control");
}

fn a_lambda_function_that_answers_another_id_is_told() {
    let host = host();
    let does = "assert answer('another', '1') == (400, 'InvalidRequestID')";
    lambda(&host, "lambda-wrong", does, "1s");
    // Nobody answers the request itself.
    problem(&host.get("/lambda-wrong/"), 504, "response-timeout");
    told(
        &host,
        &[
            "breaks its contract",
            "function=\"lambda-wrong\"",
            "invocation \"another\"",
            "to be answered once, under its Lambda-Runtime-Aws-Request-Id",
        ],
    );
    told(
        &host,
        &[
            "did not answer by the deadline",
            "lambda-wrong",
            "raise `request.timeout`",
        ],
    );
    host.wait_for("/lambda-wrong/fine", "200 again", |answer| answer.status() == 200);
}

fn a_lambda_function_that_answers_twice_is_told() {
    let host = host();
    let does = "assert answer(id, json.dumps('first'))[0] == 202\n\
                assert answer(id, json.dumps('second')) == (400, 'InvalidRequestID')";
    lambda(&host, "lambda-twice", does, "20s");
    let before = host.instance("lambda-twice").pid;
    // The second is nobody's: neither this caller's nor the next one's.
    for _ in 0..3 {
        assert_eq!(host.get_ok("/lambda-twice/").text(), "\"first\"");
    }
    assert_eq!(host.get_ok("/lambda-twice/fine").text(), "\"fine\"");
    assert_eq!(host.instance("lambda-twice").pid, before, "it stays");
    told(
        &host,
        &[
            "breaks its contract",
            "lambda-twice",
            "answered already",
            "to be answered once",
        ],
    );
}

fn a_lambda_function_that_answers_too_much_is_told() {
    let host = host();
    let does = "assert answer(id, json.dumps('x' * (7 << 20))) == (413, 'RequestEntityTooLarge')";
    lambda(&host, "lambda-large", does, "20s");
    let before = host.instance("lambda-large").pid;
    let answer = host.get("/lambda-large/");
    problem(&answer, 502, "malformed-response");
    assert!(
        answer.text().contains("stream it, or send less"),
        "{}",
        answer.text()
    );
    told(
        &host,
        &[
            "breaks its contract",
            "lambda-large",
            "it has to stream it, or to send less",
        ],
    );
    assert_eq!(host.get_ok("/lambda-large/fine").text(), "\"fine\"");
    assert_eq!(host.instance("lambda-large").pid, before, "it stays");
}

fn a_lambda_function_that_never_answers_is_ended() {
    let host = host();
    lambda(&host, "lambda-silent", "time.sleep(3600)", "1s");
    problem(&host.get("/lambda-silent/"), 504, "response-timeout");
    told(
        &host,
        &[
            "did not answer by the deadline",
            "lambda-silent",
            "raise `request.timeout`",
        ],
    );
    host.wait_for("/lambda-silent/fine", "200 again", |answer| {
        answer.status() == 200
    });
}

fn a_lambda_function_that_never_asks_is_ended() {
    let host = host();
    let manifest = "exec = \"bootstrap\"\ncontract = \"lambda\"\n[health]\nready_within = \"300ms\"\n";
    python(&host, "lambda-deaf", "import time\ntime.sleep(3600)\n", manifest);
    refused(&host, "/lambda-deaf/");
    told(
        &host,
        &[
            "ended",
            "lambda-deaf",
            "did not ask for its first invocation",
            "raise `health.ready_within`",
        ],
    );
    told(&host, &["ALERT", "lambda-deaf"]);
}

/// An FDK's socket, under another name than it is to have.
const SOCKET: &str = "\
import os, socket, time
s = socket.socket(socket.AF_UNIX)
path = os.environ['FN_LISTENER'][5:]
here = os.path.dirname(path)
s.bind(here + '/own')
os.chmod(here + '/own', 0o666)
s.listen()
";

fn an_fdk_whose_socket_is_elsewhere_is_killed() {
    let host = host();
    // One that it has no business with.
    let admin = host.path().join("run/admin.sock").display().to_string();
    let outside = format!("{SOCKET}os.symlink({admin:?}, path)\ntime.sleep(1000)\n");
    let manifest = "exec = \"bootstrap\"\ncontract = \"fn\"\n[request]\ntimeout = \"20s\"\n";
    python(&host, "fn-outside", &outside, manifest);
    refused(&host, "/fn-outside/");
    told(
        &host,
        &[
            "fn-outside",
            "symlink out of its directory",
            "it has to name a socket beside it",
        ],
    );
    // The control: the same, with a symlink beside it.
    let beside = format!(
        "{SOCKET}os.symlink('own', path)\nwhile True:\n    c, _ = s.accept()\n    c.recv(65536)\n    \
         c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 4\\r\\nConnection: close\\r\\n\\r\\nfine')\n    c.close()\n"
    );
    python(&host, "fn-beside", &beside, manifest);
    let fine = host.wait_for("/fn-beside/", "200", |answer| answer.status() == 200);
    assert_eq!(fine.text(), "fine");
}

fn an_fdk_without_a_socket_is_killed() {
    let host = host();
    let manifest = "exec = \"bootstrap\"\ncontract = \"fn\"\n[health]\nready_within = \"300ms\"\n";
    python(&host, "fn-never", "import time\ntime.sleep(1000)\n", manifest);
    refused(&host, "/fn-never/");
    told(
        &host,
        &[
            "ended",
            "fn-never",
            "no socket came at $FN_LISTENER",
            "raise `health.ready_within`",
        ],
    );
}

/// A server that answers everybody, somewhere.
fn server(at: &str) -> String {
    format!(
        "import os, socket\ns = socket.create_server({at})\nwhile True:\n    c, _ = s.accept()\n    c.recv(65536)\n    \
         c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 4\\r\\nConnection: close\\r\\n\\r\\nfine')\n    c.close()\n"
    )
}

/// Deploys a server that listens there, and one that listens where it should: the control.
fn listens(host: &Host, name: &str, at: &str) {
    let manifest = |within: &str| {
        format!(
            "exec = \"bootstrap\"\ncontract = \"port\"\nport = 8000\n[health]\nready_within = {within:?}\n"
        )
    };
    python(host, name, &server(at), &manifest("500ms"));
    let right = format!("{name}-not");
    python(
        host,
        &right,
        &server("('127.0.0.1', int(os.environ['PORT']))"),
        &manifest("20s"),
    );
    let fine = host.wait_for(&format!("/{right}/"), "200", |answer| answer.status() == 200);
    assert_eq!(fine.text(), "fine");
}

fn a_server_on_the_wrong_port_is_told_the_right_one() {
    let host = host();
    listens(&host, "port-wrong", "('127.0.0.1', 8001)");
    refused(&host, "/port-wrong/");
    told(
        &host,
        &[
            "ended",
            "function=port-wrong ",
            "nothing accepted connections on port 8000 of 127.0.0.1",
            "listen on $PORT",
        ],
    );
}

fn a_server_on_the_other_loopback_is_told_so() {
    let host = host();
    listens(&host, "port-six", "('::1', 8000), family=socket.AF_INET6");
    refused(&host, "/port-six/");
    told(
        &host,
        &[
            "ended",
            "function=port-six ",
            "port 8000 of 127.0.0.1",
            "not of ::1 alone",
        ],
    );
}

/// Waits until nothing of a function runs.
#[track_caller]
fn gone(host: &Host, name: &str) {
    eventually(&format!("{name} to be gone"), || {
        let rows = host.try_ps()?;
        let left = rows.iter().find(|row| row.function == name && row.pid.is_some());
        left.map_or(Ok(()), |row| Err(format!("{row:?}")))
    });
}

const SOON: &str = "[request]\ntimeout = \"1s\"\n";

fn a_program_that_never_reads_is_answered_for() {
    let host = host();
    // It ends: the body goes nowhere, and that is its right.
    bash(
        &host,
        "reads-nothing",
        "echo heard nothing",
        &format!("contract = \"stdio\"\n{SOON}"),
    );
    let answer = post(&host, "/reads-nothing/", &"x".repeat(1 << 20));
    assert_eq!(
        (answer.status(), answer.text().as_str()),
        (200, "heard nothing\n")
    );
    // It does not end, either.
    bash(
        &host,
        "reads-never",
        "while :; do :; done",
        &format!("contract = \"stdio\"\n{SOON}"),
    );
    let unread = Request::post("/reads-never/", "x".repeat(1 << 20));
    fails(
        &host,
        &unread,
        (408, "exec-timeout"),
        &["reads-never", "exec-timeout", "raise `request.timeout`"],
    );
    gone(&host, "reads-never");
}

fn a_program_that_never_ends_is_killed() {
    let host = host();
    for (mode, status, kind) in [
        ("classic", 408, "exec-timeout"),
        ("serializing", 504, "response-timeout"),
    ] {
        let name = format!("endless-{mode}");
        let manifest = format!("contract = \"stdio\"\n[stdio]\nmode = {mode:?}\n{SOON}");
        bash(&host, &name, "echo half; while :; do :; done", &manifest);
        let request = Request::post(&format!("/{name}/"), "body");
        fails(
            &host,
            &request,
            (status, kind),
            &[&name, kind, "raise `request.timeout`"],
        );
        gone(&host, &name);
    }
}

fn a_program_that_writes_for_ever_is_killed() {
    let host = host();
    bash(
        &host,
        "floods",
        "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done",
        "contract = \"stdio\"\n[stdio]\noutput = \"64K\"\n",
    );
    fails(
        &host,
        &Request::get("/floods/"),
        (502, "output-too-large"),
        &["floods", "output-too-large", "raise stdio.output"],
    );
    gone(&host, "floods");
}

fn a_program_that_writes_headers_for_ever_is_killed() {
    let host = host();
    bash(
        &host,
        "heads",
        "while :; do echo 'X-Header: x'; done",
        "contract = \"cgi\"\n",
    );
    fails(
        &host,
        &Request::get("/heads/"),
        (502, "malformed-response"),
        &["heads", "malformed-response", "a blank line has to end them"],
    );
    gone(&host, "heads");
    // Slowly, too.
    bash(
        &host,
        "drips",
        "while :; do echo 'X-Header: x'; read -r -t 0.05 < /dev/null; for ((i = 0; i < 30000; i++)); do :; done; done",
        &format!("contract = \"cgi\"\n{SOON}"),
    );
    fails(
        &host,
        &Request::get("/drips/"),
        (504, "response-timeout"),
        &["drips", "response-timeout", "raise `request.timeout`"],
    );
    gone(&host, "drips");
}

fn a_program_without_headers_is_told() {
    let host = host();
    bash(
        &host,
        "headless-words",
        "echo hello; echo; echo world",
        "contract = \"cgi\"\n",
    );
    fails(
        &host,
        &Request::get("/headless-words/"),
        (502, "malformed-response"),
        &["headless-words", "begins with headers, then a blank line"],
    );
    // What it breaks may be the guess.
    bash(&host, "headless-guess", "echo \"$QUERY_STRING\"", "");
    fails(
        &host,
        &Request::get("/headless-guess/?a"),
        (502, "malformed-response"),
        &["headless-guess", "set `contract` in its function.toml"],
    );
}
