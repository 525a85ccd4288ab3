//! The body of an answer that comes as a stream of HTTP/2. What has come is taken from the connection at once, and kept in few
//! pieces until the caller takes it; only then may the function send as much again. Never holds more than the window of a stream.
//!
//! h2 keeps each frame as it came, and that costs far more than a small frame has in it. So it ends a connection whose streams have
//! too many of them unread: one caller that reads nothing would end the calls of all others. Here they are put together, by a task
//! for each answer that is not complete with its head.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use h2::{FlowControl, RecvStream};
use http::header::{self, HeaderMap};
use hyper::body::{Frame, SizeHint};
use tokio::task::AbortHandle;

/// Pieces below this are put together, up to a piece of [`PIECE`].
const SMALL: usize = 1024;
const PIECE: usize = 16 * 1024;

/// The body of an answer, as it comes.
pub(super) struct Received {
    held: Rc<RefCell<Held>>,
    flow: FlowControl,
    length: Option<u64>,
    reader: Option<AbortHandle>,
}

/// What has come of it.
struct Held {
    /// `None`: nothing more will come.
    stream: Option<RecvStream>,
    /// All data has come, and trailers may.
    data_over: bool,
    pieces: VecDeque<Bytes>,
    small: BytesMut,
    /// How it ends, once that is known and not told.
    end: Option<Result<HeaderMap, h2::Error>>,
    /// Who waits for more.
    waiting: Option<Waker>,
}

impl Received {
    /// What has come with the head, and a task for the rest of it, if there is any.
    pub(super) fn new(mut stream: RecvStream, headers: &HeaderMap, cx: &mut Context<'_>) -> Received {
        let length = headers.get(header::CONTENT_LENGTH);
        let flow = stream.flow_control().clone();
        let held = Rc::new(RefCell::new(Held {
            stream: Some(stream),
            data_over: false,
            pieces: VecDeque::new(),
            small: BytesMut::new(),
            end: None,
            waiting: None,
        }));
        let reader = match held.borrow_mut().read(cx) {
            Poll::Ready(()) => None,
            Poll::Pending => {
                let held = Rc::clone(&held);
                let read = poll_fn(move |cx| held.borrow_mut().read(cx));
                Some(tokio::task::spawn_local(read).abort_handle())
            }
        };
        Received {
            held,
            flow,
            length: length
                .and_then(|length| length.to_str().ok())
                .and_then(|length| length.parse().ok()),
            reader,
        }
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let mut held = self.held.borrow_mut();
        if let Some(piece) = held.next() {
            drop(held);
            // Of a stream that has ended nothing is to be released.
            let _ = self.flow.release_capacity(piece.len());
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if held.stream.is_some() {
            held.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(match held.end.take() {
            Some(Ok(trailers)) if trailers.is_empty() => None,
            Some(Ok(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Some(Err(error)) => Some(Err(error)),
            None => None,
        })
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let held = self.held.borrow();
        let has_more = match &held.end {
            Some(Ok(trailers)) => !trailers.is_empty(),
            Some(Err(_)) => true,
            None => held.stream.is_some(),
        };
        !has_more && held.pieces.is_empty() && held.small.is_empty()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.is_end_stream() {
            true => SizeHint::with_exact(0),
            false => self.length.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        // At once, and not when the task is: what is dropped with this may be all that the stream is waiting for.
        self.held.borrow_mut().stream = None;
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

impl Held {
    /// Takes what has come. Ready: that was all.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(stream) = &mut self.stream {
            let end = match self.data_over {
                false => match stream.poll_data(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Ok(data))) => {
                        self.keep(data);
                        continue;
                    }
                    Poll::Ready(Some(Err(error))) => Err(error),
                    Poll::Ready(None) => {
                        self.data_over = true;
                        continue;
                    }
                },
                true => match stream.poll_trailers(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(trailers) => trailers.map(Option::unwrap_or_default),
                },
            };
            self.end = Some(end);
            self.stream = None;
            self.wake();
        }
        Poll::Ready(())
    }

    fn keep(&mut self, data: Bytes) {
        if data.len() >= SMALL {
            self.flush();
            self.pieces.push_back(data);
        } else {
            self.small.extend_from_slice(&data);
            if self.small.len() >= PIECE {
                self.flush();
            }
        }
        self.wake();
    }

    fn flush(&mut self) {
        if !self.small.is_empty() {
            let piece = std::mem::take(&mut self.small).freeze();
            self.pieces.push_back(piece);
        }
    }

    fn next(&mut self) -> Option<Bytes> {
        if self.pieces.is_empty() {
            self.flush();
        }
        self.pieces.pop_front()
    }

    fn wake(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }
}
