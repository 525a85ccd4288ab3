//! Connections to instances that wait for their next request: one pool a worker, last in, first out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use funcd_sandbox::spec::InstanceId;

use super::body::Upload;
use super::channels::Channels;
use super::link::Link;
use crate::function::instance::{Ends, Instance, Stream};

/// An idle connection is closed after this.
pub(super) const IDLE: Duration = Duration::from_secs(60);
/// With so few instances nothing is looked for between two sweeps.
const FEW: usize = 16;

/// A connection to an instance.
pub(super) type Upstream = Link<Stream, Upload>;

impl Upstream {
    /// The ends of the pipes that this was made of, for the next request; `None` for what is made of something else, or holds
    /// what nobody asked for.
    pub(super) fn into_ends(self) -> Option<Ends> {
        match self.into_stream() {
            (Stream::Pipes(duplex), rest) if rest.is_empty() => duplex.into_ends().ok(),
            _ => None,
        }
    }
}

/// A connection is more than half a kilobyte: boxed it moves between pool and request by its address.
type Parked = Vec<Box<Upstream>>;

/// The connections of one worker.
#[derive(Default)]
pub(super) struct Pool {
    idle: HashMap<InstanceId, (Arc<Instance>, Parked)>,
    /// Those that many requests use at once.
    pub(super) channels: Channels,
    /// With so many instances it is looked for those that are gone.
    crowded: usize,
}

impl Pool {
    /// The connection to this instance that was used last.
    pub(super) fn pop(&mut self, instance: &Instance) -> Option<Box<Upstream>> {
        self.idle.get_mut(&instance.id)?.1.pop()
    }

    /// Keeps a connection for later, if the instance is there for later. Gives back what is stale, to be dropped, once in a
    /// while: functions that start and end hundreds of times a second would leave as many descriptors until the next sweep.
    #[must_use = "dropped while the pool is borrowed, a connection may find it so"]
    pub(super) fn put(
        &mut self,
        instance: &Arc<Instance>,
        mut upstream: Box<Upstream>,
        now: Instant,
    ) -> Parked {
        if !instance.is_accepting() {
            return vec![upstream];
        }
        upstream.parked = now;
        upstream.reused = true;
        let (_, parked) = self
            .idle
            .entry(instance.id)
            .or_insert_with(|| (Arc::clone(instance), Vec::new()));
        parked.push(upstream);
        if self.idle.len() <= self.crowded.max(FEW) {
            return Vec::new();
        }
        let stale = self.take_stale(now);
        // So that each look is paid for by as many new instances.
        self.crowded = 2 * self.idle.len();
        stale
    }

    /// Takes out what was idle for too long, and all of instances that are gone.
    pub(super) fn take_stale(&mut self, now: Instant) -> Parked {
        let mut stale = Vec::new();
        self.idle.retain(|_, (instance, parked)| {
            let gone = !instance.is_accepting() && instance.in_flight() == 0;
            // The oldest lie at the bottom.
            let old = parked
                .partition_point(|upstream| gone || now.saturating_duration_since(upstream.parked) >= IDLE);
            stale.extend(parked.drain(..old));
            !parked.is_empty()
        });
        self.channels.drop_stale(now);
        stale
    }

    /// Closes all.
    pub(super) fn clear(&mut self) {
        self.idle.clear();
        self.channels = Channels::default();
    }
}

/// A connection that was idle and is still open; see [`Link::is_open`].
pub(super) async fn pop_open(
    pool: &std::cell::RefCell<Pool>,
    instance: &Instance,
    certain: bool,
) -> Option<Box<Upstream>> {
    loop {
        let mut upstream = pool.borrow_mut().pop(instance)?;
        if upstream.is_open(certain).await {
            return Some(upstream);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::net::UnixStream;

    use super::*;

    use crate::function::instance::Address;

    fn instance(id: u64) -> Arc<Instance> {
        let revision = crate::ingress::tests::revision(0, crate::ingress::tests::manifest());
        Arc::new(Instance::new(
            InstanceId(id),
            revision,
            Address::Unix("/none".into()),
        ))
    }

    async fn open() -> (Box<Upstream>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Upstream::over(Stream::Unix(ours)).await.unwrap(), theirs)
    }

    #[tokio::test]
    async fn the_last_in_is_the_first_out_and_closed_ones_are_skipped() {
        let pool = RefCell::<Pool>::default();
        let instance = instance(1);
        let (one, _there) = open().await;
        let (two, gone) = open().await;
        let now = Instant::now();
        drop(pool.borrow_mut().put(&instance, one, now));
        let later = now + Duration::from_millis(1);
        drop(pool.borrow_mut().put(&instance, two, later));
        drop(gone);
        // The close is seen once the runtime has looked at its sockets.
        tokio::task::yield_now().await;
        let popped = pop_open(&pool, &instance, false).await.unwrap();
        assert!(popped.reused && popped.parked == now);
        assert!(pop_open(&pool, &instance, false).await.is_none());
    }

    #[tokio::test]
    async fn a_close_that_the_runtime_has_not_seen_is_seen_when_asked_for() {
        let pool = RefCell::<Pool>::default();
        let instance = instance(1);
        let (closed, there) = open().await;
        drop(pool.borrow_mut().put(&instance, closed, Instant::now()));
        drop(there);
        assert!(pop_open(&pool, &instance, true).await.is_none());
        let (open, _there) = open().await;
        drop(pool.borrow_mut().put(&instance, open, Instant::now()));
        assert!(pop_open(&pool, &instance, true).await.is_some());
    }

    #[tokio::test]
    async fn connections_of_ended_instances_do_not_pile_up_between_two_sweeps() {
        let mut pool = Pool::default();
        for id in 0..200 {
            let instance = instance(id);
            let (upstream, _there) = open().await;
            drop(pool.put(&instance, upstream, Instant::now()));
            instance.stop_accepting();
        }
        assert!(
            pool.idle.len() <= 2 * FEW,
            "{} descriptors of instances that are gone",
            pool.idle.len()
        );
    }

    #[tokio::test]
    async fn what_is_old_or_of_an_ended_instance_is_stale() {
        let mut pool = Pool::default();
        let (stays, ends) = (instance(1), instance(2));
        let now = Instant::now();
        let mut there = vec![];
        for (instance, age) in [(&stays, 60), (&stays, 1), (&ends, 0)] {
            let (upstream, end) = open().await;
            there.push(end);
            drop(pool.put(instance, upstream, now + Duration::from_secs(60 - age)));
        }
        assert_eq!(pool.take_stale(now + IDLE).len(), 1);
        ends.stop_accepting();
        assert_eq!(pool.take_stale(now + IDLE).len(), 1);
        let (late, _end) = open().await;
        drop(pool.put(&ends, late, now));
        assert!(
            pool.pop(&ends).is_none(),
            "an ended instance's connection is not kept"
        );
        assert!(pool.pop(&stays).is_some());
    }
}
