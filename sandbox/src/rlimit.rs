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
    ]
}
