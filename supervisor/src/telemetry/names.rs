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
/// Counter: requests refused before any work was done, by `function`, `reason` and `class`.
pub const REQUESTS_SHED_TOTAL: &str = "funcd_requests_shed_total";
/// Counter, bytes of response bodies forwarded, by `function`.
pub const RESPONSE_BYTES_TOTAL: &str = "funcd_response_bytes_total";

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

// Functions and their instances.

/// Counter: starts of instances that were asked for, by `function` and `kind`.
pub const INSTANCE_STARTS_TOTAL: &str = "funcd_instance_starts_total";
/// Counter: ends of instances, by `function` and `reason` (the closed list of `Exit`).
pub const INSTANCE_EXITS_TOTAL: &str = "funcd_instance_exits_total";
/// Gauge: places of instances over all functions, by `state`.
pub const INSTANCES: &str = "funcd_instances";
/// Counter: files of the folder that became a revision (`accepted`), or the kind of reason why not, by `result`.
pub const RELOADS_TOTAL: &str = "funcd_reloads_total";
/// Gauge, bytes: memory of all instances of a function, by `function` and `kind`.
pub const CGROUP_MEMORY_BYTES: &str = "funcd_cgroup_memory_bytes";
/// Gauge: processes and threads of all instances of a function, by `function`.
pub const CGROUP_PIDS: &str = "funcd_cgroup_pids";
/// Counter, seconds: CPU time of all instances of a function, by `function` and `mode`.
pub const CGROUP_CPU_SECONDS_TOTAL: &str = "funcd_cgroup_cpu_seconds_total";
