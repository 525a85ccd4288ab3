//! What `control` tells the outside of what happens to functions: their logs, metrics, and the catalog. Never decides.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use funcd_sandbox::exit::Exit;
use funcd_sandbox::spec::InstanceId;
use funcd_sandbox::wire::Usage;
use metrics::{counter, gauge, histogram};
use tokio::sync::watch;

use super::handle::Revision;
use super::place::News;
use super::poison::Quarantined;
use super::room::Held;
use crate::catalog::{self, Entry};
use crate::name::FunctionName;
use crate::telemetry::{Logs, Writer, names};

/// Where what happens is told.
#[derive(Debug)]
pub struct Report {
    /// The functions' logs.
    pub logs: Logs,
    /// The catalog, which shows in `ls` what became of its candidates.
    pub catalog: catalog::Handle,
    /// The entries of the folder, for `ls`.
    pub entries: watch::Sender<BTreeMap<String, Entry>>,
}

impl Report {
    /// Reads what an instance writes from now on.
    pub(super) fn attach(
        &self,
        function: &FunctionName,
        revision: &Revision,
        instance: InstanceId,
        outputs: [Option<OwnedFd>; 2],
    ) {
        let writer = Writer {
            function: function.clone(),
            revision: revision.id,
            instance,
        };
        self.logs.attach(writer, outputs);
    }

    /// A start was asked for.
    pub(super) fn starting(&self, function: &FunctionName, instance: InstanceId, revision: &Revision) {
        counter!(names::INSTANCE_STARTS_TOTAL, "function" => function.to_string(), "kind" => "new")
            .increment(1);
        tracing::info!(%function, %instance, revision = revision.id.short(), "starting");
    }

    /// An instance is ready, so long after its start was asked for.
    pub(super) fn ready(&self, function: &FunctionName, took: Duration) {
        histogram!(names::INSTANCE_START_DURATION_SECONDS, "function" => function.to_string(), "phase" => "ready")
            .record(took);
    }

    /// An instance can't be reached, whatever is tried.
    pub(super) fn refused_instance(&self, function: &FunctionName, instance: InstanceId, why: &str) {
        self.logs
            .note(function, &format!("instance {instance} is killed: {why}"));
        tracing::warn!(%function, %instance, reason = why, "it can't be reached, and is killed");
    }

    /// An instance ended.
    pub(super) fn ended(&self, function: &FunctionName, instance: InstanceId, exit: &Exit, message: &str) {
        counter!(names::INSTANCE_EXITS_TOTAL, "function" => function.to_string(), "reason" => exit.reason())
            .increment(1);
        self.logs
            .note(function, &format!("instance {instance} ended: {message}"));
        match exit.is_asked_for() {
            true => tracing::info!(%function, %instance, reason = message, "ended"),
            false => tracing::warn!(%function, %instance, reason = message, "ended"),
        }
    }

    /// A process for one request ended. One that ended well is nothing to tell.
    pub(super) fn ended_single(
        &self,
        function: &FunctionName,
        instance: InstanceId,
        exit: &Exit,
        message: &str,
    ) {
        counter!(names::INSTANCE_EXITS_TOTAL, "function" => function.to_string(), "reason" => exit.reason())
            .increment(1);
        if matches!(exit, Exit::Code { code: 0 } | Exit::Stopped) {
            tracing::debug!(%function, %instance, reason = message, "ended");
            return;
        }
        self.logs
            .note(function, &format!("instance {instance} ended: {message}"));
        if exit.is_asked_for() {
            // What its request came to is told with that; callers who leave must not fill the host's log.
            tracing::debug!(%function, %instance, reason = message, "ended");
            return;
        }
        tracing::warn!(%function, %instance, reason = message, "ended");
    }

    /// A candidate became a revision.
    pub(super) fn accepted(&self, function: &FunctionName, serial: u64) {
        counter!(names::RELOADS_TOTAL, "result" => "accepted").increment(1);
        self.catalog.accept(function, serial);
    }

    /// A candidate did not.
    pub(super) fn refused(&self, function: &FunctionName, serial: u64, kind: &'static str, reason: String) {
        counter!(names::RELOADS_TOTAL, "result" => kind).increment(1);
        tracing::warn!(%function, kind, reason, "refused");
        self.logs.note(function, &format!("refused: {reason}"));
        self.catalog.refuse(function, serial, kind, reason);
    }

    /// A candidate could not be stored yet: the catalog looks at it again.
    pub(super) fn retry(&self, function: &FunctionName, serial: u64, why: &str) {
        self.catalog.retry(function, serial, why);
    }

    /// The folder as it is now.
    pub(super) fn entries(&self, entries: BTreeMap<String, Entry>) {
        self.entries.send_replace(entries);
    }

