//! What a child with a memory of its own tells the launcher until it executes: words of eight bytes on a status socket.
//! Decides nothing.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg, socketpair,
};

use super::Failure;
use super::prepare::above;
use crate::exit::Step;
use crate::sys::Errno;
use crate::sys::calls;

/// The index of a step and its errno, or one of the marks below and 0.
pub(super) type Word = [u8; 8];

/// It lives, and dies with the launcher.
pub(super) const BORN: i32 = -1;
/// Sent by the main process below a mini-init, whose pid the kernel attaches, right before its last steps.
pub(super) const HELLO: i32 = -2;
/// Every step but exec is done.
pub(super) const READY: i32 = -3;
/// It was told to go on, to exec.
pub(super) const GOING: i32 = -4;

/// What a word says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Born,
    Hello,
    Ready,
    Going,
    Failed(Failure),
}

/// The two ends: the launcher's, and the child's at its final number. Both close with exec.
pub(super) struct Ends {
    pub(super) ours: OwnedFd,
    pub(super) low: OwnedFd,
    pub(super) status: OwnedFd,
}

impl Ends {
    /// A socket that keeps words apart.
    ///
    /// # Errors
    /// Those of socketpair(2) and fcntl(2).
    pub(super) fn new() -> Result<Ends, Errno> {
        let family = AddressFamily::Unix;
        let (ours, low) = socketpair(family, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|errno| errno as Errno)?;
        let status = above(low.as_raw_fd())?;
        Ok(Ends { ours, low, status })
    }
}

pub(super) fn mark(mark: i32) -> Word {
    word(mark, 0)
}

fn word(step: i32, errno: i32) -> Word {
    let mut word = Word::default();
    word[..4].copy_from_slice(&step.to_ne_bytes());
    word[4..].copy_from_slice(&errno.to_ne_bytes());
    word
}

pub(super) fn read(word: Word) -> Said {
    let [step, errno] =
        [&word[..4], &word[4..]].map(|part| i32::from_ne_bytes(part.try_into().expect("4 bytes")));
    match step {
        BORN => Said::Born,
        HELLO => Said::Hello,
        READY => Said::Ready,
        GOING => Said::Going,
        step => {
            let step = usize::try_from(step)
                .ok()
                .and_then(|index| Step::ALL.get(index).copied())
                .unwrap_or(Step::Init);
            Said::Failed(Failure { step, errno })
        }
    }
}

/// In the child: says one word. Ends it if there is no launcher any more.
pub(super) fn tell(status: RawFd, word: Word) {
    // SIGPIPE is blocked. Without a launcher there is nobody to start for.
    if calls::write(status, &word).is_err() {
        calls::exit(1);
    }
}

/// In the child: says how it failed, and ends it.
pub(super) fn fail(status: RawFd, failure: Failure) -> ! {
    tell(status, word(i32::from(failure.step as u8), failure.errno));
    calls::exit(127)
}

/// A word, and who said it.
#[derive(Debug)]
pub(super) struct Message {
    /// `None` at the end of all.
    pub(super) said: Option<Said>,
    /// The pid, where the socket passes it (`SO_PASSCRED`).
    pub(super) sender: Option<i32>,
}

/// In the launcher: the next word; with `MSG_DONTWAIT` one that is there by now.
///
/// # Errors
/// `EAGAIN` when there is none yet, and those of recvmsg(2).
pub(super) fn receive(socket: BorrowedFd<'_>, flags: MsgFlags) -> nix::Result<Message> {
    let mut word = Word::default();
    let mut control = nix::cmsg_space!(nix::sys::socket::UnixCredentials);
    let mut parts = [IoSliceMut::new(&mut word)];
    let received = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let sender = |control| match control {
        ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.pid()),
        _ => None,
    };
    let sender = received.cmsgs().into_iter().flatten().find_map(sender);
    let length = received.bytes;
    Ok(Message {
        said: (length > 0).then(|| read(word)),
        sender,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_out_as_they_went_in() {
        for (mark, said) in [
            (BORN, Said::Born),
            (HELLO, Said::Hello),
            (READY, Said::Ready),
            (GOING, Said::Going),
        ] {
            assert_eq!(read(super::mark(mark)), said);
        }
        for (index, step) in Step::ALL.into_iter().enumerate() {
            let failure = Failure { step, errno: 13 };
            assert_eq!(step as usize, index);
            assert_eq!(read(word(index as i32, 13)), Said::Failed(failure));
        }
        let unknown = Failure {
            step: Step::Init,
            errno: 1,
        };
        assert_eq!(read(word(i32::MAX, 1)), Said::Failed(unknown));
    }
}
