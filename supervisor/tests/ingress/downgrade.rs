//! Attack 43 over HTTP/2: what its frames can carry and HTTP/1 can't must not get into the head that the function reads.

use crate::h2::{Caller, Came, DATA, END_HEADERS, END_STREAM, HEADERS, block, frame, get};
use crate::host::{Host, field, hello, manifest, metric};

const PROTOCOL_ERROR: Came = Came::Reset(1);

type Fields<'a> = Vec<(&'a [u8], &'a [u8])>;

/// A good GET with one pseudo-header's value replaced.
fn with<'a>(name: &'a [u8], value: &'a [u8]) -> Fields<'a> {
    let mut fields = get("/f/a");
    fields
        .iter_mut()
        .filter(|field| field.0 == name)
        .for_each(|field| field.1 = value);
    fields
}

/// A good GET and one more field.
fn and<'a>(name: &'a [u8], value: &'a [u8]) -> Fields<'a> {
    let mut fields = get("/f/a");
    fields.push((name, value));
    fields
}

/// A good GET without this pseudo-header.
fn without(name: &[u8]) -> Fields<'static> {
    let mut fields = get("/f/a");
    fields.retain(|field| field.0 != name);
    fields
}

#[test]
#[rustfmt::skip]
fn what_only_frames_can_carry_never_reaches_the_function() {
    let mut host = Host::new();
    let (_, server) = host.serve("f", manifest(), hello);
    let smuggled: &[u8] = b"/f/a HTTP/1.1\r\nHost: h\r\n\r\nGET /f/smuggled";
    let table: Vec<(&str, Fields<'_>, Came)> = vec![
        ("CR LF in :path", with(b":path", smuggled), PROTOCOL_ERROR),
        ("LF in :path", with(b":path", b"/f/a\nX: y"), PROTOCOL_ERROR),
        ("NUL in :path", with(b":path", b"/f/a\0"), PROTOCOL_ERROR),
        ("a space in :path", with(b":path", b"/f/a HTTP/1.1"), PROTOCOL_ERROR),
        ("a tab in :path", with(b":path", b"/f/a\tb"), PROTOCOL_ERROR),
        ("an empty :path", with(b":path", b""), PROTOCOL_ERROR),
        ("a :path without a slash", with(b":path", b"f/a"), PROTOCOL_ERROR),
        ("an absolute :path", with(b":path", b"http://evil/f/a"), PROTOCOL_ERROR),
        ("an asterisk", with(b":path", b"*"), Came::Status(400)),
        ("no :path", without(b":path"), PROTOCOL_ERROR),
        ("CR LF in :method", with(b":method", b"GET / HTTP/1.1\r\nX: y\r\n\r\nGET"), PROTOCOL_ERROR),
        ("a space in :method", with(b":method", b"GET /f/b"), PROTOCOL_ERROR),
        ("an empty :method", with(b":method", b""), PROTOCOL_ERROR),
        ("no :method", without(b":method"), PROTOCOL_ERROR),
        ("CONNECT", with(b":method", b"CONNECT"), PROTOCOL_ERROR),
        ("CR LF in :authority", with(b":authority", b"h\r\nX: y"), PROTOCOL_ERROR),
        ("a user in :authority", with(b":authority", b"u@h"), Came::Status(400)),
        ("a path in :authority", with(b":authority", b"h/f"), PROTOCOL_ERROR),
        ("a space in :authority", with(b":authority", b"h evil"), PROTOCOL_ERROR),
        ("CR LF in :scheme", with(b":scheme", b"http\r\nX: y"), PROTOCOL_ERROR),
        ("CR LF in a value", and(b"x", b"a\r\nContent-Length: 9"), PROTOCOL_ERROR),
        ("LF in a value", and(b"x", b"a\nb"), PROTOCOL_ERROR),
        ("CR in a value", and(b"x", b"a\rb"), PROTOCOL_ERROR),
        ("NUL in a value", and(b"x", b"a\0b"), PROTOCOL_ERROR),
        ("CR LF in a name", and(b"x: y\r\nz", b"a"), PROTOCOL_ERROR),
        ("a colon in a name", and(b"x: y", b"a"), PROTOCOL_ERROR),
        ("a space in a name", and(b"x y", b"a"), PROTOCOL_ERROR),
        ("an empty name", and(b"", b"a"), PROTOCOL_ERROR),
        ("an upper-case name", and(b"X", b"a"), PROTOCOL_ERROR),
        ("transfer-encoding", and(b"transfer-encoding", b"chunked"), PROTOCOL_ERROR),
        ("connection", and(b"connection", b"x-forwarded-for"), PROTOCOL_ERROR),
        ("keep-alive", and(b"keep-alive", b"1"), PROTOCOL_ERROR),
        ("proxy-connection", and(b"proxy-connection", b"close"), PROTOCOL_ERROR),
        ("upgrade", and(b"upgrade", b"websocket"), PROTOCOL_ERROR),
        ("te: chunked", and(b"te", b"chunked"), PROTOCOL_ERROR),
        ("two :path", and(b":path", b"/f/b"), PROTOCOL_ERROR),
        ("two :method", and(b":method", b"POST"), PROTOCOL_ERROR),
        ("two :authority", and(b":authority", b"evil"), PROTOCOL_ERROR),
        ("an unknown pseudo-header", and(b":evil", b"a"), PROTOCOL_ERROR),
        ("a response's", and(b":status", b"200"), PROTOCOL_ERROR),
        (":path behind a field", vec![(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"h"), (b"x", b"y"), (b":path", b"/f/a")], PROTOCOL_ERROR),
        ("no host at all", without(b":authority"), Came::Status(400)),
        ("two hosts", [without(b":authority"), vec![(b"host", b"h"), (b"host", b"evil")]].concat(), Came::Status(400)),
        ("a length that is none", and(b"content-length", b"+3"), PROTOCOL_ERROR),
        ("two lengths", [and(b"content-length", b"0"), vec![(b"content-length", b"3")]].concat(), PROTOCOL_ERROR),
        ("a length without a body", and(b"content-length", b"3"), PROTOCOL_ERROR),
    ];
    let counted = || metric("funcd_requests_rejected_total", "reason=\"http2-protocol-error\"");
    for (what, fields, expected) in table {
        let before = counted();
        let mut caller = Caller::new(host.address);
        caller.ask(1, &fields);
        let came = caller.outcome(1);
        // Some of these may end the connection rather than the stream.
        if came != Came::GoAway(1) || expected != PROTOCOL_ERROR {
            assert_eq!(came, expected, "{what}");
            if expected == PROTOCOL_ERROR {
                crate::host::eventually(what, || counted() > before);
            }
            // A neighbour on the same connection is served.
            caller.ask(3, &get("/nobody"));
            assert_eq!(caller.outcome(3), Came::Status(404), "{what}");
        }
        assert_eq!(String::from_utf8_lossy(&server.take_bytes()), "", "{what}");
    }
}

