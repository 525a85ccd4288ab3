//! Bodies stream both ways, with back-pressure; upgrades and event streams pass through; HTTP/2 callers are served.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::host::{Conn, Host, eventually, field, hello, manifest, ok};

fn echo(conn: &mut Conn, head: &str) -> bool {
    let Some(body) = conn.body(head) else { return false };
    conn.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )) && conn.send(body)
}

#[test]
fn big_bodies_both_ways() {
    let mut host = Host::new();
    let (_, server) = host.serve("echo", manifest(), echo);
    let body: Vec<u8> = (0..8 << 20).map(|i: u32| (i % 251) as u8).collect();
    let mut caller = host.caller();
    for chunked in [false, true] {
        let framing = match chunked {
            true => "Transfer-Encoding: chunked".to_owned(),
            false => format!("Content-Length: {}", body.len()),
        };
        caller.send(format!("POST /echo HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"));
        for piece in body.chunks(100_000) {
            match chunked {
                true => caller.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()),
                false => caller.send(piece),
            }
        }
        if chunked {
            caller.send("0\r\n\r\n");
        }
        let (head, echoed, _) = caller.response().unwrap();
        assert!(head.starts_with("HTTP/1.1 200 ") && echoed == body, "{head}");
    }
    assert_eq!(server.accepted(), 1);
}

