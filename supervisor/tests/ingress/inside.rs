//! Calls of functions through HTTP bindings to servers outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use funcd::admission::Class;
use funcd::admission::breaker::Shown;
use funcd::catalog::manifest::Retry;
use funcd::function::serving::Parent;
use funcd::ingress::inside::NoWire;
use http::header::{HeaderMap, HeaderValue};

use crate::binding::{SOON, WayOut, binding, parent, to_http};
use crate::host::{
    Conn, Host, PATIENCE, assert_problem, bounds, eventually, field, hello, manifest, metric, ok,
};

const GET: &str = "GET /x HTTP/1.1\r\nHost: h\r\n\r\n";

fn echo(conn: &mut Conn, head: &str) -> bool {
    let Some(body) = conn.body(head) else { return false };
    conn.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )) && conn.send(body)
}

#[test]
fn a_call_goes_to_exactly_that_url_over_connections_that_are_used_again() {
    let mut host = Host::new();
    let (way, target) = WayOut::to(&mut host, binding(to_http("/api/v1")), hello);
    let calls = metric(
        "funcd_binding_requests_total",
        "function=\"caller\",binding=\"users\",code=\"2xx\"",
    );
    let mut caller = way.caller();
    for _ in 0..5 {
        caller.send(
            "GET /people?id=7 HTTP/1.1\r\nHost: 127.0.0.1:19001\r\nX-Funcd-Hops: 0\r\nAccept: a/b\r\n\r\n",
        );
        let (head, body, _) = caller.response().unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert_eq!(body, b"hello");
    }
    assert!(way.ask("GET http://elsewhere/people", "").ends_with("hello"));
    assert_eq!((target.accepted(), way.dialled.load(Ordering::SeqCst)), (1, 1));
    let seen = target.seen();
    assert!(
        seen[0].starts_with("GET /api/v1/people?id=7 HTTP/1.1\r\n"),
        "{}",
        seen[0]
    );
    assert!(
        seen[5].starts_with("GET /api/v1/people HTTP/1.1\r\n"),
        "{}",
        seen[5]
    );
    for head in &seen {
        assert_eq!(field(head, "host"), Some("users.internal"));
        assert_eq!(field(head, "x-funcd-hops"), None);
        assert_eq!(field(head, "connection"), None);
        assert!(field(head, "traceparent").is_some() && field(head, "x-request-id").is_some());
        assert_eq!(field(head, "x-funcd-class"), Some("degraded"));
        let left: u64 = field(head, "x-request-timeout-ms").unwrap().parse().unwrap();
        assert!(left <= PATIENCE.as_millis() as u64);
    }
    assert_eq!(field(&seen[0], "accept"), Some("a/b"));
    eventually("all are counted and nothing is held", || {
        let now = metric(
            "funcd_binding_requests_total",
            "function=\"caller\",binding=\"users\",code=\"2xx\"",
        );
        now >= calls + 6 && way.in_flight() == 0
    });
}

#[test]
fn bodies_go_both_ways_also_while_they_are_made() {
    let mut host = Host::new();
    let (way, _) = WayOut::to(&mut host, binding(to_http("")), echo);
    let body = "x".repeat(1 << 20);
    let mut caller = way.caller();
    let mut writer = caller.0.get_ref().try_clone().unwrap();
    let sent = body.clone();
    let writing = std::thread::spawn(move || {
        use std::io::Write;
        write!(
            writer,
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{sent}",
            sent.len()
        )
        .unwrap();
    });
    assert_eq!(caller.response().unwrap().1, body.as_bytes());
    writing.join().unwrap();
    caller.send(
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    );
    assert_eq!(caller.response().unwrap().1, b"abcde");

    // A piece is there before the next is made.
    let (way, _) = WayOut::to(&mut host, binding(to_http("")), |conn, _| {
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
        // Until the function has gone.
        while conn.send("1\r\n.\r\n") {}
        false
    });
    let mut caller = way.caller();
    caller.send(GET);
    assert!(caller.head().unwrap().starts_with("HTTP/1.1 200"));
    eventually("it is in flight", || way.in_flight() == 1);
    drop(caller);
    eventually("the place of a call whose function left is free", || {
        way.in_flight() == 0
    });
}

