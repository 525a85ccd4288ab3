//! A request as environment variables, for programs that are started for it: those of CGI, of OpenFaaS's watchdogs and of
//! IronFunctions, all together. A program reads the ones it knows. Pure.

use std::collections::BTreeSet;

use funcd_sandbox::variables::Block;
use http::HeaderMap;
use http::header::{self, HeaderName};
use http::request::Parts;

/// The variables of a request to `function`, whose body is so long if that is known. What the manifest sets itself stays as
/// it is. `None`: they are more than [`funcd_sandbox::variables::MAX_BYTES`].
pub fn of(function: &str, parts: &Parts, length: Option<u64>, own: &[(String, String)]) -> Option<Vec<u8>> {
    let mut variables = Variables {
        block: Block::default(),
        own: own.iter().map(|(name, _)| name.as_bytes()).collect(),
    };
    let text = |name: &HeaderName| parts.headers.get(name).map_or(&b""[..], |value| value.as_bytes());
    let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or(""));
    let method = parts.method.as_str();
    let host = text(&header::HOST);
    let (name, port) = split_port(host);
    let scheme = match text(&FORWARDED_PROTO) {
        b"https" => "https",
        _ => "http",
    };
    let port = match (port, scheme) {
        (b"", "https") => b"443",
        (b"", _) => &b"80"[..],
        (port, _) => port,
    };
    let prefix = text(&FORWARDED_PREFIX);
    let whole = [prefix, path.as_bytes()].concat();
    let target = match query {
        "" => whole.clone(),
        query => [&whole, &b"?"[..], query.as_bytes()].concat(),
    };
    // Whoever connected last: the entries before it are what that said.
    let peer = text(&FORWARDED_FOR)
        .rsplit(|b| *b == b',')
        .next()
        .unwrap_or(b"")
        .trim_ascii();
    let content_type = text(&header::CONTENT_TYPE);
    let length = length.map(|length| length.to_string());

    // RFC 3875, 4.1.
    variables.set("GATEWAY_INTERFACE", "CGI/1.1");
    variables.set("REQUEST_METHOD", method);
    variables.set("SCRIPT_NAME", prefix);
    variables.set("PATH_INFO", percent_decoded(path));
    variables.set("QUERY_STRING", query);
    variables.set("REQUEST_URI", &target);
    variables.set("REQUEST_SCHEME", scheme);
    variables.set("SERVER_NAME", name);
    variables.set("SERVER_PORT", port);
    variables.set("SERVER_PROTOCOL", "HTTP/1.1");
    variables.set("SERVER_SOFTWARE", concat!("funcd/", env!("CARGO_PKG_VERSION")));
    variables.set("REMOTE_ADDR", peer);
    if !content_type.is_empty() {
        variables.set("CONTENT_TYPE", content_type);
    }
    if let Some(length) = &length {
        variables.set("CONTENT_LENGTH", length);
    }
    // OpenFaaS's watchdogs.
    variables.set("Http_Method", method);
    variables.set("Http_Query", query);
    variables.set("Http_Path", path);
    variables.set("Http_Host", host);
    match &length {
        Some(length) => {
            variables.set("Http_ContentLength", length);
            variables.set("Http_Content_Length", length);
        }
        None => variables.set("Http_Transfer_Encoding", "chunked"),
    }
    // IronFunctions.
    variables.set("METHOD", method);
    variables.set("ROUTE", format!("/{function}"));
    variables.set("REQUEST_URL", [scheme.as_bytes(), b"://", host, &target].concat());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        variables.set(
            format!("PARAM_{}", underscored(name)),
            percent_decoded(&value.replace('+', " ")),
        );
    }
    headers(&mut variables, &parts.headers);
    variables.block.finish()
}

fn headers(variables: &mut Variables<'_>, headers: &HeaderMap) {
    for name in headers.keys() {
        // How this connection goes on is nobody's business behind it.
        if [header::CONNECTION, header::TRANSFER_ENCODING, header::TE].contains(name) {
            continue;
        }
        // Two names must not become one: `X_Forwarded_For` would pass for what a proxy says.
        if !name
            .as_str()
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        {
            continue;
        }
        let values: Vec<&[u8]> = headers
            .get_all(name)
            .iter()
            .map(|value| value.as_bytes())
            .collect();
        let (first, all) = (
            values[0],
            values.join(match *name == header::COOKIE {
                true => &b"; "[..],
                false => b", ",
            }),
        );
        let own = [header::CONTENT_TYPE, header::CONTENT_LENGTH].contains(name);
        let name = underscored(name.as_str());
        if !own {
            // RFC 3875, 4.1.18: those two have variables of their own.
            variables.set(format!("HTTP_{}", name.to_ascii_uppercase()), &all);
        }
        variables.set(format!("Http_{}", capitalized(&name)), first);
        variables.set(format!("HEADER_{}", name.to_ascii_uppercase()), &all);
    }
}

