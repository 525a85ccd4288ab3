//! Functions written for AWS Lambda: with the crates of AWS, by hand, and such that break the contract.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use funcd_tests::artifacts::{cargo_lambda, example_file};
use funcd_tests::host::Host;
use funcd_tests::http::{Request, Response};
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;
use funcd_tests::until;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::refusals::problem;

pub(crate) fn register(suite: &mut Suite) {
    const NETWORK: Need = Need::Property("network");
    const RUST: &[Need] = &[NETWORK];
    const PYTHON: &[Need] = &[NETWORK, Need::Program("/usr/bin/python3")];
    funcd_tests::tests!(suite, "lambda", [
        a_function_of_the_crate_answers: RUST,
        one_without_a_manifest_is_found_out: RUST,
        bytes_go_in_and_out: RUST,
        an_error_is_told_to_the_log_and_not_to_callers: RUST,
        events_and_contexts_are_those_of_the_contract: RUST,
        an_answer_without_a_status_is_the_body: RUST,
        a_response_is_streamed: RUST,
        a_stream_that_breaks_off_is_seen_to: RUST,
        sixteen_are_worked_on_at_once: RUST,
        raw_invocations_are_for_those_who_ask_for_them: RUST,
        cargo_lambda_invokes: &[NETWORK, Need::CargoLambda],
        one_that_does_not_answer_in_time_ends: RUST,
        one_that_dies_is_told_and_started_again: RUST,
        a_response_of_more_than_six_mebibytes_is_refused: RUST,
        one_that_ends_in_its_init_phase_is_told: RUST,
        by_hand: PYTHON,
        a_supervisor_that_crashes_is_asked_on: PYTHON,
        answers_that_nobody_asked_for_are_refused: PYTHON,
        a_stream_as_the_client_for_go_writes_it: PYTHON,
        one_that_never_asks_is_never_ready: PYTHON,
        an_init_error_is_in_the_log: PYTHON,
        nothing_but_the_api_is_reachable: PYTHON,
        extensions_are_put_up_with: PYTHON,
    ]);
}

fn host() -> Arc<Host> {
    Host::shared("lambda", |host| {
        // Tests side by side ask the same function, of which each instance does one thing at a time: they wait for their turns.
        let fifo = "[request]\nqueue = \"fifo\"\n";
        let manifest = fs::read_to_string(example_file("lambda-http/function.toml")).unwrap();
        host.deploy(
            "greeter",
            "lambda-http",
            &format!("{manifest}[scale]\nmax = 1\n{fifo}"),
        );
        host.deploy("tries", "lambda-tries", &format!("contract = \"lambda\"\n{fifo}"));
    })
}

fn a_function_of_the_crate_answers() {
    let host = host();
    assert_eq!(host.get_ok("/greeter/").json(), json!({"hello": "world"}));
    let named = host.get_ok("/greeter?name=a%20%C3%A9%2Bb");
    assert_eq!(named.json(), json!({"hello": "a é+b"}));
    assert_eq!(named.header("content-type"), Some("application/json"));
    assert_eq!(host.get("/greeter/nowhere").status(), 404);
    let visit = host.ask(&Request::get("/greeter/visits").header("cookie", "a=b; visits=41"));
    assert_eq!(visit.text(), "visit 42\n");
    assert_eq!(visit.head.all("set-cookie"), ["visits=42; HttpOnly", "seen=yes"]);
    let head = host.ask(&Request::new("HEAD", "/greeter/"));
    assert_eq!((head.status(), head.text().as_str()), (200, ""));
}

fn one_without_a_manifest_is_found_out() {
    let host = host();
    host.deploy("plain", "lambda-http", "");
    assert_eq!(host.get_ok("/plain/").json(), json!({"hello": "world"}));
    host.remove("plain");
}

