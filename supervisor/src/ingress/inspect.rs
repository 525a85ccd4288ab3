//! Follows an HTTP/1 request stream as strictly as RFC 9112 is written, before hyper's parser sees it. Pure.
//!
//! hyper accepts what a proxy in front of funcd might read differently: bare line feeds, a `Content-Length` beside a
//! `Transfer-Encoding`, equal lengths twice. funcd frames requests anew for the function, so nothing is smuggled past
//! *it*; but where two readers can disagree, the answer is 400. A head passes as a whole or not at all, and whatever
//! passes hyper can read: so every refusal is one of funcd's own, with a reason that is told and counted. It never
//! changes a byte, and holds at most one line.

use http::Uri;

use super::flaw::Flaw;

/// The longest line of a chunk's size, and the most bytes of extensions in one body; hyper's own bound.
const EXTENSIONS: usize = 16 * 1024;
/// The most fields of a head, and of a trailer; hyper's own bound.
const FIELDS: u32 = 100;
/// The longest target that a `Uri` can hold.
const TARGET_LIMIT: usize = (u16::MAX - 1) as usize;

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
    /// Behind a request that asked for another protocol: what follows is unknown until it is answered.
    Undecided,
    /// After a flaw in a head, or in a body.
    Flawed {
        head: bool,
    },
}

/// What became of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fed {
    /// So many were looked at: all, or those up to where it can't be told what follows.
    pub(super) looked_at: usize,
    /// So many may pass on, with all that was held before; 0: the head that they belong to is not complete.
    pub(super) passed: usize,
}

/// The framing of one connection's requests.
#[derive(Debug)]
pub(super) struct Inspector {
    at: At,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    head_bytes: usize,
    /// Bytes and fields of the current head or trailer.
    bytes: usize,
    fields: u32,
    /// Bytes of chunk extensions in the current body.
    extensions: usize,
    length: Option<u64>,
    chunked: bool,
    host: bool,
    http10: bool,
    upgrade: bool,
    heads: u32,
    /// How many of the bytes being looked at may pass.
    passed: usize,
}

impl Inspector {
    /// At the start of a connection. A head may have `head_bytes`.
    pub(super) fn new(head_bytes: usize) -> Inspector {
        Inspector {
            at: At::RequestLine,
            line: Vec::new(),
            head_bytes,
            bytes: 0,
            fields: 0,
            extensions: 0,
            length: None,
            chunked: false,
            host: false,
            http10: false,
            upgrade: false,
            heads: 0,
            passed: 0,
        }
    }

    /// Complete heads seen, all of them flawless.
    pub(super) fn heads(&self) -> u32 {
        self.heads
    }

    /// Bytes of memory for the line that has begun.
    pub(super) fn holds(&self) -> usize {
        self.line.capacity()
    }

    /// What follows depends on the answer to the last head, which asked for another protocol.
    pub(super) fn is_undecided(&self) -> bool {
        self.at == At::Undecided
    }

    /// The protocol stays: the next head follows.
    pub(super) fn decide(&mut self) {
        if self.is_undecided() {
            self.at = At::RequestLine;
        }
    }

    /// A flaw was found; whether it is in a head, so that no part of that request has passed.
    pub(super) fn flawed_head(&self) -> Option<bool> {
        match self.at {
            At::Flawed { head } => Some(head),
            _ => None,
        }
    }

