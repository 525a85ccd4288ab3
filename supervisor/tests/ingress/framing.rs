//! Attack 43: where two readers of one byte stream could disagree, the answer is 400 and the end of the connection.

use crate::host::{Host, field, hello, manifest};

#[test]
fn bad_framing_is_refused_and_never_reaches_the_function() {
    let mut host = Host::new();
    let (_, server) = host.serve("hello", manifest(), hello);
    let head = "POST /hello HTTP/1.1\r\nHost: h\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    let table = [
        (
            "length, then encoding",
            format!("{head}Content-Length: 3\r\n{chunked}\r\n0\r\n\r\n"),
        ),
        (
            "encoding, then length",
            format!("{head}{chunked}Content-Length: 3\r\n\r\n0\r\n\r\n"),
        ),
        (
            "two lengths that differ",
            format!("{head}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc"),
        ),
        (
            "two equal lengths",
            format!("{head}Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
        ),
        (
            "a list of lengths",
            format!("{head}Content-Length: 3, 3\r\n\r\nabc"),
        ),
        ("a signed length", format!("{head}Content-Length: +3\r\n\r\nabc")),
        (
            "a negative length",
            format!("{head}Content-Length: -3\r\n\r\nabc"),
        ),
        (
            "a hexadecimal length",
            format!("{head}Content-Length: 0x3\r\n\r\nabc"),
        ),
        (
            "a length beyond all",
            format!("{head}Content-Length: 99999999999999999999\r\n\r\nabc"),
        ),
        ("an empty length", format!("{head}Content-Length:\r\n\r\n")),
        (
            "another encoding",
            format!("{head}Transfer-Encoding: gzip\r\n\r\n"),
        ),
        (
            "an encoding before chunked",
            format!("{head}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ),
        ("chunked twice", format!("{head}{chunked}{chunked}\r\n0\r\n\r\n")),
        (
            "a hidden encoding",
            format!("{head}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "chunks in HTTP/1.0",
            format!("POST /hello HTTP/1.0\r\n{chunked}\r\n0\r\n\r\n"),
        ),
        (
            "a bare LF after the request line",
            "GET /hello HTTP/1.1\nHost: h\r\n\r\n".into(),
        ),
        (
            "a bare LF after a field",
            "GET /hello HTTP/1.1\r\nHost: h\n\r\n".into(),
        ),
        (
            "a bare LF at the end",
            "GET /hello HTTP/1.1\r\nHost: h\r\n\n".into(),
        ),
        (
            "a bare CR in a value",
            "GET /hello HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n".into(),
        ),
        (
            "a NUL in a value",
            "GET /hello HTTP/1.1\r\nHost: h\r\nA: b\0c\r\n\r\n".into(),
        ),
        (
            "a NUL in the path",
            "GET /hello\0 HTTP/1.1\r\nHost: h\r\n\r\n".into(),
        ),
        (
            "a folded field",
            "GET /hello HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n".into(),
        ),
        (
            "a space before the colon",
            "GET /hello HTTP/1.1\r\nHost: h\r\nA : b\r\n\r\n".into(),
        ),
        (
            "a space before the first field",
            "GET /hello HTTP/1.1\r\n Host: h\r\n\r\n".into(),
        ),
        (
            "no colon",
            "GET /hello HTTP/1.1\r\nHost: h\r\nrubbish\r\n\r\n".into(),
        ),
        (
            "an empty name",
            "GET /hello HTTP/1.1\r\nHost: h\r\n: b\r\n\r\n".into(),
        ),
        ("no host", "GET /hello HTTP/1.1\r\n\r\n".into()),
        ("an empty host", "GET /hello HTTP/1.1\r\nHost:\r\n\r\n".into()),
        (
            "two hosts",
            "GET /hello HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into(),
        ),
        (
            "a host with a path",
            "GET /hello HTTP/1.1\r\nHost: a/b\r\n\r\n".into(),
        ),
        (
            "a host with a user",
            "GET /hello HTTP/1.1\r\nHost: u@a\r\n\r\n".into(),
        ),
        ("an asterisk", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n".into()),
        ("no version", "GET /hello\r\nHost: h\r\n\r\n".into()),
        ("a later version", "GET /hello HTTP/3.0\r\nHost: h\r\n\r\n".into()),
        (
            "no HTTP at all",
            "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03\r\n\r\n".into(),
        ),
    ];
    for (what, bytes) in table {
        // What follows would be the smuggled request.
        let answer = host.raw(bytes + "GET /hello/smuggled HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{what}: {answer}");
        assert_eq!(answer.matches("\r\ndate: ").count(), 1, "{what}: {answer}");
    }
    assert_eq!(server.seen(), [""; 0]);
}

#[test]
fn a_bad_chunk_ends_the_connection_within_the_body() {
    let mut host = Host::new();
    let (function, _) = host.serve("hello", manifest(), hello);
    let head = "POST /hello HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    for chunk in [
        "-1\r\nx\r\n",
        "0x1\r\nx\r\n",
        "1\r\nxy\r\n",
        "ffffffffffffffffff\r\n",
        "g\r\n",
        "\r\n",
    ] {
        let answer = host.raw(format!(
            "{head}{chunk}0\r\n\r\nGET /hello/smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
        ));
        assert!(!answer.contains(" 200 "), "{chunk:?}: {answer}");
        crate::host::eventually("the place is free again", || function.admitted() == 0);
    }
}

#[test]
fn good_requests_in_one_piece_are_answered_in_order() {
    let mut host = Host::new();
    let (_, server) = host.serve("hello", manifest(), hello);
    let mut caller = host.caller();
    caller.send(
        "GET /hello/1 HTTP/1.1\r\nHost: h\r\n\r\n\
         POST /hello/2 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n\n\n\n\
         POST /hello/3 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n\
         GET /hello/4 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    );
    for _ in 0..4 {
        let (head, body, _) = caller.response().unwrap();
        assert!(head.starts_with("HTTP/1.1 200 ") && body == b"hello", "{head}");
    }
    assert_eq!(caller.rest(), "");
    let seen = server.seen();
    let lines: Vec<_> = seen.iter().map(|head| head.lines().next().unwrap()).collect();
    assert_eq!(
        lines,
        [
            "GET /1 HTTP/1.1",
            "POST /2 HTTP/1.1",
            "POST /3 HTTP/1.1",
            "GET /4 HTTP/1.1"
        ]
    );
    assert_eq!(field(&seen[1], "content-length"), Some("3"));
    assert_eq!(field(&seen[2], "transfer-encoding"), Some("chunked"));
}

#[test]
fn a_flaw_behind_good_requests_ends_the_connection_there() {
    let mut host = Host::new();
    let (_, server) = host.serve("hello", manifest(), hello);
    let answer = host.raw(
        "POST /hello/1 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n\
         GET /hello/2 HTTP/1.1\nHost: h\r\n\r\nGET /hello/3 HTTP/1.1\r\nHost: h\r\n\r\n",
    );
    assert_eq!(
        (
            answer.matches(" 200 OK").count(),
            answer.matches(" 400 Bad").count()
        ),
        (1, 1),
        "{answer}"
    );
    assert_eq!(server.seen().len(), 1);
}
