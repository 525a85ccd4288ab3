//! Our subtree in the v2 hierarchy. Enables controllers in it, and in the cgroup above only if that one was delegated
//! to us.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::discover::FoundV2;
use super::{Controller, clear, make_dir, remove_dir, write};

/// The controllers that limits need, by their names in `subtree_control`.
const WANTED: [(Controller, &str); 3] = [
    (Controller::Memory, "memory"),
    (Controller::Pids, "pids"),
    (Controller::Cpu, "cpu"),
];

/// Of the supervisor and of the launcher, each: ten times the weight that everything has by default, and all functions together have.
const WEIGHT: &str = "1000";
/// Of all that is ours, among the machine's other cgroups and processes. Below a unit of systemd it is the weight of its slice that
/// counts: `funcd.slice`. More than the usual: what the supervisor has within it is worth nothing while functions use up all of it.
/// Not much more: threads of the kernel have the usual weight, and while those of RCU wait, nothing on the machine starts.
const WEIGHT_OF_ALL: &str = "300";
/// What the supervisor keeps when the host runs out of memory, in bytes.
const SUPERVISOR_MEMORY_MIN: u64 = 32 << 20;

/// Our subtree in the v2 hierarchy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Subtree {
    /// Where the hierarchy is mounted.
    pub(super) mount: PathBuf,
    /// Its directory.
    pub(super) dir: PathBuf,
    /// The controllers that leaves have.
    pub(super) controllers: Vec<Controller>,
    /// Whether this kernel has `cgroup.kill` (Linux 5.14).
    pub(super) has_kill: bool,
    /// Whether it has `cgroup.freeze` (Linux 5.2).
    pub(super) has_freeze: bool,
    /// Why a delegated cgroup did not pass a controller down.
    pub(super) refused: Option<String>,
    base: PathBuf,
    own: PathBuf,
    enabled_in_base: Vec<String>,
}

impl Subtree {
    /// Makes it afresh; with `join` this process moves into its `launcher` group.
    ///
    /// # Errors
    /// When a directory can't be made, or this process can't move.
    pub(super) fn create(place: &FoundV2, name: &str, join: bool) -> io::Result<Subtree> {
        let dir = place.base.join(name);
        if dir.exists() {
            let _ = write(&dir.join("cgroup.kill"), "1");
            clear(&dir)?;
        }
        make_dir(&dir)?;
        let mut subtree = Subtree {
            mount: place.mount.clone(),
            controllers: Vec::new(),
            has_kill: dir.join("cgroup.kill").exists(),
            has_freeze: dir.join("cgroup.freeze").exists(),
            refused: None,
            base: place.base.clone(),
            own: place.own.clone(),
            enabled_in_base: Vec::new(),
            dir,
        };
        if let Err(e) = subtree.fill(place.delegated, join) {
            // Not even half of it is of use; what can't be removed now is removed by the next start.
            let _ = subtree.remove(join);
            return Err(e);
        }
        Ok(subtree)
    }

    fn fill(&mut self, delegated: bool, join: bool) -> io::Result<()> {
        if join {
            make_dir(&self.dir.join("launcher"))?;
            write(&self.dir.join("launcher/cgroup.procs"), "0")?;
        }
        if delegated {
            self.enable_in_base();
        }
        make_dir(&self.leaves())?;
        make_dir(&self.dir.join("supervisor"))?;
        // Whatever the umask: the supervisor's user finds its way to the pressure files of its own cgroup, and nothing else.
        for dir in [&self.dir, &self.dir.join("supervisor")] {
            fs::set_permissions(dir, Permissions::from_mode(0o711))?;
        }
        for (controller, name) in WANTED {
            let enable = format!("+{name}");
            if write(&self.dir.join("cgroup.subtree_control"), &enable).is_ok()
                && write(&self.leaves().join("cgroup.subtree_control"), &enable).is_ok()
            {
                self.controllers.push(controller);
            }
        }
        // Best effort: without the controllers there is nothing to weigh or protect.
        let _ = write(&self.dir.join("supervisor/cpu.weight"), WEIGHT);
        let _ = write(&self.dir.join("cpu.weight"), WEIGHT_OF_ALL);
        for dir in [&self.dir, &self.dir.join("supervisor")] {
            let _ = write(&dir.join("memory.min"), &SUPERVISOR_MEMORY_MIN.to_string());
        }
        Ok(())
    }

    fn enable_in_base(&mut self) {
        let read = |file: &str| fs::read_to_string(self.base.join(file)).unwrap_or_default();
        let (has, passes) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
        for (_, name) in WANTED {
            let listed = |list: &str| list.split_whitespace().any(|word| word == name);
            if !listed(&has) || listed(&passes) {
                continue;
            }
            match write(&self.base.join("cgroup.subtree_control"), &format!("+{name}")) {
                Ok(()) => self.enabled_in_base.push(name.to_owned()),
                Err(e) => {
                    let why = if e.raw_os_error() == Some(libc::EBUSY) {
                        "other processes live in it".to_owned()
                    } else {
                        e.to_string()
                    };
                    let what = format!("cgroup {} can't pass `{name}` down: {why}", self.base.display());
                    self.refused.get_or_insert(what);
                }
            }
        }
    }

    /// The directory of the leaves.
    pub(super) fn leaves(&self) -> PathBuf {
        self.dir.join("i")
    }

    /// The supervisor's group, to clone into.
    pub(super) fn supervisor(&self) -> Option<OwnedFd> {
        File::open(self.dir.join("supervisor")).ok().map(OwnedFd::from)
    }

    /// Gives the launcher the weight of the supervisor: who calls a function from zero waits for both.
    pub(super) fn weigh_launcher(&self) {
        let _ = write(&self.dir.join("launcher/cpu.weight"), WEIGHT);
    }

    /// Ends all that is in it but this process, which goes back to where it came from if it had `joined`, and removes it.
    pub(super) fn remove(&self, joined: bool) -> io::Result<()> {
        for dir in [self.leaves(), self.dir.join("supervisor")] {
            let _ = write(&dir.join("cgroup.kill"), "1");
            clear(&dir)?;
        }
        for (_, name) in WANTED {
            let _ = write(&self.dir.join("cgroup.subtree_control"), &format!("-{name}"));
        }
        for name in &self.enabled_in_base {
            let _ = write(&self.base.join("cgroup.subtree_control"), &format!("-{name}"));
        }
        if joined {
            go_back(&self.own)?;
        }
        clear(&self.dir.join("launcher"))?;
        if remove_dir(&self.dir)? {
            Ok(())
        } else {
            Err(io::ErrorKind::ResourceBusy.into())
        }
    }
}

/// Moves this process to the cgroup that it was started in; when that one is gone, one above does as well.
pub(super) fn go_back(own: &Path) -> io::Result<()> {
    let mut last = Ok(());
    for dir in own.ancestors().take(3) {
        last = write(&dir.join("cgroup.procs"), "0");
        if last.is_ok() {
            break;
        }
    }
    last
}
