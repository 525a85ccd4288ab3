//! Attack 46: slow on purpose, in all four directions and over both protocols. Each ends, is counted, frees its place,
//! and a neighbour is served meanwhile. The bounds are short here; what is asserted is the end, never how soon.

use std::io::Write;
use std::time::Duration;

use funcd::config::ClientBounds;

use crate::h2::{Caller, Came, DATA, END_HEADERS, HEADERS, SETTINGS, WINDOW_UPDATE, block, frame, get};
use crate::host::{Conn, Host, bounds, eventually, hello, manifest, metric};

const SHORT: Duration = Duration::from_millis(150);

fn ended(reason: &str) -> u64 {
    metric("funcd_connections_ended_total", &format!("reason=\"{reason}\""))
}

fn short_heads() -> ClientBounds {
    ClientBounds {
        head_timeout: SHORT,
        ..bounds()
    }
}

fn short_bodies() -> ClientBounds {
    ClientBounds {
        body_idle: SHORT,
        ..bounds()
    }
}

/// Sends this byte after byte until the connection is closed.
fn drip(stream: &mut impl Write, byte: &[u8]) {
    eventually("closed", || {
        let sent = stream.write_all(byte);
        std::thread::park_timeout(Duration::from_millis(5));
        sent.is_err()
    });
}

fn post() -> Vec<(&'static [u8], &'static [u8])> {
    let mut fields = get("/f");
    fields[0].1 = b"POST";
    fields
}

#[test]
fn heads_that_drip() {
    let mut host = Host::with(short_heads(), &[]);
    host.serve("f", manifest(), hello);
    let before = ended("head-timeout");
    // The method, the target, a name, a value: wherever it stands still.
    for begin in ["G", "GET /f", "GET /f HTTP/1.1\r\n", "GET /f HTTP/1.1\r\nHost: h"] {
        let mut caller = host.caller();
        caller.send(begin);
        drip(caller.0.get_mut(), b"a");
        assert!(host.get("/f").ends_with("hello"), "the neighbour");
    }
    eventually("counted", || ended("head-timeout") >= before + 4);
}

#[test]
fn http_2_heads_that_drip() {
    let mut host = Host::with(short_heads(), &[]);
    host.serve("f", manifest(), hello);
    let before = ended("head-timeout");
    // A preface and silence; half a frame; a block without its end.
    for begin in [
        vec![],
        frame(HEADERS, END_HEADERS, 1, &block(&get("/f")))[..20].to_vec(),
        frame(HEADERS, 0, 1, &block(&get("/f"))),
    ] {
        let mut caller = Caller::new(host.address);
        caller.send(&begin);
        assert!(host.get("/f").ends_with("hello"), "the neighbour");
        caller.ended();
    }
    // Nor do frames that are no request keep it.
    let mut caller = Caller::new(host.address);
    drip(&mut caller.stream, &frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]));
    eventually("counted", || ended("head-timeout") >= before + 4);
}

#[test]
fn bodies_that_drip_end_with_the_function_s_time_out() {
    let mut host = Host::new();
    let mut hasty = manifest();
    hasty.request.timeout = SHORT;
    let (function, server) = host.serve("f", hasty, hello);
    let mut caller = host.caller();
    caller.send("POST /f HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n");
    let mut stream = caller.0.get_ref().try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || drip(&mut stream, b"a"));
        assert!(caller.head().unwrap().starts_with("HTTP/1.1 504 "));
        caller.rest();
    });
    eventually("the place is free", || {
        function.admitted() == 0 && server.instance.in_flight() == 0
    });
}

#[test]
fn an_http_2_body_that_stalls_costs_its_stream_alone() {
    let mut host = Host::with(short_bodies(), &[]);
    let (function, server) = host.serve("f", manifest(), hello);
    let mut caller = Caller::new(host.address);
    caller.send(&frame(HEADERS, END_HEADERS, 1, &block(&post())));
    caller.send(&frame(DATA, 0, 1, b"half"));
    assert_eq!(caller.outcome(1), Came::Status(408));
    eventually("the place is free", || {
        function.admitted() == 0 && server.instance.in_flight() == 0
    });
    caller.ask(3, &get("/f"));
    assert_eq!(caller.outcome(3), Came::Status(200));
}

/// Answers without end.
fn endless(conn: &mut Conn, _: &str) -> bool {
    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
    let piece = vec![0; 1 << 16];
    while conn.send(&piece) {}
    false
}

