//! One client connection: which protocol it speaks, its bounds, its end. Never looks into a request.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::headers::Peer;
use super::inspect::Inspector;
use super::request;
use super::visit::Visit;
use super::watch::{STREAM, Watch, guarded};
use super::worker::{Counted, Worker};

/// How HTTP/2 with prior knowledge begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An answer to a request whose body was not read is left to the caller for so long, and so many bytes are dropped,
/// before the connection is closed: closing with unread bytes resets it, and the answer may be lost.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 4 << 20);
/// While most connections are taken, an idle one may be kept for no longer than this.
const IDLE_UNDER_PRESSURE: Duration = Duration::from_secs(1);

/// What the requests of one connection share.
pub(super) struct Connection {
    pub(super) worker: Rc<Worker>,
    pub(super) watch: Arc<Watch>,
    pub(super) peer: RefCell<Peer>,
    pub(super) linger: Cell<bool>,
    requests: Cell<u32>,
    active: Cell<u32>,
    h2: bool,
}

impl Connection {
    /// A request begins: its number.
    pub(super) fn enter(&self) -> u32 {
        self.watch.connection.clear();
        self.watch.idle.store(false, Ordering::Relaxed);
        self.active.set(self.active.get() + 1);
        self.requests.set(self.requests.get().wrapping_add(1));
        self.requests.get()
    }

    /// A request has ended.
    pub(super) fn leave(&self, now: Instant) {
        self.active.set(self.active.get() - 1);
        if self.active.get() == 0 {
            let shared = &self.worker.shared;
            let idle = match shared.is_crowded() {
                true => shared.bounds.idle.min(IDLE_UNDER_PRESSURE),
                false => shared.bounds.idle,
            };
            self.watch.set(&self.watch.connection, now + idle);
            // An HTTP/2 client may send pings and window updates when idle: those are not a request's head.
            self.watch.idle.store(!self.h2, Ordering::Relaxed);
        }
    }

    /// Whether the n-th request's framing was watched: HTTP/2 needs no inspector.
    pub(super) fn is_inspected(&self) -> bool {
        !self.h2
    }
}

/// Serves a connection until it ends, is closed for a missed deadline, or drained.
pub(super) async fn serve(counted: Counted, stream: TcpStream, peer: SocketAddr) {
    let worker = Rc::clone(counted.worker());
    if worker.is_draining() {
        return;
    }
    let bounds = &worker.shared.bounds;
    let watch = Watch::new(worker.epoch);
    watch.set(&watch.connection, Instant::now() + bounds.head_timeout);
    let mut io = ClientIo {
        stream,
        watch: Arc::clone(&watch),
        head_timeout: bounds.head_timeout,
        inspector: None,
        sniffed: [0; PREFACE.len()],
        sniffed_len: 0,
        delivered: 0,
    };
    let h2 = {
        let sniff = pin!(io.speaks_h2());
        let draining = worker.draining();
        tokio::select! {
            sniffed = guarded(&watch, sniff, |_| ()) => match sniffed {
                Some(Ok(h2)) => h2,
                Some(Err(_)) | None => return,
            },
            () = draining => return,
        }
    };
    let address = peer.ip().to_canonical();
    let connection = Rc::new(Connection {
        peer: RefCell::new(Peer::new(address, worker.shared.trust.believes(address))),
        worker: Rc::clone(&worker),
        watch: Arc::clone(&watch),
        linger: Cell::new(false),
        requests: Cell::new(0),
        active: Cell::new(0),
        h2,
    });
    let shared = Rc::clone(&connection);
    let service = service_fn(move |asked| request::handle(Visit::begin(&shared), asked));
    if h2 {
        let served = worker.http2.serve_connection(TokioIo::new(io), service);
        run(&worker, &watch, pin!(served)).await;
        return;
    }
    io.inspector = Some(Inspector::new(bounds.head_bytes));
    let mut served = worker
        .http1
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let unread = run(&worker, &watch, Pin::new(&mut served)).await;
    if (unread || connection.linger.get())
        && let Some(parts) = served.into_parts()
    {
        linger(parts.io.into_inner().stream).await;
    }
}

/// What both protocols' connections can do.
trait Served: Future<Output = hyper::Result<()>> {
    /// No request after those that are there.
    fn wind_down(self: Pin<&mut Self>);
}

impl<S> Served for http1::UpgradeableConnection<TokioIo<ClientIo>, S>
where
    Self: Future<Output = hyper::Result<()>>,
    S: hyper::service::HttpService<hyper::body::Incoming>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::ResBody: 'static,
    <S::ResBody as hyper::body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn wind_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S> Served for http2::Connection<TokioIo<ClientIo>, S, StreamExecutor>
