//! Programs that were written for no server at all, and those for CGI and OpenFaaS: a process for each request. Each is the
//! program as it is, or a script of a few lines.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use funcd_tests::eventually;
use funcd_tests::host::Host;
use funcd_tests::http::{Connection, Request, Response};
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;

pub(crate) fn register(suite: &mut Suite) {
    const BASH: &[Need] = &[Need::Program("/bin/bash")];
    const PERL: &[Need] = &[Need::Program("/usr/bin/perl")];
    funcd_tests::tests!(suite, "programs", [
        cat_answers_with_what_it_is_sent,
        wc_and_jq_are_functions: &[Need::Program("/usr/bin/jq")],
        a_bash_script_is_a_cgi_program: BASH,
        a_perl_script_is_a_cgi_program: PERL,
        each_mode_answers_as_its_watchdog: BASH,
        a_request_is_in_the_environment: BASH,
        each_request_has_a_process_of_its_own: BASH,
        a_process_of_a_request_is_confined: &[Need::Program("/bin/bash"), Need::Root, Need::MountNamespaces],
        one_waits_for_the_next_request_after_many: &[Need::Program("/bin/bash"), Need::Standby],
        many_at_once_are_bounded_by_max: BASH,
        a_secret_reaches_the_process_of_a_request: &[Need::Program("/bin/bash"), Need::MountNamespaces],
        programs_that_misbehave_end_clearly: BASH,
        an_answer_that_nobody_wants_ends_its_process: BASH,
        what_executes_nothing_says_so: BASH,
        a_killed_supervisor_leaves_no_process_behind: BASH,
        what_an_executable_is_for_is_found_out: BASH,
    ]);
}

fn host() -> Arc<Host> {
    Host::shared("programs", |_| {})
}

/// Deploys a Bash script.
pub(super) fn bash(host: &Host, name: &str, script: &str, manifest: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, format!("#!/bin/bash\n{script}\n")).unwrap();
    host.drop_folder(name, &path, manifest);
    host.wait_live(name);
}

/// A program of this machine, as a function.
fn program(host: &Host, name: &str, path: &str, manifest: &str) {
    let path = fs::canonicalize(Path::new(path)).unwrap();
    host.drop_folder(name, &path, manifest);
    host.wait_live(name);
}

pub(super) fn post(host: &Host, target: &str, body: &str) -> Response {
    host.ask(&Request::post(target, body).header("content-type", "text/plain"))
}

