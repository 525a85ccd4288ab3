//! Every answer of funcd's own: one closed list, one table. Never used for what a function said.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};
use rand::Rng;

use super::grpc::{self, GRPC_MESSAGE, GRPC_PUSHBACK, GRPC_STATUS, Status};
use super::ids::{RequestId, X_REQUEST_ID};
use crate::admission::{Class, Reason};

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
    Shed(Reason),
    Unavailable,
    ConnectionRefused,
    ConnectionTerminated,
    FunctionError,
    MalformedResponse,
    Quarantined,
    StartTimeout,
    ResponseTimeout,
    FunctionFailed,
    OutputTooLarge,
    Loop,
    UnknownSibling,
    BindingRefused,
    BindingName,
    BindingForbidden,
    BindingTls,
    BindingEnded,
    BindingMalformed,
    BindingOpen,
    BindingFull,
    BindingConnect,
    BindingTimeout,
    Internal,
}

/// A row of the table.
pub(super) struct Row {
    pub(super) status: StatusCode,
    /// The same for a call of gRPC.
    pub(super) grpc: Status,
    /// Names the kind: the end of `type`, and the metric's `reason`.
    pub(super) slug: &'static str,
    title: &'static str,
    /// RFC 9209, 2.3.
    proxy_status: &'static str,
}

impl Kind {
    /// The table.
    #[rustfmt::skip]
    pub(super) fn row(self) -> Row {
        let (status, grpc, slug, title, proxy_status) = match self {
            Kind::BadRequest =>           (400, Status::InvalidArgument,  "bad-request",           "The request is malformed",                         "funcd; error=http_request_error"),
            Kind::UnknownRoute =>         (404, Status::Unimplemented,    "unknown-route",         "No function answers here",                         "funcd; error=destination_not_found"),
            Kind::MethodNotAllowed =>     (405, Status::Unimplemented,    "method-not-allowed",    "This host opens no tunnels",                       "funcd; error=http_request_denied"),
            Kind::UploadStalled =>        (408, Status::DeadlineExceeded, "upload-stalled",        "The request body stopped coming",                  "funcd; error=http_request_error"),
            Kind::ExecTimeout =>          (408, Status::DeadlineExceeded, "exec-timeout",          "The function did not end in time",                 "funcd; error=http_response_timeout"),
            Kind::LengthRequired =>       (411, Status::InvalidArgument,  "length-required",       "The length of the body is not known",              "funcd; error=http_request_error"),
            Kind::BodyTooLarge =>         (413, Status::ResourceExhausted,"body-too-large",        "The request body is too large",                    "funcd; error=http_request_error"),
            Kind::TargetTooLong =>        (414, Status::InvalidArgument,  "target-too-long",       "The request target is too long",                   "funcd; error=http_request_error"),
            Kind::ExpectationFailed =>    (417, Status::InvalidArgument,  "expectation-failed",    "The expectation is not known",                     "funcd; error=http_request_error"),
            Kind::HeadTooLarge =>         (431, Status::ResourceExhausted,"head-too-large",        "The request head is too large",                    "funcd; error=http_request_error"),
            Kind::Internal =>             (500, Status::Internal,         "internal",              "A fault of the host itself",                       "funcd; error=proxy_internal_error"),
            Kind::FunctionFailed =>       (500, Status::Internal,         "function-failed",       "The function failed",                              "funcd; error=connection_terminated"),
            Kind::ConnectionRefused =>    (502, Status::Unavailable,      "connection-refused",    "The function does not accept connections",         "funcd; error=connection_refused"),
            Kind::ConnectionTerminated => (502, Status::Unavailable,      "connection-terminated", "The function ended before it answered",            "funcd; error=connection_terminated"),
            Kind::MalformedResponse =>    (502, Status::Internal,         "malformed-response",    "The function answered with something not HTTP",    "funcd; error=http_protocol_error"),
            Kind::Quarantined =>          (502, Status::Internal,         "quarantined",           "Instances died of this request",                   "funcd; error=http_request_denied"),
            Kind::OutputTooLarge =>       (502, Status::Internal,         "output-too-large",      "The function wrote more than is kept",             "funcd; error=http_response_body_size"),
            Kind::FunctionError =>        (502, Status::Internal,         "function-error",        "The function reported an error",                   "funcd; error=http_protocol_error"),
            Kind::Unavailable =>          (503, Status::Unavailable,      "unavailable",           "The function does not run",                        "funcd; error=destination_unavailable"),
            Kind::Shed(reason) =>         (503, Status::Unavailable,      reason.name(),           shed_title(reason),                                 shed_error(reason)),
            Kind::StartTimeout =>         (504, Status::DeadlineExceeded, "start-timeout",         "The function had no free place in time",           "funcd; error=connection_timeout"),
            Kind::ResponseTimeout =>      (504, Status::DeadlineExceeded, "response-timeout",      "The function did not answer in time",              "funcd; error=http_response_timeout"),
            // What functions are told that call through their bindings.
            Kind::UnknownSibling =>       (502, Status::Unimplemented,    "unknown-function",      "The binding leads to no function",                 "funcd; error=destination_not_found"),
            Kind::BindingRefused =>       (502, Status::Unavailable,      "binding-refused",       "The binding's target does not accept connections", "funcd; error=connection_refused"),
            Kind::BindingName =>          (502, Status::Unavailable,      "binding-name",          "The binding's target can't be looked up",          "funcd; error=dns_error"),
            Kind::BindingForbidden =>     (502, Status::Unavailable,      "binding-forbidden",     "The binding leads where none may",                 "funcd; error=destination_ip_prohibited"),
            Kind::BindingTls =>           (502, Status::Unavailable,      "binding-tls",           "The binding's target can't be trusted",            "funcd; error=tls_protocol_error"),
            Kind::BindingEnded =>         (502, Status::Unavailable,      "binding-ended",         "The binding's target ended before it answered",    "funcd; error=connection_terminated"),
            Kind::BindingMalformed =>     (502, Status::Internal,         "binding-malformed",     "The binding's target answered with something not HTTP", "funcd; error=http_protocol_error"),
            Kind::BindingOpen =>          (503, Status::Unavailable,      "binding-open",          "The binding's target fails more than it answers",  "funcd; error=destination_unavailable"),
            Kind::BindingFull =>          (503, Status::ResourceExhausted,"binding-full",          "Too many calls through the binding are in flight", "funcd; error=connection_limit_reached"),
            Kind::BindingConnect =>       (504, Status::DeadlineExceeded, "binding-connect-timeout", "The binding's target did not connect in time",   "funcd; error=connection_timeout"),
            Kind::BindingTimeout =>       (504, Status::DeadlineExceeded, "binding-timeout",       "The binding's target did not answer in time",      "funcd; error=http_response_timeout"),
            Kind::Loop =>                 (508, Status::ResourceExhausted,"loop",                  "Functions call each other in a circle",            "funcd; error=proxy_loop_detected"),
        };
        let status = StatusCode::from_u16(status).expect("a status of the table");
        Row { status, grpc, slug, title, proxy_status }
    }
}

