//! What a leaf uses, read by cgroups-rs from directories that we made. Never on the start path.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use cgroups_rs::cpu::CpuController;
use cgroups_rs::cpuacct::CpuAcctController;
use cgroups_rs::memory::MemController;
use cgroups_rs::pid::PidController;
use cgroups_rs::{Cgroup, Hierarchy, Subsystem};

use super::{Controller, Dirs, Leaf, keyed};
use crate::wire::{Strain, Usage};

/// The directories of our leaves as cgroups-rs sees a hierarchy: each controller where we have it, so that hybrid
/// machines read right.
#[derive(Debug, Clone)]
struct Leaves {
    memory: Option<(PathBuf, bool)>,
    pids: Option<(PathBuf, bool)>,
    cpu: Option<PathBuf>,
    cpuacct: Option<PathBuf>,
    root: PathBuf,
}

impl Leaves {
    fn new(dirs: &Rc<Dirs>) -> Leaves {
        let place = |controller| {
            let v2 = dirs.v2(controller).map(|v2| (v2.leaves(), true));
            v2.or_else(|| dirs.v1(controller).map(|v1| (v1.leaves(), false)))
        };
        let v2_root = dirs.v2.as_ref().map(|v2| v2.mount.clone());
        Leaves {
            memory: place(Controller::Memory),
            pids: place(Controller::Pids),
            cpu: dirs.v2(Controller::Cpu).map(|v2| v2.leaves()),
            cpuacct: dirs.v1(Controller::Cpuacct).map(|v1| v1.leaves()),
            root: v2_root
                .or_else(|| dirs.v1.first().map(|v1| v1.mount.clone()))
                .unwrap_or_default(),
        }
    }
}

impl Hierarchy for Leaves {
    fn subsystems(&self) -> Vec<Subsystem> {
        let mut all = Vec::new();
        if let Some((dir, v2)) = &self.memory {
            all.push(Subsystem::Mem(MemController::new(dir.clone(), *v2)));
        }
        if let Some((dir, v2)) = &self.pids {
            all.push(Subsystem::Pid(PidController::new(dir.clone(), *v2)));
        }
        if let Some(dir) = &self.cpu {
            all.push(Subsystem::Cpu(CpuController::new(dir.clone(), true)));
        }
        if let Some(dir) = &self.cpuacct {
            all.push(Subsystem::CpuAcct(CpuAcctController::new(dir.clone())));
        }
        all
    }

    fn root(&self) -> PathBuf {
        self.root.clone()
    }

    fn root_control_group(&self) -> Cgroup {
        Cgroup::load(Box::new(self.clone()), "")
    }

    fn parent_control_group(&self, path: &str) -> Cgroup {
        let parent = Path::new(path).parent().unwrap_or(Path::new(""));
        Cgroup::load(Box::new(self.clone()), parent)
    }

    fn v2(&self) -> bool {
        self.cpu.is_some()
    }
}

impl Leaf {
    /// What its processes use now, together.
    pub(crate) fn usage(&self) -> Usage {
        let leaves = Leaves::new(&self.dirs);
        let cpu_v2 = leaves.cpu.clone();
        let group = Cgroup::load(Box::new(leaves), &self.name);
        let memory = group.controller_of::<MemController>();
        let pids = group.controller_of::<PidController>();
        let cpuacct = group.controller_of::<CpuAcctController>();
        Usage {
            memory_bytes: memory.map_or(0, |memory| memory.memory_stat().usage_in_bytes),
            pids: pids.and_then(|pids| pids.get_pid_current().ok()).unwrap_or(0),
            cpu_micros: match (cpuacct, cpu_v2) {
                (Some(cpuacct), _) => cpuacct.cpuacct().usage / 1000,
                (None, Some(dir)) => keyed(&dir.join(&self.name).join("cpu.stat"), "usage_usec").unwrap_or(0),
                (None, None) => 0,
            },
            strain: Strain::default(),
        }
    }

    /// What its processes were short of, together.
    pub(crate) fn strain(&self) -> Strain {
        let cpu = |controller| {
            let v2 = self
                .v2_dir_of(controller)
                .map(|dir| keyed(&dir.join("cpu.stat"), "throttled_usec"));
            let v1 = |dir: PathBuf| keyed(&dir.join("cpu.stat"), "throttled_time").map(|nanos| nanos / 1000);
            v2.or_else(|| self.v1_dir_of(controller).map(v1)).flatten()
        };
        let pressure = |resource: &str| {
            let v2 = self.dirs.v2.as_ref()?;
            let file = v2.leaves().join(&self.name).join(format!("{resource}.pressure"));
            Some(stalled(&fs::read_to_string(file).ok()?))
        };
        Strain {
            throttled_micros: cpu(Controller::Cpu).unwrap_or(0),
            oom_kills: self.oom_kills(),
            pressure_micros: ["cpu", "memory", "io"].map(|resource| pressure(resource).unwrap_or_default()),
        }
    }
}

/// The totals of a pressure file: of `some` and of `full`.
fn stalled(text: &str) -> [u64; 2] {
    ["some ", "full "].map(|kind| {
        let line = text.lines().find(|line| line.starts_with(kind));
        line.and_then(|line| line.split_once("total=")?.1.trim().parse().ok())
            .unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_totals_of_a_pressure_file() {
        let text = "some avg10=0.00 avg60=0.12 avg300=0.00 total=4711\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=42\n";
        assert_eq!(stalled(text), [4711, 42]);
        // The CPU of the whole host has no line for all.
        assert_eq!(stalled("some avg10=0.00 total=1\n"), [1, 0]);
        assert_eq!(stalled("garbage"), [0, 0]);
    }
}
