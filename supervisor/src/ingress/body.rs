//! Bodies on their way. A request body is bounded and must keep coming; a response body holds the permit, the lease
//! and the upstream connection until its end, and must keep being taken. Neither holds more than hyper's buffers.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::received::Received;
use super::via::Via;
use super::visit::Visit;
use super::watch::Watch;
use super::{grpc, headers, inside};
use crate::admission::budget::Attempt;
use crate::admission::door::Permit;
use crate::contract::process::{Output, Trouble};
use crate::function::handle::Lease;
use crate::function::instance::Address;
use crate::ledger::record::End;

/// Why a request body ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Fault {
    /// Longer than the manifest allows.
    TooLarge = 1,
    /// Nothing came for too long.
    Stalled,
    /// The caller went away.
    Gone,
    /// Its framing broke.
    Malformed,
}

impl Fault {
    /// The one that ended this request's body, if one did.
    pub(super) fn of(watch: &Watch) -> Option<Fault> {
        match watch.fault.load(Ordering::Relaxed) {
            1 => Some(Fault::TooLarge),
            2 => Some(Fault::Stalled),
            3 => Some(Fault::Gone),
            4 => Some(Fault::Malformed),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::TooLarge => "the request body is too large",
            Fault::Stalled => "the request body stopped coming",
            Fault::Gone => "the caller went away",
            Fault::Malformed => "the framing of the request body is malformed",
        })
    }
}

impl std::error::Error for Fault {}

/// Where a request body comes from.
enum Source {
    /// There is none.
    None,
    /// The caller.
    Caller(Incoming),
    /// It is all there, so that it can be sent again.
    Kept(Bytes, Option<HeaderMap>),
}

/// A request body on its way to an instance.
pub(super) struct Upload {
    source: Source,
    /// Bytes that may still come.
    left: u64,
    /// How long nothing may come.
    patience: Duration,
    waiting: bool,
    watch: Arc<Watch>,
    /// What went out already, for as long as it may have to go out again.
    memory: Option<Memory>,
    /// What goes out again first.
    replay: Memory,
}

/// The beginning of a body.
#[derive(Default)]
struct Memory {
    data: VecDeque<Bytes>,
    bytes: usize,
    trailers: Option<HeaderMap>,
}

impl Memory {
    /// Whether there is room for it.
    fn keep(&mut self, frame: &Frame<Bytes>) -> bool {
        if let Some(data) = frame.data_ref() {
            self.bytes += data.len();
            self.data.push_back(data.clone());
        }
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
        self.bytes <= Attempt::BODY
    }

    fn next(&mut self) -> Option<Frame<Bytes>> {
        match self.data.pop_front() {
            Some(data) => Some(Frame::data(data)),
            None => self.trailers.take().map(Frame::trailers),
        }
    }

    fn is_empty(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }
}

impl Upload {
    pub(super) fn new(incoming: Incoming, limit: u64, patience: Duration, watch: &Arc<Watch>) -> Upload {
        watch
            .uploading
            .store(!incoming.is_end_stream(), Ordering::Relaxed);
        Upload {
            source: match incoming.is_end_stream() {
                true => Source::None,
                false => Source::Caller(incoming),
            },
            left: limit,
            patience,
            waiting: false,
            watch: Arc::clone(watch),
            memory: None,
            replay: Memory::default(),
        }
    }

    /// No body.
    #[cfg(any(test, fuzzing))]
    pub(super) fn none(watch: &Arc<Watch>) -> Upload {
        Upload {
            source: Source::None,
            left: 0,
            patience: Duration::ZERO,
            waiting: false,
            watch: Arc::clone(watch),
            memory: None,
            replay: Memory::default(),
        }
    }

    /// The same once more, for a request that is sent again; `None`: its caller sends it only once.
    pub(super) fn again(&self) -> Option<Upload> {
        let source = match &self.source {
            Source::None => Source::None,
            Source::Caller(_) => return None,
            Source::Kept(bytes, trailers) => Source::Kept(bytes.clone(), trailers.clone()),
        };
        Some(Upload {
            source,
            left: 0,
            patience: Duration::ZERO,
            waiting: false,
            watch: Arc::clone(&self.watch),
            memory: None,
            replay: Memory::default(),
        })
    }

    /// Whether all of it is at hand.
    pub(super) fn is_at_hand(&self) -> bool {
        !matches!(self.source, Source::Caller(_))
    }