#[test]
fn a_get_with_a_chunked_body_keeps_it() {
    let mut host = Host::new();
    host.serve("echo", manifest(), echo);
    let answer = host.raw("GET /echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
    assert!(answer.ends_with("\r\n\r\nhi"), "{answer}");
}

#[test]
fn head_has_a_length_and_no_body() {
    let mut host = Host::new();
    let (_, server) = host.serve("f", manifest(), |conn, head| match head.starts_with("HEAD") {
        true => conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"),
        false => hello(conn, head),
    });
    let mut caller = host.caller();
    caller.send("HEAD /f HTTP/1.1\r\nHost: h\r\n\r\n");
    let head = caller.head().unwrap();
    assert_eq!(field(&head, "content-length"), Some("1234"), "{head}");
    caller.send("GET /f HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(caller.response().unwrap().1, b"hello");
    assert_eq!(server.accepted(), 1, "the connection was used again");
    caller.send("HEAD /nobody HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let rest = caller.rest();
    assert!(
        rest.starts_with("HTTP/1.1 404 ") && rest.ends_with("\r\n\r\n"),
        "{rest}"
    );
}

#[test]
fn no_content_and_not_modified_have_no_body() {
    let mut host = Host::new();
    let (_, server) = host.serve("f", manifest(), |conn, head| match head.starts_with("GET /204") {
        true => conn.send("HTTP/1.1 204 No Content\r\n\r\n"),
        false => conn.send("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 7\r\n\r\n"),
    });
    let mut caller = host.caller();
    for (path, status) in [("204", "204"), ("304", "304"), ("204", "204")] {
        caller.send(format!("GET /f/{path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let head = caller.head().unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
    assert_eq!(server.accepted(), 1);
}

#[test]
fn a_hundred_continue_comes_once_an_instance_takes_the_request() {
    let mut host = Host::new();
    let (_, server) = host.serve("echo", manifest(), echo);
    let mut caller = host.caller();
    caller.send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(caller.head().unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    caller.send("hi");
    assert_eq!(caller.response().unwrap().1, b"hi");
    assert_eq!(field(&server.seen()[0], "expect"), None);
    // Refused before the body: no 100.
    caller.send("POST /nobody HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert!(caller.head().unwrap().starts_with("HTTP/1.1 404 "));
}

#[test]
fn trailers_both_ways() {
    let mut host = Host::new();
    let (_, server) = host.serve("f", manifest(), |conn, head| {
        let mut trailers = vec![];
        assert_eq!(field(head, "trailer"), Some("x-sum"));
        while !trailers.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            conn.stream.read_exact(&mut byte).unwrap();
            trailers.push(byte[0]);
        }
        let got = String::from_utf8(trailers).unwrap();
        assert!(got.contains("x-sum: up\r\n"), "{got}");
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: down\r\n\r\n")
    });
    let mut caller = host.caller();
    for _ in 0..2 {
        caller.send(
            "POST /f HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n\
             2\r\nhi\r\n0\r\nX-Sum: up\r\n\r\n",
        );
        let (_, body, trailers) = caller.response().unwrap();
        assert_eq!((&*body, &*trailers), (&b"hi"[..], "x-sum: down\r\n\r\n"));
    }
    assert_eq!(field(&server.seen()[0], "te"), Some("trailers"));
}

#[test]
fn an_event_arrives_before_the_next_is_made() {
    static SENT: AtomicUsize = AtomicUsize::new(0);
    static READ: AtomicUsize = AtomicUsize::new(0);
    let mut host = Host::new();
    host.serve("ticker", manifest(), |conn, _| {
        conn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        for i in 0..5 {
            conn.send(format!("8\r\ndata: {i}\n\r\n"));
            SENT.store(i + 1, Ordering::SeqCst);
            eventually("the caller has read it", || READ.load(Ordering::SeqCst) > i);
        }
        conn.send("0\r\n\r\n")
    });
    let mut caller = host.caller();
    caller.send("GET /ticker HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n");
    let head = caller.head().unwrap();
    assert_eq!(field(&head, "content-type"), Some("text/event-stream"));
    for i in 0..5 {
        let mut chunk = [0; 13];
        caller.0.read_exact(&mut chunk).unwrap();
        assert_eq!(String::from_utf8_lossy(&chunk), format!("8\r\ndata: {i}\n\r\n"));
        READ.store(i + 1, Ordering::SeqCst);
    }
    let mut end = [0; 5];
    caller.0.read_exact(&mut end).unwrap();
    assert_eq!(&end, b"0\r\n\r\n");
}

#[test]
fn an_upgrade_becomes_a_tunnel() {
    let mut host = Host::new();
    let (function, server) = host.serve("ws", manifest(), |conn, head| {
        assert_eq!(field(head, "connection"), Some("upgrade"));
        assert_eq!(field(head, "upgrade"), Some("websocket"));
        assert_eq!(field(head, "sec-websocket-key"), Some("k"));
        // The first bytes come with the head.
        conn.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nfirst\n",
        );
        loop {
            let mut bytes = [0; 100];
            match conn.stream.read(&mut bytes) {
                Ok(read @ 1..) => conn.send(bytes[..read].to_ascii_uppercase()),
                _ => return false,
            };
        }
    });
    let mut caller = host.caller();
    caller.send("GET /ws HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n");
    let head = caller.head().unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(
        (field(&head, "upgrade"), field(&head, "connection")),
        (Some("websocket"), Some("upgrade"))
    );
    let mut bytes = [0; 6];
    caller.0.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"first\n");
    for _ in 0..3 {
        caller.send("abc\r\n\n");
        caller.0.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"ABC\r\n\n");
    }
    assert_eq!(
        (function.admitted(), server.instance.in_flight()),
        (1, 1),
        "the tunnel holds its place"
    );
    drop(caller);
    eventually("the place is free again", || {
        function.admitted() == 0 && server.instance.in_flight() == 0
    });
}

#[test]
fn an_upgrade_that_the_function_declines_is_an_ordinary_response() {
    let mut host = Host::new();
    host.serve("f", manifest(), hello);
    let mut caller = host.caller();
    for _ in 0..2 {
        caller.send("GET /f HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        assert_eq!(caller.response().unwrap().1, b"hello");
    }
}

/// Bytes that fit into the sockets' buffers and ours between a server and a caller that does not read: measured at
/// some MiB on loopback. Far more than that is offered.
#[test]
fn a_reader_that_stalls_stalls_the_function() {
    static WRITTEN: AtomicUsize = AtomicUsize::new(0);
    const OFFERED: usize = 256 << 20;
    let mut host = Host::new();
    let (function, _) = host.serve("flood", manifest(), |conn, _| {
        conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {OFFERED}\r\n\r\n"));
        let piece = vec![0; 1 << 20];
        while conn.stream.get_mut().write_all(&piece).is_ok() {
            WRITTEN.fetch_add(piece.len(), Ordering::SeqCst);
        }
        false
    });
    let mut caller = host.caller();
    caller.send("GET /flood HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(caller.head().unwrap().starts_with("HTTP/1.1 200 "));
    // It stands still: the same count for many looks, with other requests served in between.
    let (mut last, mut same) = (0, 0);
    eventually("the function stands still", || {
        host.get("/nobody");
        let now = WRITTEN.load(Ordering::SeqCst);
        same = if now == last { same + 1 } else { 0 };
        last = now;
        same > 200
    });
    assert!(
        last < 64 << 20,
        "{last} bytes were taken from the function for a caller that reads nothing"
    );
    drop(caller);
    eventually("the place is free again", || function.admitted() == 0);
}

#[test]
fn a_caller_that_vanishes_frees_its_place_and_tells_the_function() {
    static ENDED: AtomicUsize = AtomicUsize::new(0);
    let mut host = Host::new();
    let (function, server) = host.serve("f", manifest(), |conn, head| {
        if head.contains("body") {
            conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n");
        }
        let _ = conn.stream.read(&mut [0]);
        ENDED.fetch_add(1, Ordering::SeqCst);
        false
    });
    for (n, path) in ["head", "body"].into_iter().enumerate() {
        let mut caller = host.caller();
        caller.send(format!("GET /f/{path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        eventually("the function has it", || server.seen().len() == n + 1);
        if path == "body" {
            caller.head().unwrap();
        }
        drop(caller);
        eventually("the function sees the end", || {
            ENDED.load(Ordering::SeqCst) == n + 1
        });
        eventually("the place is free again", || {
            function.admitted() == 0 && server.instance.in_flight() == 0
        });
    }
}

#[test]
fn an_http_2_caller_with_prior_knowledge() {
    let mut host = Host::new();
    let (function, server) = host.serve("echo", manifest(), |conn, head| {
        let body = conn.body(head).unwrap();
        conn.send(format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\nConnection: x-private\r\nX-Private: 1\r\n\r\n{:x}\r\n",
            body.len()
        )) && conn.send(body)
            && conn.send("\r\n0\r\nX-Sum: 1\r\n\r\n")
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let address = host.address;
    runtime.block_on(async move {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        let body = Bytes::from(vec![7; 1 << 20]);
        let ask = |path: &str| {
            let uri = format!("http://h2.example{path}");
            let request = http::Request::post(uri)
                .header("cookie", "a=1")
                .header("cookie", "b=2");
            request.body(Full::new(body.clone())).unwrap()
        };
        let answers: Vec<_> = (0..10).map(|_| sender.send_request(ask("/echo/x"))).collect();
        // All at once: unread responses share one window, so a caller must not leave one for the other.
        let reads: Vec<_> = answers
            .into_iter()
            .map(|answer| {
                tokio::spawn(async move {
                    let response = answer.await.unwrap();
                    assert_eq!(response.status(), 200);
                    assert!(response.headers().get("x-private").is_none());
                    response.into_body().collect().await.unwrap()
                })
            })
            .collect();
        for read in reads {
            let collected = read.await.unwrap();
            assert_eq!(collected.trailers().unwrap()["x-sum"], "1");
            assert_eq!(collected.to_bytes(), body);
        }
        let problem = sender.send_request(ask("/nobody")).await.unwrap();
        assert_eq!(problem.status(), 404);
        assert_eq!(
            problem.headers()["proxy-status"],
            "funcd; error=destination_not_found"
        );
    });
    let head = &server.seen()[0];
    assert!(head.starts_with("POST /x HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(head, "host"), Some("h2.example"));
    assert_eq!(field(head, "cookie"), Some("a=1; b=2"));
    assert_eq!(field(head, "x-forwarded-proto"), Some("http"));
    eventually("the place is free again", || function.admitted() == 0);
}

#[test]
fn a_response_before_the_body_s_end_comes_through() {
    let mut host = Host::new();
    let (function, _) = host.serve("f", manifest(), |conn, _| {
        conn.send(ok("early"));
        false
    });
    let mut caller = host.caller();
    caller.send("POST /f HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nbegin");
    let (head, body, _) = caller.response().unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && body == b"early", "{head}");
    eventually("the place is free again", || function.admitted() == 0);
}

#[test]
fn a_response_before_the_body_s_end_reaches_a_caller_that_sends_on() {
    let mut host = Host::new();
    // It answers each request at once and closes the connection, as servers do that leave a body unread.
    let (function, server) = host.serve("f", manifest(), |conn, _| {
        conn.send(ok("early"));
        false
    });
    for answered in 0..50 {
        let mut caller = host.caller();
        caller.send("POST /f HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n");
        eventually("it is answered", || server.accepted() > answered);
        eventually("the place is free again", || function.admitted() == 0);
        // More than the sockets hold by themselves would block here if nobody read it.
        caller.send(vec![b'x'; 100_000]);
        let (head, body, _) = caller.response().unwrap();
        assert!(head.starts_with("HTTP/1.1 200 ") && body == b"early", "{head}");
        assert_eq!(field(&head, "connection"), Some("close"), "{head}");
    }
}

#[test]
fn a_connection_that_was_answered_early_is_not_used_again() {
    let mut host = Host::new();
    let (function, server) = host.serve("f", manifest(), |conn, head| {
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n");
        conn.body(head).is_some() && conn.send("late")
    });
    let mut caller = host.caller();
    caller.send("POST /f HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n");
    assert!(caller.head().unwrap().starts_with("HTTP/1.1 200 "));
    caller.send("later");
    assert!(caller.rest().ends_with("late"));
    eventually("the place is free again", || function.admitted() == 0);
    assert!(host.get("/f").starts_with("HTTP/1.1 200 "));
    assert_eq!(server.accepted(), 2);
}
