//! The supervisor as the launcher sees it: a process without privileges and a socket. What it is told waits in a bounded
//! queue; one that does not read, or sends what is no message, is ended and replaced.

use std::collections::VecDeque;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::poll::Token;
use super::{Host, LauncherError, carried, notify};
use crate::cgroup::Tree;
use crate::confine::{self, Confinement};
use crate::sys::ballast;
use crate::sys::process::{self, Child, Status};
use crate::wire::{self, Event};

/// A supervisor that reads nothing for this long is stuck.
const STALL: Duration = Duration::from_secs(30);
/// A supervisor that lived longer than this is replaced at once.
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// A supervisor whose connection is over may take this long to end.
const PARTING: Duration = Duration::from_secs(2);
/// The longest pause before a replacement: callers wait in the listen queues meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Messages that may wait while the launcher has no memory to spare.
const FEW: usize = 64;

/// A running supervisor.
#[derive(Debug)]
pub(super) struct Supervisor {
    /// 0 for the first of this host, then 1, 2, …
    pub(super) generation: u32,
    /// [`wire::VERSION`] of its program.
    pub(super) wire: u32,
    /// The last id that it gave to an instance, or that was given before it.
    pub(super) last_id: u64,
    /// What its ids may not be above.
    pub(super) max_id: u64,
    /// Its pid.
    pub(super) pid: i32,
    /// When it was started.
    pub(super) started: Instant,
    pub(super) pidfd: OwnedFd,
    /// `None` once it was given up: it only has to end.
    pub(super) socket: Option<OwnedFd>,
    pub(super) queue: VecDeque<Outgoing>,
    /// Messages that may wait.
    pub(super) capacity: usize,
    pub(super) stalled: Option<Instant>,
    /// Set when the connection is over: by then it must have ended.
    pub(super) end_by: Option<Instant>,
}

/// A message that waits.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) bytes: Vec<u8>,
    pub(super) fds: Vec<Rc<OwnedFd>>,
}

/// Why a supervisor has to be ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// It reads too slowly.
    #[error("it does not read its messages")]
    Stalled,
    /// There is no memory to keep what it does not read.
    #[error("there is no memory left to keep what it does not read")]
    NoMemory,
    /// Its socket is broken.
    #[error("its socket failed: {0}")]
    Socket(#[from] io::Error),
}

impl Supervisor {
    /// Starts the host's program as the supervisor, which gives ids above `last_id`.
    ///
    /// # Errors
    /// When it can't be executed.
    pub(super) fn start(
        host: &Host,
        tree: &Tree,
        (generation, last_id): (u32, u64),
    ) -> Result<Supervisor, LauncherError> {
        let failed = |why: String| LauncherError::Supervisor {
            program: host.program.first().cloned().unwrap_or_default(),
            why,
        };
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(|e| failed(e.to_string()))?;
        let executable = open_program(host).map_err(|e| failed(e.to_string()))?;
        let args = host.program.clone();
        let (program, socket) = (executable.as_raw_fd(), theirs.as_raw_fd());
        // It confines itself further once it has opened what it needs; see `own`.
        let spawned = confine::spawn(&Confinement {
            cgroup: tree.supervisor(),
            tasks: tree.supervisor_tasks(),
            rlimits: rlimits(),
            identity: host.supervisor,
            ..Confinement::none(program, args, environment(), libc::STDERR_FILENO, socket)
        })
        .map_err(|failure| {
            let why = nix::errno::Errno::from_raw(failure.errno).desc();
            failed(format!("step {}: {why}", failure.step.as_str()))
        })?;
        Ok(Supervisor {
            generation,
            wire: wire::VERSION,
            last_id,
            max_id: Token::MAX_ID,
            pid: spawned.pid,
            started: Instant::now(),
            pidfd: spawned.pidfd,
            socket: Some(ours),
            queue: VecDeque::new(),
            capacity: capacity(host),
            stalled: None,
            end_by: None,
        })
    }

