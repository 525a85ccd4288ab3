//! What an operator learns at night about one request: from the id in a caller's answer to the cause.

use std::process::Output;
use std::sync::Arc;

use funcd_tests::eventually;
use funcd_tests::host::Host;
use funcd_tests::http::{Request, Response};
use funcd_tests::suite::Suite;

pub(crate) fn register(suite: &mut Suite) {
    funcd_tests::tests!(
        suite,
        "explain",
        [
            a_request_that_met_a_crash_is_explained,
            a_cold_start_and_an_id_of_the_caller_are_explained,
            what_is_not_remembered_is_said_to_be_so,
            requests_are_listed,
            ps_shows_limits_and_the_cause_of_the_last_exit,
        ]
    );
}

fn host() -> Arc<Host> {
    Host::shared("explain", |_| ())
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn id(answer: &Response) -> String {
    answer
        .header("x-request-id")
        .expect("each answer has an id")
        .to_owned()
}

fn explained(host: &Host, id: &str) -> String {
    eventually("it is remembered", || {
        let output = host.funcd(&["explain", id]).output().unwrap();
        if output.status.success() {
            Ok(said(&output))
        } else {
            Err(said(&output))
        }
    })
}

/// Has a new function exit with this code in the middle of a request.
fn crash(host: &Host, name: &str, code: u8) -> Response {
    host.deploy(name, "crash", "");
    host.get_ok(&format!("/{name}/"));
    let answer = host.ask(&Request::post(&format!("/{name}/?code={code}"), "x"));
    assert_eq!(answer.status(), 502, "{}", answer.text());
    answer
}

fn a_request_that_met_a_crash_is_explained() {
    let host = host();
    let id = id(&crash(&host, "met", 3));
    let exit = host.wait_exit("met", "code");
    let text = explained(&host, &id);
    for part in [
        id.as_str(),
        "met, revision ",
        "failed 502",
        "connection-terminated",
        "gave-up",
        "funcd logs met",
        "code 3",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}\n(the exit: {exit})");
    }
    assert!(!text.contains("code=3"), "no query: {text}");
    let document = host.json(&["explain", &id]).unwrap();
    assert_eq!(document["version"], 1);
    let request = &document["requests"][0];
    assert_eq!(
        (&request["outcome"], &request["attempts"]),
        (&"failed".into(), &1.into())
    );
    let line = host
        .log()
        .lines()
        .find(|line| line.contains(&id))
        .map(str::to_owned);
    let line = line.unwrap_or_else(|| panic!("no line with {id} in the log"));
    assert!(line.contains("connection-terminated"), "{line}");
}

fn a_cold_start_and_an_id_of_the_caller_are_explained() {
    let host = host();
    host.deploy("sleeper", "hello", "");
    let own = "trace/1?x%20#.";
    let answer = host.ask(&Request::get("/sleeper/").header("X-Request-Id", own));
    assert_eq!((answer.status(), id(&answer).as_str()), (200, own));
    let text = explained(&host, own);
    for part in ["answered 200", "being started", "arrived", "head"] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    let warm = id(&host.get("/sleeper/"));
    assert!(!explained(&host, &warm).contains("being started"));
}

fn what_is_not_remembered_is_said_to_be_so() {
    let host = host();
    let output = host.funcd(&["explain", "no-such-id"]).output().unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("no request with this id"), "{text}");
    assert!(text.contains(" since 2"), "how far back: {text}");
}

fn requests_are_listed() {
    let host = host();
    let failed = id(&crash(&host, "listed", 4));
    let good = id(&host.wait_for("/listed/", "200", |answer| answer.status() == 200));
    explained(&host, &good);
    let list = |arguments: &[&str]| said(&host.funcd(arguments).output().unwrap());
    let all = list(&["requests", "listed"]);
    assert!(all.contains(&failed) && all.contains(&good), "{all}");
    assert!(all.find(&good) < all.find(&failed), "newest first: {all}");
    let only = list(&["requests", "listed", "--failed"]);
    assert!(only.contains(&failed) && !only.contains(&good), "{only}");
    assert!(!list(&["requests", "nobody"]).contains(&good));
}

fn ps_shows_limits_and_the_cause_of_the_last_exit() {
    let host = host();
    crash(&host, "limited", 9);
    host.wait_exit("limited", "code");
    let text = said(&host.funcd(&["ps", "--wide"]).output().unwrap());
    let line = text.lines().find(|line| line.starts_with("limited ")).unwrap();
    assert!(text.contains("MEMORY") && line.contains("code 9"), "{text}");
    let rows = host.json(&["ps"]).unwrap();
    let row = rows["instances"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["function"] == "limited");
    let row = row.unwrap();
    for limit in ["memory_bytes", "cpu_millis", "pids"] {
        assert!(
            row["limits"][limit].as_u64().is_some_and(|limit| limit > 0),
            "{row}"
        );
    }
}
