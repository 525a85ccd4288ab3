//! What exists now, as plain data for `ps`, `ls` and the admin API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use funcd_sandbox::exit::Exit;
use funcd_sandbox::spec::{InstanceId, Limits};

use super::entry::Entry;
use super::handle::Revision;
use super::state::State;
use crate::admin::view;
use crate::admission::View;
use crate::catalog::binding::Target;
use crate::egress::Egress;
use crate::egress::http::guard;
use crate::name::{FunctionName, RevisionId};

/// One function.
#[derive(Debug, Clone)]
pub struct FunctionStatus {
    /// Its name.
    pub name: FunctionName,
    /// The revision that requests go to.
    pub revision: RevisionId,
    /// The same as a whole.
    pub source: Arc<Revision>,
    /// The one word for all its instances.
    pub state: view::State,
    /// Since when.
    pub since: SystemTime,
    /// The routes, as `host/path`.
    pub routes: Vec<String>,
    /// Requests between permit and the end of their response body.
    pub in_flight: usize,
    /// Requests that wait for an instance.
    pub waiting: usize,
    /// What admission knows; `None`: it was never asked.
    pub admission: Option<View>,
    /// Whether a process waits right before exec.
    pub standby: bool,
    /// Its places that are not idle.
    pub instances: Vec<InstanceStatus>,
    /// The newest revision that was tried and given up, and why.
    pub rejected: Option<(RevisionId, String)>,
    /// What it may reach.
    pub bindings: Vec<BindingStatus>,
    /// The last end that funcd did not ask for, or that took a kill.
    pub last_exit: Option<ExitStatus>,
}

/// One binding.
#[derive(Debug, Clone)]
pub struct BindingStatus {
    /// Its name.
    pub name: String,
    /// Where it leads.
    pub to: Target,
    /// Whether there is such a place, as far as this host knows.
    pub exists: bool,
    /// How calls through it go; `None`: it carries no HTTP, or nobody has it yet.
    pub known: Option<guard::View>,
}

/// One place of an instance.
#[derive(Debug, Clone)]
pub struct InstanceStatus {
    /// Its id, once it was launched.
    pub id: Option<InstanceId>,
    /// The pid of its main process, as the host sees it.
    pub pid: Option<i32>,
    /// The revision that it runs.
    pub revision: RevisionId,
    /// Where it is in its life.
    pub state: view::State,
    /// Since when it is in that state.
    pub since: SystemTime,
    /// Leases held.
    pub in_flight: u32,
    /// What it may use.
    pub limits: Limits,
}

/// How an instance ended.
#[derive(Debug, Clone)]
pub struct ExitStatus {
    /// Which.
    pub instance: InstanceId,
    /// Why.
    pub exit: Exit,
    /// For people.
    pub message: String,
    /// When.
    pub at: SystemTime,
}

pub(super) fn of(entries: &BTreeMap<FunctionName, Entry>, egress: &Egress) -> Vec<FunctionStatus> {
    let exists = |name: &FunctionName| entries.get(name).is_some_and(|entry| !entry.is_removed());
    let all = entries.iter();
    all.map(|(name, entry)| function(name, entry, egress, &exists))
        .collect()
}

fn function(
    name: &FunctionName,
    entry: &Entry,
    egress: &Egress,
    exists: &dyn Fn(&FunctionName) -> bool,
) -> FunctionStatus {
    let manifest = &entry.current().manifest;
    let bindings = manifest.bindings.iter().map(|binding| BindingStatus {
        name: binding.name.clone(),
        to: binding.to.clone(),
        exists: match &binding.to {
            Target::Function(sibling) => exists(sibling),
            Target::Tcp(_) | Target::Http { .. } => true,
        },
        known: egress.look(name, &binding.name),
    });
    let routes = match manifest.routes.is_empty() {
        true => vec![format!("/{name}/")],
        false => manifest
            .routes
            .iter()
            .map(|route| format!("{}{}", route.host.as_deref().unwrap_or(""), route.path))
            .collect(),
    };
    let instances = entry
        .slots()
        .iter()
        .filter(|slot| slot.state != State::Idle)
        .map(|slot| InstanceStatus {
            id: slot.id,
            pid: slot.pid,
            revision: slot.revision.id,
            state: shown(slot.state),
            since: slot.since,
            in_flight: slot.instance.as_ref().map_or(0, |instance| instance.in_flight()),
            limits: slot.revision.manifest.limits,
        });
    let singles = entry.singles.running().map(|(id, single)| InstanceStatus {
        id: Some(id),
        pid: single.pid,
        revision: single.revision.id,
        state: view::State::Ready,
        since: single.since,
        in_flight: 1,
        limits: single.revision.manifest.limits,
    });
    FunctionStatus {
        bindings: bindings.collect(),
        name: name.clone(),
        revision: entry.current().id,
        source: Arc::clone(entry.current()),
        state: shown(entry.state()),
        since: entry.since(),
        routes,
        in_flight: entry.handle.admitted(),
        waiting: entry.handle.waiting(),
        admission: entry.handle.view(),
        standby: entry.has_standby() || entry.singles.ahead() > 0,
        instances: instances.chain(singles).collect(),
        rejected: entry.rejected.clone(),
        last_exit: entry.last_exit.as_ref().map(|ended| ExitStatus {
            instance: ended.instance,
            exit: ended.exit.clone(),
            message: ended.describe(),
            at: ended.at,
        }),
    }
}

fn shown(state: State) -> view::State {
    match state {
        State::Idle => view::State::Idle,
        State::Starting { .. } => view::State::Starting,
        State::Ready => view::State::Ready,
        State::Frozen => view::State::Frozen,
        State::Draining { .. } => view::State::Draining,
        State::Backoff { .. } => view::State::Backoff,
        State::Failed { .. } => view::State::Failed,
    }
}
