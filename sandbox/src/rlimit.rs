//! The resource limits of an instance. Never sets one: the child does.

use crate::spec::Limits;

/// `RLIMIT_*` as one type: glibc has them as `u32`, musl as `i32`.
macro_rules! resources {
    ($($name:ident = $number:ident),* $(,)?) => {$(
        #[allow(clippy::unnecessary_cast, reason = "glibc and musl differ in the type")]
        pub(crate) const $name: u32 = libc::$number as u32;
    )*};
}

resources! {
    CORE = RLIMIT_CORE,
    NOFILE = RLIMIT_NOFILE,
    NPROC = RLIMIT_NPROC,
    MEMLOCK = RLIMIT_MEMLOCK,
    MSGQUEUE = RLIMIT_MSGQUEUE,
    FSIZE = RLIMIT_FSIZE,
    RTPRIO = RLIMIT_RTPRIO,
    NICE = RLIMIT_NICE,
}

/// The limits of one instance as `(RLIMIT_*, value)`, for [`crate::confine::Confinement::rlimits`].
pub fn limits(limits: &Limits) -> Vec<(u32, u64)> {
    vec![
        // 1, not 0: with 0 the kernel still starts a pipe handler of core_pattern, with 1 it does nothing (core(5)).
        (CORE, 1),
        (NOFILE, u64::from(limits.files)),
        // The cgroup counts exactly; this one holds where there is none.
        (NPROC, 256),
        (MEMLOCK, 64 * 1024),
        (MSGQUEUE, 0),
        (FSIZE, limits.tmp_bytes),
        // Desktops let their users take real-time priorities, before which everything else would wait.
        (RTPRIO, 0),
        (NICE, 0),
    ]
}

/// The name of a resource in [`limits`].
pub fn name(resource: u32) -> &'static str {
    match resource {
        CORE => "RLIMIT_CORE",
        NOFILE => "RLIMIT_NOFILE",
        NPROC => "RLIMIT_NPROC",
        MEMLOCK => "RLIMIT_MEMLOCK",
        MSGQUEUE => "RLIMIT_MSGQUEUE",
        FSIZE => "RLIMIT_FSIZE",
        RTPRIO => "RLIMIT_RTPRIO",
        NICE => "RLIMIT_NICE",
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
            cpu_idle: false,
            pids: 0,
            tmp_bytes: 0,
            files: 0,
        });
        assert!(limits.contains(&(RTPRIO, 0)) && limits.contains(&(NICE, 0)));
    }
}
