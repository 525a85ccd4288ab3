//! What a caller sees of HTTP, and what a function sees of the caller.

use std::process::Command;
use std::sync::Arc;

use funcd_tests::eventually;
use funcd_tests::host::Host;
use funcd_tests::http::Request;
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;
use serde_json::Value;

pub(crate) fn register(suite: &mut Suite) {
    funcd_tests::tests!(suite, "http", [
        the_prefix_is_stripped_and_told,
        a_route_of_host_and_path_is_not_stripped,
        what_callers_claim_of_themselves_is_not_believed,
        hop_by_hop_headers_stop_here,
        every_request_has_an_id_and_a_trace,
        status_and_headers_pass_untouched,
        head_has_no_body,
        connections_are_kept,
        expect_continue_is_answered_before_the_body,
        a_refusal_needs_no_body,
        request_trailers_arrive,
        response_trailers_arrive,
        bodies_stream_both_ways_at_once,
        large_uploads_and_downloads_arrive,
        events_arrive_as_they_happen,
        websockets_pass,
        http2_with_prior_knowledge: &[Need::CurlHttp2],
        who_leaves_frees_its_place,
    ]);
}

fn host() -> Arc<Host> {
    Host::shared("http", |host| {
        host.deploy("echo", "echo", "");
        host.deploy("garbage", "garbage", "");
        host.deploy("ticker", "ticker", "");
    })
}

/// What the function `echo` saw of a request.
#[track_caller]
fn seen(request: &Request) -> Value {
    let response = host().ask(request);
    assert_eq!(response.status(), 200, "{}", response.text());
    response.json()
}

/// The values of one header that the function saw.
fn header<'a>(seen: &'a Value, name: &str) -> Vec<&'a str> {
    let headers = seen["headers"].as_array().expect("echo lists them");
    headers
        .iter()
        .filter(|pair| pair[0] == name)
        .filter_map(|pair| pair[1].as_str())
        .collect()
}

fn the_prefix_is_stripped_and_told() {
    let seen = seen(&Request::get("/echo/a/b%20c?x=1&y=%2F"));
    assert_eq!(seen["target"], "/a/b%20c?x=1&y=%2F");
    assert_eq!(header(&seen, "x-forwarded-prefix"), ["/echo"]);
    assert_eq!(header(&seen, "host"), ["funcd.test"]);
}

fn a_route_of_host_and_path_is_not_stripped() {
    let host = host();
    host.deploy(
        "routed",
        "echo",
        "[[route]]\nhost = \"img.example.com\"\npath = \"/pictures\"\n",
    );
    let ask = |target: &str, name: &str| host.ask(&Request::get(target).header("Host", name));
    let answer = ask("/pictures/cat?w=1", "IMG.example.com:8080");
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(answer.json()["target"], "/pictures/cat?w=1");
    assert_eq!(ask("/pictures", "img.example.com").status(), 200);
    assert_eq!(
        ask("/picturesque", "img.example.com").status(),
        404,
        "whole segments only"
    );
    assert_eq!(ask("/pictures/cat", "other.example.com").status(), 404);
    assert_eq!(
        ask("/routed/", "img.example.com").status(),
        404,
        "its own routes replace the default one"
    );
}

