//! What an instance said, or why there is none of it, as its caller is told. Sends nothing.

use std::time::Instant;

use http::Response;

use super::body::{Fault, Origin};
use super::call::Death;
use super::exchange::{Broken, Gone, Sent};
use super::respond::{Kind, Problem};
use crate::catalog::manifest::Contract;
use crate::contract::lambda::Trouble;
use crate::contract::{fdk, ironhttp};
use crate::function::handle::Unavailable;
use crate::function::instance::{Address, Instance};

/// For who meets a function that does not speak what it was taken to speak.
const OVER_HTTP2: &str = "calls of gRPC go to it over HTTP/2 with prior knowledge, and with `h2c = true` in its function.toml all \
                          requests do";

/// What is no answer for the caller.
pub(super) struct NoAnswer {
    pub(super) problem: Problem,
    /// Whether the instance is of no use any more.
    pub(super) is_fatal: bool,
}

/// The answer in what an instance said.
pub(super) fn understand(
    contract: Contract,
    response: Response<Origin>,
) -> Result<Response<Origin>, NoAnswer> {
    let no_answer = |kind, detail: String, is_fatal| {
        let problem = Problem::new(kind, detail);
        Err(NoAnswer { problem, is_fatal })
    };
    match contract {
        Contract::Fn => fdk::answer(response).or_else(|trouble| match trouble {
            fdk::Trouble::Failed => no_answer(
                Kind::FunctionError,
                "the function failed: its log may say why".to_owned(),
                false,
            ),
            fdk::Trouble::TooLate => no_answer(
                Kind::ResponseTimeout,
                "the function did not end by its deadline".to_owned(),
                false,
            ),
            fdk::Trouble::Malformed => no_answer(
                Kind::MalformedResponse,
                "its status or headers make no HTTP".to_owned(),
                false,
            ),
            fdk::Trouble::Broken(status) => no_answer(
                Kind::MalformedResponse,
                format!("its FDK answered {}, and was ended", status.as_u16()),
                true,
            ),
        }),
        Contract::Ironhttp if !ironhttp::has_an_end(&response) => no_answer(
            Kind::MalformedResponse,
            "it does not say how long its response is (Content-Length), and was ended".to_owned(),
            true,
        ),
        _ => Ok(response),
    }
}

pub(super) fn unavailable(why: Unavailable) -> Problem {
    match why {
        Unavailable::Shed(reason) => Problem::shed(reason),
        Unavailable::Refused(refusal) => Problem {
            retry_after: refusal
                .until
                .map(|until| until.saturating_duration_since(Instant::now())),
            ..Problem::new(Kind::Unavailable, refusal.reason)
        },
        Unavailable::DeadlineExceeded => Problem::new(
            Kind::StartTimeout,
            "no instance had a free place within the function's time-out",
        ),
    }
}

/// A Lambda function's process may end while its desk, which is funcd itself, stays connected.
pub(super) fn died_at_its_desk(instance: &Instance, sent: Result<Sent, Broken>) -> Result<Sent, Broken> {
    match &sent {
        Ok(Sent { response, .. })
            if matches!(instance.address, Address::Lambda(_)) && Trouble::is_end(response.headers()) =>
        {
            Err(Broken::Died(Gone::Unsaid))
        }
        _ => sent,
    }
}

/// What a Lambda function's desk says instead of a response.
pub(super) fn of_lambda(trouble: Trouble, detail: String) -> Problem {
    let kind = match trouble {
        Trouble::Failed => Kind::FunctionError,
        Trouble::Malformed | Trouble::TooLarge => Kind::MalformedResponse,
        Trouble::Ended => Kind::ConnectionTerminated,
        Trouble::BadInvoke => Kind::BadRequest,
    };
    Problem::new(kind, detail).because(trouble.slug())
}

pub(super) fn too_late() -> Problem {
    Problem::new(
        Kind::ResponseTimeout,
        "no response head within the time that the request may take",
    )
}

pub(super) fn refused() -> Problem {
    Problem::new(
        Kind::ConnectionRefused,
        "the function's instance does not accept connections",
    )
}

pub(super) fn undone() -> Problem {
    Problem::new(
        Kind::ConnectionRefused,
        "the function refused the request again and again, or after too much of its body for another attempt",
    )
}

pub(super) fn faulty(fault: Fault) -> Problem {
    let kind = match fault {
        Fault::TooLarge => Kind::BodyTooLarge,
        Fault::Stalled => Kind::UploadStalled,
        Fault::Gone | Fault::Malformed => Kind::BadRequest,
    };
    Problem::new(kind, fault.to_string()).closing()
}

pub(super) fn died(gone: &Gone) -> Problem {
    let malformed = |what: String| Problem::new(Kind::MalformedResponse, what);
    let terminated = |what: String| Problem::new(Kind::ConnectionTerminated, what);
    match gone {
        Gone::Http1(error) if error.is_parse() => {
            malformed(format!("the function's response head is malformed: {error}"))
        }
        Gone::Http2(Death::Http1) => {
            malformed(format!("the function speaks HTTP/1 alone: {OVER_HTTP2}")).because("speaks-http1")
        }
        Gone::Http2(Death::Mute) => terminated(format!(
            "the function closed the connection without a word of HTTP/2: {OVER_HTTP2}"
        )),
        Gone::Http2(Death::Reset(reason)) => terminated(format!(
            "the function reset the stream before it answered ({reason:?})"
        ))
        .because("stream-reset"),
        Gone::Http2(Death::Floods) => malformed(
            "the function floods its connection with frames of HTTP/2 that change nothing".to_owned(),
        )
        .because("http2-flood"),
        Gone::Http2(Death::Malformed(reason)) => {
            let reason = reason.map_or_else(String::new, |reason| format!(" ({reason:?})"));
            malformed(format!("what the function sent is not HTTP/2{reason}"))
        }
        Gone::Unsaid | Gone::Unread | Gone::Http1(_) | Gone::Http2(Death::Connection { .. }) => {
            terminated("the function closed the connection before it answered".to_owned())
        }
    }
}
