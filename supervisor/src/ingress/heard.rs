//! A connection to an instance, or to a binding's target, as hyper sees it: one that can't be written to any more is still read to its end.
//! Never changes a byte.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Hears the other side out. A server that answers without reading the body closes the connection while the body is
/// still being sent: the write then fails before the answer was read, and hyper would give the answer up. What can't
/// be written is dropped instead, and the reading side tells what came of the request: its answer, or none.
pub(crate) struct Heard<S> {
    stream: S,
    taken: Taken,
}

/// Whether the other side can have read anything of what was written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Taken(Arc<AtomicBool>);

impl Taken {
    /// What was written until now counts no more.
    pub(crate) fn forget(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Something was written since that the kernel took.
    pub(crate) fn is_some(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl<S> Heard<S> {
    pub(crate) fn over(stream: S) -> Heard<S> {
        Heard {
            stream,
            taken: Taken::default(),
        }
    }

    pub(crate) fn taken(&self) -> Taken {
        self.taken.clone()
    }

    pub(crate) fn into_stream(self) -> S {
        self.stream
    }

    fn heard(&self, written: Poll<io::Result<usize>>, length: usize) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Err(error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                Poll::Ready(Ok(length))
            }
            Poll::Ready(Ok(_)) => {
                self.taken.0.store(true, Ordering::Relaxed);
                written
            }
            other => other,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.heard(written, buf.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length = bufs.iter().map(|buf| buf.len()).sum();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.heard(written, length)
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;
    use crate::function::instance::Stream;

    #[tokio::test]
    async fn the_answer_is_read_though_the_server_has_closed() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"answer").await.unwrap();
        drop(theirs);
        let mut heard = Heard::over(Stream::Unix(ours));
        assert_eq!(heard.write(b"body").await.unwrap(), 4);
        assert_eq!(
            heard
                .write_vectored(&[io::IoSlice::new(b"bo"), io::IoSlice::new(b"dy")])
                .await
                .unwrap(),
            4
        );
        let mut answer = String::new();
        heard.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
        assert!(!heard.taken().is_some(), "nobody can have read the body");
    }

    #[tokio::test]
    async fn what_was_taken_may_have_been_read() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut heard = Heard::over(Stream::Unix(ours));
        let taken = heard.taken();
        heard.write_all(b"one").await.unwrap();
        assert!(taken.is_some());
        taken.forget();
        assert!(!taken.is_some());
        heard.write_all(b"two").await.unwrap();
        assert!(taken.is_some());
    }
}
