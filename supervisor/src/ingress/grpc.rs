//! gRPC over HTTP/2, as far as a proxy has to know: which requests are calls of it, and how an answer of funcd's own is said to its
//! callers, who look at no HTTP status. Never looks into a message.

use std::fmt::Write;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Its media type; `application/grpc+proto` and such are, too. That of gRPC-Web is another.
const MEDIA_TYPE: &str = "application/grpc";
/// What came of a call, as a number.
pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// The same for people, percent-encoded.
pub(super) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// When to try again, in milliseconds: what clients that retry by themselves keep to (gRFC A6).
pub(super) const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// What came of a call (`grpc/status.h`): those that funcd says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

impl Status {
    /// As a field has it.
    pub(super) fn value(self) -> HeaderValue {
        HeaderValue::from(self as u16)
    }
}

/// Whether a request is a call of gRPC.
pub(super) fn is_call(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE);
    let rest = media_type
        .and_then(|media_type| media_type.as_bytes().split_at_checked(MEDIA_TYPE.len()))
        .filter(|(begin, _)| begin.eq_ignore_ascii_case(MEDIA_TYPE.as_bytes()))
        .map(|(_, rest)| rest);
    matches!(rest, Some([] | [b'+' | b';' | b' ', ..]))
}

/// A `grpc-message`: what is not visible ASCII, and `%`, is percent-encoded ("Responses" of gRPC over HTTP/2).
pub(super) fn message(text: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'$' | b'&'..=b'~' => encoded.push(char::from(byte)),
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    HeaderValue::try_from(encoded).expect("visible ASCII is a valid value")
}

/// What ends a call whose answer has begun and will not go on.
pub(super) fn ended_early() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(GRPC_STATUS, Status::Unavailable.value());
    let said = HeaderValue::from_static("the function's response ended early");
    trailers.insert(GRPC_MESSAGE, said);
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_known_by_their_media_type() {
        for (media_type, expected) in [
            ("application/grpc", true),
            ("Application/gRPC+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grpcx", false),
            ("application/json", false),
            ("application/grp", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
            assert_eq!(is_call(&headers), expected, "{media_type}");
        }
        assert!(!is_call(&HeaderMap::new()));
    }

    #[test]
    fn messages_are_encoded() {
        assert_eq!(message("plain, with (marks)!"), "plain, with (marks)!");
        assert_eq!(message("100 %\né"), "100 %25%0A%C3%A9");
    }
}
