//! A connection to an instance, or to a binding's target, as hyper sees it: one that can't be written to any more is still read to its end.
//! Never changes a byte.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Hears the other side out. A server that answers without reading the body closes the connection while the body is
/// still being sent: the write then fails before the answer was read, and hyper would give the answer up. What can't
/// be written is dropped instead, and the reading side tells what came of the request: its answer, or none.
pub(crate) struct Heard<S>(pub(crate) S);

fn heard(written: Poll<io::Result<usize>>, length: usize) -> Poll<io::Result<usize>> {
    match written {
        Poll::Ready(Err(error))
            if matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ) =>
        {
            Poll::Ready(Ok(length))
        }
        other => other,
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        heard(Pin::new(&mut self.get_mut().0).poll_write(cx, buf), buf.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum();
        heard(
            Pin::new(&mut self.get_mut().0).poll_write_vectored(cx, bufs),
            length,
        )
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
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
        let mut heard = Heard(Stream::Unix(ours));
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
    }
}
