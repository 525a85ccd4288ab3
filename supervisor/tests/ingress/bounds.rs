//! Attacks 44 and 46: callers that are slow, silent, endless or many. The bounds are short here; what is asserted is
//! that the connection ends and the place is free, never how soon.

use std::io::Read;
use std::time::Duration;

use funcd::config::ClientBounds;

use crate::host::{Host, assert_problem, bounds, eventually, field, hello, manifest};

const SHORT: Duration = Duration::from_millis(100);

#[test]
fn slow_heads_are_closed() {
    let mut host = Host::with(
        ClientBounds {
            head_timeout: SHORT,
            ..bounds()
        },
        &[],
    );
    host.serve("f", manifest(), hello);
    // Nothing, the beginning of HTTP/2, the beginning of a head.
    for bytes in [
        "",
        "PRI * HTTP",
        "GET /f HTTP/1.1\r\nHost:",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let answer = host.raw(bytes);
        assert!(!answer.starts_with("HTTP"), "{bytes:?}: {answer}");
    }
    // A byte now and then does not help.
    let mut caller = host.caller();
    caller.send("GET /f HTTP/1.1\r\nHost: h\r\n");
    eventually("closed", || {
        let sent = std::io::Write::write_all(caller.0.get_mut(), b"A: b\r\n");
        std::thread::park_timeout(Duration::from_millis(5));
        sent.is_err()
    });
    // Nor does a good request before.
    let mut caller = host.caller();
    caller.send("GET /f HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(caller.response().unwrap().1, b"hello");
    caller.send("GET /f HT");
    assert_eq!(caller.rest(), "");
    eventually("all are closed", || host.shared.connections() == 0);
}

#[test]
fn idle_connections_are_closed() {
    let idle = ClientBounds {
        idle: SHORT,
        ..bounds()
    };
    let mut host = Host::with(idle, &[]);
    host.serve("f", manifest(), hello);
    let mut caller = host.caller();
    for _ in 0..3 {
        caller.send("GET /f HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(caller.response().unwrap().1, b"hello");
    }
    assert_eq!(caller.rest(), "");
}

#[test]
fn an_upload_that_stalls_is_a_408() {
    let stall = ClientBounds {
        body_idle: SHORT,
        ..bounds()
    };
    let mut host = Host::with(stall, &[]);
    let (function, server) = host.serve("f", manifest(), hello);
    for framing in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let begin = if framing.starts_with('C') {
            "half"
        } else {
            "4\r\nhalf\r\n"
        };
        let answer = host.raw(format!("POST /f HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n{begin}"));
        assert_problem(&answer, 408, "upload-stalled", "http_request_error");
        eventually("the place is free again", || {
            function.admitted() == 0 && server.instance.in_flight() == 0
        });
    }
}

#[test]
fn a_function_may_think_longer_than_a_body_may_stall() {
    let stall = ClientBounds {
        body_idle: Duration::from_millis(20),
        head_timeout: Duration::from_millis(20),
        idle: Duration::from_millis(20),
        ..bounds()
    };
    let mut host = Host::with(stall, &[]);
    host.serve("f", manifest(), |conn, head| {
        conn.body(head);
        std::thread::park_timeout(Duration::from_millis(100));
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha");
        std::thread::park_timeout(Duration::from_millis(100));
        conn.send("lf")
    });
    let mut caller = host.caller();
    caller.send("POST /f HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(caller.response().unwrap().1, b"half");
}

#[test]
fn a_reader_that_stalls_is_closed() {
    let stall = ClientBounds {
        body_idle: SHORT,
        ..bounds()
    };
    let mut host = Host::with(stall, &[]);
    let (function, server) = host.serve("flood", manifest(), |conn, _| {
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
        let piece = vec![0; 1 << 20];
        while conn.send(&piece) {}
        false
    });
    let mut caller = host.caller();
    caller.send("GET /flood HTTP/1.1\r\nHost: h\r\n\r\n");
    caller.head().unwrap();
    eventually("cut off", || {
        function.admitted() == 0 && server.instance.in_flight() == 0
    });
    let mut rest = vec![];
    let _ = caller.0.read_to_end(&mut rest);
    assert!(rest.len() < 1 << 30);
}

#[test]
fn an_http_2_reader_that_opens_no_window_is_reset() {
    let stall = ClientBounds {
        body_idle: SHORT,
        ..bounds()
    };
    let mut host = Host::with(stall, &[]);
    let (function, server) = host.serve("flood", manifest(), |conn, _| {
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
        let piece = vec![0; 1 << 20];
        while conn.send(&piece) {}
        false
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        use http_body_util::{BodyExt, Empty};
        let stream = tokio::net::TcpStream::connect(host.address).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get("http://h/flood")
            .body(Empty::<bytes::Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        while function.admitted() > 0 || server.instance.in_flight() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(
            response.into_body().collect().await.is_err(),
            "the stream was reset"
        );
        // The connection lives on.
        let request = http::Request::get("http://h/nobody")
            .body(Empty::<bytes::Bytes>::new())
            .unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 404);
    });
}

#[test]
fn a_body_beyond_the_manifest_s_limit_is_a_413() {
    let mut host = Host::new();
    let mut small = manifest();
    small.request.body = 1000;
    let (function, server) = host.serve("small", small, hello);
    // Announced: refused before the function or the body is touched.
    let announced =
        host.raw("POST /small HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n");
    assert_problem(&announced, 413, "body-too-large", "http_request_error");
    assert_eq!(server.seen().len(), 0);
    // Announced and sent all the same: the answer is not lost.
    let big = 1 << 20;
    let answer = host.raw(format!(
        "POST /small HTTP/1.1\r\nHost: h\r\nContent-Length: {big}\r\n\r\n{}",
        "x".repeat(big)
    ));
    assert_problem(&answer, 413, "body-too-large", "http_request_error");
    // Unannounced: cut off while it streams.
    let chunk = format!("{:x}\r\n{}\r\n", 500, "x".repeat(500));
    let head = "POST /small HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n";
    let answer = host.raw(format!("{head}\r\n{chunk}{chunk}{chunk}0\r\n\r\n"));
    assert_problem(&answer, 413, "body-too-large", "http_request_error");
    eventually("the place is free again", || function.admitted() == 0);
    let exact = host.raw(format!("{head}Connection: close\r\n\r\n{chunk}{chunk}0\r\n\r\n"));
    assert!(exact.ends_with("hello"), "{exact}");
}

#[test]
fn connections_beyond_the_bound_are_told_so() {
    let few = ClientBounds {
        connections: 2,
        ..bounds()
    };
    let host = Host::with(few, &[]);
    let held = [host.caller(), host.caller()];
    eventually("both are in", || host.shared.connections() == 2);
    let answer = host.raw("");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(field(head, "content-length"), Some(&*body.len().to_string()));
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(body).unwrap()["status"],
        503
    );
    drop(held);
    eventually("there is room again", || host.shared.connections() == 0);
    assert!(host.get("/nobody").starts_with("HTTP/1.1 404 "));
}
