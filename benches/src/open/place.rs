//! One connection of an open loop. It never waits.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::book::Ticket;
use crate::answer::{self, Parsed};

/// Answers are small; larger ones make it grow.
const BUFFER: usize = 512;

/// A connection, with at most one request under way.
#[derive(Debug)]
pub(super) struct Place {
    /// Its socket.
    pub(super) stream: TcpStream,
    /// The request that it has under way.
    pub(super) ticket: Option<Ticket>,
    /// How much of the request is written.
    written: usize,
    /// What has come of the answer.
    pub(super) answer: Vec<u8>,
    /// It has served a request before.
    pub(super) served: bool,
}

/// How far a place got.
pub(super) enum Step {
    /// There is nothing to write or read now.
    Later,
    /// The whole answer is there.
    Answered { status: u16, closes: bool },
}

impl Place {
    /// Not used yet, and maybe still being made.
    pub(super) fn new(stream: TcpStream) -> Place {
        Place {
            stream,
            ticket: None,
            written: 0,
            answer: Vec::with_capacity(BUFFER),
            served: false,
        }
    }

    /// Begins with a request.
    pub(super) fn take(&mut self, ticket: Ticket) {
        self.ticket = Some(ticket);
        self.written = 0;
        self.answer.clear();
    }

    /// Writes and reads as far as it goes; `request` is what it asks, empty when it asks nothing.
    pub(super) fn step(&mut self, request: &[u8]) -> io::Result<Step> {
        while self.written < request.len() {
            match self.stream.write(&request[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if is_later(&error) => return Ok(Step::Later),
                Err(error) => return Err(error),
            }
        }
        let mut piece = [0; 4096];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) if self.ticket.is_none() => return Err(io::Error::other("an answer to nothing")),
                Ok(count) => {
                    self.answer.extend_from_slice(&piece[..count]);
                    match answer::parse(&self.answer) {
                        Parsed::Partial => {}
                        Parsed::Malformed => return Err(io::ErrorKind::InvalidData.into()),
                        Parsed::Complete(answer) => {
                            return Ok(Step::Answered {
                                status: answer.status,
                                closes: answer.closes,
                            });
                        }
                    }
                }
                Err(error) if is_later(&error) => return Ok(Step::Later),
                Err(error) => return Err(error),
            }
        }
    }
}

/// There is nothing yet, or the connection is still being made.
fn is_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected | io::ErrorKind::Interrupted
    )
}

/// Why an answer is none of the function's: funcd's `x-funcd-shed`, or the type of the problem; else its status.
pub(super) fn why(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let after = |mark: &str| {
        let (_, rest) = text.split_once(mark)?;
        rest.split(['\r', '"']).next().map(str::to_owned)
    };
    let shed = after("x-funcd-shed: ");
    shed.or_else(|| after("urn:funcd:error:"))
        .unwrap_or_else(|| text.split(' ').nth(1).unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_why() {
        let shed = b"HTTP/1.1 503 Service Unavailable\r\nx-funcd-shed: queue-full\r\nretry-after: 2\r\n\r\n";
        assert_eq!(why(shed), "queue-full");
        let full = br#"HTTP/1.1 503 No\r\n\r\n{"type":"urn:funcd:error:too-many-connections","title":"T"}"#;
        assert_eq!(why(full), "too-many-connections");
        assert_eq!(
            why(b"HTTP/1.1 503 Service Temporarily Unavailable\r\nServer: nginx\r\n\r\n"),
            "503"
        );
    }
}
