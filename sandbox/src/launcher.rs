//! The privileged loop: owns what must outlive a crash of the supervisor, and does what it is asked only within its
//! own floor.

use std::ffi::CString;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::property::Property;

/// What the launcher is started with: its floor. Nothing that a supervisor says can widen it.
#[derive(Debug, Clone)]
pub struct Host {
    /// The functions folder; it exists.
    pub functions: PathBuf,
    /// The state folder: store, uids, logs; made when missing.
    pub state: PathBuf,
    /// The run folder: sockets, staging; made when missing, emptied at start.
    pub run: PathBuf,
    /// Where callers connect.
    pub listen: Vec<SocketAddr>,
    /// One listener per worker (`SO_REUSEPORT`).
    pub workers: usize,
    /// The Unix socket of the admin API.
    pub admin: PathBuf,
    /// The optional TCP socket of metrics and health.
    pub admin_listen: Option<SocketAddr>,
    /// The user (and the admin socket's group) that the supervisor runs as, when root: uid and gid.
    pub supervisor: Option<(u32, u32)>,
    /// The first uid that functions get.
    pub uid_first: u32,
    /// How many uids functions can get.
    pub uid_count: u32,
    /// What functions may be granted for reading: anything below these.
    pub read_roots: Vec<PathBuf>,
    /// What functions may be granted for writing: anything below these.
    pub write_roots: Vec<PathBuf>,
    /// The properties that may be missing at all.
    pub degraded: Vec<Property>,
    /// The program and arguments of the supervisor (its descriptor 3 is the socket to the launcher).
    pub program: Vec<CString>,
    /// The configuration, handed to each supervisor as it is.
    pub config: Vec<u8>,
    /// Instances that may run at once.
    pub max_instances: usize,
}
