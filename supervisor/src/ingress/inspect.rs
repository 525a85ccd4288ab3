//! Follows the framing of an HTTP/1 request stream as strictly as RFC 9112 is written, beside hyper's parser. Pure.
//!
//! hyper accepts what a proxy in front of funcd might read differently: bare line feeds, a `Content-Length` beside a
//! `Transfer-Encoding`, equal lengths twice. funcd frames requests anew for the function, so nothing is smuggled past
//! *it*; but where two readers can disagree, the answer is 400. The inspector sees each byte before hyper does, so a
//! flaw is known when the request's head is. It never changes a byte, and holds at most one line.

/// The longest line outside a head: a chunk's size with its extensions, a trailer field.
const LINE_LIMIT: usize = 16 * 1024;

/// What is wrong with a request's framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Flaw {
    /// A line feed without its carriage return.
    BareLineFeed = 1,
    /// A carriage return or NUL within a line.
    ControlCharacter,
    /// A field line that begins with white space.
    FoldedField,
    /// No colon, an empty name, or white space before the colon.
    FieldName,
    /// Not one or more digits.
    ContentLength,
    /// More than one length.
    TwoContentLengths,
    /// Anything but one `chunked`.
    TransferEncoding,
    /// A length beside a transfer encoding.
    LengthAndEncoding,
    /// More than one host.
    TwoHosts,
    /// A chunk's size or end.
    Chunk,
    /// A line that never ends.
    LongLine,
}

impl Flaw {
    const ALL: [Flaw; 11] = [
        Flaw::BareLineFeed,
        Flaw::ControlCharacter,
        Flaw::FoldedField,
        Flaw::FieldName,
        Flaw::ContentLength,
        Flaw::TwoContentLengths,
        Flaw::TransferEncoding,
        Flaw::LengthAndEncoding,
        Flaw::TwoHosts,
        Flaw::Chunk,
        Flaw::LongLine,
    ];

    /// The flaw of this number.
    pub(super) fn of(number: u8) -> Option<Flaw> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// For the caller.
    pub(super) fn explain(self) -> &'static str {
        match self {
            Flaw::BareLineFeed => "a line ends in LF without CR",
            Flaw::ControlCharacter => "a CR or NUL stands within a line",
            Flaw::FoldedField => "a field line begins with white space",
            Flaw::FieldName => "a field name is empty, has no colon, or has white space before it",
            Flaw::ContentLength => "Content-Length is not a decimal number",
            Flaw::TwoContentLengths => "Content-Length is given more than once",
            Flaw::TransferEncoding => "Transfer-Encoding is not exactly one `chunked`",
            Flaw::LengthAndEncoding => "Content-Length and Transfer-Encoding are both given",
            Flaw::TwoHosts => "Host is given more than once",
            Flaw::Chunk => "a chunk's size or end is malformed",
            Flaw::LongLine => "a line is too long",
        }
    }
}

/// Where in the stream we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before a request line.
    RequestLine,
    /// Within a head.
    Field,
    /// This many bytes of a body are left.
    Body(u64),
    ChunkSize,
    /// This many bytes of a chunk and its line end are left.
    Chunk(u64),
    Trailer,
    /// After a flaw, or after an upgrade.
    Blind,
}

/// The framing of one connection's requests.
#[derive(Debug)]
pub(super) struct Inspector {
    at: At,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    line_limit: usize,
    length: Option<u64>,
    chunked: bool,
    host: bool,
    heads: u32,
}

impl Inspector {
    /// At the start of a connection. A head's line may have `head_bytes`.
    pub(super) fn new(head_bytes: usize) -> Inspector {
        Inspector {
            at: At::RequestLine,
            line: Vec::new(),
            line_limit: head_bytes.max(LINE_LIMIT),
            length: None,
            chunked: false,
            host: false,
            heads: 0,
        }
    }

    /// Complete heads seen, all of them flawless.
    pub(super) fn heads(&self) -> u32 {
        self.heads
    }

