//! `function.toml` as typed: every key optional, an unknown key is an error. Says nothing about what a value may be.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::typed::Spanned;
use crate::typed::units::{Cpu, Size, Span};

/// The file, or the `[defaults]` section of the host's configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ManifestFile {
    /// The executable's file name in the function's folder.
    pub exec: Option<Spanned<String>>,
    /// Arguments after `argv[0]`.
    pub args: Option<Spanned<Vec<Spanned<String>>>>,
    /// How requests get in.
    pub contract: Option<Spanned<String>>,
    /// The port that it listens on, with `contract = "port"`.
    pub port: Option<Spanned<i64>>,
    /// Whether requests go to it over HTTP/2 with prior knowledge, with contracts `http` and `port`.
    pub h2c: Option<Spanned<bool>>,
    /// Whether callers may send events as they are, with `contract = "lambda"`.
    pub invoke: Option<Spanned<bool>>,
    /// Secrets that it is given as files.
    pub secrets: Option<Spanned<Vec<Spanned<String>>>>,
    /// Environment.
    pub env: BTreeMap<Spanned<String>, Spanned<String>>,
    /// Which requests it answers.
    pub route: Option<Spanned<Vec<RouteFile>>>,
    /// How many instances.
    pub scale: ScaleFile,
    /// What an instance may use.
    pub limits: LimitsFile,
    /// Bounds on a request.
    pub request: RequestFile,
    /// How a function with a process for each request answers.
    pub stdio: StdioFile,
    /// When an instance is ready.
    pub health: HealthFile,
    /// What the sandbox lets in.
    pub sandbox: SandboxFile,
    /// Not in this version.
    pub rollout: Option<Spanned<IgnoredAny>>,
    /// What it may reach.
    pub bindings: BTreeMap<Spanned<String>, Spanned<BindingFile>>,
}

/// One `[[route]]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteFile {
    /// The host.
    pub host: Option<Spanned<String>>,
    /// The path prefix.
    pub path: Option<Spanned<String>>,
    /// Requests in flight by it, at most.
    pub limit: Option<Spanned<i64>>,
}

/// One `[bindings.NAME]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BindingFile {
    /// `host:port` or `tls://host:port`.
    pub tcp: Option<Spanned<String>>,
    /// A URL.
    pub http: Option<Spanned<String>>,
    /// Another function.
    pub function: Option<Spanned<String>>,
    /// At which port the function finds it.
    pub port: Option<Spanned<i64>>,
    /// How long a call may take.
    pub timeout: Option<Spanned<Span>>,
    /// Connections or requests at once, of one instance.
    pub concurrency: Option<Spanned<i64>>,
    /// Which requests may be sent again.
    pub retry: Option<Spanned<String>>,
}

/// `[scale]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScaleFile {
    /// Instances kept running.
    pub min: Option<Spanned<i64>>,
    /// Instances at most.
    pub max: Option<Spanned<i64>>,
    /// Requests in flight per instance.
    pub concurrency: Option<Spanned<i64>>,
    /// Instances kept beyond need.
    pub prewarm: Option<Spanned<i64>>,
    /// Instances above `min` stop after this.
    pub idle: Option<Spanned<Span>>,
    /// Instances are frozen after this.
    pub freeze: Option<Spanned<Span>>,
    /// Not in this version.
    pub target: Option<Spanned<IgnoredAny>>,
}

/// `[limits]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsFile {
    /// Memory of all processes.
    pub memory: Option<Spanned<Size>>,
    /// Cores.
    pub cpu: Option<Spanned<Cpu>>,
    /// Processes and threads.
    pub pids: Option<Spanned<i64>>,
    /// Size of `/tmp`.
    pub tmp: Option<Spanned<Size>>,
    /// Open descriptors per process.
    pub files: Option<Spanned<i64>>,
}

/// `[request]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RequestFile {
    /// From arrival to the response head.
    pub timeout: Option<Spanned<Span>>,
    /// The largest request body.
    pub body: Option<Spanned<Size>>,
    /// How much a request matters.
    pub priority: Option<Spanned<String>>,
    /// In which order requests wait.
    pub queue: Option<Spanned<String>>,
    /// Which requests may be sent again.
    pub retry: Option<Spanned<String>>,
}

/// `[stdio]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StdioFile {
    /// What becomes of the output.
    pub mode: Option<Spanned<String>>,
    /// The Content-Type of answers.
    pub content_type: Option<Spanned<String>>,
    /// The most output that is kept.
    pub output: Option<Spanned<Size>>,
}

/// `[health]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthFile {
    /// A path that answers when ready.
    pub path: Option<Spanned<String>>,
    /// Paths asked before the first request.
    pub warmup: Option<Spanned<Vec<Spanned<String>>>>,
    /// How often it is asked for the path while it runs.
    pub period: Option<Spanned<Span>>,
    /// Killed if not ready by then.
    pub ready_within: Option<Spanned<Span>>,
    /// Between SIGTERM and SIGKILL.
    pub stop_within: Option<Spanned<Span>>,
}

/// `[sandbox]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxFile {
    /// What of the system it sees.
    pub system: Option<Spanned<String>>,
    /// Absolute paths that it may read.
    pub read: Option<Spanned<Vec<Spanned<String>>>>,
    /// Absolute paths that it may write.
    pub write: Option<Spanned<Vec<Spanned<String>>>>,
    /// Properties that may be missing.
    pub degraded: Option<Spanned<Vec<Spanned<String>>>>,
}
