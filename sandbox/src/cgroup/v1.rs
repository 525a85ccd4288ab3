//! Our subtree in a v1 hierarchy: limits where v2 has no controllers, and the freezer where v2 can't kill.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::discover::FoundV1;
use super::{Controller, clear, make_dir, v2, write};

/// Of the supervisor and the launcher: ten times the weight that everything has by default.
const SUPERVISOR_SHARES: &str = "10240";
/// Of all functions together, among the machine's other cgroups and processes: see `WEIGHT_OF_ALL` in v2.rs.
const SHARES: &str = "3072";

/// Our subtree in one v1 hierarchy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Subtree {
    /// Where the hierarchy is mounted.
    pub(super) mount: PathBuf,
    /// Our directory in it.
    pub(super) dir: PathBuf,
    /// What we use it for.
    pub(super) controllers: Vec<Controller>,
    /// The group of the supervisor and the launcher, where this is the hierarchy of the CPU. Beside our directory: within it, what they
    /// weigh would be worth nothing while functions use up what all of it has. Until version 2 of the document it was there.
    #[serde(default)]
    pub(super) supervisor: Option<PathBuf>,
}

/// What a v1 hierarchy is needed for, beside what v2 has.
pub(super) fn wanted(place: &FoundV1, v2: Option<&v2::Subtree>) -> Vec<Controller> {
    let has = |controller| v2.is_some_and(|v2| v2.controllers.contains(&controller));
    let kills = v2.is_some_and(|v2| v2.has_kill);
    let needed = |controller: &Controller| match controller {
        Controller::Memory | Controller::Pids | Controller::Cpu => !has(*controller),
        Controller::Cpuacct => !has(Controller::Cpu),
        Controller::Freezer => !kills,
    };
    place.controllers.iter().copied().filter(needed).collect()
}

impl Subtree {
    /// Makes it afresh.
    ///
    /// # Errors
    /// When a directory can't be made, or what a predecessor left does not end.
    pub(super) fn create(place: &FoundV1, name: &str, controllers: Vec<Controller>) -> io::Result<Subtree> {
        let dir = place.mount.join(name);
        let cpu = controllers.contains(&Controller::Cpu);
        let supervisor = cpu.then(|| place.mount.join(format!("{name}-supervisor")));
        for dir in [&dir].into_iter().chain(&supervisor) {
            if dir.exists() {
                clear(dir)?;
            }
            make_dir(dir)?;
        }
        if let Some(supervisor) = &supervisor {
            write(&supervisor.join("cpu.shares"), SUPERVISOR_SHARES)?;
            write(&dir.join("cpu.shares"), SHARES)?;
        }
        let subtree = Subtree {
            mount: place.mount.clone(),
            dir,
            controllers,
            supervisor,
        };
        make_dir(&subtree.leaves())?;
        Ok(subtree)
    }

    /// The directory of the leaves.
    pub(super) fn leaves(&self) -> PathBuf {
        self.dir.join("i")
    }

    /// The supervisor's group, to join.
    pub(super) fn supervisor(&self) -> Option<OwnedFd> {
        let tasks = self.group().join("tasks");
        OpenOptions::new().write(true).open(tasks).ok().map(OwnedFd::from)
    }

    fn group(&self) -> PathBuf {
        self.supervisor
            .clone()
            .unwrap_or_else(|| self.dir.join("supervisor"))
    }

    /// Moves this process into the supervisor's group; where it was before. `None` when it stays there: a weight is a help, not a need.
    pub(super) fn join(&self) -> Option<PathBuf> {
        let group = self.group();
        let before = own(&self.mount, &fs::read_to_string("/proc/self/cgroup").ok()?)?;
        write(&group.join("cgroup.procs"), "0").ok()?;
        // A container may see its path, and have mounted only what is below it.
        let is_there = before.exists() && before != group;
        let before = if is_there { before } else { self.mount.clone() };
        Some(before)
    }

    /// Ends all that is in it and removes it.
    pub(super) fn remove(&self) -> io::Result<()> {
        let supervisor = self.supervisor.iter().try_for_each(|dir| clear(dir));
        clear(&self.dir).and(supervisor)
    }
}

/// The directory of the `cpu` cgroup that this process is in, by the text of `/proc/self/cgroup`. A path outside of the mount
/// (another cgroup namespace) reads `/../..`: then the mount itself.
fn own(mount: &Path, cgroups: &str) -> Option<PathBuf> {
    let path = cgroups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|name| name == "cpu").then_some(path)
    })?;
    let inside = path.split('/').all(|part| part != "..");
    Some(if inside {
        mount.join(path.trim_start_matches('/'))
    } else {
        mount.to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_this_process_is() {
        let mount = Path::new("/sys/fs/cgroup/cpu,cpuacct");
        let own = |text: &str| own(mount, text).map(|dir| dir.to_string_lossy().into_owned());
        let text = "9:cpuset:/a\n3:cpu,cpuacct:/system.slice/funcd.service\n0::/x\n";
        assert_eq!(
            own(text).unwrap(),
            "/sys/fs/cgroup/cpu,cpuacct/system.slice/funcd.service"
        );
        assert_eq!(own("3:cpuacct,cpu:/\n").unwrap(), "/sys/fs/cgroup/cpu,cpuacct/");
        assert_eq!(own("3:cpu:/../..\n").unwrap(), "/sys/fs/cgroup/cpu,cpuacct");
        assert_eq!(own("3:cpuset:/a\n0::/\n"), None);
    }
}
