//! Attack 44 over HTTP/2: frames that cost the caller nothing. The connection ends with GOAWAY and is counted, and a
//! neighbour is served meanwhile. What it does to the host's memory is for the black-box tests, on a process of its own.

use crate::h2::{
    CONTINUATION, Caller, Came, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, block, frame, get,
};
use crate::host::{Conn, Host, eventually, hello, manifest, metric};

/// Sends this again and again, at most `times`, while a neighbour asks; how the connection ended, if it did.
fn flood(what: &str, reasons: &[&str], times: usize, mut piece: impl FnMut(u32) -> Vec<u8>) {
    let mut host = Host::new();
    let (function, _) = host.serve("f", manifest(), hello);
    let counted = || -> u64 {
        let counts = reasons
            .iter()
            .map(|reason| metric("funcd_connections_ended_total", &format!("reason=\"{reason}\"")));
        counts.sum()
    };
    let neighbour = || assert!(host.get("/f").ends_with("hello"), "{what}: a neighbour");
    neighbour();
    let before = counted();
    let mut caller = Caller::new(host.address);
    let mut reader = caller.stream.try_clone().unwrap();
    // Read beside, so that the host can always write: what it answers is part of the flood.
    let end = std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let mut all: Vec<u8> = vec![];
            let mut buffer = [0; 64 * 1024];
            loop {
                match std::io::Read::read(&mut reader, &mut buffer) {
                    Ok(0) | Err(_) => return all,
                    Ok(read) => {
                        all.extend(&buffer[..read]);
                        // Only the end matters.
                        if all.len() > 1 << 20 {
                            all.drain(..all.len() - 64 * 1024);
                        }
                    }
                }
            }
        });
        let mut sent = 0;
        for number in 0..times {
            if !caller.send(&piece(number as u32)) {
                break;
            }
            sent += 1;
            if number % (times / 4).max(1) == 0 {
                neighbour();
            }
        }
        neighbour();
        let _ = caller.stream.shutdown(std::net::Shutdown::Write);
        let all = reading.join().unwrap();
        (sent, all)
    });
    let goaway = [0, 0, 0, 0, 0];
    let told = end
        .1
        .windows(13)
        .any(|at| at[3] == 7 && at[4..9] == goaway && at[..2] == [0, 0]);
    assert!(told, "{what}: no GOAWAY after {} pieces", end.0);
    assert!(counted() > before, "{what}: {reasons:?} is not counted");
    eventually("nothing is held", || function.admitted() == 0);
    neighbour();
}

/// Many frames in one write.
fn many(frame: Vec<u8>) -> Vec<u8> {
    frame.repeat(1000)
}

#[test]
fn pings() {
    flood("ping", &["http2-flood"], 1000, |_| {
        many(frame(PING, 0, 0, &[0; 8]))
    });
}

#[test]
fn settings() {
    flood("settings", &["http2-flood"], 1000, |_| {
        many(frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]))
    });
    flood("empty settings", &["http2-flood"], 1000, |_| {
        many(frame(SETTINGS, 0, 0, &[]))
    });
}

#[test]
fn priorities() {
    flood("priority", &["http2-flood"], 1000, |_| {
        many(frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]))
    });
}

#[test]
fn window_updates() {
    // Of the connection, so small that they never add up to an overflow.
    flood("window update", &["http2-flood"], 1000, |_| {
        many(frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]))
    });
}

#[test]
fn unknown_frames() {
    flood("unknown", &["http2-flood"], 1000, |_| {
        many(frame(0xbe, 0, 0, b""))
    });
}

#[test]
fn empty_data() {
    let post: [(&[u8], &[u8]); 4] = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":authority", b"h"),
        (b":path", b"/f"),
    ];
    flood(
        "empty data",
        &["http2-flood", "http2-enhance-your-calm"],
        1000,
        |number| match number {
            0 => frame(HEADERS, END_HEADERS, 1, &block(&post)),
            _ => many(frame(DATA, 0, 1, b"")),
        },
    );
    flood(
        "data of one byte",
        &["http2-flood", "http2-enhance-your-calm"],
        1000,
        |number| match number {
            0 => frame(HEADERS, END_HEADERS, 1, &block(&post)),
            _ => many(frame(DATA, 0, 1, b"x")),
        },
    );
}

