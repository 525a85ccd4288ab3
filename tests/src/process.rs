//! Processes as the host sees them, read from /proc.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process that can't be mistaken for a later one with the same pid.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its pid on the host.
    pub pid: i32,
    /// When it started, in clock ticks since the machine did.
    pub started: u64,
}

/// What the tests need of `/proc/PID/stat`.
#[derive(Debug, Clone)]
struct Stat {
    command: String,
    state: char,
    parent: i32,
    started: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command may hold spaces and parentheses: fields are counted from the last ')'.
    let (head, tail) = text.rsplit_once(')')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    Some(Stat {
        command: head.split_once('(')?.1.to_owned(),
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

fn all() -> BTreeMap<i32, Stat> {
    let folders = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pids = folders.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, stat(pid)?))).collect()
}

impl Process {
    /// The process that has this pid now.
    pub fn of(pid: i32) -> Option<Process> {
        stat(pid).map(|stat| Process {
            pid,
            started: stat.started,
        })
    }

    /// Its name as `ps` shows it: the program's, or what it calls itself. Empty when it is gone.
    pub fn name(&self) -> String {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        name.trim_end().to_owned()
    }

    /// Whether it still runs; a zombie does not.
    pub fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started && !matches!(stat.state, 'Z' | 'X'))
    }

    /// Whether it is there at all, as a zombie too.
    pub fn is_there(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started)
    }

    /// Whether it has ended, and only the machine's init is yet to notice: what has lost its parent is init's to reap.
    pub fn is_left_to_init(&self) -> bool {
        stat(self.pid)
            .is_some_and(|stat| stat.started == self.started && stat.state == 'Z' && stat.parent == 1)
    }

    /// What each of its threads is doing: its name, its state, and where in the kernel it waits, as far as this user may see it.
    pub fn threads(&self) -> Vec<String> {
        let folders = fs::read_dir(format!("/proc/{}/task", self.pid));
        let folders = folders.into_iter().flatten().flatten().map(|entry| entry.path());
        let read = |file: PathBuf| fs::read_to_string(file).unwrap_or_default();
        let first = |text: String| text.lines().take(4).map(str::trim).collect::<Vec<_>>().join(" ");
        let described = folders.map(|thread| {
            let stat = read(thread.join("stat"));
            let state = stat.rsplit_once(") ").and_then(|(_, tail)| tail.chars().next());
            let (name, stack) = (
                first(read(thread.join("comm"))),
                first(read(thread.join("stack"))),
            );
            format!("{} {name} {} {stack}", self.pid, state.unwrap_or('-'))
        });
        described.collect()
    }

    /// Its children, grandchildren and so on.
    pub fn descendants(&self) -> Vec<Process> {
        let all = all();
        let mut found = vec![self.pid];
        let mut at = 0;
        while let Some(&parent) = found.get(at) {
            found.extend(
                all.iter()
                    .filter(|(_, stat)| stat.parent == parent)
                    .map(|(pid, _)| *pid),
            );
            at += 1;
        }
        let others = found.into_iter().skip(1);
        others
            .map(|pid| Process {
                pid,
                started: all[&pid].started,
            })
            .collect()
    }

    /// Its children whose arguments have this word, for example `supervisor`.
    pub fn children_with_argument(&self, word: &str) -> Vec<Process> {
        let has = |pid: i32| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            arguments
                .split(|byte| *byte == 0)
                .any(|argument| argument == word.as_bytes())
        };
        let children = all()
            .into_iter()
            .filter(|(_, stat)| stat.parent == self.pid && stat.state != 'Z');
        children
            .filter(|(pid, _)| has(*pid))
            .map(|(pid, stat)| Process {
                pid,
                started: stat.started,
            })
            .collect()
    }

    /// The paths of its cgroups, one for each hierarchy.
    pub fn cgroups(&self) -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/{}/cgroup", self.pid)).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.splitn(3, ':').nth(2))
            .map(str::to_owned)
            .collect()
    }

    /// Where their files may be, wherever the hierarchies are mounted as systemd does.
    pub fn cgroup_folders(&self) -> Vec<PathBuf> {
        let text = fs::read_to_string(format!("/proc/{}/cgroup", self.pid)).unwrap_or_default();
        let places = text.lines().flat_map(|line| {
            let mut words = line.splitn(3, ':').skip(1);
            let (controllers, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            ["", "/unified", &format!("/{controllers}")]
                .map(|mount| format!("/sys/fs/cgroup{mount}{path}").into())
        });
        places.collect()
    }

    /// Who lives in the same sandbox, itself included, found by mount namespace and cgroup: also who has left its parents.
    ///
    /// # Panics
    /// When neither tells it apart from this process, so that nothing could be found.
    pub fn companions(&self) -> Vec<Process> {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let here = namespace(std::process::id() as i32);
        let own_namespace = namespace(self.pid).filter(|own| Some(own) != here.as_ref());
        let mut own_cgroups = self.cgroups();
        own_cgroups.retain(|path| path.contains("funcd-"));
        assert!(
            own_namespace.is_some() || !own_cgroups.is_empty(),
            "{} has no sandbox",
            self.describe()
        );
        let shares = |process: &Process| {
            own_namespace.is_some() && namespace(process.pid) == own_namespace
                || process.cgroups().iter().any(|path| own_cgroups.contains(path))
        };
        let everyone = all().into_iter().map(|(pid, stat)| Process {
            pid,
            started: stat.started,
        });
        everyone.filter(shares).collect()
    }

    /// The CPU time that it used, in ticks of usually 10 ms; 0 when it is gone.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // After the name, which may hold anything: state is field 3, utime 14 and stime 15 (proc_pid_stat(5)).
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields = rest.split_whitespace().skip(11).take(2);
        fields.filter_map(|field| field.parse::<u64>().ok()).sum()
    }

    /// The uid that it runs as.
    pub fn uid(&self) -> Option<u32> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// What it is, for whoever reads a failure.
    pub fn describe(&self) -> String {
        match stat(self.pid) {
            Some(stat) => format!(
                "{} ({}, state {}, child of {})",
                self.pid, stat.command, stat.state, stat.parent
            ),
            None => format!("{} (gone)", self.pid),
        }
    }

    /// Sends a signal; a process that is gone already is fine.
    pub fn signal(&self, signal: Signal) {
        if self.is_there() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// Every process of the machine.
pub fn everyone() -> Vec<Process> {
    let process = |(pid, stat): (i32, Stat)| Process {
        pid,
        started: stat.started,
    };
    all().into_iter().map(process).collect()
}

/// The zombies among the children of a process.
pub fn zombies_of(parent: &Process) -> Vec<i32> {
    all()
        .into_iter()
        .filter(|(_, s)| s.parent == parent.pid && s.state == 'Z')
        .map(|(pid, _)| pid)
        .collect()
}
