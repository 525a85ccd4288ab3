//! One attempt with one instance: its connection, the request on it, and the response head. Decides nothing about another
//! attempt.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use http::{Request, Response};
use hyper::body::Incoming;

use super::answer::{died, refused};
use super::body::Upload;
use super::pool::Upstream;
use super::respond::{Kind, Problem};
use super::watch::Watch;
use crate::contract;
use crate::function::handle::Lease;
use crate::function::instance::Instance;

/// Why there is no response head.
pub(super) enum Broken {
    /// Nothing was written: here is the request again.
    NotWritten(Box<Request<Upload>>),
    /// Something was written, then the connection ended.
    Died(Option<hyper::Error>),
    /// The deadline.
    TooLate,
}

/// The same request once more, if its body is at hand.
pub(super) fn again(request: &Request<Upload>) -> Option<Request<Upload>> {
    let mut again = Request::new(request.body().again()?);
    again.method_mut().clone_from(request.method());
    again.uri_mut().clone_from(request.uri());
    again.headers_mut().clone_from(request.headers());
    Some(again)
}

pub(super) async fn dial(lease: &Lease, deadline: Instant) -> Result<Box<Upstream>, Problem> {
    let stream = match contract::connect(lease.instance(), deadline).await {
        Ok(stream) => stream,
        Err(error) if is_too_late(lease.instance(), &error) => {
            return Err(Problem::new(
                Kind::StartTimeout,
                "the function did not accept the connection in time",
            ));
        }
        // Out of descriptors or memory: a fault of the host, which the operator must see as such.
        Err(error) if matches!(error.raw_os_error(), Some(12 | 23 | 24)) => {
            return Err(Problem::new(
                Kind::Internal,
                format!("can't connect to the function: {error}"),
            ));
        }
        Err(_) => return Err(refused()),
    };
    Upstream::over(stream).await.map_err(|error| died(Some(&error)))
}

/// Whether nobody accepted the connection until the deadline: a listen queue that stays full says `EAGAIN`.
fn is_too_late(instance: &Instance, error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::TimedOut => true,
        io::ErrorKind::WouldBlock => instance.is_accepting(),
        _ => false,
    }
}

/// Sends the request and polls its connection, in this task, until there is a head.
pub(super) async fn exchange(
    upstream: &mut Upstream,
    request: Request<Upload>,
    watch: &Watch,
) -> Result<Response<Incoming>, Broken> {
    let mut head = pin!(upstream.sender.try_send_request(request));
    poll_fn(|cx| {
        let ended = upstream.poll(cx).is_ready();
        match head.as_mut().poll(cx) {
            Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
            Poll::Ready(Err(mut error)) => Poll::Ready(Err(match error.take_message() {
                Some(request) => Broken::NotWritten(Box::new(request)),
                None => Broken::Died(Some(error.into_error())),
            })),
            Poll::Pending if watch.missed(&watch.head) => Poll::Ready(Err(Broken::TooLate)),
            // hyper answers before it ends; but an instance must not be able to hang a request by proving it wrong.
            Poll::Pending if ended => Poll::Ready(Err(Broken::Died(None))),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
