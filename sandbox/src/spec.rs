//! What to start and how to confine it: plain data, sent by the supervisor, checked by the launcher's floor.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::property::Property;

/// A SHA-256, shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names one instance for as long as the host runs; never reused, also not after the supervisor was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceId(pub u64);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What to start and how to confine it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The function's name, `[a-z0-9][a-z0-9-]{0,62}`; the launcher gives each name a uid of its own.
    pub function: String,
    /// The stored executable.
    pub artifact: Digest,
    /// How the kernel runs the executable, and so what of the system it must see.
    pub image: Image,
    /// The arguments, `argv[0]` included.
    pub args: Vec<String>,
    /// The environment, complete except for `LISTEN_PID`, which the child adds.
    pub env: Vec<(String, String)>,
    /// How requests reach the process.
    pub socket: Socket,
    /// TCP ports of 127.0.0.1 in a network namespace of its own, on which sockets listen before it starts: not its own
    /// sockets, but the supervisor's, which answers there what the function asks. At most [`MAX_PORTS`], no two alike.
    pub ports: Vec<u16>,
    /// What it may use.
    pub limits: Limits,
    /// What of the system it sees.
    pub system: System,
    /// Absolute paths that it may read and execute.
    pub read: Vec<PathBuf>,
    /// Absolute paths of directories that it may read and write.
    pub write: Vec<PathBuf>,
    /// Names of secrets of this function that it is given as files.
    pub secrets: Vec<String>,
    /// Properties that the operator accepts to be missing.
    pub degraded: Vec<Property>,
    /// What the supervisor wants to be told about this instance by its successor; opaque here, at most 24 KiB.
    pub memo: Vec<u8>,
}

/// Where an instance finds its secrets, each a file called as the secret; `CREDENTIALS_DIRECTORY` says so.
pub const CREDENTIALS: &str = "/run/credentials";

/// The directory of an instance with [`Socket::Directory`], in its own `/tmp`: its own, and searched and read by all.
pub const EXCHANGE: &str = "/tmp/iofs";

/// Secrets of one function, at most.
pub const MAX_SECRETS: usize = 64;

/// Ports that the supervisor listens on within one instance's network namespace, at most.
pub const MAX_PORTS: usize = 17;

/// Whether something may be the name of a secret: 1 to 64 letters, digits, `.`, `_` and `-`, with no `.` in front.
pub fn is_secret_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=64).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.')
}

/// How the kernel runs an executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Image {
    /// An ELF file without an interpreter: needs nothing of the system.
    Static,
    /// An ELF file with an interpreter: sees the system's libraries, read-only.
    Dynamic,
    /// A `#!` script: sees the system's programs and libraries, read-only.
    Script,
}

/// What of the system an instance sees, read-only: loaders, libraries, interpreters and what they need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// Only these: nothing at all, for most static executables.
    Parts {
        /// Files and directories, by their real names, all of [`crate::system`].
        paths: Vec<PathBuf>,
        /// Symlinks that lead to them, path and target.
        links: Vec<(PathBuf, PathBuf)>,
    },
    /// All of [`crate::system::paths`].
    Whole,
}

/// How requests reach the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Socket {
    /// Descriptor 3 is a listening Unix socket, bound before the process exists.
    Unix,
    /// The process itself listens on this TCP port in a network namespace of its own.
    Port(u16),
    /// Not at all: it has no descriptor 3, and asks for its requests on one of [`Spec::ports`].
    None,
    /// Requests come on descriptor 0 and answers go to descriptor 1, each a pipe to the supervisor: it ends with that. A
    /// start that is prepared takes a request's variables ([`crate::variables`]) with the word to execute.
    Pipes,
    /// The process itself binds a Unix socket in [`EXCHANGE`], which the supervisor is given a descriptor of: it ends with
    /// that.
    Directory,
}

impl Spec {
    /// Whether it gets a network namespace of its own, in which 127.0.0.1 works.
    pub fn has_own_network(&self) -> bool {
        matches!(self.socket, Socket::Port(_)) || !self.ports.is_empty()
    }
}

/// What an instance may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory of all its processes together, in bytes, swap included.
    pub memory_bytes: u64,
    /// CPU time per wall time, in thousandths of one core.
    pub cpu_millis: u32,
    /// It gets only the CPU that no other instance wants.
    pub cpu_idle: bool,
    /// Processes and threads together.
    pub pids: u32,
    /// Size of its `/tmp`, in bytes.
    pub tmp_bytes: u64,
    /// Open descriptors per process.
    pub files: u32,
}