    /// Becomes readable when it ends.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Its socket, until it was given up.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(|socket| socket.as_fd())
    }

    /// Tells it something, now or as soon as it reads.
    ///
    /// # Errors
    /// When it must be ended.
    pub(super) fn tell(&mut self, event: &Event, fds: Vec<Rc<OwnedFd>>) -> Result<(), LinkError> {
        if self.socket.is_none() {
            return Ok(());
        }
        if self.queue.len() >= self.capacity {
            return Err(LinkError::Stalled);
        }
        if ballast::is_gone() && self.queue.len() > FEW {
            return Err(LinkError::NoMemory);
        }
        self.queue.push_back(Outgoing {
            bytes: wire::encode(event)?,
            fds,
        });
        self.flush()
    }

    /// Sends what waits, as far as it goes.
    ///
    /// # Errors
    /// When it must be ended.
    pub(super) fn flush(&mut self) -> Result<(), LinkError> {
        let Some(socket) = &self.socket else {
            return Ok(());
        };
        while let Some(next) = self.queue.front() {
            let fds: Vec<RawFd> = next.fds.iter().map(|fd| fd.as_raw_fd()).collect();
            match wire::send_bytes(socket.as_fd(), &next.bytes, &fds) {
                Ok(()) => {
                    self.queue.pop_front();
                    self.stalled = None;
                }
                Err(e) if is_full(&e) => {
                    self.stalled.get_or_insert_with(Instant::now);
                    return Ok(());
                }
                // It is gone, or about to be, as its pidfd tells; or it only reads no more, and must go.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => {
                    self.let_go(Instant::now());
                    return Ok(());
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Whether something waits to be sent.
    pub(super) fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// When it counts as stuck, if it goes on like this.
    pub(super) fn stuck_at(&self) -> Option<Instant> {
        self.end_by.or(self.stalled.map(|since| since + STALL))
    }

    /// Ends it: no message of it is read any more.
    pub(super) fn give_up(&mut self) {
        self.let_go(Instant::now());
        self.end_by = None;
        let _ = process::signal(self.pidfd(), libc::SIGKILL);
    }

    /// Closes the connection and lets it end by itself, for a while.
    pub(super) fn let_go(&mut self, now: Instant) {
        self.socket = None;
        self.queue = VecDeque::new();
        self.stalled = None;
        self.end_by = Some(now + PARTING);
    }

    /// Reaps it, if it has ended.
    pub(super) fn try_reap(&self) -> Option<Status> {
        process::wait(Child::Pidfd(self.pidfd()), true)
            .ok()
            .flatten()
            .map(|(_, status)| status)
    }
}

/// Messages that may wait: the inventory, and a few answers for each instance.
pub(super) fn capacity(host: &Host) -> usize {
    4096 + 8 * host.max_instances
}

/// The pause before the next supervisor, after `short` short lives in a row.
pub(super) fn pause(short: u32) -> Duration {
    match short {
        0 => Duration::ZERO,
        n => (Duration::from_millis(50) * 2_u32.saturating_pow(n - 1)).min(LONGEST_PAUSE),
    }
}

/// Whether a life was so short that the next one should wait.
pub(super) fn was_short(started: Instant, now: Instant) -> bool {
    now.saturating_duration_since(started) < SHORT_LIFE
}

/// `ENOBUFS` and `ETOOMANYREFS` pass, as `EAGAIN` does, once the other end reads.
fn is_full(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::WouldBlock
        || matches!(
            e.raw_os_error(),
            Some(libc::ENOBUFS | libc::ETOOMANYREFS | libc::EINTR)
        )
}

/// The program that runs as the supervisor, only to be executed.
///
/// # Errors
/// When it is not there.
pub(super) fn open_program(host: &Host) -> io::Result<OwnedFd> {
    let program = host.program.first().ok_or(io::ErrorKind::InvalidInput)?;
    open_path(Path::new(OsStr::from_bytes(program.as_bytes())))
}

/// A file, only to be executed.
///
/// # Errors
/// When it is not there.
pub(super) fn open_path(path: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_PATH).open(path)?;
    Ok(file.into())
}

/// The launcher's own environment, without what changes how a program is loaded, claims descriptors or speaks to the service
/// manager.
pub(super) fn environment() -> Vec<CString> {
    std::env::vars_os()
        .filter(|(name, _)| !name.as_bytes().starts_with(b"LD_") && !notify::is_ours_alone(name))
        // Where this one may look, and it may not.
        .filter(|(name, _)| name != "CREDENTIALS_DIRECTORY" && !carried::is_ours(name))
        .filter_map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok())
        .collect()
}

pub(super) fn rlimits() -> Vec<(u32, u64)> {
    let (_, files) =
        nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    vec![(crate::rlimit::CORE, 1), (crate::rlimit::NOFILE, files)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        assert_eq!(pause(0), Duration::ZERO);
        assert_eq!(pause(1), Duration::from_millis(50));
        assert_eq!(pause(3), Duration::from_millis(200));
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }
}
