//! How requests get into the process. `http` and `port` both speak HTTP/1.1 over a byte stream, so they differ only in
//! how that stream is opened. Never parses HTTP.

use std::io;
use std::time::{Duration, Instant};

use crate::function::instance::{Address, Instance, Stream};

/// Opens a connection to an instance, in the way of its contract.
///
/// `http`: the socket was bound before the process existed, so this succeeds while the process still starts, and the
/// kernel keeps the connection until it is accepted. `port`: the process binds for itself, so until its first answer
/// a refused connection is tried again.
///
/// # Errors
/// `TimedOut` at the deadline; else what `connect` said last. `ConnectionRefused` means that nobody listens any more.
pub async fn connect(instance: &Instance, deadline: Instant) -> io::Result<Stream> {
    let mut pause = Duration::from_millis(1);
    loop {
        let dialled = tokio::time::timeout_at(deadline.into(), instance.dial()).await;
        match dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Err(error) if worth_waiting(instance, &error) && Instant::now() + pause < deadline => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(20));
            }
            outcome => return outcome,
        }
    }
}

/// A full listen queue empties (a Unix socket then says `EAGAIN` instead of waiting), and a `port` process that has
/// never answered may just not listen yet.
fn worth_waiting(instance: &Instance, error: &io::Error) -> bool {
    let starting = matches!(instance.address, Address::Port { .. }) && !instance.has_answered();
    match error.kind() {
        io::ErrorKind::WouldBlock => instance.is_accepting(),
        io::ErrorKind::ConnectionRefused => starting && instance.is_accepting(),
        _ => false,
    }
}
