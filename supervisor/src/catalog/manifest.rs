//! `function.toml` as used: every value checked, every default filled in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use funcd_sandbox::property::Property;
use funcd_sandbox::spec::Limits;

use super::binding::Binding;
use super::guess::Guess;
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
    /// With `contract = "auto"`: what was found in the executable, see [`Manifest::settle`].
    pub found: Option<Guess>,
    /// What changes when it turns out to be a Lambda function.
    pub as_lambda: AsLambda,
    /// Which requests are sent to it over HTTP/2 with prior knowledge.
    pub h2c: H2c,
    /// How a function with a process for each request answers.
    pub stdio: Stdio,
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
    /// What it may reach, in the order of their names.
    pub bindings: Vec<Binding>,
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
    /// A process for each request: the body on stdin, the answer on stdout, the rest in the environment.
    Stdio,
    /// The same by RFC 3875: the answer begins with headers.
    Cgi,
    /// HTTP requests on stdin and answers on stdout, one after the other.
    Ironhttp,
    /// It binds a Unix socket that `FN_LISTENER` names (Fn's FDKs).
    Fn,
    /// It asks for its requests itself, at `$AWS_LAMBDA_RUNTIME_API`.
    Lambda {
        /// Whether callers may also send events as they are.
        invoke: bool,
    },
}

/// Which requests are sent over HTTP/2 with prior knowledge, with contracts `http` and `port`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum H2c {
    /// Those of gRPC, which has no other way; all others over HTTP/1.1.
    #[default]
    Grpc,
    /// All, but for those that want to change the protocol: only HTTP/1.1 can.
    Always,
    /// None.
    Never,
}

/// Which values nobody typed, so that a Lambda function finds what it finds elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsLambda {
    /// Of `scale.concurrency`.
    pub concurrency: bool,
    /// Of `request.body`.
    pub body: bool,
    /// Of `health.stop_within`.
    pub stop_within: bool,
}

impl AsLambda {
    /// One request at a time.
    pub const CONCURRENCY: u32 = 1;
    /// 6 MiB.
    pub const BODY: u64 = 6 << 20;
    /// Between SIGTERM and SIGKILL.
    pub const STOP_WITHIN: Duration = Duration::from_secs(2);
}

/// What becomes of what a `stdio` process writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// OpenFaaS's classic watchdog: the whole output when it has ended well, else 500; 408 when it takes too long.
    #[default]
    Classic,
    /// of-watchdog's `streaming`: the output as it comes, always 200.
    Streaming,
    /// of-watchdog's `serializing`: as classic, as `application/octet-stream`; 504 when it takes too long.
    Serializing,
}

/// How a function with a process for each request answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Stdio {
    /// What becomes of what it writes.
    pub mode: Mode,
    /// The Content-Type of its answers, instead of what the mode says.
    pub content_type: Option<String>,
    /// The most output that is kept until the process has ended, in bytes.
    pub output: u64,
}

impl Contract {
    /// Whether it can be spoken over HTTP/2.
    pub fn takes_h2c(self) -> bool {
        matches!(self, Contract::Http | Contract::Port(_))
    }

    /// Its name in `function.toml`.
    pub fn as_str(self) -> &'static str {
        match self {
            Contract::Http => "http",
            Contract::Port(_) => "port",
            Contract::Stdio => "stdio",
            Contract::Cgi => "cgi",
            Contract::Ironhttp => "ironhttp",
            Contract::Fn => "fn",
            Contract::Lambda { .. } => "lambda",
        }
    }

    /// Whether each request gets a process of its own.
    pub fn is_per_request(self) -> bool {
        matches!(self, Contract::Stdio | Contract::Cgi)
    }

    /// Whether functions of OpenFaaS have it: their callers say `X-Timeout`.
    pub fn is_of_openfaas(self) -> bool {
        matches!(self, Contract::Port(_) | Contract::Stdio)
    }

    /// Whether a process answers one request at a time whatever the manifest says.
    pub fn is_one_at_a_time(self) -> bool {
        self.is_per_request() || matches!(self, Contract::Ironhttp | Contract::Fn)
    }
}

/// Which requests a function answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutePattern {
    /// The host without port, lower case; `None`: any. `*.example.com` matches one label or more.
    pub host: Option<String>,
    /// A path prefix that begins with `/`, matched by whole segments; not stripped.
    pub path: String,
    /// Requests in flight by it, at most; `None`: as many as the function takes.
    pub limit: Option<u32>,
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

impl Manifest {
    /// Whether an instance is connected to anew for each request: one connection that idles would keep it from the others.
    pub fn takes_one_connection(&self) -> bool {
        let ends_at_funcd = matches!(self.contract, Contract::Ironhttp | Contract::Lambda { .. });
        self.scale.concurrency == 1 && !self.contract.is_per_request() && !ends_at_funcd
    }

    /// Takes the contract that was found in the executable, unless the manifest names one.
    pub fn settle(&mut self, guess: Guess) {
        if self.found.is_none() {
            return;
        }
        // Who wants HTTP/2 is a server, whatever it looks like.
        let guess = match self.h2c == H2c::Always && !guess.contract().takes_h2c() {
            true => Guess {
                why: "its manifest sets h2c".to_owned(),
                ..Guess::default()
            },
            false => guess,
        };
        self.contract = guess.contract();
        self.found = Some(guess);
        if self.contract.is_one_at_a_time() {
            self.scale.concurrency = 1;
        }
        if let Contract::Lambda { .. } = self.contract {
            let untyped = self.as_lambda;
            if untyped.concurrency {
                self.scale.concurrency = AsLambda::CONCURRENCY;
            }
            if untyped.body {
                self.request.body = AsLambda::BODY;
            }
            if untyped.stop_within {
                self.health.stop_within = AsLambda::STOP_WITHIN;
            }
        }
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
