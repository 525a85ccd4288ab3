//! What a launcher and a supervisor hold on to: counted before and after, so that what grows with each start shows.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::failure::Outcome;
use crate::process::Memory;
use crate::procfs;

/// What is held may take a moment to be given back: cgroups that something was in, sockets of callers.
const PATIENCE: Duration = Duration::from_secs(10);
const GLANCE: Duration = Duration::from_millis(50);
/// Longer than what is swept regularly takes.
const REST: Duration = Duration::from_secs(6);

/// Everything that is counted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Holdings {
    /// Must not grow at all.
    pub(crate) counts: Vec<(String, u64)>,
    /// Bytes, of which a little more is no leak.
    pub(crate) memory: Vec<(String, u64)>,
    /// Of the whole machine, and of the kernel, which frees in its own time.
    pub(crate) machine: Vec<(String, u64)>,
}

/// Who is looked at.
#[derive(Debug)]
pub(crate) struct Holders<'a> {
    /// Name and pid; the first is the launcher.
    pub(crate) processes: Vec<(&'static str, i32)>,
    /// The run folder.
    pub(crate) run: &'a Path,
    /// The state folder.
    pub(crate) state: &'a Path,
}

impl Holders<'_> {
    /// What they hold now.
    ///
    /// # Errors
    /// A process that is gone.
    pub(crate) fn holdings(&self) -> Outcome<Holdings> {
        let mut counts = Vec::new();
        let mut memory = Vec::new();
        let mut namespaces = BTreeSet::new();
        for (name, pid) in &self.processes {
            let descriptors = links(&format!("/proc/{pid}/fd"));
            counts.push((format!("{name}: descriptors"), descriptors.len() as u64));
            // Namespaces that are held by a descriptor show as `net:[4026531840]`.
            namespaces.extend(descriptors.into_iter().filter(|link| link.contains(":[40")));
            namespaces.extend(links(&format!("/proc/{pid}/ns")));
            let held = Memory::of(*pid)?;
            memory.push((format!("{name}: resident memory"), held.rss));
        }
        let launcher = self.processes.first().map_or(0, |(_, pid)| *pid);
        let mounts = fs::read_to_string(format!("/proc/{launcher}/mountinfo")).unwrap_or_default();
        counts.extend([
            ("namespaces".to_owned(), namespaces.len() as u64),
            ("mounts".to_owned(), mounts.lines().count() as u64),
            (
                "cgroups".to_owned(),
                subtrees(launcher).iter().map(|root| folders(root)).sum(),
            ),
            ("sockets of instances".to_owned(), entries(&self.run.join("i"))),
            (
                "stored executables".to_owned(),
                entries(&self.state.join("store")),
            ),
            ("children of the launcher".to_owned(), children(launcher)),
        ]);
        Ok(Holdings {
            counts,
            memory,
            machine: machine(),
        })
    }

    /// What they hold once it stays the same: things are made ahead, and given back, a moment later.
    ///
    /// # Errors
    /// As [`Holders::holdings`].
    pub(crate) fn at_rest(&self) -> Outcome<Holdings> {
        let until = Instant::now() + PATIENCE;
        let (mut last, mut since) = (self.holdings()?, Instant::now());
        while since.elapsed() < REST && Instant::now() < until {
            std::thread::sleep(GLANCE);
            let now = self.holdings()?;
            if now.counts != last.counts {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(last)
    }

    /// What they hold once it is no more than `before`, or after a while.
    ///
    /// # Errors
    /// As [`Holders::holdings`].
    pub(crate) fn settled(&self, before: &Holdings) -> Outcome<Holdings> {
        let until = Instant::now() + PATIENCE;
        loop {
            let now = self.holdings()?;
            let more = now
                .counts
                .iter()
                .zip(&before.counts)
                .any(|(now, before)| now.1 > before.1);
            if !more || Instant::now() > until {
                return Ok(now);
            }
            std::thread::sleep(GLANCE);
        }
    }
}

/// Where the symbolic links in a folder of /proc lead.
fn links(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let target = |entry: fs::DirEntry| fs::read_link(entry.path()).ok();
    entries
        .filter_map(target)
        .map(|path| path.to_string_lossy().into_owned())
        .collect()
}

fn entries(folder: &Path) -> u64 {
    fs::read_dir(folder).map_or(0, |entries| entries.count() as u64)
}

fn children(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().count() as u64
}

/// The cgroups of a host, one in each hierarchy: that in which the launcher's own is.
fn subtrees(launcher: i32) -> Vec<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{launcher}/cgroup")).unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let roots = mounts.lines().filter(|mount| mount.contains(" - cgroup"));
    let roots: Vec<&str> = roots.filter_map(|mount| mount.split(' ').nth(4)).collect();
    let own = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let hosts: BTreeSet<&Path> = own.filter_map(|path| Path::new(path).parent()).collect();
    let named = hosts
        .into_iter()
        .filter(|path| path.to_string_lossy().contains("/funcd-"));
    named
        .flat_map(|path| {
            let below = path.strip_prefix("/").unwrap_or(path);
            roots.iter().map(move |root| Path::new(root).join(below))
        })
        .filter(|path| path.is_dir())
        .collect()
}

fn folders(root: &Path) -> u64 {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    1 + below.map(|entry| folders(&entry.path())).sum::<u64>()
}

fn machine() -> Vec<(String, u64)> {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let meminfo = text("/proc/meminfo");
    let mut facts: Vec<(String, u64)> = ["Slab", "Percpu", "KernelStack"]
        .iter()
        .filter_map(|key| Some((format!("{key}, bytes"), procfs::field(&meminfo, key)? * 1024)))
        .collect();
    for place in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        let stat = text(&format!("{place}/cgroup.stat"));
        let dying = stat
            .lines()
            .find_map(|line| line.strip_prefix("nr_dying_descendants "));
        facts.extend(dying.and_then(|count| Some(("dying cgroups (v2)".to_owned(), count.parse().ok()?))));
    }
    // Name, hierarchy, number of cgroups, dying ones too.
    let memory = text("/proc/cgroups");
    let count = memory
        .lines()
        .find_map(|line| line.strip_prefix("memory\t")?.split('\t').nth(1)?.parse().ok());
    facts.extend(count.map(|count| ("memory cgroups, dying ones too".to_owned(), count)));
    let keys = text("/proc/key-users");
    let root = keys.lines().find_map(|line| {
        line.trim_start()
            .strip_prefix("0:")?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    });
    facts.extend(root.map(|count| ("keys of root".to_owned(), count)));
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_more_is_seen() {
        let own = Holders {
            processes: vec![("own", std::process::id() as i32)],
            run: Path::new("/nonexistent"),
            state: Path::new("/nonexistent"),
        };
        let before = own.holdings().unwrap();
        let open: Vec<fs::File> = (0..50).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let after = own.holdings().unwrap();
        assert!(
            after.counts[0].1 >= before.counts[0].1 + 40,
            "{before:?} {after:?}"
        );
        drop(open);
    }
}
