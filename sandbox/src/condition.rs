//! What keeps a running instance from answering for no fault of its own: a debugger, a signal, its CPU limit. Only looks.

use std::fs;

use crate::cgroup::Leaf;
use crate::wire::Condition;

/// Looks at the instance whose main process is `pid`, as the host sees it. What can't be read is taken for well.
pub(crate) fn of(pid: i32, leaf: &Leaf) -> Condition {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let (is_stopped, is_traced) = parse(&status);
    Condition {
        is_stopped,
        is_traced,
        throttled: leaf.throttled(),
        cpu_micros: leaf.usage().cpu_micros,
    }
}

/// Whether it is stopped, and whether somebody traces it (proc_pid_status(5)).
fn parse(status: &str) -> (bool, bool) {
    let field = |key: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(key))?;
        value.split_whitespace().next()
    };
    let is_stopped = matches!(field("State:"), Some("T" | "t"));
    let is_traced = field("TracerPid:").is_some_and(|pid| pid != "0");
    (is_stopped, is_traced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let status = |state: &str, tracer: u32| {
            format!(
                "Name:\tT (stopped)\nUmask:\t0022\nState:\t{state}\nTgid:\t7\nPid:\t7\nTracerPid:\t{tracer}\n"
            )
        };
        assert_eq!(parse(&status("S (sleeping)", 0)), (false, false));
        assert_eq!(parse(&status("T (stopped)", 0)), (true, false));
        assert_eq!(parse(&status("t (tracing stop)", 42)), (true, true));
        assert_eq!(parse(&status("R (running)", 42)), (false, true));
        assert_eq!(parse(""), (false, false), "one that is gone is nobody's prisoner");
    }
}
