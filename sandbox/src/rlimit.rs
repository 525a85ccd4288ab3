//! The resource limits of an instance. Never sets one: the child does.

use crate::spec::Limits;

/// The limits of one instance as `(RLIMIT_*, value)`, for [`crate::confine::Confinement::rlimits`].
pub fn limits(limits: &Limits) -> Vec<(u32, u64)> {
    vec![
        // 1, not 0: with 0 the kernel still starts a pipe handler of core_pattern, with 1 it does nothing (core(5)).
        (libc::RLIMIT_CORE, 1),
        (libc::RLIMIT_NOFILE, u64::from(limits.files)),
        // The cgroup counts exactly; this one holds where there is none.
        (libc::RLIMIT_NPROC, 256),
        (libc::RLIMIT_MEMLOCK, 64 * 1024),
        (libc::RLIMIT_MSGQUEUE, 0),
        (libc::RLIMIT_FSIZE, limits.tmp_bytes),
        // Desktops let their users take real-time priorities, before which everything else would wait.
        (libc::RLIMIT_RTPRIO, 0),
        (libc::RLIMIT_NICE, 0),
    ]
}

/// The name of a resource in [`limits`].
pub fn name(resource: u32) -> &'static str {
    match resource {
        libc::RLIMIT_CORE => "RLIMIT_CORE",
        libc::RLIMIT_NOFILE => "RLIMIT_NOFILE",
        libc::RLIMIT_NPROC => "RLIMIT_NPROC",
        libc::RLIMIT_MEMLOCK => "RLIMIT_MEMLOCK",
        libc::RLIMIT_MSGQUEUE => "RLIMIT_MSGQUEUE",
        libc::RLIMIT_FSIZE => "RLIMIT_FSIZE",
        libc::RLIMIT_RTPRIO => "RLIMIT_RTPRIO",
        libc::RLIMIT_NICE => "RLIMIT_NICE",
        _ => "another",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hosts where these are not 0 anyway are desktops, so no story would notice.
    #[test]
    fn no_real_time_priority_is_left() {
        let limits = limits(&Limits {
            memory_bytes: 0,
            cpu_millis: 0,
            pids: 0,
            tmp_bytes: 0,
            files: 0,
        });
        assert!(limits.contains(&(libc::RLIMIT_RTPRIO, 0)) && limits.contains(&(libc::RLIMIT_NICE, 0)));
    }
}
