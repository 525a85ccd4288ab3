//! From a bound place to a connection: its addresses, which of them may be reached and are not set aside, one after the other.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use super::names::{NameError, Names};
use super::resolve::Resolver;
use super::tls::{Tls, TlsError};
use super::{Settings, policy};
use crate::catalog::binding::{Endpoint, Host};
use crate::name::FunctionName;

/// The next address is tried beside one that has not answered within this (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// An address that did not take a connection comes after all others for so long.
const SET_ASIDE: Duration = Duration::from_secs(30);
/// Addresses that are remembered as failing.
const MOST_ASIDE: usize = 1024;

/// What a binding does wrong again and again is written to the log once in this time.
const SELDOM: Duration = Duration::from_secs(1);

/// What is outside, as one thread knows it.
#[derive(Debug)]
pub(super) struct Outside {
    settings: Settings,
    resolver: Resolver,
    tls: Tls,
    aside: RefCell<HashMap<SocketAddr, Instant>>,
    places: Arc<Semaphore>,
    /// What one function may take of these.
    shares: RefCell<HashMap<FunctionName, Weak<Semaphore>>>,
    complained: RefCell<HashMap<(FunctionName, String), Instant>>,
}

/// One connection's place, given back when dropped.
pub(super) type Place = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// Its name means nothing.
    #[error("can't look up {host}: {source}")]
    Name {
        /// The name.
        host: String,
        /// Why not.
        source: NameError,
    },
    /// None of its addresses may be reached.
    #[error(
        "{host} is {address}, which bindings don't lead to: {why}; if that is meant, the operator adds \"{address}\" to `egress.allow`"
    )]
    Forbidden {
        /// As the manifest says it.
        host: String,
        /// What it means.
        address: SocketAddr,
        /// Why it is refused.
        why: &'static str,
    },
    /// It was connected to, or tried to.
    #[error("{host} at {address}: {source}")]
    Connect {
        /// As the manifest says it.
        host: String,
        /// The last address that was tried.
        address: SocketAddr,
        /// What came of it.
        source: io::Error,
    },
    /// It is not who it should be.
    #[error("{host}: {source}")]
    Tls {
        /// As the manifest says it.
        host: String,
        /// What is wrong.
        source: TlsError,
    },
    /// It takes too long.
    #[error("{host} did not take the connection within the binding's `timeout`")]
    TimedOut {
        /// As the manifest says it.
        host: String,
    },
}

impl DialError {
    /// Its name, for metrics.
    pub(super) fn slug(&self) -> &'static str {
        match self {
            DialError::Name { .. } => "name",
            DialError::Forbidden { .. } => "forbidden",
            DialError::Connect { .. } => "refused",
            DialError::Tls { .. } => "tls",
            DialError::TimedOut { .. } => "timed-out",
        }
    }
}

impl Outside {
    pub(super) fn new(settings: Settings) -> Outside {
        Outside {
            resolver: Resolver::new(Names::new(settings.nameservers.clone())),
            tls: Tls::new(settings.roots.clone()),
            places: Arc::new(Semaphore::new(settings.connections)),
            settings,
            shares: RefCell::default(),
            aside: RefCell::default(),
            complained: RefCell::default(),
        }
    }

    /// What all bindings of a function on this thread take their places of: half of all, so that none leaves others without.
    pub(super) fn share(&self, function: &FunctionName) -> Arc<Semaphore> {
        let mut shares = self.shares.borrow_mut();
        if let Some(share) = shares.get(function).and_then(Weak::upgrade) {
            return share;
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new((self.settings.connections / 2).max(1)));
        shares.insert(function.clone(), Arc::downgrade(&share));
        share
    }

    /// What each connection of any binding needs: a place of its function's share, and of all.
    pub(super) fn place(&self, share: &Arc<Semaphore>) -> Option<Place> {
        let of_share = Arc::clone(share).try_acquire_owned().ok()?;
        Some((of_share, Arc::clone(&self.places).try_acquire_owned().ok()?))
    }

    /// Whether the log may be told of a binding's trouble now.
    pub(super) fn may_complain(&self, function: &FunctionName, binding: &str) -> bool {
        let now = Instant::now();
        let mut complained = self.complained.borrow_mut();
        complained.retain(|_, last| now.duration_since(*last) < SELDOM);
        let whose = (function.clone(), binding.to_owned());
        match complained.contains_key(&whose) {
            true => false,
            false => complained.insert(whose, now).is_none(),
        }
    }

