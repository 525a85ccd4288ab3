//! Attack 43, byte for byte: what a caller sends, what it is told, and exactly what the function then reads. Where two
//! readers of a stream could disagree nothing reaches the function at all, and the connection ends.

use std::collections::HashMap;

use crate::host::{Host, Server, assert_problem, bounds, field, hello, manifest, metric, recorder};

/// What becomes of a row.
enum Fate {
    /// This status, this reason in the metric, and the end of the connection.
    Refused(u16, &'static str),
    /// The same, when the function may have read a part of the request already.
    Broken(&'static str),
    /// The function reads these bytes, the fields left out that funcd adds to every head.
    Read(&'static str),
}
use Fate::{Broken, Read, Refused};

/// What comes behind: answered only if the reader is where the sender is.
const NEXT: &str = "GET /f/next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
const NEXT_READ: &str = "GET /next HTTP/1.1\r\nhost: h\r\n\r\n";

/// What the function read, without the fields that every head gets.
fn read(server: &Server) -> String {
    let bytes = String::from_utf8_lossy(&server.take_bytes()).into_owned();
    let added = [
        "forwarded",
        "x-forwarded-",
        "x-funcd-class",
        "x-request-id",
        "x-request-timeout-ms",
        "traceparent",
    ];
    bytes
        .split_inclusive("\r\n")
        .filter(|line| !added.iter().any(|name| line.starts_with(name)))
        .collect()
}

/// How often each reason was counted in this process, as a request refused or a connection ended.
fn counts() -> HashMap<String, u64> {
    let mut counts = HashMap::new();
    for line in recorder().render().lines() {
        let Some((metric, labels)) = line.split_once("{reason=\"") else {
            continue;
        };
        if let "funcd_requests_rejected_total" | "funcd_connections_ended_total" = metric {
            let (reason, count) = labels.split_once("\"} ").unwrap();
            *counts.entry(reason.to_owned()).or_insert(0) += count.parse::<u64>().unwrap();
        }
    }
    counts
}

fn try_table(table: &[(&str, String, Fate)]) {
    let mut host = Host::new();
    let (function, server) = host.serve("f", manifest(), hello);
    let (before, mut refused) = (counts(), HashMap::new());
    for (what, bytes, fate) in table {
        if let Refused(_, reason) | Broken(reason) = fate {
            *refused.entry(*reason).or_insert(0) += 2;
        }
        // In one piece, and cut within the first head.
        for pieces in [
            vec![format!("{bytes}{NEXT}")],
            vec![bytes[..9].to_owned(), format!("{}{NEXT}", &bytes[9..])],
        ] {
            let mut caller = host.caller();
            for piece in pieces {
                caller.send(piece);
                std::thread::yield_now();
            }
            let answer = caller.rest();
            let answers = answer.matches("\r\ndate: ").count();
            match fate {
                Refused(status, _) => {
                    assert!(
                        answer.starts_with(&format!("HTTP/1.1 {status} ")),
                        "{what}: {answer}"
                    );
                    assert_eq!(answers, 1, "{what}: {answer}");
                    assert_eq!(
                        field(&answer, "content-type"),
                        Some("application/problem+json"),
                        "{what}: {answer}"
                    );
                    assert_eq!(field(&answer, "connection"), Some("close"), "{what}: {answer}");
                    assert_eq!(read(&server), "", "{what}");
                }
                Broken(_) => {
                    assert!(
                        !answer.contains("HTTP/1.1 200 ") && answers <= 1,
                        "{what}: {answer}"
                    );
                    crate::host::eventually("the place is free again", || function.admitted() == 0);
                    let read = read(&server);
                    assert!(
                        !read.contains("/next") && !read.contains("\r\n0\r\n\r\n"),
                        "{what}: {read}"
                    );
                }
                Read(expected) => {
                    assert_eq!(
                        (answers, answer.matches(" 200 OK").count()),
                        (2, 2),
                        "{what}: {answer}"
                    );
                    assert_eq!(read(&server), format!("{expected}{NEXT_READ}"), "{what}");
                }
            }
        }
    }
    let after = counts();
    for (reason, times) in refused {
        let of = |counts: &HashMap<String, u64>| counts.get(reason).copied().unwrap_or(0);
        assert!(
            of(&after) >= of(&before) + times,
            "{reason} is not counted each time"
        );
    }
}

/// A GET with this line, without the Host of a good one.
fn get(fields: &str) -> String {
    format!("GET /f/a HTTP/1.1\r\n{fields}\r\n")
}

/// A POST with these fields and this body.
fn post(fields: &str, body: &str) -> String {
    format!("POST /f/a HTTP/1.1\r\nHost: h\r\n{fields}\r\n{body}")
}

#[test]
#[rustfmt::skip]
fn lengths_and_encodings() {
    let chunked = "Transfer-Encoding: chunked\r\n";
    let length = |value: &str| post(&format!("Content-Length:{value}\r\n"), "abc");
    let encoding = |value: &str| post(&format!("Transfer-Encoding:{value}\r\n"), "3\r\nabc\r\n0\r\n\r\n");
    try_table(&[
        ("a length", length(" 3"), Read("POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc")),
        ("length with zeros", length(" 003"), Read("POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 003\r\n\r\nabc")),
        ("length, tab", length("\t3\t "), Read("POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc")),
        ("CL.TE", post(&format!("Content-Length: 6\r\n{chunked}"), "0\r\n\r\nG"), Refused(400, "length-and-encoding")),
        ("TE.CL", post(&format!("{chunked}Content-Length: 3\r\n"), "0\r\n\r\n"), Refused(400, "length-and-encoding")),
        ("CL.CL", post("Content-Length: 3\r\nContent-Length: 0\r\n", "abc"), Refused(400, "two-content-lengths")),
        ("CL.CL equal", post("Content-Length: 3\r\ncontent-length: 3\r\n", "abc"), Refused(400, "two-content-lengths")),
        ("a list", length(" 3, 3"), Refused(400, "content-length")),
        ("plus", length(" +3"), Refused(400, "content-length")),
        ("minus", length(" -3"), Refused(400, "content-length")),
        ("hex", length(" 0x3"), Refused(400, "content-length")),
        ("a fraction", length(" 3.0"), Refused(400, "content-length")),
        ("an exponent", length(" 3e0"), Refused(400, "content-length")),
        ("inner space", length(" 3 3"), Refused(400, "content-length")),
        ("quoted", length(" \"3\""), Refused(400, "content-length")),
        ("empty", length(""), Refused(400, "content-length")),
        ("2^63", length(" 9223372036854775808"), Refused(400, "content-length")),
        ("2^64 + 3", length(" 18446744073709551619"), Refused(400, "content-length")),
        ("no-break space", length("\u{a0}3"), Refused(400, "content-length")),
        ("an underscore for the dash", post("Content_Length: 3\r\n", ""), Read("POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n")),
        ("chunked", encoding(" chunked"), Read("POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")),
        ("cased, tab", encoding("\tChunKed "), Read("POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")),
        ("chunked twice", encoding(" chunked, chunked"), Refused(400, "transfer-encoding")),
        ("two lines", post(&format!("{chunked}{chunked}"), "0\r\n\r\n"), Refused(400, "transfer-encoding")),
        ("identity beside", post(&format!("{chunked}Transfer-Encoding: identity\r\n"), "0\r\n\r\n"), Refused(400, "transfer-encoding")),
        ("xchunked", encoding(" xchunked"), Refused(400, "transfer-encoding")),
        ("chunkedx", encoding(" chunkedx"), Refused(400, "transfer-encoding")),
        ("identity", encoding(" identity"), Refused(400, "transfer-encoding")),
        ("identity, chunked", encoding(" identity, chunked"), Refused(400, "transfer-encoding")),
        ("gzip, chunked", encoding(" gzip, chunked"), Refused(400, "transfer-encoding")),
        ("chunked, gzip", encoding(" chunked, gzip"), Refused(400, "transfer-encoding")),
        ("empty element", encoding(" chunked,"), Refused(400, "transfer-encoding")),
        ("a parameter", encoding(" chunked;q=1"), Refused(400, "transfer-encoding")),
        ("quoted encoding", encoding(" \"chunked\""), Refused(400, "transfer-encoding")),
        ("empty encoding", encoding(""), Refused(400, "transfer-encoding")),
        ("folded encoding", encoding("\r\n chunked"), Refused(400, "transfer-encoding")),
        ("vertical tab", encoding(" \x0bchunked"), Refused(400, "control-character")),
        ("form feed", encoding(" chunked\x0c"), Refused(400, "control-character")),
        ("space before the colon", post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"), Refused(400, "field-name")),
        ("tab before the colon", post("Transfer-Encoding\t: chunked\r\n", "0\r\n\r\n"), Refused(400, "field-name")),
        ("space before the name", post(" Transfer-Encoding: chunked\r\n", "0\r\n\r\n"), Refused(400, "folded-field")),
        ("in HTTP/1.0", "POST /f/a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), Refused(400, "transfer-encoding")),
        ("hidden by CR", post("X: y\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), Refused(400, "control-character")),
        ("hidden by LF", post("X: y\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), Refused(400, "bare-line-feed")),
        ("hidden by NUL", post("X: y\0\r\n", ""), Refused(400, "control-character")),
        ("a GET with a body", "GET /f/a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc".into(), Read("GET /a HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc")),
        ("named by Connection", post("Connection: content-length\r\nContent-Length: 3\r\n", "abc"), Read("POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc")),
    ]);
}

#[test]
#[rustfmt::skip]
fn chunks_and_trailers() {
    let chunks = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    let expected = "POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    try_table(&[
        ("an extension", chunks("3;a=\"b\"\r\nabc\r\n0;x\r\n\r\n"), Read(expected)),
        ("an extension behind spaces", chunks("3 \t;a\r\nabc\r\n0\r\n\r\n"), Read(expected)),
        ("leading zeros", chunks("0000003\r\nabc\r\n000\r\n\r\n"), Read(expected)),
        ("a trailer", chunks("3\r\nabc\r\n0\r\nX: 1\r\n\r\n"), Read(expected)),
        ("plus", chunks("+3\r\nabc\r\n0\r\n\r\n"), Broken("chunk")),
        ("minus", chunks("-3\r\nabc\r\n0\r\n\r\n"), Broken("chunk")),
        ("0x", chunks("0x3\r\nabc\r\n0\r\n\r\n"), Broken("chunk")),
        ("leading space", chunks(" 3\r\nabc\r\n0\r\n\r\n"), Broken("chunk")),
        ("trailing space", chunks("3 \r\nabc\r\n0\r\n\r\n"), Broken("chunk")),
        ("no size", chunks("\r\nabc\r\n0\r\n\r\n"), Broken("chunk")),
        ("no size, an extension", chunks(";a\r\nabc\r\n0\r\n\r\n"), Broken("chunk")),
        ("no hexadecimal", chunks("g\r\nabc\r\n0\r\n\r\n"), Broken("chunk")),
        ("2^64", chunks("10000000000000003\r\nabc\r\n0\r\n\r\n"), Broken("chunk")),
        ("2^64 - 1", chunks("ffffffffffffffff\r\nabc\r\n0\r\n\r\n"), Broken("chunk")),
        ("too long", chunks("3\r\nabcd\r\n0\r\n\r\n"), Broken("chunk")),
        ("too short", chunks("3\r\nab\r\n0\r\n\r\n"), Broken("chunk")),
        ("no end", chunks("3\r\nabc0\r\n\r\n"), Broken("chunk")),
        ("LF for the end", chunks("3\r\nabc\n0\r\n\r\n"), Broken("chunk")),
        ("LF behind the size", chunks("3\nabc\r\n0\r\n\r\n"), Broken("bare-line-feed")),
        ("LF in an extension", chunks("3;a\nabc\r\n0\r\n\r\n"), Broken("bare-line-feed")),
        ("CR in an extension", chunks("3;a\rb\r\nabc\r\n0\r\n\r\n"), Broken("control-character")),
        ("NUL in an extension", chunks("3;\0\r\nabc\r\n0\r\n\r\n"), Broken("control-character")),
        ("LF behind the last", chunks("3\r\nabc\r\n0\n\r\n"), Broken("bare-line-feed")),
        ("LF at the end", chunks("3\r\nabc\r\n0\r\n\n"), Broken("bare-line-feed")),
        ("no final line", chunks("3\r\nabc\r\n0\r\n"), Broken("field-name")),
        ("a length", chunks("3\r\nabc\r\n0\r\nContent-Length: 9\r\n\r\n"), Broken("trailer")),
        ("an encoding", chunks("3\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"), Broken("trailer")),
        ("a host", chunks("3\r\nabc\r\n0\r\nHOST: evil\r\n\r\n"), Broken("trailer")),
        ("a folded trailer", chunks("3\r\nabc\r\n0\r\nX: 1\r\n 2\r\n\r\n"), Broken("folded-field")),
        ("space before the colon", chunks("3\r\nabc\r\n0\r\nX : 1\r\n\r\n"), Broken("field-name")),
        ("no colon", chunks("3\r\nabc\r\n0\r\nX\r\n\r\n"), Broken("field-name")),
    ]);
}

#[test]
#[rustfmt::skip]
fn lines_and_fields() {
    let with = |line: &str| get(&format!("Host: h\r\n{line}"));
    try_table(&[
        ("a field", with("A: b\r\n"), Read("GET /a HTTP/1.1\r\nhost: h\r\na: b\r\n\r\n")),
        ("an empty value", with("A:\r\n"), Read("GET /a HTTP/1.1\r\nhost: h\r\na: \r\n\r\n")),
        ("spaces around", with("A: \t b \t\r\n"), Read("GET /a HTTP/1.1\r\nhost: h\r\na: b\r\n\r\n")),
        ("colons", with("A::b:\r\n"), Read("GET /a HTTP/1.1\r\nhost: h\r\na: :b:\r\n\r\n")),
        ("empty lines before", format!("\r\n\r\n{}", with("")), Read("GET /a HTTP/1.1\r\nhost: h\r\n\r\n")),
        ("LF before", format!("\n{}", with("")), Refused(400, "bare-line-feed")),
        ("LF behind the request line", "GET /f/a HTTP/1.1\nHost: h\r\n\r\n".into(), Refused(400, "bare-line-feed")),
        ("LF behind a field", "GET /f/a HTTP/1.1\r\nHost: h\n\r\n".into(), Refused(400, "bare-line-feed")),
        ("LF at the end", "GET /f/a HTTP/1.1\r\nHost: h\r\n\n".into(), Refused(400, "bare-line-feed")),
        ("LF LF", "GET /f/a HTTP/1.1\nHost: h\n\n".into(), Refused(400, "bare-line-feed")),
        ("CR alone", "GET /f/a HTTP/1.1\rHost: h\r\r\r\n\r\n".into(), Refused(400, "control-character")),
        ("CR in a value", with("A: b\rc\r\n"), Refused(400, "control-character")),
        ("CR CR LF", with("A: b\r\r\n"), Refused(400, "control-character")),
        ("NUL in a value", with("A: b\0\r\n"), Refused(400, "control-character")),
        ("NUL in a name", with("A\0: b\r\n"), Refused(400, "control-character")),
        ("escape in a value", with("A: \x1b[31m\r\n"), Refused(400, "control-character")),
        ("DEL in a value", with("A: \x7f\r\n"), Refused(400, "control-character")),
        ("folded", with("A: b\r\n c\r\n"), Refused(400, "folded-field")),
        ("folded by a tab", with("A: b\r\n\tc\r\n"), Refused(400, "folded-field")),
        ("folded first", get(" Host: h\r\n"), Refused(400, "folded-field")),
        ("space before the colon", with("A : b\r\n"), Refused(400, "field-name")),
        ("space in a name", with("A B: c\r\n"), Refused(400, "field-name")),
        ("a slash in a name", with("A/B: c\r\n"), Refused(400, "field-name")),
        ("beyond ASCII in a name", with("\u{e4}: c\r\n"), Refused(400, "field-name")),
        ("no name", with(": b\r\n"), Refused(400, "field-name")),
        ("no colon", with("rubbish\r\n"), Refused(400, "field-name")),
        ("a field of 64 KiB", with(&format!("A: {}\r\n", "b".repeat(64 << 10))), Refused(431, "large-head")),
        ("101 fields", with(&"A: b\r\n".repeat(100)), Refused(431, "many-fields")),
        ("no method", " /f/a HTTP/1.1\r\nHost: h\r\n\r\n".into(), Refused(400, "request-line")),
        ("a method that is no token", "G@T /f/a HTTP/1.1\r\nHost: h\r\n\r\n".into(), Refused(400, "request-line")),
        ("two spaces", "GET  /f/a HTTP/1.1\r\nHost: h\r\n\r\n".into(), Refused(400, "request-line")),
        ("a tab", "GET\t/f/a HTTP/1.1\r\nHost: h\r\n\r\n".into(), Refused(400, "request-line")),
        ("space at the end", "GET /f/a HTTP/1.1 \r\nHost: h\r\n\r\n".into(), Refused(400, "request-line")),
        ("a space in the target", "GET /f/a b HTTP/1.1\r\nHost: h\r\n\r\n".into(), Refused(400, "request-line")),
        ("HTTP/0.9", "GET /f/a\r\n\r\n".into(), Refused(400, "request-line")),
        ("HTTP/2.0", "GET /f/a HTTP/2.0\r\nHost: h\r\n\r\n".into(), Refused(400, "request-line")),
        ("HTTP/1.2", "GET /f/a HTTP/1.2\r\nHost: h\r\n\r\n".into(), Refused(400, "request-line")),
        ("HTTP/1.10", "GET /f/a HTTP/1.10\r\nHost: h\r\n\r\n".into(), Refused(400, "request-line")),
        ("http/1.1", "GET /f/a http/1.1\r\nHost: h\r\n\r\n".into(), Refused(400, "request-line")),
        ("TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\r\n\r\n".into(), Refused(400, "control-character")),
    ]);
}

#[test]
#[rustfmt::skip]
fn hosts() {
    let seen = "GET /a HTTP/1.1\r\nhost: h\r\n\r\n";
    let line = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\n{fields}\r\n");
    try_table(&[
        ("one", get("Host: h\r\n"), Read(seen)),
        ("none", get("A: b\r\n"), Refused(400, "no-host")),
        ("two", get("Host: h\r\nHost: evil\r\n"), Refused(400, "two-hosts")),
        ("two equal", get("Host: h\r\nhost: h\r\n"), Refused(400, "two-hosts")),
        ("empty", get("Host:\r\n"), Refused(400, "host")),
        ("a list", get("Host: h, evil\r\n"), Refused(400, "host")),
        ("a path", get("Host: h/x\r\n"), Refused(400, "host")),
        ("a user", get("Host: u@h\r\n"), Refused(400, "host")),
        ("a query", get("Host: h?x\r\n"), Refused(400, "host")),
        ("a fragment", get("Host: h#x\r\n"), Refused(400, "host")),
        ("a backslash", get("Host: h\\x\r\n"), Refused(400, "host")),
        ("beyond ASCII", get("Host: h\u{e4}\r\n"), Refused(400, "host")),
        ("quotes", get("Host: h\";proto=https\r\n"), Refused(400, "host")),
        ("absolute", line("http://h/f/a", "Host: h\r\n"), Read(seen)),
        ("absolute beats the field", line("http://h/f/a", "Host: evil\r\n"), Read(seen)),
        ("absolute without a field", line("http://h/f/a", ""), Read(seen)),
        ("absolute with a user", line("http://u:p@h/f/a", "Host: h\r\n"), Refused(400, "host")),
        ("absolute without a host", line("http:///f/a", "Host: h\r\n"), Refused(400, "target")),
        ("absolute, two hosts", line("http://h/f/a", "Host: h\r\nHost: evil\r\n"), Refused(400, "two-hosts")),
        ("authority", line("h:80", "Host: h\r\n"), Refused(400, "target")),
        ("a tunnel", "CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n".into(), Refused(405, "connect")),
        ("a tunnel by path", "CONNECT /f/a HTTP/1.1\r\nHost: h\r\n\r\n".into(), Refused(405, "connect")),
        ("asterisk", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n".into(), Refused(400, "target")),
        ("HTTP/1.0 without one", "GET /f/a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".into(), Read("GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n")),
    ]);
}

#[test]
#[rustfmt::skip]
fn targets() {
    let line = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
    try_table(&[
        ("a query", line("/f?a=/../b"), Read("GET /?a=/../b HTTP/1.1\r\nhost: h\r\n\r\n")),
        // Nothing is decoded and no dot segment resolved: the function's path is what the caller wrote.
        ("dot segments", line("/f/../g"), Read("GET /../g HTTP/1.1\r\nhost: h\r\n\r\n")),
        ("encoded dots", line("/f/%2e%2e/%2E/a"), Read("GET /%2e%2e/%2E/a HTTP/1.1\r\nhost: h\r\n\r\n")),
        ("an encoded slash", line("/f/%2f..%2f"), Read("GET /%2f..%2f HTTP/1.1\r\nhost: h\r\n\r\n")),
        ("an encoded NUL", line("/f/%00"), Read("GET /%00 HTTP/1.1\r\nhost: h\r\n\r\n")),
        ("encoded CR LF", line("/f/%0d%0aX:%20y"), Read("GET /%0d%0aX:%20y HTTP/1.1\r\nhost: h\r\n\r\n")),
        ("two slashes", line("/f//evil"), Read("GET //evil HTTP/1.1\r\nhost: h\r\n\r\n")),
        ("a parameter", line("/f/a;b=c/d"), Read("GET /a;b=c/d HTTP/1.1\r\nhost: h\r\n\r\n")),
        ("a backslash", line("/f/..\\g"), Read("GET /..\\g HTTP/1.1\r\nhost: h\r\n\r\n")),
        ("a fragment", line("/f/a#b"), Refused(400, "target")),
        ("quotes", line("/f/\"a\""), Read("GET /\"a\" HTTP/1.1\r\nhost: h\r\n\r\n")),
        ("no slash", line("f/a"), Refused(400, "target")),
        ("a question mark first", line("?a"), Refused(400, "target")),
        ("NUL", line("/f/a\0"), Refused(400, "control-character")),
        ("beyond ASCII", line("/f/\u{e4}"), Read("GET /\u{e4} HTTP/1.1\r\nhost: h\r\n\r\n")),
    ]);
    // These find no function, whatever they would mean decoded.
    let mut host = Host::new();
    let (_, server) = host.serve("f", manifest(), hello);
    for target in [
        "//f/a",
        "/./f/a",
        "/x/../f/a",
        "/%66/a",
        "/f;x/a",
        "/F/a",
        "/f%2fa",
        "/%2ff/a",
        "/",
    ] {
        let answer = host.raw(format!(
            "GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        ));
        assert!(answer.starts_with("HTTP/1.1 404 "), "{target}: {answer}");
    }
    assert_eq!(read(&server), "");
}

#[test]
fn connection_names_what_ends_here_but_not_what_would_hurt() {
    let mut host = Host::new();
    let (_, server) = host.serve("f", manifest(), hello);
    let ask = |fields: &str| {
        let answer = host.raw(format!(
            "GET /f/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{fields}\r\n"
        ));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{fields}: {answer}");
        String::from_utf8(server.take_bytes()).unwrap()
    };
    let plain = ask("");
    let names = |head: &str| -> Vec<String> {
        let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let mut names: Vec<_> = lines.map(|(name, _)| name.to_owned()).collect();
        names.sort();
        names
    };
    // What funcd says cannot be taken away by naming it.
    for named in [
        "host",
        "x-forwarded-for, x-request-id",
        "forwarded",
        "X-Forwarded-Prefix",
        "traceparent",
        "close, te, host",
    ] {
        let head = ask(&format!("Connection: {named}\r\n"));
        assert_eq!(names(&head), names(&plain), "{named}");
        assert_eq!(field(&head, "x-forwarded-for"), Some("127.0.0.1"), "{named}");
        assert_eq!(field(&head, "host"), Some("h"), "{named}");
    }
    for kept in ["Authorization: a", "Cookie: a=b", "Content-Type: a/b"] {
        let (name, value) = kept.split_once(": ").unwrap();
        assert_eq!(
            field(&ask(&format!("Connection: {name}\r\n{kept}\r\n")), name),
            Some(value)
        );
    }
    for named in ["x-secret", "X-SECRET", "close,x-secret", " , x-secret ,"] {
        let head = ask(&format!("Connection: {named}\r\nX-Secret: 1\r\nX-Other: 2\r\n"));
        assert_eq!(
            (field(&head, "x-secret"), field(&head, "x-other")),
            (None, Some("2")),
            "{named}"
        );
    }
}

#[test]
fn what_stands_behind_an_upgrade_waits_for_its_answer() {
    let mut host = Host::new();
    let (_, server) = host.serve("f", manifest(), |conn, head| {
        if !head.contains("/ws") {
            return hello(conn, head);
        }
        conn.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
        let mut bytes = [0; 9];
        std::io::Read::read_exact(&mut conn.stream, &mut bytes).unwrap();
        conn.send(bytes);
        false
    });
    let upgrade =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    // Refused: what follows is HTTP, and is looked at as such.
    let answer = host.raw(format!("{}{NEXT}", upgrade("/f/a")));
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "{answer}");
    let answer = host.raw(format!(
        "{}GET /f/smuggled HTTP/1.1\nHost: h\r\n\r\n",
        upgrade("/f/a")
    ));
    assert_eq!(
        (
            answer.matches(" 200 OK").count(),
            answer.matches(" 400 Bad").count()
        ),
        (1, 1),
        "{answer}"
    );
    assert!(!server.seen().iter().any(|head| head.contains("smuggled")));
    // Taken: what follows is the function's, whatever it is, also when it was sent ahead.
    let answer = host.raw(format!("{}\0\n\r\n\0GET\n", upgrade("/f/ws")));
    assert!(
        answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\0\n\r\n\0GET\n"),
        "{answer:?}"
    );
}

#[test]
fn a_request_sent_behind_a_declined_upgrade_is_read_without_another_byte() {
    let mut host = Host::new();
    let (_, server) = host.serve("f", manifest(), hello);
    let mut caller = host.caller();
    for round in 0..50 {
        caller.send(format!(
            "GET /f/a HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n\
             GET /f/b{round} HTTP/1.1\r\nHost: h\r\n\r\n"
        ));
        for _ in 0..2 {
            let (head, body, _) = caller.response().unwrap();
            assert!(
                head.starts_with("HTTP/1.1 200 ") && body == b"hello",
                "{round}: {head}"
            );
        }
    }
    assert_eq!(server.seen().len(), 100);
}

#[test]
fn chunk_extensions_and_trailers_pass_whole_or_are_refused_by_name() {
    let mut host = Host::new();
    host.serve("f", manifest(), hello);
    let post = |rest: &str| {
        host.raw(format!(
            "POST /f HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{rest}"
        ))
    };
    let chunk = format!("1;{}\r\nx\r\n", "e".repeat(1023));
    let trailer = |bytes: usize| format!("0\r\nT: {}\r\n\r\n", "t".repeat(bytes - 7));
    for good in [
        format!("{}0\r\n\r\n", chunk.repeat(16)),
        trailer(bounds().head_bytes - 1),
    ] {
        let answer = post(&good);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    for (bad, slug) in [
        (format!("{}0\r\n\r\n", chunk.repeat(17)), "chunk-extensions"),
        (trailer(bounds().head_bytes), "large-head"),
    ] {
        let ended = || metric("funcd_connections_ended_total", &format!("reason=\"{slug}\""));
        let before = ended();
        let answer = post(&bad);
        assert_problem(&answer, 400, "bad-request", "http_request_error");
        assert!(answer.contains("framing of the request body"), "{answer}");
        assert!(ended() > before, "{slug}");
    }
}

#[test]
fn who_speaks_tls_is_told_at_the_first_byte() {
    let host = Host::new();
    // A ClientHello need not have a line feed, and its sender waits.
    let answer = host.raw(b"\x16\x03\x01\x00\xf0\x01\x00\x00\xec\x03\x03");
    assert_problem(&answer, 400, "bad-request", "http_request_error");
}

#[test]
fn trailers_claim_nothing() {
    let mut host = Host::new();
    let (_, server) = host.serve("f", manifest(), |conn, head| {
        let end = "0\r\nX-Sum: 2\r\nConnection: x-sum\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";
        hello_with(
            conn,
            head,
            &format!(
                "Trailer: x-sum, connection, x-forwarded-for\r\nTransfer-Encoding: chunked\r\n\r\n{end}"
            ),
        )
    });
    let mut caller = host.caller();
    caller.send(
        "POST /f HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
         Trailer: x-sum, x-forwarded-for, forwarded, x-real-ip, x_forwarded_for, keep-alive, proxy-authorization\r\n\r\n\
         0\r\nX-Sum: 1\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n\
         X_Forwarded_For: 6.6.6.6\r\nKeep-Alive: 6.6.6.6\r\nProxy-Authorization: 6.6.6.6\r\n\r\n",
    );
    let (_, _, trailers) = caller.response().unwrap();
    assert_eq!(trailers, "x-sum: 2\r\n\r\n");
    let read = read(&server);
    assert!(read.ends_with("\r\n\r\n0\r\nx-sum: 1\r\n\r\n"), "{read}");
}

/// Answers with this behind the status line, the request's body read.
fn hello_with(conn: &mut crate::host::Conn, head: &str, rest: &str) -> bool {
    conn.body(head).is_some() && conn.send(format!("HTTP/1.1 200 OK\r\n{rest}"))
}

/// The control of all above: what hyper alone, without the inspector before it, takes for good requests.
#[test]
fn hyper_alone_would_take_some_of_these() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service =
                    hyper::service::service_fn(async |request: http::Request<hyper::body::Incoming>| {
                        let _ = http_body_util::BodyExt::collect(request.into_body()).await;
                        Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
                    });
                let io = hyper_util::rt::TokioIo::new(stream);
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(io, service)
                    .await;
            }
        });
    });
    let chunked = "Transfer-Encoding: chunked\r\n";
    for (what, bytes) in [
        (
            "CL.TE",
            post(&format!("Content-Length: 6\r\n{chunked}"), "0\r\n\r\n"),
        ),
        (
            "CL.CL equal",
            post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
        ),
        (
            "gzip, chunked",
            post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        ),
        ("two encodings", post(&format!("{chunked}{chunked}"), "0\r\n\r\n")),
        ("LF behind a field", "GET /f/a HTTP/1.1\r\nHost: h\n\r\n".into()),
        ("two hosts", get("Host: h\r\nHost: evil\r\n")),
        ("a fragment", "GET /f/a#b HTTP/1.1\r\nHost: h\r\n\r\n".into()),
    ] {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(crate::host::PATIENCE)).unwrap();
        std::io::Write::write_all(&mut stream, bytes.as_bytes()).unwrap();
        let mut answer = [0; 15];
        std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK", "{what}");
    }
}
