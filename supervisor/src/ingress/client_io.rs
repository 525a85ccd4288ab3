//! A caller's socket as hyper sees it: what comes in is screened first. Never changes a byte that passes, and never
//! looks into a body.
//!
//! A head of HTTP/1 is kept back until it is complete and known to be good; one that is not is replaced by a request that
//! hyper can read, so that the refusal takes the way of every other one. A flaw within a body ends the reading
//! there. HTTP/2 frames that come in floods are replaced by one that makes h2 say GOAWAY.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use metrics::counter;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::flaw::Flaw;
use super::frames::{Frames, POISON, Refused, Verdict};
use super::inspect::{Fed, Inspector};
use super::watch::Watch;
use super::worker::Shared;
use crate::telemetry::names;

/// How HTTP/2 with prior knowledge begins (RFC 9113, 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Stands in for a head that is refused; nobody but `check_framing` sees it.
const SUBSTITUTE: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\n\r\n";
/// Room for what is kept back that an idle connection may hold on to.
const ROOM: usize = 4096;

/// What looks at the bytes first.
enum Screen {
    /// Which protocol it is is not known yet.
    Unknown,
    Http1(Box<Inspector>),
    Http2(Box<Frames>),
    /// Another protocol, after an upgrade: anything passes.
    Open,
    /// Nothing more is read: the connection ends with the answers to what passed.
    Silent,
    /// What passed is followed by an error.
    Broken,
}

/// A client's socket that screens what comes in and starts the clock of each request head at its first byte.
pub(super) struct ClientIo {
    pub(super) stream: TcpStream,
    watch: Arc<Watch>,
    held: Held,
    screen: Screen,
    /// Read and not delivered: first what has passed, then what was looked at, then what was not.
    kept: Vec<u8>,
    passed: usize,
    looked_at: usize,
    /// The first bytes, read to tell the protocols apart.
    sniffed: [u8; PREFACE.len()],
    sniffed_len: usize,
    delivered: usize,
}

impl ClientIo {
    pub(super) fn new(stream: TcpStream, watch: &Arc<Watch>, shared: &Arc<Shared>) -> ClientIo {
        ClientIo {
            stream,
            watch: Arc::clone(watch),
            held: Held {
                shared: Arc::clone(shared),
                bytes: 0,
            },
            screen: Screen::Unknown,
            kept: Vec::new(),
            passed: 0,
            looked_at: 0,
            sniffed: [0; PREFACE.len()],
            sniffed_len: 0,
            delivered: 0,
        }
    }

