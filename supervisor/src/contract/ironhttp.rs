//! `ironhttp`: IronFunctions' `http` format. Requests come on stdin and answers go to stdout, one after the other, and both
//! stay open: so each says how long it is. Pure.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response};
use http_body::Body;

/// Adds what the host says to each of them. False: the request can't be told, as nobody knows how long it is.
pub fn call<B: Body>(function: &str, request: &mut Request<B>) -> bool {
    let Some(length) = request.body().size_hint().exact() else {
        return false;
    };
    let text = |value: &str| HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""));
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let url = text(&format!(
        "http://{}{}",
        host.unwrap_or("localhost"),
        request.uri()
    ));
    let (method, route) = (text(request.method().as_str()), text(&format!("/{function}")));
    let id = request.headers().get("x-request-id").cloned();
    let headers = request.headers_mut();
    headers.insert("task-id", id.unwrap_or(HeaderValue::from_static("0")));
    headers.insert("method", method);
    headers.insert("route", route);
    headers.insert("request_url", url);
    headers.remove(header::TRANSFER_ENCODING);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    true
}

/// Whether an answer says where it ends: else it never would.
pub fn has_an_end<B>(response: &Response<B>) -> bool {
    let headers: &HeaderMap = response.headers();
    let empty = response.status() == http::StatusCode::NO_CONTENT
        || response.status() == http::StatusCode::NOT_MODIFIED;
    empty || headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING)
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    #[test]
    fn a_request_says_its_length_and_whose_it_is() {
        let mut request = Request::post("/a?b")
            .header("host", "h")
            .header("x-request-id", "id")
            .body(Full::new(&b"1234"[..]))
            .unwrap();
        assert!(call("tea", &mut request));
        for (name, value) in [
            ("content-length", "4"),
            ("task-id", "id"),
            ("method", "POST"),
            ("route", "/tea"),
            ("request_url", "http://h/a?b"),
        ] {
            assert_eq!(request.headers()[name], value, "{name}");
        }
        assert!(!has_an_end(&Response::new(())));
        assert!(has_an_end(
            &Response::builder()
                .header("content-length", "0")
                .body(())
                .unwrap()
        ));
    }
}
