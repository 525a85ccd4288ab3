//! How requests reach instances: connections are used again, closed ones are noticed, and nothing is done twice.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use funcd::function::handle::{Live, ToControl};

use crate::host::{Host, assert_problem, eventually, hello, manifest, ok};

const GET: &str = "GET /f HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let mut host = Host::new();
    let (function, server) = host.serve("f", manifest(), hello);
    let mut caller = host.caller();
    for _ in 0..5 {
        caller.send(GET);
        assert_eq!(caller.response().unwrap().1, b"hello");
    }
    assert!(host.get("/f").ends_with("hello"));
    assert_eq!((server.accepted(), server.seen().len()), (1, 6));
    eventually("nothing is held", || {
        function.admitted() == 0 && server.instance.in_flight() == 0
    });
    assert_eq!(
        host.control.try_recv(),
        Ok(ToControl::InUse(function.name.clone()))
    );
    assert_eq!(
        host.control.try_recv(),
        Ok(ToControl::Answered(server.instance.id))
    );
    assert!(host.control.try_recv().is_err(), "told once");
}

#[test]
fn a_server_of_one_at_a_time_gets_a_connection_a_request() {
    let mut host = Host::new();
    let mut alone = manifest();
    alone.scale.concurrency = 1;
    let (_, server) = host.serve("f", alone, hello);
    let mut caller = host.caller();
    for _ in 0..3 {
        caller.send(GET);
        assert_eq!(caller.response().unwrap().1, b"hello");
    }
    assert_eq!(server.accepted(), 3);
    assert!(
        server
            .seen()
            .iter()
            .all(|head| head.contains("\r\nconnection: close\r\n"))
    );
}

#[test]
fn a_connection_that_the_server_closed_is_not_used_again() {
    let mut host = Host::new();
    // Keep-alive is promised, and not kept.
    let (_, server) = host.serve("f", manifest(), |conn, head| {
        hello(conn, head);
        false
    });
    let mut caller = host.caller();
    for _ in 0..20 {
        caller.send("POST /f HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi");
        let (head, body, _) = caller.response().unwrap();
        assert!(
            head.starts_with("HTTP/1.1 200 ") || head.starts_with("HTTP/1.1 502 "),
            "{head}"
        );
        assert!(body == b"hello" || head.starts_with("HTTP/1.1 502 "));
        // A close that has arrived is always seen; wait for it, as a caller with a pause would.
        eventually("the server has closed", || server.instance.in_flight() == 0);
    }
}

#[test]
fn only_safe_requests_are_sent_again_and_only_once() {
    let mut host = Host::new();
    // The first request of a connection is answered; the second ends it unanswered.
    let (_, server) = host.serve("f", manifest(), |conn, head| {
        if conn.body(head).is_none() || head.contains("x-ending") {
            return false;
        }
        conn.send(ok("hello"));
        if head.contains("/end") {
            // The next request is begun to be read, and never answered.
            let _ = std::io::Read::read(&mut conn.stream, &mut [0]);
            return false;
        }
        true
    });
    let mut caller = host.caller();
    for (request, status) in [
        ("GET /f/end HTTP/1.1\r\nHost: h\r\n\r\n", 200),
        // On the idle connection, which ends at its first byte: sent again.
        ("GET /f/end HTTP/1.1\r\nHost: h\r\n\r\n", 200),
        // The same, but it may have had an effect.
        ("POST /f HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi", 502),
        // The second instance that ends under it is the last.
        ("GET /f HTTP/1.1\r\nHost: h\r\nx-ending: 1\r\n\r\n", 502),
    ] {
        caller.send(request);
        let (head, ..) = caller.response().unwrap();
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {head}"
        );
    }
    // Of those that were answered by 502, the POST was sent once and the GET twice.
    let ending = server
        .seen()
        .iter()
        .filter(|head| head.contains("x-ending"))
        .count();
    assert_eq!((server.accepted(), ending), (4, 2));
}

