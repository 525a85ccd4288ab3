//! What the function sees of a caller (attack 47), what the caller sees of the function, and every answer of our own.

use std::time::{Duration, Instant};

use funcd::admission::queue::Order;
use funcd::function::handle::{Refusal, ToControl};

use crate::host::{Host, assert_problem, bounds, eventually, field, hello, manifest, ok, recorder};

/// A head's lines, the first left out, sorted.
fn fields(head: &str) -> Vec<String> {
    let mut fields: Vec<_> = head.trim_end().lines().skip(1).map(str::to_owned).collect();
    fields.sort();
    fields
}

#[test]
fn the_function_sees_exactly_this() {
    let mut host = Host::new();
    let (_, server) = host.serve("hello", manifest(), hello);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let answer = host.raw(format!(
        "GET /hello/a/../%2e?q=%20 HTTP/1.1\r\nHost: Example.com:8080\r\nConnection: close, X-Private\r\nX-Private: 1\r\n\
         X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /evil\r\n\
         Forwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nProxy: http://evil\r\nX_Forwarded_For: 6.6.6.6\r\n\
         Keep-Alive: 1\r\nTE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nAccept: a\r\nAccept: b\r\n\
         X-Request-Id: mine\r\ntraceparent: {parent}\r\ntracestate: a=b\r\n\r\n"
    ));
    let [head] = &server.seen()[..] else { panic!() };
    assert!(head.starts_with("GET /a/../%2e?q=%20 HTTP/1.1\r\n"), "{head}");
    let expected = [
        "accept: a",
        "accept: b",
        "forwarded: for=127.0.0.1;host=\"Example.com:8080\";proto=http",
        "host: Example.com:8080",
        "te: trailers",
        &format!("traceparent: {parent}"),
        "tracestate: a=b",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-host: Example.com:8080",
        "x-forwarded-prefix: /hello",
        "x-forwarded-proto: http",
        "x-funcd-class: degraded",
        "x-request-id: mine",
    ];
    let (left, others): (Vec<_>, Vec<_>) = fields(head)
        .into_iter()
        .partition(|field| field.starts_with("x-request-timeout-ms: "));
    assert_eq!(others, expected);
    assert_eq!(left.len(), 1, "how long it may take: {head}");
    assert_eq!(field(&answer, "x-request-id"), Some("mine"));
}

#[test]
fn a_trusted_peer_is_believed() {
    let mut host = Host::with(bounds(), &["127.0.0.0/8"]);
    let (_, server) = host.serve("hello", manifest(), hello);
    host.raw(
        "GET /hello HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
         X-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\r\n",
    );
    let head = &server.seen()[0];
    assert_eq!(field(head, "x-forwarded-for"), Some("6.6.6.6, 127.0.0.1"));
    assert_eq!(field(head, "x-forwarded-proto"), Some("https"));
    assert_eq!(field(head, "x-real-ip"), Some("6.6.6.6"));
    assert_eq!(
        field(head, "forwarded"),
        Some("for=6.6.6.6, for=127.0.0.1;host=\"h\";proto=http")
    );
}

#[test]
fn ids_are_minted_where_there_are_none() {
    let mut host = Host::new();
    let (_, server) = host.serve("hello", manifest(), hello);
    let (one, two) = (host.get("/hello"), host.get("/hello"));
    let ids = [&one, &two].map(|answer| field(answer, "x-request-id").unwrap());
    assert!(ids[0] != ids[1] && ids.iter().all(|id| id.len() == 32), "{ids:?}");
    let seen = server.seen();
    assert_eq!(field(&seen[0], "x-request-id"), Some(ids[0]));
    let parents = [0, 1].map(|i| field(&seen[i], "traceparent").unwrap());
    assert!(parents[0] != parents[1] && parents[0].len() == 55, "{parents:?}");
}

