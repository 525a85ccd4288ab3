//! The bodies that leave this contract: what is known as a whole, or a function's stream as it comes.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use super::invocations::Piece;

/// A body.
#[derive(Debug)]
pub(super) enum Out {
    Whole(Bytes),
    /// What has come already, then what comes; `None` once it has ended.
    Stream(Bytes, Option<mpsc::Receiver<Piece>>),
}

impl Out {
    pub(super) fn whole(bytes: Bytes) -> Out {
        Out::Whole(bytes)
    }
}

/// A stream that ended before its end: whoever reads it must see that.
#[derive(Debug)]
pub(super) struct BrokeOff;

impl fmt::Display for BrokeOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the function's stream broke off")
    }
}

impl std::error::Error for BrokeOff {}

impl Body for Out {
    type Data = Bytes;
    type Error = BrokeOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        let (bytes, pieces) = match self.get_mut() {
            Out::Whole(bytes) => (bytes, &mut None),
            Out::Stream(bytes, pieces) => (bytes, pieces),
        };
        if !bytes.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))));
        }
        let Some(receiver) = pieces else {
            return Poll::Ready(None);
        };
        match ready!(receiver.poll_recv(cx)) {
            Some(Piece::Bytes(bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Piece::End) => {
                *pieces = None;
                Poll::Ready(None)
            }
            None => {
                *pieces = None;
                Poll::Ready(Some(Err(BrokeOff)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Out::Whole(bytes) => bytes.is_empty(),
            Out::Stream(bytes, pieces) => bytes.is_empty() && pieces.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Out::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Out::Stream(..) => SizeHint::default(),
        }
    }
}