fn bytes_go_in_and_out() {
    let host = host();
    let pixel = host.get_ok("/greeter/pixel");
    assert_eq!(pixel.header("content-type"), Some("image/png"));
    assert!(pixel.body.starts_with(b"\x89PNG\r\n") && pixel.body.len() == 67);
    for bytes in [
        vec![],
        vec![0],
        vec![0xff; 1000],
        (0..3 << 20).map(|n| n as u8).collect(),
    ] {
        let length = format!("{}\n", bytes.len());
        assert_eq!(host.ask(&Request::post("/greeter/length", bytes)).text(), length);
    }
    let text = Request::post("/greeter/length", "é").header("content-type", "text/plain");
    assert_eq!(host.ask(&text).text(), "2\n");
    let large = host.ask(&Request::post("/greeter/length", vec![0; (6 << 20) + 1]));
    problem(&large, 413, "http_request_error");
}

fn an_error_is_told_to_the_log_and_not_to_callers() {
    let host = host();
    host.get_ok("/greeter/");
    let before = host.instance("greeter").pid;
    let failed = host.get("/greeter/fail");
    problem(&failed, 502, "http_protocol_error");
    assert_eq!(failed.json()["type"], "urn:funcd:error:function-error");
    assert!(!failed.text().contains("nobody"), "{}", failed.text());
    assert!(host.log().contains("nobody can do this"), "{}", host.log_tail());
    host.get_ok("/greeter/");
    assert_eq!(host.instance("greeter").pid, before, "it stays");
}

fn events_and_contexts_are_those_of_the_contract() {
    let host = host();
    let request = Request::post("/tries/event/x?a=1&a=2", "{\"in\":1}")
        .header("content-type", "application/json")
        .header("X-Two", "1")
        .header("X-Two", "2")
        .header("cookie", "k=v")
        .header("x-request-id", "mine")
        .header("x-funcd-deadline-ms", "1");
    // Its answer is the event, which has no status: a body as it is.
    let event = host.ask(&request).json();
    for (pointer, expected) in [
        ("/version", json!("2.0")),
        ("/rawPath", json!("/event/x")),
        ("/rawQueryString", json!("a=1&a=2")),
        ("/queryStringParameters", json!({"a": "1,2"})),
        ("/cookies", json!(["k=v"])),
        ("/headers/x-two", json!("1,2")),
        ("/headers/x-forwarded-prefix", json!("/tries")),
        ("/requestContext/http/method", json!("POST")),
        ("/requestContext/http/sourceIp", json!("127.0.0.1")),
        ("/requestContext/requestId", json!("mine")),
        ("/body", json!("{\"in\":1}")),
        ("/isBase64Encoded", json!(false)),
    ] {
        assert_eq!(event.pointer(pointer), Some(&expected), "{pointer}: {event}");
    }
    let headers = event["headers"].as_object().unwrap();
    let internal = |name: &&String| ["cookie", "connection", "x-funcd-deadline-ms"].contains(&name.as_str());
    assert_eq!(headers.keys().find(internal), None, "{event}");

    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let context = host
        .ask(&Request::get("/tries/context").header("traceparent", parent))
        .json();
    assert_eq!(context["id"].as_str().unwrap().len(), 36, "{context}");
    let left = context["left"].as_u64().unwrap();
    assert!((1..=30_000).contains(&left), "{context}");
    assert_eq!(
        context["arn"],
        "arn:aws:lambda:us-east-1:000000000000:function:tries"
    );
    assert_eq!(
        context["trace"],
        "Root=1-0af76519-16cd43dd8448eb211c80319c;Parent=b7ad6b7169203331;Sampled=1"
    );
    assert_eq!(context["memory"], 256);
}

fn an_answer_without_a_status_is_the_body() {
    let host = host();
    let text = host.get_ok("/tries/text");
    assert_eq!(
        (text.text().as_str(), text.header("content-type")),
        ("\"text\"", Some("application/json"))
    );
    assert_eq!(host.get("/tries/status/204").status(), 204);
    let odd = host.get("/tries/status/99");
    problem(&odd, 502, "http_protocol_error");
    assert!(odd.text().contains("statusCode"), "{}", odd.text());
}

