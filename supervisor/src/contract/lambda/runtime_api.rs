//! The Runtime API, as the function's process calls it on its own 127.0.0.1: each path, status and word as Lambda has it. What
//! comes over it was written by strangers: its size, its number and what it may say are bounded here.

use std::convert::Infallible;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::Desk;
use super::desk::Asking;
use super::invocations::{Answer, Claim, Piece, Unwanted};
use super::out::Out;

/// The largest response as a whole, in bytes: 6 MiB and what wraps it.
const LARGEST: usize = (6 << 20) + 100;
/// The largest document about an error, in bytes.
const LARGEST_ERROR: usize = 256 << 10;

const RUNTIME: &str = "/2018-06-01/runtime/";
const EXTENSION: &str = "/2020-01-01/extension/";

const MODE: HeaderName = HeaderName::from_static("lambda-runtime-function-response-mode");
const ERROR_TYPE: HeaderName = HeaderName::from_static("lambda-runtime-function-error-type");
const ERROR_BODY: HeaderName = HeaderName::from_static("lambda-runtime-function-error-body");
const EXTENSION_ID: HeaderName = HeaderName::from_static("lambda-extension-identifier");
/// What streams a response whose head stands before its body.
pub(super) const INTEGRATION: &str = "application/vnd.awslambda.http-integration-response";

/// What is read of a body that nobody wants, in bytes: so far clients write before they read, and who is cut off while it does
/// sees no answer.
const LARGEST_DRAINED: usize = 64 << 20;

/// Answers one request of the function's process.
pub(super) async fn answer(
    desk: Rc<Desk>,
    asking: Rc<Asking>,
    request: Request<Incoming>,
) -> Result<Response<Out>, Infallible> {
    let (parts, mut body) = request.into_parts();
    let (method, path) = (&parts.method, parts.uri.path());
    let body = &mut body;
    let mut response = if let Some(path) = path.strip_prefix(RUNTIME) {
        let path: Vec<&str> = path.split('/').collect();
        match (method, path.as_slice()) {
            (&Method::GET, ["invocation", "next"]) => next(&desk, &asking, parts.version).await,
            (&Method::POST, ["invocation", id, "response"]) => respond(&desk, id, &parts.headers, body).await,
            (&Method::POST, ["invocation", id, "error"]) => fail(&desk, id, &parts.headers, body).await,
            (&Method::POST, ["init", "error"]) => init_error(&desk, &parts.headers, body).await,
            _ => unknown(),
        }
    } else if let Some(path) = path.strip_prefix(EXTENSION) {
        match (method, path) {
            (&Method::POST, "register") => register(&desk),
            // Events are promised to no extension; what ends an instance is SIGTERM.
            (&Method::GET, "event/next") => std::future::pending().await,
            (&Method::POST, "init/error" | "exit/error") => accepted(),
            _ => unknown(),
        }
    } else {
        unknown()
    };
    drain(body).await;
    if desk.has_left.get() {
        // It asks somebody else next.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    Ok(response)
}

/// Reads what is left of a body.
async fn drain(body: &mut Incoming) {
    let mut left = LARGEST_DRAINED;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        let Some(less) = left.checked_sub(length) else {
            return;
        };
        left = less;
    }
}

/// Waits, for as long as it takes, for something to do.
async fn next(desk: &Rc<Desk>, asking: &Asking, version: Version) -> Response<Out> {
    desk.note_asked();
    // Who takes the connection over answers as HTTP/1.1.
    let waits = (version == Version::HTTP_11).then(|| asking.waits(desk));
    let given = desk.invocations.ask().await;
    drop(waits);
    let Ok(invocation) = given else {
        return error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalServerError",
            "the instance ends",
        );
    };
    let mut response = Response::new(Out::whole(invocation.event));
    *response.headers_mut() = invocation.said;
    response
}