/// As a server does whose patience with idle connections ends just as a request is sent. The budget for what an instance may have
/// read is for ten, and the breaker would refuse long before the last.
#[test]
fn what_an_idle_connection_took_with_it_is_sent_again_however_often() {
    let mut host = Host::new();
    let (_, server) = host.serve("f", manifest(), |conn, head| {
        hello(conn, head);
        conn.wait_for_more();
        false
    });
    let mut caller = host.caller();
    for round in 0..300 {
        caller.send(GET);
        let (head, body, _) = caller.response().unwrap();
        assert!(
            head.starts_with("HTTP/1.1 200 ") && body == b"hello",
            "{round}: {head}"
        );
        eventually("its connection is idle", || server.instance.in_flight() == 0);
    }
    assert_eq!((server.accepted(), server.seen().len()), (300, 300));
}

#[test]
fn a_dead_instance_is_passed_over_once_it_is_known() {
    let mut host = Host::new();
    let (function, dead) = host.serve("f", manifest(), |_, _| false);
    let live = function.live();
    let nobody = funcd::function::instance::Address::Unix("/nonexistent".into());
    let gone = funcd::function::instance::Instance::new(
        funcd_sandbox::spec::InstanceId(99),
        live.revision.clone(),
        nobody,
    );
    let publish = |instances| {
        function.publish(Live {
            revision: live.revision.clone(),
            instances,
            refusal: None,
        });
    };
    publish(vec![std::sync::Arc::new(gone)]);
    assert_problem(&host.get("/f"), 502, "connection-refused", "connection_refused");
    // While a request waits, `control` replaces the instance.
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| host.get("/f"));
        publish(vec![]);
        host.instance(&function, hello);
        assert!(answer.join().unwrap().ends_with("hello"));
    });
    drop(dead);
}

#[test]
fn what_is_not_http_is_a_502() {
    let mut host = Host::new();
    let cases: [(&str, crate::host::Answer, &str, &str); 9] = [
        (
            "closed",
            |_, _| false,
            "connection-terminated",
            "connection_terminated",
        ),
        (
            "half",
            |c, _| {
                c.send("HTTP/1.1 200 OK\r\nContent-");
                false
            },
            "connection-terminated",
            "connection_terminated",
        ),
        (
            "rubbish",
            |c, _| {
                c.send("rubbish\r\n\r\n");
                false
            },
            "malformed-response",
            "http_protocol_error",
        ),
        (
            "split",
            |c, _| {
                c.send("HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n");
                false
            },
            "malformed-response",
            "http_protocol_error",
        ),
        (
            "folded",
            |c, _| {
                c.send("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n");
                false
            },
            "malformed-response",
            "http_protocol_error",
        ),
        (
            "lengths",
            |c, _| {
                c.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab");
                false
            },
            "malformed-response",
            "http_protocol_error",
        ),
        (
            "huge",
            |c, _| {
                c.send(format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(70_000)));
                false
            },
            "malformed-response",
            "http_protocol_error",
        ),
        (
            "many",
            |c, _| {
                c.send(format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(200)));
                false
            },
            "malformed-response",
            "http_protocol_error",
        ),
        (
            "switch",
            |c, _| {
                c.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: evil\r\nConnection: upgrade\r\n\r\n");
                false
            },
            "malformed-response",
            "http_protocol_error",
        ),
    ];
    for (name, answer, slug, error) in cases {
        let (function, _) = host.serve(name, manifest(), answer);
        assert_problem(&host.get(&format!("/{name}")), 502, slug, error);
        eventually("the place is free again", || function.admitted() == 0);
    }
}

#[test]
fn a_response_with_both_framings_goes_by_the_encoding() {
    let mut host = Host::new();
    host.serve("f", manifest(), |conn, _| {
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    });
    let mut caller = host.caller();
    caller.send(GET);
    let (head, body, _) = caller.response().unwrap();
    assert!(crate::host::field(&head, "content-length").is_none(), "{head}");
    assert_eq!(body, b"hello");
}

#[test]
fn interim_responses_are_kept_back() {
    let mut host = Host::new();
    host.serve("f", manifest(), |conn, _| {
        conn.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
            && conn.send(ok("final"))
    });
    let answer = host.get("/f");
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("final"),
        "{answer}"
    );
}

