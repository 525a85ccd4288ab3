//! Bytes between two streams, both ways, each direction to its own end. Holds memory only while a side is slower than the other:
//! a thousand idle connections cost no buffers. Never looks at a byte.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// What is read at once.
const PIECE: usize = 64 << 10;

/// A connection of which one side has ended is kept for the other one's sake as long as that says something now and then.
pub(crate) const HALF_OPEN: Duration = Duration::from_secs(600);

thread_local! {
    /// What is on its way from one stream to another within one poll; what is left then is kept with the direction.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; PIECE]);
}

/// Carries bytes until both directions have ended; `count` is told of each piece, and whether it went to `outside`. The end of
/// one direction is passed on (shutdown) while the other goes on.
///
/// # Errors
/// Those of reading and writing; `TimedOut` when one side has ended and the other said nothing for [`HALF_OPEN`].
pub(crate) async fn both_ways<A, B>(
    inside: &mut A,
    outside: &mut B,
    count: impl Fn(bool, u64),
) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut out, mut back) = (Direction::default(), Direction::default());
    let mut patience: Option<Pin<Box<Sleep>>> = None;
    let mut carried = 0;
    poll_fn(|cx| {
        let sent = out.poll(cx, inside, outside, &mut |n| count(true, n))?;
        let received = back.poll(cx, outside, inside, &mut |n| count(false, n))?;
        if sent.is_ready() && received.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if sent.is_pending() && received.is_pending() {
            return Poll::Pending;
        }
        let limit = Instant::now() + HALF_OPEN;
        let sleep = patience.get_or_insert_with(|| Box::pin(sleep_until(limit)));
        if carried != out.carried + back.carried {
            carried = out.carried + back.carried;
            sleep.as_mut().reset(limit);
        }
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    })
    .await
}

/// One direction.
#[derive(Debug, Default)]
struct Direction {
    /// Read, and not written yet.
    kept: Vec<u8>,
    written: usize,
    carried: u64,
    needs_flush: bool,
    has_ended: bool,
    is_over: bool,
}

impl Direction {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        count: &mut impl FnMut(u64),
    ) -> Poll<io::Result<()>> {
        if self.is_over {
            return Poll::Ready(Ok(()));
        }
        loop {
            while self.written < self.kept.len() {
                let n = ready!(Pin::new(&mut *to).poll_write(cx, &self.kept[self.written..]))?;
                self.wrote(n, count)?;
                self.written += n;
            }
            // Given back, whatever it had grown to.
            (self.kept, self.written) = (Vec::new(), 0);
            if self.has_ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.is_over = true;
                return Poll::Ready(Ok(()));
            }
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                ready!(Pin::new(&mut *from).poll_read(cx, &mut buffer))?;
                let piece = buffer.filled();
                let mut written = 0;
                while written < piece.len() {
                    match Pin::new(&mut *to).poll_write(cx, &piece[written..])? {
                        Poll::Ready(n) => {
                            self.wrote(n, count)?;
                            written += n;
                        }
                        Poll::Pending => {
                            self.kept = piece[written..].to_vec();
                            break;
                        }
                    }
                }
                Poll::Ready(io::Result::Ok(piece.len()))
            });
            match read {
                Poll::Ready(Ok(0)) => self.has_ended = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    // Nothing more to say for now: what a TLS session has gathered goes out.
                    if self.needs_flush {
                        ready!(Pin::new(&mut *to).poll_flush(cx))?;
                        self.needs_flush = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn wrote(&mut self, n: usize, count: &mut impl FnMut(u64)) -> io::Result<()> {
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.carried += n as u64;
        self.needs_flush = true;
        count(n as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn each_direction_has_its_own_end() {
        let (mut function, mut inside) = duplex(16);
        let (mut outside, mut server) = duplex(16);
        let counts = RefCell::new((0, 0));
        let count = |is_out, n| match is_out {
            true => counts.borrow_mut().0 += n,
            false => counts.borrow_mut().1 += n,
        };
        let question = vec![b'?'; 100_000];
        let talk = async {
            let asked = async {
                function.write_all(&question).await.unwrap();
                function.shutdown().await.unwrap();
                let mut answer = Vec::new();
                function.read_to_end(&mut answer).await.unwrap();
                answer
            };
            let answered = async {
                let mut heard = Vec::new();
                server.read_to_end(&mut heard).await.unwrap();
                // The function has said all: it still hears everything.
                server.write_all(&heard[..70_000]).await.unwrap();
                server.shutdown().await.unwrap();
                heard.len()
            };
            tokio::join!(asked, answered)
        };
        let (carried, (answer, heard)) = tokio::join!(both_ways(&mut inside, &mut outside, count), talk);
        carried.unwrap();
        assert_eq!((heard, answer.len()), (100_000, 70_000));
        assert_eq!(counts.into_inner(), (100_000, 70_000));
    }

    #[tokio::test]
    async fn an_error_of_one_side_ends_it() {
        let (mut function, mut inside) = duplex(16);
        let (mut outside, server) = duplex(16);
        drop(server);
        function.write_all(b"hello").await.unwrap();
        let error = both_ways(&mut inside, &mut outside, |_, _| {}).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_after_the_other_has_ended_is_waited_for_so_long() {
        let (mut function, mut inside) = duplex(16);
        let (mut outside, mut server) = duplex(16);
        let start = Instant::now();
        function.shutdown().await.unwrap();
        let late = async {
            tokio::time::sleep(HALF_OPEN - Duration::from_secs(1)).await;
            server.write_all(b"late").await.unwrap();
            let mut said = [0; 4];
            function.read_exact(&mut said).await.unwrap();
        };
        let (ended, ()) = tokio::join!(both_ways(&mut inside, &mut outside, |_, _| {}), late);
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!((Instant::now() - start).as_secs(), 2 * HALF_OPEN.as_secs() - 1);
    }
}
