//! What the inspector makes of byte streams, however they are cut.

use proptest::prelude::*;

use super::*;

/// Heads seen, or the flaw, when the stream comes in pieces of this size.
fn inspect(stream: &[u8], piece: usize) -> Result<u32, Flaw> {
    let mut inspector = Inspector::new(1024);
    for bytes in stream.chunks(piece) {
        if let (_, Some(flaw)) = inspector.feed(bytes) {
            return Err(flaw);
        }
    }
    Ok(inspector.heads())
}

#[test]
fn streams() {
    let table: &[(&str, Result<u32, Flaw>)] = &[
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(1)),
        (
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            Ok(2),
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n\n\0:GET / HTTP/1.1\r\n\r\n",
            Ok(2),
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;a=b\r\n\n\0:\r\n0\r\nT: 1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            Ok(2),
        ),
        // Told at the first byte: no line feed need ever come.
        ("\x16\x03\x01\x02", Err(Flaw::ControlCharacter)),
        ("\x16\x03\n\r\n", Err(Flaw::ControlCharacter)),
        (" GET / HTTP/1.1\r\n", Err(Flaw::RequestLine)),
        ("\r\n(", Err(Flaw::RequestLine)),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", Err(Flaw::BareLineFeed)),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", Err(Flaw::BareLineFeed)),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", Err(Flaw::BareLineFeed)),
        ("GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", Err(Flaw::ControlCharacter)),
        ("GET / HTTP/1.1\r\nA: b\0c\r\n\r\n", Err(Flaw::ControlCharacter)),
        ("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", Err(Flaw::FoldedField)),
        (
            "GET / HTTP/1.1\r\nContent-Length : 3\r\n\r\n",
            Err(Flaw::FieldName),
        ),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", Err(Flaw::FieldName)),
        ("GET / HTTP/1.1\r\n: b\r\n\r\n", Err(Flaw::FieldName)),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHOST: a\r\n\r\n",
            Err(Flaw::TwoHosts),
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\n",
            Err(Flaw::ContentLength),
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\n",
            Err(Flaw::ContentLength),
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: \r\n\r\n",
            Err(Flaw::ContentLength),
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n",
            Err(Flaw::ContentLength),
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
            Err(Flaw::TwoContentLengths),
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            Err(Flaw::LengthAndEncoding),
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
            Err(Flaw::LengthAndEncoding),
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            Err(Flaw::TransferEncoding),
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            Err(Flaw::TransferEncoding),
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
            Err(Flaw::ControlCharacter),
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
            Err(Flaw::Chunk),
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\n",
            Err(Flaw::Chunk),
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
            Err(Flaw::Chunk),
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            Err(Flaw::Chunk),
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n",
            Err(Flaw::BareLineFeed),
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n",
            Err(Flaw::Chunk),
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\n\n",
            Err(Flaw::Chunk),
        ),
    ];
    for (stream, expected) in table {
        for piece in [1, 2, 3, 7, stream.len()] {
            assert_eq!(
                inspect(stream.as_bytes(), piece),
                *expected,
                "{stream:?} by {piece}"
            );
        }
    }
    let long = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(1024));
    assert_eq!(inspect(long.as_bytes(), 100), Err(Flaw::LargeHead));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A:\r\n".repeat(101));
    assert_eq!(inspect(many.as_bytes(), 100), Err(Flaw::ManyFields));
    assert_eq!(inspect("\r\n".repeat(513).as_bytes(), 100), Err(Flaw::LargeHead));
    let extension = format!(
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;{}",
        "x".repeat(EXTENSIONS)
    );
    assert_eq!(inspect(extension.as_bytes(), 100), Err(Flaw::Extensions));
}

#[test]
fn heads() {
    let good = |head: &str| assert_eq!(inspect(head.as_bytes(), 3), Ok(1), "{head:?}");
    let bad = |head: &str, flaw| assert_eq!(inspect(head.as_bytes(), 3), Err(flaw), "{head:?}");
    for target in [
        "/",
        "/a?b=c",
        "*",
        "http://h/",
        "h:80",
        "/caf\u{e9}",
        "/a|b",
        "/a[0]",
        "/%00",
    ] {
        good(&format!("GET {target} HTTP/1.1\r\n\r\n"));
    }
    for target in [
        "/a#b",
        "http://h/#b",
        "/a\tb",
        "a/b",
        "?a",
        "#",
        "http:///a",
        "/\"<",
    ] {
        bad(&format!("GET {target} HTTP/1.1\r\n\r\n"), Flaw::Target);
    }
    for line in [
        "GET / HTTP/1.2",
        "GET / HTTP/2.0",
        "GET / http/1.1",
        "GET / HTTP/1.1 ",
        "GET /",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        " GET / HTTP/1.1",
        "GET HTTP/1.1",
        "GET  HTTP/1.1",
        "GET / a HTTP/1.1",
        "G\u{e9}T / HTTP/1.1",
        "G(T / HTTP/1.1",
        " HTTP/1.1",
        "HTTP/1.1",
        "x",
    ] {
        bad(&format!("{line}\r\n\r\n"), Flaw::RequestLine);
    }
    for name in ["A\u{e9}", "A(", "A B", "A\t", "\"A\"", "A/", "A@"] {
        bad(&format!("GET / HTTP/1.1\r\n{name}: b\r\n\r\n"), Flaw::FieldName);
    }
    for byte in (0..0x20).chain([0x7f]).filter(|byte| !b"\t\r\n".contains(byte)) {
        let byte = char::from(byte);
        bad(
            &format!("GET / HTTP/1.1\r\nA: b{byte}\r\n\r\n"),
            Flaw::ControlCharacter,
        );
    }
    bad(
        "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        Flaw::TransferEncoding,
    );
    bad(
        "GET / HTTP/1.1\r\nContent-Length: 9223372036854775808\r\n\r\n",
        Flaw::ContentLength,
    );
    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    good(&format!("{chunked}0003 ; a=\"b\"\r\nabc\r\n0\r\nX: 1\r\n\r\n"));
    bad(&format!("{chunked}3 \r\nabc\r\n0\r\n\r\n"), Flaw::Chunk);
    bad(&format!("{chunked}0\r\nContent-Length: 5\r\n\r\n"), Flaw::Trailer);
    bad(&format!("{chunked}0\r\nhost: b\r\n\r\n"), Flaw::Trailer);
}