#[test]
fn rapid_resets() {
    // CVE-2023-44487.
    let request = block(&get("/f"));
    flood(
        "rapid reset",
        &["http2-flood", "http2-enhance-your-calm"],
        50_000,
        |number| {
            let stream = 2 * number + 1;
            let ask = frame(HEADERS, END_HEADERS | END_STREAM, stream, &request);
            [ask, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
        },
    );
}

#[test]
fn resets_that_the_host_is_made_to_send() {
    // Malformed requests, each reset by the host.
    let request = block(&[(b":method", b"GET")]);
    flood(
        "made to reset",
        &["http2-flood", "http2-enhance-your-calm"],
        50_000,
        |number| frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &request),
    );
}

#[test]
fn continuations() {
    // CVE-2024-27316: a header block that never ends.
    let piece = block(&[(b"x", &[b'y'; 1000])]);
    flood(
        "continuation",
        &[
            "http2-enhance-your-calm",
            "http2-protocol-error",
            "http2-compression-error",
        ],
        20_000,
        |number| match number {
            0 => frame(HEADERS, END_STREAM, 1, &block(&get("/f"))),
            _ => frame(CONTINUATION, 0, 1, &piece),
        },
    );
    flood(
        "empty continuation",
        &[
            "http2-enhance-your-calm",
            "http2-protocol-error",
            "http2-compression-error",
        ],
        1000,
        |number| match number {
            0 => frame(HEADERS, END_STREAM, 1, &block(&get("/f"))),
            _ => many(frame(CONTINUATION, 0, 1, b"")),
        },
    );
}

#[test]
fn a_header_list_that_unpacks_to_much_more() {
    let mut host = Host::new();
    let (_, server) = host.serve("f", manifest(), hello);
    assert!(host.get("/f").ends_with("hello"));
    server.take_bytes();
    // One field of 4 KB into the table, then named by one byte each, 10,000 times: 40 MB.
    let mut caller = Caller::new(host.address);
    for stream in (1..200).step_by(2) {
        let mut bomb = block(&get("/f"));
        let value = [b'y'; 3900];
        let mut field = block(&[(b"x", &value)]);
        field[0] = 0x40;
        bomb.extend(field);
        bomb.extend([0x80 | 62; 10_000]);
        if !caller.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &bomb)) {
            break;
        }
    }
    let came = caller.outcome(1);
    assert!(
        matches!(
            came,
            Came::Status(431) | Came::Reset(_) | Came::GoAway(_) | Came::End
        ),
        "{came:?}"
    );
    assert_eq!(server.take_bytes(), b"");
    assert!(host.get("/f").ends_with("hello"));
}

#[test]
fn streams_beyond_the_limit_are_refused() {
    let mut host = Host::new();
    static GO: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    let wait = |conn: &mut Conn, head: &str| {
        if head.starts_with("GET /wait") {
            eventually("go", || GO.load(std::sync::atomic::Ordering::SeqCst));
        }
        hello(conn, head)
    };
    let mut wide = manifest();
    wide.scale.concurrency = 1000;
    let (function, _) = host.serve("f", wide, wait);
    host.serve("g", manifest(), hello);
    let mut caller = Caller::new(host.address);
    for stream in 0..140 {
        caller.ask(2 * stream + 1, &get("/f/wait"));
    }
    let last = 2 * 139 + 1;
    assert_eq!(
        caller.outcome(last),
        Came::Reset(7),
        "REFUSED_STREAM: it may try again"
    );
    eventually("it is counted", || {
        metric("funcd_requests_rejected_total", "reason=\"http2-refused-stream\"") > 0
    });
    assert!(function.admitted() <= 128);
    // A neighbour on a connection of its own, at another function: of this one a burst waits for its turn.
    assert!(host.get("/g").ends_with("hello"));
    GO.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(caller.outcome(1), Came::Status(200));
}

#[test]
fn an_honest_caller_is_not_taken_for_a_flood() {
    // A thousand requests on one connection, each with what libraries send beside: priority, window update, ping.
    let mut host = Host::new();
    host.serve("f", manifest(), hello);
    let mut caller = Caller::new(host.address);
    for number in 0..1000 {
        let stream = 2 * number + 1;
        caller.ask(stream, &get("/f"));
        let beside = [
            frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 1]),
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 5]),
            frame(PING, 0, 0, &[0; 8]),
        ];
        caller.send(&beside.concat());
        assert_eq!(caller.outcome(stream), Came::Status(200));
    }
}