#[test]
fn an_instance_that_ends_within_its_body_cuts_the_caller_off() {
    let mut host = Host::new();
    for (name, answer) in [
        (
            "length",
            (|c, _| {
                c.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
                false
            }) as crate::host::Answer,
        ),
        ("chunked", |c, _| {
            c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf");
            false
        }),
    ] {
        let (function, _) = host.serve(name, manifest(), answer);
        let mut caller = host.caller();
        caller.send(format!("GET /{name} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let head = caller.head();
        assert!(head.is_none_or(|head| head.starts_with("HTTP/1.1 200 ")));
        let rest = caller.rest();
        assert!(
            !rest.ends_with("0\r\n\r\n") && !rest.contains("hi"),
            "looks complete: {rest:?}"
        );
        eventually("the place is free again", || function.admitted() == 0);
    }
}

#[test]
fn a_drain_finishes_what_is_there_and_closes_what_is_idle() {
    static GO: AtomicUsize = AtomicUsize::new(0);
    let mut host = Host::new();
    let (function, _) = host.serve("f", manifest(), |conn, _| {
        eventually("the test says go", || GO.load(Ordering::SeqCst) > 0);
        conn.send(ok("done"))
    });
    let mut idle = host.caller();
    idle.send("GET /nobody HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(idle.response().unwrap().0.starts_with("HTTP/1.1 404"));
    let mut silent = host.caller();
    let mut busy = host.caller();
    busy.send(GET);
    eventually("in flight", || {
        function.admitted() == 1 && host.shared.connections() == 3
    });
    let workers = host.workers.take().unwrap();
    workers.begin_drain(Instant::now() + Duration::from_secs(20));
    assert_eq!((idle.rest(), silent.rest()), (String::new(), String::new()));
    GO.store(1, Ordering::SeqCst);
    assert_eq!(busy.response().unwrap().1, b"done");
    assert_eq!(busy.rest(), "");
    assert_eq!(workers.drain(Instant::now() + Duration::from_secs(20)), 0);
}

/// Attack 45: whatever an instance sends, the caller gets one well-formed answer or the end of the connection.
#[test]
fn mangled_responses_harm_nobody() {
    static NEXT: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    let mut host = Host::new();
    let (function, server) = host.serve("f", manifest(), |conn, _| {
        let bytes = NEXT.lock().unwrap().clone();
        conn.send(bytes);
        false
    });
    let bases: [&[u8]; 2] = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\nConnection: keep-alive\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    ];
    let spice: [&[u8]; 10] = [
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b":",
        b" ",
        b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"Content-Length: 1\r\n",
        b"\xff",
    ];
    // A fixed sequence (Knuth's MMIX generator), so that a failure can be run again.
    let mut state = 1_u64;
    let mut chance = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for round in 0..400 {
        let mut bytes = bases[round % 2].to_vec();
        for _ in 0..=chance(2) {
            let at = chance(bytes.len());
            match chance(3) {
                0 => bytes.truncate(at),
                1 => bytes[at] = bytes[at].wrapping_add(1 + chance(255) as u8),
                _ => drop(bytes.splice(at..at, spice[chance(spice.len())].iter().copied())),
            }
            if bytes.is_empty() {
                break;
            }
        }
        NEXT.lock().unwrap().clone_from(&bytes);
        let answer = host.get("/f");
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, _)) = answer.split_once("\r\n\r\n") else {
            assert_eq!(answer, "", "{shown:?}");
            continue;
        };
        assert!(head.starts_with("HTTP/1.1 "), "{shown:?}: {answer:?}");
        assert!(!head.bytes().any(|byte| byte == 0), "{shown:?}: {answer:?}");
        assert_eq!(
            head.replace("\r\n", "").matches(['\r', '\n']).count(),
            0,
            "{shown:?}: {answer:?}"
        );
    }
    eventually("nothing is held", || {
        function.admitted() == 0 && server.instance.in_flight() == 0
    });
    *NEXT.lock().unwrap() = ok("well").into_bytes();
    assert!(host.get("/f").ends_with("well"));
}
