//! TCP bindings: a connection of the function's is connected on, and bytes go both ways until both sides have ended. Never
//! looks at a byte.

use std::net::TcpListener;
use std::rc::Rc;
use std::time::Instant;

use tokio::net::TcpStream;

use super::accept::reset;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener as Listener;

    use super::super::tests::exit;
    use super::*;
    use crate::catalog::binding::Host;

    /// A binding with so many places that leads to a listener, and where the function finds it.
    async fn bound(places: u32, everybody: usize) -> (Listener, std::net::SocketAddr) {
        let outside = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = outside.local_addr().unwrap();
        let endpoint = Endpoint {
            host: Host::Address(address.ip()),
            port: address.port(),
            tls: false,
        };
        let exit = exit(&endpoint, places, everybody);
        let inside = TcpListener::bind("127.0.0.1:0").unwrap();
        inside.set_nonblocking(true).unwrap();
        let found = inside.local_addr().unwrap();
        tokio::task::spawn_local(serve(exit, endpoint, inside));
        (outside, found)
    }

    #[tokio::test(flavor = "local")]
    async fn one_more_than_there_are_places_waits_for_its_turn() {
        let (outside, found) = bound(1, 9).await;
        let first = TcpStream::connect(found).await.unwrap();
        let (there, _) = outside.accept().await.unwrap();
        let mut second = TcpStream::connect(found).await.unwrap();
        second.write_all(b"hi").await.unwrap();
        // Nothing comes for as long as the first has the place; a moment shows it, and can't fail where it holds.
        let early = tokio::time::timeout(Duration::from_millis(50), outside.accept()).await;
        assert!(early.is_err());
        drop((first, there));
        let (mut there, _) = outside.accept().await.unwrap();
        let mut heard = [0; 2];
        there.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hi");
    }

    #[tokio::test(flavor = "local")]
    async fn one_more_than_the_host_has_places_for_is_reset() {
        let (outside, found) = bound(9, 1).await;
        let _first = TcpStream::connect(found).await.unwrap();
        let (_there, _) = outside.accept().await.unwrap();
        let mut second = TcpStream::connect(found).await.unwrap();
        let error = second.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[tokio::test(flavor = "local")]
    async fn who_is_not_there_is_told_by_a_reset() {
        let (outside, found) = bound(9, 9).await;
        drop(outside);
        let mut stream = TcpStream::connect(found).await.unwrap();
        let error = stream.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}
