//! Connections to the target of an HTTP binding, kept for the next call when an answer is complete. Never opens one.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Body;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::ingress;

/// An idle connection is closed after this: before most servers do, so that few calls meet a connection that just ended.
const IDLE: Duration = Duration::from_secs(30);
/// A byte stream to a target.
pub trait Wire: AsyncRead + AsyncWrite + AsRawFd + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + AsRawFd + Unpin + Send> Wire for T {}

impl AsRawFd for Box<dyn Wire> {
    fn as_raw_fd(&self) -> RawFd {
        self.as_ref().as_raw_fd()
    }
}

/// A connection to a target.
pub type Link<B> = ingress::Link<Box<dyn Wire>, B>;

/// The idle connections of one binding of one instance: last in, first out, and no more than its calls may be.
pub struct Pool<B: Body + 'static> {
    most: usize,
    /// The oldest first.
    idle: VecDeque<Box<Link<B>>>,
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// For so many.
    pub fn new(most: usize) -> Pool<B> {
        Pool {
            most,
            idle: VecDeque::new(),
        }
    }

    /// Keeps a connection for the next call. What is given back is stale.
    #[must_use = "dropped while the pool is borrowed, a connection may find it so"]
    pub fn put(&mut self, mut link: Box<Link<B>>, now: Instant) -> Vec<Box<Link<B>>> {
        link.parked = now;
        link.reused = true;
        self.idle.push_back(link);
        let mut stale = self.take_stale(now);
        if self.idle.len() > self.most {
            stale.extend(self.idle.pop_front());
        }
        stale
    }

    /// Takes out what was idle for too long.
    pub fn take_stale(&mut self, now: Instant) -> Vec<Box<Link<B>>> {
        let old = self
            .idle
            .partition_point(|link| now.saturating_duration_since(link.parked) >= IDLE);
        self.idle.drain(..old).collect()
    }
}

/// A connection that was idle and is still open, as far as the runtime knows, or with `certain` the kernel.
pub async fn pop_open<B>(pool: &std::cell::RefCell<Pool<B>>, certain: bool) -> Option<Box<Link<B>>>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    loop {
        let mut link = pool.borrow_mut().idle.pop_back()?;
        let fresh = link.parked.elapsed() < IDLE;
        if link.is_open(certain).await && fresh {
            return Some(link);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use http_body_util::Empty;
    use tokio::net::UnixStream;

    use super::*;

    type Nothing = Empty<Bytes>;

    async fn open() -> (Box<Link<Nothing>>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Link::over(Box::new(ours)).await.unwrap(), theirs)
    }

    #[tokio::test]
    async fn the_last_in_is_the_first_out_and_closed_ones_are_skipped() {
        let pool = RefCell::new(Pool::<Nothing>::new(8));
        let ((one, _there), (two, gone)) = (open().await, open().await);
        let now = Instant::now();
        drop(pool.borrow_mut().put(one, now));
        drop(pool.borrow_mut().put(two, now + Duration::from_millis(1)));
        drop(gone);
        assert_eq!(pop_open(&pool, true).await.unwrap().parked, now);
        assert!(pop_open(&pool, true).await.is_none());
    }

    #[tokio::test]
    async fn no_more_are_kept_than_may_be_used_and_none_for_long() {
        let mut pool = Pool::<Nothing>::new(2);
        let now = Instant::now();
        let mut there = vec![];
        for _ in 0..3 {
            let (link, end) = open().await;
            there.push(end);
            drop(pool.put(link, now));
        }
        assert_eq!(pool.idle.len(), 2);
        assert_eq!(pool.take_stale(now + IDLE).len(), 2);
    }
}
