//! epoll with names for what is ready instead of numbers.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::spec::InstanceId;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// A signal came.
    Signal,
    /// The socket of the supervisor of a generation.
    Supervisor(u32),
    /// That supervisor ended.
    SupervisorEnd(u32),
    /// An instance ended.
    InstanceEnd(InstanceId),
    /// An instance reached its memory limit.
    InstanceOom(InstanceId),
    /// A prepared instance executed, or failed.
    Standby(InstanceId),
    /// A secret was replaced.
    Secrets,
    /// The program that is looked at before an upgrade has ended.
    CheckEnd,
}

/// The bits of a token that say which kind it is.
const KIND_BITS: u32 = 3;

impl Token {
    /// The largest instance id that fits.
    pub(super) const MAX_ID: u64 = u64::MAX >> KIND_BITS;

    fn encode(self) -> u64 {
        let (kind, id) = match self {
            Token::Signal => (0, 0),
            Token::Supervisor(generation) => (1, generation.into()),
            Token::SupervisorEnd(generation) => (2, generation.into()),
            Token::InstanceEnd(id) => (3, id.0),
            Token::InstanceOom(id) => (4, id.0),
            Token::Standby(id) => (5, id.0),
            Token::Secrets => (6, 0),
            Token::CheckEnd => (7, 0),
        };
        id << KIND_BITS | kind
    }

    fn decode(data: u64) -> Option<Token> {
        let id = InstanceId(data >> KIND_BITS);
        match data & ((1 << KIND_BITS) - 1) {
            0 => Some(Token::Signal),
            1 => Some(Token::Supervisor(u32::try_from(id.0).ok()?)),
            2 => Some(Token::SupervisorEnd(u32::try_from(id.0).ok()?)),
            3 => Some(Token::InstanceEnd(id)),
            4 => Some(Token::InstanceOom(id)),
            5 => Some(Token::Standby(id)),
            6 => Some(Token::Secrets),
            7 => Some(Token::CheckEnd),
            _ => None,
        }
    }
}

/// The descriptors that are watched.
#[derive(Debug)]
pub(super) struct Poll {
    epoll: Epoll,
}

impl Poll {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// Those of epoll_create1.
    pub(super) fn new() -> io::Result<Poll> {
        Ok(Poll {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        })
    }

    /// Tells when a descriptor is readable, until it is closed.
    ///
    /// # Errors
    /// Those of epoll_ctl.
    pub(super) fn add(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        self.epoll
            .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token.encode()))?;
        Ok(())
    }

    /// Tells also when it is writable, or no longer so.
    ///
    /// # Errors
    /// Those of epoll_ctl.
    pub(super) fn watch_writable(&self, fd: impl AsFd, token: Token, writable: bool) -> io::Result<()> {
        let mut flags = EpollFlags::EPOLLIN;
        flags.set(EpollFlags::EPOLLOUT, writable);
        self.epoll
            .modify(fd, &mut EpollEvent::new(flags, token.encode()))?;
        Ok(())
    }

    /// From now on tells once, when the other end is closed, and never that something can be read.
    ///
    /// # Errors
    /// Those of epoll_ctl.
    pub(super) fn watch_closing(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        // A closed end is told of without being asked for.
        self.epoll
            .modify(fd, &mut EpollEvent::new(EpollFlags::EPOLLONESHOT, token.encode()))?;
        Ok(())
    }

    /// Waits for events; `None` waits for ever. Wakes up early at times.
    ///
    /// # Errors
    /// Those of epoll_wait but `EINTR`.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<Token>> {
        let mut events = [EpollEvent::empty(); 64];
        let timeout = match timeout {
            None => EpollTimeout::NONE,
            // Rounded up, or the loop would spin through the last millisecond before each deadline.
            Some(timeout) => EpollTimeout::try_from(timeout.as_micros().div_ceil(1000).min(60_000) as u32)
                .expect("a minute fits in an i32 of milliseconds"),
        };
        let count = match self.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(e) => return Err(e.into()),
        };
        Ok(events[..count]
            .iter()
            .filter_map(|event| Token::decode(event.data()))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        let id = InstanceId(Token::MAX_ID);
        for token in [
            Token::Signal,
            Token::Supervisor(u32::MAX),
            Token::SupervisorEnd(3),
            Token::InstanceEnd(id),
            Token::InstanceOom(id),
            Token::Standby(id),
            Token::Secrets,
            Token::CheckEnd,
        ] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(u64::MAX << KIND_BITS | 1), None, "no generation");
    }
}
