//! `function.toml` as used: every value checked, every default filled in.

use std::path::PathBuf;
use std::time::Duration;

use funcd_sandbox::property::Property;
use funcd_sandbox::spec::Limits;

/// What a function asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The executable's file name in the function's folder.
    pub exec: String,
    /// Arguments after `argv[0]`.
    pub args: Vec<String>,
    /// Environment beside what the contract sets.
    pub env: Vec<(String, String)>,
    /// How requests get in.
    pub contract: Contract,
    /// Which requests it answers; empty: `/<name>/…` with the prefix stripped.
    pub routes: Vec<RoutePattern>,
    /// How many instances, and when.
    pub scale: Scale,
    /// What an instance may use.
    pub limits: Limits,
    /// Bounds on a request.
    pub request: RequestBounds,
    /// When an instance is ready.
    pub health: Health,
    /// Absolute paths it may read.
    pub read: Vec<PathBuf>,
    /// Absolute paths it may write.
    pub write: Vec<PathBuf>,
    /// Properties that may be missing.
    pub degraded: Vec<Property>,
}

/// How requests get into the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract {
    /// Descriptor 3 is a listening socket (systemd socket activation).
    Http,
    /// It listens on `$PORT` itself.
    Port(u16),
}

/// Which requests a function answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutePattern {
    /// The host without port, lower case; `None`: any. `*.example.com` matches one label or more.
    pub host: Option<String>,
    /// A path prefix that begins with `/`, matched by whole segments; not stripped.
    pub path: String,
}

/// How many instances, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    /// Kept running also when idle.
    pub min: u32,
    /// At most.
    pub max: u32,
    /// Requests in flight per instance, at most.
    pub concurrency: u32,
    /// Without a request for this long, instances above `min` stop.
    pub idle: Duration,
}

/// Bounds on a request.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestBounds {
    /// From arrival to the response head.
    pub timeout: Duration,
    /// The largest request body, in bytes.
    pub body: u64,
}

/// When an instance is ready, and how it stops.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// A path that answers 2xx or 3xx when ready; `None`: ready when it accepts a connection.
    pub path: Option<String>,
    /// Killed if not ready by then.
    pub ready_within: Duration,
    /// Between SIGTERM and SIGKILL.
    pub stop_within: Duration,
}