    /// Takes the next bytes: how many of them may pass, and the flaw behind those, if there is one. After the first
    /// flaw nothing is looked at any more.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> (Fed, Option<Flaw>) {
        self.passed = 0;
        let followed = self.follow(bytes);
        let fed = Fed {
            looked_at: *followed.as_ref().unwrap_or(&bytes.len()),
            passed: self.passed,
        };
        if followed.is_err() && !matches!(self.at, At::Flawed { .. }) {
            let head = matches!(self.at, At::RequestLine | At::Field);
            self.at = At::Flawed { head };
        }
        (fed, followed.err())
    }

    /// Says how many bytes it looked at.
    fn follow(&mut self, all: &[u8]) -> Result<usize, Flaw> {
        let mut bytes = all;
        while !bytes.is_empty() {
            match self.at {
                At::Flawed { .. } => return Ok(all.len()),
                At::Undecided => break,
                At::Body(left) => {
                    let taken = left.min(bytes.len() as u64);
                    self.at = match left - taken {
                        0 => self.next(),
                        left => At::Body(left),
                    };
                    bytes = &bytes[taken as usize..];
                }
                At::Chunk(left) => {
                    let taken = left.min(bytes.len() as u64);
                    check_chunk_end(&bytes[..taken as usize], left)?;
                    self.at = match left - taken {
                        0 => At::ChunkSize,
                        left => At::Chunk(left),
                    };
                    bytes = &bytes[taken as usize..];
                }
                At::RequestLine | At::Field | At::ChunkSize | At::Trailer => {
                    self.begins(bytes[0])?;
                    let Some(end) = memchr::memchr(b'\n', bytes) else {
                        self.keep(bytes)?;
                        bytes = &[];
                        break;
                    };
                    let (line, rest) = bytes.split_at(end + 1);
                    if self.line.is_empty() {
                        self.count(line.len())?;
                        self.line(line)?;
                    } else {
                        self.keep(line)?;
                        let whole = std::mem::take(&mut self.line);
                        self.line(&whole)?;
                    }
                    bytes = rest;
                }
            }
            if !matches!(self.at, At::RequestLine | At::Field) || self.is_between() {
                self.passed = all.len() - bytes.len();
            }
        }
        if !matches!(self.at, At::RequestLine | At::Field) {
            self.passed = all.len() - bytes.len();
        }
        Ok(all.len() - bytes.len())
    }

    /// Nothing of the next head has come.
    fn is_between(&self) -> bool {
        self.at == At::RequestLine && self.bytes == 0
    }

    /// What follows a request.
    fn next(&mut self) -> At {
        self.bytes = 0;
        match self.upgrade {
            true => At::Undecided,
            false => At::RequestLine,
        }
    }

    /// What can't begin a request is told at once: another protocol, TLS above all, waits for an answer and may never
    /// send a line feed.
    fn begins(&self, first: u8) -> Result<(), Flaw> {
        match first {
            b'\r' | b'\n' => Ok(()),
            _ if self.at != At::RequestLine || !self.line.is_empty() || is_class(first, TOKEN) => Ok(()),
            _ if has_control(&[first]) => Err(Flaw::ControlCharacter),
            _ => Err(Flaw::RequestLine),
        }
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), Flaw> {
        self.count(part.len())?;
        self.line.extend_from_slice(part);
        Ok(())
    }

    /// Bounds heads, trailers and lines.
    fn count(&mut self, more: usize) -> Result<(), Flaw> {
        self.bytes += more;
        match self.at {
            At::ChunkSize if self.line.len() + more > EXTENSIONS => Err(Flaw::Extensions),
            At::ChunkSize => Ok(()),
            // One less than hyper takes in a head: of a trailer it takes no more.
            At::Trailer if self.bytes >= self.head_bytes => Err(Flaw::LargeHead),
            _ if self.bytes > self.head_bytes => Err(Flaw::LargeHead),
            _ => Ok(()),
        }
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Flaw> {
        let line = line.strip_suffix(b"\r\n").ok_or(Flaw::BareLineFeed)?;
        if has_control(line) {
            return Err(Flaw::ControlCharacter);
        }
        match self.at {
            // Empty lines before a request line are ignored (RFC 9112, 2.2).
            At::RequestLine if line.is_empty() => {}
            At::RequestLine => {
                self.request_line(line)?;
                (self.length, self.chunked, self.host) = (None, false, false);
                (self.upgrade, self.fields, self.extensions) = (false, 0, 0);
                self.at = At::Field;
            }
            At::Field if line.is_empty() => {
                self.at = match (self.chunked, self.length) {
                    (true, Some(_)) => return Err(Flaw::LengthAndEncoding),
                    (true, None) => At::ChunkSize,
                    (false, None | Some(0)) => self.next(),
                    (false, Some(length)) => At::Body(length),
                };
                // Only now: a head that was refused above is none of the good ones.
                self.heads = self.heads.wrapping_add(1);
            }
            At::Field => self.field(line)?,
            At::ChunkSize => self.chunk_size(line)?,
            At::Trailer if line.is_empty() => self.at = self.next(),
            At::Trailer => {
                let name = self.field_name(line)?;
                if FRAMING
                    .iter()
                    .any(|forbidden| name.eq_ignore_ascii_case(forbidden))
                {
                    return Err(Flaw::Trailer);
                }
            }
            At::Body(_) | At::Chunk(_) | At::Undecided | At::Flawed { .. } => {
                unreachable!("these have no lines")
            }
        }
        Ok(())
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), Flaw> {
        let method = line.iter().position(|byte| !is_class(*byte, TOKEN));
        let (line, version) = line.split_at(line.len().saturating_sub(b" HTTP/1.1".len()));
        self.http10 = version == b" HTTP/1.0";
        let method = match method {
            Some(end @ 1..) if line.get(end) == Some(&b' ') => end,
            _ => return Err(Flaw::RequestLine),
        };
        if !(self.http10 || version == b" HTTP/1.1") {
            return Err(Flaw::RequestLine);
        }
        let target = line.get(method + 1..).filter(|target| !target.is_empty());
        let target = target.ok_or(Flaw::RequestLine)?;
        if target.contains(&b' ') {
            return Err(Flaw::RequestLine);
        }
        if target.len() > TARGET_LIMIT {
            return Err(Flaw::LongTarget);
        }
        // Nearly every target is a path of nothing but these; of the others the type that will hold it decides.
        let plain = |byte: &u8| is_class(*byte, PATH);
        if target[0] != b'/' || !target.iter().all(plain) {
            let good = !target.contains(&b'#') && !target.contains(&b'\t') && Uri::try_from(target).is_ok();
            return if good { Ok(()) } else { Err(Flaw::Target) };
        }
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Flaw> {
        let name = self.field_name(line)?;
        let value = || line[name.len() + 1..].trim_ascii();
        // By length first: nearly every field is none of these.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                let seen = std::mem::replace(&mut self.host, true);
                return if seen { Err(Flaw::TwoHosts) } else { Ok(()) };
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = !self.http10,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return Err(Flaw::TwoContentLengths);
                }
                self.length = Some(decimal(value()).ok_or(Flaw::ContentLength)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked || self.http10 || !value().eq_ignore_ascii_case(b"chunked") {
                    return Err(Flaw::TransferEncoding);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn field_name<'a>(&mut self, line: &'a [u8]) -> Result<&'a [u8], Flaw> {
        if matches!(line[0], b' ' | b'\t') {
            return Err(Flaw::FoldedField);
        }
        self.fields += 1;
        if self.fields > FIELDS {
            return Err(Flaw::ManyFields);
        }
        let end = line.iter().position(|byte| !is_class(*byte, TOKEN));
        match end {
            Some(colon @ 1..) if line[colon] == b':' => Ok(&line[..colon]),
            _ => Err(Flaw::FieldName),
        }
    }

    fn chunk_size(&mut self, line: &[u8]) -> Result<(), Flaw> {
        let digits = line
            .iter()
            .position(|byte| !byte.is_ascii_hexdigit())
            .unwrap_or(line.len());
        let rest = &line[digits..];
        // White space stands only before an extension (RFC 9112, 7.1.1).
        let good = rest.is_empty() || rest.trim_ascii_start().first() == Some(&b';');
        if digits == 0 || digits > 15 || !good {
            return Err(Flaw::Chunk);
        }
        self.extensions += rest.len();
        if self.extensions > EXTENSIONS {
            return Err(Flaw::Extensions);
        }
        let size = line[..digits].iter().fold(0, |size, digit| {
            size << 4 | u64::from((*digit as char).to_digit(16).expect("looked at above"))
        });
        (self.bytes, self.fields) = (0, 0);
        self.at = match size {
            0 => At::Trailer,
            size => At::Chunk(size + 2),
        };
        Ok(())
    }
}

/// What a trailer may not say (RFC 9110, 6.5.1): a reader that merged it into the head would frame or route by it.
const FRAMING: [&[u8]; 8] = [
    b"connection",
    b"content-length",
    b"expect",
    b"host",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
];

/// May stand in a field's name or a method (`tchar` of RFC 9110, 5.6.2).
const TOKEN: u8 = 1;
/// May stand in a path or a query (RFC 3986, 3.3 and 3.4).
const PATH: u8 = 2;

/// What each byte may be.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let at = byte as u8;
        if at.is_ascii_alphanumeric() {
            classes[byte] |= TOKEN | PATH;
        }
        byte += 1;
    }
    let (mut at, token, path) = (0, b"!#$%&'*+-.^_`|~", b"-._~%!$&'()*+,;=:@/?");
    while at < token.len() {
        classes[token[at] as usize] |= TOKEN;
        at += 1;
    }
    at = 0;
    while at < path.len() {
        classes[path[at] as usize] |= PATH;
        at += 1;
    }
    classes
};

fn is_class(byte: u8, class: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// A control character but the tab. Looks at every byte, so that the compiler can look at many at once.
fn has_control(line: &[u8]) -> bool {
    let control = |byte: u8| (byte < b' ') & (byte != b'\t') | (byte == 0x7f);
    line.iter().fold(false, |found, byte| found | control(*byte))
}

/// One or more digits that fit a signed number too, without sign or list (RFC 9110, 8.6).
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (length <= i64::MAX as u64).then_some(length)
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
#[path = "inspect_tests.rs"]
mod tests;
