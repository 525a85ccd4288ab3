//! Attack 45: a function that answers with anything at all. The caller is told clearly or cut off, nobody else gets any
//! of it, and the connection to the function is not used again.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::host::{Answer, Conn, Host, assert_problem, eventually, field, hello, manifest, ok};

/// What the caller gets.
enum Gets {
    /// A 502 with this slug.
    Problem(&'static str),
    /// Exactly this status and body.
    Whole(u16, &'static str),
    /// A head, and then the end before the body's.
    Cut,
}
use Gets::{Cut, Problem, Whole};

const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";

#[test]
#[rustfmt::skip]
fn whatever_it_says_the_next_caller_gets_its_own_answer() {
    static SAYS: Mutex<String> = Mutex::new(String::new());
    let mut host = Host::new();
    // Answers anything but `/next` as the row says, and then keeps the connection open.
    let (function, server) = host.serve("f", manifest(), |conn: &mut Conn, head: &str| {
        if head.contains(" /next ") {
            return hello(conn, head);
        }
        let says = SAYS.lock().unwrap().clone();
        match says.strip_suffix("<close>") {
            Some(says) => { conn.send(says); false }
            None => conn.send(says),
        }
    });
    let head = |fields: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}");
    let chunked = |body: &str| head("Transfer-Encoding: chunked\r\n", body);
    let table = [
        ("not HTTP", "rubbish\r\n\r\n".to_owned(), Problem("malformed-response")),
        ("HTTP/0.9", "<html>hello</html>\n<close>".into(), Problem("malformed-response")),
        ("HTTP/2.0", "HTTP/2.0 200 OK\r\n\r\n".into(), Problem("malformed-response")),
        ("a status of two digits", "HTTP/1.1 20 OK\r\n\r\n".into(), Problem("malformed-response")),
        ("a status of four digits", "HTTP/1.1 2000 OK\r\n\r\n".into(), Problem("malformed-response")),
        ("status 099", "HTTP/1.1 099 OK\r\n\r\n".into(), Problem("malformed-response")),
        ("a request", "GET / HTTP/1.1\r\nHost: h\r\n\r\n".into(), Problem("malformed-response")),
        ("a switch unasked", head("", "").replace("200 OK", "101 Switching Protocols"), Problem("malformed-response")),
        ("NUL in a value", head("A: b\0c\r\n", ""), Problem("malformed-response")),
        ("CR in a value", head("A: b\rSet-Cookie: evil\r\n", ""), Problem("malformed-response")),
        ("space before a colon", head("Content-Length : 2\r\n", "ok"), Problem("malformed-response")),
        ("folded", head("A: b\r\n c\r\n", ""), Problem("malformed-response")),
        ("no colon", head("rubbish\r\n", ""), Problem("malformed-response")),
        ("two lengths", head("Content-Length: 2\r\nContent-Length: 9\r\n", "ok"), Problem("malformed-response")),
        ("a list of lengths", head("Content-Length: 2, 9\r\n", "ok"), Problem("malformed-response")),
        ("a negative length", head("Content-Length: -2\r\n", "ok"), Problem("malformed-response")),
        ("a signed length", head("Content-Length: +2\r\n", "ok"), Problem("malformed-response")),
        ("a length beyond all", head("Content-Length: 99999999999999999999\r\n", "ok"), Problem("malformed-response")),
        ("101 fields", head(&"A: b\r\n".repeat(101), ""), Problem("malformed-response")),
        ("a huge head", head(&format!("A: {}\r\n", "b".repeat(100_000)), ""), Problem("malformed-response")),
        ("nothing", "<close>".into(), Problem("connection-terminated")),
        ("half a status line", "HTTP/1.1 20<close>".into(), Problem("connection-terminated")),
        ("half a head", "HTTP/1.1 200 OK\r\nContent-Le<close>".into(), Problem("connection-terminated")),
        ("only an interim answer", "HTTP/1.1 103 Early Hints\r\n\r\n<close>".into(), Problem("connection-terminated")),
        ("less than the length", head("Content-Length: 9\r\n", "half<close>"), Cut),
        ("half a chunk", chunked("9\r\nhalf<close>"), Cut),
        ("no last chunk", chunked("4\r\nhalf\r\n<close>"), Cut),
        ("half a trailer", chunked("4\r\nhalf\r\n0\r\nX: <close>"), Cut),
        ("a chunk size that is none", chunked("zz\r\nhalf\r\n0\r\n\r\n"), Cut),
        ("a negative chunk size", chunked("-4\r\nhalf\r\n0\r\n\r\n"), Cut),
        ("a chunk size beyond all", chunked("fffffffffffffffff\r\nhalf\r\n0\r\n\r\n"), Cut),
        ("a chunk longer than its size", chunked("4\r\nhalf and more\r\n0\r\n\r\n"), Cut),
        ("more than the length", format!("{}{POISON}", ok("mine")), Whole(200, "mine")),
        ("rubbish behind", format!("{}\r\n\r\n\r\n", ok("mine")), Whole(200, "mine")),
        ("a second answer behind chunks", chunked(&format!("4\r\nmine\r\n0\r\n\r\n{POISON}")), Whole(200, "mine")),
        ("a body with 204", format!("HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil{POISON}"), Whole(204, "")),
        ("chunks with 204", format!("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{POISON}"), Whole(204, "")),
        ("a body with 304", format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil{POISON}"), Whole(304, "")),
        ("both framings", head("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", &format!("4\r\nmine\r\n0\r\n\r\n{POISON}")), Whole(200, "mine")),
        ("two equal lengths", head("Content-Length: 4\r\nContent-Length: 4\r\n", "mine<close>"), Whole(200, "mine")),
        ("304 with lengths that are none", "HTTP/1.1 304 Not Modified\r\nContent-Length: x\r\nContent-Length: 9\r\n\r\n<close>".into(), Whole(304, "")),
        ("until the end", head("", "mine<close>"), Whole(200, "mine")),
        ("HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nmine<close>".into(), Whole(200, "mine")),
        ("bare line feeds", "HTTP/1.1 200 OK\nContent-Length: 4\n\nmine<close>".into(), Whole(200, "mine")),
        ("interim answers before", format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n{}<close>", ok("mine")), Whole(200, "mine")),
        ("an encoding that nobody asked for", head("Transfer-Encoding: gzip, chunked\r\n", "4\r\nmine\r\n0\r\n\r\n<close>"), Whole(200, "mine")),
        ("trailers that frame", chunked("4\r\nmine\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\nSet-Cookie: evil\r\n\r\n<close>"), Whole(200, "mine")),
    ];
    for (what, says, gets) in table {
        *SAYS.lock().unwrap() = says;
        let before = server.accepted();
        let mut caller = host.caller();
        caller.send("GET /f HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: close\r\n\r\n");
        match gets {
            Problem(slug) => {
                let error = match slug {
                    "malformed-response" => "http_protocol_error",
                    _ => "connection_terminated",
                };
                assert_problem(&caller.rest(), 502, slug, error);
            }
            Whole(status, body) => {
                let (head, got, trailers) = caller.response().unwrap_or_else(|| panic!("{what}: cut off"));
                assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {head}");
                assert_eq!(String::from_utf8_lossy(&got), body, "{what}: {head}");
                assert!(head.matches("content-length:").count() <= 1 && !head.contains(": x"), "{what}: {head}");
                assert!(!trailers.contains("Length") && !trailers.contains("evil"), "{what}: {trailers}");
                assert_eq!(caller.rest(), "", "{what}: more behind it");
            }
            Cut => {
                let answer = caller.rest();
                assert!(!answer.ends_with("0\r\n\r\n") && !answer.contains("more"), "{what}: {answer:?}");
            }
        }
        eventually("the place is free again", || function.admitted() == 0 && server.instance.in_flight() == 0);
        // Another caller, on a connection of its own to the host, and on a fresh one to the function.
        let next = host.get("/f/next");
        assert!(next.starts_with("HTTP/1.1 200 ") && next.ends_with("\r\n\r\nhello"), "{what}: {next}");
        assert_eq!(server.accepted(), before + 2, "{what}: the connection was used again");
        // And that one ends too, so that each row begins alike.
        *SAYS.lock().unwrap() = "<close>".into();
        host.get("/f/end");
    }
}

#[test]
fn a_good_connection_is_used_again() {
    // The control of the test above.
    let mut host = Host::new();
    let (_, server) = host.serve("f", manifest(), hello);
    for _ in 0..3 {
        assert!(host.get("/f/next").ends_with("hello"));
    }
    assert_eq!(server.accepted(), 1);
}

#[test]
fn an_answer_that_nobody_asked_for_is_nobody_s() {
    static FIRST: AtomicBool = AtomicBool::new(true);
    static SPOKEN: AtomicBool = AtomicBool::new(false);
    for method in ["GET", "POST"] {
        let mut host = Host::new();
        FIRST.store(true, Ordering::SeqCst);
        SPOKEN.store(false, Ordering::SeqCst);
        // After its very first answer it speaks on, on the idle connection.
        let (_, server) = host.serve("f", manifest(), |conn, head| {
            let first = FIRST.swap(false, Ordering::SeqCst);
            hello(conn, head);
            if first {
                conn.send(POISON);
                SPOKEN.store(true, Ordering::SeqCst);
            }
            true
        });
        let ask = || {
            host.raw(format!(
                "{method} /f HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
            ))
        };
        assert!(ask().ends_with("hello"));
        eventually("it has spoken", || SPOKEN.load(Ordering::SeqCst));
        let next = ask();
        assert!(next.ends_with("hello"), "{method}: {next}");
        assert_eq!(server.accepted(), 2, "{method}");
    }
}

#[test]
fn a_head_request_takes_no_body() {
    let mut host = Host::new();
    host.serve("f", manifest(), |conn, _| {
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    });
    let mut caller = host.caller();
    for _ in 0..3 {
        caller.send("HEAD /f HTTP/1.1\r\nHost: h\r\n\r\n");
        let head = caller.head().unwrap();
        assert!(
            head.starts_with("HTTP/1.1 200 ") && field(&head, "content-length") == Some("4"),
            "{head}"
        );
    }
    caller.send("GET /nobody HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(caller.head().unwrap().starts_with("HTTP/1.1 404 "));
}

#[test]
fn storms_of_interim_answers() {
    let mut host = Host::new();
    for (name, answer) in [
        (
            "hundreds",
            (|conn, _| conn.send("HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000)) && conn.send(ok("final")))
                as Answer,
        ),
        ("hints", |conn, _| {
            conn.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(10_000))
                && conn.send(ok("final"))
        }),
    ] {
        let (function, _) = host.serve(name, manifest(), answer);
        let answer = host.get(&format!("/{name}"));
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("final"),
            "{answer}"
        );
        assert!(!answer.contains("Early Hints"), "{answer}");
        eventually("the place is free again", || function.admitted() == 0);
    }
}

#[test]
fn what_never_ends_is_ended() {
    let mut host = Host::new();
    host.serve("neighbour", manifest(), hello);
    let mut hasty = manifest();
    hasty.request.timeout = Duration::from_millis(200);
    let cases: [(&str, Answer, u16, &str, &str); 3] = [
        (
            "storm",
            |conn, _| {
                let storm = "HTTP/1.1 100 Continue\r\n\r\n".repeat(1000);
                while conn.send(&storm) {}
                false
            },
            504,
            "response-timeout",
            "http_response_timeout",
        ),
        (
            "drip",
            |conn, _| {
                conn.send("HTTP/1.1 200 OK\r\nA: ");
                while conn.send("b") {
                    std::thread::park_timeout(Duration::from_millis(1));
                }
                false
            },
            504,
            "response-timeout",
            "http_response_timeout",
        ),
        (
            "endless",
            |conn, _| {
                conn.send("HTTP/1.1 200 OK\r\nA: ");
                let piece = vec![b'b'; 1 << 16];
                while conn.send(&piece) {}
                false
            },
            502,
            "malformed-response",
            "http_protocol_error",
        ),
    ];
    for (name, answer, status, slug, error) in cases {
        let (function, server) = host.serve(name, hasty.clone(), answer);
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| host.get(&format!("/{name}")));
            while !asked.is_finished() {
                assert!(host.get("/neighbour").ends_with("hello"), "{name}: the neighbour");
            }
            assert_problem(&asked.join().unwrap(), status, slug, error);
        });
        eventually("the place is free again", || {
            function.admitted() == 0 && server.instance.in_flight() == 0
        });
    }
}