#[test]
fn what_may_pass_arrives_as_one_head() {
    let mut host = Host::new();
    let (_, server) = host.serve("f", manifest(), hello);
    let mut caller = Caller::new(host.address);
    let fields: Fields<'_> = [
        get("/f/a?b=c"),
        vec![
            (b"host", b"evil"),
            (b"te", b"trailers"),
            (b"cookie", b"a=1"),
            (b"cookie", b"b=2"),
            (b"x-forwarded-for", b"6.6.6.6"),
            (b"expect", b"100-continue"),
        ],
    ]
    .concat();
    caller.ask(1, &fields);
    assert_eq!(caller.outcome(1), Came::Status(200));
    let head = String::from_utf8(server.take_bytes()).unwrap();
    assert!(
        head.starts_with("GET /a?b=c HTTP/1.1\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    assert_eq!(head.matches("\r\n\r\n").count(), 1, "{head}");
    for (name, value) in [
        ("host", "h"),
        ("te", "trailers"),
        ("cookie", "a=1; b=2"),
        ("x-forwarded-for", "127.0.0.1"),
    ] {
        assert_eq!(field(&head, name), Some(value), "{head}");
        assert_eq!(head.matches(&format!("\r\n{name}:")).count(), 1, "{head}");
    }
    assert_eq!(field(&head, "expect"), None);
}

#[test]
fn a_length_that_lies_ends_the_stream_and_nothing_of_it_is_the_next_request() {
    let mut host = Host::new();
    let (function, server) = host.serve("f", manifest(), hello);
    let post: Fields<'_> = vec![
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":authority", b"h"),
        (b":path", b"/f/a"),
    ];
    for (length, body) in [
        (&b"3"[..], &b"abcGET /f/smuggled HTTP/1.1\r\nhost: h\r\n\r\n"[..]),
        (b"99", b"abc"),
        (b"0", b"abc"),
    ] {
        let mut caller = Caller::new(host.address);
        let fields = [post.clone(), vec![(&b"content-length"[..], length)]].concat();
        caller.send(&frame(HEADERS, END_HEADERS, 1, &block(&fields)));
        caller.send(&frame(DATA, END_STREAM, 1, body));
        assert_ne!(caller.outcome(1), Came::Status(200), "{length:?}");
        crate::host::eventually("the place is free again", || function.admitted() == 0);
        // Nor is it left on the connection to the function.
        caller.ask(3, &get("/f/next"));
        assert_eq!(caller.outcome(3), Came::Status(200));
        let read = String::from_utf8(server.take_bytes()).unwrap();
        let mut lines: Vec<_> = read.lines().filter(|line| line.ends_with(" HTTP/1.1")).collect();
        // Of a stream that is reset late the function may have read the head, on a connection of its own, at any time.
        lines.sort_unstable();
        assert!(
            lines == ["GET /next HTTP/1.1"] || lines == ["GET /next HTTP/1.1", "POST /a HTTP/1.1"],
            "{read}"
        );
        assert!(!read.contains("smuggled"), "{read}");
    }
    // A body without a length is framed anew.
    let mut caller = Caller::new(host.address);
    caller.send(&frame(HEADERS, END_HEADERS, 1, &block(&post)));
    caller.send(&frame(
        DATA,
        END_STREAM,
        1,
        b"0\r\n\r\nGET /f/smuggled HTTP/1.1\r\n\r\n",
    ));
    assert_eq!(caller.outcome(1), Came::Status(200));
    let read = String::from_utf8(server.take_bytes()).unwrap();
    assert!(
        read.contains("\r\ntransfer-encoding: chunked\r\n") && read.contains("\r\n21\r\n0\r\n\r\nGET "),
        "{read}"
    );
    assert_eq!(
        server
            .seen()
            .iter()
            .filter(|head| head.contains("smuggled"))
            .count(),
        0
    );
}

