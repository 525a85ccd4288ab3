//! Our subtree in a v1 hierarchy: limits where v2 has no controllers, and the freezer where v2 can't kill.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::discover::FoundV1;
use super::{Controller, clear, make_dir, v2, write};

/// Ten times the weight that everything has by default.
const SHARES: &str = "10240";

/// Our subtree in one v1 hierarchy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Subtree {
    /// Where the hierarchy is mounted.
    pub(super) mount: PathBuf,
    /// Our directory in it.
    pub(super) dir: PathBuf,
    /// What we use it for.
    pub(super) controllers: Vec<Controller>,
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
        if dir.exists() {
            clear(&dir)?;
        }
        make_dir(&dir)?;
        let subtree = Subtree {
            mount: place.mount.clone(),
            dir,
            controllers,
        };
        make_dir(&subtree.leaves())?;
        if subtree.controllers.contains(&Controller::Cpu) {
            make_dir(&subtree.dir.join("supervisor"))?;
            // 1024 is what all the leaves together have: `i` is its sibling.
            write(&subtree.dir.join("supervisor/cpu.shares"), SHARES)?;
            // That of the supervisor is worth nothing while what all of this has counts as one process among those of the machine:
            // functions use it up, and the supervisor has to wait for the others.
            write(&subtree.dir.join("cpu.shares"), SHARES)?;
        }
        Ok(subtree)
    }

    /// The directory of the leaves.
    pub(super) fn leaves(&self) -> PathBuf {
        self.dir.join("i")
    }

    /// The supervisor's group, to join.
    pub(super) fn supervisor(&self) -> Option<OwnedFd> {
        let tasks = self.dir.join("supervisor/tasks");
        OpenOptions::new().write(true).open(tasks).ok().map(OwnedFd::from)
    }

    /// Ends all that is in it and removes it.
    pub(super) fn remove(&self) -> io::Result<()> {
        clear(&self.dir)
    }
}