fn what_callers_claim_of_themselves_is_not_believed() {
    let mut request = Request::get("/echo/");
    for (name, value) in [
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Forwarded-Port", "port-666"),
        ("X-Real-Ip", "6.6.6.6"),
        ("Forwarded", "for=6.6.6.6;proto=https"),
    ] {
        request = request.header(name, value);
    }
    let seen = seen(&request);
    assert_eq!(header(&seen, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(header(&seen, "x-forwarded-proto"), ["http"]);
    assert_eq!(header(&seen, "x-forwarded-prefix"), ["/echo"]);
    let all = seen["headers"].to_string();
    for claimed in ["6.6.6.6", "evil", "https", "port-666"] {
        assert!(!all.contains(claimed), "{claimed} got through: {all}");
    }
    let forwarded = header(&seen, "forwarded").join(",");
    assert!(
        forwarded.contains("for=127.0.0.1") || forwarded.contains("for=\"127.0.0.1"),
        "{forwarded:?}"
    );
}

fn hop_by_hop_headers_stop_here() {
    let request = Request::get("/echo/")
        .header("Connection", "X-Private, keep-alive")
        .header("X-Private", "1")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Authorization", "Basic eA==")
        .header("Proxy-Connection", "keep-alive")
        .header("X-Public", "2");
    let seen = seen(&request);
    for name in [
        "x-private",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
    ] {
        assert_eq!(header(&seen, name), [""; 0], "{name}");
    }
    assert_eq!(header(&seen, "x-public"), ["2"]);
    let response = host().get("/garbage/hop-by-hop");
    assert_eq!((response.status(), response.text().as_str()), (200, "ok"));
    assert_eq!(response.header("x-private"), None);
    assert_eq!(response.header("keep-alive"), None);
    assert_eq!(response.header("x-public"), Some("shown"));
}

fn every_request_has_an_id_and_a_trace() {
    let response = host().get("/echo/");
    let seen = response.json();
    let ids = header(&seen, "x-request-id");
    assert_eq!(ids.len(), 1, "{seen}");
    assert!(!ids[0].is_empty());
    assert_eq!(
        response.header("x-request-id"),
        Some(ids[0]),
        "the caller is told the same"
    );
    let traces = header(&seen, "traceparent");
    let lengths: Vec<usize> = traces[0].split('-').map(str::len).collect();
    assert_eq!(lengths, [2, 32, 16, 2], "{traces:?}");

    let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let seen = self::seen(
        &Request::get("/echo/")
            .header("traceparent", given)
            .header("tracestate", "a=b"),
    );
    let trace = header(&seen, "traceparent");
    assert!(
        trace[0].contains("0af7651916cd43dd8448eb211c80319c"),
        "the caller's trace goes on: {trace:?}"
    );
    assert_eq!(header(&seen, "tracestate"), ["a=b"]);
}

fn status_and_headers_pass_untouched() {
    let host = host();
    for code in [200, 201, 304, 404, 418, 500, 503] {
        let response = host.get(&format!("/echo/status?code={code}"));
        assert_eq!(response.status(), code);
        assert_ne!(
            response.header("content-type"),
            Some("application/problem+json"),
            "{code} is the function's own"
        );
    }
    let odd = Request::new("PROPFIND", "/echo/")
        .header("X-Latin", "caf\u{e9}")
        .header("X-Many", "1")
        .header("X-Many", "2");
    let seen = seen(&odd);
    assert_eq!(seen["method"], "PROPFIND");
    assert_eq!(header(&seen, "x-many"), ["1", "2"]);
}

fn head_has_no_body() {
    let mut caller = host().connect();
    let head = caller.ask(&Request::new("HEAD", "/echo/status")).unwrap();
    assert_eq!((head.status(), head.body.len()), (200, 0));
    // If a body had been sent, it would be taken for the next response.
    let next = caller.ask(&Request::get("/echo/status?code=201")).unwrap();
    assert_eq!(next.status(), 201);
    let own = caller.ask(&Request::new("HEAD", "/nobody/")).unwrap();
    assert_eq!(own.status(), 404);
    assert_eq!(caller.ask(&Request::get("/echo/status")).unwrap().status(), 200);
}

fn connections_are_kept() {
    let mut caller = host().connect();
    for _ in 0..5 {
        assert_eq!(caller.ask(&Request::get("/echo/")).unwrap().status(), 200);
        assert_eq!(
            caller.ask(&Request::post("/echo/count", "12345")).unwrap().text(),
            "5"
        );
        assert_eq!(caller.ask(&Request::get("/nobody/")).unwrap().status(), 404);
    }
    // Two requests in one write: both are answered, in order.
    caller
        .write(b"GET /echo/status?code=201 HTTP/1.1\r\nHost: a\r\n\r\nGET /echo/status?code=202 HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    assert_eq!(caller.response("GET").unwrap().status(), 201);
    assert_eq!(caller.response("GET").unwrap().status(), 202);
}

fn expect_continue_is_answered_before_the_body() {
    let mut caller = host().connect();
    let request = Request::new("POST", "/echo/count")
        .header("Expect", "100-continue")
        .header("Content-Length", "4");
    caller.send_head(&request).unwrap();
    assert_eq!(
        caller.head().unwrap().status,
        100,
        "before a byte of the body was sent"
    );
    caller.write(b"body").unwrap();
    let answer = caller.response("POST").unwrap();
    assert_eq!((answer.status(), answer.text().as_str()), (200, "4"));
}

fn a_refusal_needs_no_body() {
    let mut caller = host().connect();
    let request = Request::new("POST", "/nobody/")
        .header("Expect", "100-continue")
        .header("Content-Length", "9");
    caller.send_head(&request).unwrap();
    assert_eq!(
        caller.head().unwrap().status,
        404,
        "not 100: nobody wants that body"
    );
}

fn request_trailers_arrive() {
    let mut caller = host().connect();
    let request = Request::new("POST", "/echo/")
        .header("Transfer-Encoding", "chunked")
        .header("Trailer", "X-Sum");
    caller.send_head(&request).unwrap();
    caller.write(b"3\r\nabc\r\n0\r\nX-Sum: 42\r\n\r\n").unwrap();
    let seen = caller.response("POST").unwrap().json();
    assert_eq!(seen["body"], "abc");
    assert_eq!(seen["trailers"], serde_json::json!([["x-sum", "42"]]));
}

fn response_trailers_arrive() {
    let mut caller = host().connect();
    let request = Request::new("POST", "/echo/pipe")
        .header("Transfer-Encoding", "chunked")
        .header("Trailer", "X-Sum")
        .header("TE", "trailers");
    caller.send_head(&request).unwrap();
    caller.write(b"3\r\nabc\r\n0\r\nX-Sum: 42\r\n\r\n").unwrap();
    let answer = caller.response("POST").unwrap();
    assert_eq!(answer.text(), "abc");
    assert_eq!(answer.trailers.len(), 1, "{answer:?}");
    assert!(
        answer.trailers[0].0.eq_ignore_ascii_case("x-sum") && answer.trailers[0].1 == "42",
        "{answer:?}"
    );
}

fn bodies_stream_both_ways_at_once() {
    let mut caller = host().connect();
    caller
        .send_head(&Request::new("POST", "/echo/pipe").header("Transfer-Encoding", "chunked"))
        .unwrap();
    caller.write(b"5\r\nfirst\r\n").unwrap();
    assert_eq!(
        caller.head().unwrap().status,
        200,
        "the head comes while the request is still being sent"
    );
    assert_eq!(caller.chunk().unwrap(), b"first");
    caller.write(b"6\r\nsecond\r\n").unwrap();
    assert_eq!(caller.chunk().unwrap(), b"second");
    caller.write(b"0\r\n\r\n").unwrap();
    assert_eq!(caller.chunk().unwrap(), b"");
}

fn large_uploads_and_downloads_arrive() {
    const SIZE: usize = 48 << 20;
    let host = host();
    host.deploy("large", "echo", "[request]\nbody = \"64M\"\n");
    let upload = host.ask(&Request::post("/large/count", vec![b'u'; SIZE]));
    assert_eq!((upload.status(), upload.text()), (200, SIZE.to_string()));
    let download = host.get_ok(&format!("/large/bytes?n={SIZE}"));
    assert!(
        download.body.len() == SIZE && download.body.iter().all(|byte| *byte == b'b'),
        "{}",
        download.body.len()
    );
}

fn events_arrive_as_they_happen() {
    let mut caller = host().connect();
    caller
        .send_head(&Request::get("/ticker/events?interval_ms=20"))
        .unwrap();
    let head = caller.head().unwrap();
    assert_eq!(
        (head.status, head.header("content-type")),
        (200, Some("text/event-stream"))
    );
    // The stream never ends: whoever waits for its end to pass it on never gets here.
    assert_eq!(caller.chunk().unwrap(), b"data: 1\n\n");
    assert_eq!(caller.chunk().unwrap(), b"data: 2\n\n");
}

/// A WebSocket frame as clients must send it: masked.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut bytes = vec![0x80 | opcode, 0x80 | payload.len() as u8];
    bytes.extend(mask);
    bytes.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    bytes
}

fn websockets_pass() {
    let mut caller = host().connect();
    let request = Request::get("/ticker/ws")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    caller.send_head(&request).unwrap();
    let head = caller.head().unwrap();
    assert_eq!(head.status, 101, "{head:?}");
    assert_eq!(
        head.header("upgrade").map(str::to_ascii_lowercase).as_deref(),
        Some("websocket")
    );
    assert_eq!(
        head.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        "the one of RFC 6455"
    );
    for text in [&b"hello"[..], b"again"] {
        caller.write(&frame(1, text)).unwrap();
        let length = text.len() as u8;
        assert_eq!(
            caller.read(2 + text.len()).unwrap(),
            [&[0x81, length], text].concat()
        );
    }
    caller.write(&frame(9, b"ping")).unwrap();
    assert_eq!(caller.read(6).unwrap(), b"\x8a\x04ping");
    caller.write(&frame(8, &[])).unwrap();
    assert_eq!(caller.read_to_end(), b"\x88\x00", "it closes in return");
    // What isn't a WebSocket there is answered as such.
    assert_eq!(host().get("/ticker/ws").status(), 426);
}

fn http2_with_prior_knowledge() {
    let host = host();
    // A connection for each: curl 7.88 fails to use one again that began with prior knowledge.
    let curl = |arguments: &[&str], target: &str| {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--http2-prior-knowledge",
            "--max-time",
            "20",
        ])
        .args(arguments);
        let output = curl
            .arg(format!("http://{}{target}", host.address()))
            .output()
            .expect("curl is there");
        assert!(output.status.success(), "{target}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let status = [
        "--write-out",
        "%{http_version} %{http_code} ",
        "--data-binary",
        "hello",
    ];
    assert_eq!(curl(&status, "/echo/count"), "52 200 ");
    assert_eq!(curl(&status, "/echo/pipe"), "hello2 200 ");
    // Without a body: curl 7.88 takes the reset of a body that nobody wants (RFC 9113, 8.1) for an error.
    assert!(curl(&status[..2], "/nobody/").ends_with("}2 404 "));
    let seen: Value = serde_json::from_str(&curl(&[], "/echo/x?y")).unwrap();
    assert_eq!(
        (&seen["method"], &seen["target"]),
        (&"GET".into(), &"/x?y".into())
    );
    assert_eq!(header(&seen, "host"), [host.address().to_string()]);
}

fn who_leaves_frees_its_place() {
    let host = host();
    host.deploy("narrow", "ticker", "[scale]\nmax = 1\nconcurrency = 1\n");
    for _ in 0..5 {
        let mut caller = host.connect();
        caller.send_head(&Request::get("/narrow/events")).unwrap();
        assert_eq!(caller.head().unwrap().status, 200);
        assert_eq!(caller.chunk().unwrap(), b"data: 1\n\n");
    }
    host.wait_for("/narrow/", "200", |answer| answer.status() == 200);
    let in_flight = || {
        host.json(&["ls"]).map(|document| {
            let functions = document["functions"].as_array().cloned().unwrap_or_default();
            functions
                .into_iter()
                .find(|row| row["name"] == "narrow")
                .map(|row| row["function"]["in_flight"].clone())
        })
    };
    eventually("no request to be in flight", || match in_flight()? {
        Some(count) if count == 0 => Ok(()),
        other => Err(format!("{other:?}")),
    });
}
