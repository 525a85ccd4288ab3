//! Reads what the host is like. Everything outside of `/proc/self` is opened before the supervisor confines itself: afterwards
//! neither `/proc` nor `/sys/fs/cgroup` can be opened, but what is open can be read again from its beginning. Decides nothing.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};

use crate::admission::brownout::{Measures, memory_in_use};
use crate::function::facts;

/// Where cgroup v2 is mounted: alone, or beside v1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// Fewer waits than this in a sample count as if they were so many: one late timer of an idle supervisor is no emergency.
const FEW_WAITS: u64 = 4;

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Readings {
    /// What a brownout goes by.
    pub measures: Measures,
    /// CPU in use on the whole host, 0 to 1. Shown only: a busy host is no host in trouble.
    pub cpu_busy: f64,
    /// The part of the time for which a thread of the supervisor waited for a CPU, 0 to 1. Shown only.
    pub cpu_pressure: f64,
    /// The same for input and output. Shown only: no request waits for a disk.
    pub io_pressure: f64,
    /// Memory that can be had, in bytes.
    pub memory_available: u64,
    /// All of it, in bytes.
    pub memory_total: u64,
    /// Open descriptors of the supervisor.
    pub descriptors_open: u64,
    /// How many it may have.
    pub descriptors_limit: u64,
}

/// The files, and what they said last.
#[derive(Debug)]
pub struct Gauges {
    stat: File,
    meminfo: File,
    limited: Vec<Limited>,
    cpu: Option<Pressure>,
    memory: Option<Pressure>,
    io: Option<Pressure>,
    cpu_times: Option<(u64, u64)>,
    /// Time waited for a CPU in nanoseconds, and how often, of each thread.
    threads: HashMap<String, (u64, u64)>,
    at: Instant,
}

impl Gauges {
    /// Opens what is read later on.
    ///
    /// # Errors
    /// Without proc(5). What a kernel may lack is left out.
    pub fn open() -> io::Result<Gauges> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let dir = own_cgroup(&own);
        let pressure = |name: &str| Pressure::open(&dir.as_ref()?.join(name));
        Ok(Gauges {
            stat: File::open("/proc/stat")?,
            meminfo: File::open("/proc/meminfo")?,
            limited: dir.as_deref().map(limited).unwrap_or_default(),
            cpu: pressure("cpu.pressure"),
            memory: pressure("memory.pressure"),
            io: pressure("io.pressure"),
            cpu_times: None,
            threads: HashMap::new(),
            at: Instant::now(),
        })
    }

    /// What there is now, or was since the last reading. `late` is how much later than planned this is. What can't be read
    /// counts as well.
    pub fn read(&mut self, late: Duration) -> Readings {
        let now = Instant::now();
        let past = now.saturating_duration_since(self.at);
        self.at = now;
        let (memory_available, memory_total) = self.memory_left();
        let (descriptors_open, descriptors_limit) = descriptors();
        let mut of = |pressure: fn(&mut Gauges) -> &mut Option<Pressure>| {
            pressure(self)
                .as_mut()
                .map_or(0.0, |pressure| pressure.since(past))
        };
        let pressures = [of(|g| &mut g.cpu), of(|g| &mut g.memory), of(|g| &mut g.io)];
        Readings {
            measures: Measures {
                // Without CONFIG_SCHED_INFO its own lateness is what is left to go by.
                cpu_delay: self.cpu_delay().unwrap_or(late.as_secs_f64()),
                memory_pressure: pressures[1],
                memory: memory_in_use(memory_available, memory_total),
                descriptors: descriptors_open as f64 / descriptors_limit.max(1) as f64,
            },
            cpu_busy: self.cpu_busy(),
            cpu_pressure: pressures[0],
            io_pressure: pressures[2],
            memory_available,
            memory_total,
            descriptors_open,
            descriptors_limit,
        }
    }

    fn cpu_busy(&mut self) -> f64 {
        let times = facts::first(&self.stat, &mut [0; 4096]).and_then(facts::cpu_times);
        let before = std::mem::replace(&mut self.cpu_times, times);
        match (before, times) {
            (Some(before), Some(now)) => 1.0 - facts::idle_share(before, now),
            _ => 0.0,
        }
    }

    /// Of the host, or of a cgroup above that is allowed less: whichever has less left.
    fn memory_left(&self) -> (u64, u64) {
        let host = facts::first(&self.meminfo, &mut [0; 4096]).and_then(facts::memory);
        let limited = self.limited.iter().filter_map(Limited::left);
        let all = host.into_iter().chain(limited);
        all.min_by_key(|(available, _)| *available)
            .unwrap_or((u64::MAX, 0))
    }

    /// How long a thread of this process waited for a CPU each time it wanted one, in seconds, since the last reading.
    /// `None` where the kernel does not say (proc_pid_schedstat(5)).
    fn cpu_delay(&mut self) -> Option<f64> {
        let mut threads = HashMap::with_capacity(self.threads.len());
        let (mut waited, mut times) = (0, 0);
        for thread in fs::read_dir("/proc/self/task").ok()?.flatten() {
            let Some(now) = fs::read_to_string(thread.path().join("schedstat"))
                .ok()
                .and_then(|text| schedstat(&text))
            else {
                continue;
            };
            let id = thread.file_name().to_string_lossy().into_owned();
            // A thread that is new has not waited before.
            let before = self.threads.get(&id).copied().unwrap_or_default();
            waited += now.0.saturating_sub(before.0);
            times += now.1.saturating_sub(before.1);
            threads.insert(id, now);
        }
        let is_first = self.threads.is_empty();
        self.threads = threads;
        match () {
            () if self.threads.is_empty() => None,
            () if is_first => Some(0.0),
            () => Some(waited as f64 / 1e9 / times.max(FEW_WAITS) as f64),
        }
    }
}

