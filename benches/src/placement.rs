//! Who runs on which core. Without a say in that the kernel places the same processes differently from run to run, and
//! whether a wake-up crosses cores costs more than what is compared.

use std::fs;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::failure::{During, Failure, Outcome};

/// Where client, proxy and function may run; the same for every contender.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Placement {
    /// Wherever the kernel likes, as where nobody says otherwise.
    Free,
    /// On these two cores, which are one core on a machine that has only one.
    Pinned(Cores),
}

/// Two cores of those that this process may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cores {
    one: usize,
    other: usize,
}

impl Cores {
    /// The first two.
    ///
    /// # Errors
    /// What the kernel says to the question.
    pub(crate) fn of_this_process() -> Outcome<Cores> {
        let allowed = sched_getaffinity(Pid::this()).during("asking for the cores of this process")?;
        let mut cores = (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false));
        let one = cores
            .next()
            .ok_or_else(|| Failure("this process may use no core".into()))?;
        Ok(Cores {
            one,
            other: cores.next().unwrap_or(one),
        })
    }
}

impl Placement {
    /// One connection: all share a core, so that what is timed is the path and not the kernel's choice.
    ///
    /// # Errors
    /// A process that is gone.
    pub(crate) fn alone(self, proxy: &[i32], function: &[i32]) -> Outcome<()> {
        self.place(proxy, |cores| cores.one)?;
        self.place_others(function)
    }

    /// Many connections: the proxy has a core to itself, which it fills.
    ///
    /// # Errors
    /// A process that is gone.
    pub(crate) fn many(self, proxy: &[i32], function: &[i32]) -> Outcome<()> {
        self.place(proxy, |cores| cores.other)?;
        self.place_others(function)
    }

    /// Client and function.
    fn place_others(self, function: &[i32]) -> Outcome<()> {
        self.place(function, |cores| cores.one)?;
        self.place(&[Pid::this().as_raw()], |cores| cores.one)
    }

    fn place(self, processes: &[i32], core: impl Fn(Cores) -> usize) -> Outcome<()> {
        let Placement::Pinned(cores) = self else {
            return Ok(());
        };
        let mut set = CpuSet::new();
        set.set(core(cores)).during("choosing a core")?;
        for process in processes {
            pin(*process, &set)?;
        }
        Ok(())
    }
}

/// Every thread of a process: each has its own say.
fn pin(process: i32, set: &CpuSet) -> Outcome<()> {
    let tasks = format!("/proc/{process}/task");
    for task in fs::read_dir(&tasks).during(format!("listing {tasks}"))? {
        let name = task.during(format!("listing {tasks}"))?.file_name();
        let thread = name.to_str().and_then(|name| name.parse().ok());
        let thread = thread.ok_or_else(|| Failure(format!("{tasks} lists {name:?}")))?;
        sched_setaffinity(Pid::from_raw(thread), set).during(format!("pinning {process}"))?;
    }
    Ok(())
}

/// Holds where this process may run, and returns there when dropped.
#[derive(Debug)]
pub(crate) struct Home(CpuSet);

impl Home {
    /// Wherever it may run now.
    ///
    /// # Errors
    /// What the kernel says to the question.
    pub(crate) fn of_this_process() -> Outcome<Home> {
        sched_getaffinity(Pid::this())
            .map(Home)
            .during("asking for the cores of this process")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = pin(Pid::this().as_raw(), &self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_pinned_process_may_use_one_core_and_a_free_one_is_left_alone() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id() as i32;
        let allowed = || {
            let set = sched_getaffinity(Pid::from_raw(pid)).unwrap();
            let cores = (0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap());
            cores.collect::<Vec<_>>()
        };
        let before = allowed();
        let cores = Cores::of_this_process().unwrap();
        Placement::Free.place(&[pid], |cores| cores.other).unwrap();
        assert_eq!(allowed(), before);
        let pinned = Placement::Pinned(cores);
        pinned.place(&[pid], |cores| cores.other).unwrap();
        assert_eq!(allowed(), [cores.other]);
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
