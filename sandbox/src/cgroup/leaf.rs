//! The cgroup of one instance. Single-use: after a kill every clone into it dies at birth, so a leaf is removed, never
//! given to another instance.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::{Controller, Dirs, keyed, make_dir, remove_dir, write};

/// The scheduler's accounting period, in microseconds: short, so that a throttled function pauses for milliseconds only.
const CPU_PERIOD: u64 = 20_000;
/// The kernel takes no quota below this, in microseconds (sched-bwc).
const CPU_QUOTA_MIN: u64 = 1_000;

/// The limits of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ceiling {
    /// In bytes.
    pub(crate) memory_bytes: u64,
    /// In thousandths of a core.
    pub(crate) cpu_millis: u32,
    /// Only what no other leaf wants of the CPU.
    pub(crate) cpu_idle: bool,
    /// Processes and threads.
    pub(crate) pids: u32,
}

/// The cgroup of one instance, in every hierarchy that is in use.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(super) dirs: Rc<Dirs>,
    pub(super) name: String,
    directory: Option<OwnedFd>,
    tasks: Vec<OwnedFd>,
    ceiling: Option<Ceiling>,
}

/// A leaf as one launcher leaves it to the next.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Carried {
    name: String,
}

impl Leaf {
    /// For the next launcher.
    pub(crate) fn carry(&self) -> Carried {
        Carried {
            name: self.name.clone(),
        }
    }

    /// From the launcher before.
    pub(super) fn again(dirs: Rc<Dirs>, carried: &Carried) -> Leaf {
        Leaf {
            dirs,
            name: carried.name.clone(),
            directory: None,
            tasks: Vec::new(),
            ceiling: None,
        }
    }

    /// Makes an empty leaf without limits.
    ///
    /// # Errors
    /// When a directory can't be made; what was made of it is removed.
    pub(crate) fn create(dirs: Rc<Dirs>, number: u64) -> io::Result<Leaf> {
        let mut leaf = Leaf {
            dirs,
            name: number.to_string(),
            directory: None,
            tasks: Vec::new(),
            ceiling: None,
        };
        if let Err(e) = leaf.make() {
            let _ = leaf.remove();
            return Err(e);
        }
        Ok(leaf)
    }

    fn make(&mut self) -> io::Result<()> {
        if let Some(dir) = self.v2_dir() {
            make_dir(&dir)?;
            // Nobody in there can see the cgroup file system; this holds should somebody ever.
            write(&dir.join("cgroup.max.descendants"), "0")?;
            if self.dirs.v2(Controller::Memory).is_some() {
                // Absent where the kernel has no swap accounting; then there is no swap to use either.
                let _ = write(&dir.join("memory.swap.max"), "0");
                write(&dir.join("memory.oom.group"), "1")?;
            }
            self.directory = Some(File::open(&dir)?.into());
        }
        for dir in self.v1_dirs() {
            make_dir(&dir)?;
            let tasks = OpenOptions::new().write(true).open(dir.join("tasks"))?;
            self.tasks.push(tasks.into());
        }
        Ok(())
    }

    /// To clone into.
    pub(crate) fn directory(&self) -> Option<RawFd> {
        self.directory.as_ref().map(|fd| fd.as_raw_fd())
    }

    /// To join, where there is v1.
    pub(crate) fn tasks(&self) -> Vec<RawFd> {
        self.tasks.iter().map(|fd| fd.as_raw_fd()).collect()
    }

    /// Closes what only a start needs: with a thousand instances that is thousands of descriptors.
    pub(crate) fn close(&mut self) {
        self.directory = None;
        self.tasks = Vec::new();
    }

