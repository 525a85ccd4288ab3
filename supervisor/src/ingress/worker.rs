//! A worker: one thread, one runtime, one listener. What its connections share, and how it is drained.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::hash::RandomState;
use std::io;
use std::net::TcpListener;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioTimer;
use nix::sys::resource::{Resource, getrlimit};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::{Notify, mpsc, watch};

use super::connection::StreamExecutor;
use super::listener;
use super::pool::Pool;
use super::route::{Routes, Target};
use super::trust::{BadNetwork, Trust};
use crate::admission::class::Ranks;
use crate::config::{ClientBounds, Config};
use crate::ledger::{Ledger, Ledgers, Question};
use crate::name::FunctionName;

/// How often idle upstream connections are looked through.
const SWEEP: Duration = Duration::from_secs(5);

/// A connection on which nothing is asked is kept for so long when another supervisor takes the callers: who asks meanwhile is
/// answered, and told that this is the last answer here. Closed at once, it could be closed while a request is on its way.
pub const LINGER: Duration = Duration::from_secs(2);

/// Of what may come in floods, a worker writes one to the log in this time, at most; of requests that fail, [`FAILURES`].
const SELDOM: Duration = Duration::from_secs(1);
/// Enough to tell each of them apart until it is clear that something is wrong.
const FAILURES: u32 = 20;

/// Bytes of incomplete heads, over all connections, beyond which those that hold large ones are closed.
const HELD: usize = 64 << 20;

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    pub(super) bounds: ClientBounds,
    pub(super) trust: Trust,
    pub(super) routes: Arc<ArcSwap<Routes>>,
    ledgers: Ledgers,
    /// Who of the callers loses first, and the numbers that they are known by.
    pub(super) ranks: Ranks,
    pub(super) hasher: RandomState,
    /// Open client connections of all workers.
    connections: AtomicUsize,
    /// Bytes of incomplete heads that all of them hold.
    held: AtomicUsize,
    /// The value of `x-funcd-brownout`; 0: none.
    brownout_header: Arc<AtomicU8>,
    /// Another supervisor takes the callers from now on.
    retiring: AtomicBool,
    /// A connection whose descriptor is this or above is one too many: what is above is for the functions' sockets.
    last_descriptor: RawFd,
}

impl Shared {
    /// The parts of the configuration that concern clients, and the table that `control` replaces.
    ///
    /// # Errors
    /// [`BadNetwork`] when `trusted` names something that is no network.
    pub fn new(config: &Config, routes: Arc<ArcSwap<Routes>>) -> Result<Arc<Shared>, BadNetwork> {
        Ok(Arc::new(Shared {
            bounds: config.client.clone(),
            trust: Trust::parse(&config.trusted)?,
            routes,
            ledgers: Ledgers::default(),
            ranks: Ranks::new(Instant::now(), rand::random()),
            hasher: RandomState::new(),
            connections: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            brownout_header: Arc::default(),
            retiring: AtomicBool::new(false),
            last_descriptor: last_descriptor(getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft)),
        }))
    }

    /// With bounds that no test reaches.
    #[cfg(test)]
    pub(super) fn for_tests() -> Arc<Shared> {
        let long = Duration::from_secs(60);
        Arc::new(Shared {
            bounds: ClientBounds {
                head_timeout: long,
                body_idle: long,
                idle: long,
                head_bytes: 32 * 1024,
                connections: 1000,
            },
            trust: Trust::parse(&[]).unwrap(),
            routes: Arc::default(),
            ledgers: Ledgers::default(),
            ranks: Ranks::new(Instant::now(), 1),
            hasher: RandomState::new(),
            connections: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            brownout_header: Arc::default(),
            retiring: AtomicBool::new(false),
            last_descriptor: RawFd::MAX,
        })
    }

    /// What the workers remember of the last requests.
    pub fn ledgers(&self) -> Ledgers {
        self.ledgers.clone()
    }

    /// What functions are told of the host, for whoever knows: 1 to 100; 0 is nothing.
    pub fn brownout_header(&self) -> Arc<AtomicU8> {
        Arc::clone(&self.brownout_header)
    }

    /// From now on each answer is the last of its connection: the next one is for another supervisor. Before
    /// [`Workers::begin_drain`], whose deadline is then preceded by [`LINGER`].
    pub fn retire(&self) {
        self.retiring.store(true, Ordering::Relaxed);
    }

    /// Whether another supervisor takes the callers.
    pub(super) fn is_retiring(&self) -> bool {
        self.retiring.load(Ordering::Relaxed)
    }

    /// What functions are told of the host now.
    pub(super) fn brownout(&self) -> u8 {
        self.brownout_header.load(Ordering::Relaxed)
    }

    /// Whether a connection with this descriptor takes what functions' sockets need. The kernel gives the lowest free number,
    /// so that it tells how many are open without counting.
    pub(super) fn is_short_of_descriptors(&self, accepted: RawFd) -> bool {
        accepted >= self.last_descriptor
    }

    /// Open client connections.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// A connection holds so many bytes of an incomplete head instead of `before`. Whether all together hold too many.
    pub(super) fn hold(&self, before: usize, bytes: usize) -> bool {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.held.fetch_sub(before, Ordering::Relaxed);
        held - before > HELD
    }

    pub(super) fn is_full(&self) -> bool {
        self.connections() >= self.bounds.connections
    }

    /// More than three quarters of the connections are taken.
    pub(super) fn is_crowded(&self) -> bool {
        self.connections() > self.bounds.connections.saturating_mul(3) / 4
    }
}

