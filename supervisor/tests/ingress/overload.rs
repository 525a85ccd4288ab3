//! Who may pass, as callers see it: classes, deadlines, the queue, what is sent again. Asserts no times.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use funcd::admission::Class;
use funcd::admission::queue::Order;
use funcd::catalog::manifest::{Manifest, Retry};
use funcd::function::handle::ToControl;

use crate::host::{
    Caller, Host, Server, assert_problem, bounds, eventually, field, hello, manifest, metric, ok,
};

fn narrow() -> Manifest {
    let mut narrow = manifest();
    narrow.scale.concurrency = 1;
    narrow
}

fn ask(host: &Host, path: &str, fields: &str) -> Caller {
    let mut caller = host.caller();
    caller.send(format!(
        "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{fields}\r\n"
    ));
    caller
}

#[test]
fn critical_takes_the_place_of_bulk_and_goes_first() {
    let mut host = Host::with(bounds(), &["127.0.0.0/8"]);
    let function = host.function("f", narrow());
    // Ten for its one place.
    let mut bulk: Vec<Caller> = (0..10)
        .map(|n| {
            let caller = ask(&host, "/f", "x-funcd-class: bulk\r\n");
            eventually("it waits", || function.waiting() == n + 1);
            caller
        })
        .collect();
    let mut critical = ask(&host, "/f", "x-funcd-class: critical\r\n");
    let shed = bulk.remove(0).rest();
    assert_problem(&shed, 503, "evicted", "connection_limit_reached");
    assert_eq!(field(&shed, "x-funcd-shed"), Some("evicted"));
    let after: u64 = field(&shed, "retry-after").unwrap().parse().unwrap();
    assert!(Class::Bulk.retry_after().contains(&after), "{after}");
    eventually("it is counted", || {
        let labels = "function=\"f\",reason=\"evicted\",class=\"bulk\"";
        metric("funcd_requests_shed_total", labels) > 0
    });
    let server = host.instance(&function, hello);
    assert!(critical.rest().ends_with("hello"));
    for mut caller in bulk {
        assert!(caller.rest().ends_with("hello"));
    }
    assert_eq!(field(&server.seen()[0], "x-funcd-class"), Some("critical"));
}

#[test]
fn a_stranger_is_not_more_important_than_the_manifest_says() {
    let mut host = Host::new();
    let mut modest = manifest();
    modest.request.priority = Class::BestEffort;
    let (_, server) = host.serve("f", modest, hello);
    for (asked, seen) in [
        ("critical", "best-effort"),
        ("bulk", "bulk"),
        ("urgent", "best-effort"),
    ] {
        ask(&host, "/f", &format!("x-funcd-class: {asked}\r\n")).rest();
        assert_eq!(field(server.seen().last().unwrap(), "x-funcd-class"), Some(seen));
    }
}

#[test]
fn who_waits_at_a_busy_function_is_refused_before_long() {
    static GO: AtomicBool = AtomicBool::new(false);
    let mut host = Host::new();
    let (function, _) = host.serve("f", narrow(), |conn, head| {
        eventually("it may go on", || GO.load(Ordering::SeqCst));
        hello(conn, head)
    });
    let mut first = ask(&host, "/f", "");
    eventually("the place is taken", || function.admitted() == 1);
    let shed = ask(&host, "/f", "").rest();
    assert_problem(&shed, 503, "waited", "connection_limit_reached");
    assert_eq!(field(&shed, "x-funcd-shed"), Some("waited"));
    assert!(
        std::iter::from_fn(|| host.control.try_recv().ok()).any(|told| matches!(told, ToControl::Wanted(_))),
        "another instance would help"
    );
    GO.store(true, Ordering::SeqCst);
    assert!(first.rest().ends_with("hello"));
}

#[test]
fn a_plain_queue_lets_everybody_wait() {
    static GO: AtomicBool = AtomicBool::new(false);
    let mut host = Host::new();
    let mut patient = narrow();
    patient.request.queue = Order::Fifo;
    let (function, _) = host.serve("f", patient, |conn, head| {
        eventually("it may go on", || GO.load(Ordering::SeqCst));
        hello(conn, head)
    });
    let waiting: Vec<Caller> = (0..3).map(|_| ask(&host, "/f", "")).collect();
    eventually("two wait", || function.waiting() == 2);
    // Longer than an adaptive queue lets anybody wait: somebody else is refused meanwhile.
    host.serve("busy", narrow(), |_, _| {
        eventually("it may go on", || GO.load(Ordering::SeqCst));
        false
    });
    let _held = ask(&host, "/busy", "");
    let refused = || ask(&host, "/busy", "").rest().contains("x-funcd-shed: waited");
    eventually("another function refuses", refused);
    assert_eq!(function.waiting(), 2);
    GO.store(true, Ordering::SeqCst);
    for mut caller in waiting {
        assert!(caller.rest().ends_with("hello"));
    }
}

