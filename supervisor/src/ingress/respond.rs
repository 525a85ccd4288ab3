//! Every answer of funcd's own: one closed list, one table. Never used for what a function said.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};
use rand::Rng;

use super::ids::{RequestId, X_REQUEST_ID};

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const X_FUNCD_SHED: HeaderName = HeaderName::from_static("x-funcd-shed");

/// Why funcd answers itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    BadRequest,
    MethodNotAllowed,
    UnknownRoute,
    UploadStalled,
    ExecTimeout,
    LengthRequired,
    BodyTooLarge,
    TargetTooLong,
    ExpectationFailed,
    HeadTooLarge,
    QueueFull,
    Unavailable,
    ConnectionRefused,
    ConnectionTerminated,
    FunctionError,
    MalformedResponse,
    StartTimeout,
    ResponseTimeout,
    FunctionFailed,
    OutputTooLarge,
    Internal,
}

/// A row of the table.
pub(super) struct Row {
    pub(super) status: StatusCode,
    /// Names the kind: the end of `type`, and the metric's `reason`.
    pub(super) slug: &'static str,
    title: &'static str,
    /// RFC 9209, 2.3.
    proxy_error: &'static str,
}

impl Kind {
    /// The table.
    #[rustfmt::skip]
    pub(super) fn row(self) -> Row {
        let (status, slug, title, proxy_error) = match self {
            Kind::BadRequest =>           (400, "bad-request",           "The request is malformed",                         "http_request_error"),
            Kind::UnknownRoute =>         (404, "unknown-route",         "No function answers here",                         "destination_not_found"),
            Kind::MethodNotAllowed =>     (405, "method-not-allowed",    "This host opens no tunnels",                       "http_request_denied"),
            Kind::UploadStalled =>        (408, "upload-stalled",        "The request body stopped coming",                  "http_request_error"),
            Kind::ExecTimeout =>          (408, "exec-timeout",          "The function did not end in time",                 "http_response_timeout"),
            Kind::LengthRequired =>       (411, "length-required",       "The length of the body is not known",              "http_request_error"),
            Kind::BodyTooLarge =>         (413, "body-too-large",        "The request body is too large",                    "http_request_error"),
            Kind::TargetTooLong =>        (414, "target-too-long",       "The request target is too long",                   "http_request_error"),
            Kind::ExpectationFailed =>    (417, "expectation-failed",    "The expectation is not known",                     "http_request_error"),
            Kind::HeadTooLarge =>         (431, "head-too-large",        "The request head is too large",                    "http_request_error"),
            Kind::Internal =>             (500, "internal",              "A fault of the host itself",                       "proxy_internal_error"),
            Kind::FunctionFailed =>       (500, "function-failed",       "The function failed",                              "connection_terminated"),
            Kind::OutputTooLarge =>       (502, "output-too-large",      "The function wrote more than is kept",             "http_response_body_size"),
            Kind::ConnectionRefused =>    (502, "connection-refused",    "The function does not accept connections",         "connection_refused"),
            Kind::ConnectionTerminated => (502, "connection-terminated", "The function ended before it answered",            "connection_terminated"),
            Kind::FunctionError =>        (502, "function-error",        "The function reported an error",                  "http_protocol_error"),
            Kind::MalformedResponse =>    (502, "malformed-response",    "The function answered with something not HTTP",    "http_protocol_error"),
            Kind::Unavailable =>          (503, "unavailable",           "The function does not run",                        "destination_unavailable"),
            Kind::QueueFull =>            (503, "queue-full",            "Too many requests wait for the function",          "connection_limit_reached"),
            Kind::StartTimeout =>         (504, "start-timeout",         "The function had no free place in time",           "connection_timeout"),
            Kind::ResponseTimeout =>      (504, "response-timeout",      "The function did not answer in time",              "http_response_timeout"),
        };
        let status = StatusCode::from_u16(status).expect("a status of the table");
        Row { status, slug, title, proxy_error }
    }
}

/// One answer of funcd's own.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) kind: Kind,
    /// For the caller: what about this request.
    pub(super) detail: String,
    /// For the metric, where it says more than the kind does.
    pub(super) reason: Option<&'static str>,
    /// When it is worth trying again, if that is known.
    pub(super) retry_after: Option<Duration>,
    /// The connection can't go on after this: something unread or unclear is left on it.
    pub(super) close: bool,
}

impl Problem {
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Problem {
        Problem {
            kind,
            detail: detail.into(),
            reason: None,
            retry_after: None,
            close: false,
        }
    }

    pub(super) fn because(self, reason: &'static str) -> Problem {
        Problem {
            reason: Some(reason),
            ..self
        }
    }

    pub(super) fn closing(self) -> Problem {
        Problem { close: true, ..self }
    }
}

/// The response: problem+json (RFC 9457), `Proxy-Status`, and `Retry-After` where trying again may help.
pub(super) fn respond(
    problem: &Problem,
    version: Version,
    function: Option<&str>,
    id: &RequestId,
    chance: &mut impl Rng,
) -> Response<Bytes> {
    let row = problem.kind.row();
    let mut body = serde_json::json!({
        "type": format!("urn:funcd:error:{}", row.slug),
        "title": row.title,
        "status": row.status.as_u16(),
        "detail": problem.detail,
        "request_id": id.0.to_str().expect("a request id is visible ASCII"),
    });
    if let Some(function) = function {
        body["function"] = function.into();
    }
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = row.status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let status = HeaderValue::try_from(format!("funcd; error={}", row.proxy_error));
    headers.insert(PROXY_STATUS, status.expect("made of tokens"));
    headers.insert(X_REQUEST_ID, id.0.clone());
    if row.status == StatusCode::SERVICE_UNAVAILABLE {
        // Whole seconds, jittered so that those refused together don't come back together.
        let least = problem.retry_after.map_or(1, |wait| wait.as_secs() + 1).min(60);
        headers.insert(
            header::RETRY_AFTER,
            HeaderValue::from(chance.random_range(least..=least + 2)),
        );
    }
    if problem.kind == Kind::QueueFull {
        headers.insert(X_FUNCD_SHED, HeaderValue::from_static(row.slug));
    }
    if problem.close && version < Version::HTTP_2 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