/// How many bytes may pass, and the flaw that ended it.
fn passed(pieces: &[&str]) -> (Vec<usize>, Option<Flaw>) {
    let mut inspector = Inspector::new(1024);
    let mut flaw = None;
    let passed = pieces.iter().map(|piece| {
        let (fed, found) = inspector.feed(piece.as_bytes());
        flaw = flaw.or(found);
        fed.passed
    });
    (passed.collect(), flaw)
}

#[test]
fn a_head_passes_as_a_whole_and_a_body_as_it_comes() {
    let post = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(
        passed(&["GET / HTT", "P/1.1\r\n\r", "\nGET"]),
        (vec![0, 0, 1], None)
    );
    assert_eq!(passed(&[post, "a", "bcGET"]), (vec![post.len(), 1, 2], None));
    assert_eq!(
        passed(&[&format!("{post}abcGET /\nHost: a\r\n"), "GET"]),
        (vec![post.len() + 3, 0], Some(Flaw::BareLineFeed))
    );
    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(
        passed(&[chunked, "1\r", "\na\r\nx\r\n"]),
        (vec![chunked.len(), 2, 4], Some(Flaw::Chunk))
    );
}

#[test]
fn extensions_and_trailers_pass_as_far_as_hyper_reads_them() {
    let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("1;{}\r\nx\r\n", "e".repeat(1023));
    let most = format!("{head}{}0\r\n\r\n", chunk.repeat(16));
    assert_eq!(inspect(most.as_bytes(), 100), Ok(1));
    let more = format!("{head}{}0;\r\n\r\n", chunk.repeat(16));
    assert_eq!(inspect(more.as_bytes(), 100), Err(Flaw::Extensions));
    // Of each body anew.
    assert_eq!(inspect(most.repeat(2).as_bytes(), 100), Ok(2));

    let trailer = |bytes: usize| format!("{head}0\r\nT: {}\r\n\r\n", "t".repeat(bytes - 7));
    assert_eq!(inspect(trailer(1023).as_bytes(), 100), Ok(1));
    assert_eq!(inspect(trailer(1024).as_bytes(), 100), Err(Flaw::LargeHead));
}

#[test]
fn behind_an_upgrade_nothing_is_looked_at_until_it_is_answered() {
    let ask = b"GET / HTTP/1.1\r\nUpgrade: x\r\nContent-Length: 1\r\n\r\n1";
    let mut inspector = Inspector::new(1024);
    let (fed, flaw) = inspector.feed(&[&ask[..], b"\0\n\0"].concat());
    assert_eq!((fed.looked_at, fed.passed, flaw), (ask.len(), ask.len(), None));
    assert!(inspector.is_undecided());
    let blind = Fed {
        looked_at: 0,
        passed: 0,
    };
    assert_eq!(inspector.feed(b"\0\n\0"), (blind, None));
    inspector.decide();
    assert_eq!(inspector.feed(b"\0\n\0").1, Some(Flaw::ControlCharacter));
    assert_eq!(inspector.flawed_head(), Some(true));
}

proptest! {
    #[test]
    fn never_panics_and_pieces_don_t_matter(stream in proptest::collection::vec(any::<u8>(), 0..200), piece in 1_usize..50) {
        let whole = inspect(&stream, stream.len().max(1));
        prop_assert_eq!(inspect(&stream, piece), whole);
    }

    #[test]
    fn bodies_of_any_bytes_are_skipped_exactly(body in proptest::collection::vec(any::<u8>(), 1..100), piece in 1_usize..50) {
        let mut stream = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        stream.extend(&body);
        stream.extend(format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len()).bytes());
        stream.extend(&body);
        stream.extend(b"\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n");
        prop_assert_eq!(inspect(&stream, piece), Ok(3));
    }
}

#[test]
fn flaws_by_number() {
    for flaw in Flaw::ALL {
        assert_eq!(Flaw::of(flaw as u8), Some(flaw));
    }
    assert_eq!((Flaw::of(0), Flaw::of(18)), (None, None));
}
