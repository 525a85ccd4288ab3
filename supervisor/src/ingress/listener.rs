//! Accepts client connections. Never reads from one.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::client_io::count_ended;
use super::connection;
use super::worker::Worker;

/// What a connection beyond the bound is told.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 2\r\n\
    proxy-status: funcd; error=connection_limit_reached\r\nconnection: close\r\ncontent-length: 98\r\n\r\n\
    {\"type\":\"urn:funcd:error:too-many-connections\",\"title\":\"Too many open connections\",\"status\":503}\r\n";

/// A worker accepts so many connections, and then serves those that are there: a flood of connections, each of which costs as much as a
/// request, must not keep everybody else waiting. The others wait in the listen queue, where they cost nothing.
const AT_ONCE: u32 = 16;

/// Options that accepted connections inherit, so that accepting one costs one system call.
pub(super) fn prepare(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    setsockopt(listener, sockopt::TcpNoDelay, &true)?;
    // A caller that vanished without a word is found by these, also behind a silent event stream.
    setsockopt(listener, sockopt::KeepAlive, &true)?;
    setsockopt(listener, sockopt::TcpKeepIdle, &60)?;
    setsockopt(listener, sockopt::TcpKeepInterval, &10)?;
    setsockopt(listener, sockopt::TcpKeepCount, &6)?;
    Ok(())
}

/// Accepts until the drain begins.
pub(super) async fn accept(
    worker: &Rc<Worker>,
    listener: TcpListener,
    draining: &mut watch::Receiver<Option<Instant>>,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a worker can't watch its listener");
            return;
        }
    };
    let mut pause = Duration::ZERO;
    let mut at_once = 0;
    loop {
        if at_once == AT_ONCE {
            at_once = 0;
            // Behind all that is ready, and what the kernel says is ready by now.
            tokio::task::yield_now().await;
        }
        at_once += 1;
        let accepted = tokio::select! {
            biased;
            _ = draining.wait_for(Option::is_some) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if worker.shared.is_full() => {
                refuse(&stream);
                count_ended("too-many");
            }
            Ok((stream, _)) if worker.shared.is_short_of_descriptors(stream.as_raw_fd()) => {
                refuse(&stream);
                count_ended("descriptors");
            }
            Ok((stream, peer)) => {
                pause = Duration::ZERO;
                tokio::task::spawn_local(connection::serve(worker.count(), stream, peer.ip(), None));
            }
            Err(error) => {
                let exhausted = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM];
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
                if !exhausted.contains(&errno) {
                    // The connection broke before it was accepted: nothing of ours.
                    continue;
                }
                if pause.is_zero() {
                    tracing::warn!(%error, "can't accept connections; they wait in the listen queue. Raise LimitNOFILE=");
                }
                worker.pool.borrow_mut().clear();
                pause = (pause * 2).clamp(Duration::from_millis(5), Duration::from_millis(500));
                tokio::time::sleep(pause).await;
            }
        }
    }
}

fn refuse(stream: &TcpStream) {
    // Fits an empty send buffer; if not, the caller is told by the end of the connection.
    let _ = stream.try_write(FULL);
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::TcpStream as Caller;
    use std::sync::Arc;

    use super::super::worker::Shared;
    use super::*;

    /// Named for what it was: a flood of connections was accepted 128 at a time, and each was served before who was there already.
    #[test]
    fn a_flood_of_connections_does_not_keep_who_is_there_waiting() {
        // The listen queue of std has 128 places.
        const FLOOD: usize = 100;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        prepare(&listener).unwrap();
        let _callers: Vec<Caller> = (0..FLOOD).map(|_| Caller::connect(address).unwrap()).collect();
        let shared = Shared::for_tests();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap();
        runtime.block_on(async {
            let worker = Worker::new(Arc::clone(&shared));
            let (drain, mut draining) = watch::channel(None);
            let accepting = Rc::clone(&worker);
            tokio::task::spawn_local(async move { accept(&accepting, listener, &mut draining).await });
            // Somebody who is there has a request in each turn.
            let most = Cell::new(0);
            let mut before = 0;
            while shared.connections() < FLOOD {
                tokio::task::yield_now().await;
                most.set(most.get().max(shared.connections() - before));
                before = shared.connections();
            }
            assert!(most.get() <= 16, "{} at once", most.get());
            drop(drain);
        });
    }
}
