//! Our cgroups: one subtree `funcd-<8 hex>` for each run folder, with `launcher`, `supervisor` and the single-use
//! leaves of instances in it. Never touches a cgroup outside of it, nor an ancestor's `subtree_control`, except that of
//! the cgroup that was delegated to us.
//!
//! ```text
//! <base>/funcd-1a2b3c4d/launcher     this process: a fresh cgroup, as a once-killed one can't start anything
//!                      /supervisor   its own weight, so that functions can't starve it
//!                      /i/17         one instance
//! ```

mod discover;
mod leaf;
mod pool;
mod stats;
mod v1;
mod v2;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

pub(crate) use leaf::{Ceiling, Leaf};
pub(crate) use pool::Pool;

/// The controllers that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Controller {
    /// Memory limit, OOM events.
    Memory,
    /// Process limit.
    Pids,
    /// CPU ceiling and weight.
    Cpu,
    /// v1 only: CPU time used (v2's `cpu` has it).
    Cpuacct,
    /// v1 only: stops a leaf while it is killed (v2 has `cgroup.kill`).
    Freezer,
}

impl Controller {
    fn parse(name: &str) -> Option<Controller> {
        match name {
            "memory" => Some(Controller::Memory),
            "pids" => Some(Controller::Pids),
            "cpu" => Some(Controller::Cpu),
            "cpuacct" => Some(Controller::Cpuacct),
            "freezer" => Some(Controller::Freezer),
            _ => None,
        }
    }
}

/// Whether something can be kept here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Support {
    /// Yes, by this mechanism.
    Yes(String),
    /// No.
    No {
        /// Why not.
        cause: String,
        /// What to do about it.
        fix: String,
    },
}

/// Which limits can be kept here, and how.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// P5.
    pub(crate) memory: Support,
    /// P6.
    pub(crate) pids: Support,
    /// P7.
    pub(crate) cpu: Support,
    /// P8, beside pid namespaces.
    pub(crate) kill: Support,
}

/// The directories of our subtree; shared with every leaf.
#[derive(Debug, Default)]
pub(crate) struct Dirs {
    /// The v2 part.
    pub(crate) v2: Option<v2::Subtree>,
    /// The v1 parts, one for each hierarchy in use.
    pub(crate) v1: Vec<v1::Subtree>,
}

impl Dirs {
    /// The v1 subtree of a controller.
    fn v1(&self, controller: Controller) -> Option<&v1::Subtree> {
        self.v1.iter().find(|v1| v1.controllers.contains(&controller))
    }

    /// The v2 subtree, if the controller is enabled in it.
    fn v2(&self, controller: Controller) -> Option<&v2::Subtree> {
        self.v2.as_ref().filter(|v2| v2.controllers.contains(&controller))
    }
}

/// Our subtree.
#[derive(Debug)]
pub(crate) struct Tree {
    dirs: Rc<Dirs>,
    facts: Facts,
    supervisor: Option<OwnedFd>,
    supervisor_tasks: Vec<OwnedFd>,
    joined: bool,
}

/// Whether this process moves into the subtree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Join {
    /// Yes: the launcher.
    Always,
    /// Only where nothing could be found out otherwise (a delegated cgroup must be empty to pass controllers down):
    /// `doctor`, which moves back.
    IfDelegated,
}

