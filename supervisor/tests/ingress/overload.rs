//! Who may pass, as callers see it: classes, deadlines, the queue, what is sent again. Asserts no times.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use funcd::admission::Class;
use funcd::admission::queue::Order;
use funcd::catalog::manifest::{Manifest, Retry, RoutePattern};
use funcd::function::handle::ToControl;

use crate::h2;
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

/// Whether something is to be held against an instance, as far as `control` was told.
fn is_blamed(host: &mut Host) -> bool {
    let told: Vec<_> = std::iter::from_fn(|| host.control.try_recv().ok()).collect();
    told.iter().any(|told| matches!(told, ToControl::Failing(_)))
}

#[test]
fn a_caller_that_is_in_a_hurry_or_slow_is_not_held_against_the_function() {
    let mut host = Host::new();
    let silent = |conn: &mut crate::host::Conn, _: &str| {
        // Until its caller is gone.
        std::io::copy(&mut conn.stream, &mut std::io::sink()).is_err()
    };
    let (function, _) = host.serve("hurried", manifest(), silent);
    let late = ask(&host, "/hurried", "x-request-timeout-ms: 50\r\n").rest();
    assert_problem(&late, 504, "response-timeout", "http_response_timeout");
    eventually("it is over", || function.admitted() == 0);
    assert!(!is_blamed(&mut host));
    let mut brief = manifest();
    brief.request.timeout = std::time::Duration::from_millis(50);
    let (function, _) = host.serve("brief", brief, silent);
    // Its body never comes as a whole.
    let late = ask(&host, "/brief", "Content-Length: 100000\r\n").rest();
    assert_problem(&late, 504, "response-timeout", "http_response_timeout");
    eventually("it is over", || function.admitted() == 0);
    assert!(!is_blamed(&mut host));
    // The control: nobody but the function is late.
    let late = ask(&host, "/brief", "").rest();
    assert_problem(&late, 504, "response-timeout", "http_response_timeout");
    eventually("it is over", || function.admitted() == 0);
    assert!(is_blamed(&mut host));
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

/// Ends under the first request, and answers the others.
fn ends_under_the_first(conn: &mut crate::host::Conn, head: &str) -> bool {
    conn.server.seen().len() > 1 && hello(conn, head)
}

/// A process that was woken is told of only when its start is over: until then nobody knows whether it has read what was sent.
#[test]
fn what_a_process_may_have_read_is_not_sent_again_because_nobody_was_told_that_it_runs() {
    let mut host = Host::new();
    let ask = |host: &Host, name: &str| {
        let mut caller = host.caller();
        caller.send(format!(
            "DELETE /{name} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        ));
        caller
    };
    let ran = host.function("ran", manifest());
    let server = host.instance_of_late(&ran, ends_under_the_first);
    let mut caller = ask(&host, "ran");
    eventually("it is asked", || !server.seen().is_empty());
    server.instance.note_running();
    assert_problem(
        &caller.rest(),
        502,
        "connection-terminated",
        "connection_terminated",
    );
    assert_eq!(server.seen().len(), 1);
    // The control: what the launcher says never ran has read nothing.
    let stillborn = host.function("stillborn", manifest());
    let server = host.instance_of_late(&stillborn, ends_under_the_first);
    let mut caller = ask(&host, "stillborn");
    eventually("it is asked", || !server.seen().is_empty());
    server.instance.note_stillborn();
    assert!(caller.rest().ends_with("hello"));
}

/// Answers the head of a body that never ends, switches protocols, or says nothing: as the path says. Until its caller is gone.
fn never_ends(conn: &mut crate::host::Conn, head: &str) -> bool {
    let begun = match head.split(' ').nth(1) {
        Some("/begins") => conn.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel"),
        Some("/switches") => {
            conn.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello")
        }
        _ => true,
    };
    begun && std::io::copy(&mut conn.stream, &mut std::io::sink()).is_err()
}

/// Wherever a request is when its caller leaves, its permit and its lease are given back once.
#[test]
fn who_leaves_gives_back_what_it_held_wherever_it_was() {
    let mut host = Host::new();
    let mut wide = manifest();
    wide.request.retry = Retry::Idempotent;
    let (function, server) = host.serve("f", wide, never_ends);
    let mut patient = narrow();
    patient.request.queue = Order::Fifo;
    let queue = host.function("queue", patient);
    let (drains, draining) = host.serve("drains", manifest(), never_ends);
    draining.instance.stop_accepting();
    let is_free = |function: &funcd::function::handle::Function| {
        eventually("it is free again", || {
            function.admitted() == 0 && function.waiting() == 0
        });
    };
    for round in 0..3 {
        for (function, path, rest) in [
            (&function, "GET /f/silent", "\r\n"),
            (&function, "POST /f/silent", "Content-Length: 5\r\n\r\nhello"),
            (&function, "POST /f/silent", "Content-Length: 5\r\n\r\nhel"),
            (&function, "PUT /f/kept", "Content-Length: 5\r\n\r\nhel"),
            (&function, "GET /f/begins", "\r\n"),
            (
                &function,
                "GET /f/switches",
                "Connection: upgrade\r\nUpgrade: x\r\n\r\n",
            ),
            (&queue, "GET /queue", "\r\n"),
            (&queue, "POST /queue", "Content-Length: 5\r\n\r\nhello"),
            (&drains, "GET /drains", "\r\n"),
        ] {
            let seen = server.seen().len();
            let mut caller = host.caller();
            caller.send(format!("{path} HTTP/1.1\r\nHost: h\r\n{rest}"));
            eventually("it is there", || function.admitted() == 1);
            if path.contains("begins") || path.contains("switches") {
                assert!(caller.head().is_some(), "{path}");
            } else if path.contains("silent") {
                eventually("it is asked", || server.seen().len() > seen);
            }
            drop(caller);
            is_free(function);
            assert_eq!(server.instance.in_flight(), 0, "{round} {path}");
        }
        for (function, path) in [
            (&function, "/f/silent"),
            (&function, "/f/begins"),
            (&queue, "/queue"),
            (&drains, "/drains"),
        ] {
            for reset in [true, false] {
                let mut caller = h2::Caller::new(host.address);
                for stream in [1, 3] {
                    assert!(caller.ask(stream, &h2::get(path)));
                }
                eventually("they are there", || function.admitted() == 2);
                if path.contains("begins") {
                    assert_eq!(caller.outcome(3), h2::Came::Status(200));
                }
                if reset {
                    for stream in [1, 3] {
                        assert!(caller.send(&h2::frame(h2::RST_STREAM, 0, stream, &[0, 0, 0, 8])));
                    }
                    is_free(function);
                }
                drop(caller);
                is_free(function);
                assert_eq!(server.instance.in_flight(), 0, "{round} {path}");
            }
        }
    }
}

/// A listen queue that is full says so at once, and again until the deadline: that is no refusal, and is not tried again.
#[test]
fn who_never_gets_into_the_listen_queue_is_too_late() {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
    };
    let mut host = Host::new();
    let mut brief = manifest();
    brief.request.timeout = std::time::Duration::from_millis(100);
    let function = host.function("full", brief);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let address = UnixAddr::new(&path).unwrap();
    let open = || {
        socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_NONBLOCK,
            None,
        )
        .unwrap()
    };
    let listener = open();
    bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &address).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    let waiting: Vec<_> = std::iter::repeat_with(open)
        .take_while(|client| connect(std::os::fd::AsRawFd::as_raw_fd(client), &address).is_ok())
        .collect();
    assert!(!waiting.is_empty());
    let live = function.live();
    let revision = std::sync::Arc::clone(&live.revision);
    let instance = funcd::function::instance::Instance::new(
        funcd_sandbox::spec::InstanceId(1),
        std::sync::Arc::clone(&revision),
        funcd::function::instance::Address::Unix(path),
    );
    instance.note_running();
    function.publish(funcd::function::handle::Live {
        revision,
        instances: vec![std::sync::Arc::new(instance)],
        refusal: None,
    });
    assert_problem(&host.get("/full"), 504, "start-timeout", "connection_timeout");
    let retries = metric("funcd_request_retries_total", "function=\"full\",result=\"sent\"");
    assert_eq!(retries, 0);
}