    /// What all instances of a function use together, and the CPU time and the strain that are new.
    pub(super) fn usage(&self, function: &FunctionName, total: Usage, new: Usage) {
        let function = function.to_string();
        gauge!(names::CGROUP_MEMORY_BYTES, "function" => function.clone(), "kind" => "total")
            .set(total.memory_bytes as f64);
        gauge!(names::CGROUP_PIDS, "function" => function.clone()).set(total.pids as f64);
        let seconds = |micros: u64| micros as f64 / 1e6;
        gauge!(names::CGROUP_CPU_SECONDS_TOTAL, "function" => function.clone(), "mode" => "total")
            .increment(seconds(new.cpu_micros));
        gauge!(names::CGROUP_CPU_THROTTLED_SECONDS_TOTAL, "function" => function.clone())
            .increment(seconds(new.strain.throttled_micros));
        counter!(names::CGROUP_OOM_KILLS_TOTAL, "function" => function.clone())
            .increment(new.strain.oom_kills);
        for (resource, stalled) in ["cpu", "memory", "io"]
            .into_iter()
            .zip(new.strain.pressure_micros)
        {
            for (kind, micros) in ["some", "full"].into_iter().zip(stalled) {
                // This is told often, and of most there is none.
                if micros > 0 {
                    gauge!(names::CGROUP_PRESSURE_SECONDS_TOTAL, "function" => function.clone(), "resource" => resource, "kind" => kind)
                        .increment(seconds(micros));
                }
            }
        }
    }

    /// A function gets fewer instances than it asks for.
    pub(super) fn held(&self, function: &FunctionName, why: Held) {
        let reason = why.as_str();
        counter!(names::SCALE_HELD_TOTAL, "function" => function.to_string(), "reason" => reason)
            .increment(1);
        tracing::info!(%function, reason, "the host has no room for more instances of it; its requests wait");
    }

    /// Something that people are to be told.
    pub(super) fn news(&self, function: &FunctionName, news: News) {
        let name = function.to_string();
        match news {
            News::Ejected { instance, exit, why } => {
                let reason = exit.reason();
                counter!(names::EJECTIONS_TOTAL, "function" => name, "reason" => reason).increment(1);
                self.logs
                    .note(function, &format!("instance {instance} is replaced: {why}"));
                tracing::warn!(%function, %instance, reason, detail = why, "replaced: another is started, and this one ends once it \
                    is done with what it works on");
            }
            News::Excused { instance, why } => {
                counter!(names::HEALTH_REQUESTS_TOTAL, "function" => name, "result" => "excused")
                    .increment(1);
                tracing::info!(%function, %instance, reason = why, "it does not answer, and that is not held against it");
            }
            News::Restarts { wait } => {
                counter!(names::INSTANCE_RESTARTS_TOTAL, "function" => name.clone()).increment(1);
                histogram!(names::RESTART_BACKOFF_SECONDS, "function" => name).record(wait);
            }
            News::GaveUp {
                pause,
                reason,
                others_serve,
            } => {
                counter!(names::GAVE_UP_TOTAL, "function" => name).increment(1);
                let seconds = pause.as_secs_f64().ceil();
                if others_serve {
                    tracing::error!(%function, reason, seconds, "ALERT: those that run serve, but no more get ready: one is tried \
                        again after `seconds`");
                    return;
                }
                self.logs.note(
                    function,
                    &format!("it never gets ready ({reason}): requests are refused, next try in {seconds} s"),
                );
                tracing::error!(%function, reason, seconds, "ALERT: failed: its instances end before they are ready; requests are \
                    refused at once, and one is tried again after `seconds`");
            }
            News::Recovered => {
                self.logs.note(function, "it runs again");
                tracing::warn!(%function, "recovered: one got ready again");
            }
        }
    }

    /// A request is refused from now on.
    pub(crate) fn quarantined(&self, function: &FunctionName, quarantined: &Quarantined) {
        tell_quarantined(function.as_str(), quarantined);
        let Quarantined { what, request_id } = quarantined;
        self.logs.note(
            function,
            &format!("{what} is in quarantine: two instances died of it, the last of request {request_id}"),
        );
    }

    /// How many instances are in each state.
    pub(super) fn instances(&self, by_state: &BTreeMap<&'static str, usize>) {
        for state in [
            "standby", "starting", "ready", "frozen", "draining", "backoff", "failed",
        ] {
            let count = by_state.get(state).copied().unwrap_or(0);
            gauge!(names::INSTANCES, "state" => state).set(count as f64);
        }
    }
}

/// Counts and logs a request that is refused from now on; request paths see that sometimes before `control` does.
pub(crate) fn tell_quarantined(function: &str, quarantined: &Quarantined) {
    let Quarantined { what, request_id } = quarantined;
    counter!(names::QUARANTINES_TOTAL, "function" => function.to_owned()).increment(1);
    tracing::warn!(
        function,
        request_id,
        request = what,
        seconds = crate::admission::eject::Quarantine::WHILE.as_secs(),
        "in quarantine: two instances died of this request; its like is refused for `seconds`"
    );
}
