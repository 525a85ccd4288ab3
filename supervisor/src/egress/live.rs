//! What goes on through bindings in this process: connections, tunnels, and sockets that may bring more of them. Who is about to end
//! waits for it.

use std::sync::atomic::{AtomicUsize, Ordering};

static LIVE: AtomicUsize = AtomicUsize::new(0);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Live(());

impl Live {
    /// It begins.
    pub(crate) fn begin() -> Live {
        LIVE.fetch_add(1, Ordering::Relaxed);
        Live(())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many there are.
pub fn count() -> usize {
    LIVE.load(Ordering::Relaxed)
}
