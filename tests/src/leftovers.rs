//! What a host must not leave behind: processes, cgroups, mounts.

use std::fs;
use std::path::{Path, PathBuf};

use crate::process::Process;

/// What belongs to a host while it runs.
#[derive(Debug, Default)]
pub struct Belongings {
    processes: Vec<Process>,
    cgroups: Vec<String>,
    folder: PathBuf,
}

impl Belongings {
    /// Everything that belongs to the host with this launcher and folder now.
    pub fn of(launcher: &Process, folder: &Path) -> Belongings {
        let mut processes = launcher.descendants();
        processes.push(launcher.clone());
        // The whole subtree of the host, whatever leaves it has.
        let subtree = |path: String| {
            let at = path.split('/').position(|part| part.starts_with("funcd-"))?;
            Some(path.split('/').take(at + 1).collect::<Vec<_>>().join("/"))
        };
        let mut cgroups: Vec<String> = processes
            .iter()
            .flat_map(Process::cgroups)
            .filter_map(subtree)
            .collect();
        cgroups.sort();
        cgroups.dedup();
        Belongings {
            processes,
            cgroups,
            folder: folder.to_owned(),
        }
    }

    /// Those of its cgroups that exist, one or none in each hierarchy.
    pub fn cgroup_folders(&self) -> Vec<PathBuf> {
        let of_hierarchy = |hierarchy: PathBuf| {
            let paths = self.cgroups.iter();
            paths
                .map(|path| hierarchy.join(path.trim_start_matches('/')))
                .filter(|path| path.exists())
                .collect::<Vec<_>>()
        };
        hierarchies().into_iter().flat_map(of_hierarchy).collect()
    }

    /// What its threads are doing, and what the machine is short of: for whoever reads why a test gave up.
    pub fn doing(&self) -> String {
        let threads = self.processes.iter().flat_map(Process::threads);
        let short_of = ["loadavg", "pressure/cpu", "pressure/io", "pressure/memory"];
        let machine = short_of.iter().map(|file| {
            let text = fs::read_to_string(Path::new("/proc").join(file)).unwrap_or_default();
            format!("{file}: {}", text.trim_end().replace('\n', ", "))
        });
        threads.chain(machine).collect::<Vec<_>>().join("\n")
    }

    /// What of it is still there, in words.
    pub fn left(&self) -> Vec<String> {
        let is_left = |process: &&Process| process.is_there() && !process.is_left_to_init();
        let alive = self.processes.iter().filter(is_left);
        let mut left: Vec<String> = alive
            .map(|process| format!("process {}", process.describe()))
            .collect();
        let cgroups = self.cgroup_folders().into_iter();
        left.extend(cgroups.map(|path| format!("cgroup {}", path.display())));
        let folder = self.folder.to_string_lossy();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        left.extend(
            mounts
                .lines()
                .filter(|m| m.contains(&*folder))
                .map(|mount| format!("mount {mount}")),
        );
        left
    }
}

/// Where cgroup hierarchies are mounted.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let fields = mounts
        .lines()
        .filter_map(|line| Some((line.split(' ').nth(4)?, line.split_once(" - ")?.1)));
    fields
        .filter(|(_, kind)| kind.starts_with("cgroup"))
        .map(|(path, _)| path.into())
        .collect()
}
