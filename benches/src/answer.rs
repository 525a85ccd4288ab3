//! Where an HTTP/1.1 answer ends. Pure: bytes in, length out.

/// A complete answer at the start of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// Its bytes, head and body.
    pub(crate) length: usize,
    /// The server closes the connection after it.
    pub(crate) closes: bool,
}

/// What a buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// The whole answer.
    Complete(Answer),
    /// More bytes are needed.
    Partial,
    /// This is no answer that ends: no length and no chunks, or no HTTP.
    Malformed,
}

/// Looks for the end of the answer that begins at the start of `bytes`.
pub(crate) fn parse(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(_) => return Parsed::Malformed,
    };
    let value = |name: &str| {
        let header = response
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok()
    };
    let length = match (value("content-length"), value("transfer-encoding")) {
        (Some(length), None) => length.trim().parse().ok().map(|body: usize| head + body),
        (None, Some(coding)) if coding.eq_ignore_ascii_case("chunked") => match chunks(&bytes[head..]) {
            Ok(Some(body)) => Some(head + body),
            Ok(None) => return Parsed::Partial,
            Err(httparse::InvalidChunkSize) => None,
        },
        _ => None,
    };
    match (response.code, length) {
        (Some(_), Some(length)) if length > bytes.len() => Parsed::Partial,
        (Some(status), Some(length)) => Parsed::Complete(Answer {
            status,
            length,
            closes: value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
        }),
        _ => Parsed::Malformed,
    }
}

/// The length of a chunked body without trailers; `None` when it is not complete.
fn chunks(body: &[u8]) -> Result<Option<usize>, httparse::InvalidChunkSize> {
    let mut at = 0;
    loop {
        let Some(rest) = body.get(at..) else {
            return Ok(None);
        };
        let httparse::Status::Complete((line, size)) = httparse::parse_chunk_size(rest)? else {
            return Ok(None);
        };
        let size = usize::try_from(size).map_err(|_| httparse::InvalidChunkSize)?;
        at += line + size + 2;
        if size == 0 {
            return Ok((at <= body.len()).then_some(at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(bytes: &[u8]) -> Answer {
        match parse(bytes) {
            Parsed::Complete(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_length_ends_the_answer_wherever_the_bytes_were_cut() {
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), Parsed::Partial, "cut at {cut}");
        }
        let expected = Answer {
            status: 200,
            length: whole.len(),
            closes: false,
        };
        assert_eq!(complete(whole), expected);
    }

    #[test]
    fn chunks_end_with_an_empty_one_wherever_the_bytes_were_cut() {
        let whole = b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n";
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]), Parsed::Partial, "cut at {cut}");
        }
        assert_eq!(
            (complete(whole).status, complete(whole).length),
            (503, whole.len())
        );
    }

    #[test]
    fn what_follows_is_not_counted() {
        let two = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 500 No\r\n";
        assert_eq!(complete(two).length, 38);
    }

    #[test]
    fn a_server_that_closes_says_so() {
        assert!(complete(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n").closes);
    }

    #[test]
    fn an_answer_without_an_end_is_malformed() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\n"), Parsed::Malformed);
        assert_eq!(parse(b"SSH-2.0-x\r\n\r\n"), Parsed::Malformed);
        assert_eq!(
            parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
            Parsed::Malformed
        );
    }
}