where
    Self: Future<Output = hyper::Result<()>>,
    S: hyper::service::HttpService<hyper::body::Incoming>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::ResBody: 'static,
    <S::ResBody as hyper::body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    StreamExecutor: hyper::rt::bounds::Http2ServerConnExec<S::Future, S::ResBody>,
{
    fn wind_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Serves the connection to its end. Whether hyper answered something that it could not read to its end.
async fn run<C: Served>(worker: &Worker, watch: &Watch, served: Pin<&mut C>) -> bool {
    // Polled once, to be woken when the drain begins; after that the flag is looked at.
    let mut draining = pin!(worker.draining());
    std::future::poll_fn(|cx| Poll::Ready(draining.as_mut().poll(cx)))
        .await
        .is_ready();
    let mut told = false;
    let ended = guarded(watch, served, |served| {
        if worker.is_draining() && !std::mem::replace(&mut told, true) {
            served.wind_down();
        }
    })
    .await;
    matches!(ended, Some(Err(error)) if error.is_parse())
}

async fn linger(mut stream: TcpStream) {
    let mut scrap = [0; 16 * 1024];
    let mut left = LINGER.1;
    let drop_rest = async {
        while let Ok(read @ 1..) = stream.read(&mut scrap).await {
            left = left.saturating_sub(read);
            if left == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER.0, drop_rest).await;
}

/// Runs HTTP/2 streams on the worker, each with deadlines of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamExecutor {
    pub(super) epoch: Instant,
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + 'static,
{
    fn execute(&self, stream: F) {
        let watch = Watch::new(self.epoch);
        tokio::task::spawn_local(STREAM.scope(Arc::clone(&watch), async move {
            // Dropping a stream that misses a deadline resets it.
            guarded(&watch, pin!(stream), |_| ()).await;
        }));
    }
}

/// Below this, copying a head and its body together costs less than having the kernel gather them.
const JOIN: usize = 1024;

/// These buffers in one piece, if they are small or are one already.
fn joined<'a>(bufs: &'a [io::IoSlice<'_>], space: &'a mut [u8; JOIN]) -> Option<&'a [u8]> {
    if let [whole] = bufs {
        return Some(whole);
    }
    let mut filled = 0;
    for buf in bufs {
        space.get_mut(filled..filled + buf.len())?.copy_from_slice(buf);
        filled += buf.len();
    }
    Some(&space[..filled])
}

/// A client's socket that inspects what comes in and starts the clock of each request head at its first byte.
struct ClientIo {
    stream: TcpStream,
    watch: Arc<Watch>,
    head_timeout: Duration,
    /// HTTP/1 only.
    inspector: Option<Inspector>,
    /// The first bytes, read to tell the protocols apart.
    sniffed: [u8; PREFACE.len()],
    sniffed_len: usize,
    delivered: usize,
}

impl ClientIo {
    /// Reads until it is clear.
    async fn speaks_h2(&mut self) -> io::Result<bool> {
        loop {
            let known = &self.sniffed[..self.sniffed_len];
            if known.len() == PREFACE.len() || !PREFACE.starts_with(known) {
                return Ok(known == PREFACE);
            }
            match self.stream.read(&mut self.sniffed[self.sniffed_len..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.sniffed_len += read,
            }
        }
    }

    fn inspect(&mut self, bytes: &[u8]) {
        if let Some(inspector) = &mut self.inspector {
            if self.watch.idle.swap(false, Ordering::Relaxed) {
                self.watch
                    .set(&self.watch.connection, Instant::now() + self.head_timeout);
            }
            let flaw = inspector.feed(bytes).err();
            self.watch.inspected(inspector.heads(), flaw);
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if this.delivered < this.sniffed_len {
            let sniffed = &this.sniffed[this.delivered..this.sniffed_len];
            let taken = sniffed.len().min(buf.remaining());
            buf.put_slice(&sniffed[..taken]);
            this.delivered += taken;
            // More may be there already: one read fewer, and the head in one piece.
            if this.delivered == this.sniffed_len
                && buf.remaining() > 0
                && let Poll::Ready(Err(error)) = Pin::new(&mut this.stream).poll_read(cx, buf)
            {
                return Poll::Ready(Err(error));
            }
        } else {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        }
        this.inspect(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.get_mut().stream);
        match joined(bufs, &mut [0; JOIN]) {
            Some(whole) => stream.poll_write(cx, whole),
            None => stream.poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