/// Of so many descriptors, callers get three quarters, and at most 2,048 are kept from them: a connection that is accepted must
/// not fail for want of one to its function, nor a start for want of a pipe.
fn last_descriptor(limit: u64) -> RawFd {
    let kept = (limit / 4).min(2048);
    RawFd::try_from(limit - kept).unwrap_or(RawFd::MAX)
}

/// Running workers.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<usize>>,
    drain: watch::Sender<Option<Instant>>,
}

impl Workers {
    /// Accepts no more connections, lets those in flight finish, closes idle ones, and waits for the threads: blocks
    /// until `deadline` at most. Connections that nobody accepted stay in the listen queue for a successor that holds
    /// the same sockets.
    ///
    /// Returns how many connections and tunnels were cut off at the deadline.
    pub fn drain(self, deadline: Instant) -> usize {
        self.drain.send_replace(Some(deadline));
        let ended = self.threads.into_iter().map(|thread| thread.join().unwrap_or(0));
        ended.sum()
    }

    /// Begins what [`Workers::drain`] does without waiting for it.
    pub fn begin_drain(&self, deadline: Instant) {
        self.drain.send_replace(Some(deadline));
    }
}

/// Starts a worker for each listener.
///
/// # Errors
/// When a thread, its runtime or its listener can't be set up; workers that had started are stopped.
pub fn spawn_workers(listeners: Vec<TcpListener>, shared: Arc<Shared>) -> io::Result<Workers> {
    let (drain, draining) = watch::channel(None);
    let (started, starts) = std::sync::mpsc::channel();
    let mut workers = Workers {
        threads: Vec::new(),
        drain,
    };
    for (number, listener) in listeners.into_iter().enumerate() {
        listener::prepare(&listener)?;
        let runtime = tokio::runtime::Builder::new_current_thread();
        let (shared, draining, started) = (Arc::clone(&shared), draining.clone(), started.clone());
        let thread = std::thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || work(runtime, listener, shared, (draining, started)));
        workers.threads.push(thread?);
    }
    drop(started);
    // Callers of a listener without a worker would wait for ever: then rather none at all, and another supervisor.
    starts.into_iter().collect::<io::Result<()>>()?;
    Ok(workers)
}

fn work(
    mut runtime: tokio::runtime::Builder,
    listener: TcpListener,
    shared: Arc<Shared>,
    (mut draining, started): (
        watch::Receiver<Option<Instant>>,
        std::sync::mpsc::Sender<io::Result<()>>,
    ),
) -> usize {
    let runtime = match runtime
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let what = "a worker can't make its runtime (epoll, eventfd), raise the limit of open files";
            let _ = started.send(Err(io::Error::new(error.kind(), format!("{what}: {error}"))));
            return 0;
        }
    };
    let _ = started.send(Ok(()));
    drop(started);
    runtime.block_on(async move {
        let worker = Worker::new(shared);
        let sweeper = tokio::task::spawn_local(Rc::clone(&worker).sweep());
        let teller = tokio::task::spawn_local(Rc::clone(&worker).tell(worker.shared.ledgers.join()));
        listener::accept(&worker, listener, &mut draining).await;
        let deadline = draining.borrow().unwrap_or_else(Instant::now);
        worker.drain(deadline).await;
        sweeper.abort();
        teller.abort();
        worker.active.get()
    })
}