#[test]
fn readers_that_stall() {
    let mut host = Host::with(short_bodies(), &[]);
    host.serve("neighbour", manifest(), hello);
    let (function, server) = host.serve("f", manifest(), endless);
    let free = || function.admitted() == 0 && server.instance.in_flight() == 0;
    let before = ended("reader-stalled");
    let mut caller = host.caller();
    caller.send("GET /f HTTP/1.1\r\nHost: h\r\n\r\n");
    caller.head().unwrap();
    assert!(host.get("/neighbour").ends_with("hello"));
    eventually("the place is free", free);
    eventually("counted as a connection", || ended("reader-stalled") > before);

    // HTTP/2: a window of nothing, one that is never opened again, and a socket that is never read.
    let before = ended("stream-reader-stalled");
    for (asked, window) in [(2, Some([0, 4, 0, 0, 0, 0])), (3, None)] {
        let mut caller = Caller::new(host.address);
        if let Some(window) = window {
            caller.send(&frame(SETTINGS, 0, 0, &window));
        }
        caller.ask(1, &get("/f"));
        eventually("it was asked", || server.seen().len() == asked);
        eventually("the place is free", free);
        // The connection lives on.
        caller.ask(3, &get("/neighbour"));
        assert_eq!(caller.outcome(3), Came::Status(200));
    }
    let mut deaf = Caller::new(host.address);
    deaf.send(&frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]));
    deaf.send(&frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0, 0, 0]));
    deaf.ask(1, &get("/f"));
    eventually("it was asked", || server.seen().len() == 4);
    eventually("the place is free", free);
    eventually("counted as streams", || {
        ended("stream-reader-stalled") >= before + 3
    });
    assert!(host.get("/neighbour").ends_with("hello"));
}

#[test]
fn a_function_that_stalls_in_its_body_is_left_with_its_caller() {
    let mut host = Host::new();
    host.serve("neighbour", manifest(), hello);
    let (function, server) = host.serve("f", manifest(), |conn, _| {
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
        // The end of the connection is how it learns that nobody waits any more.
        let _ = std::io::BufRead::fill_buf(&mut conn.stream);
        false
    });
    for h2 in [false, true] {
        if h2 {
            let mut caller = Caller::new(host.address);
            caller.ask(1, &get("/f"));
            assert_eq!(caller.outcome(1), Came::Status(200));
            assert_eq!(function.admitted(), 1);
            // The stream alone.
            caller.send(&frame(crate::h2::RST_STREAM, 0, 1, &[0, 0, 0, 8]));
            eventually("the place is free", || {
                function.admitted() == 0 && server.instance.in_flight() == 0
            });
        } else {
            let mut caller = host.caller();
            caller.send("GET /f HTTP/1.1\r\nHost: h\r\n\r\n");
            caller.head().unwrap();
            assert_eq!(function.admitted(), 1);
            assert!(host.get("/neighbour").ends_with("hello"));
        }
        eventually("the place is free", || {
            function.admitted() == 0 && server.instance.in_flight() == 0
        });
    }
}

#[test]
fn what_is_idle_is_closed_and_counted() {
    let idle = ClientBounds {
        idle: SHORT,
        ..bounds()
    };
    let mut host = Host::with(idle, &[]);
    host.serve("f", manifest(), hello);
    let before = ended("idle");
    let mut one = host.caller();
    one.send("GET /f HTTP/1.1\r\nHost: h\r\n\r\n");
    one.response().unwrap();
    let mut two = Caller::new(host.address);
    two.ask(1, &get("/f"));
    assert_eq!(two.outcome(1), Came::Status(200));
    one.rest();
    two.ended();
    eventually("counted", || ended("idle") >= before + 2);
    eventually("all are closed", || host.shared.connections() == 0);
}

#[test]
fn half_heads_take_no_more_than_their_share_of_memory() {
    let large = ClientBounds {
        head_bytes: 1 << 20,
        ..bounds()
    };
    let mut host = Host::with(large, &[]);
    host.serve("f", manifest(), hello);
    let before = ended("held-heads");
    // Each holds a good megabyte at most, all together more than the bound.
    let half = format!("GET /f HTTP/1.1\r\nHost: h\r\nA: {}", "a".repeat(1_000_000));
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let mut caller = host.caller();
            // Whoever is over the bound may be closed while it sends.
            let _ = caller.0.get_mut().write_all(half.as_bytes());
            caller
        })
        .collect();
    eventually("some are closed", || ended("held-heads") > before + 20);
    assert!(host.shared.connections() >= 20, "not all are");
    assert!(host.get("/f").ends_with("hello"), "the neighbour");
    // Those within the bound are good requests still.
    let served = callers.into_iter().filter_map(|mut caller| {
        caller
            .0
            .get_mut()
            .write_all(b"\r\nConnection: close\r\n\r\n")
            .ok()?;
        caller.head()
    });
    assert!(served.filter(|head| head.starts_with("HTTP/1.1 200 ")).count() >= 20);
}