/// What a command says.
pub(super) fn said(host: &Host, arguments: &[&str]) -> String {
    let output = host.funcd(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A problem of funcd's own: its status, and that it says what it is.
pub(super) fn problem(answer: &Response, status: u16, kind: &str) {
    assert_eq!(answer.status(), status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(
        answer.json()["type"],
        format!("urn:funcd:error:{kind}"),
        "{}",
        answer.text()
    );
}

fn cat_answers_with_what_it_is_sent() {
    let host = host();
    host.drop_in("cat", Path::new("/bin/cat"));
    host.wait_live("cat");
    let large = "0123456789abcdef".repeat(40_000);
    for body in ["", "hello", &large] {
        let answer = post(&host, "/cat/", body);
        assert_eq!(
            (answer.status(), answer.text().len()),
            (200, body.len()),
            "{}",
            host.log_tail()
        );
        assert!(answer.text() == body);
        assert_eq!(answer.header("content-type"), Some("text/plain"), "the request's");
    }
    // A body without a length, in pieces.
    let mut connection = host.connect();
    connection
        .write(b"POST /cat/ HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
        .unwrap();
    assert_eq!(connection.response("POST").unwrap().text(), "hello world");
    let listed = host.json(&["ls"]).unwrap();
    let cat = listed["functions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["name"] == "cat")
        .unwrap();
    assert_eq!(cat["function"]["contract"], "stdio");
    assert!(
        cat["function"]["because"]
            .as_str()
            .unwrap()
            .contains("accepts no connections"),
        "{cat}"
    );
}

fn wc_and_jq_are_functions() {
    let host = host();
    program(&host, "wc", "/usr/bin/wc", "args = [\"-c\"]\n");
    assert_eq!(post(&host, "/wc/", "twelve bytes").text().trim(), "12");
    program(
        &host,
        "jq",
        "/usr/bin/jq",
        "args = [\"-c\", \".name\"]\n[stdio]\ncontent_type = \"application/json\"\n",
    );
    let answer = post(&host, "/jq/", "{\"name\": [1, 2]}");
    assert_eq!((answer.status(), answer.text().trim()), (200, "[1,2]"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    problem(&post(&host, "/jq/", "no JSON"), 500, "function-failed");
    eventually("jq's words in the log", || {
        let log = said(&host, &["logs", "jq"]);
        log.contains("parse error").then_some(()).ok_or(log)
    });
}

fn a_bash_script_is_a_cgi_program() {
    let host = host();
    let script = "read -r -n \"${CONTENT_LENGTH:-0}\" body\n\
                  printf 'Status: 201 Made\\nContent-Type: text/x-made\\nX-Made: here\\n\\n'\n\
                  printf '%s %s %s %s|%s' \"$REQUEST_METHOD\" \"$SCRIPT_NAME\" \"$PATH_INFO\" \"$QUERY_STRING\" \"$body\"";
    bash(&host, "shell-cgi", script, "");
    let answer = post(&host, "/shell-cgi/a/b?c=d", "body");
    assert_eq!(answer.status(), 201, "{}", answer.text());
    assert_eq!(answer.text(), "POST /shell-cgi /a/b c=d|body");
    assert_eq!(
        (answer.header("content-type"), answer.header("x-made")),
        (Some("text/x-made"), Some("here"))
    );
    bash(
        &host,
        "moves",
        "printf 'Location: /elsewhere\\n\\n'",
        "contract = \"cgi\"\n",
    );
    let answer = host.get("/moves/");
    assert_eq!(
        (answer.status(), answer.header("location")),
        (302, Some("/elsewhere"))
    );
}

fn a_perl_script_is_a_cgi_program() {
    let host = host();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guestbook.cgi");
    let script = "#!/usr/bin/perl\nuse strict;\nread(STDIN, my $body, $ENV{CONTENT_LENGTH} // 0);\n\
                  print \"Content-Type: text/html\\r\\n\\r\\n\";\n\
                  print \"<p>$ENV{HTTP_X_WHO} said $body</p>\";\n";
    fs::write(&path, script).unwrap();
    host.drop_folder("perl-cgi", &path, "");
    host.wait_live("perl-cgi");
    let answer = host.ask(&Request::post("/perl-cgi/", "hello").header("x-who", "Ann"));
    assert_eq!(
        (answer.status(), answer.text().as_str()),
        (200, "<p>Ann said hello</p>")
    );
    assert_eq!(answer.header("content-type"), Some("text/html"));
}

fn each_mode_answers_as_its_watchdog() {
    let host = host();
    let script = "case \"$Http_Path\" in /fail) echo half; exit 3;; /slow) echo first; while :; do :; done;; *) echo whole;; esac";
    let bytes = Some("application/octet-stream");
    for (mode, fail, slow, content_type) in [
        (
            "classic",
            Some(500),
            Some((408, "exec-timeout")),
            Some("text/plain"),
        ),
        ("serializing", Some(500), Some((504, "response-timeout")), bytes),
        ("streaming", None, None, bytes),
    ] {
        bash(
            &host,
            mode,
            script,
            &format!("contract = \"stdio\"\n[stdio]\nmode = {mode:?}\n[request]\ntimeout = \"1s\"\n"),
        );
        let answer = post(&host, &format!("/{mode}/"), "");
        assert_eq!(
            (answer.status(), answer.text().as_str()),
            (200, "whole\n"),
            "{mode}"
        );
        assert_eq!(answer.header("content-type"), content_type, "{mode}");
        let failed = post(&host, &format!("/{mode}/fail"), "");
        match fail {
            Some(status) => problem(&failed, status, "function-failed"),
            None => assert_eq!(
                (failed.status(), failed.text().as_str()),
                (200, "half\n"),
                "{mode}"
            ),
        }
        match slow {
            Some((status, kind)) => problem(&post(&host, &format!("/{mode}/slow"), ""), status, kind),
            None => {
                // Its head has gone out: the caller sees that the body is not whole.
                let mut connection = host.connect();
                let request = Request::get(&format!("/{mode}/slow"));
                connection.send_head(&request).unwrap();
                assert_eq!(connection.head().unwrap().status, 200);
                assert_eq!(connection.chunk().unwrap(), b"first\n");
                assert!(connection.chunk().is_err(), "it was cut off");
            }
        }
    }
    // And the log says why.
    eventually("a line about the time-out", || {
        let log = host.log();
        let is_told = log.contains("exec-timeout") && log.contains("a response was cut off");
        is_told.then_some(()).ok_or(host.log_tail())
    });
}

fn a_request_is_in_the_environment() {
    let host = host();
    let script = "for name in $Http_X_List HTTP_PROXY Http_Proxy LD_PRELOAD BASH_ENV HTTP_LD_PRELOAD; do echo \"$name=${!name}\"; done";
    bash(
        &host,
        "environment",
        script,
        "contract = \"stdio\"\nenv = { METHOD = \"own\" }\n",
    );
    let request = Request::post("/environment/way?a=1&b=%20x", "1234")
        .header("x-list", "METHOD Http_Method Http_Path Http_Query Http_ContentLength PARAM_a PARAM_b ROUTE REMOTE_ADDR SERVER_PROTOCOL")
        .header("proxy", "http://evil.example")
        .header("ld-preload", "/tmp/evil.so")
        .header("bash-env", "/tmp/evil.sh");
    let answer = host.ask(&request);
    let expected = "METHOD=own\nHttp_Method=POST\nHttp_Path=/way\nHttp_Query=a=1&b=%20x\nHttp_ContentLength=4\nPARAM_a=1\n\
                    PARAM_b= x\nROUTE=/environment\nREMOTE_ADDR=127.0.0.1\nSERVER_PROTOCOL=HTTP/1.1\nHTTP_PROXY=\nHttp_Proxy=\n\
                    LD_PRELOAD=\nBASH_ENV=\nHTTP_LD_PRELOAD=/tmp/evil.so\n";
    assert_eq!(answer.text(), expected);
    // What does not fit is refused, not cut.
    let large = host.ask(&Request::get("/environment/").header("x-large", &"x".repeat(20_000)));
    problem(&large, 431, "head-too-large");
}

fn each_request_has_a_process_of_its_own() {
    let host = host();
    let script = "echo $$ >> /tmp/seen; pids=; while read -r pid; do pids+=\" $pid\"; done < /tmp/seen; echo \"$pids\"";
    bash(&host, "alone", script, "contract = \"stdio\"\n");
    let mut seen = Vec::new();
    for _ in 0..5 {
        let answer = host.get_ok("/alone/").text();
        let pids: Vec<String> = answer.split_whitespace().map(str::to_owned).collect();
        assert_eq!(pids.len(), 1, "its /tmp is nobody else's: {answer}");
        seen.extend(pids);
    }
    // (Below a mini-init each is the same number in a namespace of its own.)
    if Need::Standby.is_met() {
        seen.dedup();
        assert_eq!(seen.len(), 5);
    }
}

fn a_process_of_a_request_is_confined() {
    let host = host();
    // What stands in for the world outside: a file that all may read, a socket that all may connect to, a process of root.
    let file = host.path().join("bait");
    fs::write(&file, "bait").unwrap();
    let (port, pid) = (host.admin_address().port(), std::process::id());
    let attempts = format!(
        "[[ -r {} ]] && echo file\n(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && echo network\n\
         kill -0 {pid} 2>/dev/null && echo process\necho x > /tmp/own && echo done\n",
        file.display()
    );
    let control = Command::new("bash").args(["-c", &attempts]).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&control.stdout),
        "file\nnetwork\nprocess\ndone\n",
        "the control"
    );
    fs::remove_file("/tmp/own").unwrap();
    for contract in ["stdio", "cgi", "ironhttp"] {
        let head = match contract {
            "stdio" => "",
            "cgi" => "printf 'Content-Type: text/plain\\n\\n'\n",
            _ => "printf 'HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\n'\n",
        };
        let name = format!("tries-{contract}");
        bash(
            &host,
            &name,
            &format!("{head}{attempts}"),
            &format!("contract = {contract:?}\n"),
        );
        assert_eq!(host.get_ok(&format!("/{name}/")).text(), "done\n", "{contract}");
    }
    assert!(!Path::new("/tmp/own").exists());
}

/// The count of those that wait once leaked, with each request, until none was prepared ahead any more.
fn one_waits_for_the_next_request_after_many() {
    // One of its own: functions of others may have all that the host lets wait.
    let host = Host::start();
    bash(&host, "many-times", "echo done", "contract = \"stdio\"\n");
    for _ in 0..40 {
        host.get_ok("/many-times/");
    }
    eventually("a process to wait", || {
        let listed = host.json(&["ls"])?;
        let all = listed["functions"].as_array().ok_or("no list")?;
        let row = all.iter().find(|row| row["name"] == "many-times");
        let row = row.ok_or("it is not listed")?;
        let rests = row["function"]["instances"] == 0 && row["function"]["standby"] == true;
        rests.then_some(()).ok_or(row.to_string())
    });
}

fn many_at_once_are_bounded_by_max() {
    let host = host();
    let manifest = "contract = \"stdio\"\n[scale]\nmax = 3\n[request]\nqueue = \"fifo\"\n";
    bash(&host, "many", "read -r line; echo \"$line\"", manifest);
    // Each gives its body only when all are under way, or wait: four on three places.
    let mut open: Vec<Connection> = Vec::new();
    for _ in 0..4 {
        let mut connection = host.connect();
        connection
            .write(b"POST /many/ HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n")
            .unwrap();
        open.push(connection);
    }
    eventually("three to work and one to wait", || {
        let listed = host.json(&["ls"]).map_err(|e| e.to_string())?;
        let all = listed["functions"].as_array().ok_or("no list")?;
        let many = all
            .iter()
            .find(|row| row["name"] == "many")
            .ok_or("it is not listed")?;
        let (works, waits) = (&many["function"]["instances"], &many["function"]["waiting"]);
        (*works == 3 && *waits == 1).then_some(()).ok_or(many.to_string())
    });
    for (number, connection) in open.iter_mut().enumerate() {
        connection.write(format!("{number}\n").as_bytes()).unwrap();
        assert_eq!(connection.response("POST").unwrap().text(), format!("{number}\n"));
    }
}

fn a_secret_reaches_the_process_of_a_request() {
    let host = host();
    host.secret("keeps", "key", "the secret");
    bash(
        &host,
        "keeps",
        "read -r line < \"$CREDENTIALS_DIRECTORY/key\"; echo \"$line\"",
        "contract = \"stdio\"\nsecrets = [\"key\"]\n",
    );
    assert_eq!(host.get_ok("/keeps/").text(), "the secret\n");
    assert_eq!(host.get_ok("/keeps/").text(), "the secret\n");
}

fn programs_that_misbehave_end_clearly() {
    let host = host();
    let soon = "[request]\ntimeout = \"1s\"\n";
    // It never reads, and ends: the body goes nowhere, and that is its right.
    bash(
        &host,
        "deaf",
        "echo heard nothing",
        &format!("contract = \"stdio\"\n{soon}"),
    );
    assert_eq!(
        post(&host, "/deaf/", &"x".repeat(1 << 20)).text(),
        "heard nothing\n"
    );
    // It never reads, and never ends.
    bash(
        &host,
        "stuck",
        "while :; do :; done",
        &format!("contract = \"stdio\"\n{soon}"),
    );
    problem(&post(&host, "/stuck/", &"x".repeat(1 << 20)), 408, "exec-timeout");
    // It writes headers for ever.
    bash(
        &host,
        "endless",
        "while :; do echo 'X-Header: x'; done",
        &format!("contract = \"cgi\"\n{soon}"),
    );
    problem(&host.get("/endless/"), 502, "malformed-response");
    // It writes no headers at all, or half of them.
    bash(
        &host,
        "headless",
        "echo hello; echo; echo world",
        "contract = \"cgi\"\n",
    );
    problem(&host.get("/headless/"), 502, "malformed-response");
    bash(&host, "half", "echo 'X: y'; exit 4", "contract = \"cgi\"\n");
    problem(&host.get("/half/"), 502, "malformed-response");
    // It writes for ever.
    bash(
        &host,
        "flood",
        "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done",
        "contract = \"stdio\"\n[stdio]\noutput = \"64K\"\n",
    );
    problem(&host.get("/flood/"), 502, "output-too-large");
    // Nothing of any of them runs on.
    eventually("all of them to be gone", || {
        let processes = host.json(&["ps"]).map_err(|e| e.to_string())?;
        let all = processes["instances"].as_array().ok_or("no list")?;
        let bad = ["stuck", "endless", "flood"];
        let left = all
            .iter()
            .find(|row| bad.iter().any(|name| row["function"] == *name) && row["pid"].is_number());
        left.map_or(Ok(()), |row| Err(row.to_string()))
    });
}

fn an_answer_that_nobody_wants_ends_its_process() {
    let host = host();
    let manifest = "contract = \"stdio\"\n[stdio]\nmode = \"streaming\"\n[request]\ntimeout = \"1h\"\n";
    bash(&host, "unheard", "echo begun; while :; do :; done", manifest);
    let pid = {
        let mut connection = host.connect();
        connection.send_head(&Request::get("/unheard/")).unwrap();
        assert_eq!(connection.head().unwrap().status, 200);
        host.instance("unheard").pid
    };
    eventually("its process to be gone", || {
        let there = PathBuf::from(format!("/proc/{pid}")).exists();
        (!there).then_some(()).ok_or(format!("{pid} runs"))
    });
}

fn what_executes_nothing_says_so() {
    let host = host();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("no-shell");
    fs::write(&path, "#!/nowhere/shell\n").unwrap();
    host.drop_folder("no-shell", &path, "contract = \"stdio\"\n");
    host.wait_live("no-shell");
    problem(&host.get("/no-shell/"), 502, "connection-terminated");
    // And after a few it is not tried at once.
    host.wait_for("/no-shell/", "503", |answer| answer.status() == 503);
}

fn a_killed_supervisor_leaves_no_process_behind() {
    let host = Host::start();
    let manifest = "contract = \"stdio\"\n[stdio]\nmode = \"streaming\"\n[request]\ntimeout = \"1h\"\n";
    bash(&host, "works", "echo begun; while :; do :; done", manifest);
    let mut connection = host.connect();
    connection.send_head(&Request::get("/works/")).unwrap();
    assert_eq!(connection.head().unwrap().status, 200);
    let pid = host.instance("works").pid;
    host.supervisor().signal(nix::sys::signal::Signal::SIGKILL);
    eventually("its process to be gone", || {
        let there = PathBuf::from(format!("/proc/{pid}")).exists();
        (!there).then_some(()).ok_or(format!("{pid} runs"))
    });
    // Its file is so young that the next supervisor first waits for it to be complete.
    host.wait_live("works");
    let mut again = Connection::tcp(host.address()).unwrap();
    again.send_head(&Request::get("/works/")).unwrap();
    assert_eq!(
        again.head().unwrap().status,
        200,
        "and the next supervisor has its own"
    );
}

fn what_an_executable_is_for_is_found_out() {
    let host = host();
    let found = |name: &str| {
        let listed = host.json(&["ls"]).unwrap();
        let all = listed["functions"].as_array().unwrap();
        let row = all.iter().find(|row| row["name"] == name).unwrap();
        let text = |key: &str| row["function"][key].as_str().unwrap_or_default().to_owned();
        (text("contract"), text("because"))
    };
    for (name, script, contract, because) in [
        ("guess-cgi", "echo $QUERY_STRING", "cgi", "QUERY_STRING"),
        ("guess-faas", "echo $Http_Path", "stdio", "Http_Path"),
        ("guess-port", "exec nc -l -p $PORT", "port", "$PORT"),
        ("guess-fn", "echo $FN_LISTENER", "fn", "FN_LISTENER"),
        ("guess-fd", "exec server # takes LISTEN_FDS", "http", "LISTEN_FDS"),
        ("guess-filter", "read -r line; echo $line", "stdio", "script"),
    ] {
        bash(&host, name, script, "");
        let (found, why) = found(name);
        assert!(
            found == contract && why.contains(because),
            "{name}: {found}, {why}"
        );
    }
    host.deploy("guess-rust", "hello", "");
    assert_eq!(found("guess-rust").0, "http", "{}", found("guess-rust").1);
    let table = said(&host, &["ls"]);
    assert!(
        table.contains("guess-cgi: contract cgi, as it mentions QUERY_STRING"),
        "{table}"
    );
    // A wrong guess says what to do.
    problem(&host.get("/guess-cgi/"), 502, "malformed-response");
    assert!(
        host.get("/guess-cgi/").text().contains("set `contract`"),
        "{}",
        host.get("/guess-cgi/").text()
    );
}
