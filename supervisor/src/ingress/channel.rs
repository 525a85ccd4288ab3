//! A connection to an instance over HTTP/2 with prior knowledge: many requests at once, each a stream of it. What comes in is
//! followed frame by frame, so that an instance can't keep a worker busy with frames that cost it nothing. Never retries.
//!
//! One task for each connection moves the bytes; the streams are polled in their requests' own tasks. What an instance may have
//! under way to a worker is bounded by the window of each stream. The window of the connection is as large as those of all its
//! streams together, and what comes is taken from it at once ([`super::received`]): a stream that nobody reads keeps none of the
//! others waiting.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::client_io::PREFACE;
use super::frames::{Frames, Verdict};
use super::heard::Heard;
use super::link::BUFFER;
use super::resets::Resets;
use crate::function::instance::Stream;

/// Streams of one connection at once; beyond, there is another connection.
const STREAMS: u32 = 128;
/// What may be under way to a stream that is not read.
const WINDOW: u32 = 128 * 1024;
/// How an answer of HTTP/1 begins. As a frame of HTTP/2 it would be longer than any that is taken.
const HTTP1: &[u8] = b"HTTP/1.";

/// What is known of the other end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Tongue {
    /// It has said nothing.
    #[default]
    Silent,
    /// It answers in HTTP/1.
    Http1,
    /// It has said something else.
    Other,
    /// It sent frames without end that change nothing.
    Floods,
}

/// What the connection's task and its streams tell each other.
#[derive(Debug)]
struct Shared {
    tongue: Cell<Tongue>,
    /// Nothing can be sent on it any more.
    ended: Cell<bool>,
    resets: Cell<Resets>,
}

/// One connection, as its streams see it. Closed when it is dropped with the last of them.
pub(super) struct Channel {
    sender: SendRequest<Bytes>,
    shared: Rc<Shared>,
    open: Cell<u32>,
    /// When the last of its streams ended.
    rested: Cell<Instant>,
    /// Of the stream within the task, for as long as `shared.ended` is not set.
    socket: RawFd,
}

impl Channel {
    /// Says the preface on a fresh byte stream; waits for no answer.
    pub(super) async fn over(stream: Stream) -> Result<Rc<Channel>, h2::Error> {
        let socket = stream.as_raw_fd();
        let shared = Rc::new(Shared {
            tongue: Cell::default(),
            ended: Cell::default(),
            resets: Cell::new(Resets::new(Instant::now())),
        });
        let followed = Followed {
            stream: Heard::over(stream),
            frames: Frames::to_instance(PREFACE.len(), Instant::now()),
            begun: 0,
            shared: Rc::clone(&shared),
        };
        let (sender, connection) = Builder::new()
            .enable_push(false)
            .initial_max_send_streams(STREAMS as usize)
            .initial_window_size(WINDOW)
            .initial_connection_window_size(STREAMS * WINDOW)
            .max_header_list_size(BUFFER as u32)
            .max_send_buffer_size(BUFFER)
            .max_concurrent_reset_streams(STREAMS as usize)
            .handshake(followed)
            .await?;
        let ends = Rc::clone(&shared);
        tokio::task::spawn_local(async move {
            // Why it ended is told to each of its streams.
            let _ = Ending(connection, &ends).await;
        });
        Ok(Rc::new(Channel {
            sender,
            shared,
            open: Cell::new(0),
            rested: Cell::new(Instant::now()),
            socket,
        }))
    }

    /// What sends one request.
    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.sender.clone()
    }

    /// Whether one more request may be sent, as far as the other end has said.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        let most = self.sender.current_max_send_streams();
        !self.shared.ended.get()
            && !self.is_worn(now)
            && self.open.get() < STREAMS
            && (self.open.get() as usize) < most
    }

    /// Whether so many of its streams were reset that the other end might soon close it.
    pub(super) fn is_worn(&self, now: Instant) -> bool {
        self.shared.resets.get().is_worn(now)
    }

    /// Whether the other end is known to have closed it, as the kernel knows: costs a system call.
    pub(super) fn is_closed(&self) -> bool {
        let look = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        self.shared.ended.get() || matches!(recv(self.socket, &mut [0], look), Ok(0))
    }

    /// Nothing is to be sent on it any more; what is under way goes on.
    pub(super) fn give_up(&self) {
        self.shared.ended.set(true);
    }

    /// Nothing can be sent on it any more.
    pub(super) fn has_ended(&self) -> bool {
        self.shared.ended.get()
    }

    /// Since when it has no stream; `None`: it has some.
    pub(super) fn rests(&self) -> Option<Instant> {
        (self.open.get() == 0).then(|| self.rested.get())
    }

    /// What is known of the other end.
    pub(super) fn tongue(&self) -> Tongue {
        self.shared.tongue.get()
    }

    /// Counts a stream until the guard is dropped.
    pub(super) fn open(self: Rc<Self>) -> Open {
        self.open.set(self.open.get() + 1);
        Open(self)
    }
}