    /// Writes the limits, unless they are written already.
    ///
    /// # Errors
    /// Those of the kernel. Limits whose controller is missing are left out: the grades have told.
    pub(crate) fn limit(&mut self, ceiling: Ceiling) -> io::Result<()> {
        if self.ceiling == Some(ceiling) {
            return Ok(());
        }
        let but_for_idle = |before: Ceiling| Ceiling {
            cpu_idle: ceiling.cpu_idle,
            ..before
        };
        if self.ceiling.map(but_for_idle) != Some(ceiling) {
            let (memory, pids, cpu) = self.try_each(ceiling);
            memory.and(pids).and(cpu)?;
        }
        // A new leaf is as usual.
        if ceiling.cpu_idle != self.ceiling.is_some_and(|before| before.cpu_idle) {
            self.be_idle(ceiling.cpu_idle)?;
        }
        self.ceiling = Some(ceiling);
        Ok(())
    }

    /// Writes the limits of memory, pids and CPU, and tells of each whether the kernel took it.
    pub(super) fn try_each(&mut self, ceiling: Ceiling) -> (io::Result<()>, io::Result<()>, io::Result<()>) {
        (
            self.limit_memory(ceiling.memory_bytes),
            self.limit_pids(ceiling.pids),
            self.limit_cpu(ceiling.cpu_millis),
        )
    }

    fn limit_memory(&self, bytes: u64) -> io::Result<()> {
        let bytes = bytes.to_string();
        if let Some(dir) = self.v2_dir_of(Controller::Memory) {
            return write(&dir.join("memory.max"), &bytes);
        }
        let Some(dir) = self.v1_dir_of(Controller::Memory) else {
            return Ok(());
        };
        // Memory and swap together may never be less than memory: lift it, set memory, then set it.
        let both = dir.join("memory.memsw.limit_in_bytes");
        let has_both = write(&both, "-1").is_ok();
        write(&dir.join("memory.limit_in_bytes"), &bytes)?;
        if has_both { write(&both, &bytes) } else { Ok(()) }
    }

    fn limit_pids(&self, pids: u32) -> io::Result<()> {
        let dir = self
            .v2_dir_of(Controller::Pids)
            .or_else(|| self.v1_dir_of(Controller::Pids));
        dir.map_or(Ok(()), |dir| write(&dir.join("pids.max"), &pids.to_string()))
    }

    fn limit_cpu(&self, millis: u32) -> io::Result<()> {
        let quota = (u64::from(millis) * CPU_PERIOD / 1000)
            .max(CPU_QUOTA_MIN)
            .to_string();
        // A burst as large as the quota pays for the start; older kernels than 5.14 have none.
        if let Some(dir) = self.v2_dir_of(Controller::Cpu) {
            let _ = write(&dir.join("cpu.max.burst"), "0");
            write(&dir.join("cpu.max"), &format!("{quota} {CPU_PERIOD}"))?;
            let _ = write(&dir.join("cpu.max.burst"), &quota);
        } else if let Some(dir) = self.v1_dir_of(Controller::Cpu) {
            let _ = write(&dir.join("cpu.cfs_burst_us"), "0");
            write(&dir.join("cpu.cfs_quota_us"), "-1")?;
            write(&dir.join("cpu.cfs_period_us"), &CPU_PERIOD.to_string())?;
            write(&dir.join("cpu.cfs_quota_us"), &quota)?;
            let _ = write(&dir.join("cpu.cfs_burst_us"), &quota);
        }
        Ok(())
    }

    /// Whether it gets only what no other leaf wants of the CPU, or the usual part.
    fn be_idle(&self, idle: bool) -> io::Result<()> {
        let (dir, file, least, usual) =
            match (self.v2_dir_of(Controller::Cpu), self.v1_dir_of(Controller::Cpu)) {
                (Some(dir), _) => (dir, "cpu.weight", "1", "100"),
                (None, Some(dir)) => (dir, "cpu.shares", "2", "1024"),
                (None, None) => return Ok(()),
            };
        // Linux 5.15 and later, for v1 too; it takes no weight while it is idle, and has the usual one after that.
        if write(&dir.join("cpu.idle"), if idle { "1" } else { "0" }).is_ok() {
            return Ok(());
        }
        write(&dir.join(file), if idle { least } else { usual })
    }

