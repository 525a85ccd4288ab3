//! The body of a target's answer on its way to the function. Holds the connection and the call's place until its end, and no more than
//! hyper's buffers.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::super::body::{Aborted, Fault, Upload};
use super::super::headers;
use super::super::ids::RequestId;
use super::call::Call;
use super::forward::note;
use crate::admission::breaker;
use crate::egress::http::guard::Place;
use crate::egress::http::pool::Link;

/// A target's response body. Dropped early it closes the connection, which is how the target learns that nobody listens any more.
pub(crate) struct Download {
    source: Incoming,
    // Released in this order: the place is free only when nothing of this call is left on the connection.
    link: Option<Box<Link<Upload>>>,
    place: Option<Place>,
    call: Call,
    id: RequestId,
    /// The head came before the request's body was sent: the next call is not risked on the connection.
    early: bool,
}

impl Download {
    pub(super) fn new(
        source: Incoming,
        link: Box<Link<Upload>>,
        place: Place,
        call: Call,
        id: &RequestId,
    ) -> Download {
        Download {
            early: call.watch.is_uploading(),
            source,
            link: Some(link),
            place: Some(place),
            call,
            id: id.clone(),
        }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        // Being asked means that the function took what it was given.
        self.call.watch.download.clear();
        if let Some(link) = &mut self.link
            && !link.is_idle()
            && link.poll(cx).is_ready()
        {
            self.link = None;
        }
        match ready!(Pin::new(&mut self.source).poll_frame(cx)) {
            Some(Ok(mut frame)) => {
                if let Some(trailer) = frame.trailers_mut() {
                    headers::strip_trailer(trailer);
                }
                if self.source.is_end_stream() || frame.is_trailers() {
                    self.release(Some(cx));
                } else {
                    let patience = self.call.connection().worker.shared.bounds.body_idle;
                    let watch = &self.call.watch;
                    watch.set(&watch.download, Instant::now() + patience);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                self.release(Some(cx));
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                self.link = None;
                if Fault::of(&self.call.watch).is_none() {
                    if let Some(place) = &mut self.place {
                        note(&self.call, place, breaker::Call::Failed);
                    }
                    let id = self.id.0.to_str().unwrap_or("");
                    let detail = format!("the target's connection ended within the answer: {error}");
                    self.call.complain(id, "binding-incomplete", &detail);
                }
                self.release(None);
                Poll::Ready(Some(Err(Aborted)))
            }
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }

    /// Keeps the connection if the next call may use it, then gives the place back.
    fn release(&mut self, cx: Option<&mut Context<'_>>) {
        if let Some(mut link) = self.link.take() {
            if let Some(cx) = cx
                && !link.is_idle()
            {
                let _ = link.poll(cx);
            }
            if link.is_idle() && !self.early {
                let stale = self.call.outlet.pool.borrow_mut().put(link, Instant::now());
                drop(stale);
            }
        }
        self.place = None;
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.release(None);
    }
}