fn shed_title(reason: Reason) -> &'static str {
    match reason {
        Reason::QueueFull => "Too many requests wait for the function",
        Reason::Evicted => "Another request took its place in the queue",
        Reason::Waited => "The function has more to do than it can",
        Reason::Deadline => "The answer would come too late",
        Reason::Brownout => "The host has more to do than it can",
        Reason::Breaker => "The function fails more than it answers",
        Reason::RouteLimit => "Too many requests of this route are in flight",
    }
}

fn shed_error(reason: Reason) -> &'static str {
    match reason {
        Reason::Breaker => "funcd; error=destination_unavailable",
        _ => "funcd; error=connection_limit_reached",
    }
}

/// What is said about a request that was shed.
pub(super) fn shed_detail(reason: Reason) -> &'static str {
    match reason {
        Reason::QueueFull => "as many requests wait as the function can answer in time",
        Reason::Evicted => "a newer or more important request took its place in the queue",
        Reason::Waited => "it waited for as long as an overloaded function lets anybody wait",
        Reason::Deadline => "the function takes longer than the request may",
        Reason::Brownout => {
            "the host is short of memory, CPU or descriptors, and this request matters less than others"
        }
        Reason::Breaker => {
            "the function fails more than it answers, so a part of the requests does not reach it"
        }
        Reason::RouteLimit => "as many requests of this route are in flight as its limit allows",
    }
}

/// One answer of funcd's own.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) kind: Kind,
    /// For the caller: what about this request.
    pub(super) detail: Cow<'static, str>,
    /// For the metric, where it says more than the kind does.
    pub(super) reason: Option<&'static str>,
    /// When it is worth trying again, if that is known.
    pub(super) retry_after: Option<Duration>,
    /// The connection can't go on after this: something unread or unclear is left on it.
    pub(super) close: bool,
}

