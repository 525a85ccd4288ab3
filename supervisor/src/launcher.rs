//! The supervisor's end of the socket to the launcher: whole messages with their descriptors, never blocking the
//! control thread. Knows nothing of what the messages mean.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use funcd_sandbox::wire::{self, Event, Request};
use tokio::io::unix::AsyncFd;

/// The socket to the launcher.
#[derive(Debug)]
pub struct Launcher {
    socket: AsyncFd<OwnedFd>,
    buffer: Box<[u8; wire::MAX_MESSAGE]>,
    outbox: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
}

impl Launcher {
    /// Takes the socket, which is non-blocking, on the current runtime.
    ///
    /// # Errors
    /// When the runtime can't watch it.
    #[expect(
        deprecated,
        reason = "unsound only for types whose descriptor changes; an OwnedFd's never does"
    )]
    pub fn new(socket: OwnedFd) -> io::Result<Launcher> {
        let buffer = Box::new([0; wire::MAX_MESSAGE]);
        Ok(Launcher {
            socket: AsyncFd::new(socket)?,
            buffer,
            outbox: VecDeque::new(),
        })
    }

    /// Sends a request, or keeps it until [`Launcher::recv`] finds the socket writable again.
    ///
    /// # Errors
    /// When the launcher is gone or the request is too large.
    pub fn send(&mut self, request: &Request, fds: Vec<OwnedFd>) -> io::Result<()> {
        let bytes = wire::encode(request)?;
        self.outbox.push_back((bytes, fds));
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        while let Some((bytes, fds)) = self.outbox.front() {
            let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
            match wire::send_bytes(self.socket.as_fd(), bytes, &raw) {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The next event with its descriptors; `None` when the launcher is gone. Cancel-safe.
    ///
    /// # Errors
    /// A message that is none, and those of the socket.
    pub async fn recv(&mut self) -> io::Result<Option<(Event, Vec<OwnedFd>)>> {
        loop {
            if self.outbox.is_empty() {
                let mut ready = self.socket.readable().await?;
                match wire::recv(ready.get_inner().as_fd(), &mut self.buffer) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                    other => return other,
                }
            } else {
                let mut ready = self
                    .socket
                    .ready(tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE)
                    .await?;
                if ready.ready().is_writable() {
                    ready.clear_ready_matching(tokio::io::Ready::WRITABLE);
                    self.flush()?;
                    continue;
                }
                match wire::recv(ready.get_inner().as_fd(), &mut self.buffer) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                    other => return other,
                }
            }
        }
    }
}
