//! How operators look at a running host: the admin API on a Unix socket, its small part on TCP, and the client that
//! the command line uses. Changes nothing but the program itself; the folder is how functions come and go.

mod advice;
pub mod api;
pub mod client;
pub mod explain;
pub mod host;
pub mod peer;
pub mod requests;
pub mod server;
pub mod view;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{mpsc, oneshot, watch};

use crate::catalog::Entry;
use crate::config::Config;
use crate::host::State as HostState;
use crate::ledger::Ledgers;
use crate::telemetry::Logs;
use view::{Doctor, Snapshot};

/// A question to `control`: what does it know now? Dropping it unanswered means that control can't tell.
#[derive(Debug)]
pub struct Ask(pub oneshot::Sender<Snapshot>);

/// Where the host is in its life, for `/readyz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// The folder was not scanned yet, or the inventory not taken over.
    Starting,
    /// Requests are answered.
    Ready,
    /// Told to stop: finishes what it has.
    Draining,
}

/// Where the API's answers come from.
#[derive(Debug)]
pub struct Sources {
    /// `control` answers what arrives here.
    pub control: mpsc::Sender<Ask>,
    /// The entries of the folder as of the last scan.
    pub entries: watch::Receiver<BTreeMap<String, Entry>>,
    /// How this host keeps the promises of the sandbox; does not change while it runs.
    pub doctor: Doctor,
    /// The functions' logs.
    pub logs: Logs,
    /// Where the host is in its life.
    pub readiness: watch::Receiver<Readiness>,
    /// The metrics of this process.
    pub metrics: PrometheusHandle,
    /// What the workers remember of the last requests.
    pub ledgers: Ledgers,
    /// What the host is like, and what it holds back.
    pub host: watch::Receiver<HostState>,
    /// The configuration in use.
    pub config: watch::Receiver<Arc<Config>>,
    /// The launcher upgrades for who asks here.
    pub upgrades: mpsc::Sender<Upgrade>,
}

/// Put the program in place that lies there by now: its version, or why it is still this one.
#[derive(Debug)]
pub struct Upgrade(pub oneshot::Sender<Result<String, String>>);