impl Problem {
    pub(super) fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem {
            kind,
            detail: detail.into(),
            reason: None,
            retry_after: None,
            close: false,
        }
    }

    /// It is refused so that others are answered.
    pub(super) fn shed(reason: Reason) -> Problem {
        Problem::new(Kind::Shed(reason), shed_detail(reason))
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

/// The response: problem+json (RFC 9457), `Proxy-Status`, and `Retry-After` where trying again may help. A call of gRPC gets the
/// same as a status of gRPC without a message ("Trailers-Only"): its callers read nothing else.
pub(super) fn respond(
    problem: &Problem,
    (version, is_call): (Version, bool),
    (function, class): (Option<&str>, Class),
    id: &RequestId,
    chance: &mut impl Rng,
) -> Response<Bytes> {
    let row = problem.kind.row();
    let mut response = match is_call {
        true => Response::new(Bytes::new()),
        false => Response::new(body(problem, &row, function, id)),
    };
    let media_type = match is_call {
        true => "application/grpc",
        false => {
            *response.status_mut() = row.status;
            "application/problem+json"
        }
    };
    let headers = response.headers_mut();
    // One allocation, instead of one each time that it has to grow.
    headers.reserve(8);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    if is_call {
        headers.insert(GRPC_STATUS, row.grpc.value());
        let said = format!("{}: {} ({})", row.title, problem.detail, row.slug);
        headers.insert(GRPC_MESSAGE, grpc::message(&said));
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PROXY_STATUS, HeaderValue::from_static(row.proxy_status));
    headers.insert(X_REQUEST_ID, id.0.clone());
    if row.status == StatusCode::SERVICE_UNAVAILABLE {
        // Whole seconds, jittered so that those refused together don't come back together; the less it matters, the later.
        let seconds = match problem.retry_after {
            None => class.retry_after(),
            Some(wait) => {
                let least = (wait.as_secs() + 1).min(60);
                least..=least + 2
            }
        };
        let seconds = chance.random_range(seconds);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        if is_call {
            headers.insert(GRPC_PUSHBACK, HeaderValue::from(1000 * seconds));
        }
    }
    if matches!(problem.kind, Kind::Shed(_) | Kind::Quarantined) {
        headers.insert(X_FUNCD_SHED, HeaderValue::from_static(row.slug));
    }
    if problem.close && version < Version::HTTP_2 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The document, written by hand: under overload it is made for each request that is refused.
fn body(problem: &Problem, row: &Row, function: Option<&str>, id: &RequestId) -> Bytes {
    let mut body = String::with_capacity(320);
    body.push_str("{\"type\":\"urn:funcd:error:");
    body.push_str(row.slug);
    body.push_str("\",\"title\":");
    quote(&mut body, row.title);
    body.push_str(",\"status\":");
    body.push_str(row.status.as_str());
    body.push_str(",\"detail\":");
    quote(&mut body, &problem.detail);
    body.push_str(",\"request_id\":");
    quote(&mut body, id.0.to_str().expect("a request id is visible ASCII"));
    if let Some(function) = function {
        body.push_str(",\"function\":");
        quote(&mut body, function);
    }
    body.push('}');
    Bytes::from(body)
}

/// A string as JSON has it (RFC 8259, 7).
fn quote(out: &mut String, text: &str) {
    use std::fmt::Write;
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if control < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_of_grpc_are_told_in_their_way() {
        let id = RequestId(HeaderValue::from_static("7"));
        let mut chance = rand::rng();
        let mut told = |problem: &Problem, is_call| {
            let whose = (Some("talk"), Class::default());
            respond(problem, (Version::HTTP_2, is_call), whose, &id, &mut chance)
        };
        let shed = Problem::shed(Reason::QueueFull);
        let plain = told(&shed, false);
        assert_eq!(plain.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!plain.headers().contains_key(GRPC_STATUS) && !plain.body().is_empty());
        let call = told(&shed, true);
        let headers = call.headers();
        assert_eq!((call.status(), call.body().len()), (StatusCode::OK, 0));
        assert_eq!(headers[header::CONTENT_TYPE], "application/grpc");
        assert_eq!(headers[GRPC_STATUS], "14");
        assert_eq!(headers[X_FUNCD_SHED], plain.headers()[X_FUNCD_SHED]);
        let number = |name| headers[&name].to_str().unwrap().parse::<u64>().unwrap();
        assert_eq!(number(GRPC_PUSHBACK), 1000 * number(header::RETRY_AFTER));
        for (kind, status) in [
            (Kind::UnknownRoute, "12"),
            (Kind::ResponseTimeout, "4"),
            (Kind::BodyTooLarge, "8"),
            (Kind::Internal, "13"),
            (Kind::Unavailable, "14"),
        ] {
            let call = told(&Problem::new(kind, "100 %"), true);
            assert_eq!(call.headers()[GRPC_STATUS], status);
            let message = call.headers()[GRPC_MESSAGE].to_str().unwrap();
            assert!(
                message.contains("100 %25") && message.contains(kind.row().slug),
                "{message}"
            );
        }
    }

    #[test]
    fn what_is_quoted_is_read_back() {
        for text in [
            "",
            "plain",
            "a \"quote\" and a \\",
            "line\nbreak\u{1}\u{1f}\t",
            "é\u{7f}\u{2028}🦀",
        ] {
            let mut quoted = String::new();
            quote(&mut quoted, text);
            assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text);
        }
    }
}
