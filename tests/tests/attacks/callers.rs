//! Attempts 42 to 47: what callers send, and what functions answer them. The parser itself is tested in depth elsewhere
//! (supervisor/tests/ingress, blackbox `refusals`): here is one of each kind against a whole host.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use funcd_tests::host::{Host, Plan};
use funcd_tests::http::{Request, Response};
use funcd_tests::process::Process;
use funcd_tests::suite::Suite;
use funcd_tests::until;

use crate::table::{Title, story};

pub(crate) fn register(suite: &mut Suite) {
    story(
        suite,
        Title {
            number: 42,
            attempt: "a huge header, and very many",
            mechanism: "limits of the head",
        },
        "heads",
        &[],
        heads,
    );
    story(
        suite,
        Title {
            number: 43,
            attempt: "request smuggling: both lengths, two lengths, bare LF, folding, …",
            mechanism: "strict parsing, re-framing",
        },
        "smuggling",
        &[],
        smuggling,
    );
    story(
        suite,
        Title {
            number: 44,
            attempt: "slow head, trickled head, slow body, idle connections",
            mechanism: "deadlines of head, body and idling",
        },
        "slow_callers",
        &[],
        slow_callers,
    );
    story(
        suite,
        Title {
            number: 45,
            attempt: "response splitting, hop-by-hop headers, smuggled upgrades",
            mechanism: "types; headers of one hop are stripped",
        },
        "upstream_bytes",
        &[],
        upstream_bytes,
    );
    story(
        suite,
        Title {
            number: 46,
            attempt: "an endless body, and a reader that doesn't read",
            mechanism: "caps, back-pressure",
        },
        "endless_bodies",
        &[],
        endless_bodies,
    );
    story(
        suite,
        Title {
            number: 47,
            attempt: "forged X-Forwarded-*, Forwarded and Host",
            mechanism: "stripped and set anew; peers that are not trusted",
        },
        "forged_headers",
        &[],
        forged_headers,
    );
}

fn host() -> Arc<Host> {
    Host::shared("attacks-callers", |host| {
        host.deploy("echo", "echo", "");
        host.deploy("garbage", "garbage", "");
        host.get_ok("/echo/");
    })
}