    /// Takes all of it from the caller. `None`: the time-out of the request passed first.
    ///
    /// # Errors
    /// [`Fault`] when it broke off.
    pub(super) async fn keep(&mut self) -> Option<Result<(), Fault>> {
        let (mut bytes, mut trailers) = (BytesMut::new(), None);
        loop {
            let frame = std::future::poll_fn(|cx| match Pin::new(&mut *self).poll_frame(cx) {
                Poll::Pending if self.watch.missed(&self.watch.head) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
                Poll::Ready(frame) => Poll::Ready(Some(frame)),
            });
            match frame.await? {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => bytes.extend_from_slice(&data),
                    Err(frame) => trailers = frame.into_trailers().ok(),
                },
                Some(Err(fault)) => return Some(Err(fault)),
                None => break,
            }
        }
        self.source = Source::Kept(bytes.freeze(), trailers);
        Some(Ok(()))
    }

    /// Keeps what goes out from now on, as long as it is short.
    pub(super) fn remember(&mut self) {
        self.memory = Some(Memory::default());
    }

    /// Nothing will have to go out again.
    pub(super) fn forget(&mut self) {
        self.memory = None;
    }

    /// The whole body once more; `None`: too much of it went out.
    pub(super) fn rewind(mut self) -> Option<Upload> {
        let mut memory = self.memory.take()?;
        memory.data.append(&mut self.replay.data);
        memory.trailers = memory.trailers.or(self.replay.trailers.take());
        self.replay = memory;
        Some(self)
    }

    fn remembered(&mut self, frame: Frame<Bytes>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if self.memory.as_mut().is_some_and(|memory| !memory.keep(&frame)) {
            self.memory = None;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn fail(&self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.watch.fault.store(fault as u8, Ordering::Relaxed);
        self.watch.upload.clear();
        Poll::Ready(Some(Err(fault)))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = self.get_mut();
        if let Some(frame) = this.replay.next() {
            return this.remembered(frame);
        }
        let incoming = match &mut this.source {
            Source::None => return Poll::Ready(None),
            Source::Caller(incoming) => incoming,
            Source::Kept(bytes, trailers) => {
                let next = match bytes.is_empty() {
                    false => Some(Frame::data(std::mem::take(bytes))),
                    true => trailers.take().map(Frame::trailers),
                };
                return match next {
                    Some(frame) => this.remembered(frame),
                    None => Poll::Ready(None),
                };
            }
        };
        let Poll::Ready(frame) = Pin::new(incoming).poll_frame(cx) else {
            if !std::mem::replace(&mut this.waiting, true) {
                this.watch.set(&this.watch.upload, Instant::now() + this.patience);
            } else if this.watch.missed(&this.watch.upload) {
                return this.fail(Fault::Stalled);
            }
            return Poll::Pending;
        };
        if std::mem::take(&mut this.waiting) {
            this.watch.upload.clear();
        }
        match frame {
            None => {
                this.watch.end_upload();
                Poll::Ready(None)
            }
            Some(Err(_)) if this.watch.is_flawed() => this.fail(Fault::Malformed),
            Some(Err(_)) => this.fail(Fault::Gone),
            Some(Ok(mut frame)) => {
                if let Some(trailer) = frame.trailers_mut() {
                    headers::strip_trailer(trailer);
                }
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                let Some(left) = this.left.checked_sub(bytes) else {
                    return this.fail(Fault::TooLarge);
                };
                this.left = left;
                this.watch.uploaded.fetch_add(bytes, Ordering::Relaxed);
                if frame.is_trailers() || this.is_end_stream() {
                    this.watch.end_upload();
                }
                this.remembered(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        if !self.replay.is_empty() {
            return false;
        }
        match &self.source {
            Source::None => true,
            Source::Caller(incoming) => incoming.is_end_stream(),
            Source::Kept(bytes, trailers) => bytes.is_empty() && trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        if !self.replay.is_empty() {
            return SizeHint::default();
        }
        match &self.source {
            Source::None => SizeHint::with_exact(0),
            Source::Caller(incoming) => incoming.size_hint(),
            Source::Kept(bytes, _) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

/// The response was cut off: the caller sees that it is incomplete.
#[derive(Debug)]
pub(super) struct Aborted;

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the response ended early")
    }
}

impl std::error::Error for Aborted {}

/// Where a function's response body comes from.
pub(super) enum Origin {
    /// A connection to an instance.
    Wire(Incoming),
    /// A stream of a connection that others use too.
    Stream(Received),
    /// A process that was started for the request.
    Process(Output<Upload>),
}

/// Why it ended early.
#[derive(Debug)]
enum Cut {
    Wire(hyper::Error),
    Stream(h2::Error),
    Process(Trouble),
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cut::Wire(error) => write!(f, "the instance's connection ended within the body: {error}"),
            Cut::Stream(error) => write!(f, "the instance's stream ended within the body: {error}"),
            Cut::Process(Trouble::TooLate) => {
                f.write_str("its process was killed: it did not end within the function's time-out")
            }
            Cut::Process(trouble) => write!(f, "its process was killed: {trouble:?}"),
        }
    }
}

impl Origin {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self {
            Origin::Wire(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Cut::Wire),
            Origin::Stream(received) => received.poll_frame(cx).map_err(Cut::Stream),
            Origin::Process(output) => output.poll_frame(cx).map_err(Cut::Process),
        }
    }

    /// Nobody wants the rest of it.
    fn give_up(&mut self) {
        if let Origin::Process(output) = self {
            *output = Output::Whole(Bytes::new());
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Origin::Wire(incoming) => incoming.is_end_stream(),
            Origin::Stream(received) => received.is_end_stream(),
            Origin::Process(output) => output.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Origin::Wire(incoming) => incoming.size_hint(),
            Origin::Stream(received) => received.size_hint(),
            Origin::Process(output) => output
                .length()
                .map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// What goes back to the caller.
pub(super) enum Reply {
    /// An answer of funcd's own, or none; the visit ends with it.
    Own { bytes: Bytes, _visit: Option<Visit> },
    /// A function's.
    Function(Download),
    /// That of a binding's target, for a function.
    Target(Box<inside::Download>),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        match self.get_mut() {
            Reply::Own { bytes, .. } if bytes.is_empty() => Poll::Ready(None),
            Reply::Own { bytes, .. } => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Reply::Function(download) => download.poll_frame(cx),
            Reply::Target(download) => download.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Reply::Own { bytes, .. } => bytes.is_empty(),
            Reply::Function(download) => download.source.is_end_stream(),
            Reply::Target(download) => download.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Reply::Own { bytes, .. } => SizeHint::with_exact(bytes.len() as u64),
            Reply::Function(download) => download.source.size_hint(),
            Reply::Target(download) => download.size_hint(),
        }
    }
}

/// A function's response body. Dropped early it closes the upstream connection, which is how the function learns that
/// nobody listens any more.
pub(super) struct Download {
    source: Origin,
    // Released in this order: the place is free only when nothing of this request is left on the connection.
    via: Option<Via>,
    lease: Option<Lease>,
    permit: Option<Permit>,
    visit: Visit,
    /// The head came before the request's body was sent: a server that doesn't read on closes the connection after
    /// its response, so the next request is not risked on it.
    early: bool,
}

impl Download {
    pub(super) fn new(
        source: Origin,
        via: Option<Via>,
        lease: Lease,
        permit: Permit,
        visit: Visit,
    ) -> Download {
        Download {
            early: visit.watch().is_uploading(),
            source,
            via,
            lease: Some(lease),
            permit: Some(permit),
            visit,
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        // Being asked means that the caller took what it was given.
        self.visit.watch().download.clear();
        if let Some(via) = &mut self.via
            && via.poll(cx).is_ready()
        {
            self.via = None;
        }
        match ready!(self.source.poll_frame(cx)) {
            Some(Ok(mut frame)) => {
                if let Some(trailer) = frame.trailers_mut() {
                    headers::strip_trailer(trailer);
                }
                self.visit.downloaded(frame.data_ref().map_or(0, Bytes::len));
                if self.source.is_end_stream() || frame.is_trailers() {
                    self.release(Some(cx));
                } else {
                    let patience = self.visit.worker().shared.bounds.body_idle;
                    let watch = self.visit.watch();
                    watch.set(&watch.download, Instant::now() + patience);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                self.release(Some(cx));
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                self.via = None;
                self.source.give_up();
                self.release(None);
                let fault = Fault::of(self.visit.watch());
                let reason = if fault.is_some() {
                    "upload-fault"
                } else {
                    "response-incomplete"
                };
                self.visit.failed(reason);
                self.visit.broke_off(End::CutOff);
                tracing::warn!(
                    function = self.visit.function(),
                    request_id = self.visit.id(),
                    %error,
                    reason,
                    "a response was cut off"
                );
                match self.visit.is_call && !self.visit.is_http1() {
                    // The caller learns why, and not only that the stream was reset.
                    true => Poll::Ready(Some(Ok(Frame::trailers(grpc::ended_early())))),
                    false => Poll::Ready(Some(Err(Aborted))),
                }
            }
        }
    }

    /// Gives back the connection if the next request may use it, then the place.
    fn release(&mut self, cx: Option<&mut Context<'_>>) {
        let upstream = match self.via.take() {
            Some(Via::Connection(upstream)) => Some(upstream),
            // Its connection is kept for all.
            Some(Via::Stream(_)) | None => None,
        };
        if let (Some(mut upstream), Some(lease)) = (upstream, &self.lease) {
            if let Some(cx) = cx
                && !upstream.is_idle()
            {
                let _ = upstream.poll(cx);
            }
            if let Address::Pipes(pipes) = &lease.instance().address {
                // Else they are lost, and with them the instance: its next answer could be to this request.
                if upstream.is_idle()
                    && !self.early
                    && let Some(ends) = upstream.into_ends()
                {
                    pipes.put(ends);
                }
            } else if upstream.is_idle() && !self.early {
                let now = Instant::now();
                let pool = &self.visit.worker().pool;
                let stale = pool.borrow_mut().put(lease.instance(), upstream, now);
                drop(stale);
                self.visit.completed(now);
            }
        }
        self.lease = None;
        self.permit = None;
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if self.lease.is_some() && !self.source.is_end_stream() {
            self.visit.broke_off(End::GoneWithin);
        }
        // A process that nobody listens to is known as such before its place is given back.
        self.source.give_up();
        self.release(None);
    }
}
