//! What an instance said, or why there is none of it, as its caller is told. Sends nothing.

use std::time::Instant;

use http::Response;
use hyper::body::Incoming;

use super::body::Fault;
use super::exchange::Broken;
use super::respond::{Kind, Problem};
use crate::catalog::manifest::Contract;
use crate::contract::lambda::Trouble;
use crate::contract::{fdk, ironhttp};
use crate::function::handle::Unavailable;
use crate::function::instance::{Address, Instance};

/// What is no answer for the caller.
pub(super) struct NoAnswer {
    pub(super) problem: Problem,
    /// Whether the instance is of no use any more.
    pub(super) is_fatal: bool,
}

/// The answer in what an instance said.
pub(super) fn understand(
    contract: Contract,
    response: Response<Incoming>,
) -> Result<Response<Incoming>, NoAnswer> {
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
pub(super) fn died_at_its_desk(
    instance: &Instance,
    sent: Result<Response<Incoming>, Broken>,
) -> Result<Response<Incoming>, Broken> {
    match &sent {
        Ok(response)
            if matches!(instance.address, Address::Lambda(_)) && Trouble::is_end(response.headers()) =>
        {
            Err(Broken::Died(None))
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

pub(super) fn faulty(fault: Fault) -> Problem {
    let kind = match fault {
        Fault::TooLarge => Kind::BodyTooLarge,
        Fault::Stalled => Kind::UploadStalled,
        Fault::Gone | Fault::Malformed => Kind::BadRequest,
    };
    Problem::new(kind, fault.to_string()).closing()
}

pub(super) fn died(error: Option<&hyper::Error>) -> Problem {
    if let Some(error) = error.filter(|error| error.is_parse()) {
        Problem::new(
            Kind::MalformedResponse,
            format!("the function's response head is malformed: {error}"),
        )
    } else {
        Problem::new(
            Kind::ConnectionTerminated,
            "the function closed the connection before it answered",
        )
    }
}