/// A manifest with a cheap and a costly route.
fn costly(limit: Option<u32>) -> Manifest {
    let mut costly = manifest();
    costly.scale.concurrency = 8;
    costly.routes = [("/", None), ("/report", limit)]
        .map(|(path, limit)| RoutePattern {
            host: None,
            path: path.to_owned(),
            limit,
        })
        .to_vec();
    costly
}

#[test]
fn a_costly_route_does_not_take_the_places_of_the_others() {
    static GO: AtomicBool = AtomicBool::new(false);
    let mut host = Host::new();
    let (function, server) = host.serve("f", costly(Some(2)), |conn, head| {
        if !head.contains("/report ") && !head.contains("/report/") {
            return hello(conn, head);
        }
        // The head alone at once: a place is held until the end of the body.
        let answered = conn.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        eventually("it may go on", || GO.load(Ordering::SeqCst));
        answered && conn.send("hello")
    });
    let mut held: Vec<Caller> = (0..2).map(|_| ask(&host, "/report/of-today", "")).collect();
    for caller in &mut held {
        assert!(caller.head().unwrap().contains(" 200 "));
    }
    // Refused before its body is there, which never comes.
    let mut third = host.caller();
    third.send("POST /report HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n");
    let shed = third.head().unwrap();
    assert!(shed.contains(" 503 "), "{shed}");
    assert_eq!(field(&shed, "x-funcd-shed"), Some("route-limit"));
    assert!(field(&shed, "retry-after").is_some());
    assert_eq!(server.seen().len(), 2);
    eventually("it is counted", || {
        let labels = "function=\"f\",reason=\"route-limit\",class=\"degraded\"";
        metric("funcd_requests_shed_total", labels) > 0
    });
    for path in ["/", "/reports", "/other"] {
        assert!(ask(&host, path, "").rest().ends_with("hello"), "{path}");
    }
    // A caller who vanishes gives its place back; so does the end of an answer.
    drop(held.pop());
    eventually("the place of the one who left", || function.admitted() == 1);
    let mut next = ask(&host, "/report", "");
    assert!(next.head().unwrap().contains(" 200 "));
    GO.store(true, Ordering::SeqCst);
    assert!(next.rest().ends_with("hello"));
    assert!(held.pop().unwrap().rest().ends_with("hello"));
    eventually("all are free", || function.admitted() == 0);
    for limit in function
        .route_limits(&costly(Some(2)).routes)
        .into_iter()
        .flatten()
    {
        assert_eq!(limit.in_flight(), 0);
    }
}