async fn respond(desk: &Rc<Desk>, id: &str, headers: &HeaderMap, body: &mut Incoming) -> Response<Out> {
    let mode = headers.get(MODE).map(HeaderValue::as_bytes);
    if mode.is_some_and(|mode| !mode.eq_ignore_ascii_case(b"streaming")) {
        return error(
            StatusCode::BAD_REQUEST,
            "InvalidFunctionResponseMode",
            "the response mode is not `streaming`",
        );
    }
    let mut claim = match claim(desk, id) {
        Ok(claim) => claim,
        Err(refusal) => return *refusal,
    };
    let kind = headers.get(header::CONTENT_TYPE);
    // Go's library never sends the mode.
    let is_stream =
        mode.is_some() || kind.is_some_and(|kind| kind.as_bytes().starts_with(INTEGRATION.as_bytes()));
    if is_stream {
        let pieces = claim.stream(kind.cloned());
        return match stream(desk, id, body, pieces).await {
            true => accepted(),
            false => error(
                StatusCode::BAD_REQUEST,
                "TruncatedResponse",
                "the response broke off",
            ),
        };
    }
    match read(body, LARGEST).await {
        Ok((_, Some(trailers))) if trailers.contains_key(ERROR_TYPE) => {
            let document = document_of(&trailers);
            desk.failed(id, &document);
            claim.answer(Answer::Failed(document));
            accepted()
        }
        Ok((body, _)) => {
            claim.answer(Answer::Whole(body));
            accepted()
        }
        Err(Unread::TooLarge) => {
            desk.complain(format_args!(
                "invocation {id}: its response is larger than {LARGEST} bytes: it has to stream it, or to send less"
            ));
            claim.answer(Answer::TooLarge);
            let message = format!("Exceeded maximum allowed payload size ({LARGEST} bytes).");
            error(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", &message)
        }
        // It may try again: dropping the claim gives it back.
        Err(Unread::BrokeOff) => error(
            StatusCode::BAD_REQUEST,
            "TruncatedResponse",
            "the response broke off",
        ),
    }
}

/// Passes on what comes as the caller takes it; true at its end. When the caller is gone the rest is read for nobody: the
/// function is not to notice.
async fn stream(
    desk: &Desk,
    id: &str,
    body: &mut Incoming,
    pieces: tokio::sync::mpsc::Sender<Piece>,
) -> bool {
    // The crate of AWS (1.5) writes its trailers as a last chunk of the body, and its callers would read them.
    let mut held: Option<Bytes> = None;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        if let Some(held) = held.take() {
            let _ = pieces.send(Piece::Bytes(held)).await;
        }
        match frame.into_data() {
            Ok(bytes) if bytes.is_empty() => {}
            Ok(bytes) if written_trailers(&bytes).is_some() => held = Some(bytes),
            Ok(bytes) => drop(pieces.send(Piece::Bytes(bytes)).await),
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                if trailers.contains_key(ERROR_TYPE) {
                    desk.failed(id, &document_of(&trailers));
                    return true;
                }
            }
        }
    }
    if let Some(trailers) = held.as_deref().and_then(written_trailers) {
        desk.failed(id, &document_of(&trailers));
        return true;
    }
    let _ = pieces.send(Piece::End).await;
    true
}

/// Trailers about an error that were written as if they were part of the body.
fn written_trailers(chunk: &[u8]) -> Option<HeaderMap> {
    let text = std::str::from_utf8(chunk).ok()?;
    let (first, second) = text.strip_suffix("\r\n")?.split_once("\r\n")?;
    let mut trailers = HeaderMap::new();
    for (line, name, begin) in [
        (first, ERROR_TYPE, "Lambda-Runtime-Function-Error-Type: "),
        (second, ERROR_BODY, "Lambda-Runtime-Function-Error-Body: "),
    ] {
        trailers.insert(name, HeaderValue::try_from(line.strip_prefix(begin)?).ok()?);
    }
    Some(trailers)
}

/// What trailers say of an error: the document, or one made of as much as they say.
fn document_of(trailers: &HeaderMap) -> Bytes {
    let written = trailers.get(ERROR_BODY).and_then(|body| body.to_str().ok());
    let written = written.and_then(super::base64::decode);
    if let Some(document) = written
        .as_ref()
        .filter(|document| document.first() == Some(&b'{'))
    {
        return Bytes::copy_from_slice(document);
    }
    let kind = trailers.get(ERROR_TYPE);
    let kind = kind.map(|kind| String::from_utf8_lossy(kind.as_bytes()));
    let message = written.as_deref().map(String::from_utf8_lossy);
    let message = message.unwrap_or("the response broke off".into());
    json!({"errorMessage": message, "errorType": kind})
        .to_string()
        .into()
}

async fn fail(desk: &Rc<Desk>, id: &str, headers: &HeaderMap, body: &mut Incoming) -> Response<Out> {
    let claim = match claim(desk, id) {
        Ok(claim) => claim,
        Err(refusal) => return *refusal,
    };
    match read(body, LARGEST_ERROR).await {
        Ok((body, _)) => {
            let document = with_type(body, headers);
            desk.failed(id, &document);
            claim.answer(Answer::Failed(document));
            accepted()
        }
        Err(Unread::TooLarge) => {
            desk.complain(format_args!(
                "invocation {id}: what it says of its error is larger than {LARGEST_ERROR} bytes"
            ));
            claim.answer(Answer::TooLarge);
            error(
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestEntityTooLarge",
                "the error is too large",
            )
        }
        Err(Unread::BrokeOff) => error(
            StatusCode::BAD_REQUEST,
            "TruncatedResponse",
            "the error broke off",
        ),
    }
}

