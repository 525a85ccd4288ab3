//! What carries a request and its answer: a connection of its own, or a stream of one that others use too. Never waits for either.

use std::task::{Context, Poll};

use super::call::Call;
use super::pool::Upstream;

/// What carries a request and its answer.
pub(super) enum Via {
    /// A connection that it has for itself.
    Connection(Box<Upstream>),
    /// A stream of a connection.
    Stream(Box<Call>),
}

impl Via {
    /// Moves bytes of the body, and with a connection of its own those of the answer. Ready: there is nothing more to be moved.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            // An idle connection has delivered the whole response; most do so before the first poll.
            Via::Connection(upstream) if upstream.is_idle() => Poll::Pending,
            Via::Connection(upstream) => upstream.poll(cx),
            Via::Stream(call) => {
                // It is kept to the end of the answer: dropped, it would be taken for one that nobody waits for.
                let _ = call.poll(cx);
                Poll::Pending
            }
        }
    }
}