fn a_response_is_streamed() {
    let host = host();
    let streamed = host.get_ok("/tries/stream/3");
    assert_eq!(streamed.text(), "data: 0\n\ndata: 1\n\ndata: 2\n\n");
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("x-pieces", "3"),
        ("set-cookie", "streamed=yes; Secure"),
        ("transfer-encoding", "chunked"),
    ] {
        assert_eq!(streamed.header(name), Some(value));
    }
    // More than any buffer holds.
    let many = host.get_ok("/tries/stream/100000");
    assert_eq!(
        many.text()
            .lines()
            .filter(|line| line.starts_with("data"))
            .count(),
        100_000
    );
    assert_eq!(
        host.get_ok("/tries/text").text(),
        "\"text\"",
        "its place is free again"
    );
}

fn a_stream_that_breaks_off_is_seen_to() {
    let host = host();
    let mut connection = host.connect();
    let broken = connection.ask(&Request::get("/tries/break/2"));
    assert!(broken.is_err(), "{broken:?}");
    until("the log to say so", || host.log().contains("told to break off"));
    host.get_ok("/tries/text");
}

fn sixteen_are_worked_on_at_once() {
    let host = host();
    let manifest = "contract = \"lambda\"\n[scale]\nconcurrency = 16\nmax = 1\n";
    host.deploy("crowd", "lambda-tries", manifest);
    let answers: Vec<Response> = std::thread::scope(|scope| {
        let ask = || host.get_ok("/crowd/meet/16");
        let all: Vec<_> = (0..16).map(|_| scope.spawn(ask)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| answer.text() == "16"));
    assert_eq!(host.instances("crowd").len(), 1);
    host.remove("crowd");
}

fn raw_invocations_are_for_those_who_ask_for_them() {
    let host = host();
    let path = |name: &str| format!("/2015-03-31/functions/{name}/invocations");
    let event = || json!({"do": "text"}).to_string();
    let unknown = host.ask(&Request::post(&path("tries"), event()));
    problem(&unknown, 404, "destination_not_found");

    host.deploy("raw", "lambda-tries", "contract = \"lambda\"\ninvoke = true\n");
    let ask = |event: &str| host.ask(&Request::post(&path("raw"), event));
    let answer = ask(&event());
    assert_eq!((answer.status(), answer.text().as_str()), (200, "\"text\""));
    assert_eq!(answer.header("x-amz-executed-version"), Some("$LATEST"));
    assert_eq!(answer.header("x-amz-function-error"), None);
    assert_eq!(
        ask("{\"do\":\"event\",\"n\":1}").json(),
        json!({"do": "event", "n": 1})
    );
    assert_eq!(
        ask("{\"do\":\"status\",\"number\":99}").json(),
        json!({"statusCode": 99})
    );

    let failed = ask("{\"do\":\"fail\"}");
    assert_eq!(
        (failed.status(), failed.header("x-amz-function-error")),
        (200, Some("Unhandled"))
    );
    assert!(
        failed.json()["errorMessage"]
            .as_str()
            .unwrap()
            .contains("told to fail"),
        "{}",
        failed.text()
    );

    // {"custom":{"a":1}}
    let with_context = Request::post(&path("raw"), "{\"do\":\"context\"}")
        .header("x-amz-client-context", "eyJjdXN0b20iOnsiYSI6IjEifX0=");
    let context = host.ask(&with_context).json();
    assert_eq!(context["client"]["custom"], json!({"a": "1"}), "{context}");

    problem(&ask("no json"), 400, "http_request_error");
    let later = Request::post(&path("raw"), event()).header("x-amz-invocation-type", "Event");
    problem(&host.ask(&later), 400, "http_request_error");
    host.remove("raw");
}

fn cargo_lambda_invokes() {
    let host = host();
    host.deploy(
        "invoked",
        "lambda-tries",
        "contract = \"lambda\"\ninvoke = true\n",
    );
    let folder = tempfile::tempdir().unwrap();
    let invoke = |event: &str| {
        let mut command = Command::new(cargo_lambda());
        command.args([
            "lambda",
            "invoke",
            "--invoke-address",
            "127.0.0.1",
            "--invoke-port",
        ]);
        command.arg(host.address().port().to_string());
        command.args([
            "invoked",
            "--data-ascii",
            event,
            "--client-context-ascii",
            "{\"custom\":{\"a\":\"1\"}}",
        ]);
        let ran = command
            .env("HOME", folder.path())
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        (ran.status.success(), said + &String::from_utf8_lossy(&ran.stderr))
    };
    let (succeeds, said) = invoke("{\"do\":\"event\",\"n\":7}");
    assert!(succeeds && said.contains("\"n\":7"), "{said}");
    let (succeeds, said) = invoke("{\"do\":\"context\"}");
    assert!(succeeds && said.contains("\"custom\":{\"a\":\"1\"}"), "{said}");
    let (_, said) = invoke("{\"do\":\"fail\"}");
    assert!(said.contains("told to fail"), "{said}");
    host.remove("invoked");
}

fn one_that_does_not_answer_in_time_ends() {
    let host = host();
    host.deploy(
        "late",
        "lambda-tries",
        "contract = \"lambda\"\n[request]\ntimeout = \"300ms\"\n",
    );
    host.wait_for("/late/text", "200", |answer| answer.status() == 200);
    let before = host.instance("late").pid;
    problem(&host.get("/late/sleep/3600000"), 504, "http_response_timeout");
    host.wait_for("/late/text", "200 from another process", |answer| {
        answer.status() == 200
    });
    until("the one that was late to end", || {
        host.instances("late").iter().all(|one| one.pid != Some(before))
    });
    // A caller in a hurry ends nothing.
    let before = host.instance("late").pid;
    let hurried = Request::get("/late/sleep/100").header("x-request-timeout-ms", "20");
    problem(&host.ask(&hurried), 504, "http_response_timeout");
    host.wait_for("/late/text", "200", |answer| answer.status() == 200);
    assert_eq!(host.instance("late").pid, before);
    assert!(
        host.log().contains("did not answer by the deadline"),
        "{}",
        host.log_tail()
    );
    host.remove("late");
}

fn one_that_dies_is_told_and_started_again() {
    let host = host();
    host.deploy("dies", "lambda-tries", "contract = \"lambda\"\n");
    for path in ["/dies/exit/3", "/dies/panic"] {
        // A GET would be sent again, to another one that dies of it.
        problem(&host.ask(&Request::post(path, "")), 502, "connection_terminated");
        host.wait_for("/dies/text", "200", |answer| answer.status() == 200);
    }
    host.remove("dies");
}

fn a_response_of_more_than_six_mebibytes_is_refused() {
    let host = host();
    // The quotes count, too.
    let most = (6 << 20) + 100 - 2;
    assert_eq!(host.get_ok(&format!("/tries/large/{most}")).body.len(), most + 2);
    let large = host.get(&format!("/tries/large/{}", most + 1));
    problem(&large, 502, "http_protocol_error");
    assert!(large.text().contains("larger than 6 MiB"), "{}", large.text());
    host.wait_for("/tries/text", "200", |answer| answer.status() == 200);
}

fn one_that_ends_in_its_init_phase_is_told() {
    let host = host();
    let manifest = "contract = \"lambda\"\nenv = { TRIES_INIT = \"exit\" }\n[request]\ntimeout = \"20s\"\n";
    host.deploy("stillborn", "lambda-tries", manifest);
    let answer = host.get("/stillborn/");
    problem(&answer, 503, "destination_unavailable");
    assert!(answer.text().contains("exited with code 1"), "{}", answer.text());
    host.remove("stillborn");
}

fn by_hand() {
    let host = host();
    let manifest = fs::read_to_string(example_file("lambda-py/function.toml")).unwrap();
    host.drop_folder("by-hand", &example_file("lambda-py/bootstrap"), &manifest);
    let answer = host.wait_for("/by-hand/?name=me", "200", |answer| answer.status() == 200);
    assert!(answer.text().starts_with("hello me from"), "{}", answer.text());
    host.remove("by-hand");
}

fn a_supervisor_that_crashes_is_asked_on() {
    let host = Host::start();
    let manifest = fs::read_to_string(example_file("lambda-py/function.toml")).unwrap();
    host.drop_folder("stays", &example_file("lambda-py/bootstrap"), &manifest);
    host.wait_for("/stays/", "200", |answer| answer.status() == 200);
    let before = host.instance("stays").pid;
    for _ in 0..2 {
        let crashed = host.supervisor();
        crashed.signal(Signal::SIGKILL);
        until("it to be gone", || !crashed.is_there());
        host.wait_for("/stays/", "200", |answer| answer.status() == 200);
        assert_eq!(host.instance("stays").pid, before, "the same process");
    }
}

/// A bootstrap that does what its event says, and answers with the statuses that it got for it.
const ROGUE: &str = r#"#!/usr/bin/python3
import base64, http.client, json, os, socket, time
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
got = []
def call(method, path, body=None, headers={}):
    api.request(method, path, body, headers)
    response = api.getresponse()
    body = response.read().decode()
    got.append([response.status, json.loads(body).get("errorType") if body else None])
    return response, body
runtime = "/2018-06-01/runtime/"
init = os.environ.get("ROGUE_INIT")
if init == "error":
    told = json.dumps({"errorMessage": "no\ndatabase", "errorType": "Init.Failed"})
    call("POST", runtime + "init/error", told, {"Lambda-Runtime-Function-Error-Type": "Init.Failed"})
    raise SystemExit(1)
if init == "never":
    time.sleep(3600)
if init == "extension":
    answer, body = call("POST", "/2020-01-01/extension/register", '{"events":[]}', {"Lambda-Extension-Name": "x"})
    got.append([len(answer.headers["Lambda-Extension-Identifier"]), json.loads(body)["functionName"]])
last = None
while True:
    asked, event = call("GET", runtime + "invocation/next")
    got.pop()
    event = json.loads(event)
    name = asked.headers["Lambda-Runtime-Aws-Request-Id"]
    answer = runtime + "invocation/" + name + "/response"
    what = event["rawPath"].strip("/")
    if what == "rogue":
        call("POST", runtime + "invocation/no-such-id/response", "1")
        call("POST", runtime + "invocation/no-such-id/error", "{}")
        if last:
            call("POST", runtime + "invocation/" + last + "/response", "1")
        call("POST", answer, "1", {"Lambda-Runtime-Function-Response-Mode": "buffered"})
        call("POST", runtime + "init/error", "{}")
        call("GET", runtime + "nothing")
        call("PUT", answer, "1")
    if what in ("trailers", "breaks"):
        # As the client for Go does it: no mode, the type alone; trailers are always declared.
        chunks = [b'{"statusCode":203,"headers":{"x-go":"yes"},"cookies":["a=1"]}' + bytes(4), bytes(4), b"streamed"]
        told = b"Lambda-Runtime-Function-Error-Type: errorString\r\nLambda-Runtime-Function-Error-Body: "
        told += base64.b64encode(b'{"errorType":"errorString","errorMessage":"broken off"}') + b"\r\n"
        with socket.create_connection(api.sock.getpeername()) as s:
            s.sendall(f"POST {answer} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n".encode())
            s.sendall(b"Content-Type: application/vnd.awslambda.http-integration-response\r\n")
            s.sendall(b"Trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n\r\n")
            for chunk in chunks:
                s.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            s.sendall(b"0\r\n" + (told if what == "breaks" else b"") + b"\r\n")
            assert s.recv(65536).startswith(b"HTTP/1.1 202"), "it ends on anything else"
        continue
    if what == "scan":
        def opens(port):
            with socket.socket() as s:
                # A socket that is given the port as its own reaches itself.
                return s.connect_ex(("127.0.0.1", port)) == 0 and s.getsockname()[1] != port
        got = [port for port in range(1, 65536) if opens(port)]
    last = name
    call("POST", answer, json.dumps({"statusCode": 200, "body": json.dumps(got)}))
    got = []
"#;

/// Drops it in as `name`, with an environment.
fn rogue(host: &Host, name: &str, init: &str) {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("bootstrap");
    fs::write(&script, ROGUE).unwrap();
    let manifest = format!(
        "contract = \"lambda\"\nenv = {{ ROGUE_INIT = {init:?} }}\n[health]\nready_within = \"2s\"\n[request]\ntimeout = \"20s\"\n"
    );
    host.drop_folder(name, &script, &manifest);
    host.wait_live(name);
}

fn answers_that_nobody_asked_for_are_refused() {
    let host = host();
    rogue(&host, "rogue", "");
    host.wait_for("/rogue/", "200", |answer| answer.status() == 200);
    let got = host.get_ok("/rogue/rogue").json();
    assert_eq!(
        got,
        json!([
            [400, "InvalidRequestID"],
            [400, "InvalidRequestID"],
            [400, "InvalidRequestID"],
            [400, "InvalidFunctionResponseMode"],
            [403, "InvalidStateTransition"],
            [404, "NotFound"],
            [404, "NotFound"],
        ])
    );
    assert!(host.log().contains("breaks its contract"), "{}", host.log_tail());
    host.remove("rogue");
}

fn a_stream_as_the_client_for_go_writes_it() {
    let host = host();
    rogue(&host, "go", "");
    let answer = host.wait_for("/go/trailers", "203", |answer| answer.status() == 203);
    assert_eq!(
        (answer.text().as_str(), answer.header("x-go")),
        ("streamed", Some("yes"))
    );
    assert_eq!(answer.header("set-cookie"), Some("a=1"));
    let broken = host.connect().ask(&Request::get("/go/breaks"));
    assert!(broken.is_err(), "{broken:?}");
    until("the log to say so", || host.log().contains("broken off"));
    let before = host.instance("go").pid;
    host.get_ok("/go/");
    assert_eq!(host.instance("go").pid, before, "it got its 202 both times");
    host.remove("go");
}

fn one_that_never_asks_is_never_ready() {
    let host = host();
    rogue(&host, "never", "never");
    let answer = host.get("/never/");
    assert!([503, 504].contains(&answer.status()), "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    host.wait_exit("never", "start-timeout");
    host.remove("never");
}

fn an_init_error_is_in_the_log() {
    let host = host();
    rogue(&host, "no-init", "error");
    let answer = host.get("/no-init/");
    problem(&answer, 503, "destination_unavailable");
    let log = host.log();
    let line = log.lines().find(|line| line.contains("failed in its init phase"));
    let line = line.unwrap_or_else(|| panic!("{}", host.log_tail()));
    // The line feed in it begins no line of the log.
    assert!(
        line.contains("Init.Failed") && line.contains("database"),
        "{line}"
    );
    host.remove("no-init");
}

fn nothing_but_the_api_is_reachable() {
    let host = host();
    rogue(&host, "scans", "");
    let open = host.wait_for("/scans/scan", "200", |answer| answer.status() == 200);
    // The control: the port that it asks at is seen.
    assert_eq!(open.json(), json!([9001]));
    host.remove("scans");
}

fn extensions_are_put_up_with() {
    let host = host();
    rogue(&host, "extends", "extension");
    let answer = host.wait_for("/extends/", "200", |answer| answer.status() == 200);
    assert_eq!(answer.json(), json!([[200, null], [36, "extends"]]));
    host.remove("extends");
}
