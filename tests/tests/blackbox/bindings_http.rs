//! HTTP bindings and calls of functions to each other, end to end: a function in its sandbox, and what it reaches from there.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use funcd_tests::eventually;
use funcd_tests::host::{Host, Plan};
use funcd_tests::http::Request;
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;
use nix::sys::signal::Signal;
use serde_json::Value;

pub(crate) fn register(suite: &mut Suite) {
    const PYTHON: &[Need] = &[Need::Program("/usr/bin/python3")];
    funcd_tests::tests!(suite, "bindings_http", [
        an_http_binding_leads_to_one_url: PYTHON,
        this_host_itself_is_reached_only_with_the_operators_word: PYTHON,
        the_breaker_of_a_dead_target_opens_and_closes_again: PYTHON,
        what_is_left_of_a_request_s_time_is_passed_on: PYTHON,
        a_call_whose_target_died_is_sent_again_and_counted: PYTHON,
        a_process_for_one_request_calls_too,
        a_cold_sibling_is_called_with_class_and_deadline_of_the_request: PYTHON,
        functions_that_call_in_a_circle_are_stopped: PYTHON,
        a_sibling_that_is_missing_is_told_of_until_it_comes: PYTHON,
        calls_work_again_after_the_supervisor_died: PYTHON,
    ]);
}

/// Calls where it is told to, and tells what came of it; called without that, tells what it heard. `/loop` calls itself.
const ASKER: &str = r#"#!/usr/bin/python3
import http.client, json, os, urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