    /// Reads until it is clear, and screens from then on.
    pub(super) async fn speaks_h2(&mut self) -> io::Result<bool> {
        loop {
            let known = &self.sniffed[..self.sniffed_len];
            if known.len() == PREFACE.len() || !PREFACE.starts_with(known) {
                let h2 = known == PREFACE;
                self.screen = match h2 {
                    true => Screen::Http2(Box::new(Frames::new(PREFACE.len(), Instant::now()))),
                    false => Screen::Http1(Box::new(Inspector::new(self.held.shared.bounds.head_bytes))),
                };
                return Ok(h2);
            }
            match self.stream.read(&mut self.sniffed[self.sniffed_len..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.sniffed_len += read,
            }
        }
    }

    /// Bytes off the socket, or those that were sniffed.
    fn fill(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.delivered == self.sniffed_len {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let sniffed = &self.sniffed[self.delivered..self.sniffed_len];
        let taken = sniffed.len().min(buf.remaining());
        buf.put_slice(&sniffed[..taken]);
        self.delivered += taken;
        // More may be there already: one read fewer, and the head in one piece.
        if self.delivered == self.sniffed_len
            && buf.remaining() > 0
            && let Poll::Ready(Err(error)) = Pin::new(&mut self.stream).poll_read(cx, buf)
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(()))
    }

    /// Hands out what has passed; whether that was anything.
    fn deliver(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let taken = self.passed.min(buf.remaining());
        if taken == 0 {
            return false;
        }
        buf.put_slice(&self.kept[..taken]);
        self.kept.drain(..taken);
        self.passed -= taken;
        self.looked_at -= taken;
        if self.kept.is_empty() && self.kept.capacity() > ROOM {
            self.kept = Vec::new();
            self.held.set(0);
        }
        true
    }

    /// Counts what is kept back, and gives it up if all connections together keep too much.
    fn hold(&mut self) {
        let line = match &self.screen {
            Screen::Http1(inspector) => inspector.holds(),
            _ => 0,
        };
        let bytes = (self.kept.capacity() + line).saturating_sub(ROOM);
        if bytes == self.held.bytes || !self.held.set(bytes) || bytes == 0 {
            return;
        }
        count_ended("held-heads");
        self.kept = Vec::new();
        (self.passed, self.looked_at) = (0, 0);
        self.held.set(0);
        self.screen = Screen::Broken;
    }

    /// Screens what was put into `buf` behind `before`. What may not pass yet is taken out of it again.
    fn screen(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        match &mut self.screen {
            Screen::Http1(inspector) => {
                if self.watch.idle.swap(false, Ordering::Relaxed) {
                    let deadline = Instant::now() + self.held.shared.bounds.head_timeout;
                    self.watch.set(&self.watch.connection, deadline);
                }
                let fresh = &buf.filled()[before..];
                if self.kept.is_empty() && !inspector.is_undecided() {
                    let (fed, flaw) = inspector.feed(fresh);
                    self.watch.inspected(inspector.heads(), flaw);
                    if fed.passed == fresh.len() {
                        return;
                    }
                    self.kept.extend_from_slice(fresh);
                    buf.set_filled(before);
                    self.apply(fed, flaw);
                } else {
                    self.kept.extend_from_slice(fresh);
                    buf.set_filled(before);
                    self.look();
                }
            }
            Screen::Http2(frames) => {
                let fresh = &buf.filled()[before..];
                match frames.read(fresh, Instant::now()) {
                    Verdict::Pass => {}
                    Verdict::EndAfter(passed) => {
                        self.kept.extend_from_slice(&fresh[..passed]);
                        self.kept.extend_from_slice(POISON);
                        (self.passed, self.looked_at) = (self.kept.len(), self.kept.len());
                        buf.set_filled(before);
                    }
                    Verdict::Cut => {
                        buf.set_filled(before);
                        count_ended("http2-flood");
                        self.screen = Screen::Broken;
                    }
                }
            }
            Screen::Unknown | Screen::Open | Screen::Silent | Screen::Broken => {}
        }
    }

    /// Looks at what was kept back and not looked at, if it can be by now.
    fn look(&mut self) {
        let Screen::Http1(inspector) = &mut self.screen else {
            return;
        };
        if inspector.is_undecided() {
            if self.watch.has_switched() {
                (self.passed, self.looked_at) = (self.kept.len(), self.kept.len());
                self.screen = Screen::Open;
                return;
            }
            if !self.watch.is_decided(inspector.heads()) {
                return;
            }
            inspector.decide();
        }
        let (fed, flaw) = inspector.feed(&self.kept[self.looked_at..]);
        self.watch.inspected(inspector.heads(), flaw);
        self.apply(fed, flaw);
    }

    fn apply(&mut self, fed: Fed, flaw: Option<Flaw>) {
        let Screen::Http1(inspector) = &self.screen else {
            return;
        };
        if fed.passed > 0 {
            self.passed = self.looked_at + fed.passed;
        }
        self.looked_at += fed.looked_at;
        let Some(flaw) = flaw else { return };
        self.kept.truncate(self.passed);
        self.screen = if inspector.flawed_head() == Some(true) {
            self.kept.extend_from_slice(SUBSTITUTE);
            Screen::Silent
        } else {
            count_ended(flaw.slug());
            Screen::Broken
        };
        (self.passed, self.looked_at) = (self.kept.len(), self.kept.len());
    }

    /// More than a head is kept back behind a request that may change the protocol: it can wait in the socket.
    fn is_full(&self) -> bool {
        self.kept.len() - self.looked_at >= self.held.shared.bounds.head_bytes
    }

    fn wrote(&mut self, bytes: &[u8]) {
        if let Screen::Http2(frames) = &mut self.screen {
            frames.wrote(bytes, |refused| match refused {
                Refused::Stream(reason) => {
                    counter!(names::REQUESTS_REJECTED_TOTAL, "reason" => reason).increment(1);
                }
                Refused::Connection(reason) => count_ended(reason),
            });
        }
    }
}

/// This connection's part of what all keep back.
struct Held {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Held {
    /// Whether all together hold too much.
    fn set(&mut self, bytes: usize) -> bool {
        let before = std::mem::replace(&mut self.bytes, bytes);
        self.shared.hold(before, bytes)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Counts a caller's connection that funcd ends for what the caller did, or did not do.
pub(super) fn count_ended(reason: &'static str) {
    counter!(names::CONNECTIONS_ENDED_TOTAL, "reason" => reason).increment(1);
}

impl AsyncRead for ClientIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.looked_at < this.kept.len() {
                this.look();
            }
            if this.deliver(buf) {
                return Poll::Ready(Ok(()));
            }
            match this.screen {
                // Whoever waits is woken by the answers to what passed; after those nobody reads.
                Screen::Silent => return Poll::Pending,
                Screen::Broken => {
                    let why = "the framing of the caller's stream is broken";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
                }
                _ if this.is_full() => return Poll::Pending,
                _ => {}
            }
            let before = buf.filled().len();
            ready!(this.fill(cx, buf))?;
            if buf.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            this.screen(buf, before);
            this.hold();
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
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

impl AsyncWrite for ClientIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        this.wrote(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let stream = Pin::new(&mut this.stream);
        let written = ready!(match joined(bufs, &mut [0; JOIN]) {
            Some(whole) => stream.poll_write(cx, whole),
            None => stream.poll_write_vectored(cx, bufs),
        })?;
        let mut left = written;
        for buf in bufs {
            let taken = left.min(buf.len());
            this.wrote(&buf[..taken]);
            left -= taken;
        }
        Poll::Ready(Ok(written))
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
