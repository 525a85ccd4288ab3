//! After `101 Switching Protocols`: bytes both ways until both ends have closed, or the instance has ended. Never looks at them.

use std::future::poll_fn;
use std::rc::Rc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

use super::super::body::Upload;
use super::call::Call;
use crate::egress::http::guard::Place;
use crate::egress::http::pool::Link;
use crate::egress::pump;

/// Waits until both sides have switched, then copies. The tunnel holds the call's place; it ends with the instance, for a target that
/// never closes its end would keep it for good.
pub(super) fn open(client: OnUpgrade, mut link: Box<Link<Upload>>, held: (Place, Call)) {
    let outlet = Rc::clone(&held.1.outlet);
    outlet.tunnel(async move {
        let _held = held;
        // Its end is the hand-over: the head was the last of HTTP on it.
        poll_fn(|cx| link.poll(cx)).await;
        let Ok(client) = client.await else { return };
        let (mut target, early) = link.into_stream();
        let mut client = TokioIo::new(client);
        if early.is_empty() || client.write_all(&early).await.is_ok() {
            let _ = pump::both_ways(&mut client, &mut target, |_, _| {}).await;
        }
    });
}