#[test]
fn what_keeps_a_call_from_its_target_is_said_and_refused_connections_are_tried_twice() {
    type Why = fn(String) -> NoWire;
    let cases = [
        (
            NoWire::Refused as Why,
            502,
            "binding-refused",
            "connection_refused",
            2,
        ),
        (NoWire::Name, 502, "binding-name", "dns_error", 1),
        (
            NoWire::Forbidden,
            502,
            "binding-forbidden",
            "destination_ip_prohibited",
            1,
        ),
        (NoWire::Tls, 502, "binding-tls", "tls_protocol_error", 1),
        (NoWire::Host, 500, "internal", "proxy_internal_error", 1),
    ];
    for (why, status, slug, error, dials) in cases {
        let mut host = Host::new();
        let connect = Arc::new(move || Err(why("because of this".to_owned())));
        let way = WayOut::open(&mut host, "caller", manifest(), binding(to_http("")), connect);
        // Nobody can have read it: so whatever the method.
        let answer = way.ask("POST /x", "Content-Length: 0\r\n");
        assert_problem(&answer, status, slug, error);
        assert!(
            answer.contains("the binding users to http://users.internal"),
            "{answer}"
        );
        assert!(answer.contains("because of this"), "{answer}");
        assert_eq!(way.dialled.load(Ordering::SeqCst), dials, "{slug}");
    }
}

#[test]
fn who_does_not_connect_or_answer_in_time_is_not_waited_for() {
    let mut host = Host::new();
    let connect = Arc::new(|| Err(NoWire::TooLate("silence".to_owned())));
    let mut hurried = binding(to_http(""));
    hurried.timeout = SOON;
    let way = WayOut::open(&mut host, "caller", manifest(), hurried.clone(), connect);
    assert_problem(
        &way.ask("GET /", ""),
        504,
        "binding-connect-timeout",
        "connection_timeout",
    );

    // Reads, and says nothing until the other side has gone.
    let silent = |conn: &mut Conn, _: &str| {
        let _ = std::io::Read::read(&mut conn.stream, &mut [0]);
        false
    };
    let (way, target) = WayOut::to(&mut host, hurried, silent);
    assert_problem(
        &way.ask("GET /", ""),
        504,
        "binding-timeout",
        "http_response_timeout",
    );
    assert_eq!(target.seen().len(), 1, "what took too long is not sent again");
    let (way, _) = WayOut::to(&mut host, binding(to_http("")), silent);
    let answer = way.ask("GET /", "X-Request-Timeout-Ms: 50\r\n");
    assert_problem(&answer, 504, "binding-timeout", "http_response_timeout");
    let answer = way.ask("GET /", "X-Request-Timeout-Ms: 0\r\n");
    assert_problem(&answer, 504, "binding-timeout", "http_response_timeout");
}

