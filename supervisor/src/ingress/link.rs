//! An HTTP/1 connection to an instance, or to a binding's target: polled by whoever holds it, no task of its own runs it. Never opens or
//! keeps one.

use std::future::{Future, poll_fn};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite};

use super::heard::{Heard, Taken};

/// The largest head and the largest piece of a body that is read at once.
pub(super) const BUFFER: usize = 64 * 1024;

/// A connection over a byte stream `S`, for requests with bodies `B`.
pub struct Link<S: AsyncRead + AsyncWrite + Unpin, B: Body + 'static> {
    sender: http1::SendRequest<B>,
    connection: http1::Connection<TokioIo<Heard<S>>, B>,
    /// `connection` must not be polled any more.
    ended: bool,
    /// It has carried a request before.
    pub(crate) reused: bool,
    /// When it was put away, or made.
    pub(crate) parked: Instant,
    /// Of the stream within `connection`, for as long as that lives.
    socket: RawFd,
    taken: Taken,
}

/// Why there is no response head.
#[derive(Debug)]
pub enum Broken<B> {
    /// Nothing was written: here is the request again.
    NotWritten(Box<Request<B>>),
    /// Something was written, then the connection ended.
    Died(Option<hyper::Error>),
    /// It takes too long.
    TooLate,
}

impl<S, B> Link<S, B>
where
    S: AsyncRead + AsyncWrite + AsRawFd + Unpin,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Makes an HTTP connection of a fresh byte stream; nothing is written yet.
    ///
    /// # Errors
    /// Those of hyper, of which there are none before something is sent.
    pub(crate) async fn over(stream: S) -> hyper::Result<Box<Link<S, B>>> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(BUFFER).max_header_size(BUFFER);
        let socket = stream.as_raw_fd();
        let heard = Heard::over(stream);
        let taken = heard.taken();
        let (sender, connection) = builder.handshake(TokioIo::new(heard)).await?;
        Ok(Box::new(Link {
            sender,
            connection,
            ended: false,
            reused: false,
            parked: Instant::now(),
            socket,
            taken,
        }))
    }

    /// Moves bytes both ways. Ready: the connection has ended, or was handed over to another protocol.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match poll(&mut self.connection, &mut self.ended, cx) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Sends a request and polls the connection, in this task, until there is a head, or it is too late.
    ///
    /// # Errors
    /// [`Broken`].
    pub(crate) async fn exchange(
        &mut self,
        request: Request<B>,
        is_late: impl Fn() -> bool,
    ) -> Result<Response<Incoming>, Broken<B>> {
        self.taken.forget();
        let mut head = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| {
            let ended = poll(&mut self.connection, &mut self.ended, cx);
            match head.as_mut().poll(cx) {
                Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
                Poll::Ready(Err(mut error)) => Poll::Ready(Err(match error.take_message() {
                    Some(request) => Broken::NotWritten(Box::new(request)),
                    None => Broken::Died(Some(error.into_error())),
                })),
                Poll::Pending if is_late() => Poll::Ready(Err(Broken::TooLate)),
                // hyper answers before it ends; but nobody must be able to hang a request by proving it wrong.
                Poll::Pending if ended => Poll::Ready(Err(Broken::Died(None))),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Whether the other side can have read anything of the last request.
    pub(crate) fn may_be_read(&self) -> bool {
        self.taken.is_some()
    }

    /// The last answer is complete and the next request may be sent.
    pub(crate) fn is_idle(&self) -> bool {
        !self.ended && self.sender.is_ready()
    }

    /// Polled once, so that a close which the runtime knows of is seen before a request is risked on it. With `certain`
    /// the kernel is asked too, for a request that can't be sent again: that costs a system call.
    pub(crate) async fn is_open(&mut self, certain: bool) -> bool {
        poll_fn(|cx| Poll::Ready(self.poll(cx).is_ready())).await;
        self.is_idle() && (!certain || self.is_quiet())
    }

    /// Nothing has come that the runtime has not seen yet, not even the end.
    fn is_quiet(&self) -> bool {
        let look = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        matches!(recv(self.socket, &mut [0], look), Err(Errno::EAGAIN))
    }

    /// The bare stream, and what was read of it beyond the response head, after a switch of protocols.
    pub(crate) fn into_stream(self) -> (S, Bytes) {
        let parts = self.connection.into_parts();
        (parts.io.into_inner().into_stream(), parts.read_buf)
    }
}

/// Polls a connection unless it has ended. Why it ended is told to whom it concerns: the waiting request, or the reader of its response.
fn poll<F: Future + Unpin>(connection: &mut F, ended: &mut bool, cx: &mut Context<'_>) -> bool {
    *ended = *ended || Pin::new(connection).poll(cx).is_ready();
    *ended
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn what_is_sent_to_one_that_left_is_known_to_be_unread() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut link = Link::<_, Empty<Bytes>>::over(ours).await.unwrap();
        let get = || Request::get("/").body(Empty::new()).unwrap();
        let serve = async {
            theirs.read_buf(&mut Vec::with_capacity(1000)).await.unwrap();
            theirs
                .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
                .await
                .unwrap();
        };
        let (answer, ()) = tokio::join!(link.exchange(get(), || false), serve);
        assert_eq!(answer.unwrap().status(), 204);
        assert!(link.may_be_read());
        // As far as the runtime knows it is open.
        assert!(link.is_open(false).await);
        drop(theirs);
        let broken = link.exchange(get(), || false).await.unwrap_err();
        assert!(
            matches!(broken, Broken::Died(Some(_))),
            "the request is spent: {broken:?}"
        );
        assert!(!link.may_be_read());
    }
}