struct Variables<'a> {
    block: Block,
    /// Names that the manifest sets.
    own: BTreeSet<&'a [u8]>,
}

impl Variables<'_> {
    fn set(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        if !self.own.contains(name.as_ref()) {
            self.block.set(name.as_ref(), value.as_ref());
        }
    }
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// A host and what stands behind its colon; an IPv6 address has colons within its brackets.
fn split_port(host: &[u8]) -> (&[u8], &[u8]) {
    let colon = host
        .iter()
        .rposition(|b| *b == b':')
        .filter(|at| !host[*at..].contains(&b']'));
    colon.map_or((host, b""), |at| (&host[..at], &host[at + 1..]))
}

fn underscored(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    name.chars().map(plain).collect()
}

/// `x-request-id` as Go's servers write it: `X_Request_Id`.
fn capitalized(name: &str) -> String {
    let mut first = true;
    let letter = |c: char| {
        let upper = std::mem::replace(&mut first, c == '_');
        if upper {
            c.to_ascii_uppercase()
        } else {
            c.to_ascii_lowercase()
        }
    };
    name.chars().map(letter).collect()
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        match (byte, digit(ahead.next()), digit(ahead.next())) {
            (b'%', Some(high), Some(low)) => {
                bytes = ahead;
                decoded.push((high * 16 + low) as u8);
            }
            _ => decoded.push(byte),
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn variables(request: http::request::Builder, length: Option<u64>) -> Vec<String> {
        let parts = request.body(()).unwrap().into_parts().0;
        let block = of(
            "thumbs",
            &parts,
            length,
            &[("HTTP_X_OWN".to_owned(), String::new())],
        )
        .unwrap();
        let text = String::from_utf8(block).unwrap();
        text.split_terminator('\0').map(str::to_owned).collect()
    }

    #[test]
    fn each_family_of_names_is_there() {
        let request = Request::post("/a%20b/c?q=x%21y&n&q=2")
            .header("host", "example.com:8080")
            .header("content-type", "text/plain")
            .header("x-forwarded-for", "9.9.9.9, 10.0.0.7")
            .header("x-forwarded-prefix", "/thumbs")
            .header("x-two", "1")
            .header("x-two", "2")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("x-own", "never")
            .header("x_two", "evil")
            .header("x.two", "evil")
            .header("proxy", "http://evil")
            .header("connection", "close");
        let found = variables(request, Some(7));
        for expected in [
            "GATEWAY_INTERFACE=CGI/1.1",
            "REQUEST_METHOD=POST",
            "SCRIPT_NAME=/thumbs",
            "PATH_INFO=/a b/c",
            "QUERY_STRING=q=x%21y&n&q=2",
            "REQUEST_URI=/thumbs/a%20b/c?q=x%21y&n&q=2",
            "SERVER_NAME=example.com",
            "SERVER_PORT=8080",
            "REMOTE_ADDR=10.0.0.7",
            "CONTENT_TYPE=text/plain",
            "CONTENT_LENGTH=7",
            "HTTP_X_TWO=1, 2",
            "HTTP_COOKIE=a=1; b=2",
            "Http_Method=POST",
            "Http_Query=q=x%21y&n&q=2",
            "Http_Path=/a%20b/c",
            "Http_ContentLength=7",
            "Http_X_Two=1",
            "Http_Content_Type=text/plain",
            "METHOD=POST",
            "ROUTE=/thumbs",
            "REQUEST_URL=http://example.com:8080/thumbs/a%20b/c?q=x%21y&n&q=2",
            "PARAM_q=x!y",
            "PARAM_n=",
            "HEADER_X_TWO=1, 2",
        ] {
            assert!(
                found.iter().any(|variable| variable == expected),
                "{expected}: {found:#?}"
            );
        }
        let has = |start: &str| found.iter().any(|variable| variable.starts_with(start));
        assert!(!has("HTTP_PROXY") && !has("Http_Proxy"), "httpoxy: {found:#?}");
        assert!(
            !has("HTTP_X_OWN") && has("Http_X_Own"),
            "the manifest has the last word: {found:#?}"
        );
        assert!(!has("HTTP_CONTENT_TYPE") && !has("HTTP_CONNECTION"), "{found:#?}");
    }

    #[test]
    fn a_length_that_nobody_knows_is_not_said() {
        let found = variables(Request::post("/").header("host", "[::1]:80"), None);
        assert!(found.contains(&"Http_Transfer_Encoding=chunked".to_owned()));
        assert!(found.contains(&"SERVER_NAME=[::1]".to_owned()), "{found:#?}");
        assert!(
            !found
                .iter()
                .any(|variable| variable.starts_with("CONTENT_LENGTH"))
        );
    }

    #[test]
    fn more_than_fits_is_not_cut() {
        let parts = Request::get("/")
            .header("x", "y".repeat(20_000))
            .body(())
            .unwrap()
            .into_parts()
            .0;
        assert!(of("f", &parts, None, &[]).is_none());
    }
}
