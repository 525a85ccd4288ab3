//! The messages between supervisor and launcher: one postcard message per `SOCK_SEQPACKET` datagram, at most
//! [`MAX_MESSAGE`] bytes and [`MAX_FDS`] descriptors. Both ends refuse anything else.
//!
//! The launcher trusts nothing in here: every request is checked against its own floor before it acts.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::exit::{Exit, Step};
use crate::spec::{Digest, InstanceId, Spec};

/// The version of these messages. A launcher and a supervisor of the same program have the same; during an upgrade the new launcher
/// speaks with the supervisor of the old one for a while. So a message is never changed: what it lacks is a new one, added
/// behind the last, and the version goes up. ([`crate::spec::Spec`] is a part of messages.)
pub const VERSION: u32 = 1;
/// The oldest version that a launcher of this one understands.
pub const OLDEST: u32 = 1;

/// The largest message, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The most descriptors that travel with one message.
pub const MAX_FDS: usize = 32;
/// `SCM_MAX_FD` of the kernel (unix(7)).
const KERNEL_MAX_FDS: usize = 253;

/// What the supervisor asks of the launcher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Copy the attached file (1 descriptor, open for reading) into the store. Answered by [`Event::Stored`].
    Store {
        /// Chosen by the supervisor, echoed in the answer.
        ticket: u64,
    },
    /// Forget every stored executable that is not in the list and that no instance runs.
    Retain {
        /// What to keep.
        artifacts: Vec<Digest>,
    },
    /// Start an instance. Answered by [`Event::Launched`] or [`Event::LaunchFailed`].
    Launch {
        /// Chosen by the supervisor: larger than every id of this host before it.
        id: InstanceId,
        /// What to start.
        spec: Box<Spec>,
    },
    /// Bind the socket of an instance and have its process take every step but exec, and wait there. Only for
    /// [`crate::spec::Socket::Unix`] without grants, where [`Handover::can_stand_by`], and for [`crate::spec::Socket::Pipes`]
    /// everywhere. Answered by [`Event::Prepared`] and,
    /// once it was told to go on, [`Event::Launched`]; or at any time by [`Event::LaunchFailed`]. While it waits it is not
    /// part of the inventory of the next supervisor, but ended.
    Prepare {
        /// As in [`Request::Launch`].
        id: InstanceId,
        /// What to start.
        spec: Box<Spec>,
    },
    /// Send SIGTERM to the main process.
    Terminate {
        /// Which instance.
        id: InstanceId,
    },
    /// Kill every process of the instance.
    Kill {
        /// Which instance.
        id: InstanceId,
    },
    /// Stop every process of the instance where it is: it takes no CPU until it is thawed, terminated or killed. Where
    /// [`Handover::can_freeze`].
    Freeze {
        /// Which instance.
        id: InstanceId,
    },
    /// Let a frozen instance go on.
    Thaw {
        /// Which instance.
        id: InstanceId,
    },
    /// Make unconnected TCP sockets in the network namespace of a [`crate::spec::Socket::Port`] instance. Answered by
    /// [`Event::Sockets`].
    Sockets {
        /// Which instance.
        id: InstanceId,
        /// How many, at most [`MAX_FDS`].
        count: u8,
    },
    /// What the instances use now. Answered by [`Event::Usage`], one for each instance named that still runs.
    Usage {
        /// Which instances.
        ids: Vec<InstanceId>,
    },
    /// Whether something but itself keeps the instance from answering. Answered by [`Event::Looked`] while it runs.
    Look {
        /// Which instance.
        id: InstanceId,
    },
    /// The supervisor has finished draining after [`Event::Shutdown`]: end everything.
    Goodbye,
    /// Put the program that is now where this one was started from in its place. Answered by [`Event::Upgraded`], by the launcher
    /// that runs then.
    Upgrade {
        /// Chosen by the supervisor, echoed in the answer.
        ticket: u64,
    },
    /// After [`Event::Retire`]: the supervisor accepts nothing any more, and reads no output of instances.
    Yielded,
    /// After [`Event::Retire`]: connections of the instance, which its successor is to go on with (as many descriptors).
    Pass {
        /// Which instance.
        id: InstanceId,
    },
    /// The folder was read, and callers are accepted from now on.
    Serving,
    /// Answers [`Event::Pulse`].
    Pulse,
}