/// Counts one stream.
pub(super) struct Open(Rc<Channel>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        if self.0.open.get() == 0 {
            self.0.rested.set(Instant::now());
        }
    }
}

/// Tells that the connection has ended before its descriptor is closed.
struct Ending<'a, F>(F, &'a Shared);

impl<F: Future + Unpin> Future for Ending<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.0).poll(cx);
        if polled.is_ready() {
            this.1.ended.set(true);
        }
        polled
    }
}

impl<F> Drop for Ending<'_, F> {
    fn drop(&mut self) {
        self.1.ended.set(true);
    }
}

/// The byte stream, with an eye on what comes in.
struct Followed {
    stream: Heard<Stream>,
    frames: Frames,
    /// So many of the first bytes are as HTTP/1 has them.
    begun: usize,
    shared: Rc<Shared>,
}

impl Followed {
    /// Looks at what came. An error ends the connection.
    fn look(&mut self, fresh: &[u8]) -> io::Result<()> {
        if self.shared.tongue.get() == Tongue::Silent {
            let rest = &HTTP1[self.begun..];
            let same = fresh.iter().zip(rest).take_while(|(a, b)| a == b).count();
            self.begun += same;
            if self.begun == HTTP1.len() {
                self.shared.tongue.set(Tongue::Http1);
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it answers in HTTP/1"));
            }
            if same < fresh.len() {
                self.shared.tongue.set(Tongue::Other);
            }
        }
        match self.frames.read(fresh, Instant::now()) {
            Verdict::Pass => Ok(()),
            Verdict::EndAfter(_) | Verdict::Cut => {
                self.shared.tongue.set(Tongue::Floods);
                let why = "it floods the connection with frames that change nothing";
                Err(io::Error::new(io::ErrorKind::InvalidData, why))
            }
        }
    }
}

impl Followed {
    /// Notes what was written.
    fn wrote<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>) {
        for piece in pieces {
            self.frames.wrote(piece, |_| ());
        }
        let count = self.frames.take_resets();
        if count > 0 {
            let mut resets = self.shared.resets.get();
            resets.sent(count, Instant::now());
            self.shared.resets.set(resets);
        }
    }
}

impl AsyncRead for Followed {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        Poll::Ready(this.look(&buf.filled()[before..]))
    }
}

impl AsyncWrite for Followed {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        this.wrote(std::iter::once(&buf[..written]));
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, bufs))?;
        let mut left = written;
        this.wrote(bufs.iter().map(|buf| {
            let taken = left.min(buf.len());
            left -= taken;
            &buf[..taken]
        }));
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test(flavor = "local")]
    async fn one_of_which_many_streams_were_given_up_gets_no_more() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let function = tokio::task::spawn_local(async move {
            let mut connection = h2::server::handshake(theirs).await.unwrap();
            let (mut begun, mut held) = (0, Vec::new());
            while let Some(Ok((request, _respond))) = connection.accept().await {
                begun += 1;
                held.push((request, _respond));
            }
            begun
        });
        let channel = Channel::over(Stream::Unix(ours)).await.unwrap();
        let mut asked = 0;
        // As long as it takes new ones, each is sent and given up.
        while channel.has_room(Instant::now()) {
            let mut sender = channel.sender();
            std::future::poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
            let request = http::Request::get("http://f/").body(()).unwrap();
            let (answer, _) = sender.send_request(request, true).unwrap();
            asked += 1;
            // What is not sent need not be reset.
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            drop(answer);
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            assert!(asked < 100, "it goes on");
        }
        assert!(channel.is_worn(Instant::now()) && !channel.has_ended());
        drop(channel);
        let begun = function.await.unwrap();
        assert!(begun >= 32, "{begun} of {asked}");
    }
}