impl Tree {
    /// Makes the subtree, after ending what a crashed predecessor left in it. What can't be had is in [`Tree::facts`].
    pub(crate) fn create(name: &str, join: Join) -> Tree {
        let found = look();
        let mut dirs = Dirs::default();
        let mut joined = false;
        let mut v2_trouble = None;
        if let Some(place) = &found.v2 {
            let join = join == Join::Always || place.delegated;
            match v2::Subtree::create(place, name, join) {
                Ok(subtree) => {
                    joined = join;
                    dirs.v2 = Some(subtree);
                }
                Err(e) => v2_trouble = Some(format!("{}: {e}", place.base.join(name).display())),
            }
        }
        let mut v1_trouble = None;
        for place in &found.v1 {
            let wanted = v1::wanted(place, dirs.v2.as_ref());
            if wanted.is_empty() {
                continue;
            }
            match v1::Subtree::create(place, name, wanted) {
                Ok(subtree) => dirs.v1.push(subtree),
                Err(e) => v1_trouble = Some(format!("{}: {e}", place.mount.join(name).display())),
            }
        }
        let why = Why {
            trouble: v2_trouble.or(v1_trouble),
            v2_mounted: found.v2_mounted,
            refused: dirs.v2.as_ref().and_then(|v2| v2.refused.clone()),
            place: dirs.v2.as_ref().map(|v2| v2.dir.clone()),
        };
        let mut facts = Facts {
            memory: support(&dirs, Controller::Memory, "memory", &why),
            pids: support(&dirs, Controller::Pids, "pids", &why),
            cpu: support(&dirs, Controller::Cpu, "cpu", &why),
            kill: kill_support(&dirs, &why),
        };
        let dirs = Rc::new(dirs);
        try_limits(&dirs, &mut facts);
        let supervisor = dirs.v2.as_ref().and_then(|v2| v2.supervisor());
        let supervisor_tasks = dirs
            .v1(Controller::Cpu)
            .and_then(|v1| v1.supervisor())
            .into_iter()
            .collect();
        Tree {
            dirs,
            facts,
            supervisor,
            supervisor_tasks,
            joined,
        }
    }

    /// What can be kept here.
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// How our cgroups are laid out, for users.
    pub(crate) fn layout(&self) -> String {
        match (&self.dirs.v2, self.dirs.v1.is_empty()) {
            (Some(v2), true) => format!("v2 at {}", v2.dir.display()),
            (Some(v2), false) => format!("hybrid: v1 limits, v2 at {}", v2.dir.display()),
            (None, false) => "v1".to_owned(),
            (None, true) => match &self.facts.memory {
                Support::No { cause, .. } => cause.clone(),
                Support::Yes(how) => how.clone(),
            },
        }
    }

    /// A pool of leaves; only leaves of one pool exist at a time.
    pub(crate) fn pool(&self) -> Pool {
        Pool::new(Rc::clone(&self.dirs))
    }

    /// The v2 cgroup of the supervisor, to clone into.
    pub(crate) fn supervisor(&self) -> Option<RawFd> {
        self.supervisor.as_ref().map(|fd| fd.as_raw_fd())
    }

    /// The v1 cgroup of the supervisor, to join.
    pub(crate) fn supervisor_tasks(&self) -> Vec<RawFd> {
        self.supervisor_tasks.iter().map(|fd| fd.as_raw_fd()).collect()
    }

    /// Kills whatever is left in the leaves and removes the subtree; this process goes back to where it came from.
    ///
    /// # Errors
    /// When something stays: what and why.
    pub(crate) fn remove(self) -> Result<(), String> {
        let mut left = Vec::new();
        for v1 in &self.dirs.v1 {
            if let Err(e) = v1.remove() {
                left.push(format!("{}: {e}", v1.dir.display()));
            }
        }
        if let Some(v2) = &self.dirs.v2
            && let Err(e) = v2.remove(self.joined)
        {
            left.push(format!("{}: {e}", v2.dir.display()));
        }
        if left.is_empty() {
            Ok(())
        } else {
            Err(left.join("; "))
        }
    }
}

/// Why a controller is not there.
struct Why {
    trouble: Option<String>,
    v2_mounted: bool,
    refused: Option<String>,
    place: Option<PathBuf>,
}

impl Why {
    fn cause(&self, what: &str) -> String {
        if let Some(trouble) = &self.trouble {
            return format!("can't make a cgroup: {trouble}");
        }
        if let Some(refused) = &self.refused {
            return refused.clone();
        }
        match (&self.place, self.v2_mounted) {
            (Some(dir), _) => format!("cgroup {} is not given the `{what}` controller", dir.display()),
            (None, true) => "no cgroup was delegated to this user".to_owned(),
            (None, false) => format!("no cgroup hierarchy with `{what}` is mounted writable"),
        }
    }

    fn fix(&self) -> String {
        if nix::unistd::geteuid().is_root() {
            "run funcd as a systemd service with `Delegate=yes`, or mount the cgroup hierarchy writable"
                .to_owned()
        } else {
            "start it with `systemd-run --user --scope -p Delegate=yes funcd …`, or as root".to_owned()
        }
    }
}

