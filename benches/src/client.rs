//! One client connection: asks and waits for the whole answer. The same for every contender.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::answer::{self, Answer, Parsed};

/// An answer that takes longer counts as an error.
const PATIENCE: Duration = Duration::from_secs(10);
/// Larger than any answer of the functions here.
const LARGEST_ANSWER: usize = 16 * 1024;

/// Who is asked, and for what.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    address: Address,
    request: Vec<u8>,
}

#[derive(Debug, Clone)]
enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Target {
    /// `path` of the server at `address`.
    pub(crate) fn tcp(address: SocketAddr, path: &str) -> Target {
        Target {
            address: Address::Tcp(address),
            request: request(path),
        }
    }

    /// `path` of the server behind the Unix socket `socket`.
    pub(crate) fn unix(socket: &Path, path: &str) -> Target {
        Target {
            address: Address::Unix(socket.to_path_buf()),
            request: request(path),
        }
    }

    /// Connects.
    pub(crate) fn connect(&self) -> io::Result<Connection> {
        let stream = match &self.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Stream::Tcp(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Stream::Unix(stream)
            }
        };
        Ok(Connection {
            stream,
            request: self.request.clone(),
            buffer: vec![0; LARGEST_ANSWER],
            filled: 0,
        })
    }

    /// Connects, asks once, and hangs up.
    ///
    /// # Errors
    /// Everything but a complete answer of status 200.
    pub(crate) fn ask_once(&self) -> io::Result<()> {
        let mut connection = self.connect()?;
        connection.ask()?;
        connection.finish()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp(address) => write!(f, "the server on {address}"),
            Address::Unix(path) => write!(f, "the server on {}", path.display()),
        }
    }
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

/// A connection with at most one request in flight.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    request: Vec<u8>,
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    /// Sends the request.
    pub(crate) fn ask(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(&self.request),
            Stream::Unix(stream) => stream.write_all(&self.request),
        }
    }

    /// Reads once, which waits when nothing is there. `true` when the answer is complete.
    ///
    /// # Errors
    /// A closed connection, a malformed answer, a status other than 200, and a server that is about to close: none of
    /// the contenders has a reason to.
    pub(crate) fn read(&mut self) -> io::Result<bool> {
        let room = &mut self.buffer[self.filled..];
        let count = self.stream.read(room)?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "closed or over-long before the answer was complete",
            ));
        }
        self.filled += count;
        match answer::parse(&self.buffer[..self.filled]) {
            Parsed::Partial => Ok(false),
            Parsed::Malformed => Err(io::Error::other("malformed answer")),
            Parsed::Complete(Answer {
                status: 200,
                length,
                closes: false,
            }) if length == self.filled => {
                self.filled = 0;
                Ok(true)
            }
            Parsed::Complete(answer) => Err(io::Error::other(format!("unexpected answer {answer:?}"))),
        }
    }

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// As [`Connection::read`].
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        while !self.read()? {}
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that answers each of `answers` on one connection and then hangs up.
    fn server(answers: &'static [&'static str]) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in answers {
                let mut request = [0; 256];
                assert!(stream.read(&mut request).unwrap() > 0);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        Target::tcp(address, "/")
    }

    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

    #[test]
    fn a_connection_answers_again_and_again() {
        let mut connection = server(&[OK, OK]).connect().unwrap();
        for _ in 0..2 {
            connection.ask().unwrap();
            connection.finish().unwrap();
        }
    }

    #[test]
    fn only_200_counts() {
        let target = server(&["HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"]);
        let error = target.ask_once().unwrap_err();
        assert!(error.to_string().contains("503"), "{error}");
    }

    #[test]
    fn a_cut_answer_is_an_error() {
        let error = server(&["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"])
            .ask_once()
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
