//! One running process of a revision, as request paths see it: an address and a count of leases.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use funcd_sandbox::exit::Exit;
use funcd_sandbox::spec::InstanceId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::sync::{Notify, mpsc};

use super::handle::{Revision, ToControl};
pub use super::pipes::{Directory, Duplex, Ends, Pipes};
use super::serving::Serving;
use super::tally::Tally;
use crate::catalog::manifest::H2c;
use crate::contract::lambda;

/// One running process of a revision.
#[derive(Debug)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// What it runs.
    pub revision: Arc<Revision>,
    /// How to connect to it.
    pub address: Address,
    in_flight: AtomicU32,
    accepting: AtomicBool,
    running: AtomicBool,
    stillborn: AtomicBool,
    /// One of the two became known.
    fate: Notify,
    /// It has read a request.
    has_read: AtomicBool,
    answered: AtomicBool,
    /// It has answered over HTTP/2.
    answered_http2: AtomicBool,
    /// What it works on, if it has bindings: for the calls that it makes.
    pub serving: Serving,
    /// What requests to it came to.
    pub(super) tally: Tally,
    /// Until it was woken, if it was prepared ahead.
    standby: Option<Standby>,
    /// What it answered makes no sense, or took too long.
    spoiled: AtomicBool,
    /// How it ended.
    end: OnceLock<Exit>,
    ended: Notify,
}

/// What wakes a process that waits right before exec.
#[derive(Debug)]
struct Standby {
    go: OwnedFd,
    woken: AtomicBool,
}

impl Instance {
    /// An instance that accepts leases.
    pub fn new(id: InstanceId, revision: Arc<Revision>, address: Address) -> Instance {
        Instance {
            id,
            revision,
            address,
            standby: None,
            in_flight: AtomicU32::new(0),
            accepting: AtomicBool::new(true),
            running: AtomicBool::new(false),
            stillborn: AtomicBool::new(false),
            fate: Notify::new(),
            has_read: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            answered_http2: AtomicBool::new(false),
            serving: Serving::default(),
            tally: Tally::default(),
            spoiled: AtomicBool::new(false),
            end: OnceLock::new(),
            ended: Notify::new(),
        }
    }

    /// A process for one request, which waits right before exec.
    pub fn for_one_request(id: InstanceId, revision: Arc<Revision>, go: OwnedFd, ends: Ends) -> Instance {
        let address = Address::Pipes(Pipes::default());
        if let Address::Pipes(pipes) = &address {
            pipes.put(ends);
        }
        Instance::waiting(id, revision, address, go)
    }

    /// Whether it is for one request alone.
    pub fn is_for_one_request(&self) -> bool {
        self.revision.manifest.contract.is_per_request()
    }

