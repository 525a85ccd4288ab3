//! The names of all metrics, in one place. Label `function` only where it says so; never paths, ids or pids.

/// Counter{function}: lines of a function's output that were not kept: too many, or the disk is full.
pub const LOG_LINES_DROPPED: &str = "funcd_log_lines_dropped_total";
/// Gauge{version}: always 1.
pub const BUILD_INFO: &str = "funcd_build_info";
/// Gauge{property,state}: 1 for the state that the property is in on this host, `kept` or `missing`; else 0.
pub const SANDBOX_PROPERTY: &str = "funcd_sandbox_property";
/// Gauge: the Landlock ABI of this kernel; 0 without Landlock.
pub const LANDLOCK_ABI: &str = "funcd_landlock_abi";
/// Counter: CPU time of the supervisor, in seconds.
pub const PROCESS_CPU: &str = "process_cpu_seconds_total";
/// Gauge: memory of the supervisor that is in RAM, in bytes.
pub const PROCESS_RESIDENT: &str = "process_resident_memory_bytes";
/// Gauge: open descriptors of the supervisor.
pub const PROCESS_FDS: &str = "process_open_fds";
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