/// What the launcher tells the supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// The first message: what the supervisor is handed. Descriptors are listed in [`Handover::descriptors`] and follow
    /// in [`Event::Descriptors`] messages in that order.
    Welcome(Box<Handover>),
    /// The next descriptors of the list in [`Handover::descriptors`].
    Descriptors,
    /// A running instance that an earlier supervisor started; followed, after the last one, by [`Event::InventoryEnd`].
    Inventory {
        /// Its id.
        id: InstanceId,
        /// The pid of its main process as the host sees it.
        pid: i32,
        /// Whether SIGTERM was already sent.
        terminating: bool,
        /// Whether it is frozen.
        frozen: bool,
        /// What the earlier supervisor wanted its successor to know.
        memo: Vec<u8>,
    },
    /// The end of the inventory.
    InventoryEnd,
    /// Answers [`Request::Store`].
    Stored {
        /// As given in the request.
        ticket: u64,
        /// The digest and size in bytes of what was stored, or why not.
        result: Result<(Digest, u64), StoreError>,
    },
    /// The instance's Unix socket is bound: what is sent there now is read by the process that is about to be started,
    /// or, if it can't be, refused when that is told.
    Bound {
        /// Which instance.
        id: InstanceId,
    },
    /// The instance was prepared and its socket is bound. Descriptor: a pipe; a byte written there lets it execute, and when
    /// it is closed before, the instance ends. For [`crate::spec::Socket::Pipes`] what is written there is the length of a
    /// block of variables ([`crate::variables`]) as a u32 in the order of this machine and then the block; and two more
    /// descriptors follow: the write end of its stdin, the read end of its stdout; and then a listening socket for each of
    /// [`Spec::ports`], which come again with [`Event::Launched`].
    Prepared {
        /// Which instance.
        id: InstanceId,
    },
    /// The instance runs: exec succeeded. Descriptors: the read ends of its stdout and stderr and a listening socket for each
    /// of [`Spec::ports`], in that order (in the inventory too); then its own listening socket if it has one, to be dropped once
    /// the instance has accepted a connection; or the directory of [`crate::spec::Socket::Directory`]. For
    /// [`crate::spec::Socket::Pipes`] the read end of stderr and, unless they came with [`Event::Prepared`], the two ends that
    /// come with that. Those end with the supervisor, and are in no inventory.
    Launched {
        /// Which instance.
        id: InstanceId,
        /// The pid of its main process as the host sees it.
        pid: i32,
    },
    /// The instance does not run.
    LaunchFailed {
        /// Which instance.
        id: InstanceId,
        /// The step that failed.
        step: Step,
        /// Its errno, 0 if there is none.
        errno: i32,
        /// What, where, why and what to do next.
        message: String,
    },
    /// The instance ended, and nothing of it is left.
    Exited {
        /// Which instance.
        id: InstanceId,
        /// Why.
        #[serde(with = "ExitOnWire")]
        exit: Exit,
        /// What it used in all.
        spent: Spent,
    },
    /// Answers [`Request::Sockets`], with as many descriptors as could be made.
    Sockets {
        /// Which instance.
        id: InstanceId,
    },
    /// Answers [`Request::Usage`].
    Usage {
        /// Which instance.
        id: InstanceId,
        /// What it uses.
        usage: Usage,
    },
    /// Answers [`Request::Look`].
    Looked {
        /// Which instance.
        id: InstanceId,
        /// How it is.
        condition: Condition,
    },
    /// Stop accepting, drain, send [`Request::Goodbye`].
    Shutdown,
    /// Read the configuration again (SIGHUP).
    Reload,
    /// Answers [`Request::Upgrade`].
    Upgraded {
        /// As given in the request.
        ticket: u64,
        /// The version of the program that is in place now; or why it is still the one that asked.
        result: Result<String, String>,
    },
    /// Another supervisor serves from now on: accept nothing more, send [`Request::Yielded`], finish what is there, end. Instances
    /// are the other's; what this one asks for them is done as far as its requests need it.
    Retire,
    /// The supervisor before this one has yielded or ended: what it listened to and read is yours now. Only where
    /// [`Handover::alone`] was not set.
    Alone,
    /// Connections of an instance that the supervisor before this one had: a Lambda function that waits for its next invocation.
    Passed {
        /// Which instance.
        id: InstanceId,
    },
    /// Is there life? Answered by [`Request::Pulse`].
    Pulse,
}