    /// Lets the process of one request execute with that request's variables (a finished [`funcd_sandbox::variables::Block`]).
    ///
    /// # Errors
    /// When the process is gone, or the word does not fit into its pipe.
    pub fn wake_with(&self, block: &[u8]) -> io::Result<()> {
        let Some(standby) = &self.standby else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        standby.woken.store(true, Ordering::SeqCst);
        let length = u32::try_from(block.len())
            .map_err(io::Error::other)?
            .to_ne_bytes();
        let word = [&length[..], block].concat();
        match nix::unistd::write(&standby.go, &word)? {
            written if written == word.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// Whether it was told to execute.
    pub fn is_woken(&self) -> bool {
        self.standby
            .as_ref()
            .is_none_or(|standby| standby.woken.load(Ordering::SeqCst))
    }

    /// Whether nobody can speak to it any more: its pipes broke off within an answer.
    pub(super) fn has_lost_its_pipes(&self) -> bool {
        match &self.address {
            Address::Pipes(pipes) => !self.is_for_one_request() && !pipes.is_there(),
            Address::Unix(_) | Address::Port { .. } | Address::Directory(_) | Address::Lambda(_) => false,
        }
    }

    /// It is of no use to anybody any more, and need not be waited for.
    pub fn spoil(&self) {
        self.spoiled.store(true, Ordering::SeqCst);
        self.stop_accepting();
    }

    /// Whether it is of no use to anybody any more.
    pub fn is_spoiled(&self) -> bool {
        self.spoiled.load(Ordering::SeqCst)
    }

    /// No new leases from now on: true if there could have been.
    pub fn withdraw(&self) -> bool {
        self.accepting.swap(false, Ordering::SeqCst)
    }

    /// It has ended: who waits for that is told.
    pub fn note_end(&self, exit: Exit) {
        let _ = self.end.set(exit);
        self.ended.notify_waiters();
    }

    /// How it ended, once it has.
    pub async fn end(&self) -> Exit {
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            ended.as_mut().enable();
            if let Some(exit) = self.end.get() {
                return exit.clone();
            }
            ended.await;
        }
    }

    /// An instance that accepts leases, and whose process waits for a byte from `go` to execute.
    pub fn waiting(id: InstanceId, revision: Arc<Revision>, address: Address, go: OwnedFd) -> Instance {
        let woken = AtomicBool::new(false);
        Instance {
            standby: Some(Standby { go, woken }),
            ..Instance::new(id, revision, address)
        }
    }

    /// Lets its process execute if it waits for that.
    pub fn wake(&self) {
        if let Some(standby) = &self.standby
            && !standby.woken.load(Ordering::Relaxed)
            && !standby.woken.swap(true, Ordering::SeqCst)
        {
            // One byte into an empty pipe; if the process is gone, the launcher tells.
            let _ = nix::unistd::write(&standby.go, &[1]);
        }
    }

    /// Whether its process was prepared ahead of the request that woke it.
    pub fn was_prepared(&self) -> bool {
        self.standby.is_some()
    }

    /// Whether a response head ever came from it.
    pub fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// It took a request in as a whole, and ended the connection without an answer. So its start was over, whatever ended it then.
    pub fn note_read(&self) {
        self.has_read.store(true, Ordering::SeqCst);
    }

    /// Whether it is known to have taken a request in.
    pub fn has_read(&self) -> bool {
        self.has_read.load(Ordering::SeqCst)
    }

    /// A response head came over HTTP/2.
    pub fn note_http2(&self) {
        if !self.answered_http2.load(Ordering::Relaxed) {
            self.answered_http2.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it is known to speak HTTP/2: its manifest says so, or it did. Otherwise it is only a caller who says so.
    pub fn speaks_http2(&self) -> bool {
        self.revision.manifest.h2c == H2c::Always || self.answered_http2.load(Ordering::Relaxed)
    }

    /// Notes that a response head came; true the first time.
    pub fn note_answer(&self) -> bool {
        !self.has_answered() && !self.answered.swap(true, Ordering::Relaxed)
    }

    /// Whether its process is known to have been started. It may have been for a while before that is known.
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }

    /// Its process was started.
    pub fn note_running(&self) {
        self.running.store(true, Ordering::SeqCst);
        self.fate.notify_waiters();
    }

    /// It ended, and its process was never started.
    pub fn note_stillborn(&self) {
        self.stillborn.store(true, Ordering::SeqCst);
        self.fate.notify_waiters();
    }

    /// Whether its process was never started, so that nobody can have read what was sent to it. Waits for the launcher's word,
    /// until then at most: what nobody knows is no.
    pub async fn never_ran(&self, until: Instant) -> bool {
        loop {
            let mut told = std::pin::pin!(self.fate.notified());
            told.as_mut().enable();
            if self.is_running() {
                return false;
            }
            if self.stillborn.load(Ordering::SeqCst) {
                return true;
            }
            if tokio::time::timeout_at(until.into(), told).await.is_err() {
                return false;
            }
        }
    }

    /// Leases held now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Whether new leases are given; false while it is frozen, and once it drains or has ended.
    pub fn is_accepting(&self) -> bool {
        self.accepting.load(Ordering::SeqCst)
    }

    /// No new leases from now on. The caller then waits until [`Instance::in_flight`] is 0.
    pub fn stop_accepting(&self) {
        self.accepting.store(false, Ordering::SeqCst);
    }

    /// Leases are given again: it was frozen, and goes on.
    pub fn start_accepting(&self) {
        self.accepting.store(true, Ordering::SeqCst);
    }

    /// It has ended: who waits to connect gets an error.
    pub fn close(&self) {
        self.stop_accepting();
        match &self.address {
            Address::Port { stock, .. } => stock.close(),
            // What it may still be told goes nowhere.
            Address::Pipes(pipes) => drop(pipes.take()),
            Address::Unix(_) | Address::Directory(_) => {}
            Address::Lambda(api) => api.close(),
        }
    }

    /// Takes one of the `concurrency` places, if one is free and the instance accepts.
    pub(super) fn try_lease(&self) -> bool {
        let limit = self.revision.manifest.scale.concurrency;
        // Never above the limit, not even for a moment: a try that fails must not make another one fail, which would then
        // wait for a place that is free.
        let one_more = |count| (count < limit).then_some(count + 1);
        let taken = self
            .in_flight
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
        if taken.is_err() {
            return false;
        }
        if self.is_for_one_request() {
            // Whoever ends this one's waiting has it, and nobody after.
            let first = self.withdraw();
            if !first {
                self.release();
            }
            return first;
        }
        // Counted before looking, as the drain looks after it stopped accepting: one of the two sees the other.
        if self.is_accepting() {
            return true;
        }
        self.release();
        false
    }

    /// Gives a place back.
    pub(super) fn release(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// Those of `connect`; refused means that the process is gone or does not listen.
    pub async fn dial(&self) -> io::Result<Stream> {
        match &self.address {
            Address::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
            Address::Lambda(api) => Ok(Stream::Unix(api.dial()?)),
            Address::Port { port, stock } => {
                let socket = std::net::TcpStream::from(stock.take(self.id).await?);
                socket.set_nonblocking(true)?;
                let there = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
                let stream = TcpSocket::from_std_stream(socket).connect(there).await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Address::Pipes(pipes) => {
                // What it says unasked would be taken for the answer to this request.
                let ends = pipes.take().filter(Ends::is_quiet);
                let ends = ends.ok_or(io::ErrorKind::ConnectionRefused)?;
                Ok(Stream::Pipes(Box::new(Duplex::new(ends)?)))
            }
            Address::Directory(directory) => Ok(Stream::Unix(directory.connect().await?)),
        }
    }
}

/// How to connect to an instance.
#[derive(Debug)]
pub enum Address {
    /// It accepts on a Unix socket that was bound before it existed.
    Unix(PathBuf),
    /// It listens on a TCP port of its own network namespace, reached by sockets that were made in there.
    Port {
        /// The port on 127.0.0.1 of that namespace.
        port: u16,
        /// Sockets made in there.
        stock: SocketStock,
    },
    /// It asks for its requests itself, at its desk.
    Lambda(lambda::Api),
    /// Its stdin and stdout.
    Pipes(Pipes),
    /// It binds a Unix socket in a directory of its own.
    Directory(Directory),
}

impl Address {
    /// Whether it lives on without this supervisor: the launcher holds what it is reached by.
    pub fn outlives(&self) -> bool {
        match self {
            Address::Unix(_) | Address::Port { .. } | Address::Lambda(_) => true,
            Address::Pipes(_) | Address::Directory(_) => false,
        }
    }
}

/// Unconnected TCP sockets of an instance's network namespace; refilled by the launcher before they run out.
#[derive(Debug)]
pub struct SocketStock {
    sockets: Mutex<Vec<OwnedFd>>,
    arrived: Notify,
    asked: AtomicBool,
    /// Answers of the launcher that brought none.
    in_vain: AtomicU32,
    closed: AtomicBool,
    control: mpsc::UnboundedSender<ToControl>,
}

impl SocketStock {
    /// Below this many, more are asked for.
    pub(crate) const LOW: usize = 8;

    /// An empty stock that asks through `control`.
    pub fn new(control: mpsc::UnboundedSender<ToControl>) -> SocketStock {
        SocketStock {
            sockets: Mutex::new(Vec::new()),
            arrived: Notify::new(),
            asked: AtomicBool::new(false),
            in_vain: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            control,
        }
    }

    /// Puts what the launcher made on the shelf.
    pub fn refill(&self, sockets: Vec<OwnedFd>) {
        if sockets.is_empty() {
            self.in_vain.fetch_add(1, Ordering::SeqCst);
        }
        self.sockets
            .lock()
            .expect("no holder of this lock panics")
            .extend(sockets);
        self.asked.store(false, Ordering::SeqCst);
        self.arrived.notify_waiters();
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.arrived.notify_waiters();
    }

    async fn take(&self, id: InstanceId) -> io::Result<OwnedFd> {
        let in_vain = self.in_vain.load(Ordering::SeqCst);
        loop {
            let mut arrived = std::pin::pin!(self.arrived.notified());
            arrived.as_mut().enable();
            let (socket, left) = {
                let mut sockets = self.sockets.lock().expect("no holder of this lock panics");
                (sockets.pop(), sockets.len())
            };
            // Who asks again, after a pause, is not the one who was told.
            if socket.is_none() && self.in_vain.load(Ordering::SeqCst) != in_vain {
                let why =
                    "the launcher can't make sockets in the function's network namespace: its log says why";
                return Err(io::Error::other(why));
            }
            if left < Self::LOW && !self.asked.swap(true, Ordering::SeqCst) {
                let _ = self.control.send(ToControl::SocketsLow(id));
            }
            if let Some(socket) = socket {
                return Ok(socket);
            }
            if self.closed.load(Ordering::SeqCst) {
                return Err(io::Error::new(
                    io::ErrorKind::ConnectionRefused,
                    "the instance has ended",
                ));
            }
            arrived.await;
        }
    }
}

/// A connection to an instance.
#[derive(Debug)]
pub enum Stream {
    /// Over its Unix socket.
    Unix(UnixStream),
    /// Over TCP in its network namespace.
    Tcp(TcpStream),
    /// Over its stdin and stdout.
    Pipes(Box<Duplex>),
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Stream::Unix(stream) => stream.as_raw_fd(),
            Stream::Tcp(stream) => stream.as_raw_fd(),
            Stream::Pipes(duplex) => duplex.stdout.as_raw_fd(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Pipes(duplex) => Pin::new(&mut duplex.stdout).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Pipes(duplex) => Pin::new(&mut duplex.stdin).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Most requests are a head only: a plain write costs less.
        if let [whole] = bufs {
            return self.poll_write(cx, whole);
        }
        match self.get_mut() {
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Pipes(duplex) => Pin::new(&mut duplex.stdin).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Pipes(duplex) => Pin::new(&mut duplex.stdin).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            // It stays open for the next request.
            Stream::Pipes(duplex) => Pin::new(&mut duplex.stdin).poll_flush(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_launcher_that_makes_no_sockets_is_not_asked_again_and_again() {
        let (control, mut inbox) = mpsc::unbounded_channel();
        let stock = Arc::new(SocketStock::new(control));
        for _ in 0..3 {
            let waiter = tokio::spawn({
                let stock = Arc::clone(&stock);
                async move { stock.take(InstanceId(7)).await }
            });
            assert_eq!(inbox.recv().await, Some(ToControl::SocketsLow(InstanceId(7))));
            stock.refill(Vec::new());
            let why = waiter.await.unwrap().unwrap_err();
            assert!(why.to_string().contains("can't make sockets"), "{why}");
            assert!(inbox.try_recv().is_err(), "nothing is asked without a request");
        }
        let waiter = tokio::spawn({
            let stock = Arc::clone(&stock);
            async move { stock.take(InstanceId(7)).await }
        });
        assert!(inbox.recv().await.is_some());
        stock.refill(vec![std::fs::File::open("/dev/null").unwrap().into()]);
        assert!(waiter.await.unwrap().is_ok(), "and when it can, all is well");
    }
}