/// What a process holds of memory, in bytes.
pub(crate) fn resident(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("it runs");
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

/// Room for what a supervisor needs for any load; far from what is sent to it.
pub(crate) const FLAT: u64 = 48 << 20;

fn heads() -> (String, String) {
    let host = host();
    let supervisor = host.supervisor();
    let before = resident(&supervisor);
    let mut many = Request::get("/echo/");
    for n in 0..2_000 {
        many = many.header(&format!("X-{n}"), "1");
    }
    for _ in 0..50 {
        let huge = Request::get("/echo/").header("X-Long", &"x".repeat(1_000_000));
        assert_eq!(host.ask(&huge).status(), 431);
        assert_eq!(host.ask(&many).status(), 431);
    }
    let grown = resident(&supervisor).saturating_sub(before);
    assert!(grown < FLAT, "the supervisor grew by {grown} bytes");
    let mut some = Request::get("/echo/");
    for n in 0..40 {
        some = some.header(&format!("X-{n}"), &"x".repeat(100));
    }
    assert_eq!(host.ask(&some).status(), 200);
    (
        "431, 100 times; memory of the supervisor flat".to_owned(),
        "40 headers of 100 bytes are let through".to_owned(),
    )
}

fn smuggling() -> (String, String) {
    let host = host();
    let smuggled = "GET /echo/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let heads = [
        format!(
            "POST /echo/ HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}",
            smuggled.len() + 5
        ),
        format!(
            "POST /echo/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: {}\r\n\r\n{smuggled}",
            smuggled.len()
        ),
        format!(
            "POST /echo/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{smuggled}"
        ),
        format!(
            "POST /echo/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n{smuggled}"
        ),
        format!("POST /echo/ HTTP/1.1\r\nHost: a\r\nContent-Length : 3\r\n\r\nabc{smuggled}"),
        format!(
            "GET /echo/ HTTP/1.1\r\nHost: a\r\nX: b\r\n Content-Length: {}\r\n\r\n{smuggled}",
            smuggled.len()
        ),
        format!("GET /echo/ HTTP/1.1\nHost: a\n\n{smuggled}"),
        format!("GET /echo/ HTTP/1.1\r\nHost: a\r\nX: a\rContent-Length: 9\r\n\r\n{smuggled}"),
        format!("GET /echo/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n{smuggled}"),
        format!("POST /echo/ HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
    ];
    for head in &heads {
        let mut caller = host.connect();
        caller.write(head.as_bytes()).unwrap();
        let answer = caller.response("POST");
        assert!(
            matches!(answer.as_ref().map(Response::status), Ok(400)),
            "{head:?}: {answer:?}"
        );
        let rest = String::from_utf8_lossy(&caller.read_to_end()).into_owned();
        assert_eq!(
            rest, "",
            "{head:?}: the connection ends, so that nothing behind is a request"
        );
    }
    let mut caller = host.connect();
    caller
        .write(format!("GET /echo/ HTTP/1.1\r\nHost: a\r\n\r\n{smuggled}").as_bytes())
        .unwrap();
    for _ in 0..2 {
        assert_eq!(
            caller.response("GET").unwrap().status(),
            200,
            "the control: two requests in a row are two"
        );
    }
    (
        format!("400 and the end of the connection, {} kinds", heads.len()),
        "two well-formed requests are answered".to_owned(),
    )
}

fn slow_callers() -> (String, String) {
    let limits = ["HEAD_TIMEOUT", "BODY_IDLE", "IDLE"];
    let plan = limits.into_iter().fold(Plan::new(), |plan, limit| {
        plan.variable(&format!("FUNCD_CLIENT_{limit}"), "400ms")
    });
    let host = plan.start();
    host.deploy("echo", "echo", "");
    host.get_ok("/echo/");
    let connect = |address| {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(funcd_tests::patience())).unwrap();
        stream
    };
    let beginnings: [&[u8]; 5] = [
        b"",
        b"GET /echo/ HTTP/1.1\r\nHost: a\r\nX-Slow: ",
        b"POST /echo/ HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nslow",
        b"POST /echo/count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"GET /echo/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    let mut slow = Vec::new();
    for beginning in beginnings {
        for _ in 0..20 {
            let mut stream = connect(host.address());
            stream.write_all(beginning).unwrap();
            slow.push(stream);
        }
    }
    // One that is never quite still, and never done.
    let mut trickle = connect(host.address());
    trickle.write_all(b"GET /echo/ HTTP/1.1\r\nX: ").unwrap();
    until("the trickled head to be given up", || {
        trickle.write_all(b"x").is_err()
    });
    host.get_ok("/echo/");
    for mut stream in slow {
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        let reset = ended
            .as_ref()
            .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(ended.is_ok() || reset, "it is still open: {ended:?}");
    }
    // The control: it is the deadline that ends it, not the slowness. This host's is 10 seconds.
    let patient = self::host();
    let mut stream = connect(patient.address());
    stream.write_all(beginnings[1]).unwrap();
    patient.get_ok("/echo/");
    stream.write_all(b"done\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    (
        "all 101 connections are closed; others are answered meanwhile".to_owned(),
        "with a longer deadline the same head is answered".to_owned(),
    )
}

fn upstream_bytes() -> (String, String) {
    let host = host();
    for kind in [
        "noise",
        "bad-status",
        "bad-header",
        "two-lengths",
        "half-head",
        "empty",
    ] {
        assert_eq!(host.get(&format!("/garbage/{kind}")).status(), 502, "{kind}");
    }
    for kind in ["bad-chunk", "short-body"] {
        let answer = host.connect().ask(&Request::get(&format!("/garbage/{kind}")));
        assert!(
            matches!(answer.as_ref().map(Response::status), Err(_) | Ok(502)),
            "{kind}: {answer:?}"
        );
    }
    let answer = host.get_ok("/garbage/hop-by-hop");
    assert_eq!(answer.header("x-private"), None);
    assert_eq!(answer.header("keep-alive"), None);
    assert_eq!(answer.header("x-public"), Some("shown"), "the control");
    let request = Request::get("/echo/")
        .header("Connection", "X-Evil, Upgrade, HTTP2-Settings")
        .header("Upgrade", "h2c")
        .header("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA")
        .header("X-Evil", "1")
        .header("Keep-Alive", "timeout=9")
        .header("Proxy-Authorization", "secret")
        .header("TE", "trailers")
        .header("X-Good", "1");
    let seen = host.ask(&request).json();
    let names: Vec<&str> = seen["headers"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|pair| pair[0].as_str())
        .collect();
    for name in [
        "x-evil",
        "http2-settings",
        "keep-alive",
        "proxy-authorization",
        "upgrade",
    ] {
        assert!(!names.contains(&name), "{name} came through: {names:?}");
    }
    assert!(names.contains(&"x-good"), "{names:?}");
    (
        "502 or broken off for 8 kinds of bytes; headers of one hop come through in neither direction"
            .to_owned(),
        "an ordinary header comes through in both".to_owned(),
    )
}

fn endless_bodies() -> (String, String) {
    let host = host();
    host.deploy("small", "echo", "[request]\nbody = \"1M\"\n");
    host.get_ok("/small/");
    let (supervisor, function) = (host.supervisor(), host.instance("echo"));
    let before = resident(&supervisor);
    let mut endless = host.connect();
    endless
        .send_head(&Request::new("POST", "/small/count").header("Transfer-Encoding", "chunked"))
        .unwrap();
    let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
    let mut sent = 0u64;
    // Far more than is let through and all buffers on the way: it ends because the other side ends it.
    while sent < 1 << 30 && endless.write(&chunk).is_ok() {
        sent += 0x10000;
    }
    assert!(sent < 1 << 30, "a gigabyte was taken");
    // Answers that nobody reads: what the function makes of them waits in it.
    let stalled: Vec<_> = (0..8)
        .map(|_| {
            let mut caller = host.connect();
            caller
                .send_head(&Request::get("/echo/bytes?n=1073741824"))
                .unwrap();
            assert_eq!(caller.head().unwrap().status, 200);
            caller
        })
        .collect();
    for _ in 0..20 {
        host.get_ok("/echo/");
    }
    let grown = resident(&supervisor).saturating_sub(before);
    assert!(grown < FLAT, "the supervisor grew by {grown} bytes");
    drop(stalled);
    assert_eq!(host.get_ok("/echo/bytes?n=8388608").body.len(), 8 << 20);
    assert_eq!(host.instance("echo"), function);
    (
        "413 and the end; 8 stalled gigabytes; memory flat, others answered".to_owned(),
        "8 MB that are read arrive".to_owned(),
    )
}

fn forged_headers() -> (String, String) {
    let forged = [
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "gopher"),
        ("X-Forwarded-Port", "6666"),
        ("X-Forwarded-Prefix", "/evil.example"),
        ("X-Real-IP", "6.6.6.6"),
        ("Forwarded", "for=6.6.6.6;host=evil.example"),
    ];
    let ask = |host: &Host| {
        let request = forged
            .iter()
            .fold(Request::get("/echo/"), |request, (name, value)| {
                request.header(name, value)
            });
        let seen = host.ask(&request).json();
        let pair = |pair: &serde_json::Value| {
            (
                pair[0].as_str().unwrap().to_owned(),
                pair[1].as_str().unwrap().to_owned(),
            )
        };
        let headers: Vec<(String, String)> = seen["headers"].as_array().unwrap().iter().map(pair).collect();
        headers
    };
    let seen = ask(&host());
    for (name, value) in &seen {
        let lies = ["6.6.6.6", "evil.example", "gopher", "6666"]
            .iter()
            .any(|lie| value.contains(lie));
        assert!(!lies, "{name}: {value}");
    }
    let value = |name: &str| {
        seen.iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    };
    assert_eq!(value("x-forwarded-for"), Some("127.0.0.1"), "{seen:?}");
    assert_eq!(value("x-forwarded-proto"), Some("http"), "{seen:?}");
    let believing = Plan::new().arguments(&["--trusted", "127.0.0.0/8"]).start();
    believing.deploy("echo", "echo", "");
    let seen = ask(&believing);
    assert!(
        seen.iter().any(|(_, value)| value.contains("6.6.6.6")),
        "the control: {seen:?}"
    );
    // Two hosts are not a host.
    let mut caller = host().connect();
    caller
        .write(b"GET http://evil.example/echo/ HTTP/1.1\r\nHost: funcd.test\r\n\r\n")
        .unwrap();
    let answer = caller.response("GET").unwrap();
    assert!(
        answer.status() == 400 || !answer.text().contains("funcd.test"),
        "{answer:?}"
    );
    (
        "the function sees the peer's address, and none of the lies".to_owned(),
        "a trusted peer is believed".to_owned(),
    )
}