fn support(dirs: &Dirs, controller: Controller, name: &str, why: &Why) -> Support {
    if dirs.v2(controller).is_some() {
        Support::Yes(format!("cgroup v2 {name}"))
    } else if dirs.v1(controller).is_some() {
        Support::Yes(format!("cgroup v1 {name}"))
    } else {
        Support::No {
            cause: why.cause(name),
            fix: why.fix(),
        }
    }
}

/// Only `cgroup.kill` is taken for a total kill: the v1 freezer is used as well as can be, but a pid namespace is surer.
fn kill_support(dirs: &Dirs, why: &Why) -> Support {
    match &dirs.v2 {
        Some(v2) if v2.has_kill => Support::Yes("cgroup.kill".to_owned()),
        Some(_) => Support::No {
            cause: "this kernel has no cgroup.kill".to_owned(),
            fix: "use Linux 5.14 or newer".to_owned(),
        },
        None => Support::No {
            cause: why.cause("cgroup.kill"),
            fix: why.fix(),
        },
    }
}

/// Asks for a limit of each kind on a leaf that nothing runs in: what the kernel refuses there is not kept.
fn try_limits(dirs: &Rc<Dirs>, facts: &mut Facts) {
    const PROBE: Ceiling = Ceiling {
        memory_bytes: 64 << 20,
        cpu_millis: 1000,
        pids: 64,
    };
    let no = |e: &io::Error| Support::No {
        cause: format!("a cgroup limit was refused: {e}"),
        fix: "run funcd as root or as a systemd service with `Delegate=yes`".to_owned(),
    };
    let mut leaf = match Leaf::create(Rc::clone(dirs), 0) {
        Ok(leaf) => leaf,
        Err(e) => {
            for fact in [
                &mut facts.memory,
                &mut facts.pids,
                &mut facts.cpu,
                &mut facts.kill,
            ] {
                *fact = no(&e);
            }
            return;
        }
    };
    let tried = leaf.try_each(PROBE);
    for (fact, result) in [
        (&mut facts.memory, tried.0),
        (&mut facts.pids, tried.1),
        (&mut facts.cpu, tried.2),
    ] {
        if let (Support::Yes(_), Err(e)) = (&*fact, &result) {
            *fact = no(e);
        }
    }
    // Nothing ever ran in it, so the directory can't be busy.
    let _ = leaf.remove();
}

fn look() -> discover::Found {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let writable = |dir: &Path| {
        let mode = nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK;
        nix::unistd::faccessat(nix::fcntl::AT_FDCWD, dir, mode, nix::fcntl::AtFlags::AT_EACCESS).is_ok()
    };
    discover::discover(
        &read("/proc/self/cgroup"),
        &read("/proc/self/mountinfo"),
        &discover::Access {
            root: nix::unistd::geteuid().is_root(),
            delegated: &crate::sys::process::is_delegated,
            writable: &writable,
        },
    )
}

/// Writes to a cgroup file that must exist already.
fn write(path: &Path, value: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(value.as_bytes())
}

/// The number after `key` in a file of `key value` lines.
fn keyed(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let find = |line: &str| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(find)
}

/// Makes a directory unless it is there.
fn make_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Removes a cgroup directory: `false` while something is in it.
fn remove_dir(dir: &Path) -> io::Result<bool> {
    match fs::remove_dir(dir) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Kills and removes a cgroup directory with all below it. Waits: for start and end only.
fn clear(dir: &Path) -> io::Result<()> {
    const TRIES: u32 = 200;
    for _ in 0..TRIES {
        if clear_once(dir)? {
            return Ok(());
        }
        // Killed processes need a moment to leave, and cgroups tell nobody when they did.
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Err(io::Error::new(
        io::ErrorKind::ResourceBusy,
        "processes in it do not end",
    ))
}

fn clear_once(dir: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(e) => return Err(e),
    };
    let mut gone = true;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            gone &= clear_once(&entry.path())?;
        }
    }
    if remove_dir(dir)? {
        return Ok(gone);
    }
    // A fork storm ends once it can't fork; only the v1 `pids` hierarchy has this file at this point.
    let _ = write(&dir.join("pids.max"), "0");
    for pid in fs::read_to_string(dir.join("cgroup.procs"))?.lines() {
        if let Ok(pid) = pid.parse::<i32>()
            // 0 stands for a process of another pid namespace; kill(2) would take it for our own process group.
            && pid > 0
            && pid != nix::unistd::getpid().as_raw()
        {
            // It may have ended meanwhile.
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
    Ok(false)
}
