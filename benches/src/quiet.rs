//! Was the machine quiet enough to judge? Compares what the CPUs did with what this measurement's own processes did.

use std::fs;
use std::time::Instant;

use crate::process;
use crate::procfs::{self, Stat};

/// Ticks in a second, of every Linux on which this runs (`USER_HZ`, time(7)).
const TICKS: f64 = 100.0;

/// Watches the machine from its creation on.
#[derive(Debug)]
pub(crate) struct Watch {
    since: Instant,
    machine: u64,
    own: u64,
    cores: usize,
}

impl Watch {
    /// Starts to watch.
    pub(crate) fn start() -> Watch {
        let (machine, own) = now();
        Watch {
            since: Instant::now(),
            machine,
            own,
            // Asked now: measuring may pin this process to one of them.
            cores: cores(),
        }
    }

    /// What others did meanwhile.
    pub(crate) fn finish(self) -> OtherLoad {
        let (machine, own) = now();
        let seconds = self.since.elapsed().as_secs_f64();
        let others = other_ticks(machine.saturating_sub(self.machine), own.saturating_sub(self.own));
        OtherLoad {
            cores: others / TICKS / seconds,
            of: self.cores,
        }
    }
}

/// How many cores others kept busy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OtherLoad {
    /// On average.
    pub(crate) cores: f64,
    /// Cores of the machine.
    pub(crate) of: usize,
}

impl OtherLoad {
    /// Others used more than half of the cores: times say nothing.
    pub(crate) fn is_loud(&self) -> bool {
        self.cores > self.of as f64 / 2.0
    }
}

/// The cores of the machine.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn other_ticks(machine: u64, own: u64) -> f64 {
    // Ticks are sampled, so own can come out above machine on an otherwise idle machine.
    machine.saturating_sub(own) as f64
}

/// Ticks of the machine, and of this process with everything below it.
fn now() -> (u64, u64) {
    let machine = fs::read_to_string("/proc/stat").unwrap_or_default();
    let table = process::table();
    (
        procfs::busy_ticks(&machine).unwrap_or(0),
        tree_ticks(std::process::id() as i32, &table),
    )
}

fn tree_ticks(root: i32, table: &[Stat]) -> u64 {
    let tree = procfs::tree(root, table);
    let ours = table.iter().filter(|process| tree.contains(&process.pid));
    ours.map(|process| process.ticks).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_cores_is_still_quiet() {
        let load = |cores| OtherLoad { cores, of: 2 };
        assert!(!load(1.0).is_loud());
        assert!(load(1.1).is_loud());
    }

    #[test]
    fn sampling_never_makes_the_others_negative() {
        assert_eq!(other_ticks(5, 9), 0.0);
        assert_eq!(other_ticks(9, 5), 4.0);
    }

    #[test]
    fn own_ticks_are_those_of_the_whole_tree() {
        let process = |pid, parent, ticks| Stat { pid, parent, ticks };
        let table = [
            process(1, 0, 1000),
            process(2, 1, 30),
            process(3, 2, 4),
            process(9, 1, 500),
        ];
        assert_eq!(tree_ticks(2, &table), 34);
    }
}
