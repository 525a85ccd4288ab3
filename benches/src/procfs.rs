//! What the kernel tells about processes, as text: parsers only. Never opens a file; see `process.rs`.

/// A line of the process table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// The process.
    pub(crate) pid: i32,
    /// Its parent.
    pub(crate) parent: i32,
    /// CPU of itself and of the children that it reaped, in ticks.
    pub(crate) ticks: u64,
}

/// `/proc/PID/stat`. The name in parentheses may hold spaces and parentheses itself, so the last one counts.
pub(crate) fn stat(text: &str) -> Option<Stat> {
    let (head, tail) = text.split_at(text.rfind(')')?);
    let pid = head.split_once(' ')?.0.parse().ok()?;
    let fields: Vec<&str> = tail.get(2..)?.split_ascii_whitespace().collect();
    // proc_pid_stat(5): state is field 3 and the first here; utime, stime, cutime, cstime are fields 14 to 17.
    let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        ticks: ticks(14)? + ticks(15)? + ticks(16)? + ticks(17)?,
    })
}

/// The first field of `/proc/PID/task/TID/schedstat`: time on a CPU, in nanoseconds.
pub(crate) fn schedstat(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// A number after `key:`, as in `status` (`VmRSS:   123 kB`) and `smaps_rollup` (`Pss: 123 kB`).
pub(crate) fn field(text: &str, key: &str) -> Option<u64> {
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

/// The ticks in which the machine's CPUs ran processes, or were kept from it by the hypervisor: user, nice, system
/// and steal of `/proc/stat`. Interrupts are left out, as they are charged to no process.
pub(crate) fn busy_ticks(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("cpu "))?;
    let ticks: Vec<u64> = line
        .split_ascii_whitespace()
        .skip(1)
        .map_while(|field| field.parse().ok())
        .collect();
    Some(ticks.get(..3)?.iter().sum::<u64>() + ticks.get(7)?)
}

/// The CPU's name, of `/proc/cpuinfo`.
pub(crate) fn cpu_model(text: &str) -> Option<&str> {
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim())
}

/// `root` and everything below it.
pub(crate) fn tree(root: i32, table: &[Stat]) -> Vec<i32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        let children = table.iter().filter(|process| process.parent == parent);
        found.extend(children.map(|process| process.pid));
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let text = "42 (a) S 1 (x) S 7 42 42 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 99 1 2\n";
        assert_eq!(
            stat(text),
            Some(Stat {
                pid: 42,
                parent: 7,
                ticks: 127
            })
        );
    }

    #[test]
    fn a_cut_line_is_none() {
        assert_eq!(stat("42 (a) S 7"), None);
        assert_eq!(stat(""), None);
    }

    #[test]
    fn schedstat_begins_with_the_time_on_a_cpu() {
        assert_eq!(schedstat("529170 116029 2\n"), Some(529_170));
        assert_eq!(schedstat(""), None);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = "VmRSSx:\t1 kB\nVmRSS:\t  2048 kB\nvoluntary_ctxt_switches:\t17\nnonvoluntary_ctxt_switches:\t3\n";
        assert_eq!(field(status, "VmRSS"), Some(2048));
        assert_eq!(field(status, "voluntary_ctxt_switches"), Some(17));
        assert_eq!(field(status, "Pss"), None);
    }

    #[test]
    fn busy_is_user_nice_system_and_steal() {
        let text = "cpu  100 10 1 5000 60 7 8 1000 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy_ticks(text), Some(1111));
    }

    #[test]
    fn the_cpu_has_a_name() {
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: A CPU\n"), Some("A CPU"));
    }

    #[test]
    fn a_tree_holds_children_of_children_and_nobody_else() {
        let process = |pid, parent| Stat {
            pid,
            parent,
            ticks: 0,
        };
        let table = [
            process(1, 0),
            process(30, 20),
            process(20, 10),
            process(10, 1),
            process(11, 1),
        ];
        assert_eq!(tree(10, &table), [10, 20, 30]);
    }
}
