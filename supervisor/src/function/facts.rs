//! What the host has left, read from the kernel: opened before the supervisor confines itself, read again and again.
//! Decides nothing: [`super::room`] does.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::room::HostFacts;

/// Reads the host's facts.
#[derive(Debug)]
pub struct HostReader {
    stat: File,
    meminfo: File,
    /// Idle and all time of all cores at the last reading.
    last: Option<(u64, u64)>,
    /// The same for [`HostReader::idle_cores`].
    last_idle: Option<(u64, u64)>,
    cores: f64,
}

impl HostReader {
    /// Opens what is read later on.
    ///
    /// # Errors
    /// Without proc(5).
    pub fn open() -> io::Result<HostReader> {
        Ok(HostReader {
            stat: File::open("/proc/stat")?,
            meminfo: File::open("/proc/meminfo")?,
            last: None,
            last_idle: None,
            cores: std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64),
        })
    }

    /// How many cores were idle since this was asked last; `None`: not known.
    pub fn idle_cores(&mut self) -> Option<f64> {
        let times = first(&self.stat, &mut [0; 4096]).and_then(cpu_times)?;
        let before = self.last_idle.replace(times)?;
        Some(self.cores * idle_share(before, times))
    }

    /// What the host has left now; its idle CPU since the last reading. What can't be read holds nothing back.
    pub fn read(&mut self) -> HostFacts {
        let mut buffer = [0; 4096];
        let cpu_idle = first(&self.stat, &mut buffer)
            .and_then(cpu_times)
            .map_or(1.0, |times| {
                let before = self.last.replace(times);
                before.map_or(1.0, |before| idle_share(before, times))
            });
        let memory = first(&self.meminfo, &mut buffer).and_then(memory);
        let (memory_available, memory_total) = memory.unwrap_or((u64::MAX, 0));
        HostFacts {
            cores: self.cores,
            cpu_idle,
            memory_available,
            memory_total,
            brownout: false,
        }
    }
}

/// The beginning of a file: what is read of it stands there.
pub(crate) fn first<'a>(file: &File, buffer: &'a mut [u8; 4096]) -> Option<&'a str> {
    let length = file.read_at(buffer, 0).ok()?;
    let text = &buffer[..length];
    // A line cut short is none.
    let end = text.iter().rposition(|&byte| byte == b'\n')?;
    std::str::from_utf8(&text[..end]).ok()
}

/// Idle and all time of all cores, in ticks: `cpu user nice system idle iowait irq softirq steal …` (proc_stat(5)). The time of
/// guests is part of user's. What works at a positive nice value is not idle: in another cgroup it does not give way.
pub(crate) fn cpu_times(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let times: Vec<u64> = line.split_whitespace().map_while(|n| n.parse().ok()).collect();
    let idle = times.get(3)? + times.get(4)?;
    Some((idle, times.iter().take(8).sum()))
}

/// The part of the time between two readings that was idle, 0 to 1.
pub(crate) fn idle_share(before: (u64, u64), now: (u64, u64)) -> f64 {
    let (idle, all) = (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1));
    match all {
        // Read twice within a tick.
        0 => 1.0,
        all => (idle as f64 / all as f64).min(1.0),
    }
}

/// `MemAvailable` and `MemTotal`, in bytes (proc_meminfo(5)).
pub(crate) fn memory(meminfo: &str) -> Option<(u64, u64)> {
    let find = |key: &str| {
        let value = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
        let kib: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib * 1024)
    };
    Some((find("MemAvailable:")?, find("MemTotal:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let stat = "cpu  60 40 50 800 50 0 0 0 30 0\ncpu0 30 20 25 400 25 0 0 0 15 0\nintr 1 2 3";
        assert_eq!(cpu_times(stat), Some((850, 1000)));
        assert_eq!(idle_share((850, 1000), (875, 1100)), 0.25);
        assert_eq!(idle_share((850, 1000), (850, 1000)), 1.0);
        assert_eq!(cpu_times("btime 1"), None);
        let meminfo = "MemTotal:       8000 kB\nMemFree:  1 kB\nMemAvailable:    3000 kB";
        assert_eq!(memory(meminfo), Some((3000 * 1024, 8000 * 1024)));
    }

    #[test]
    fn this_host_has_memory() {
        let mut reader = HostReader::open().unwrap();
        reader.read();
        let facts = reader.read();
        assert!(
            (0.0..=1.0).contains(&facts.cpu_idle) && facts.cores >= 1.0,
            "{facts:?}"
        );
        assert!(
            facts.memory_available <= facts.memory_total && facts.memory_total > 1 << 20,
            "{facts:?}"
        );
    }
}