#[test]
fn a_header_list_beyond_the_bound_is_a_431_of_the_host_s_own() {
    let mut host = Host::new();
    let (_, server) = host.serve("f", manifest(), hello);
    let counted = || metric("funcd_requests_rejected_total", "reason=\"large-head\"");
    let before = counted();
    let large = [b'y'; 33 * 1024];
    let mut caller = Caller::new(host.address);
    // Larger than a frame may be: two of them.
    let block = block(&and(b"x", &large));
    let (first, rest) = block.split_at(16 * 1024);
    let (second, third) = rest.split_at(16 * 1024);
    caller.send(&frame(HEADERS, END_STREAM, 1, first));
    caller.send(&frame(crate::h2::CONTINUATION, 0, 1, second));
    caller.send(&frame(crate::h2::CONTINUATION, END_HEADERS, 1, third));
    assert_eq!(caller.outcome(1), Came::Status(431));
    crate::host::eventually("it is counted", || counted() > before);
    assert!(
        caller.bodies.contains_key(&1) || {
            caller.read();
            caller.bodies.contains_key(&1)
        },
        "it says why"
    );
    assert_eq!(server.take_bytes(), b"");
    let fits = [b'y'; 10 * 1024];
    caller.ask(3, &and(b"x", &fits));
    assert_eq!(caller.outcome(3), Came::Status(200));
}
