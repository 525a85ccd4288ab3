//! Calls of functions to each other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use funcd::admission::Class;
use funcd::function::handle::ToControl;
use funcd::ingress::inside::NoWire;
use http::header::HeaderValue;

use crate::binding::{Connect, WayOut, binding, parent, to_function};
use crate::host::{Conn, Host, assert_problem, bounds, eventually, field, hello, manifest, metric};

/// A sibling is reached without a connection.
fn nowhere() -> Connect {
    Arc::new(|| Err(NoWire::Host("nobody is to be connected to".to_owned())))
}

#[test]
fn a_sibling_is_called_on_the_way_of_every_request() {
    let mut host = Host::new();
    let mut routed = manifest();
    routed.routes = vec![funcd::catalog::manifest::RoutePattern {
        host: Some("only.example.com".to_owned()),
        path: "/only".to_owned(),
        limit: None,
    }];
    let (_, sibling) = host.serve("b", routed, hello);
    let way = WayOut::open(&mut host, "a", manifest(), binding(to_function("b")), nowhere());
    let counted = || {
        metric(
            "funcd_binding_requests_total",
            "function=\"a\",binding=\"users\",code=\"2xx\"",
        )
    };
    let before = counted();
    let mut caller = way.caller();
    for _ in 0..3 {
        // What it says of itself is not believed.
        caller.send(
            "GET /people?id=7 HTTP/1.1\r\nHost: 127.0.0.1:19001\r\nX-Funcd-Caller: somebody\r\nX-Funcd-Hops: 0\r\n\
             X-Forwarded-For: 203.0.113.7\r\nX-Funcd-Class: critical\r\n\r\n",
        );
        assert_eq!(caller.response().unwrap().1, b"hello");
    }
    let head = sibling.seen().pop().unwrap();
    assert!(
        head.starts_with("GET /people?id=7 HTTP/1.1\r\n"),
        "its routes are for callers outside: {head}"
    );
    assert_eq!(field(&head, "x-funcd-caller"), Some("a"));
    assert_eq!(field(&head, "x-funcd-hops"), Some("1"));
    assert_eq!(field(&head, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(field(&head, "x-forwarded-prefix"), None);
    assert_eq!(field(&head, "x-funcd-class"), Some("degraded"));
    eventually("it is counted", || counted() >= before + 3);
}

#[test]
fn class_deadline_and_id_come_from_the_request_that_the_call_is_made_for() {
    let mut host = Host::new();
    let (_, sibling) = host.serve("b", manifest(), hello);
    let way = WayOut::open(&mut host, "a", manifest(), binding(to_function("b")), nowhere());
    let deadline = Instant::now() + Duration::from_secs(6);
    way.instance.serving.enter(parent(deadline, Class::Critical, 3));
    assert!(
        way.ask("GET /", "X-Request-Id: outer\r\nX-Request-Timeout-Ms: 60000\r\n")
            .ends_with("hello")
    );
    let head = sibling.seen().pop().unwrap();
    assert_eq!(field(&head, "x-funcd-class"), Some("critical"));
    assert_eq!(field(&head, "x-funcd-hops"), Some("4"));
    assert!(
        field(&head, "x-request-timeout-ms")
            .unwrap()
            .parse::<u64>()
            .unwrap()
            <= 6000,
        "{head}"
    );
    way.ask("GET /", "X-Request-Id: outer\r\nX-Funcd-Class: bulk\r\n");
    assert_eq!(
        field(&sibling.seen().pop().unwrap(), "x-funcd-class"),
        Some("bulk")
    );
    // One that says nothing of its request is as deep as the deepest that it can be for.
    way.ask("GET /", "");
    let head = sibling.seen().pop().unwrap();
    assert_eq!(
        (field(&head, "x-funcd-class"), field(&head, "x-funcd-hops")),
        (Some("degraded"), Some("4"))
    );
}

#[test]
fn the_deadline_is_kept_though_the_sibling_may_take_longer() {
    let mut host = Host::new();
    let (_, _sibling) = host.serve("b", manifest(), |conn, _| {
        let _ = std::io::Read::read(&mut conn.stream, &mut [0]);
        false
    });
    let way = WayOut::open(&mut host, "a", manifest(), binding(to_function("b")), nowhere());
    let deadline = Instant::now() + Duration::from_millis(100);
    way.instance.serving.enter(parent(deadline, Class::Degraded, 0));
    let answer = way.ask("GET /", "X-Request-Id: outer\r\n");
    assert_problem(&answer, 504, "response-timeout", "http_response_timeout");
    let mut hurried = binding(to_function("b"));
    hurried.timeout = Duration::from_millis(100);
    let way = WayOut::open(&mut host, "a", manifest(), hurried, nowhere());
    assert_problem(
        &way.ask("GET /", ""),
        504,
        "response-timeout",
        "http_response_timeout",
    );
}

#[test]
fn a_loop_ends() {
    let mut host = Host::new();
    let (_, sibling) = host.serve("b", manifest(), hello);
    let way = WayOut::open(&mut host, "a", manifest(), binding(to_function("b")), nowhere());
    let soon = Instant::now() + Duration::from_secs(9);
    let key = way.instance.serving.enter(parent(soon, Class::Degraded, 16));
    // However the function denies it.
    for fields in ["X-Request-Id: outer\r\n", "", "X-Funcd-Hops: 0\r\n"] {
        let answer = way.ask("GET /", fields);
        assert_problem(&answer, 508, "loop", "proxy_loop_detected");
        assert!(
            answer.contains("the last is a through its binding users"),
            "{answer}"
        );
    }
    assert_eq!(sibling.seen(), Vec::<String>::new());
    way.instance.serving.leave(key);
    way.instance.serving.enter(parent(soon, Class::Degraded, 15));
    assert!(way.ask("GET /", "").ends_with("hello"), "the control");
}

#[test]
fn no_stranger_says_who_calls_or_how_deep() {
    let mut host = Host::with(bounds(), &["127.0.0.0/8"]);
    let (_, server) = host.serve("f", manifest(), hello);
    // Not even one whose word is taken for the rest.
    host.raw(
        "GET /f HTTP/1.1\r\nHost: h\r\nX-Funcd-Caller: a\r\nX-Funcd-Hops: 9\r\nX-Funcd-Class: critical\r\n\
         Connection: close\r\n\r\n",
    );
    let head = server.seen().pop().unwrap();
    assert_eq!(
        (field(&head, "x-funcd-caller"), field(&head, "x-funcd-hops")),
        (None, None)
    );
    assert_eq!(field(&head, "x-funcd-class"), Some("critical"), "the control");
}

#[test]
fn a_function_is_never_trusted_whatever_networks_are() {
    let mut host = Host::with(bounds(), &["127.0.0.0/8"]);
    let (_, sibling) = host.serve("b", manifest(), hello);
    let way = WayOut::open(&mut host, "a", manifest(), binding(to_function("b")), nowhere());
    way.ask(
        "GET /",
        "X-Forwarded-For: 203.0.113.7\r\nX-Funcd-Class: critical\r\n",
    );
    let head = sibling.seen().pop().unwrap();
    assert_eq!(field(&head, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(field(&head, "x-funcd-class"), Some("degraded"));
}

#[test]
fn a_sibling_that_does_not_exist_is_named() {
    let mut host = Host::new();
    let way = WayOut::open(&mut host, "a", manifest(), binding(to_function("b")), nowhere());
    let answer = way.ask("GET /", "");
    assert_problem(&answer, 502, "unknown-function", "destination_not_found");
    assert!(
        answer.contains("there is no function b, which the binding users of a leads to"),
        "{answer}"
    );
    // It may come later.
    let (_, _sibling) = host.serve("b", manifest(), hello);
    assert!(way.ask("GET /", "").ends_with("hello"));
}

#[test]
fn a_cold_sibling_is_started_for_a_call() {
    let mut host = Host::new();
    let cold = host.function("b", manifest());
    let way = WayOut::open(&mut host, "a", manifest(), binding(to_function("b")), nowhere());
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| way.ask("GET /", ""));
        let wanted = ToControl::Wanted(cold.name.clone());
        while host.control.blocking_recv().unwrap() != wanted {}
        host.instance(&cold, hello);
        assert!(answer.join().unwrap().ends_with("hello"));
    });
}

#[test]
fn what_a_function_asks_is_screened_on_its_way_to_a_sibling_too() {
    let mut host = Host::new();
    let (_, sibling) = host.serve("b", manifest(), hello);
    let way = WayOut::open(&mut host, "a", manifest(), binding(to_function("b")), nowhere());
    let answer = way.raw(
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    );
    assert_problem(&answer, 400, "bad-request", "http_request_error");
    assert_eq!(sibling.seen(), Vec::<String>::new());
}

#[test]
fn what_an_instance_works_on_is_known_until_its_answer_has_ended() {
    let mut host = Host::new();
    let (_, _sibling) = host.serve("b", manifest(), hello);
    let mut of = manifest();
    of.bindings = vec![binding(to_function("b"))];
    let (_, server) = host.serve("a", of, |conn: &mut Conn, _| {
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
        let _ = std::io::Read::read(&mut conn.stream, &mut [0]);
        false
    });
    let mut caller = host.caller();
    caller.send("GET /a HTTP/1.1\r\nHost: h\r\nX-Request-Id: mine\r\nX-Funcd-Class: bulk\r\n\r\n");
    caller.head().unwrap();
    let mut call = http::HeaderMap::new();
    call.insert("x-request-id", HeaderValue::from_static("mine"));
    let known = || server.instance.serving.origin(&call, false).parent;
    assert_eq!(known().unwrap().class, Class::Bulk);
    drop(caller);
    eventually("it is forgotten", || known().is_none());
}