/// What the connections of one thread share.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) epoch: Instant,
    pub(super) http1: http1::Builder,
    pub(super) http2: http2::Builder<StreamExecutor>,
    pub(super) pool: RefCell<Pool>,
    pub(super) chance: RefCell<SmallRng>,
    pub(super) ledger: RefCell<Ledger>,
    /// Which of the requests that are shed, and sent again, are written to the log.
    pub(super) sheds: Seldom,
    pub(super) retries: Seldom,
    pub(super) failures: Seldom,
    routes: RefCell<Cache<Arc<ArcSwap<Routes>>, Arc<Routes>>>,
    is_draining: Cell<bool>,
    drain: Notify,
    retire: Notify,
    /// Connections and tunnels.
    active: Cell<usize>,
    settled: Notify,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>) -> Rc<Worker> {
        let bounds = &shared.bounds;
        let epoch = Instant::now();
        let mut http1 = http1::Builder::new();
        // Time-outs are the watch's: hyper's own would make a timer for each head. A half-closed client is gone:
        // only so is it noticed that nobody waits for the answer any more. `pipeline_flush` stays off: with it hyper (1.12)
        // buffers a response without bound while the caller reads nothing, and never flushes its own 400 and 431.
        http1
            .half_close(false)
            .max_header_size(bounds.head_bytes)
            .max_buf_size(bounds.head_bytes.max(64 * 1024));
        // Twice what is taken, so that most heads that are too large get an answer of funcd's own (`check_framing`); h2
        // answers the others with a bare 431 and never holds more of them.
        let header_list = u32::try_from(2 * bounds.head_bytes).unwrap_or(u32::MAX);
        let mut http2 = http2::Builder::new(StreamExecutor { epoch });
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(128)
            .max_pending_accept_reset_streams(20)
            .max_local_error_reset_streams(64)
            .max_header_list_size(header_list)
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .max_send_buf_size(64 * 1024)
            .keep_alive_interval(bounds.idle.min(Duration::from_secs(30)))
            .keep_alive_timeout(Duration::from_secs(10));
        Rc::new(Worker {
            routes: RefCell::new(Cache::new(Arc::clone(&shared.routes))),
            shared,
            epoch,
            http1,
            http2,
            pool: RefCell::default(),
            chance: RefCell::new(SmallRng::from_os_rng()),
            ledger: RefCell::new(Ledger::new(epoch)),
            sheds: Seldom::of(1),
            retries: Seldom::of(1),
            failures: Seldom::of(FAILURES),
            is_draining: Cell::new(false),
            drain: Notify::new(),
            retire: Notify::new(),
            active: Cell::new(0),
            settled: Notify::new(),
        })
    }

    /// The route of a request, and how much of its path to strip.
    pub(super) fn route(&self, host: Option<&str>, path: &str) -> Option<(Arc<Target>, usize)> {
        let mut routes = self.routes.borrow_mut();
        let found = routes.load().find(host, path)?;
        Some((Arc::clone(found.target), found.strip))
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.get()
    }

    /// Resolves when another supervisor takes the callers.
    pub(super) fn retiring(&self) -> impl Future<Output = ()> {
        self.retire.notified()
    }

    /// Resolves when the drain begins.
    pub(super) fn draining(&self) -> impl Future<Output = ()> {
        self.drain.notified()
    }

    /// Counts a connection of this worker until the guard is dropped.
    pub(super) fn count(self: &Rc<Self>) -> Counted {
        self.shared.connections.fetch_add(1, Ordering::Relaxed);
        self.active.set(self.active.get() + 1);
        Counted {
            worker: Rc::clone(self),
            outside: true,
        }
    }

    /// The same for a connection of a function, which takes no place of callers outside.
    pub(super) fn count_inside(self: &Rc<Self>) -> Counted {
        self.active.set(self.active.get() + 1);
        Counted {
            worker: Rc::clone(self),
            outside: false,
        }
    }

    /// Where a function is, whatever its routes.
    pub(super) fn sibling(&self, name: &FunctionName) -> Option<Arc<Target>> {
        self.routes.borrow_mut().load().named(name).cloned()
    }

    async fn drain(&self, deadline: Instant) {
        if self.shared.is_retiring() {
            self.say_that_it_ends();
            let until = (Instant::now() + LINGER).min(deadline);
            let _ = tokio::time::timeout_at(until.into(), self.all_gone()).await;
        }
        self.is_draining.set(true);
        self.drain.notify_waiters();
        let _ = tokio::time::timeout_at(deadline.into(), self.all_gone()).await;
    }

    /// To those whose protocol knows how to say so; others are told with their next answer ([`Shared::retire`]).
    pub(super) fn say_that_it_ends(&self) {
        self.retire.notify_waiters();
    }

    async fn all_gone(&self) {
        while self.active.get() > 0 {
            self.settled.notified().await;
        }
    }

    /// Answers what others ask about the last requests.
    pub(super) async fn tell(self: Rc<Self>, mut questions: mpsc::Receiver<Question>) {
        while let Some(Question { wanted, answer }) = questions.recv().await {
            let _ = answer.send(self.ledger.borrow().look_up(&wanted));
        }
    }

    pub(super) async fn sweep(self: Rc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Taken out first: closing a connection must not find the pool borrowed.
            let stale = self.pool.borrow_mut().take_stale(Instant::now());
            drop(stale);
        }
    }
}

