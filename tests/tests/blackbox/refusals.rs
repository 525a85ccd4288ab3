//! What a caller gets when the answer is not the function's, or not HTTP as it should be.

use std::sync::Arc;

use funcd_tests::host::Host;
use funcd_tests::http::{Request, Response};
use funcd_tests::suite::Suite;
use funcd_tests::until;

pub(crate) fn register(suite: &mut Suite) {
    funcd_tests::tests!(
        suite,
        "refusals",
        [
            unknown_routes_are_404,
            too_large_a_body_is_413,
            too_large_a_head_is_431,
            ambiguous_requests_are_400,
            what_is_not_http_from_a_function_is_502,
            a_body_that_breaks_off_is_seen,
            a_response_until_close_arrives,
            interim_responses_do_no_harm,
            too_slow_an_answer_is_504,
        ]
    );
}

fn host() -> Arc<Host> {
    Host::shared("refusals", |host| {
        host.deploy("echo", "echo", "");
        host.deploy("garbage", "garbage", "");
    })
}

/// Checks that a response is one of funcd's own.
#[track_caller]
pub(crate) fn problem(response: &Response, status: u16, error: &str) {
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
