//! One client connection: which protocol it speaks, its bounds, its end. Never looks into a request.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::body::Reply;
use super::client_io::{ClientIo, count_ended};
use super::headers::Peer;
use super::inside::{self, Outlet};
use super::request;
use super::visit::Visit;
use super::watch::{STREAM, Watch, guarded};
use super::worker::{Counted, Worker};

/// An answer to a request whose body was not read is left to the caller for so long, and so many bytes are dropped,
/// before the connection is closed: closing with unread bytes resets it, and the answer may be lost.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 4 << 20);
/// While most connections are taken, an idle one may be kept for no longer than this.
const IDLE_UNDER_PRESSURE: Duration = Duration::from_secs(1);
/// A function may keep its connections for longer: they end with it, and are bounded by its bindings.
const IDLE_INSIDE: Duration = Duration::from_secs(600);

/// What the requests of one connection share.
pub(super) struct Connection {
    pub(super) worker: Rc<Worker>,
    pub(super) watch: Arc<Watch>,
    pub(super) peer: RefCell<Peer>,
    pub(super) linger: Cell<bool>,
    requests: Cell<u32>,
    active: Cell<u32>,
    h2: bool,
    /// Whose it is and where it leads, if a function is at the other end.
    pub(super) from: Option<Rc<Outlet>>,
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
                _ if self.from.is_some() => IDLE_INSIDE,
                true => shared.bounds.idle.min(IDLE_UNDER_PRESSURE),
                false => shared.bounds.idle,
            };
            self.watch.set(&self.watch.connection, now + idle);
            // An HTTP/2 client may send pings and window updates when idle: those are not a request's head.
            self.watch.idle.store(!self.h2, Ordering::Relaxed);
        }
    }

    /// Which deadline it missed, for the metric.
    fn missed(&self) -> &'static str {
        if self.active.get() > 0 {
            "reader-stalled"
        } else if self.requests.get() > 0 && (self.h2 || self.watch.idle.load(Ordering::Relaxed)) {
            "idle"
        } else {
            "head-timeout"
        }
    }

    /// Whether the n-th request's framing was watched: HTTP/2 needs no inspector.
    pub(super) fn is_inspected(&self) -> bool {
        !self.h2
    }
}

/// Serves a connection until it ends, is closed for a missed deadline, or drained. `from`: of a function, through that.
pub(super) async fn serve(counted: Counted, stream: TcpStream, peer: IpAddr, from: Option<Rc<Outlet>>) {
    let worker = Rc::clone(counted.worker());
    if is_draining(&worker, from.as_ref()) {
        return;
    }
    let bounds = &worker.shared.bounds;
    let watch = Watch::new(worker.epoch);
    // A function may open connections before it has something to ask.
    let first = if from.is_some() {
        IDLE_INSIDE
    } else {
        bounds.head_timeout
    };
    watch.set(&watch.connection, Instant::now() + first);
    let mut io = ClientIo::new(stream, &watch, &worker.shared);
    let h2 = {
        let sniff = pin!(io.speaks_h2());
        let draining = draining(&worker, from.as_ref());
        tokio::select! {
            sniffed = guarded(&watch, sniff, |_| ()) => match sniffed {
                Some(Ok(h2)) => h2,
                Some(Err(_)) => return,
                None => return count_ended("head-timeout"),
            },
            () = draining => return,
        }
    };
    let address = peer.to_canonical();
    // No function is trusted, whatever network its own looks like.
    let trusted = from.is_none() && worker.shared.trust.believes(address);
    let connection = Rc::new(Connection {
        peer: RefCell::new(Peer::new(address, trusted)),
        worker: Rc::clone(&worker),
        watch: Arc::clone(&watch),
        linger: Cell::new(false),
        requests: Cell::new(0),
        active: Cell::new(0),
        h2,
        from,
    });
    let shared = Rc::clone(&connection);
    let service = service_fn(move |asked| answer(&shared, asked));
    if h2 {
        let served = worker.http2.serve_connection(TokioIo::new(io), service);
        run(&worker, &connection, pin!(served)).await;
        return;
    }
    let mut served = worker
        .http1
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    run(&worker, &connection, Pin::new(&mut served)).await;
    if connection.linger.get()
        && let Some(parts) = served.into_parts()
    {
        linger(parts.io.into_inner().stream).await;
    }
}

/// A request's answer: by a function, or, if it is of one with a binding to elsewhere, from there.
fn answer(
    connection: &Rc<Connection>,
    asked: Request<Incoming>,
) -> impl Future<Output = Result<Response<Reply>, Infallible>> + use<> {
    let visit = match &connection.from {
        Some(outlet) if !outlet.is_to_sibling() => Err(Box::pin(inside::handle(
            Rc::clone(connection),
            Rc::clone(outlet),
            asked,
        ))),
        _ => Ok((Visit::begin(connection), asked)),
    };
    let connection = Rc::clone(connection);
    async move {
        let mut answer = match visit {
            Ok((visit, asked)) => request::handle(visit, asked).await,
            Err(call) => call.await,
        };
        if let Ok(response) = &mut answer
            && connection.worker.shared.is_retiring()
            && !connection.h2
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
        {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        answer
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

/// Whether no request is taken after those that are there: callers' are drained with the worker, functions' with their binding.
fn is_draining(worker: &Worker, from: Option<&Rc<Outlet>>) -> bool {
    from.map_or_else(|| worker.is_draining(), |outlet| outlet.is_draining())
}

/// Resolves when [`is_draining`] begins.
async fn draining(worker: &Worker, from: Option<&Rc<Outlet>>) {
    match from {
        Some(outlet) => outlet.draining().await,
        None => worker.draining().await,
    }
}

/// Serves the connection to its end.
async fn run<C: Served>(worker: &Worker, connection: &Connection, served: Pin<&mut C>) {
    // Polled once, to be woken when the drain begins; after that the flag is looked at.
    let from = connection.from.as_ref();
    let (mut draining, mut retiring) = (pin!(draining(worker, from)), pin!(worker.retiring()));
    std::future::poll_fn(|cx| {
        let _ = retiring.as_mut().poll(cx);
        Poll::Ready(draining.as_mut().poll(cx))
    })
    .await
    .is_ready();
    let mut told = false;
    let ended = guarded(&connection.watch, served, |served| {
        // HTTP/2 can say so at any time; HTTP/1 with the next answer.
        let ends = is_draining(worker, from) || (connection.h2 && worker.shared.is_retiring());
        if ends && !std::mem::replace(&mut told, true) {
            served.wind_down();
        }
    })
    .await;
    if ended.is_none() {
        count_ended(connection.missed());
    }
}

async fn linger(mut stream: TcpStream) {
    // On the heap: in the future it would be a part of every connection, idle ones too.
    let mut scrap = vec![0; 16 * 1024];
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
            if guarded(&watch, pin!(stream), |_| ()).await.is_none() {
                count_ended("stream-reader-stalled");
            }
        }));
    }
}
