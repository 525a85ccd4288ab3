//! `fn`: functions of Fn's FDKs. They bind a Unix socket that `FN_LISTENER` names and are sent each call as an HTTP request
//! of its own; the caller's request and the user's answer travel in its headers. Pure, and never opens anything.

use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};

/// Before a header of the caller's request or of the user's answer.
const PREFIX: &str = "fn-http-h-";
const STATUS: HeaderName = HeaderName::from_static("fn-http-status");

/// What became of a call that has no answer for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The function failed; it can be called again.
    Failed,
    /// The FDK gave up at the deadline; it can be called again.
    TooLate,
    /// Neither: the instance is not to be trusted any more.
    Broken(StatusCode),
    /// The user's status or headers make no HTTP.
    Malformed,
}

/// Makes a call of a caller's request. `left` is how much time the function has.
pub fn call<B>(request: &mut Request<B>, left: Duration) {
    let headers = std::mem::take(request.headers_mut());
    let text = |value: &str| HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""));
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or("localhost");
    let url = text(&format!("http://{host}{}", request.uri()));
    let method = text(request.method().as_str());
    let mut call = HeaderMap::with_capacity(headers.len() + 6);
    let id = headers.get("x-request-id").cloned();
    call.insert("fn-call-id", id.unwrap_or(HeaderValue::from_static("0")));
    call.insert("fn-deadline", text(&rfc3339(SystemTime::now() + left)));
    call.insert("fn-intent", HeaderValue::from_static("httprequest"));
    call.insert("fn-http-method", method);
    call.insert("fn-http-request-url", url);
    call.insert(header::HOST, HeaderValue::from_static("localhost"));
    for (name, value) in &headers {
        match *name {
            // The body's own, and how it is framed.
            header::CONTENT_TYPE
            | header::CONTENT_LENGTH
            | header::TRANSFER_ENCODING
            | header::CONNECTION => {
                call.append(name, value.clone());
            }
            _ => {
                if let Ok(name) = HeaderName::try_from(format!("{PREFIX}{name}")) {
                    call.append(name, value.clone());
                }
            }
        }
    }
    *request.headers_mut() = call;
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static("/call");
}

/// The user's answer out of the FDK's.
///
/// # Errors
/// [`Trouble`].
pub fn answer<B>(response: Response<B>) -> Result<Response<B>, Trouble> {
    match response.status() {
        StatusCode::OK => {}
        StatusCode::BAD_GATEWAY => return Err(Trouble::Failed),
        StatusCode::GATEWAY_TIMEOUT => return Err(Trouble::TooLate),
        other => return Err(Trouble::Broken(other)),
    }
    let (mut parts, body) = response.into_parts();
    let said = std::mem::take(&mut parts.headers);
    parts.status = match said.get(STATUS) {
        None => StatusCode::OK,
        Some(status) => StatusCode::from_bytes(status.as_bytes()).map_err(|_| Trouble::Malformed)?,
    };
    if parts.status.is_informational() {
        return Err(Trouble::Malformed);
    }
    for (name, value) in &said {
        let own = name.as_str().strip_prefix(PREFIX);
        let name = match own {
            Some(own) => HeaderName::try_from(own).map_err(|_| Trouble::Malformed)?,
            None if [header::CONTENT_TYPE, header::CONTENT_LENGTH].contains(name) => name.clone(),
            None => continue,
        };
        // How the body is framed is said once, by the FDK.
        let framing = [
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::CONNECTION,
            header::UPGRADE,
        ];
        if own.is_none() || !framing.contains(&name) {
            match name {
                header::CONTENT_TYPE => drop(parts.headers.insert(name, value.clone())),
                name => drop(parts.headers.append(name, value.clone())),
            }
        }
    }
    Ok(Response::from_parts(parts, body))
}

fn rfc3339(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at)
        .map(|at| format!("{at:.3}"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_becomes_a_call() {
        let mut request = Request::put("/a?b=c")
            .header("host", "example.com")
            .header("content-type", "text/plain")
            .header("content-length", "4")
            .header("x-request-id", "abc")
            .header("x-two", "1")
            .header("x-two", "2")
            .body("body")
            .unwrap();
        call(&mut request, Duration::from_secs(30));
        assert_eq!(
            (request.method().as_str(), request.uri().to_string().as_str()),
            ("POST", "/call")
        );
        let get = |name: &str| {
            request
                .headers()
                .get_all(name)
                .iter()
                .map(|v| v.to_str().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(get("fn-call-id"), ["abc"]);
        assert_eq!(get("fn-intent"), ["httprequest"]);
        assert_eq!(get("fn-http-method"), ["PUT"]);
        assert_eq!(get("fn-http-request-url"), ["http://example.com/a?b=c"]);
        assert_eq!(get("fn-http-h-x-two"), ["1", "2"]);
        assert_eq!(
            (get("content-type"), get("content-length")),
            (vec!["text/plain"], vec!["4"])
        );
        assert_eq!(
            (get("host"), get("fn-http-h-host")),
            (vec!["localhost"], vec!["example.com"])
        );
        assert!(get("x-two").is_empty() && get("fn-http-h-content-type").is_empty());
        let deadline = get("fn-deadline")[0];
        assert!(
            deadline.parse::<jiff::Timestamp>().unwrap() > jiff::Timestamp::now(),
            "{deadline}"
        );
    }

    #[test]
    fn an_answer_is_the_users() {
        let response = Response::builder()
            .header("fn-http-status", "418")
            .header("fn-http-h-x-user", "a")
            .header("fn-http-h-x-user", "b")
            .header("fn-http-h-content-length", "99")
            .header("content-type", "text/tea")
            .header("content-length", "3")
            .header("fn-fdk-version", "fdk-python/1")
            .body("tea")
            .unwrap();
        let answered = answer(response).unwrap();
        assert_eq!(answered.status(), 418);
        let names: Vec<_> = answered
            .headers()
            .iter()
            .map(|(n, v)| format!("{n}={}", v.to_str().unwrap()))
            .collect();
        let mut names = names;
        names.sort();
        assert_eq!(
            names,
            [
                "content-length=3",
                "content-type=text/tea",
                "x-user=a",
                "x-user=b"
            ]
        );
    }

    #[test]
    fn each_status_of_an_fdk_means_something() {
        let of = |status: u16| {
            answer(Response::builder().status(status).body(()).unwrap()).map(|r| r.status().as_u16())
        };
        assert_eq!(of(200), Ok(200));
        assert_eq!(of(502), Err(Trouble::Failed));
        assert_eq!(of(504), Err(Trouble::TooLate));
        assert_eq!(of(500), Err(Trouble::Broken(StatusCode::INTERNAL_SERVER_ERROR)));
        for bad in ["x", "99", "101"] {
            let response = Response::builder()
                .header("fn-http-status", bad)
                .body(())
                .unwrap();
            assert_eq!(answer(response).map(|_| ()), Err(Trouble::Malformed), "{bad}");
        }
    }
}
