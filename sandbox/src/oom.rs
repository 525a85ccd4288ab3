//! Whom the kernel kills first when the whole host is out of memory: functions, never the launcher or the supervisor before
//! them. Says nothing about a function's own limit: its cgroup's killer looks at nobody else.

use std::ffi::CStr;
use std::sync::OnceLock;

use crate::sys::calls;

/// Of the process that opens it.
const FILE: &CStr = c"/proc/self/oom_score_adj";
/// How much more of the host's memory (in thousandths) a function counts as using than the launcher does.
const AHEAD: i32 = 500;
/// OOM_SCORE_ADJ_MAX (linux/oom.h).
const MOST: i32 = 1000;

/// What functions get, as the file wants it: more than this process has, and more than an ordinary process.
pub(crate) fn of_functions() -> &'static [u8] {
    static TEXT: OnceLock<String> = OnceLock::new();
    let make = || {
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok();
        above(own.and_then(|own| own.trim().parse().ok()).unwrap_or(0)).to_string()
    };
    TEXT.get_or_init(make).as_bytes()
}

fn above(own: i32) -> i32 {
    own.max(0).saturating_add(AHEAD).min(MOST)
}

/// In the child, which keeps what it has where /proc does not let it write: that is no property that was promised.
pub(crate) fn go_first(score: &[u8]) {
    let _ = calls::write_file(FILE, score);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_go_before_the_launcher_and_before_ordinary_processes() {
        for (own, expected) in [(0, 500), (-900, 500), (200, 700), (1000, 1000)] {
            assert_eq!(above(own), expected);
        }
    }
}
