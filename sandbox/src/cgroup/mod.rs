//! Our cgroups: one subtree `funcd-<8 hex>` for each run folder, with `launcher`, `supervisor` and the single-use
//! leaves of instances in it. Never touches a cgroup outside of it, nor an ancestor's `subtree_control`, except that of
//! the cgroup that was delegated to us.
//!
//! ```text
//! <base>/funcd-1a2b3c4d/launcher     this process: a fresh cgroup, as a once-killed one can't start anything
//!                      /supervisor   its own weight, so that functions can't starve it
//!                      /i/17         one instance
//! ```
//! In the v1 hierarchy of the CPU, `funcd-1a2b3c4d-supervisor` has both launcher and supervisor.

mod discover;
mod facts;
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

use serde::{Deserialize, Serialize};

pub(crate) use facts::{Facts, Support};
pub(crate) use leaf::{Carried as CarriedLeaf, Ceiling, Leaf};
pub(crate) use pool::Pool;

/// The controllers that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// The directories of our subtree; shared with every leaf.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
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

    /// The v2 subtree, if its leaves can be frozen: without any controller, from Linux 5.2 on.
    fn v2_freezer(&self) -> Option<&v2::Subtree> {
        self.v2.as_ref().filter(|v2| v2.has_freeze)
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
    /// v1: where this process was before it joined the supervisor's group of the CPU.
    cpu_before: Option<PathBuf>,
}

