//! Connections to the target of an HTTP binding: polled by whoever holds one, kept for the next call when its answer is complete. Never
//! opens one.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::ingress::Heard;

/// An idle connection is closed after this: before most servers do, so that few calls meet a connection that just ended.
const IDLE: Duration = Duration::from_secs(30);
/// The largest head and the largest piece of a body that is read from a target at once.
const BUFFER: usize = 64 * 1024;

/// A byte stream to a target.
pub trait Wire: AsyncRead + AsyncWrite + AsRawFd + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + AsRawFd + Unpin + Send> Wire for T {}

/// A connection to a target.
pub struct Link<B: Body + 'static> {
    sender: http1::SendRequest<B>,
    connection: http1::Connection<TokioIo<Heard<Box<dyn Wire>>>, B>,
    /// `connection` must not be polled any more.
    ended: bool,
    /// It has carried a call before.
    pub reused: bool,
    parked: Instant,
    /// Of the socket within `connection`, for as long as that lives.
    socket: RawFd,
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

impl<B> Link<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Makes an HTTP connection of a fresh byte stream; nothing is written yet.
    ///
    /// # Errors
    /// Those of hyper, of which there are none before something is sent.
    pub async fn over(wire: Box<dyn Wire>) -> hyper::Result<Box<Link<B>>> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(BUFFER).max_header_size(BUFFER);
        let socket = wire.as_raw_fd();
        let (sender, connection) = builder.handshake(TokioIo::new(Heard(wire))).await?;
        Ok(Box::new(Link {
            sender,
            connection,
            ended: false,
            reused: false,
            parked: Instant::now(),
            socket,
        }))
    }

    /// Moves bytes both ways. Ready: the connection has ended, or was handed over to another protocol.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.ended && Pin::new(&mut self.connection).poll(cx).is_ready() {
            // Why it ended is told to whom it concerns: the waiting call, or the reader of its answer.
            self.ended = true;
        }
        if self.ended {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Sends a request and polls the connection, in this task, until there is a head, or it is too late.
    ///
    /// # Errors
    /// [`Broken`].
    pub async fn exchange(
        &mut self,
        request: Request<B>,
        is_late: impl Fn() -> bool,
    ) -> Result<Response<Incoming>, Broken<B>> {
        let mut head = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| {
            if !self.ended && Pin::new(&mut self.connection).poll(cx).is_ready() {
                self.ended = true;
            }
            match head.as_mut().poll(cx) {
                Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
                Poll::Ready(Err(mut error)) => Poll::Ready(Err(match error.take_message() {
                    Some(request) => Broken::NotWritten(Box::new(request)),
                    None => Broken::Died(Some(error.into_error())),
                })),
                Poll::Pending if is_late() => Poll::Ready(Err(Broken::TooLate)),
                // hyper answers before it ends; but no target must be able to hang a call by proving it wrong.
                Poll::Pending if self.ended => Poll::Ready(Err(Broken::Died(None))),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// The last answer is complete and the next request may be sent.
    pub fn is_idle(&self) -> bool {
        !self.ended && self.sender.is_ready()
    }

    /// Nothing has come that the runtime has not seen yet, not even the end: costs a system call.
    fn is_quiet(&self) -> bool {
        let look = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        matches!(recv(self.socket, &mut [0], look), Err(Errno::EAGAIN))
    }

    /// The bare stream, and what was read of it beyond the response head, after a switch of protocols.
    pub fn into_wire(self) -> (Box<dyn Wire>, Bytes) {
        let parts = self.connection.into_parts();
        (parts.io.into_inner().0, parts.read_buf)
    }
}

/// The idle connections of one binding of one instance: last in, first out, and no more than its calls may be.
pub struct Pool<B: Body + 'static> {
    most: usize,
    /// The oldest first.
    idle: VecDeque<Box<Link<B>>>,
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// For so many.
    pub fn new(most: usize) -> Pool<B> {
        Pool {
            most,
            idle: VecDeque::new(),
        }
    }

    /// Keeps a connection for the next call. What is given back is stale.
    #[must_use = "dropped while the pool is borrowed, a connection may find it so"]
    pub fn put(&mut self, mut link: Box<Link<B>>, now: Instant) -> Vec<Box<Link<B>>> {
        link.parked = now;
        link.reused = true;
        self.idle.push_back(link);
        let mut stale = self.take_stale(now);
        if self.idle.len() > self.most {
            stale.extend(self.idle.pop_front());
        }
        stale
    }

    /// Takes out what was idle for too long.
    pub fn take_stale(&mut self, now: Instant) -> Vec<Box<Link<B>>> {
        let old = self
            .idle
            .partition_point(|link| now.saturating_duration_since(link.parked) >= IDLE);
        self.idle.drain(..old).collect()
    }
}

/// A connection that was idle and is still open.
///
/// Polled once, so that a close which the runtime knows of is seen before a request is risked on it. With `certain`
/// the kernel is asked too: for a request that can't be sent again.
pub async fn pop_open<B>(pool: &std::cell::RefCell<Pool<B>>, certain: bool) -> Option<Box<Link<B>>>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    loop {
        let mut link = pool.borrow_mut().idle.pop_back()?;
        let fresh = link.parked.elapsed() < IDLE;
        poll_fn(|cx| Poll::Ready(link.poll(cx).is_ready())).await;
        if fresh && link.is_idle() && (!certain || link.is_quiet()) {
            return Some(link);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use http_body_util::Empty;
    use tokio::net::UnixStream;

    use super::*;

    type Nothing = Empty<Bytes>;

    async fn open() -> (Box<Link<Nothing>>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Link::over(Box::new(ours)).await.unwrap(), theirs)
    }

    #[tokio::test]
    async fn the_last_in_is_the_first_out_and_closed_ones_are_skipped() {
        let pool = RefCell::new(Pool::<Nothing>::new(8));
        let ((one, _there), (two, gone)) = (open().await, open().await);
        let socket = one.socket;
        let now = Instant::now();
        drop(pool.borrow_mut().put(one, now));
        drop(pool.borrow_mut().put(two, now));
        drop(gone);
        assert_eq!(pop_open(&pool, true).await.unwrap().socket, socket);
        assert!(pop_open(&pool, true).await.is_none());
    }

    #[tokio::test]
    async fn no_more_are_kept_than_may_be_used_and_none_for_long() {
        let mut pool = Pool::<Nothing>::new(2);
        let now = Instant::now();
        let mut there = vec![];
        for _ in 0..3 {
            let (link, end) = open().await;
            there.push(end);
            drop(pool.put(link, now));
        }
        assert_eq!(pool.idle.len(), 2);
        assert_eq!(pool.take_stale(now + IDLE).len(), 2);
    }
}
