//! The names of all metrics, in one place, so that a dashboard can be checked against it. Never holds a value.

// Requests, as the ingress sees them.

/// Counter: requests answered, by `function`, `trigger` and `code` (the class of the status).
pub const INVOCATIONS_TOTAL: &str = "funcd_invocations_total";
/// Histogram, seconds: from a request's arrival to the end of its response body, by `function`.
pub const INVOCATION_DURATION_SECONDS: &str = "funcd_invocation_duration_seconds";
/// Counter: requests that failed for a reason of the platform or of the connection, by `function` and `reason`.
pub const INVOCATION_ERRORS_TOTAL: &str = "funcd_invocation_errors_total";
/// Gauge: requests between routing and the end of their response body, by `function`.
pub const INVOCATIONS_IN_FLIGHT: &str = "funcd_invocations_in_flight";
/// Histogram, seconds: from a request's arrival to its hand-over to an instance, by `function`.
pub const PROXY_OVERHEAD_SECONDS: &str = "funcd_proxy_overhead_seconds";
/// Counter, bytes of request bodies forwarded, by `function`.
pub const REQUEST_BYTES_TOTAL: &str = "funcd_request_bytes_total";
/// Counter: requests refused before a function was found for them, by `reason`.
pub const REQUESTS_REJECTED_TOTAL: &str = "funcd_requests_rejected_total";
/// Counter: connections and streams of callers that funcd ended for what the caller did or did not do, by `reason`.
pub const CONNECTIONS_ENDED_TOTAL: &str = "funcd_connections_ended_total";
/// Counter: requests that were sent again after an instance ended under them, by `function` and `result` (`sent`, `budget`: not
/// sent, for too many others were).
pub const REQUEST_RETRIES_TOTAL: &str = "funcd_request_retries_total";
/// Gauge: requests that wait for a permit, by `function`.
pub const QUEUE_DEPTH: &str = "funcd_queue_depth";
/// Histogram, seconds: how long requests waited for a permit that did not get one at once, by `function`.
pub const QUEUE_WAIT_SECONDS: &str = "funcd_queue_wait_seconds";
/// Gauge: how many requests may be in flight, by `function`.
pub const CONCURRENCY_LIMIT: &str = "funcd_concurrency_limit";
/// Gauge: the part of requests that the breaker refuses, by `function` and `state` (always `open`).
pub const BREAKER_STATE: &str = "funcd_breaker_state";
/// Counter: requests refused before any work was done, by `function`, `reason` and `class`.
pub const REQUESTS_SHED_TOTAL: &str = "funcd_requests_shed_total";
/// Counter, bytes of response bodies forwarded, by `function`.
pub const RESPONSE_BYTES_TOTAL: &str = "funcd_response_bytes_total";

// What functions call through their bindings.

/// Counter: calls of functions through HTTP bindings, by `function`, `binding` and `code` (the class of the status, or `gone`).
pub const BINDING_REQUESTS_TOTAL: &str = "funcd_binding_requests_total";
/// Histogram, seconds: from a call to the end of its answer, by `function` and `binding`.
pub const BINDING_DURATION_SECONDS: &str = "funcd_binding_duration_seconds";
/// Gauge: 0 while calls pass, 1 while none does, 0.5 while a few try, by `function` and `binding`.
pub const BINDING_BREAKER_STATE: &str = "funcd_binding_breaker_state";
/// Counter: calls that were sent again, by `function`, `binding` and `result` (`sent`, `budget`).
pub const BINDING_RETRIES_TOTAL: &str = "funcd_binding_retries_total";
/// Counter: connections of functions to their bindings, by `function`, `binding` and `result` (`connected`, or why not).
pub const BINDING_CONNECTIONS_TOTAL: &str = "funcd_binding_connections_total";
/// Gauge: those that are open, by `function` and `binding`.
pub const BINDING_CONNECTIONS: &str = "funcd_binding_connections";
/// Counter, bytes that bindings carried, by `function`, `binding` and `direction` (`out`, `in`).
pub const BINDING_BYTES_TOTAL: &str = "funcd_binding_bytes_total";

// Functions' logs.

/// Counter: lines of a function's output that were not kept (too many, or the disk is full), by `function`.
pub const LOG_LINES_DROPPED_TOTAL: &str = "funcd_log_lines_dropped_total";

// The host and the supervisor itself.

