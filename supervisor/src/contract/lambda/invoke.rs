//! From a request that a worker forwards to an invocation, and from what became of it to a response, or to the word why there is
//! none. A request comes over a pair of sockets, as it would come to any other function, so that permits, leases, deadlines and
//! streams are those of every contract.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::IgnoredAny;
use tokio::sync::mpsc;

use super::invocations::{Answer, Invocation, Piece};
use super::out::Out;
use super::reply::Malformed;
use super::runtime_api::INTEGRATION;
use super::{DEADLINE, Desk, TRACEPARENT, Trouble, X_REQUEST_TIMEOUT_MS, base64, event, reply};

const AWS_REQUEST_ID: HeaderName = HeaderName::from_static("lambda-runtime-aws-request-id");
const DEADLINE_MS: HeaderName = HeaderName::from_static("lambda-runtime-deadline-ms");
const ARN: HeaderName = HeaderName::from_static("lambda-runtime-invoked-function-arn");
const TRACE_ID: HeaderName = HeaderName::from_static("lambda-runtime-trace-id");
const CLIENT_CONTEXT: HeaderName = HeaderName::from_static("lambda-runtime-client-context");
const COGNITO_IDENTITY: HeaderName = HeaderName::from_static("lambda-runtime-cognito-identity");

const X_AMZ_INVOCATION_TYPE: HeaderName = HeaderName::from_static("x-amz-invocation-type");
const X_AMZ_CLIENT_CONTEXT: HeaderName = HeaderName::from_static("x-amz-client-context");
const X_AMZ_FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");
const X_AMZ_EXECUTED_VERSION: HeaderName = HeaderName::from_static("x-amz-executed-version");
const X_AMZN_REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");

/// The largest head of a streamed response, in bytes.
const LARGEST_HEAD: usize = 48 << 10;

/// Answers one request, or says with [`super::PROBLEM`] why the worker must.
pub(super) async fn invoke(desk: Rc<Desk>, request: Request<Incoming>) -> Result<Response<Out>, Infallible> {
    let outcome = match is_raw(&desk, &request) {
        true => raw(&desk, request).await,
        false => http(&desk, request).await,
    };
    Ok(outcome.unwrap_or_else(|(trouble, detail)| trouble.tell(&detail)))
}

type Outcome = Result<Response<Out>, (Trouble, String)>;

/// `POST /2015-03-31/functions/{name}/invocations`, for functions that ask for it.
fn is_raw(desk: &Desk, request: &Request<Incoming>) -> bool {
    let rest = request.uri().path().strip_prefix("/2015-03-31/functions/");
    let name = rest.and_then(|rest| rest.strip_suffix("/invocations"));
    desk.invoke && request.method() == Method::POST && name.is_some_and(|name| !name.contains('/'))
}

/// A request of any caller, as an event and back.
async fn http(desk: &Rc<Desk>, request: Request<Incoming>) -> Outcome {
    let (mut parts, body) = request.into_parts();
    let body = collect(body).await?;
    let (said, deadline) = said(desk, &mut parts);
    let event = event::event(&parts, &body, &desk.function, SystemTime::now());
    drop(body);
    match desk
        .invocations
        .offer(invocation(said, event.into(), deadline))
        .await
    {
        Ok(Answer::Whole(answer)) => Ok(reply::whole(answer).map_err(odd)?.map(Out::whole)),
        Ok(Answer::Stream(kind, pieces)) => stream(kind, pieces).await,
        Ok(Answer::Failed(_)) => {
            let detail = "the function reported an error: its log says which";
            Err((Trouble::Failed, detail.to_owned()))
        }
        Ok(Answer::TooLarge) => Err(too_large()),
        Ok(Answer::Ended) | Err(_) => Err(ended()),
    }
}

/// An event as it is, and the answer as it is.
async fn raw(desk: &Rc<Desk>, request: Request<Incoming>) -> Outcome {
    let (mut parts, body) = request.into_parts();
    match parts
        .headers
        .get(X_AMZ_INVOCATION_TYPE)
        .map(HeaderValue::as_bytes)
    {
        None | Some(b"RequestResponse") => {}
        Some(b"DryRun") => {
            let mut response = Response::new(Out::whole(Bytes::new()));
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(response);
        }
        Some(_) => {
            let detail = "of X-Amz-Invocation-Type only RequestResponse and DryRun are known";
            return Err((Trouble::BadInvoke, detail.to_owned()));
        }
    }
    let mut event = collect(body).await?;
    if event.is_empty() {
        event = Bytes::from_static(b"{}");
    }
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(&event) {
        return Err((Trouble::BadInvoke, format!("the event is no JSON: {error}")));
    }
    let (mut said, deadline) = said(desk, &mut parts);
    let context = parts.headers.get(X_AMZ_CLIENT_CONTEXT);
    let context = context.and_then(|context| context.to_str().ok());
    if let Some(context) = context.and_then(base64::decode)
        && let Ok(context) = HeaderValue::from_bytes(&context)
    {
        said.insert(CLIENT_CONTEXT, context);
    }
    // As `cargo lambda invoke` says them.
    for name in [CLIENT_CONTEXT, COGNITO_IDENTITY] {
        if let Some(told) = parts.headers.remove(&name) {
            said.insert(name, told);
        }
    }
    let id = said.get(AWS_REQUEST_ID).cloned();
    let mut response = match desk.invocations.offer(invocation(said, event, deadline)).await {
        Ok(Answer::Whole(answer)) => Response::new(Out::whole(answer)),
        Ok(Answer::Stream(_, pieces)) => Response::new(Out::Stream(Bytes::new(), Some(pieces))),
        Ok(Answer::Failed(document)) => {
            let mut response = Response::new(Out::whole(document));
            let headers = response.headers_mut();
            headers.insert(X_AMZ_FUNCTION_ERROR, HeaderValue::from_static("Unhandled"));
            response
        }
        Ok(Answer::TooLarge) => return Err(too_large()),
        Ok(Answer::Ended) | Err(_) => return Err(ended()),
    };
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    headers.insert(X_AMZ_EXECUTED_VERSION, HeaderValue::from_static("$LATEST"));
    if let Some(id) = id {
        headers.insert(X_AMZN_REQUEST_ID, id);
    }
    Ok(response)
}

