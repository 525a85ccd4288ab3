//! The composition root: from a configuration to a launcher's floor, and from a handover to a running supervisor.
//! Everything is built here and nowhere else.

use std::ffi::CString;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use funcd_sandbox::launcher::{self, Host, LauncherError};
use funcd_sandbox::own::{self, Access};
use nix::unistd::{User, geteuid};
use tokio::runtime;
use tokio::sync::{mpsc, oneshot, watch};

use crate::admin::{self, Readiness, Sources};
use crate::catalog::{self, Catalog};
use crate::config::Config;
use crate::function::control::{self, Control, Notice, Parts};
use crate::function::report::Report;
use crate::handover::{self, Handover};
use crate::ingress::{self, Routes};
use crate::launcher::Launcher;
use crate::snapshot::snapshot;
use crate::telemetry::{self, Logs};

/// Why a daemon ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The launcher could not start, or had to stop.
    #[error(transparent)]
    Launcher(#[from] LauncherError),
    /// The supervisor could not start.
    #[error("the supervisor can't start: {what}: {source}")]
    Supervisor {
        /// What it was doing.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The configured user does not exist.
    #[error("there is no user {user:?} for the supervisor to run as: `useradd --system {user}`, or set `user`")]
    NoUser {
        /// Its name.
        user: String,
    },
}

fn supervisor(what: &'static str) -> impl Fn(io::Error) -> DaemonError {
    move |source| DaemonError::Supervisor { what, source }
}

/// Runs the launcher until it is told to stop. The caller has one thread.
///
/// # Errors
/// [`DaemonError::Launcher`] and [`DaemonError::NoUser`].
pub fn serve(config: &Config) -> Result<(), DaemonError> {
    Ok(launcher::run(host(config)?)?)
}

/// The launcher's floor for a configuration.
///
/// # Errors
/// [`DaemonError::NoUser`].
pub fn host(config: &Config) -> Result<Host, DaemonError> {
    let program = ["/proc/self/exe", "supervisor"].map(|word| CString::new(word).expect("no NUL in a literal"));
    Ok(Host {
        functions: config.functions.clone(),
        state: config.state.clone(),
        run: config.run.clone(),
        listen: config.listen.clone(),
        workers: config.workers,
        admin: config.admin.clone(),
        admin_listen: config.admin_listen,
        supervisor: supervisor_user(config)?,
        uid_first: config.uid_first,
        uid_count: config.uid_count,
        read_roots: config.read_roots.clone(),
        write_roots: config.write_roots.clone(),
        degraded: config.degraded.clone(),
        program: program.into(),
        config: serde_json::to_vec(config).expect("a configuration is plain data"),
        max_instances: config.max_instances,
    })
}

/// The uid and gid of the supervisor, when this is root. On a machine where nobody made the default user, the first
/// uid of the functions' range serves: no function ever gets that one.
fn supervisor_user(config: &Config) -> Result<Option<(u32, u32)>, DaemonError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    match User::from_name(&config.user) {
        Ok(Some(user)) => Ok(Some((user.uid.as_raw(), user.gid.as_raw()))),
        _ if config.user == Config::DEFAULT_USER => Ok(Some((config.uid_first, config.uid_first))),
        _ => Err(DaemonError::NoUser { user: config.user.clone() }),
    }
}

/// Runs the supervisor on the socket that the launcher left at descriptor 3. The caller has one thread.
///
/// # Errors
/// [`DaemonError::Supervisor`].
pub fn supervise() -> Result<(), DaemonError> {
    let socket = own::inherited_socket().map_err(supervisor("the socket to the launcher"))?;
    let handover = handover::receive(&socket).map_err(supervisor("the handover"))?;
    telemetry::diary::start(telemetry::diary::Format::Text);
    let access = Access {
        read: vec![handover.functions.as_fd(), handover.sockets.as_fd()],
        write: vec![handover.logs.as_fd()],
    };
    let enforced = own::confine_self(&access).map_err(supervisor("confining itself"))?;
    tracing::debug!(?enforced, "confined");
    Ok(())
}
