//! Asks an instance now and then whether it is alive, by its health path and beside its places. One task for each instance whose
//! manifest has `health.period`; ends with the instance. Decides nothing: [`super::judge`] does.

use std::sync::{Arc, Weak};
use std::time::Duration;

use metrics::counter;
use tokio::sync::mpsc;

use super::handle::ToControl;
use super::instance::Instance;
use super::prove::ask;
use crate::name::FunctionName;
use crate::telemetry::names;

/// A health request is given up after this, or after the period if that is less.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks until the instance is gone.
pub(super) async fn watch_over(
    function: FunctionName,
    instance: Weak<Instance>,
    control: mpsc::UnboundedSender<ToControl>,
) {
    let Some(health) = instance
        .upgrade()
        .map(|instance| instance.revision.manifest.health.clone())
    else {
        return;
    };
    let (Some(period), Some(path)) = (health.period, health.path) else {
        return;
    };
    loop {
        tokio::time::sleep(period).await;
        let Some(instance) = instance.upgrade() else {
            return;
        };
        let Some(answered) = look(&instance, &path, period.min(PATIENCE)).await else {
            continue;
        };
        let result = match answered {
            true => "answered",
            false => "unanswered",
        };
        counter!(names::HEALTH_REQUESTS_TOTAL, "function" => function.to_string(), "result" => result)
            .increment(1);
        match answered {
            true => instance.tally.is_alive(),
            false => {
                instance.tally.is_silent();
                let _ = control.send(ToControl::Unanswered(instance.id));
            }
        }
    }
}

/// Whether it answers; `None`: there was nothing to ask.
async fn look(instance: &Arc<Instance>, path: &str, patience: Duration) -> Option<bool> {
    // Frozen, or on its way out.
    if !instance.is_accepting() {
        return None;
    }
    if instance.tally.was_heard() {
        instance.tally.is_alive();
        return None;
    }
    // A server of one request at a time can't hear another one, and may work on that for as long as the request has.
    if instance.revision.manifest.scale.concurrency == 1 && instance.in_flight() > 0 {
        return None;
    }
    let status = ask(instance, path, "funcd-health", patience).await;
    // Any status is an answer: what it needs may be missing, but it is alive.
    (status.is_some() || instance.is_accepting()).then_some(status.is_some())
}
