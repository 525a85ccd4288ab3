//! A connection of a function's process, which may go to another supervisor while the process waits for something to do: then that
//! one reads the request again, from memory, and answers it over the same connection.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{Shutdown, shutdown};
use std::os::fd::AsRawFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What the process has asked on a connection that comes from another supervisor.
const NEXT: &[u8] = b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";

/// A connection. Clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Link {
    stream: Rc<TcpStream>,
    before: &'static [u8],
}

impl Link {
    /// One that was just accepted.
    pub(super) fn new(stream: TcpStream) -> Link {
        let stream = Rc::new(stream);
        Link { stream, before: b"" }
    }

    /// One on which another supervisor was asked for something to do, and has not answered.
    ///
    /// # Errors
    /// Those of the runtime.
    pub(super) fn passed(fd: OwnedFd) -> io::Result<Link> {
        let stream = std::net::TcpStream::from(fd);
        stream.set_nonblocking(true)?;
        let stream = Rc::new(TcpStream::from_std(stream)?);
        Ok(Link { stream, before: NEXT })
    }

    /// For another supervisor.
    ///
    /// # Errors
    /// Those of dup(2).
    pub(super) fn pass(&self) -> io::Result<OwnedFd> {
        self.stream.as_fd().try_clone_to_owned()
    }
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.before.is_empty() {
            let (now, later) = self.before.split_at(self.before.len().min(into.remaining()));
            into.put_slice(now);
            self.before = later;
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read(into.initialize_unfilled()) {
                Ok(length) => {
                    into.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(shutdown(self.stream.as_raw_fd(), Shutdown::Write).map_err(io::Error::from))
    }
}