    /// Takes the next bytes. After the first flaw it looks at nothing any more.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), Flaw> {
        let result = self.follow(bytes);
        if result.is_err() {
            self.at = At::Blind;
        }
        result
    }

    fn follow(&mut self, mut bytes: &[u8]) -> Result<(), Flaw> {
        while !bytes.is_empty() {
            match self.at {
                At::Blind => return Ok(()),
                At::Body(left) => {
                    let taken = left.min(bytes.len() as u64);
                    self.at = if taken == left {
                        At::RequestLine
                    } else {
                        At::Body(left - taken)
                    };
                    bytes = &bytes[taken as usize..];
                }
                At::Chunk(left) => {
                    let taken = left.min(bytes.len() as u64);
                    check_chunk_end(&bytes[..taken as usize], left)?;
                    self.at = if taken == left {
                        At::ChunkSize
                    } else {
                        At::Chunk(left - taken)
                    };
                    bytes = &bytes[taken as usize..];
                }
                At::RequestLine | At::Field | At::ChunkSize | At::Trailer => {
                    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                        return self.keep(bytes);
                    };
                    let (line, rest) = bytes.split_at(end + 1);
                    if self.line.is_empty() {
                        self.line(line)?;
                    } else {
                        self.keep(line)?;
                        let whole = std::mem::take(&mut self.line);
                        self.line(&whole)?;
                    }
                    bytes = rest;
                }
            }
        }
        Ok(())
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), Flaw> {
        if self.line.len() + part.len() > self.line_limit {
            return Err(Flaw::LongLine);
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Flaw> {
        let line = line.strip_suffix(b"\r\n").ok_or(Flaw::BareLineFeed)?;
        if line.iter().any(|byte| matches!(byte, b'\r' | 0)) {
            return Err(Flaw::ControlCharacter);
        }
        match self.at {
            // Empty lines before a request line are ignored (RFC 9112, 2.2).
            At::RequestLine if line.is_empty() => {}
            At::RequestLine => {
                (self.length, self.chunked, self.host) = (None, false, false);
                self.at = At::Field;
            }
            At::Field if line.is_empty() => {
                self.at = match (self.chunked, self.length) {
                    (true, Some(_)) => return Err(Flaw::LengthAndEncoding),
                    (true, None) => At::ChunkSize,
                    (false, None | Some(0)) => At::RequestLine,
                    (false, Some(length)) => At::Body(length),
                };
                // Only now: a head that was refused above is none of the good ones.
                self.heads = self.heads.wrapping_add(1);
            }
            At::Field => self.field(line)?,
            At::ChunkSize => {
                let digits = line
                    .iter()
                    .position(|byte| !byte.is_ascii_hexdigit())
                    .unwrap_or(line.len());
                let rest = line[digits..].trim_ascii_start();
                if digits == 0 || digits > 15 || !(rest.is_empty() || rest[0] == b';') {
                    return Err(Flaw::Chunk);
                }
                let size = line[..digits].iter().fold(0, |size, digit| {
                    size << 4 | u64::from((*digit as char).to_digit(16).expect("looked at above"))
                });
                self.at = if size == 0 {
                    At::Trailer
                } else {
                    At::Chunk(size + 2)
                };
            }
            At::Trailer if line.is_empty() => self.at = At::RequestLine,
            At::Trailer => {
                field_name(line)?;
            }
            At::Body(_) | At::Chunk(_) | At::Blind => unreachable!("these have no lines"),
        }
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Flaw> {
        let name = field_name(line)?;
        let value = || line[name.len() + 1..].trim_ascii();
        // By length first: nearly every field is none of these.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                let seen = std::mem::replace(&mut self.host, true);
                return if seen { Err(Flaw::TwoHosts) } else { Ok(()) };
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return Err(Flaw::TwoContentLengths);
                }
                self.length = Some(decimal(value()).ok_or(Flaw::ContentLength)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked || !value().eq_ignore_ascii_case(b"chunked") {
                    return Err(Flaw::TransferEncoding);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }
}

fn field_name(line: &[u8]) -> Result<&[u8], Flaw> {
    if matches!(line[0], b' ' | b'\t') {
        return Err(Flaw::FoldedField);
    }
    let colon = line
        .iter()
        .position(|byte| *byte == b':')
        .ok_or(Flaw::FieldName)?;
    match line[..colon].last() {
        None | Some(b' ' | b'\t') => Err(Flaw::FieldName),
        Some(_) => Ok(&line[..colon]),
    }
}

/// One or more digits that fit, without sign or list (RFC 9110, 8.6).
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The last two of the `left` bytes of a chunk must be its line end.
fn check_chunk_end(bytes: &[u8], left: u64) -> Result<(), Flaw> {
    for (place, byte) in [(left - 1, b'\n'), (left.wrapping_sub(2), b'\r')] {
        if let Some(found) = usize::try_from(place).ok().and_then(|place| bytes.get(place))
            && *found != byte
        {
            return Err(Flaw::Chunk);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Heads seen, or the flaw, when the stream comes in pieces of this size.
    fn inspect(stream: &[u8], piece: usize) -> Result<u32, Flaw> {
        let mut inspector = Inspector::new(1024);
        stream.chunks(piece).try_for_each(|bytes| inspector.feed(bytes))?;
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
                Err(Flaw::TransferEncoding),
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
        let long = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(LINE_LIMIT));
        assert_eq!(inspect(long.as_bytes(), 100), Err(Flaw::LongLine));
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
        assert_eq!((Flaw::of(0), Flaw::of(12)), (None, None));
    }
}
