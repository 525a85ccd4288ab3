//! `function.toml` as used: every value checked, every default filled in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use funcd_sandbox::property::Property;
use funcd_sandbox::spec::Limits;

use super::manifest_check as check;
use super::manifest_file::ManifestFile;
use super::view::Scope;
use crate::admission::Class;
use crate::admission::queue::Order;
use crate::name::FunctionName;
use crate::typed::{Layer, Source, TypedError};

/// What a function asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The executable's file name in the function's folder.
    pub exec: String,
    /// Arguments after `argv[0]`.
    pub args: Vec<String>,
    /// Environment beside what the contract sets.
    pub env: Vec<(String, String)>,
    /// Names of secrets that it is given as files.
    pub secrets: Vec<String>,
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
    /// What of the system it sees.
    pub system: Scope,
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
    /// It asks for its requests itself, at `$AWS_LAMBDA_RUNTIME_API`.
    Lambda {
        /// Whether callers may also send events as they are.
        invoke: bool,
    },
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
    /// Instances kept beyond what is needed, while the function is in use.
    pub prewarm: u32,
    /// Without a request for this long, instances above `min` stop.
    pub idle: Duration,
    /// Without a request for this long, all instances are frozen; `None`: never.
    pub freeze: Option<Duration>,
}

/// Bounds on a request.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestBounds {
    /// From arrival to the response head.
    pub timeout: Duration,
    /// The largest request body, in bytes.
    pub body: u64,
    /// How much a request matters whose head says nothing of it.
    pub priority: Class,
    /// In which order requests wait.
    pub queue: Order,
    /// Which requests may be sent again after an instance may have read them.
    pub retry: Retry,
}

/// Which requests may be sent again after an instance may have read them; what nobody can have read always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Retry {
    /// None.
    Never,
    /// GET, HEAD and OPTIONS.
    #[default]
    Safe,
    /// PUT, DELETE and what has an `Idempotency-Key`, too.
    Idempotent,
}

/// When an instance is ready, and how it stops.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// A path that answers 2xx or 3xx when ready; `None`: ready when it accepts a connection.
    pub path: Option<String>,
    /// Paths that are asked, one after the other, once it is ready and before it gets requests.
    pub warmup: Vec<String>,
    /// How often an instance without other answers is asked for `path` while it runs; `None`: never.
    pub period: Option<Duration>,
    /// Killed if not ready by then.
    pub ready_within: Duration,
    /// Between SIGTERM and SIGKILL.
    pub stop_within: Duration,
}

impl Manifest {
    /// Whether a connection that is kept open would keep the instance from serving others.
    pub fn takes_one_connection(&self) -> bool {
        self.scale.concurrency == 1 && !matches!(self.contract, Contract::Lambda { .. })
    }

    /// The manifest of a function: what its `function.toml` says, over the host's `[defaults]`, over the built-in defaults.
    /// `text` is `None` for a plain executable and for a folder without the file. `file` is how errors call the file.
    ///
    /// # Errors
    /// [`TypedError`] with the place of the first mistake.
    pub fn read(
        name: &FunctionName,
        file: &Path,
        text: Option<&str>,
        defaults: &Defaults,
    ) -> Result<Manifest, TypedError> {
        let mut layers = Vec::with_capacity(1 + defaults.0.len());
        if let Some(text) = text {
            layers.push(Layer::parse(Source::file(file, text))?);
        }
        layers.extend(defaults.0.iter().cloned());
        check::manifest(name.as_str(), &layers)
    }
}

/// The host's `[defaults]` section: keys of `function.toml` that lie under each function's own.
#[derive(Debug, Clone, Default)]
pub struct Defaults(Vec<Layer<ManifestFile>>);

impl Defaults {
    /// Reads the text that [`crate::config::Config::defaults`] holds, and checks it as a manifest of its own.
    ///
    /// # Errors
    /// [`TypedError`] with the place of the first mistake.
    pub fn parse(text: &str) -> Result<Defaults, TypedError> {
        if text.trim().is_empty() {
            return Ok(Defaults::default());
        }
        Defaults::of_layers(vec![Layer::parse(Source::file("[defaults]", text))?])
    }

    /// The sections, strongest first.
    pub fn layers(&self) -> &[Layer<ManifestFile>] {
        &self.0
    }

    /// From sections read already, strongest first.
    ///
    /// # Errors
    /// [`TypedError`] with the place of the first mistake.
    pub fn of_layers(layers: Vec<Layer<ManifestFile>>) -> Result<Defaults, TypedError> {
        check::manifest("defaults", &layers)?;
        Ok(Defaults(layers))
    }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
