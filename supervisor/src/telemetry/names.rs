//! The names of all metrics, in one place, so that a dashboard can be checked against it. Never holds a value.

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
/// Gauge: when the supervisor started, in seconds since 1970.
pub const PROCESS_START: &str = "process_start_time_seconds";
/// Counter{function,kind}: starts of instances that were asked for.
pub const INSTANCE_STARTS: &str = "funcd_instance_starts_total";
/// Counter{function,reason}: ends of instances, by the closed list of reasons.
pub const INSTANCE_EXITS: &str = "funcd_instance_exits_total";
/// Gauge{state}: places of instances by state, over all functions.
pub const INSTANCES: &str = "funcd_instances";
/// Counter{result}: files of the folder that became a revision (`accepted`), or why they did not.
pub const RELOADS: &str = "funcd_reloads_total";
/// Gauge{function,kind}: memory of all instances of a function, in bytes.
pub const CGROUP_MEMORY: &str = "funcd_cgroup_memory_bytes";
/// Gauge{function}: processes and threads of all instances of a function.
pub const CGROUP_PIDS: &str = "funcd_cgroup_pids";
/// Counter{function,mode}: CPU time of all instances of a function, in seconds.
pub const CGROUP_CPU: &str = "funcd_cgroup_cpu_seconds_total";
/// Gauge, seconds since 1970: when the supervisor started.
pub const PROCESS_START_TIME_SECONDS: &str = "process_start_time_seconds";