/// [`Exit`] as postcard can read it: its own form is made for JSON, tagged inside, which only self-describing formats can
/// read back.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Exit")]
enum ExitOnWire {
    Code { code: i32 },
    Signal { signal: i32 },
    Oom,
    StartTimeout,
    StopTimeout,
    Stopped,
    Launch { step: Step, errno: i32 },
    Lost,
    Ejected,
    Unresponsive,
}

/// What a new supervisor is handed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Handover {
    /// [`VERSION`] of the launcher. The first, so that it can be read whatever follows.
    pub version: u32,
    /// The host's configuration, opaque here: the bytes that the launcher was started with.
    pub config: Vec<u8>,
    /// What each of the following descriptors is.
    pub descriptors: Vec<Descriptor>,
    /// 0 for the first supervisor of this launcher, then 1, 2, …
    pub generation: u32,
    /// The smallest instance id that is free.
    pub next_id: InstanceId,
    /// The grade of each property on this host, for `doctor`, `ps` and metrics.
    pub grades: Vec<crate::probe::Grade>,
    /// Whether [`Request::Prepare`] works on this host.
    pub can_stand_by: bool,
    /// Whether [`Request::Freeze`] works on this host.
    pub can_freeze: bool,
    /// Whether no other supervisor serves. If one does, leave to it what both would read or listen to, until [`Event::Alone`];
    /// and say that you are [`Request::Serving`], or the other one stays.
    pub alone: bool,
}

/// What a descriptor handed to the supervisor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Descriptor {
    /// A listening TCP socket for callers, one per worker.
    Listener,
    /// The listening Unix socket of the admin API.
    Admin,
    /// The listening TCP socket of `/metrics`, `/livez` and `/readyz`.
    AdminTcp,
    /// The functions folder.
    Functions,
    /// The folder of the instances' sockets: instance N listens on `N` in it.
    Sockets,
    /// The folder of the functions' logs.
    Logs,
}

/// Why an executable was not stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreError {
    /// Somebody still has it open for writing: try again when it was closed.
    BeingWritten,
    /// It changed while it was copied: try again.
    Changed,
    /// It can't be stored: what, why and what to do next.
    Refused(String),
}

/// What an instance uses, from its cgroup; 0 where the host can't tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// CPU time since its start, in microseconds.
    pub cpu_micros: u64,
    /// Processes and threads.
    pub pids: u64,
    /// What it was short of, as of a few seconds ago.
    pub strain: Strain,
}

/// What an instance was short of since its start, from its cgroup; 0 where the host can't tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strain {
    /// How long its CPU limit held it back, in microseconds.
    pub throttled_micros: u64,
    /// Processes that the kernel killed for memory.
    pub oom_kills: u64,
    /// For CPU, memory and input/output: how long some of its threads waited for it, and how long all did, in microseconds
    /// (the kernel's accounting/psi.rst).
    pub pressure_micros: [[u64; 2]; 3],
}

/// What an instance that has ended used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// CPU time of its main process and of those that this, or its mini-init, has waited for, in microseconds.
    pub cpu_micros: u64,
    /// Processes that the kernel killed for memory.
    pub oom_kills: u64,
}

