//! The function's end of a binding: connections are taken as long as there is a place for one more. Knows not what they carry.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::live::Live;
use super::{Exit, Taking, dial};

/// Out of descriptors, which others give back: not at once again.
const PAUSE: Duration = Duration::from_millis(20);

/// What is told when there is none of the host's left.
pub(super) const NO_PLACE: &str = "bindings have a quarter of funcd's descriptors already, or those of this function half of that: raise its limit of open files";

/// A place of the binding, and one of all that the host has.
pub(super) type Place = (OwnedSemaphorePermit, dial::Place);

/// Ends a connection so that the function sees an error (ECONNRESET) instead of an answer that is empty.
pub(super) fn reset(stream: TcpStream) {
    let _ = stream.set_zero_linger();
}

/// Accepts the connections of a binding, and has each served by `serve`, which holds its place for as long as it needs. When all
/// `places` are taken, more wait in the listen queue: the function's side sees a connection that nobody reads from yet.
///
/// Ends when the binding takes no more connections, and the last of those that it took has ended.
pub(super) async fn each<F: Future<Output = ()> + 'static>(
    exit: &Exit,
    listener: std::net::TcpListener,
    places: u32,
    serve: impl Fn(TcpStream, Place) -> F,
) {
    let mut taking = exit.taking.clone();
    // Until it is known that it takes no more, or that nobody waits for more.
    let mut live = (*taking.borrow_and_update() == Taking::All).then(Live::begin);
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => Rc::new(listener),
        Err(error) => {
            return tracing::error!(function = %exit.function, binding = exit.binding.name, %error, "a binding can't be served");
        }
    };
    let places = Arc::new(Semaphore::new(places as usize));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, accept(&listener).await)
        };
        let (Ok(place), accepted) = (tokio::select! {
            biased;
            Ok(()) = taking.changed() => match *taking.borrow_and_update() {
                Taking::All => continue,
                Taking::Last => {
                    live = None;
                    continue;
                }
                Taking::None => {
                    drop((listener, live));
                    while connections.join_next().await.is_some() {}
                    return;
                }
            },
            next = next => next,
        }) else {
            return;
        };
        match accepted {
            Ok(stream) => match exit.outside.place(&exit.share) {
                Some(of_all) => {
                    let (live, serve) = (Live::begin(), serve(stream, (place, of_all)));
                    connections.spawn_local(async move {
                        serve.await;
                        drop(live);
                    });
                }
                None => {
                    exit.metrics.failed("descriptors");
                    exit.complain(&NO_PLACE);
                    reset(stream);
                }
            },
            Err(error) => {
                tracing::warn!(function = %exit.function, binding = exit.binding.name, %error, "a connection to a binding can't be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
