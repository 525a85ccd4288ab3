//! One attempt with one instance: its connection, the request on it, and the response head. Decides nothing about another
//! attempt.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use http::header::{self, HeaderMap};
use http::{Request, Response};
use hyper::body::Incoming;

use super::answer::{died, refused};
use super::body::{Origin, Upload};
use super::call::{self, Death};
use super::channel::Channel;
use super::pool::{self, Upstream};
use super::respond::{Kind, Problem};
use super::via::Via;
use super::watch::Watch;
use super::worker::Worker;
use super::{channels, grpc, link};
use crate::catalog::manifest::{H2c, Manifest};
use crate::contract;
use crate::function::handle::Lease;
use crate::function::instance::{Instance, Stream};
use crate::ledger::record::Record;

/// Why there is no response head.
pub(super) enum Broken {
    /// Nothing was written: here is the request again.
    NotWritten(Box<Request<Upload>>),
    /// The function says that it did nothing of it (RFC 9113, 8.7): here it is again, unless too much of its body was sent.
    Undone {
        /// The request.
        back: Option<Box<Request<Upload>>>,
        /// Not this request alone: it takes no more on that connection.
        leaves: bool,
    },
    /// Something was written, then the connection ended.
    Died(Gone),
    /// The deadline.
    TooLate,
}

/// How what carried a request ended.
pub(super) enum Gone {
    /// Nobody said how.
    Unsaid,
    /// It had ended before.
    Unread,
    /// A connection of its own.
    Http1(hyper::Error),
    /// A stream of a connection.
    Http2(Death),
}

impl Gone {
    /// What came was no answer at all.
    pub(super) fn is_malformed(&self) -> bool {
        match self {
            Gone::Unsaid | Gone::Unread => false,
            Gone::Http1(error) => error.is_parse(),
            Gone::Http2(death) => death.is_malformed(),
        }
    }

    /// The instance itself may have ended, and over this request.
    pub(super) fn is_end(&self) -> bool {
        !self.is_malformed() && !matches!(self, Gone::Unread | Gone::Http2(Death::Reset(_)))
    }

    /// The instance closed a connection of its own before this request, or with something of it unread (unix(7)): it did not end over
    /// this request.
    pub(super) fn is_unread(&self) -> bool {
        let error = match self {
            Gone::Unread => return true,
            Gone::Http1(error) => error,
            Gone::Unsaid | Gone::Http2(_) => return false,
        };
        let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
        cause.is_some_and(|cause| cause.kind() == io::ErrorKind::ConnectionReset)
    }

    /// The instance had read all that was sent to it.
    pub(super) fn has_read(&self) -> bool {
        match self {
            Gone::Unsaid | Gone::Unread => false,
            Gone::Http1(error) => error.is_incomplete_message(),
            Gone::Http2(death) => *death == Death::Connection { clean: true },
        }
    }
}

/// What a request is sent on.
pub(super) enum Line {
    /// A connection of its own.
    Own(Box<Upstream>),
    /// One that others use too.
    Shared {
        /// It.
        channel: Rc<Channel>,
        /// It has carried requests before.
        reused: bool,
    },
}

impl Line {
    /// Whether HTTP/2 is spoken on it.
    pub(super) fn is_http2(&self) -> bool {
        matches!(self, Line::Shared { .. })
    }

    /// Whether it has carried requests before, and may have ended since.
    pub(super) fn is_reused(&self) -> bool {
        match self {
            Line::Own(upstream) => upstream.reused,
            Line::Shared { reused, .. } => *reused,
        }
    }
}

/// A response head, and what carries the body.
pub(super) struct Sent {
    pub(super) response: Response<Origin>,
    pub(super) via: Via,
}

/// Which connections will do for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Any that is open as far as the runtime knows.
    Open,
    /// One that is open as far as the kernel knows, which costs a system call.
    Certain,
    /// One that has carried no other request before.
    Fresh,
}

