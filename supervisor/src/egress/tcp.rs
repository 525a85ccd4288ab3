//! TCP bindings: a connection of the function's is connected on, and bytes go both ways until both sides have ended. Never
//! looks at a byte.

use std::net::TcpListener;
use std::rc::Rc;
use std::time::Instant;

use tokio::net::TcpStream;

use super::{Exit, accept, pump};
use crate::catalog::binding::Endpoint;

/// Serves the binding for as long as it is polled.
pub(super) async fn serve(exit: Rc<Exit>, to: Endpoint, listener: TcpListener) {
    let places = exit.binding.concurrency;
    let connection = |inside, place| {
        let (exit, to) = (Rc::clone(&exit), to.clone());
        async move {
            forward(&exit, &to, inside).await;
            drop(place);
        }
    };
    accept::each(&exit, listener, places, connection).await;
}

async fn forward(exit: &Exit, to: &Endpoint, mut inside: TcpStream) {
    let deadline = Instant::now() + exit.binding.timeout;
    let mut outside = match exit.outside.connect(to, deadline).await {
        Ok(outside) => outside,
        Err(error) => {
            exit.metrics.failed(error.slug());
            exit.complain(&error);
            return reset(inside);
        }
    };
    let _open = exit.metrics.connected();
    let count = |is_out, n| exit.metrics.carried(is_out, n);
    if let Err(error) = pump::both_ways(&mut inside, &mut outside, count).await {
        tracing::debug!(function = %exit.function, instance = %exit.instance, binding = exit.binding.name, %error, "a connection broke off");
        reset(inside);
    }
}

/// Ends a connection so that the function sees an error (ECONNRESET) instead of an answer that is empty.
fn reset(stream: TcpStream) {
    let _ = stream.set_zero_linger();
}