/// What a function is told beside the event, and until when it may take: longer than some callers want to wait.
fn said(desk: &Desk, parts: &mut Parts) -> (HeaderMap, Instant) {
    let number = |value: &HeaderValue| value.to_str().ok()?.parse().ok();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let limit = parts.headers.remove(DEADLINE).as_ref().and_then(number);
    // A worker always says; a health request has the time that any request has.
    let limit = limit.map_or(now + desk.timeout, Duration::from_millis);
    let wanted = parts.headers.get(X_REQUEST_TIMEOUT_MS).and_then(number);
    let until = wanted.map_or(limit, |left| limit.min(now + Duration::from_millis(left)));

    let mut said = HeaderMap::with_capacity(6);
    let id = HeaderValue::try_from(desk.invocations.name()).expect("a UUID is a valid header value");
    said.insert(AWS_REQUEST_ID, id);
    let until = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
    said.insert(DEADLINE_MS, HeaderValue::from(until));
    said.insert(ARN, desk.arn.clone());
    if let Some(trace) = parts.headers.get(TRACEPARENT).and_then(event::trace_id) {
        said.insert(TRACE_ID, trace);
    }
    said.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (said, Instant::now() + limit.saturating_sub(now))
}

fn invocation(said: HeaderMap, event: Bytes, deadline: Instant) -> Invocation {
    let id = said.get(AWS_REQUEST_ID).and_then(|id| id.to_str().ok());
    Invocation {
        id: id.unwrap_or_default().to_owned(),
        deadline,
        said,
        event,
    }
}

/// The whole body: the worker counts its bytes and stops at the manifest's bound.
async fn collect(body: Incoming) -> Result<Bytes, (Trouble, String)> {
    let body = body.collect().await;
    // Then the worker knows why, and nobody reads this.
    let body = body.map_err(|error| (Trouble::Ended, error.to_string()))?;
    Ok(body.to_bytes())
}

/// A response that goes on: its head from before the mark, if it has one.
async fn stream(kind: Option<HeaderValue>, mut pieces: mpsc::Receiver<Piece>) -> Outcome {
    let has_head = |kind: &HeaderValue| kind.as_bytes().starts_with(INTEGRATION.as_bytes());
    if !kind.as_ref().is_some_and(has_head) {
        let mut response = Response::new(Out::Stream(Bytes::new(), Some(pieces)));
        let kind = kind.unwrap_or(HeaderValue::from_static("application/octet-stream"));
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        return Ok(response);
    }
    let mut come = BytesMut::new();
    loop {
        match pieces.recv().await {
            Some(Piece::Bytes(bytes)) => come.extend_from_slice(&bytes),
            Some(Piece::End) => return Err(odd(Malformed("its stream ended within the head".to_owned()))),
            None => {
                let detail = "the function reported an error before it answered: its log says which";
                return Err((Trouble::Failed, detail.to_owned()));
            }
        }
        if let Some((head, at)) = reply::prelude(&come).map_err(odd)? {
            let rest = come.split_off(at).freeze();
            return Ok(head.map(|()| Out::Stream(rest, Some(pieces))));
        }
        if come.len() > LARGEST_HEAD {
            let what = format!("the head of its stream is larger than {LARGEST_HEAD} bytes");
            return Err(odd(Malformed(what)));
        }
    }
}

fn odd(why: Malformed) -> (Trouble, String) {
    (
        Trouble::Malformed,
        format!("the function's answer is no response: {why}"),
    )
}

fn too_large() -> (Trouble, String) {
    let detail = "the function's response is larger than 6 MiB: stream it, or send less";
    (Trouble::TooLarge, detail.to_owned())
}

fn ended() -> (Trouble, String) {
    (Trouble::Ended, "the function ended before it answered".to_owned())
}