    /// A connection to a place.
    pub(super) async fn connect(&self, to: &Endpoint, deadline: Instant) -> Result<Stream, DialError> {
        let all = async {
            let stream = self.tcp(to).await?;
            if !to.tls {
                return Ok(Stream::Tcp(stream));
            }
            match self.tls.connect(&to.host, stream).await {
                Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
                Err(source) => Err(DialError::Tls {
                    host: to.host.to_string(),
                    source,
                }),
            }
        };
        match tokio::time::timeout_at(deadline.into(), all).await {
            Ok(outcome) => outcome,
            Err(_) => Err(DialError::TimedOut {
                host: to.host.to_string(),
            }),
        }
    }

    async fn tcp(&self, to: &Endpoint) -> Result<TcpStream, DialError> {
        let addresses = match &to.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => {
                let found = self.resolver.addresses(name).await;
                found.map_err(|source| DialError::Name {
                    host: name.clone(),
                    source,
                })?
            }
        };
        let mut may = Vec::new();
        let mut failed = None;
        for address in addresses.into_iter().map(|ip| SocketAddr::from((ip, to.port))) {
            let host = || to.host.to_string();
            match policy::is_own(address) {
                Ok(is_own) => match policy::refusal(address, is_own, &self.settings.allow) {
                    None => may.push(address),
                    Some(why) => {
                        failed = Some(DialError::Forbidden {
                            host: host(),
                            address,
                            why,
                        })
                    }
                },
                Err(source) => {
                    failed = Some(DialError::Connect {
                        host: host(),
                        address,
                        source,
                    })
                }
            }
        }
        self.good_ones_first(&mut may);
        match self.first_of(may).await {
            Some(Ok(stream)) => Ok(stream),
            Some(Err((address, source))) => Err(DialError::Connect {
                host: to.host.to_string(),
                address,
                source,
            }),
            None => Err(failed.expect("there is an address, and it was refused")),
        }
    }

    /// In the order that they were given, but those that failed a moment ago last.
    fn good_ones_first(&self, addresses: &mut [SocketAddr]) {
        let now = Instant::now();
        let aside = self.aside.borrow();
        if !aside.is_empty() {
            addresses.sort_by_key(|address| aside.get(address).is_some_and(|until| *until > now));
        }
    }

    /// The first connection that stands: the next address is tried when one fails, or has said nothing for a while.
    async fn first_of(
        &self,
        addresses: Vec<SocketAddr>,
    ) -> Option<Result<TcpStream, (SocketAddr, io::Error)>> {
        if let [only] = addresses[..] {
            return Some(self.note(only, connect(only).await));
        }
        let mut left = addresses.into_iter();
        let mut tries = JoinSet::new();
        let mut last = None;
        loop {
            let next = left.next();
            match next {
                Some(address) => drop(tries.spawn_local(async move { (address, connect(address).await) })),
                None if tries.is_empty() => return last,
                None => {}
            }
            let wait = async {
                match next {
                    Some(_) if !left.as_slice().is_empty() => tokio::time::sleep(STAGGER).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(Ok((address, outcome))) = tries.join_next() => match self.note(address, outcome) {
                    Ok(stream) => return Some(Ok(stream)),
                    failed => last = Some(failed),
                },
                () = wait => {}
            }
        }
    }

    fn note(
        &self,
        address: SocketAddr,
        outcome: io::Result<TcpStream>,
    ) -> Result<TcpStream, (SocketAddr, io::Error)> {
        let mut aside = self.aside.borrow_mut();
        match outcome {
            Ok(stream) => {
                aside.remove(&address);
                Ok(stream)
            }
            Err(error) => {
                let now = Instant::now();
                if aside.len() >= MOST_ASIDE {
                    aside.retain(|_, until| *until > now);
                }
                if aside.len() < MOST_ASIDE {
                    aside.insert(address, now + SET_ASIDE);
                }
                Err((address, error))
            }
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    // Who is gone without a word is noticed within two minutes, also when nothing is sent.
    setsockopt(&stream, sockopt::KeepAlive, &true)?;
    setsockopt(&stream, sockopt::TcpKeepIdle, &60)?;
    setsockopt(&stream, sockopt::TcpKeepInterval, &10)?;
    setsockopt(&stream, sockopt::TcpKeepCount, &6)?;
    Ok(stream)
}

/// A connection to a bound place.
#[derive(Debug)]
pub(super) enum Stream {
    /// As it is.
    Tcp(TcpStream),
    /// Within TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Stream::Tcp(stream) => stream.as_raw_fd(),
            Stream::Tls(stream) => stream.as_raw_fd(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
