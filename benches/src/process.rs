//! Reads what processes cost and hold, of `/proc`. Never changes a process.

use std::fs;

use crate::failure::{During, Failure, Outcome};
use crate::procfs::{self, Stat};

/// What processes have used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Time on a CPU, in nanoseconds.
    pub(crate) cpu_nanos: u64,
    /// How often a thread gave up its CPU to wait.
    pub(crate) voluntary_switches: u64,
}

impl Cost {
    /// What all threads of these processes have used. A thread that ends takes its share along, so this suits
    /// processes that keep their threads.
    ///
    /// # Errors
    /// A process that is gone.
    pub(crate) fn of(pids: &[i32]) -> Outcome<Cost> {
        let mut cost = Cost::default();
        for pid in pids {
            let tasks = format!("/proc/{pid}/task");
            for task in fs::read_dir(&tasks).during(format!("listing {tasks}"))? {
                let task = task.during(format!("listing {tasks}"))?.path();
                let read = |name| fs::read_to_string(task.join(name)).unwrap_or_default();
                cost.cpu_nanos += procfs::schedstat(&read("schedstat")).unwrap_or(0);
                cost.voluntary_switches +=
                    procfs::field(&read("status"), "voluntary_ctxt_switches").unwrap_or(0);
            }
        }
        Ok(cost)
    }

    /// What was used since `earlier`.
    pub(crate) fn since(self, earlier: Cost) -> Cost {
        Cost {
            cpu_nanos: self.cpu_nanos.saturating_sub(earlier.cpu_nanos),
            voluntary_switches: self.voluntary_switches.saturating_sub(earlier.voluntary_switches),
        }
    }
}

/// What a process holds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// All resident pages.
    pub(crate) rss: u64,
    /// Resident pages, each shared one divided by its users; `None` where the reader lacks the permission.
    pub(crate) pss: Option<u64>,
}

impl Memory {
    /// What this process holds now.
    ///
    /// # Errors
    /// A process that is gone.
    pub(crate) fn of(pid: i32) -> Outcome<Memory> {
        // smaps_rollup counts exactly but needs the right to trace; status is a few pages off and always readable.
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        if let (Some(rss), Some(pss)) = (procfs::field(&rollup, "Rss"), procfs::field(&rollup, "Pss")) {
            return Ok(Memory {
                rss: rss * 1024,
                pss: Some(pss * 1024),
            });
        }
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).during(format!("reading {path}"))?;
        let rss = procfs::field(&status, "VmRSS").ok_or_else(|| Failure(format!("{path} has no VmRSS")))?;
        Ok(Memory {
            rss: rss * 1024,
            pss: None,
        })
    }
}

/// Every process of the machine.
pub(crate) fn table() -> Vec<Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit());
    // A process that ended meanwhile has no stat any more and is no longer of interest.
    pids.filter_map(|entry| procfs::stat(&fs::read_to_string(entry.path().join("stat")).ok()?))
        .collect()
}

/// The words of a command line; empty for a process that is gone.
pub(crate) fn command(pid: i32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_pid() -> i32 {
        std::process::id() as i32
    }

    #[test]
    fn this_process_is_in_the_table() {
        assert!(table().iter().any(|process| process.pid == own_pid()));
    }

    #[test]
    fn this_process_has_used_a_cpu_and_holds_memory() {
        assert!(Cost::of(&[own_pid()]).unwrap().cpu_nanos > 0);
        let memory = Memory::of(own_pid()).unwrap();
        assert!(memory.rss > 0 && memory.pss.is_none_or(|pss| pss <= memory.rss));
    }

    #[test]
    fn a_process_that_is_gone_is_named() {
        let failure = Cost::of(&[i32::MAX]).unwrap_err();
        assert!(failure.0.contains("/proc/2147483647/task"), "{failure}");
    }
}
