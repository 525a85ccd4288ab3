//! The contract of AWS Lambda's custom runtimes: the process asks for its requests itself, over HTTP, at
//! `AWS_LAMBDA_RUNTIME_API`. There an instance's *desk* answers: a task of the supervisor behind a socket that the launcher
//! opened within the instance's own network namespace. Never trusts what comes from there, and never blocks a worker: desks have
//! threads of their own.
//!
//! ```text
//! caller → worker → (a pair of sockets) → desk: request → event → queue ─┐ GET  …/invocation/next
//! caller ← worker ← (the same pair)     ← desk: response ← answer      ←─┘ POST …/invocation/{id}/response
//! ```

mod base64;
mod desk;
mod environment;
mod event;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod invocations;
mod invoke;
mod link;
mod out;
mod reply;
mod runtime_api;
mod threads;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Pair;
use std::time::Instant;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

use desk::Desk;
pub use desk::Setting;
pub(crate) use environment::{PORT, environment};
use out::Out;
pub use threads::Threads;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What a caller may wait, in milliseconds, as workers tell every function.
const X_REQUEST_TIMEOUT_MS: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// What a worker tells the desk: until when the function may take, in milliseconds since 1970. A caller who wants the answer sooner
/// does not change that.
const DEADLINE: HeaderName = HeaderName::from_static("x-funcd-deadline-ms");
/// What the desk tells the worker: why there is no response of the function's.
const PROBLEM: HeaderName = HeaderName::from_static("x-funcd-problem");
/// And in words.
const DETAIL: HeaderName = HeaderName::from_static("x-funcd-detail");

/// Whether a header is one that worker and desk say to each other.
fn is_word(name: &HeaderName) -> bool {
    [DEADLINE, PROBLEM, DETAIL].contains(name)
}

/// What is sent to an instance's desk.
#[derive(Debug)]
enum Message {
    /// A connection of a worker.
    Caller(Pair),
    /// The socket that the function asks at.
    Listen(OwnedFd),
    /// A connection on which the function has asked another supervisor for something to do.
    Passed(OwnedFd),
    /// Another supervisor is asked from now on; those connections on which the function waits are for it.
    Yield(oneshot::Sender<Vec<OwnedFd>>),
}

/// An instance's desk, as others see it. It ends when this is dropped or closed.
#[derive(Debug)]
pub struct Api {
    messages: mpsc::UnboundedSender<Message>,
    asked: watch::Receiver<bool>,
    closed: watch::Sender<bool>,
}

impl Api {
    /// The function's process can ask now, at this listening socket.
    pub fn listen(&self, listener: OwnedFd) {
        let _ = self.messages.send(Message::Listen(listener));
    }

    /// The function waits on this connection, which another supervisor had.
    pub fn take(&self, connection: OwnedFd) {
        let _ = self.messages.send(Message::Passed(connection));
    }

    /// Listens no more; the connections on which the function waits for something to do.
    pub fn leave(&self) -> oneshot::Receiver<Vec<OwnedFd>> {
        let (reply, connections) = oneshot::channel();
        let _ = self.messages.send(Message::Yield(reply));
        connections
    }

    /// A connection that takes HTTP requests, as those to other instances do.
    ///
    /// # Errors
    /// Those of socketpair(2); refused when the instance has ended.
    pub fn dial(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = Pair::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let gone = |_| io::Error::new(io::ErrorKind::ConnectionRefused, "the instance has ended");
        if *self.closed.borrow() {
            return Err(gone(()));
        }
        self.messages
            .send(Message::Caller(theirs))
            .map_err(|_| gone(()))?;
        UnixStream::from_std(ours)
    }

    /// Waits until the function has asked for its first request: it is ready. False: it ended before.
    pub async fn ready(&self) -> bool {
        let (mut asked, mut closed) = (self.asked.clone(), self.closed.subscribe());
        tokio::select! {
            asked = asked.wait_for(|asked| *asked) => asked.is_ok(),
            _ = closed.wait_for(|closed| *closed) => false,
        }
    }

    /// The instance has ended: whoever waits for an answer is told.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }
}

/// Why there is no response of the function's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The function says that it failed.
    Failed,
    /// What it answered is no response.
    Malformed,
    /// What it answered is too large.
    TooLarge,
    /// Its process ended.
    Ended,
    /// The caller's raw invocation is none.
    BadInvoke,
}

impl Trouble {
    const ALL: [Trouble; 5] = [
        Trouble::Failed,
        Trouble::Malformed,
        Trouble::TooLarge,
        Trouble::Ended,
        Trouble::BadInvoke,
    ];

    /// Its name, for metrics.
    pub fn slug(self) -> &'static str {
        match self {
            Trouble::Failed => "function-error",
            Trouble::Malformed => "malformed-response",
            Trouble::TooLarge => "response-too-large",
            Trouble::Ended => "connection-terminated",
            Trouble::BadInvoke => "bad-invocation",
        }
    }

    /// The response that tells a worker.
    fn tell(self, detail: &str) -> Response<Out> {
        let mut response = Response::new(Out::whole(bytes::Bytes::new()));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        let headers = response.headers_mut();
        headers.insert(PROBLEM, HeaderValue::from_static(self.slug()));
        let plain: String = detail.chars().filter(|c| !c.is_control()).take(512).collect();
        if let Ok(detail) = HeaderValue::from_bytes(plain.as_bytes()) {
            headers.insert(DETAIL, detail);
        }
        response
    }

    /// Whether a desk's response tells that the process ended.
    pub fn is_end(headers: &HeaderMap) -> bool {
        headers
            .get(PROBLEM)
            .is_some_and(|slug| slug == Trouble::Ended.slug())
    }

    /// What a desk's response tells: `None` when it is the function's own.
    pub fn of(headers: &HeaderMap) -> Option<(Trouble, String)> {
        let slug = headers.get(PROBLEM)?;
        let trouble = Trouble::ALL.into_iter().find(|trouble| slug == trouble.slug())?;
        let detail = headers
            .get(DETAIL)
            .map(|detail| String::from_utf8_lossy(detail.as_bytes()));
        Some((trouble, detail.unwrap_or_default().into_owned()))
    }
}

/// Tells the desk until when the function may take.
pub fn set_deadline(headers: &mut HeaderMap, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    let at = (std::time::SystemTime::now() + left).duration_since(std::time::UNIX_EPOCH);
    let millis = u64::try_from(at.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
    headers.insert(DEADLINE, HeaderValue::from(millis));
}