    /// Stops every process in it where it is, or lets them go on. Killing works while they are stopped.
    ///
    /// # Errors
    /// Those of the kernel, and `Unsupported` without a freezer.
    pub(crate) fn freeze(&self, freeze: bool) -> io::Result<()> {
        if let Some(dir) = self.dirs.v2_freezer() {
            return write(
                &self.below(&dir.leaves()).join("cgroup.freeze"),
                if freeze { "1" } else { "0" },
            );
        }
        let Some(dir) = self.v1_dir_of(Controller::Freezer) else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        write(
            &dir.join("freezer.state"),
            if freeze { "FROZEN" } else { "THAWED" },
        )
    }

    /// Kills every process in it. Without `cgroup.kill`, call it again until [`Leaf::remove`] succeeds.
    pub(crate) fn kill(&self) {
        if let Some(dir) = self.v2_dir()
            && write(&dir.join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        if let Some(dir) = self.v1_dir_of(Controller::Pids) {
            let _ = write(&dir.join("pids.max"), "0");
        }
        let Some(dir) = self.v1_dir_of(Controller::Freezer) else {
            return;
        };
        // Frozen processes neither fork nor end, so the pids that are read are the pids that are killed.
        let state = dir.join("freezer.state");
        let _ = write(&state, "FROZEN");
        let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        for pid in procs
            .lines()
            .filter_map(|line| line.parse().ok())
            .filter(|pid: &i32| *pid > 0)
        {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        let _ = write(&state, "THAWED");
    }

    /// How often the kernel killed a process of it for memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        let file = match (
            self.v2_dir_of(Controller::Memory),
            self.v1_dir_of(Controller::Memory),
        ) {
            (Some(dir), _) => dir.join("memory.events"),
            (None, Some(dir)) => dir.join("memory.oom_control"),
            (None, None) => return 0,
        };
        keyed(&file, "oom_kill").unwrap_or(0)
    }

    /// How often its CPU limit held it back.
    pub(crate) fn throttled(&self) -> u64 {
        let dir = self
            .v2_dir_of(Controller::Cpu)
            .or_else(|| self.v1_dir_of(Controller::Cpu));
        dir.and_then(|dir| keyed(&dir.join("cpu.stat"), "nr_throttled"))
            .unwrap_or(0)
    }

    /// Where v1 limits memory: a descriptor that becomes readable when the limit is reached, because v1 kills one process
    /// and leaves the rest (v2 has `memory.oom.group`).
    ///
    /// # Errors
    /// Those of the kernel (cgroup-v1/memory.rst, section 9).
    pub(crate) fn watch_oom(&self) -> io::Result<Option<OwnedFd>> {
        use nix::sys::eventfd::{EfdFlags, EventFd};
        let Some(dir) = self.v1_dir_of(Controller::Memory) else {
            return Ok(None);
        };
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let control = File::open(dir.join("memory.oom_control"))?;
        let line = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
        write(&dir.join("cgroup.event_control"), &line)?;
        Ok(Some(event.into()))
    }

    /// Removes it: `false` while a process is in it.
    ///
    /// # Errors
    /// Those of rmdir(2) but `EBUSY`.
    pub(crate) fn remove(&self) -> io::Result<bool> {
        if let Some(dir) = self.v2_dir()
            && !remove_dir(&dir)?
        {
            return Ok(false);
        }
        for dir in self.v1_dirs() {
            if !remove_dir(&dir)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn below(&self, leaves: &Path) -> PathBuf {
        leaves.join(&self.name)
    }

    fn v2_dir(&self) -> Option<PathBuf> {
        self.dirs.v2.as_ref().map(|v2| self.below(&v2.leaves()))
    }

    pub(super) fn v2_dir_of(&self, controller: Controller) -> Option<PathBuf> {
        self.dirs.v2(controller).map(|v2| self.below(&v2.leaves()))
    }

    pub(super) fn v1_dir_of(&self, controller: Controller) -> Option<PathBuf> {
        self.dirs.v1(controller).map(|v1| self.below(&v1.leaves()))
    }

    fn v1_dirs(&self) -> Vec<PathBuf> {
        self.dirs.v1.iter().map(|v1| self.below(&v1.leaves())).collect()
    }
}