/// Gauge, always 1, by `version`.
pub const BUILD_INFO: &str = "funcd_build_info";
/// Gauge: 1 for the `state` (`kept` or `missing`) that a `property` of the sandbox is in on this host, else 0.
pub const SANDBOX_PROPERTY: &str = "funcd_sandbox_property";
/// Gauge: the Landlock ABI of this kernel; 0 without Landlock.
pub const LANDLOCK_ABI: &str = "funcd_landlock_abi";
/// Counter, seconds: CPU time of the supervisor.
pub const PROCESS_CPU_SECONDS_TOTAL: &str = "process_cpu_seconds_total";
/// Gauge, bytes: memory of the supervisor that is in RAM.
pub const PROCESS_RESIDENT_MEMORY_BYTES: &str = "process_resident_memory_bytes";
/// Gauge: open descriptors of the supervisor.
pub const PROCESS_OPEN_FDS: &str = "process_open_fds";
/// Gauge: how many descriptors the supervisor may have open.
pub const PROCESS_MAX_FDS: &str = "process_max_fds";
/// Gauge, seconds since 1970: when the supervisor started.
pub const PROCESS_START_TIME_SECONDS: &str = "process_start_time_seconds";

/// Gauge, 0 to 1: how much too little of something the host has, by `cause` (`cpu`, `memory-pressure`, `memory`, `descriptors`).
pub const HOST_OVERLOAD: &str = "funcd_host_overload";
/// Gauge, 0 to 100: requests with a score above this are refused; 100: none.
pub const BROWNOUT_THRESHOLD: &str = "funcd_brownout_threshold";
/// Counter: changes of what the host holds back, by the `stage` that began and its `cause`.
pub const BROWNOUT_CHANGES_TOTAL: &str = "funcd_brownout_changes_total";

// The functions folder.

/// Gauge: entries of the folder that are refused, by `kind` of reason.
pub const ENTRIES_REFUSED: &str = "funcd_entries_refused";
/// Counter: events of the functions folder that were lost, or could not be asked for, each followed by a full scan.
pub const WATCH_OVERFLOWS_TOTAL: &str = "funcd_watch_overflows_total";

// Functions and their instances.

/// Counter: starts of instances that were asked for, by `function` and `kind`.
pub const INSTANCE_STARTS_TOTAL: &str = "funcd_instance_starts_total";
/// Histogram, seconds: from asking for a start until the instance is ready, by `function` and `phase` (always `ready`).
pub const INSTANCE_START_DURATION_SECONDS: &str = "funcd_instance_start_duration_seconds";
/// Counter: ends of instances, by `function` and `reason` (the closed list of `Exit`).
pub const INSTANCE_EXITS_TOTAL: &str = "funcd_instance_exits_total";
/// Counter: instances that are started again after an end that nobody asked for, by `function`.
pub const INSTANCE_RESTARTS_TOTAL: &str = "funcd_instance_restarts_total";
/// Histogram, seconds: how long each of these is to wait, by `function`.
pub const RESTART_BACKOFF_SECONDS: &str = "funcd_restart_backoff_seconds";
/// Gauge: places of instances over all functions, by `state`.
pub const INSTANCES: &str = "funcd_instances";
/// Counter: instances that were replaced because of how they answered, by `function` and `reason` (`ejected`, `unresponsive`).
pub const EJECTIONS_TOTAL: &str = "funcd_ejections_total";
/// Counter: times that a function was not started any more for a while, by `function`.
pub const GAVE_UP_TOTAL: &str = "funcd_gave_up_total";
/// Counter: health requests to ready instances, by `function` and `result` (`answered`, `unanswered`); looks that found an
/// instance kept from answering are `excused`.
pub const HEALTH_REQUESTS_TOTAL: &str = "funcd_health_requests_total";
/// Counter: requests that came into quarantine because instances died of them, by `function`.
pub const QUARANTINES_TOTAL: &str = "funcd_quarantines_total";
/// Counter: times that a function began to get fewer instances than it asks for, by `function` and `reason` (`cpu`, `memory`, `brownout`).
pub const SCALE_HELD_TOTAL: &str = "funcd_scale_held_total";
/// Counter: files of the folder that became a revision (`accepted`), or the kind of reason why not, by `result`.
pub const RELOADS_TOTAL: &str = "funcd_reloads_total";
/// Gauge, bytes: memory of all instances of a function, by `function` and `kind`.
pub const CGROUP_MEMORY_BYTES: &str = "funcd_cgroup_memory_bytes";
/// Gauge: processes and threads of all instances of a function, by `function`.
pub const CGROUP_PIDS: &str = "funcd_cgroup_pids";
/// Counter, seconds: CPU time of all instances of a function, by `function` and `mode`.
pub const CGROUP_CPU_SECONDS_TOTAL: &str = "funcd_cgroup_cpu_seconds_total";
/// Counter, seconds: how long the CPU limit held instances back, by `function`.
pub const CGROUP_CPU_THROTTLED_SECONDS_TOTAL: &str = "funcd_cgroup_cpu_throttled_seconds_total";
/// Counter: processes of instances that the kernel killed for memory, by `function`.
pub const CGROUP_OOM_KILLS_TOTAL: &str = "funcd_cgroup_oom_kills_total";
/// Counter, seconds: how long threads of instances waited for a `resource` (`cpu`, `memory`, `io`), by `function` and `kind` (`some`
/// of them, `full`: all).
pub const CGROUP_PRESSURE_SECONDS_TOTAL: &str = "funcd_cgroup_pressure_seconds_total";
/// Gauge, always 1: what a `function` serves, by `revision` and `digest` (the SHA-256 of its executable).
pub const REVISION_INFO: &str = "funcd_revision_info";