/// Finds or makes what this request is sent on.
pub(super) async fn line(
    worker: &Worker,
    lease: &Lease,
    request: &Request<Upload>,
    (wanted, deadline): (Wanted, Instant),
    record: &RefCell<Record>,
) -> Result<Line, Problem> {
    let instance = lease.instance();
    let manifest = &instance.revision.manifest;
    let keep = !manifest.takes_one_connection() && wanted != Wanted::Fresh;
    let certain = wanted == Wanted::Certain;
    if goes_over_http2(manifest, request.headers()) {
        let make = async || {
            let stream = connect(lease, deadline).await?;
            record.borrow_mut().dials();
            let made = Channel::over(stream).await;
            made.map_err(|_| refused())
        };
        let (channel, reused) = match keep {
            true => channels::channel(&worker.pool, instance, (certain, deadline), make).await?,
            false => (make().await?, false),
        };
        return Ok(Line::Shared { channel, reused });
    }
    let parked = match keep {
        true => pool::pop_open(&worker.pool, instance, certain).await,
        false => None,
    };
    if let Some(upstream) = parked {
        return Ok(Line::Own(upstream));
    }
    let stream = connect(lease, deadline).await?;
    record.borrow_mut().dials();
    let upstream = Upstream::over(stream).await;
    upstream.map(Line::Own).map_err(|error| died(&Gone::Http1(error)))
}

/// Whether a request goes over HTTP/2. Only HTTP/1.1 can change to another protocol, so what asks for that never does.
fn goes_over_http2(manifest: &Manifest, headers: &HeaderMap) -> bool {
    let wanted = match manifest.h2c {
        H2c::Always => true,
        H2c::Grpc => grpc::is_call(headers),
        H2c::Never => false,
    };
    wanted && manifest.contract.takes_h2c() && !headers.contains_key(header::UPGRADE)
}

/// Sends a request on its line, and waits for the response head.
pub(super) async fn send(line: Line, request: Request<Upload>, watch: &Watch) -> Result<Sent, Broken> {
    match line {
        Line::Own(mut upstream) => {
            let response = exchange(&mut upstream, request, watch).await?;
            Ok(Sent {
                response: response.map(Origin::Wire),
                via: Via::Connection(upstream),
            })
        }
        Line::Shared { channel, .. } => {
            let (response, call) = call::exchange(&channel, request, watch).await?;
            Ok(Sent {
                response: response.map(Origin::Stream),
                via: Via::Stream(Box::new(call)),
            })
        }
    }
}

/// The same request once more, if its body is at hand.
pub(super) fn again(request: &Request<Upload>) -> Option<Request<Upload>> {
    let mut again = Request::new(request.body().again()?);
    again.method_mut().clone_from(request.method());
    again.uri_mut().clone_from(request.uri());
    again.headers_mut().clone_from(request.headers());
    Some(again)
}

async fn connect(lease: &Lease, deadline: Instant) -> Result<Stream, Problem> {
    match contract::connect(lease.instance(), deadline).await {
        Ok(stream) => Ok(stream),
        Err(error) if is_too_late(lease.instance(), &error) => Err(Problem::new(
            Kind::StartTimeout,
            "the function did not accept the connection in time",
        )),
        // Out of descriptors or memory: a fault of the host, which the operator must see as such.
        Err(error) if matches!(error.raw_os_error(), Some(12 | 23 | 24)) => Err(Problem::new(
            Kind::Internal,
            format!("can't connect to the function: {error}"),
        )),
        Err(_) => Err(refused()),
    }
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
    let answer = upstream.exchange(request, || watch.missed(&watch.head)).await;
    answer.map_err(|broken| match broken {
        link::Broken::NotWritten(back) => Broken::NotWritten(back),
        link::Broken::Died(Some(error)) if error.is_parse() => Broken::Died(Gone::Http1(error)),
        link::Broken::Died(_) if !upstream.may_be_read() => Broken::Died(Gone::Unread),
        link::Broken::Died(None) => Broken::Died(Gone::Unsaid),
        link::Broken::Died(Some(error)) => Broken::Died(Gone::Http1(error)),
        link::Broken::TooLate => Broken::TooLate,
    })
}
