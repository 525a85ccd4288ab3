//! How requests get into the process. `http` and `port` both speak HTTP/1.1 over a byte stream, so they differ only in
//! how that stream is opened; so do `fn` and `ironhttp`, whose requests and answers are made over by [`fdk`] and [`ironhttp`].
//! `stdio` and `cgi` have a [`process`] for each request; behind the stream of a `lambda` instance is its [`lambda`] desk.
//! Never parses HTTP.

pub mod cgi;
pub mod fdk;
pub mod ironhttp;
pub mod lambda;
pub mod port;
pub mod process;
pub mod stdio;
pub mod variables;

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
    let binds_itself = matches!(instance.address, Address::Port { .. } | Address::Directory(_));
    let starting = binds_itself && !instance.has_answered();
    match error.kind() {
        io::ErrorKind::WouldBlock => instance.is_accepting(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => starting && instance.is_accepting(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::os::fd::OwnedFd;

    use funcd_sandbox::spec::InstanceId;
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
    use tokio::sync::mpsc;

    use super::*;

    use crate::function::handle::ToControl;
    use crate::function::instance::SocketStock;

    fn instance(address: Address) -> Instance {
        let revision = crate::ingress::tests::revision(0, crate::ingress::tests::manifest());
        Instance::new(InstanceId(1), revision, address)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// A `port` instance in this network namespace, with so many sockets.
    fn port(port: u16, sockets: usize) -> (Instance, mpsc::UnboundedReceiver<ToControl>) {
        let (control, told) = mpsc::unbounded_channel();
        let stock = SocketStock::new(control);
        let socket = || {
            socket(
                AddressFamily::Inet,
                SockType::Stream,
                SockFlag::SOCK_CLOEXEC,
                None,
            )
            .unwrap()
        };
        stock.refill((0..sockets).map(|_| socket()).collect::<Vec<OwnedFd>>());
        (instance(Address::Port { port, stock }), told)
    }

    #[tokio::test]
    async fn a_port_that_is_not_bound_yet_is_waited_for() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let number = free.local_addr().unwrap().port();
        drop(free);
        let (starting, mut told) = port(number, SocketStock::LOW + 1);
        let bind_later = async {
            // Told with the second socket that is taken: the first was refused.
            assert_eq!(told.recv().await, Some(ToControl::SocketsLow(InstanceId(1))));
            TcpListener::bind((Ipv4Addr::LOCALHOST, number)).unwrap()
        };
        let (connected, _listener) = tokio::join!(connect(&starting, soon()), bind_later);
        connected.unwrap();

        // One that has answered before is gone when it refuses.
        let (ended, _told) = port(number, 1);
        drop(_listener);
        assert!(ended.note_answer() && !ended.note_answer());
        let refused = connect(&ended, soon()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_full_listen_queue_is_waited_out_until_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let full = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        bind(
            std::os::fd::AsRawFd::as_raw_fd(&full),
            &UnixAddr::new(&path).unwrap(),
        )
        .unwrap();
        listen(&full, Backlog::new(0).unwrap()).unwrap();
        let full = std::os::unix::net::UnixListener::from(full);
        let instance = instance(Address::Unix(path));
        let _first = connect(&instance, soon()).await.unwrap();
        let late = connect(&instance, Instant::now() + Duration::from_millis(20))
            .await
            .unwrap_err();
        assert!(
            matches!(late.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
            "{late}"
        );
        let accept = async { full.accept().unwrap() };
        let (second, _) = tokio::join!(connect(&instance, soon()), accept);
        second.unwrap();
    }
}