#[test]
fn deadlines_come_in_and_go_out() {
    let mut host = Host::new();
    let (function, server) = host.serve("f", manifest(), |conn, head| {
        // Until its caller is gone.
        head.contains("/fast") && hello(conn, head)
            || std::io::Read::read(&mut conn.stream, &mut [0]).is_err()
    });
    let left = |server: &Server, name| {
        let seen = server.seen();
        let value = field(seen.last().unwrap(), name)?;
        Some(value.trim_end_matches('m').parse::<u64>().unwrap())
    };
    ask(&host, "/f/fast", "").rest();
    assert!(left(&server, "x-request-timeout-ms").is_some_and(|left| left <= 20_000));
    assert_eq!(left(&server, "grpc-timeout"), None);
    ask(&host, "/f/fast", "x-request-timeout-ms: 99999999\r\n").rest();
    assert!(left(&server, "x-request-timeout-ms").is_some_and(|left| left <= 20_000));
    ask(&host, "/f/fast", "grpc-timeout: 15S\r\n").rest();
    assert!(left(&server, "grpc-timeout").is_some_and(|left| left <= 15_000));
    assert_eq!(
        left(&server, "grpc-timeout"),
        left(&server, "x-request-timeout-ms")
    );
    let late = ask(&host, "/f/slow", "x-request-timeout-ms: 50\r\n").rest();
    assert_problem(&late, 504, "response-timeout", "http_response_timeout");
    assert!(left(&server, "x-request-timeout-ms").is_some_and(|left| left <= 50));
    let asked = server.seen().len();
    let never = ask(&host, "/f/fast", "x-request-timeout-ms: 0\r\n").rest();
    assert_problem(&never, 503, "deadline", "connection_limit_reached");
    assert_eq!(server.seen().len(), asked, "and the function is not asked");
    eventually("the places are free again", || function.admitted() == 0);
}

/// Ends under each request the first time, and answers it the second time.
fn ends_once(conn: &mut crate::host::Conn, head: &str) -> bool {
    let body = conn.body(head);
    let id = field(head, "x-request-id").unwrap();
    let seen = conn.server.seen();
    let times = seen
        .iter()
        .filter(|seen| field(seen, "x-request-id") == Some(id))
        .count();
    let body = String::from_utf8(body.unwrap_or_default()).unwrap();
    times > 1 && conn.send(ok(&format!("got {body}")))
}

#[test]
fn what_is_sent_again_is_what_the_manifest_says() {
    let mut host = Host::new();
    for (name, retry) in [
        ("never", Retry::Never),
        ("safe", Retry::Safe),
        ("more", Retry::Idempotent),
    ] {
        let mut manifest = manifest();
        manifest.request.retry = retry;
        host.serve(name, manifest, ends_once);
    }
    let status = |name: &str, method: &str, rest: &str| {
        let answer = host.raw(format!(
            "{method} /{name} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{rest}"
        ));
        match answer.split_once("\r\n\r\n") {
            Some((head, "got hi")) if head.starts_with("HTTP/1.1 200 ") => "got hi",
            Some((head, "got " | "")) if head.starts_with("HTTP/1.1 200 ") => "got",
            Some((head, body)) if head.starts_with("HTTP/1.1 502 ") => {
                assert!(
                    method == "HEAD" || body.contains("connection-terminated"),
                    "{body}"
                );
                "502"
            }
            _ => panic!("{name} {method} {rest}: {answer}"),
        }
    };
    let body = "Content-Length: 2\r\n\r\nhi";
    for (method, rest, never, safe, more) in [
        ("GET", "\r\n", "502", "got", "got"),
        ("HEAD", "\r\n", "502", "got", "got"),
        ("GET", body, "502", "got hi", "got hi"),
        ("PUT", body, "502", "502", "got hi"),
        ("DELETE", "\r\n", "502", "502", "got"),
        ("POST", body, "502", "502", "502"),
        (
            "POST",
            "Idempotency-Key: 7\r\nContent-Length: 2\r\n\r\nhi",
            "502",
            "502",
            "got hi",
        ),
        // Of unknown length: not kept.
        (
            "PUT",
            "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            "502",
            "502",
            "502",
        ),
    ] {
        let got = ["never", "safe", "more"].map(|name| status(name, method, rest));
        assert_eq!(got, [never, safe, more], "{method} {rest}");
    }
    assert!(metric("funcd_request_retries_total", "function=\"more\",result=\"sent\"") >= 6);
}

#[test]
fn one_instance_of_two_dies_all_the_time_and_no_get_fails() {
    let mut host = Host::new();
    let (function, _) = host.serve("f", manifest(), hello);
    host.instance(&function, |_, _| false);
    for _ in 0..20 {
        // Both are idle, and the first is taken: keep it busy.
        assert!(host.get("/f").ends_with("hello"));
    }
}

#[test]
fn a_crash_storm_is_not_made_worse_by_sending_again() {
    let mut host = Host::new();
    let (_, server) = host.serve("storm", manifest(), |_, _| false);
    let began = Instant::now();
    const REQUESTS: u64 = 300;
    for _ in 0..REQUESTS {
        assert_problem(
            &host.get("/storm"),
            502,
            "connection-terminated",
            "connection_terminated",
        );
    }
    let asked = server.seen().len() as u64;
    // A tenth, ten that were saved up, and one a second; each attempt counts as a request.
    let most = REQUESTS + asked / 10 + 11 + began.elapsed().as_secs();
    assert!((REQUESTS + 10..=most).contains(&asked), "{asked} of {most}");
    let held = metric(
        "funcd_request_retries_total",
        "function=\"storm\",result=\"budget\"",
    );
    assert_eq!(held, 2 * REQUESTS - asked);
    assert_eq!(
        metric(
            "funcd_invocation_errors_total",
            "function=\"storm\",reason=\"retry-budget\""
        ),
        held
    );
}
