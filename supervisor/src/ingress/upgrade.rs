//! After `101 Switching Protocols`: bytes both ways until both ends have closed, or one has, and the other says nothing for too
//! long. Never looks at them.

use std::cell::Cell;
use std::future::poll_fn;

use http::StatusCode;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

use super::pool::Upstream;
use super::visit::Visit;
use crate::admission::door::Permit;
use crate::egress::live::Live;
use crate::egress::pump;
use crate::function::handle::Lease;

/// Waits until both sides have switched, then copies. The tunnel holds the permit and the lease, and counts as a
/// connection: a drain waits for it until its deadline.
pub(super) fn open(client: OnUpgrade, mut upstream: Box<Upstream>, held: (Lease, Permit), mut visit: Visit) {
    visit.answered(StatusCode::SWITCHING_PROTOCOLS);
    // Another function at the other end is none of the connections that a worker waits for.
    let (counted, live) = (visit.worker().count(), Live::begin());
    tokio::task::spawn_local(async move {
        let _held = (held, counted, live);
        // Its end is the hand-over: the head was the last of HTTP on it.
        poll_fn(|cx| upstream.poll(cx)).await;
        let Ok(client) = client.await else { return };
        let (mut function, early) = upstream.into_stream();
        let mut client = TokioIo::new(client);
        if !early.is_empty() && client.write_all(&early).await.is_err() {
            return;
        }
        visit.downloaded(early.len());
        let down = Cell::new(0);
        let count = |to_client, bytes| down.set(down.get() + if to_client { bytes } else { 0 });
        let _ = pump::both_ways(&mut function, &mut client, count).await;
        visit.downloaded(usize::try_from(down.get()).unwrap_or(usize::MAX));
    });
}