/// Lets so many through in a while: a flood must not become one of the log.
pub(super) struct Seldom {
    most: u32,
    began: Cell<Option<Instant>>,
    written: Cell<u32>,
    held: Cell<u64>,
}

impl Seldom {
    /// So many in each [`SELDOM`].
    pub(super) fn of(most: u32) -> Seldom {
        Seldom {
            most,
            began: Cell::default(),
            written: Cell::default(),
            held: Cell::default(),
        }
    }

    /// Whether this one may be written, and then how many were not since the last.
    pub(super) fn may(&self, now: Instant) -> Option<u64> {
        let is_over = |began: Instant| now.saturating_duration_since(began) >= SELDOM;
        if self.began.get().is_none_or(is_over) {
            self.began.set(Some(now));
            self.written.set(0);
        }
        if self.written.get() >= self.most {
            self.held.set(self.held.get() + 1);
            return None;
        }
        self.written.set(self.written.get() + 1);
        Some(self.held.take())
    }
}

/// Counts one connection or tunnel.
pub(super) struct Counted {
    worker: Rc<Worker>,
    /// It is one of those that may be open at once.
    outside: bool,
}

impl Counted {
    pub(super) fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let worker = &self.worker;
        if self.outside {
            worker.shared.connections.fetch_sub(1, Ordering::Relaxed);
        }
        worker.active.set(worker.active.get() - 1);
        if worker.active.get() == 0 {
            worker.settled.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_have_descriptors_of_their_own() {
        for (limit, last) in [
            (0, 0),
            (200, 150),
            (1024, 768),
            (20_000, 17_952),
            (524_288, 522_240),
        ] {
            assert_eq!(last_descriptor(limit), last);
        }
        assert_eq!(last_descriptor(u64::MAX), RawFd::MAX, "no limit");
    }

    #[test]
    fn one_in_a_while_and_the_others_are_counted() {
        let (seldom, now) = (Seldom::of(1), Instant::now());
        assert_eq!(seldom.may(now), Some(0));
        assert_eq!(seldom.may(now), None);
        assert_eq!(seldom.may(now + SELDOM / 2), None);
        assert_eq!(seldom.may(now + SELDOM), Some(2));
        assert_eq!(seldom.may(now + SELDOM), None);
        let few = Seldom::of(2);
        assert_eq!([0; 3].map(|_| few.may(now)), [Some(0), Some(0), None]);
        assert_eq!(few.may(now + SELDOM), Some(1));
    }
}
