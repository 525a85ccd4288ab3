//! A process that was started for one request: its body goes to stdin while its output comes from stdout, within a deadline.
//! What the output means is the contract's: [`super::stdio`], [`super::cgi`].

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use funcd_sandbox::exit::Exit;
use http_body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;

use crate::function::instance::{Address, Duplex, Instance};

/// Read at once.
const CHUNK: usize = 16 * 1024;

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It was never told to execute: nothing has happened, and another one may be tried.
    NotStarted,
    /// It could not be executed.
    NotExecuted(Exit),
    /// It took too long, and is killed.
    TooLate,
    /// It failed.
    Failed(Exit),
    /// It wrote more than is kept.
    TooMuch(u64),
    /// What it wrote is no answer.
    Malformed(String),
    /// The request's body ended early: the body says why.
    Upload,
    /// The host can't.
    Host(String),
}

/// One that works on a request. Dropped before its end it is of no use to anybody any more, and killed.
#[derive(Debug)]
pub struct Process<B> {
    instance: Arc<Instance>,
    stdin: Option<pipe::Sender>,
    stdout: pipe::Receiver,
    upload: B,
    /// What of the body is on its way.
    piece: Bytes,
    upload_failed: bool,
    buffer: Box<[u8]>,
    deadline: Instant,
    done: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Process<B> {
    /// Has the process of a leased instance execute with a request's variables.
    ///
    /// # Errors
    /// [`Trouble::NotStarted`] with the body, of which nothing was taken.
    pub fn start(
        instance: &Arc<Instance>,
        block: &[u8],
        upload: B,
        deadline: Instant,
    ) -> Result<Process<B>, (Trouble, B)> {
        let Address::Pipes(pipes) = &instance.address else {
            return Err((Trouble::NotStarted, upload));
        };
        let Some(duplex) = pipes.take().and_then(|ends| Duplex::new(ends).ok()) else {
            return Err((Trouble::NotStarted, upload));
        };
        if instance.wake_with(block).is_err() {
            return Err((Trouble::NotStarted, upload));
        }
        let stdin = (!upload.is_end_stream()).then_some(duplex.stdin);
        Ok(Process {
            instance: Arc::clone(instance),
            stdin,
            stdout: duplex.stdout,
            upload,
            piece: Bytes::new(),
            upload_failed: false,
            buffer: vec![0; CHUNK].into_boxed_slice(),
            deadline,
            done: false,
        })
    }

    /// Moves the body on. It ends with the body, or when the process reads no more of it.
    fn poll_input(&mut self, cx: &mut Context<'_>) {
        while let Some(stdin) = &mut self.stdin {
            if self.piece.is_empty() {
                match Pin::new(&mut self.upload).poll_frame(cx) {
                    Poll::Pending => return,
                    // Trailers have no place in there.
                    Poll::Ready(Some(Ok(frame))) => self.piece = frame.into_data().unwrap_or_default(),
                    Poll::Ready(None) => self.stdin = None,
                    Poll::Ready(Some(Err(_))) => {
                        self.upload_failed = true;
                        self.stdin = None;
                    }
                }
                continue;
            }
            match Pin::new(stdin).poll_write(cx, &self.piece) {
                Poll::Pending => return,
                Poll::Ready(Ok(written)) => drop(self.piece.split_to(written)),
                Poll::Ready(Err(_)) => self.stdin = None,
            }
        }
    }

    /// The next piece of its output; `None` at the end.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Trouble>> {
        self.poll_input(cx);
        if self.upload_failed {
            return Poll::Ready(Err(Trouble::Upload));
        }
        let mut buffer = ReadBuf::new(&mut self.buffer);
        let read: io::Result<()> = ready!(Pin::new(&mut self.stdout).poll_read(cx, &mut buffer));
        Poll::Ready(match (read, buffer.filled()) {
            (Err(error), _) => Err(Trouble::Host(error.to_string())),
            (Ok(()), []) => Ok(None),
            (Ok(()), piece) => Ok(Some(Bytes::copy_from_slice(piece))),
        })
    }

    /// The next piece of its output, by the deadline.
    ///
    /// # Errors
    /// [`Trouble::TooLate`] and [`Trouble::Upload`].
    pub async fn output(&mut self) -> Result<Option<Bytes>, Trouble> {
        let deadline = self.deadline;
        let next = std::future::poll_fn(|cx| self.poll_output(cx));
        within(deadline, next).await?
    }

    /// How it ended, once it has: by the deadline.
    ///
    /// # Errors
    /// [`Trouble::TooLate`].
    pub async fn end(&mut self) -> Result<Exit, Trouble> {
        let exit = within(self.deadline, self.instance.end()).await?;
        self.done = true;
        Ok(exit)
    }
}

async fn within<T>(deadline: Instant, future: impl Future<Output = T>) -> Result<T, Trouble> {
    let done = tokio::time::timeout_at(deadline.into(), future).await;
    done.map_err(|_| Trouble::TooLate)
}

impl<B> Drop for Process<B> {
    fn drop(&mut self) {
        if !self.done {
            self.instance.spoil();
        }
    }
}

/// What an answer is made of.
#[derive(Debug)]
pub enum Output<B> {
    /// All of it.
    Whole(Bytes),
    /// What has come, and what the process still writes.
    Stream(Box<Stream<B>>),
}

/// What has come, and what the process still writes.
#[derive(Debug)]
pub struct Stream<B> {
    first: Option<Bytes>,
    process: Process<B>,
    late: Pin<Box<tokio::time::Sleep>>,
    over: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Output<B> {
    /// `first`, then whatever else it writes until its end or the deadline.
    pub fn stream(first: Bytes, process: Process<B>) -> Output<B> {
        Output::Stream(Box::new(Stream {
            first: (!first.is_empty()).then_some(first),
            late: Box::pin(tokio::time::sleep_until(process.deadline.into())),
            process,
            over: false,
        }))
    }

    /// Whether nothing is left of it.
    pub fn is_over(&self) -> bool {
        match self {
            Output::Whole(bytes) => bytes.is_empty(),
            Output::Stream(stream) => stream.over,
        }
    }

    /// Its length, if that is known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Output::Whole(bytes) => Some(bytes.len() as u64),
            Output::Stream(_) => None,
        }
    }

    /// The next piece of it.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Trouble>>> {
        let stream = match self {
            Output::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Output::Whole(bytes) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Output::Stream(stream) => stream,
        };
        if let Some(first) = stream.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if stream.over {
            return Poll::Ready(None);
        }
        if stream.late.as_mut().poll(cx).is_ready() {
            stream.over = true;
            return Poll::Ready(Some(Err(Trouble::TooLate)));
        }
        let next = ready!(stream.process.poll_output(cx));
        Poll::Ready(match next {
            Ok(Some(piece)) => Some(Ok(Frame::data(piece))),
            Ok(None) => {
                // It may end by itself.
                (stream.over, stream.process.done) = (true, true);
                None
            }
            Err(trouble) => {
                stream.over = true;
                Some(Err(trouble))
            }
        })
    }
}