/// What keeps an instance from answering for no fault of its own, and the CPU time that it took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Its main process is stopped: by a signal, or in a debugger.
    pub is_stopped: bool,
    /// Somebody traces its main process.
    pub is_traced: bool,
    /// How often its CPU limit has held it back since its start; 0 where the host can't tell.
    pub throttled: u64,
    /// CPU time since its start, in microseconds; 0 where the host can't tell.
    pub cpu_micros: u64,
}

/// The supervisor's end of the socket: descriptor 3, which it inherits from the launcher. Only the first call in a
/// process gets it.
///
/// # Errors
/// `NotFound` when descriptor 3 is no such socket, or was taken already.
pub fn inherited() -> io::Result<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "descriptor 3 was taken already",
        ));
    }
    crate::sys::process::inherited_socket(3)
}

/// Encodes one message.
///
/// # Errors
/// `InvalidData` when it is larger than [`MAX_MESSAGE`].
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let bytes = postcard::to_stdvec(message).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    if bytes.len() > MAX_MESSAGE {
        let what = format!("message of {} bytes is larger than {MAX_MESSAGE}", bytes.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(bytes)
}

/// Decodes one message; bytes left over are an error.
///
/// # Errors
/// `InvalidData` when the bytes are not exactly one message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} bytes after the message", rest.len()),
        )),
        Err(e) => Err(io::Error::new(io::ErrorKind::InvalidData, e)),
    }
}

/// Sends one message with its descriptors. Never blocks: a full socket is `WouldBlock`.
///
/// # Errors
/// Those of `sendmsg`, and of [`encode`].
pub fn send<T: Serialize>(socket: BorrowedFd<'_>, message: &T, fds: &[RawFd]) -> io::Result<()> {
    send_bytes(socket, &encode(message)?, fds)
}

/// Sends one encoded message; see [`send`].
///
/// # Errors
/// Those of `sendmsg`.
pub fn send_bytes(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)?;
    Ok(())
}

/// Receives one message with its descriptors (close-on-exec). `None`: the other end is closed.
///
/// # Errors
/// `WouldBlock` when there is none now; `InvalidData` when it is too large, carries too many descriptors or is not a
/// message (its descriptors are closed). A message whose descriptors this process has no room for comes without any.
pub fn recv<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8; MAX_MESSAGE],
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    // Room for all that the kernel passes in one message: of a truncated list, nobody could close what did arrive.
    let mut control = nix::cmsg_space!([RawFd; KERNEL_MAX_FDS]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let mut parts = [IoSliceMut::new(buffer)];
    let received = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let (length, flags) = (received.bytes, received.flags);
    let mut fds = Vec::new();
    if flags.contains(MsgFlags::MSG_CTRUNC) {
        // As the control buffer is large enough, this process has too many open: those that came must not stay open too.
        drop(cut_short(&control));
    } else {
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = message {
                fds.extend(raw.into_iter().map(crate::sys::own));
            }
        }
    }
    let truncated = flags.contains(MsgFlags::MSG_TRUNC) || fds.len() > MAX_FDS;
    if length == 0 {
        return Ok(None);
    }
    if truncated {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message larger than agreed",
        ));
    }
    Ok(Some((decode(&buffer[..length])?, fds)))
}

/// The descriptors of a list that the kernel cut short, which nix does not read: one header (cmsg(3)), then the descriptors,
/// in a buffer that was all zeros before.
fn cut_short(control: &[u8]) -> Vec<OwnedFd> {
    const HEADER: usize = size_of::<usize>() + 2 * size_of::<i32>();
    let length = control
        .first_chunk()
        .map_or(0, |length| usize::from_ne_bytes(*length));
    let numbers = control.get(HEADER..length).unwrap_or_default();
    numbers
        .chunks_exact(size_of::<RawFd>())
        .map(|number| {
            crate::sys::own(RawFd::from_ne_bytes(
                number.try_into().expect("as long as chunks are"),
            ))
        })
        .collect()
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