#[test]
fn an_absolute_target_beats_the_host_field() {
    let mut host = Host::new();
    let (_, server) = host.serve("hello", manifest(), hello);
    host.raw("GET http://real.example/hello/x HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n");
    let head = &server.seen()[0];
    assert!(head.starts_with("GET /x HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(head, "host"), Some("real.example"));
}

#[test]
fn http_1_0_without_a_host_is_answered_and_closed() {
    let mut host = Host::new();
    let (_, server) = host.serve("hello", manifest(), hello);
    let answer = host.raw("GET /hello HTTP/1.0\r\n\r\n");
    assert!(
        answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nhello"),
        "{answer}"
    );
    assert!(server.seen()[0].starts_with("GET / HTTP/1.1\r\n"));
}

#[test]
fn the_caller_sees_the_function_s_own_response() {
    let mut host = Host::new();
    host.serve("hello", manifest(), |conn, _| {
        conn.send(
            "HTTP/1.1 418 I'm a teapot\r\nContent-Length: 2\r\nX-Own: 1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
             Connection: X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\nX-Request-Id: own\r\nServer: mine\r\n\r\nhi",
        )
    });
    let answer = host.get("/hello");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 418 I'm a teapot\r\n") && body == "hi",
        "{answer}"
    );
    let mut seen = fields(head);
    seen.retain(|line| !line.starts_with("date: "));
    let expected = [
        "connection: close",
        "content-length: 2",
        "server: mine",
        "set-cookie: a=1",
        "set-cookie: b=2",
        "x-own: 1",
        "x-request-id: own",
    ];
    assert_eq!(seen, expected);
}

#[test]
fn problems_of_our_own() {
    let mut host = Host::new();
    assert_problem(
        &host.get("/nobody"),
        404,
        "unknown-route",
        "destination_not_found",
    );
    let connect = host.raw("CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_problem(&connect, 405, "method-not-allowed", "http_request_denied");
    let expect = host.raw("POST / HTTP/1.1\r\nHost: h\r\nExpect: miracles\r\nContent-Length: 1\r\n\r\n");
    assert_problem(&expect, 417, "expectation-failed", "http_request_error");
    let bare_line_feed = host.raw("GET / HTTP/1.1\nHost: h\r\n\r\n");
    assert_problem(&bare_line_feed, 400, "bad-request", "http_request_error");

    let function = host.function("failed", manifest());
    for until in [None, Some(Instant::now() + Duration::from_secs(9))] {
        let reason = "it exited with code 3 five times".to_owned();
        host.refuse(&function, Refusal { reason, until });
        let answer = host.get("/failed");
        assert_problem(&answer, 503, "unavailable", "destination_unavailable");
        assert!(
            answer.contains("it exited with code 3 five times") && answer.contains("\"function\":\"failed\"")
        );
        let seconds: u64 = field(&answer, "retry-after").unwrap().parse().unwrap();
        assert_eq!(seconds >= 8, until.is_some(), "{seconds}");
    }

    let mut hasty = manifest();
    hasty.request.timeout = Duration::from_millis(50);
    host.function("cold", hasty.clone());
    assert_problem(&host.get("/cold"), 504, "start-timeout", "connection_timeout");
    assert!(matches!(host.control.blocking_recv(), Some(ToControl::Wanted(name)) if name.as_str() == "cold"));
    let (slow, server) = host.serve("slow", hasty, |conn, _| {
        // Says nothing until the host has given up.
        let _ = std::io::BufRead::fill_buf(&mut conn.stream);
        false
    });
    assert_problem(
        &host.get("/slow"),
        504,
        "response-timeout",
        "http_response_timeout",
    );
    eventually("the place is free again", || {
        slow.admitted() == 0 && server.instance.in_flight() == 0
    });
}

#[test]
fn a_head_too_large_or_with_too_many_fields_is_431() {
    let mut host = Host::new();
    let (_, server) = host.serve("hello", manifest(), hello);
    let large = format!(
        "GET /hello HTTP/1.1\r\nHost: h\r\nA: {}\r\n\r\n",
        "x".repeat(33 * 1024)
    );
    let many = format!("GET /hello HTTP/1.1\r\nHost: h\r\n{}\r\n", "A: b\r\n".repeat(101));
    let endless = format!("GET /hello HTTP/1.1\r\nHost: h\r\n{}", "A: b\r\n".repeat(20_000));
    for bytes in [large, many, endless] {
        let answer = host.raw(bytes);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
            "{answer}"
        );
    }
    assert_eq!(server.seen(), [""; 0]);
    let fits = format!(
        "GET /hello HTTP/1.1\r\nHost: h\r\nConnection: close\r\nA: {}\r\n\r\n",
        "x".repeat(31 * 1024)
    );
    assert!(host.raw(fits).starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_full_queue_is_shed_at_once() {
    let mut host = Host::new();
    let mut few = manifest();
    few.scale.concurrency = 2;
    few.request.queue = Order::Fifo;
    let function = host.function("busy", few);
    // Ten for each place.
    let mut waiting: Vec<_> = (0..20).map(|_| host.caller()).collect();
    for caller in &mut waiting {
        caller.send("GET /busy HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    eventually("all wait", || function.waiting() == 20);
    let answer = host.get("/busy");
    assert_problem(&answer, 503, "queue-full", "connection_limit_reached");
    assert_eq!(field(&answer, "x-funcd-shed"), Some("queue-full"));
    // An instance arrives: everybody who waits is served.
    host.instance(&function, |conn, _| conn.send(ok("late")));
    for mut caller in waiting {
        assert!(caller.head().unwrap().starts_with("HTTP/1.1 200 "));
    }
}

#[test]
fn what_is_counted() {
    let mut host = Host::new();
    host.serve("counted", manifest(), hello);
    assert!(host.get("/counted").ends_with("hello"));
    let head = "POST /counted HTTP/1.1\r\nHost: h\r\nConnection: close\r\n";
    assert!(
        host.raw(format!("{head}Content-Length: 3\r\n\r\nabc"))
            .ends_with("hello")
    );
    assert!(
        host.raw(format!("{head}Content-Length: 99999999999\r\n\r\n"))
            .contains(" 413 ")
    );
    let failed = host.function("counted-failed", manifest());
    let reason = "it never started".to_owned();
    host.refuse(&failed, Refusal { reason, until: None });
    assert!(host.get("/counted-failed").contains(" 503 "));
    for line in [
        "funcd_invocations_total{function=\"counted\",trigger=\"http\",code=\"2xx\"} 2",
        "funcd_invocations_total{function=\"counted\",trigger=\"http\",code=\"4xx\"} 1",
        "funcd_invocation_errors_total{function=\"counted\",reason=\"body-too-large\"} 1",
        "funcd_invocations_in_flight{function=\"counted\"} 0",
        "funcd_request_bytes_total{function=\"counted\"} 3",
        "funcd_response_bytes_total{function=\"counted\"} 10",
        "funcd_invocation_duration_seconds_count{function=\"counted\"} 3",
        "funcd_proxy_overhead_seconds_count{function=\"counted\"} 2",
        "funcd_requests_shed_total{function=\"counted-failed\",reason=\"unavailable\",class=\"degraded\"} 1",
    ] {
        eventually(line, || recorder().render().lines().any(|shown| shown == line));
    }
}
