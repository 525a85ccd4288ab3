//! The host's configuration as used: flags over environment over drop-ins over file over defaults, checked. Each value
//! remembers where it was set. Creates nothing and changes nothing: it only reads.

mod file;
mod layers;
mod resolve;
mod show;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use funcd_sandbox::property::Property;
use serde::{Deserialize, Serialize};

use crate::typed::{Place, TypedError};

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
    /// Networks whose `X-Forwarded-*` and `Forwarded` headers are believed, as `address/prefix`.
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
    /// The folder of secrets: a folder in it for each function that has some.
    pub secrets: PathBuf,
    /// Properties that the operator accepts to be missing, for every function.
    pub degraded: Vec<Property>,
    /// Instances that may run at once.
    pub max_instances: usize,
    /// Idle functions whose next start is prepared: a process each that waits right before exec.
    pub standbys: usize,
    /// Whether a host that is short of something holds back what matters least; if not, that is measured and shown only.
    pub brownout: bool,
    /// Whether functions' lines go to systemd's journal, too.
    #[serde(default)]
    pub journal: bool,
    /// Bounds on what clients may do.
    pub client: ClientBounds,
    /// What bindings may reach, and how.
    #[serde(default)]
    pub egress: EgressSettings,
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

/// What bindings may reach, and how.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EgressSettings {
    /// Networks, or single ports of them, that bindings may lead to although they are this host's own, link-local or the like.
    pub allow: Vec<String>,
    /// Who is asked for the addresses of names; empty: those of `/etc/resolv.conf`.
    pub nameservers: Vec<SocketAddr>,
    /// Files of certificates (PEM) that are believed beside the system's.
    pub roots: Vec<PathBuf>,
}

/// What the command line sets; `None` and empty lists set nothing. Values are as typed: they are checked like those of
/// files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--config FILE`: read this file alone, instead of the main file and the drop-ins.
    pub config: Option<PathBuf>,
    /// `--functions DIR`.
    pub functions: Option<PathBuf>,
    /// `--state DIR`.
    pub state: Option<PathBuf>,
    /// `--run DIR`.
    pub run: Option<PathBuf>,
    /// `--listen ADDR:PORT`, repeatable.
    pub listen: Vec<String>,
    /// `--admin PATH`.
    pub admin: Option<PathBuf>,
    /// `--admin-listen ADDR:PORT`.
    pub admin_listen: Option<String>,
    /// `--workers N`.
    pub workers: Option<usize>,
    /// `--secrets DIR`.
    pub secrets: Option<PathBuf>,
    /// `--degraded PROPERTY`, repeatable.
    pub degraded: Vec<String>,
    /// `--trusted NETWORK`, repeatable.
    pub trusted: Vec<String>,
    /// `--user NAME`.
    pub user: Option<String>,
    /// `--max-instances N`.
    pub max_instances: Option<usize>,
}

/// What surrounds the process, as far as the configuration depends on it: an argument, so that tests can choose it.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The environment variables.
    pub vars: BTreeMap<String, String>,
    /// The effective user id; 0 uses the system's folders, any other the user's own (XDG).
    pub euid: u32,
    /// Relative paths of flags and variables begin here.
    pub cwd: PathBuf,
    /// Cores that the process may use.
    pub cores: usize,
    /// `/etc/funcd` and `/usr/lib/funcd` are looked for below this; `/` outside of tests.
    pub root: PathBuf,
}

impl Environment {
    /// Of this process.
    ///
    /// # Errors
    /// When the working directory is gone.
    pub fn current() -> Result<Environment, ConfigError> {
        let vars =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        let cwd = std::env::current_dir();
        Ok(Environment {
            vars: vars.collect(),
            euid: nix::unistd::geteuid().as_raw(),
            cwd: cwd.map_err(|e| ConfigError::Other(format!("the working directory can't be read: {e}")))?,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            root: PathBuf::from("/"),
        })
    }
}

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere.
    Default,
    /// In a file, at this line and column.
    File(PathBuf, usize, usize),
    /// By an environment variable.
    Env(String),
    /// By a flag.
    Flag(String),
}

impl Origin {
    fn of(place: &Place, (line, column): (usize, usize)) -> Origin {
        match place {
            Place::File(path) => Origin::File(path.clone(), line, column),
            Place::Env(name) => Origin::Env(name.clone()),
            Place::Flag(name) => Origin::Flag(name.clone()),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path, line, column) => write!(f, "{}:{line}:{column}", path.display()),
            Origin::Env(name) => write!(f, "environment {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One line of `funcd config show --origin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The key, for example `client.idle` or `defaults.scale.max`.
    pub key: String,
    /// The value, as it would be typed in TOML.
    pub value: String,
    /// Where it was set.
    pub origin: Origin,
}

/// A configuration that was read and checked.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Every key, with its value and where it was set.
    pub rows: Vec<Row>,
    /// The files that were read, weakest first.
    pub files: Vec<PathBuf>,
    /// What is odd but no mistake, for `config check`: for example a variable `FUNCD_…` that is no key.
    pub warnings: Vec<String>,
}

/// Why there is no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Something that was typed is wrong.
    #[error("{0}")]
    Typed(Box<TypedError>),
    /// A file can't be read.
    #[error("{}: {step}: {why}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// Why not, and what to do next.
        why: String,
    },
    /// Anything else: what, why and what to do next.
    #[error("{0}")]
    Other(String),
}

impl ConfigError {
    /// Several lines, with the place and a caret where there is one.
    pub fn render(&self, colour: bool) -> String {
        match self {
            ConfigError::Typed(error) => error.render(colour),
            ConfigError::Read { .. } | ConfigError::Other(_) => format!("error: {self}"),
        }
    }
}

impl From<TypedError> for ConfigError {
    fn from(error: TypedError) -> ConfigError {
        ConfigError::Typed(Box::new(error))
    }
}

/// Reads the configuration: flags over `FUNCD_*` over drop-ins over the main file over defaults.
///
/// # Errors
/// [`ConfigError`] at the first mistake.
pub fn load(flags: &Flags, environment: &Environment) -> Result<Loaded, ConfigError> {
    let read = layers::read(flags, environment)?;
    resolve::resolve(read, environment)
}

#[cfg(test)]
mod tests;
