//! What a caller sees of HTTP, and what a function sees of the caller.

use std::process::Command;
use std::sync::Arc;

use funcd_tests::host::Host;
use funcd_tests::http::{Request, Response};
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;
use funcd_tests::{eventually, until};
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
        unknown_routes_are_404,
        too_large_a_body_is_413,
        too_large_a_head_is_431,
        ambiguous_requests_are_400,
        what_is_not_http_from_a_function_is_502,
        a_body_that_breaks_off_is_seen,
        a_response_until_close_arrives,
        interim_responses_do_no_harm,
        too_slow_an_answer_is_504,
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

/// Checks that a response is one of funcd's own.
#[track_caller]
fn problem(response: &Response, status: u16, error: &str) {
    assert_eq!(response.status(), status, "{}", response.text());
    assert_eq!(
        response.header("content-type"),
        Some("application/problem+json"),
        "{response:?}"
    );
    let proxy_status = response.header("proxy-status").unwrap_or_default();
    assert!(
        proxy_status.starts_with("funcd") && proxy_status.contains(error),
        "{proxy_status:?} should say {error}"
    );
    let problem = response.json();
    assert_eq!(problem["status"], status, "{problem}");
    for key in ["type", "title", "detail"] {
        assert!(
            problem[key].as_str().is_some_and(|text| !text.is_empty()),
            "no {key} in {problem}"
        );
    }
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
        ("X-Forwarded-Port", "666"),
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
    for claimed in ["6.6.6.6", "evil", "https", "666"] {
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

fn unknown_routes_are_404() {
    let host = host();
    for target in [
        "/",
        "/nobody/",
        "/nobody",
        "/ech/",
        "/echoo/",
        "/..%2fecho/",
        "/%65cho/../nobody",
    ] {
        problem(&host.get(target), 404, "destination_not_found");
    }
}

fn too_large_a_body_is_413() {
    let host = host();
    host.deploy("small", "echo", "[request]\nbody = \"1K\"\n");
    assert_eq!(
        host.ask(&Request::post("/small/count", vec![b'x'; 1024])).text(),
        "1024"
    );
    let declared = host.ask(&Request::post("/small/count", vec![b'x'; 1025]));
    assert_eq!(declared.status(), 413, "{}", declared.text());
    assert_eq!(declared.header("content-type"), Some("application/problem+json"));
    let mut caller = host.connect();
    caller
        .send_head(&Request::new("POST", "/small/count").header("Transfer-Encoding", "chunked"))
        .unwrap();
    let _ = caller.write(format!("1000\r\n{}\r\n0\r\n\r\n", "x".repeat(4096)).as_bytes());
    let chunked = caller.response("POST").unwrap();
    assert_eq!(
        chunked.status(),
        413,
        "also when it didn't say how long it is: {}",
        chunked.text()
    );
}

fn too_large_a_head_is_431() {
    let host = host();
    let long = host.ask(&Request::get("/echo/").header("X-Long", &"x".repeat(200_000)));
    assert_eq!(long.status(), 431);
    let mut many = Request::get("/echo/");
    for n in 0..2_000 {
        many = many.header(&format!("X-{n}"), "1");
    }
    assert_eq!(host.ask(&many).status(), 431);
    assert_eq!(host.get("/echo/").status(), 200);
}

fn ambiguous_requests_are_400() {
    let host = host();
    for request in [
        "POST /echo/ HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /echo/ HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        "POST /echo/ HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd",
        "POST /echo/ HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 5\r\n\r\nabcd",
        "POST /echo/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST /echo/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST /echo/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "GET /echo/ HTTP/1.1\r\nHost: a\r\nX-A: b\r\n folded\r\n\r\n",
        "GET /echo/ HTTP/1.1\r\nHost: a\r\nX-A: b\0c\r\n\r\n",
        "GET /echo/ HTTP/1.1\r\nHost: a\r\nX-A: b\rX-B: c\r\n\r\n",
        "GET /echo/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /echo/ HTTP/1.1\r\n\r\n",
        "GET /echo/ a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /echo/ HTTP/1.1\nHost: a\n\n",
        "GET /echo/ HTTP/3.0\r\nHost: a\r\n\r\n",
        "\x16\x03\x01 TLS on a plain port\r\n\r\n",
    ] {
        let mut caller = host.connect();
        caller.write(request.as_bytes()).unwrap();
        let answer = caller.response("GET");
        let status = answer.as_ref().map(Response::status);
        // The version that it doesn't speak may also be refused by its own status.
        assert!(
            matches!(status, Ok(400)) || matches!(status, Ok(505) if request.contains("HTTP/3.0")),
            "{request:?}: {answer:?}"
        );
        let rest = caller.read_to_end();
        assert!(
            rest.is_empty(),
            "{request:?}: the connection must end, it said {:?}",
            String::from_utf8_lossy(&rest)
        );
    }
}

fn what_is_not_http_from_a_function_is_502() {
    let host = host();
    for kind in ["noise", "bad-status", "bad-header", "two-lengths"] {
        problem(&host.get(&format!("/garbage/{kind}")), 502, "http_protocol_error");
    }
    for kind in ["empty", "half-head"] {
        let response = host.get(&format!("/garbage/{kind}"));
        assert_eq!(response.status(), 502, "{kind}: {}", response.text());
        assert_eq!(
            response.header("content-type"),
            Some("application/problem+json"),
            "{kind}"
        );
    }
    assert_eq!(host.get("/garbage/fine").text(), "ok", "and the function goes on");
}

fn a_body_that_breaks_off_is_seen() {
    let host = host();
    for kind in ["short-body", "bad-chunk"] {
        let answer = host.connect().ask(&Request::get(&format!("/garbage/{kind}")));
        let status = answer.as_ref().map(Response::status);
        assert!(
            matches!(status, Err(_) | Ok(502)),
            "{kind}: a whole response from half of one: {answer:?}"
        );
    }
}

fn a_response_until_close_arrives() {
    let answer = host().get_ok("/garbage/until-close");
    assert_eq!(answer.text(), "as long as it lasts");
}

fn interim_responses_do_no_harm() {
    let answer = host().get_ok("/garbage/hints");
    assert_eq!(answer.text(), "ok");
}

fn too_slow_an_answer_is_504() {
    let host = host();
    host.deploy("slow", "slow", "[request]\ntimeout = \"300ms\"\n");
    assert_eq!(host.get("/slow/?ms=1").status(), 200);
    let process = host.instance("slow");
    problem(&host.get("/slow/?ms=600000"), 504, "http_response_timeout");
    assert!(process.is_alive(), "the instance is kept");
    // The bound is on the head: a long body is no offence.
    let answer = host.get_ok("/slow/stream?ms=100&n=6");
    assert!(answer.text().ends_with("piece 5\n"));
    until("the request that was given up to be forgotten", || {
        host.get("/slow/?ms=1").status() == 200
    });
}