/// Time on a CPU, time waited for one, how often it got one.
fn schedstat(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split_whitespace().skip(1).map_while(|n| n.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// One file of pressure stall information, of the supervisor's own cgroup: it has them also where all limits are v1.
#[derive(Debug)]
struct Pressure {
    file: File,
    total: Option<u64>,
}

impl Pressure {
    /// `None` where the kernel has none, or was started without.
    fn open(path: &Path) -> Option<Pressure> {
        let pressure = Pressure {
            file: File::open(path).ok()?,
            total: None,
        };
        pressure.read().map(|total| Pressure {
            total: Some(total),
            ..pressure
        })
    }

    fn read(&self) -> Option<u64> {
        facts::first(&self.file, &mut [0; 4096]).and_then(stalled)
    }

    /// The part of the time since the last call, 0 to 1, for which something was stalled.
    fn since(&mut self, past: Duration) -> f64 {
        let now = self.read();
        let before = std::mem::replace(&mut self.total, now);
        match (before, now) {
            (Some(before), Some(now)) if !past.is_zero() => {
                (now.saturating_sub(before) as f64 / past.as_micros() as f64).clamp(0.0, 1.0)
            }
            _ => 0.0,
        }
    }
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=123`, in microseconds (psi.rst).
fn stalled(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    line.split("total=").nth(1)?.trim().parse().ok()
}

/// A cgroup v2 that is allowed less memory than the host has, such as that of a service with `MemoryMax=`.
#[derive(Debug)]
struct Limited {
    max: u64,
    current: File,
    stat: File,
}

impl Limited {
    /// What is left of it, and all of it. File pages that nobody used lately count as left: the kernel takes them first.
    fn left(&self) -> Option<(u64, u64)> {
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let current = facts::first(&self.current, &mut [0; 4096]).and_then(number)?;
        let unused = facts::first(&self.stat, &mut [0; 4096])
            .and_then(|text| {
                text.lines()
                    .find_map(|line| number(line.strip_prefix("inactive_file ")?))
            })
            .unwrap_or(0);
        let used = current.saturating_sub(unused);
        Some((self.max.saturating_sub(used), self.max))
    }
}

fn limited(own: &Path) -> Vec<Limited> {
    let open = |dir: &Path| {
        Some(Limited {
            max: fs::read_to_string(dir.join("memory.max"))
                .ok()?
                .trim()
                .parse()
                .ok()?,
            current: File::open(dir.join("memory.current")).ok()?,
            stat: File::open(dir.join("memory.stat")).ok()?,
        })
    };
    own.ancestors().filter_map(open).collect()
}

/// The directory of this process's own cgroup v2; `/proc/self/cgroup` is given.
fn own_cgroup(text: &str) -> Option<PathBuf> {
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let dirs = MOUNTS.iter().map(|mount| Path::new(mount).join(own));
    dirs.into_iter().find(|dir| dir.join("cgroup.procs").exists())
}

/// How many descriptors are open, and may be.
fn descriptors() -> (u64, u64) {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    // Linux 6.2 tells the number as the size; before, each has to be counted.
    let open = match fs::metadata("/proc/self/fd").map_or(0, |fd| fd.len()) {
        0 => fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count() as u64),
        open => open,
    };
    (open, limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        assert_eq!(schedstat("100 2809262 3\n"), Some((2_809_262, 3)));
        assert_eq!(schedstat("100"), None);
        let text =
            "some avg10=0.17 avg60=0.47 avg300=0.60 total=957\nfull avg10=0.00 avg60=0 avg300=0 total=9";
        assert_eq!(stalled(text), Some(957));
        assert_eq!(stalled(""), None);
        assert_eq!(own_cgroup("9:name=systemd:/\n"), None, "v1 only");
    }

    #[test]
    fn a_limit_above_counts_without_what_can_be_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("memory.max", "1000\n");
        write("memory.current", "900\n");
        write("memory.stat", "anon 500\nfile 400\ninactive_file 300\n");
        let own = dir.path().join("supervisor");
        fs::create_dir(&own).unwrap();
        fs::write(own.join("memory.max"), "max\n").unwrap();
        let found = limited(&own);
        assert_eq!(found.len(), 1, "`max` is no limit");
        assert_eq!(found[0].left(), Some((400, 1000)));
    }

    #[test]
    fn this_host_can_be_read_and_open_descriptors_show() {
        let mut gauges = Gauges::open().unwrap();
        gauges.read(Duration::ZERO);
        let before = gauges.read(Duration::ZERO);
        let more: Vec<File> = (0..50).map(|_| File::open("/dev/null").unwrap()).collect();
        let after = gauges.read(Duration::ZERO);
        assert!(
            after.descriptors_open >= before.descriptors_open + 40,
            "{after:?}"
        );
        assert!(after.memory_total > 1 << 20 && after.memory_available <= after.memory_total);
        let measures = after.measures;
        for part in [measures.memory_pressure, measures.memory, measures.descriptors] {
            assert!((0.0..=1.0).contains(&part), "{measures:?}");
        }
        assert!(measures.cpu_delay >= 0.0);
        drop(more);
    }
}