/// A subtree as one launcher leaves it to the next.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Carried {
    dirs: Dirs,
    facts: Facts,
    joined: bool,
    /// The number of the next leaf.
    next: u64,
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
        let dirs = Rc::new(dirs);
        let facts = facts::find(&dirs, v2_trouble.or(v1_trouble), found.v2_mounted);
        let mut tree = Tree::of(dirs, facts, joined);
        if join == Join::Always {
            tree.join_cpu();
        }
        tree
    }

    /// From the launcher before, as it is. [`Tree::join_cpu`] is for when nothing can go wrong any more.
    pub(crate) fn again(carried: Carried) -> (Tree, Pool) {
        let tree = Tree::of(Rc::new(carried.dirs), carried.facts, carried.joined);
        let pool = Pool::again(Rc::clone(&tree.dirs), carried.next);
        (tree, pool)
    }

    /// For the next launcher.
    pub(crate) fn carry(&self, pool: &Pool) -> Carried {
        Carried {
            dirs: (*self.dirs).clone(),
            facts: self.facts.clone(),
            joined: self.joined,
            next: pool.next(),
        }
    }

    /// A leaf that the launcher before had.
    pub(crate) fn leaf(&self, carried: &CarriedLeaf) -> Leaf {
        Leaf::again(Rc::clone(&self.dirs), carried)
    }

    fn of(dirs: Rc<Dirs>, facts: Facts, joined: bool) -> Tree {
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
            cpu_before: None,
        }
    }

    /// Gives this process the supervisor's weight. Else functions that use up the CPU would keep those waiting for seconds that are to
    /// be started.
    pub(crate) fn join_cpu(&mut self) {
        if let Some(v2) = self.dirs.v2(Controller::Cpu) {
            v2.weigh_launcher();
        }
        if let Some(v1) = self.dirs.v1(Controller::Cpu) {
            self.cpu_before = v1.join();
        }
    }

    /// v1: goes back to where it was. A program that does not know of [`Tree::join_cpu`] could not remove what it is in.
    ///
    /// # Errors
    /// Those of the kernel.
    pub(crate) fn leave_cpu(&mut self) -> io::Result<()> {
        if let Some(before) = &self.cpu_before {
            v2::go_back(before)?;
        }
        self.cpu_before = None;
        Ok(())
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

    /// Whether leaves can be frozen.
    pub(crate) fn can_freeze(&self) -> bool {
        self.dirs.v2_freezer().is_some() || self.dirs.v1(Controller::Freezer).is_some()
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
    pub(crate) fn remove(mut self) -> Result<(), String> {
        let mut left = Vec::new();
        if let Err(e) = self.leave_cpu() {
            left.push(format!("this process stays in it: {e}"));
        }
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    /// Our subtree on this machine; none without root.
    fn tree(what: &str) -> Option<Tree> {
        if !nix::unistd::geteuid().is_root() {
            let required = std::env::var_os("FUNCD_TEST_REQUIRE").is_some_and(|value| value == "all");
            assert!(
                !required,
                "{what} needs root, and FUNCD_TEST_REQUIRE=all makes a skipped test a failure"
            );
            println!("skipped: {what} needs root");
            return None;
        }
        Some(Tree::create(
            &format!("funcd-test-{what}-{}", std::process::id()),
            Join::IfDelegated,
        ))
    }

    fn exists(leaf: &Leaf) -> bool {
        let v2 = leaf.dirs.v2.iter().map(|v2| v2.leaves());
        v2.chain(leaf.dirs.v1.iter().map(|v1| v1.leaves()))
            .any(|dir| dir.join(&leaf.name).exists())
    }

    #[test]
    fn a_leaf_is_limited_killed_and_removed() {
        let Some(tree) = tree("leaf") else { return };
        let mut pool = tree.pool();
        pool.refill().unwrap();
        let ceiling = Ceiling {
            memory_bytes: 16 << 20,
            cpu_millis: 500,
            cpu_idle: false,
            pids: 10,
        };
        let leaf = pool.take(ceiling).unwrap();
        // Other limits than those that were written ahead, up and down again.
        let mut leaf = leaf;
        for memory_bytes in [64 << 20, 8 << 20] {
            leaf.limit(Ceiling {
                memory_bytes,
                cpu_millis: 3000,
                cpu_idle: false,
                pids: 20,
            })
            .unwrap();
        }
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        for dir in leaf
            .dirs
            .v2
            .iter()
            .map(|v2| v2.leaves())
            .chain(leaf.dirs.v1.iter().map(|v1| v1.leaves()))
        {
            write(
                &dir.join(&leaf.name).join("cgroup.procs"),
                &child.id().to_string(),
            )
            .unwrap();
        }
        assert!(!leaf.remove().unwrap(), "a process is in it");
        let usage = leaf.usage();
        assert_eq!(usage.pids, 1, "{usage:?}");
        leaf.kill();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        while !leaf.remove().unwrap() {
            std::thread::yield_now();
        }
        assert!(!exists(&leaf));
        tree.remove().unwrap();
    }

    /// Among the machine's processes all of it, and among what is ours the supervisor: each is worth nothing without the other.
    #[test]
    fn functions_weigh_three_times_the_usual_and_the_supervisor_ten_times() {
        let Some(tree) = tree("weights") else { return };
        let places = match (tree.dirs.v2(Controller::Cpu), tree.dirs.v1(Controller::Cpu)) {
            (Some(v2), _) => [
                (v2.dir.join("cpu.weight"), "300"),
                (v2.dir.join("supervisor/cpu.weight"), "1000"),
                (v2.dir.join("i/cpu.weight"), "100"),
            ],
            (None, Some(v1)) => [
                (v1.dir.join("cpu.shares"), "3072"),
                (v1.supervisor.as_ref().unwrap().join("cpu.shares"), "10240"),
                (v1.dir.join("i/cpu.shares"), "1024"),
            ],
            (None, None) => return println!("skipped: no cpu controller"),
        };
        for (file, weight) in places {
            let read = fs::read_to_string(&file).unwrap();
            assert_eq!(read.trim(), weight, "{}", file.display());
        }
        tree.remove().unwrap();
    }

    /// Bulk: whoever else wants the CPU gets it. The control is a leaf beside it, and the same leaf afterwards.
    #[test]
    fn an_idle_leaf_gets_what_no_other_wants_and_others_are_usual() {
        let Some(tree) = tree("idle") else { return };
        let ceiling = |cpu_idle| Ceiling {
            memory_bytes: 16 << 20,
            cpu_millis: 500,
            cpu_idle,
            pids: 10,
        };
        let mut pool = tree.pool();
        let mut idle = pool.take(ceiling(true)).unwrap();
        let usual = pool.take(ceiling(false)).unwrap();
        let (dir, weight, least) = match (tree.dirs.v2(Controller::Cpu), tree.dirs.v1(Controller::Cpu)) {
            (Some(v2), _) => (v2.leaves(), "cpu.weight", "1"),
            (None, Some(v1)) => (v1.leaves(), "cpu.shares", "2"),
            (None, None) => return println!("skipped: no cpu controller"),
        };
        let is_least = |leaf: &Leaf| {
            let read = |file| fs::read_to_string(dir.join(&leaf.name).join(file)).unwrap_or_default();
            // Linux 5.15 has cpu.idle; before, the least weight comes nearest.
            read("cpu.idle").trim() == "1" || read(weight).trim() == least
        };
        assert!(is_least(&idle));
        assert!(!is_least(&usual));
        idle.limit(ceiling(false)).unwrap();
        assert!(!is_least(&idle));
        for leaf in [idle, usual] {
            assert!(leaf.remove().unwrap());
        }
        tree.remove().unwrap();
    }

    #[test]
    fn what_a_crash_left_is_ended_by_the_next_start() {
        let Some(tree) = tree("crash") else { return };
        let leaf = tree
            .pool()
            .take(Ceiling {
                memory_bytes: 16 << 20,
                cpu_millis: 500,
                cpu_idle: false,
                pids: 10,
            })
            .unwrap();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let dirs = leaf
            .dirs
            .v2
            .iter()
            .map(|v2| v2.leaves())
            .chain(leaf.dirs.v1.iter().map(|v1| v1.leaves()));
        for dir in dirs {
            write(
                &dir.join(&leaf.name).join("cgroup.procs"),
                &child.id().to_string(),
            )
            .unwrap();
        }
        let name = format!("funcd-test-crash-{}", std::process::id());
        let again = Tree::create(&name, Join::IfDelegated);
        assert!(!exists(&leaf));
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        again.remove().unwrap();
    }

    #[test]
    fn an_out_of_memory_event_is_told_where_v1_limits() {
        let Some(tree) = tree("oom") else { return };
        let leaf = tree
            .pool()
            .take(Ceiling {
                memory_bytes: 16 << 20,
                cpu_millis: 500,
                cpu_idle: false,
                pids: 10,
            })
            .unwrap();
        assert_eq!(leaf.oom_kills(), 0);
        let watched = leaf.watch_oom().unwrap();
        assert_eq!(watched.is_some(), leaf.dirs.v1(Controller::Memory).is_some());
        if let Some(event) = watched {
            let mut fds = [nix::poll::PollFd::new(
                event.as_fd(),
                nix::poll::PollFlags::POLLIN,
            )];
            assert_eq!(nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO), Ok(0));
        }
        assert!(leaf.remove().unwrap());
        tree.remove().unwrap();
    }

    #[test]
    fn grading_leaves_nothing() {
        let before = own_cgroups();
        let grades = crate::launcher::grades(None);
        assert_eq!(grades.len(), 10);
        assert!(
            grades
                .iter()
                .all(|grade| grade.mechanism.is_some() || !grade.fix.is_empty())
        );
        assert_eq!(own_cgroups(), before);
    }

    fn own_cgroups() -> usize {
        let name = format!("funcd-{:08x}", std::process::id());
        let found = look();
        let v1 = found.v1.iter().map(|v1| v1.mount.join(&name));
        let v2 = found.v2.iter().map(|v2| v2.base.join(&name));
        v1.chain(v2).filter(|dir| dir.exists()).count()
    }
}
