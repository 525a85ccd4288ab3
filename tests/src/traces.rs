//! What functions may leave on the machine: everything that belongs to a range of uids, wherever it is, and what launcher and
//! supervisor hold for them. Only looks; a test compares what is there after with what was there before.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::host::Host;
use crate::process::{self, Process};

/// Folders that anybody may write to, or that hosts keep their own things in.
const FOLDERS: [&str; 5] = ["/tmp", "/var/tmp", "/dev/shm", "/run", "/var/lib"];
/// The kinds of namespaces, as /proc names them.
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// What there is: each kind of thing in words, and how many of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traces(BTreeMap<String, usize>);

impl Traces {
    /// What there is of these uids, and what this host holds.
    pub fn of(host: &Host, uids: &Range<u32>) -> Traces {
        let mut traces = Traces::of_uids(uids);
        let own = [
            ("launcher", host.launcher().clone()),
            ("supervisor", host.supervisor()),
        ];
        for (name, process) in own {
            traces.descriptors(name, &process);
        }
        traces.cgroups(host);
        for folder in ["run/i", "state/store", "functions"] {
            let entries = fs::read_dir(host.path().join(folder)).map_or(0, Iterator::count);
            traces.add(format!("an entry of {folder}"), entries);
        }
        traces
    }

    /// What there is of these uids: processes, files, System V objects, message queues, keys; and the machine's mounts.
    pub fn of_uids(uids: &Range<u32>) -> Traces {
        let mut traces = Traces::default();
        traces.processes(uids);
        for folder in FOLDERS {
            traces.files(Path::new(folder), uids);
        }
        traces.objects(uids);
        traces.queues(uids);
        traces.keys(uids);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for mount in mounts.lines() {
            traces.add(format!("mount {mount}"), 1);
        }
        traces
    }

    /// What is there now and was not before.
    pub fn since(&self, before: &Traces) -> Vec<String> {
        let more = |(what, count): (&String, &usize)| {
            let earlier = before.0.get(what).copied().unwrap_or(0);
            (*count > earlier).then(|| format!("{what}: {count}, before {earlier}"))
        };
        self.0.iter().filter_map(more).collect()
    }

    fn add(&mut self, what: String, count: usize) {
        *self.0.entry(what).or_default() += count;
    }

    fn processes(&mut self, uids: &Range<u32>) {
        let link = |pid: i32, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
        for process in process::everyone() {
            if process.uid().is_some_and(|uid| uids.contains(&uid)) {
                self.add(format!("process {}", process.describe()), 1);
                let kinds = NAMESPACES
                    .iter()
                    .filter(|kind| link(process.pid, kind) != link(1, kind));
                for kind in kinds {
                    self.add(format!("{kind} namespace of {}", process.pid), 1);
                }
            }
        }
    }

    fn files(&mut self, folder: &Path, uids: &Range<u32>) {
        // Others make and remove files meanwhile: what is gone is gone.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(metadata) = fs::symlink_metadata(entry.path()) else {
                continue;
            };
            if uids.contains(&metadata.uid()) || uids.contains(&metadata.gid()) {
                self.add(format!("file {}", entry.path().display()), 1);
            }
            if metadata.is_dir() {
                self.files(&entry.path(), uids);
            }
        }
    }

    /// System V shared memory, semaphores and message queues, by their owner and their maker.
    fn objects(&mut self, uids: &Range<u32>) {
        for kind in ["shm", "sem", "msg"] {
            let text = fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
            let mut lines = text.lines();
            let header: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
            let owners: Vec<usize> = ["uid", "cuid"]
                .iter()
                .filter_map(|name| header.iter().position(|column| column == name))
                .collect();
            for line in lines {
                let fields: Vec<&str> = line.split_whitespace().collect();
                let owner = |at: &usize| fields.get(*at)?.parse::<u32>().ok();
                if owners.iter().filter_map(owner).any(|uid| uids.contains(&uid)) {
                    self.add(format!("System V {kind} {line}"), 1);
                }
            }
        }
    }

    /// POSIX message queues: the file system that shows them is mounted where nobody else sees it.
    fn queues(&mut self, uids: &Range<u32>) {
        let script = "mount -t mqueue mqueue /mnt && ls -ln /mnt";
        let listed = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .output();
        let text = listed
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default();
        for line in text.lines() {
            let owner = line.split_whitespace().nth(2).and_then(|uid| uid.parse().ok());
            if owner.is_some_and(|uid| uids.contains(&uid)) {
                self.add(format!("message queue {line}"), 1);
            }
        }
    }

    fn keys(&mut self, uids: &Range<u32>) {
        // proc_keys(5): the owner is the sixth field; proc_key_users(5): the first.
        for (file, at) in [("/proc/keys", 5), ("/proc/key-users", 0)] {
            for line in fs::read_to_string(file).unwrap_or_default().lines() {
                let owner = line.split_whitespace().nth(at);
                let owner = owner.and_then(|uid| uid.trim_end_matches(':').parse().ok());
                if owner.is_some_and(|uid| uids.contains(&uid)) {
                    self.add(format!("{file}: {line}"), 1);
                }
            }
        }
    }

    /// Open descriptors by kind; those of namespaces keep these alive without a process.
    fn descriptors(&mut self, name: &str, process: &Process) {
        let folder = format!("/proc/{}/fd", process.pid);
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            let target = target.to_string_lossy();
            let kind = target.split_once(":[").map_or("file", |(kind, _)| kind);
            self.add(format!("{name}: descriptor of a {kind}"), 1);
        }
    }

    /// The cgroups of instances, whichever number they have.
    fn cgroups(&mut self, host: &Host) {
        for folder in host.belongings().cgroup_folders() {
            let leaves = fs::read_dir(folder.join("i")).into_iter().flatten().flatten();
            let leaves = leaves.filter(|leaf| leaf.path().is_dir());
            self.add(format!("cgroups in {}", folder.display()), leaves.count());
        }
    }
}