#[test]
fn a_call_has_what_is_left_of_the_request_that_it_is_made_for() {
    let mut host = Host::new();
    let (way, target) = WayOut::to(&mut host, binding(to_http("")), hello);
    let deadline = Instant::now() + Duration::from_secs(7);
    let key = way.instance.serving.enter(parent(deadline, Class::Critical, 0));
    // It knows whose it is, and says that it has all the time in the world.
    let fields = "X-Request-Id: outer\r\nX-Request-Timeout-Ms: 60000\r\nX-Funcd-Class: critical\r\n";
    assert!(way.ask("GET /", fields).ends_with("hello"));
    let left = |head: &str| {
        field(head, "x-request-timeout-ms")
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let head = target.seen().pop().unwrap();
    assert!(left(&head) <= 7000, "{head}");
    assert_eq!(
        (field(&head, "x-funcd-class"), field(&head, "x-request-id")),
        (Some("critical"), Some("outer"))
    );
    // It may matter less than that.
    way.ask("GET /", "X-Request-Id: outer\r\nX-Funcd-Class: bulk\r\n");
    assert_eq!(
        field(&target.seen().pop().unwrap(), "x-funcd-class"),
        Some("bulk")
    );
    // One of which nothing is known has the binding's time, and no class of its own choice.
    assert!(
        way.ask("GET /", fields.replace("outer", "other").as_str())
            .ends_with("hello")
    );
    let head = target.seen().pop().unwrap();
    assert!(left(&head) > 7000, "{head}");
    assert_eq!(field(&head, "x-funcd-class"), Some("degraded"));
    way.instance.serving.leave(key);
    // Where one request is answered at a time, it is known whose call it is.
    let mut alone = manifest();
    alone.scale.concurrency = 1;
    let way = WayOut::open(
        &mut host,
        "alone",
        alone,
        binding(to_http("")),
        crate::binding::connect_to(&target),
    );
    way.instance.serving.enter(parent(deadline, Class::Critical, 0));
    way.ask("GET /", "");
    let head = target.seen().pop().unwrap();
    assert!(left(&head) <= 7000, "{head}");
    assert_eq!(
        (field(&head, "x-funcd-class"), field(&head, "x-request-id")),
        (Some("critical"), Some("outer"))
    );
}

#[test]
fn a_target_that_dies_gets_only_what_is_safe_a_second_time() {
    let mut host = Host::new();
    let (way, target) = WayOut::to(&mut host, binding(to_http("")), |conn, head| {
        drop(conn.body(head));
        false
    });
    let retried = || {
        metric(
            "funcd_binding_retries_total",
            "function=\"caller\",binding=\"users\",result=\"sent\"",
        )
    };
    let before = retried();
    for (line, fields, heads) in [
        ("GET /", "", 2),
        ("POST /", "Content-Length: 2\r\n\r\nhi", 1),
        ("POST /", "Idempotency-Key: 7\r\nContent-Length: 0\r\n", 1),
        ("PUT /", "Content-Length: 0\r\n", 1),
    ] {
        let seen = target.seen().len();
        assert_problem(
            &way.ask(line, fields),
            502,
            "binding-ended",
            "connection_terminated",
        );
        assert_eq!(target.seen().len() - seen, heads, "{line} {fields}");
    }
    assert!(retried() > before);
    // Those that the manifest says may be sent twice.
    let mut twice = binding(to_http(""));
    twice.retry = Retry::Idempotent;
    let way = WayOut::open(
        &mut host,
        "twice",
        manifest(),
        twice,
        crate::binding::connect_to(&target),
    );
    let seen = target.seen().len();
    way.ask("PUT /", "Content-Length: 0\r\n");
    assert_eq!(target.seen().len() - seen, 2);
    let mut never = binding(to_http(""));
    never.retry = Retry::Never;
    let way = WayOut::open(
        &mut host,
        "never",
        manifest(),
        never,
        crate::binding::connect_to(&target),
    );
    let seen = target.seen().len();
    way.ask("GET /", "");
    assert_eq!(target.seen().len() - seen, 1);
}

#[test]
fn a_target_that_dies_within_its_answer_is_seen_to() {
    static ARRIVED: AtomicBool = AtomicBool::new(false);
    let mut host = Host::new();
    let (way, target) = WayOut::to(&mut host, binding(to_http("")), |conn, _| {
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        // hyper sends no head whose body broke off before anything of it went out.
        eventually("that is there", || ARRIVED.load(Ordering::SeqCst));
        false
    });
    let mut caller = way.caller();
    caller.send(GET);
    assert!(caller.head().unwrap().starts_with("HTTP/1.1 200"));
    ARRIVED.store(true, Ordering::SeqCst);
    assert_eq!(caller.rest(), "half");
    assert_eq!(target.seen().len(), 1, "what was answered is not asked again");
    eventually("its place is free", || way.in_flight() == 0);
}

#[test]
fn what_is_not_http_is_not_passed_on() {
    for answer in [
        "rubbish\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ] {
        let mut host = Host::new();
        let (_, server) = host.serve("target", manifest(), |_, _| false);
        drop(server);
        let path = tempfile::tempdir().unwrap();
        let socket = path.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                use std::io::{Read, Write};
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let connect = Arc::new(move || Ok(socket.clone()));
        let way = WayOut::open(&mut host, "caller", manifest(), binding(to_http("")), connect);
        let said = way.ask("GET /", "");
        assert_problem(&said, 502, "binding-malformed", "http_protocol_error");
    }
}

#[test]
fn a_target_that_fails_is_left_alone_until_it_answers_again() {
    let mut host = Host::new();
    let (way, target) = WayOut::to(&mut host, binding(to_http("")), |conn, head| {
        match head.contains("x-good") {
            true => conn.send(ok("hello")),
            false => conn.send("HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\noh"),
        }
    });
    // What the target says is passed on, and a 4xx says nothing against it.
    for _ in 0..20 {
        let answer = way.ask("GET /", "");
        assert!(
            answer.starts_with("HTTP/1.1 500 Oh") && answer.ends_with("oh"),
            "{answer}"
        );
    }
    assert!(matches!(way.bound.guard.view().breaker, Shown::Open(_)));
    let answer = way.ask("GET /", "");
    assert_problem(&answer, 503, "binding-open", "destination_unavailable");
    assert_eq!(target.seen().len(), 20, "nothing was sent");
    let state = || {
        metric(
            "funcd_binding_breaker_state",
            "function=\"caller\",binding=\"users\"",
        )
    };
    assert_eq!(state(), 1);
    // It is open for a second at most, and then four good answers close it.
    let mut good = 0;
    eventually("it closes", || {
        let answer = way.ask("GET /", "x-good: 1\r\n");
        good += usize::from(answer.ends_with("hello"));
        way.bound.guard.view().breaker == Shown::Closed
    });
    assert_eq!(good, 4);
    assert_eq!(state(), 0);
}

#[test]
fn calls_that_are_refused_by_the_target_say_nothing_against_it() {
    let mut host = Host::new();
    let (way, _) = WayOut::to(&mut host, binding(to_http("")), |conn, _| {
        conn.send("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
    });
    for _ in 0..40 {
        assert!(way.ask("GET /", "").starts_with("HTTP/1.1 404"));
    }
    assert_eq!(way.bound.guard.view().breaker, Shown::Closed);
}

#[test]
fn functions_that_do_not_wait_open_the_breaker_of_a_target_that_hangs() {
    let mut host = Host::new();
    let mut slow = binding(to_http(""));
    slow.timeout = 2 * SOON;
    let (way, target) = WayOut::to(&mut host, slow, |conn, _| {
        let _ = std::io::Read::read(&mut conn.stream, &mut [0]);
        false
    });
    // Each gives up after more than half of the time-out, and before its end.
    let mut callers: Vec<_> = (0..25)
        .map(|_| {
            let mut caller = way.caller();
            caller.send(GET);
            caller
        })
        .collect();
    eventually("all have come", || target.seen().len() == 25);
    let came = Instant::now();
    eventually("more than half of it is over", || came.elapsed() > SOON);
    callers.clear();
    eventually("it opens", || {
        matches!(way.bound.guard.view().breaker, Shown::Open(_))
    });
}

#[test]
fn no_more_calls_than_its_concurrency_are_in_flight() {
    let mut host = Host::new();
    let mut few = binding(to_http(""));
    few.concurrency = 2;
    let (way, target) = WayOut::to(&mut host, few, |conn, head| {
        if head.contains("/hold") {
            let _ = std::io::Read::read(&mut conn.stream, &mut [0]);
            return false;
        }
        hello(conn, head)
    });
    let mut held: Vec<_> = (0..2).map(|_| way.caller()).collect();
    for caller in &mut held {
        caller.send("GET /hold HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    eventually("both are there", || target.seen().len() == 2);
    let answer = way.ask("GET /", "");
    assert_problem(&answer, 503, "binding-full", "connection_limit_reached");
    assert!(answer.contains("`concurrency`"), "{answer}");
    held.pop();
    eventually("there is a place again", || {
        way.ask("GET /", "").ends_with("hello")
    });
}

#[test]
fn nothing_is_smuggled_to_somebodys_server() {
    let mut host = Host::new();
    let (way, target) = WayOut::to(&mut host, binding(to_http("/base")), hello);
    let large = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(40_000));
    for (bytes, status) in [
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            400,
        ),
        ("GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: h\n\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nX : y\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET /../admin HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET /%2e%2e/admin HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET /..%2fadmin HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (
            "CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere:443\r\n\r\n",
            405,
        ),
        (large.as_str(), 431),
    ] {
        let answer = way.raw(bytes);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{bytes:.60}: {answer}"
        );
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
    assert_eq!(target.seen(), Vec::<String>::new());
    // The control: what is well made gets there, framed anew.
    let answer = way.raw(
        "POST /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n0\r\n\r\n",
    );
    assert!(answer.ends_with("hello"), "{answer}");
    assert!(
        !String::from_utf8_lossy(&target.take_bytes()).contains("ext"),
        "extensions are not passed on"
    );
}

#[test]
fn an_answer_s_head_is_bounded() {
    let mut host = Host::new();
    let (way, _) = WayOut::to(&mut host, binding(to_http("")), |conn, _| {
        let field = format!("X: {}\r\n", "x".repeat(1000));
        conn.send(format!("HTTP/1.1 200 OK\r\n{}\r\n", field.repeat(90)))
    });
    assert_problem(
        &way.ask("GET /", ""),
        502,
        "binding-malformed",
        "http_protocol_error",
    );
}

#[test]
fn an_upgrade_becomes_a_tunnel() {
    let mut host = Host::new();
    let (way, target) = WayOut::to(&mut host, binding(to_http("")), |conn, head| {
        if field(head, "upgrade") != Some("echo") {
            return hello(conn, head);
        }
        conn.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n");
        let mut word = [0; 4];
        while std::io::Read::read_exact(&mut conn.stream, &mut word).is_ok() {
            conn.send(word);
        }
        false
    });
    let mut caller = way.caller();
    caller.send("GET / HTTP/1.1\r\nHost: h\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n");
    let head = caller.head().unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    for word in ["ping", "pong"] {
        caller.send(word);
        let mut back = [0; 4];
        std::io::Read::read_exact(&mut caller.0, &mut back).unwrap();
        assert_eq!(back, word.as_bytes());
    }
    assert_eq!((way.in_flight(), target.accepted()), (1, 1));
    drop(caller);
    eventually("the tunnel is closed", || way.in_flight() == 0);
}

#[test]
fn a_host_that_is_full_of_callers_lets_its_functions_call() {
    let mut few = bounds();
    few.connections = 1;
    let mut host = Host::with(few, &[]);
    let (way, _) = WayOut::to(&mut host, binding(to_http("")), hello);
    let mut outside = host.caller();
    outside.send("GET /target HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(outside.response().unwrap().1, b"hello");
    assert!(host.get("/target").starts_with("HTTP/1.1 503"), "the control");
    assert!(way.ask("GET /", "").ends_with("hello"));
}

#[test]
fn a_traced_call_belongs_to_its_request() {
    let mut host = Host::new();
    let (way, target) = WayOut::to(&mut host, binding(to_http("")), hello);
    let mut headers = HeaderMap::new();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    headers.insert("traceparent", HeaderValue::from_static(trace));
    let deadline = Instant::now() + Duration::from_secs(5);
    way.instance
        .serving
        .enter(Parent::of(&headers, deadline, Class::Bulk));
    // A span of its own within the trace, as tracing libraries make one.
    let span = "00-0af7651916cd43dd8448eb211c80319c-1111111111111111-01";
    way.ask("GET /", &format!("traceparent: {span}\r\n"));
    let head = target.seen().pop().unwrap();
    assert_eq!(
        (field(&head, "traceparent"), field(&head, "x-funcd-class")),
        (Some(span), Some("bulk"))
    );
}
