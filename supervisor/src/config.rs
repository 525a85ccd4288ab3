//! The host's configuration as used: flags over environment over drop-ins over file over defaults, checked.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use funcd_sandbox::property::Property;
use serde::{Deserialize, Serialize};

/// The host's configuration, complete and checked. The launcher hands it to each supervisor as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The functions folder.
    pub functions: PathBuf,
    /// The state folder.
    pub state: PathBuf,
    /// The run folder.
    pub run: PathBuf,
    /// Where callers connect.
    pub listen: Vec<SocketAddr>,
    /// The admin API's Unix socket.
    pub admin: PathBuf,
    /// The optional TCP socket of metrics and health.
    pub admin_listen: Option<SocketAddr>,
    /// Worker threads; default: one per core.
    pub workers: usize,
    /// Networks whose `X-Forwarded-*`, `Forwarded` and `X-Request-Id` are believed, as `address/prefix`.
    pub trusted: Vec<String>,
    /// The user that the supervisor runs as, when root.
    pub user: String,
    /// The first uid of functions.
    pub uid_first: u32,
    /// How many uids functions can get.
    pub uid_count: u32,
    /// Grants for reading must lie below these.
    pub read_roots: Vec<PathBuf>,
    /// Grants for writing must lie below these.
    pub write_roots: Vec<PathBuf>,
    /// Properties that the operator accepts to be missing, for every function.
    pub degraded: Vec<Property>,
    /// Instances that may run at once.
    pub max_instances: usize,
    /// Bounds on what clients may do.
    pub client: ClientBounds,
    /// Rescan the folder this often, whatever inotify says.
    pub rescan: Duration,
    /// How long a drain may take when the host stops.
    pub drain: Duration,
    /// The `[defaults]` section: keys of `function.toml`, as TOML text, applied to every function.
    pub defaults: String,
}

/// Bounds on what clients may do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientBounds {
    /// A request head must arrive within this.
    pub head_timeout: Duration,
    /// A request or response body must make progress within this.
    pub body_idle: Duration,
    /// A connection without a request is closed after this.
    pub idle: Duration,
    /// The largest request head, in bytes.
    pub head_bytes: usize,
    /// Open connections, at most, over all workers.
    pub connections: usize,
}
