//! What `control` knows, as the admin API shows it. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use crate::admin::view::{
    AdmissionView, BindingView, ExitView, FunctionState, InstanceView, LimitsView, Rejected, Snapshot, State,
};
use crate::admission::breaker::Shown;
use crate::catalog::binding::Target;
use crate::function::status::{BindingStatus, ExitStatus, FunctionStatus, InstanceStatus};
use crate::telemetry::rfc3339;

/// The documents for `ls` and `ps`.
pub fn snapshot(functions: &[FunctionStatus]) -> Snapshot {
    let states: BTreeMap<_, _> = functions
        .iter()
        .map(|f| (f.name.to_string(), function(f)))
        .collect();
    let instances = functions.iter().flat_map(rows).collect();
    Snapshot {
        functions: states,
        instances,
        revisions: functions
            .iter()
            .map(|f| (f.name.to_string(), Arc::clone(&f.source)))
            .collect(),
    }
}

fn function(status: &FunctionStatus) -> FunctionState {
    let troubled = matches!(status.state, State::Backoff | State::Failed);
    let last = status.last_exit.as_ref();
    FunctionState {
        state: status.state,
        since: rfc3339(status.since),
        reason: last.filter(|_| troubled).map(|exit| exit.message.clone()),
        revision: status.revision.to_string(),
        contract: status.source.manifest.contract.as_str().to_owned(),
        because: status
            .source
            .manifest
            .found
            .as_ref()
            .map(|found| found.why.clone()),
        routes: status.routes.clone(),
        instances: status
            .instances
            .iter()
            .filter(|instance| instance.pid.is_some())
            .count() as u32,
        in_flight: status.in_flight as u64,
        waiting: status.waiting as u64,
        standby: status.standby,
        rejected: status.rejected.as_ref().map(|(revision, reason)| Rejected {
            revision: revision.to_string(),
            reason: reason.clone(),
        }),
        bindings: status.bindings.iter().map(binding).collect(),
    }
}

fn binding(status: &BindingStatus) -> BindingView {
    let known = status.known;
    let is_shut = known.is_some_and(|known| known.breaker != Shown::Closed);
    let problem = match &status.to {
        Target::Function(sibling) if !status.exists => Some(format!(
            "its binding {} leads to the function {sibling}, which does not exist: deploy it, or change the binding",
            status.name
        )),
        to if is_shut => Some(format!(
            "its binding {} to {to} fails: the breaker is {}; it closes by itself once the target answers again",
            status.name,
            known.map_or("open", |known| known.breaker.name())
        )),
        _ => None,
    };
    BindingView {
        name: status.name.clone(),
        target: status.to.to_string(),
        breaker: known.map(|known| known.breaker.name().to_owned()),
        in_flight: known.map_or(0, |known| known.in_flight),
        problem,
    }
}

/// A row for each instance, or one for a function that has none.
fn rows(status: &FunctionStatus) -> Vec<InstanceView> {
    let last_exit = status.last_exit.as_ref().map(exit);
    let row = |instance: Option<&InstanceStatus>| InstanceView {
        function: status.name.to_string(),
        revision: instance.map_or(status.revision, |i| i.revision).to_string(),
        instance: instance.and_then(|i| i.id).map(|id| id.0),
        pid: instance.and_then(|i| i.pid),
        state: instance.map_or(status.state, |i| i.state),
        since: rfc3339(instance.map_or(status.since, |i: &InstanceStatus| i.since)),
        last_exit: last_exit.clone(),
        in_flight: instance.map_or(0, |i| u64::from(i.in_flight)),
        limits: Some(LimitsView::from(
            instance.map_or(&status.source.manifest.limits, |i| &i.limits),
        )),
        admission: status.admission.map(AdmissionView::from),
    };
    match status.instances.is_empty() {
        true => vec![row(None)],
        false => status
            .instances
            .iter()
            .map(|instance| row(Some(instance)))
            .collect(),
    }
}

fn exit(status: &ExitStatus) -> ExitView {
    let at: SystemTime = status.at;
    ExitView {
        reason: status.exit.reason().to_owned(),
        message: status.message.clone(),
        at: rfc3339(at),
        instance: Some(status.instance.0),
    }
}
