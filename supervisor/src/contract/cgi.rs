//! `cgi`: what a process writes begins with headers, and the rest is the body (RFC 3875, 6). Local redirects are answered as
//! redirects: the caller follows them.

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body::Body;
use memchr::memmem;

use super::process::{Output, Process, Trouble};
use super::stdio;

/// The most that headers may take.
const MOST: usize = 64 * 1024;
/// And how many of them.
const MOST_FIELDS: usize = 128;

/// The answer of a process to a request whose body was of this type.
///
/// # Errors
/// [`Trouble`].
pub async fn answer<B: Body<Data = Bytes> + Unpin>(
    mut process: Process<B>,
) -> Result<Response<Output<B>>, Trouble> {
    let mut all = BytesMut::new();
    let (length, rest) = loop {
        if let Some(found) = end_of_head(&all) {
            break found;
        }
        if all.len() > MOST {
            return Err(malformed(format!(
                "its headers are longer than {MOST} bytes: a blank line has to end them before its body"
            )));
        }
        let Some(piece) = process.output().await? else {
            let exit = process.end().await?;
            stdio::executed(&exit)?;
            return Err(malformed(format!(
                "no blank line ends its headers, and it {}: `funcd logs` may show why",
                how(&exit)
            )));
        };
        all.extend_from_slice(&piece);
    };
    let (status, headers) = parse(&all[..length])?;
    let body = all.freeze().split_off(rest);
    let mut response = Response::new(Output::stream(body, process));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

fn how(exit: &funcd_sandbox::exit::Exit) -> String {
    exit.to_string()
}

fn malformed(what: impl Into<String>) -> Trouble {
    Trouble::Malformed(what.into())
}

/// Where the header lines end and the body begins. Lines end in LF or CR LF.
fn end_of_head(bytes: &[u8]) -> Option<(usize, usize)> {
    if let Some(first) = [&b"\n"[..], b"\r\n"]
        .into_iter()
        .find(|first| bytes.starts_with(first))
    {
        return Some((0, first.len()));
    }
    let ends = [&b"\n\n"[..], b"\n\r\n"].into_iter();
    let found = ends.filter_map(|end| memmem::find(bytes, end).map(|at| (at, at + end.len())));
    found.min()
}

/// The status and the headers for the caller.
fn parse(head: &[u8]) -> Result<(StatusCode, HeaderMap), Trouble> {
    let (mut status, mut headers) = (None, HeaderMap::new());
    for line in head.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let shown = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
        let colon = line.iter().position(|b| *b == b':');
        let colon = colon.ok_or_else(|| {
            malformed(format!(
                "{shown:?} is no header: it begins with headers, then a blank line"
            ))
        })?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let bad = || malformed(format!("{shown:?} is no header"));
        if name.eq_ignore_ascii_case(b"status") {
            let code = value.split(|b| *b == b' ').next().unwrap_or_default();
            let code = StatusCode::from_bytes(code).map_err(|_| bad())?;
            // 1xx have no body and no end.
            if status.replace(code).is_some() || code.is_informational() {
                return Err(bad());
            }
            continue;
        }
        let name = HeaderName::from_bytes(name).map_err(|_| bad())?;
        let value = HeaderValue::from_bytes(value).map_err(|_| bad())?;
        if headers.len() >= MOST_FIELDS {
            return Err(malformed(format!("it has more than {MOST_FIELDS} headers")));
        }
        headers.append(name, value);
    }
    // How long it is, is seen where it ends: a program that says something else would confuse who reads on.
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::TRANSFER_ENCODING);
    let moved = headers.contains_key(header::LOCATION);
    let status = status.unwrap_or(if moved { StatusCode::FOUND } else { StatusCode::OK });
    if headers.is_empty() && status == StatusCode::OK {
        return Err(malformed(
            "it has no header at all: Content-Type, Location or Status",
        ));
    }
    Ok((status, headers))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<(u16, Vec<String>, String), Trouble> {
        let bytes = text.as_bytes();
        let (length, rest) = end_of_head(bytes).expect("the head is complete");
        let (status, headers) = parse(&bytes[..length])?;
        let headers = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        Ok((status.as_u16(), headers, text[rest..].to_owned()))
    }

    #[test]
    fn status_location_and_line_ends() {
        let all = |headers: &[&str]| {
            headers
                .iter()
                .map(|header| (*header).to_owned())
                .collect::<Vec<_>>()
        };
        let cases = [
            (
                "Content-Type: text/plain\n\nhello",
                200,
                all(&["content-type: text/plain"]),
                "hello",
            ),
            (
                "Content-Type:text/plain\r\n\r\n\n\nx",
                200,
                all(&["content-type: text/plain"]),
                "\n\nx",
            ),
            (
                "Status: 404 Not Here\nX: 1\nX: 2\n\n",
                404,
                all(&["x: 1", "x: 2"]),
                "",
            ),
            ("Location: /there\n\n", 302, all(&["location: /there"]), ""),
            (
                "status: 301\r\nlocation: http://x/\r\n\r\n",
                301,
                all(&["location: http://x/"]),
                "",
            ),
            ("Status: 204\n\n", 204, vec![], ""),
            ("Content-Length: 3\nA: b\n\nlonger", 200, all(&["a: b"]), "longer"),
        ];
        for (text, status, headers, body) in cases {
            assert_eq!(read(text), Ok((status, headers, body.to_owned())), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_head_says_what_is_wrong() {
        let long = format!("{}\n\n", "A: b\n".repeat(MOST_FIELDS + 1).trim_end());
        for (text, why) in [
            ("hello\n\n", "is no header"),
            ("\n", "is no header"),
            ("Status: 99\n\n", "is no header"),
            ("Status: 101\n\n", "is no header"),
            ("Status: 200\nStatus: 200\n\n", "is no header"),
            ("Bad Name: x\n\n", "is no header"),
            ("X: a\x01b\n\n", "is no header"),
            ("Content-Length: 3\n\n", "no header at all"),
            (long.as_str(), "more than"),
        ] {
            let Err(Trouble::Malformed(said)) = read(text) else {
                panic!("{text:?} was taken");
            };
            assert!(said.contains(why), "{text:?}: {said}");
        }
        assert_eq!(end_of_head(b"A: b\n"), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some((length, rest)) = end_of_head(&bytes) {
                prop_assert!(length <= rest && rest <= bytes.len());
                let _ = parse(&bytes[..length]);
            }
        }
    }
}