/// The document, or one that is made of what the header says when nothing was written.
fn with_type(body: Bytes, headers: &HeaderMap) -> Bytes {
    match headers.get(ERROR_TYPE) {
        Some(kind) if body.is_empty() => {
            let kind = String::from_utf8_lossy(kind.as_bytes());
            json!({"errorMessage": "", "errorType": kind}).to_string().into()
        }
        _ => body,
    }
}

async fn init_error(desk: &Desk, headers: &HeaderMap, body: &mut Incoming) -> Response<Out> {
    if desk.has_asked() {
        return error(
            StatusCode::FORBIDDEN,
            "InvalidStateTransition",
            "Transition from Ready to InitError is not allowed for runtime",
        );
    }
    match read(body, LARGEST_ERROR).await {
        Ok((body, _)) => {
            desk.init_failed(&with_type(body, headers));
            accepted()
        }
        Err(_) => error(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            "the error is too large",
        ),
    }
}

/// The invocation that the function is about to answer.
fn claim(desk: &Rc<Desk>, id: &str) -> Result<Claim, Box<Response<Out>>> {
    desk.invocations.claim(id).map_err(|why| {
        let why = match why {
            Unwanted::Unknown => "is not one that it works on: never given, or answered already",
            Unwanted::Underway => "is being answered on another connection",
        };
        desk.complain(format_args!(
            "it answered invocation {:?}, which {why}: each is to be answered once, under its Lambda-Runtime-Aws-Request-Id",
            shortened(id)
        ));
        Box::new(error(
            StatusCode::BAD_REQUEST,
            "InvalidRequestID",
            "Invalid request ID",
        ))
    })
}

fn register(desk: &Desk) -> Response<Out> {
    let told = json!({
        "functionName": desk.function,
        "functionVersion": "$LATEST",
        "handler": "bootstrap",
    });
    let mut response = json_response(StatusCode::OK, &told);
    let name = HeaderValue::try_from(desk.invocations.name()).expect("a UUID is a valid header value");
    response.headers_mut().insert(EXTENSION_ID, name);
    response
}

fn accepted() -> Response<Out> {
    json_response(StatusCode::ACCEPTED, &json!({"status": "OK"}))
}

fn unknown() -> Response<Out> {
    error(
        StatusCode::NOT_FOUND,
        "NotFound",
        "no such path in the Runtime API",
    )
}

fn error(status: StatusCode, kind: &str, message: &str) -> Response<Out> {
    json_response(status, &json!({"errorMessage": message, "errorType": kind}))
}

fn json_response(status: StatusCode, document: &Value) -> Response<Out> {
    let mut response = Response::new(Out::whole(document.to_string().into()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Why a body was not read to its end.
enum Unread {
    TooLarge,
    BrokeOff,
}

async fn read(body: &mut Incoming, most: usize) -> Result<(Bytes, Option<HeaderMap>), Unread> {
    use hyper::body::Body;
    if body.size_hint().lower() > most as u64 {
        return Err(Unread::TooLarge);
    }
    let (mut whole, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        match frame.map_err(|_| Unread::BrokeOff)?.into_data() {
            Ok(bytes) if whole.len() + bytes.len() > most => return Err(Unread::TooLarge),
            Ok(bytes) => whole.extend_from_slice(&bytes),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((whole.freeze(), trailers))
}

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_are_understood_in_both_places() {
        let chunk = b"Lambda-Runtime-Function-Error-Type: Runtime.StreamError\r\nLambda-Runtime-Function-Error-Body: Ym9vbQ==\r\n";
        let trailers = written_trailers(chunk).unwrap();
        let document: Value = serde_json::from_slice(&document_of(&trailers)).unwrap();
        assert_eq!(
            document,
            json!({"errorMessage": "boom", "errorType": "Runtime.StreamError"})
        );
        for end in 0..chunk.len() {
            assert!(written_trailers(&chunk[..end]).is_none(), "{end}");
        }
        // {"errorType":"E"}
        let mut trailers = HeaderMap::new();
        trailers.insert(ERROR_TYPE, HeaderValue::from_static("E"));
        trailers.insert(ERROR_BODY, HeaderValue::from_static("eyJlcnJvclR5cGUiOiJFIn0="));
        assert_eq!(document_of(&trailers), "{\"errorType\":\"E\"}");
        trailers.insert(ERROR_BODY, HeaderValue::from_static("?"));
        assert!(document_of(&trailers).starts_with(b"{\"errorMessage\":\"the response broke off\""));
    }
}
