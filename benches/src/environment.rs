//! Where the numbers come from: kernel, CPU, cores, tick, C library, load. Never part of a verdict.

use std::fmt;
use std::fs;

use serde_json::{Value, json};

use crate::quiet;
use crate::{procfs, sys};

/// The machine, as one line.
#[derive(Debug)]
pub(crate) struct Environment {
    kernel: String,
    cpu: String,
    cores: usize,
    hz: u64,
    libc: String,
    load: String,
    user: &'static str,
}

impl Environment {
    /// Looks at this machine.
    pub(crate) fn read() -> Environment {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let unknown = || "unknown".to_string();
        let load = text("/proc/loadavg");
        Environment {
            kernel: text("/proc/sys/kernel/osrelease").trim().to_string(),
            cpu: procfs::cpu_model(&text("/proc/cpuinfo")).map_or_else(unknown, String::from),
            cores: quiet::cores(),
            hz: sys::tick_hz(),
            libc: sys::libc_version(),
            load: load.split(' ').next().map_or_else(unknown, String::from),
            user: if nix::unistd::geteuid().is_root() {
                "root"
            } else {
                "ordinary user"
            },
        }
    }

    /// For machines.
    pub(crate) fn json(&self) -> Value {
        json!({
            "kernel": self.kernel,
            "cpu": self.cpu,
            "cores": self.cores,
            "hz": self.hz,
            "libc": self.libc,
            "load_1m": self.load,
            "user": self.user,
        })
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Linux {}, {} ({} cores), HZ {}, {}, load {}, as {}",
            self.kernel, self.cpu, self.cores, self.hz, self.libc, self.load, self.user
        )
    }
}