/// What a metric is, as Prometheus counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Only goes up, by fractions; the recorder holds it as a gauge, because its counters are whole.
    FractionalCounter,
    /// Goes up and down.
    Gauge,
    /// Counted by size.
    Histogram,
}

/// Every metric: its name, what it is, and the line of help that goes with it.
pub const ALL: [(&str, Kind, &str); 55] = [
    (
        INVOCATIONS_TOTAL,
        Kind::Counter,
        "Requests answered, by the class of their status",
    ),
    (
        INVOCATION_DURATION_SECONDS,
        Kind::Histogram,
        "From a request's arrival to the end of its response body",
    ),
    (
        INVOCATION_ERRORS_TOTAL,
        Kind::Counter,
        "Requests that failed, and not because the function said so",
    ),
    (
        INVOCATIONS_IN_FLIGHT,
        Kind::Gauge,
        "Requests between routing and the end of their response body",
    ),
    (
        PROXY_OVERHEAD_SECONDS,
        Kind::Histogram,
        "From a request's arrival to its hand-over to an instance",
    ),
    (
        REQUEST_BYTES_TOTAL,
        Kind::Counter,
        "Bytes of request bodies forwarded",
    ),
    (
        RESPONSE_BYTES_TOTAL,
        Kind::Counter,
        "Bytes of response bodies forwarded",
    ),
    (
        REQUESTS_REJECTED_TOTAL,
        Kind::Counter,
        "Requests refused before a function was found for them",
    ),
    (
        CONNECTIONS_ENDED_TOTAL,
        Kind::Counter,
        "Connections and streams of callers that the host ended",
    ),
    (
        REQUESTS_SHED_TOTAL,
        Kind::Counter,
        "Requests refused before any work was done",
    ),
    (
        REQUEST_RETRIES_TOTAL,
        Kind::Counter,
        "Requests sent again after an instance ended under them, or not for want of budget",
    ),
    (QUEUE_DEPTH, Kind::Gauge, "Requests that wait for a permit"),
    (
        QUEUE_WAIT_SECONDS,
        Kind::Histogram,
        "How long requests waited that got no permit at once",
    ),
    (
        CONCURRENCY_LIMIT,
        Kind::Gauge,
        "How many requests of a function may be in flight",
    ),
    (
        BREAKER_STATE,
        Kind::Gauge,
        "The part of a function's requests that the breaker refuses",
    ),
    (
        LOG_LINES_DROPPED_TOTAL,
        Kind::Counter,
        "Lines of a function's output that were not kept",
    ),
    (
        SCALE_HELD_TOTAL,
        Kind::Counter,
        "Times that the host began to have no room for more instances of a function",
    ),
    (
        INSTANCES,
        Kind::Gauge,
        "Places of instances over all functions, by state",
    ),
    (
        INSTANCE_STARTS_TOTAL,
        Kind::Counter,
        "Starts of instances that were asked for",
    ),
    (
        INSTANCE_START_DURATION_SECONDS,
        Kind::Histogram,
        "From asking for a start until the instance is ready",
    ),
    (
        INSTANCE_EXITS_TOTAL,
        Kind::Counter,
        "Ends of instances, by reason",
    ),
    (
        INSTANCE_RESTARTS_TOTAL,
        Kind::Counter,
        "Instances that are started again after an end that nobody asked for",
    ),
    (
        RESTART_BACKOFF_SECONDS,
        Kind::Histogram,
        "How long an instance that is started again is to wait",
    ),
    (
        EJECTIONS_TOTAL,
        Kind::Counter,
        "Instances replaced because of how they answered",
    ),
    (
        HEALTH_REQUESTS_TOTAL,
        Kind::Counter,
        "Health requests to ready instances, by what came of them",
    ),
    (
        GAVE_UP_TOTAL,
        Kind::Counter,
        "Times that a function was not started any more for a while",
    ),
    (
        QUARANTINES_TOTAL,
        Kind::Counter,
        "Requests that are refused because instances died of them",
    ),
    (
        CGROUP_CPU_SECONDS_TOTAL,
        Kind::FractionalCounter,
        "CPU time of a function's instances",
    ),
    (
        CGROUP_CPU_THROTTLED_SECONDS_TOTAL,
        Kind::FractionalCounter,
        "How long the CPU limit held a function's instances back",
    ),
    (
        CGROUP_OOM_KILLS_TOTAL,
        Kind::Counter,
        "Processes of a function that the kernel killed for memory",
    ),
    (
        CGROUP_PRESSURE_SECONDS_TOTAL,
        Kind::FractionalCounter,
        "How long a function's threads waited for a resource",
    ),
    (
        REVISION_INFO,
        Kind::Gauge,
        "Always 1; the labels say what a function serves",
    ),
    (
        CGROUP_MEMORY_BYTES,
        Kind::Gauge,
        "Memory of a function's instances",
    ),
    (
        CGROUP_PIDS,
        Kind::Gauge,
        "Processes and threads of a function's instances",
    ),
    (
        ENTRIES_REFUSED,
        Kind::Gauge,
        "Entries of the functions folder that are refused, by kind",
    ),
    (
        RELOADS_TOTAL,
        Kind::Counter,
        "New files that became a revision, or the kind of reason why not",
    ),
    (
        WATCH_OVERFLOWS_TOTAL,
        Kind::Counter,
        "Times that changes of the folder were lost and all of it was looked at",
    ),
    (
        SANDBOX_PROPERTY,
        Kind::Gauge,
        "1 for the state that the property is in on this host",
    ),
    (
        LANDLOCK_ABI,
        Kind::Gauge,
        "The Landlock ABI of this kernel, 0 without",
    ),
    (
        HOST_OVERLOAD,
        Kind::Gauge,
        "How much too little of something the host has, by cause",
    ),
    (
        BROWNOUT_THRESHOLD,
        Kind::Gauge,
        "Requests with a score above this are refused; 100: none",
    ),
    (
        BROWNOUT_CHANGES_TOTAL,
        Kind::Counter,
        "Changes of what the host holds back, by stage and cause",
    ),
    (
        BINDING_REQUESTS_TOTAL,
        Kind::Counter,
        "Calls of functions through HTTP bindings, by class of status",
    ),
    (
        BINDING_DURATION_SECONDS,
        Kind::Histogram,
        "From a call through a binding to the end of its answer",
    ),
    (
        BINDING_BREAKER_STATE,
        Kind::Gauge,
        "0 while calls through a binding pass, 1 while none does, 0.5 while a few try",
    ),
    (
        BINDING_RETRIES_TOTAL,
        Kind::Counter,
        "Calls through a binding that were sent again, or for want of budget were not",
    ),
    (BUILD_INFO, Kind::Gauge, "Always 1; the labels say what runs"),
    (
        PROCESS_CPU_SECONDS_TOTAL,
        Kind::FractionalCounter,
        "CPU time of the supervisor",
    ),
    (
        BINDING_CONNECTIONS_TOTAL,
        Kind::Counter,
        "Connections of functions to their bindings, by what came of them",
    ),
    (
        BINDING_CONNECTIONS,
        Kind::Gauge,
        "Connections of functions to their bindings that are open",
    ),
    (BINDING_BYTES_TOTAL, Kind::Counter, "Bytes that bindings carried"),
    (
        PROCESS_RESIDENT_MEMORY_BYTES,
        Kind::Gauge,
        "Memory of the supervisor that is in RAM",
    ),
    (
        PROCESS_OPEN_FDS,
        Kind::Gauge,
        "Open descriptors of the supervisor",
    ),
    (
        PROCESS_MAX_FDS,
        Kind::Gauge,
        "Descriptors that the supervisor may have open",
    ),
    (
        PROCESS_START_TIME_SECONDS,
        Kind::Gauge,
        "When the supervisor started, since 1970",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_listed_and_documented() {
        let manual = include_str!("../../../docs/operations.md");
        for (name, _, _) in ALL {
            assert!(
                manual.contains(&format!("`{name}")),
                "{name} is not in docs/operations.md"
            );
        }
        let constants = include_str!("names.rs").matches(": &str = \"").count();
        // This test has the pattern too, escaped, and so does not count itself.
        assert_eq!(constants, ALL.len(), "a constant is not in ALL");
    }
}