def call(to, path, headers):
    url = urllib.parse.urlsplit(os.environ[to.upper() + "_URL"])
    try:
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=15)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        fields = {name.lower(): value for name, value in answer.getheaders()}
        return {"status": answer.status, "headers": fields, "body": answer.read().decode()}
    except Exception as error:
        return {"error": repr(error)}

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        heard = {name.lower(): value for name, value in self.headers.items()}
        known = {name: heard[name] for name in ("x-request-id", "traceparent") if name in heard}
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        if self.path.startswith("/loop"):
            said = call("me", "/loop", {})
            said = json.loads(said["body"]) if said.get("status") == 200 else said
        elif "to" in query:
            said = call(query["to"], query.get("path", "/"), {} if "mute" in query else known)
        else:
            said = {"path": self.path, "heard": heard}
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// A server on this host's loopback.
struct Target {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Target {
    /// Answers each head so; `None`: closes the connection.
    fn start(answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Target {
        Target::at("127.0.0.1:0".parse().unwrap(), answer)
    }

    fn at(address: SocketAddr, answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Target {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let heads = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (heads, answer) = (Arc::clone(&heads), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let mut stream = BufReader::new(stream.unwrap());
                    while let Some(head) = head(&mut stream) {
                        heads.lock().unwrap().push(head.clone());
                        let Some(answer) = answer(&head) else { return };
                        let _ = stream.get_mut().write_all(answer.as_bytes());
                    }
                });
            }
        });
        Target { address, seen }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn head(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

fn ok(body: &str) -> Option<String> {
    Some(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// A host whose bindings may lead to these places on itself.
fn host(allow: &[SocketAddr]) -> Host {
    let plan = Plan::new();
    let allow: Vec<String> = allow
        .iter()
        .map(|address| format!("{:?}", address.to_string()))
        .collect();
    let file = plan.path().join("funcd.toml");
    fs::write(&file, format!("[egress]\nallow = [{}]\n", allow.join(", "))).unwrap();
    let file = file.to_str().unwrap().to_owned();
    plan.arguments(&["--config", &file]).start()
}

/// A script in the host's own folder, to be deployed.
fn script(host: &Host, name: &str, text: &str) -> PathBuf {
    let folder = host.path().join(format!("script-{name}"));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join(name);
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    file
}

pub(super) fn deploy_asker(host: &Host, name: &str, bindings: &str) {
    let asker = script(host, "asker", ASKER);
    host.drop_folder(name, &asker, &format!("contract = \"port\"\n{bindings}"));
    host.wait_live(name);
}

fn ask(host: &Host, target: &str) -> Value {
    host.get_ok(target).json()
}

fn metric(host: &Host, line: &str) -> Option<f64> {
    let metrics = host.admin_get("/metrics").text();
    let value = metrics.lines().find_map(|shown| shown.strip_prefix(line));
    value.and_then(|value| value.trim().parse().ok())
}

fn an_http_binding_leads_to_one_url() {
    let target = Target::start(|_| ok("hello from outside"));
    let host = host(&[target.address]);
    let bindings = format!("[bindings.users]\nhttp = \"http://{}/api/v1\"\n", target.address);
    deploy_asker(&host, "asker", &bindings);
    let said = ask(&host, "/asker/?to=users&path=/people%3Fid=7");
    assert_eq!(
        (said["status"].as_u64(), said["body"].as_str()),
        (Some(200), Some("hello from outside")),
        "{said}"
    );
    let head = target.seen().pop().unwrap();
    assert!(head.starts_with("GET /api/v1/people?id=7 HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(&head, "host"), Some(&*target.address.to_string()));
    assert!(
        field(&head, "traceparent").is_some() && field(&head, "x-request-timeout-ms").is_some(),
        "{head}"
    );
    // Not beside its base path.
    let said = ask(&host, "/asker/?to=users&path=/../admin");
    assert_eq!(said["status"], 400, "{said}");
    assert_eq!(target.seen().len(), 1);
    eventually("it is counted", || {
        let calls = metric(
            &host,
            "funcd_binding_requests_total{function=\"asker\",binding=\"users\",code=\"2xx\"}",
        );
        if calls == Some(1.0) {
            Ok(())
        } else {
            Err(format!("{calls:?}"))
        }
    });
    let shown = host.json(&["ls"]).unwrap();
    let binding = &shown["functions"][0]["function"]["bindings"][0];
    assert_eq!(binding["name"], "users", "{shown}");
    assert_eq!(binding["target"], format!("http://{}/api/v1", target.address));
    assert_eq!(binding["breaker"], "closed");
}

fn this_host_itself_is_reached_only_with_the_operators_word() {
    let target = Target::start(|_| ok("hello"));
    let host = host(&[]);
    let bindings = format!("[bindings.users]\nhttp = \"http://{}\"\n", target.address);
    deploy_asker(&host, "asker", &bindings);
    let said = ask(&host, "/asker/?to=users");
    assert_eq!(said["status"], 502, "{said}");
    assert!(
        said["body"]
            .as_str()
            .unwrap()
            .contains("urn:funcd:error:binding-forbidden"),
        "{said}"
    );
    assert!(target.seen().is_empty());
    let log = host.log();
    assert!(
        log.contains("a call through a binding failed") && log.contains("egress.allow"),
        "{log}"
    );
}

fn the_breaker_of_a_dead_target_opens_and_closes_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let host = host(&[address]);
    deploy_asker(
        &host,
        "asker",
        &format!("[bindings.users]\nhttp = \"http://{address}\"\n"),
    );
    let said = ask(&host, "/asker/?to=users");
    assert_eq!(
        (&said["status"], &said["headers"]["proxy-status"]),
        (&502.into(), &"funcd; error=connection_refused".into()),
        "{said}"
    );
    eventually("the breaker opens", || {
        let said = ask(&host, "/asker/?to=users");
        match said["body"].as_str() {
            Some(body) if body.contains("urn:funcd:error:binding-open") => {
                assert_eq!(said["status"], 503);
                assert!(said["headers"]["retry-after"].is_string(), "{said}");
                Ok(())
            }
            _ => Err(said.to_string()),
        }
    });
    let listed = String::from_utf8(host.funcd(&["ls"]).output().unwrap().stdout).unwrap();
    assert!(
        listed.contains(&format!("its binding users to http://{address} fails")),
        "{listed}"
    );
    assert!(
        host.log().contains("a binding's breaker opened"),
        "{}",
        host.log()
    );
    let state = "funcd_binding_breaker_state{function=\"asker\",binding=\"users\"}";
    assert_ne!(metric(&host, state), Some(0.0));
    let _target = Target::at(address, |_| ok("back"));
    eventually("it closes", || {
        let said = ask(&host, "/asker/?to=users");
        match metric(&host, state) {
            Some(0.0) => Ok(()),
            state => Err(format!("{state:?} {said}")),
        }
    });
    assert_eq!(ask(&host, "/asker/?to=users")["body"], "back");
}

fn what_is_left_of_a_request_s_time_is_passed_on() {
    let target = Target::start(|_| ok("hello"));
    let host = host(&[target.address]);
    let binding = format!(
        "[bindings.users]\nhttp = \"http://{}\"\ntimeout = \"20s\"\n",
        target.address
    );
    deploy_asker(&host, "asker", &binding);
    deploy_asker(&host, "alone", &format!("{binding}[scale]\nconcurrency = 1\n"));
    let left = || -> u64 {
        field(&target.seen().pop().unwrap(), "x-request-timeout-ms")
            .unwrap()
            .parse()
            .unwrap()
    };
    let ask = |target: &str| {
        let request = Request::get(target)
            .header("x-request-timeout-ms", "9000")
            .header("x-funcd-class", "bulk");
        let answer = host.ask(&request);
        assert_eq!(answer.status(), 200, "{}", answer.text());
        answer.json()
    };
    // By the trace that the function passes on.
    ask("/asker/?to=users");
    assert!(left() <= 9000);
    assert_eq!(
        field(&target.seen().pop().unwrap(), "x-funcd-class"),
        Some("bulk")
    );
    // The control: one that passes nothing on is not known to belong to it.
    ask("/asker/?to=users&mute=1");
    assert!(left() > 9000);
    // But where a function has one request at a time, it is.
    ask("/alone/?to=users&mute=1");
    assert!(left() <= 9000);
}

fn a_call_whose_target_died_is_sent_again_and_counted() {
    let died = Mutex::new(false);
    let target = Target::start(
        move |_| match std::mem::replace(&mut *died.lock().unwrap(), true) {
            true => ok("the second time"),
            false => None,
        },
    );
    let host = host(&[target.address]);
    deploy_asker(
        &host,
        "asker",
        &format!("[bindings.users]\nhttp = \"http://{}\"\n", target.address),
    );
    let said = ask(&host, "/asker/?to=users");
    assert_eq!(said["body"], "the second time", "{said}");
    assert_eq!(target.seen().len(), 2);
    let sent = "funcd_binding_retries_total{function=\"asker\",binding=\"users\",result=\"sent\"}";
    assert_eq!(metric(&host, sent), Some(1.0));
}

fn a_process_for_one_request_calls_too() {
    let target = Target::start(|_| ok("hello"));
    let host = host(&[target.address]);
    let text = "#!/bin/bash\nexec 3<>\"/dev/tcp/${USERS_ADDR/:/\\/}\"\n\
        printf 'GET /x HTTP/1.1\\r\\nHost: h\\r\\nConnection: close\\r\\n\\r\\n' >&3\ncat <&3\n";
    let file = script(&host, "filter", text);
    let manifest = format!(
        "contract = \"stdio\"\n[bindings.users]\nhttp = \"http://{}\"\n",
        target.address
    );
    host.drop_folder("filter", &file, &manifest);
    host.wait_live("filter");
    let request = Request::get("/filter/")
        .header("x-funcd-class", "bulk")
        .header("x-request-timeout-ms", "4000");
    for _ in 0..3 {
        let answer = host.ask(&request);
        assert!(answer.text().ends_with("hello"), "{}", answer.text());
    }
    let heads = target.seen();
    assert_eq!(heads.len(), 3);
    assert_eq!(
        field(&heads[0], "x-funcd-class"),
        Some("bulk"),
        "the request that it is for is known"
    );
    assert!(
        field(&heads[0], "x-request-timeout-ms")
            .unwrap()
            .parse::<u64>()
            .unwrap()
            <= 4000
    );
}

fn a_cold_sibling_is_called_with_class_and_deadline_of_the_request() {
    let host = host(&[]);
    deploy_asker(&host, "outer", "[bindings.inner]\nfunction = \"inner\"\n");
    deploy_asker(
        &host,
        "inner",
        "[[route]]\nhost = \"inner.example.com\"\npath = \"/\"\n",
    );
    let request = Request::get("/outer/?to=inner&path=/people").header("x-funcd-class", "bulk");
    let said = host.ask(
        &request
            .header("x-request-timeout-ms", "15000")
            .header("x-funcd-caller", "nobody"),
    );
    let said = said.json();
    assert_eq!(said["status"], 200, "{said}");
    let inner: Value = serde_json::from_str(said["body"].as_str().unwrap()).unwrap();
    assert_eq!(inner["path"], "/people", "its own routes are for callers outside");
    let heard = &inner["heard"];
    assert_eq!(heard["x-funcd-caller"], "outer", "{heard}");
    assert_eq!(heard["x-funcd-hops"], "1");
    assert_eq!(heard["x-funcd-class"], "bulk");
    assert!(
        heard["x-request-timeout-ms"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            <= 15_000
    );
    assert_eq!(host.instances("inner").len(), 1, "it was started for that");
    eventually("both are counted", || {
        let calls = metric(
            &host,
            "funcd_binding_requests_total{function=\"outer\",binding=\"inner\",code=\"2xx\"}",
        );
        let answered = metric(
            &host,
            "funcd_invocations_total{function=\"inner\",trigger=\"http\",code=\"2xx\"}",
        );
        if (calls, answered) == (Some(1.0), Some(1.0)) {
            Ok(())
        } else {
            Err(format!("{calls:?} {answered:?}"))
        }
    });
    // What it is asked by strangers, it is asked as before.
    assert_eq!(host.get("/inner/").status(), 404);
}

fn functions_that_call_in_a_circle_are_stopped() {
    let host = host(&[]);
    deploy_asker(&host, "circle", "[bindings.me]\nfunction = \"circle\"\n");
    let said = ask(&host, "/circle/loop");
    assert_eq!(said["status"], 508, "{said}");
    assert_eq!(
        said["headers"]["proxy-status"],
        "funcd; error=proxy_loop_detected"
    );
    // The one from outside, and sixteen of its own.
    let answered = "funcd_invocations_total{function=\"circle\",trigger=\"http\",code=\"2xx\"}";
    eventually("all are counted", || match metric(&host, answered) {
        Some(17.0) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

fn a_sibling_that_is_missing_is_told_of_until_it_comes() {
    let host = host(&[]);
    deploy_asker(&host, "outer", "[bindings.inner]\nfunction = \"inner\"\n");
    let said = ask(&host, "/outer/?to=inner");
    assert_eq!(said["status"], 502, "{said}");
    assert!(
        said["body"]
            .as_str()
            .unwrap()
            .contains("there is no function inner"),
        "{said}"
    );
    let listed = || String::from_utf8(host.funcd(&["ls"]).output().unwrap().stdout).unwrap();
    assert!(
        listed().contains("leads to the function inner, which does not exist"),
        "{}",
        listed()
    );
    assert!(
        host.log()
            .contains("a binding leads to a function that does not exist"),
        "{}",
        host.log()
    );
    deploy_asker(&host, "inner", "");
    assert_eq!(ask(&host, "/outer/?to=inner")["status"], 200);
    assert!(!listed().contains("does not exist"), "{}", listed());
}

fn calls_work_again_after_the_supervisor_died() {
    let target = Target::start(|_| ok("hello"));
    let host = host(&[target.address]);
    deploy_asker(
        &host,
        "asker",
        &format!("[bindings.users]\nhttp = \"http://{}\"\n", target.address),
    );
    assert_eq!(ask(&host, "/asker/?to=users")["body"], "hello");
    let before = host.instance("asker");
    let old = host.supervisor();
    old.signal(Signal::SIGKILL);
    eventually("another supervisor serves the same instance", || {
        let answer = host.connect().ask(&Request::get("/asker/?to=users"));
        match answer.map(|answer| answer.text()) {
            Ok(text) if text.contains("\"body\": \"hello\"") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(host.instance("asker").pid, before.pid);
}
