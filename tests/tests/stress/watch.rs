//! What must hold around a function that does its worst, and what it used: limits, from its own cgroups; the kernel's log.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use funcd_tests::host::Host;

/// Between looks at counters that have no peak of their own.
const GLANCE: Duration = Duration::from_millis(3);

/// The most that an instance had.
#[derive(Debug, Default)]
pub(crate) struct Peaks {
    pub(crate) memory: AtomicU64,
    pub(crate) pids: AtomicU64,
}

/// Looks at the cgroups of one instance until it is dropped.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    looker: Option<JoinHandle<()>>,
}

impl Watch {
    /// Of the one instance that the function has now.
    pub(crate) fn of(host: &Host, function: &str, peaks: &Arc<Peaks>) -> Watch {
        let paths: BTreeSet<String> = host.instance(function).cgroups().into_iter().collect();
        let leaf = paths
            .into_iter()
            .find(|path| path.contains("funcd-"))
            .expect("it is in a cgroup of its own");
        let hierarchies = fs::read_dir("/sys/fs/cgroup")
            .unwrap()
            .flatten()
            .map(|entry| entry.path());
        let roots = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]);
        let leaves: Vec<PathBuf> = roots
            .map(|root| root.join(leaf.trim_start_matches('/')))
            .filter(|path| path.is_dir())
            .collect();
        assert!(
            !leaves.is_empty(),
            "{leaf} is nowhere: limits would not be looked at"
        );
        let stop = Arc::new(AtomicBool::new(false));
        let (told, peaks) = (Arc::clone(&stop), Arc::clone(peaks));
        let look = move || {
            while !told.load(Ordering::Relaxed) {
                for leaf in &leaves {
                    look_at(leaf, &peaks);
                }
                std::thread::sleep(GLANCE);
            }
            leaves.iter().for_each(|leaf| look_at(leaf, &peaks));
        };
        Watch {
            stop,
            looker: Some(std::thread::spawn(look)),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(looker) = self.looker.take() {
            let _ = looker.join();
        }
    }
}

fn look_at(leaf: &Path, peaks: &Peaks) {
    let number = |file: &str| {
        let text = fs::read_to_string(leaf.join(file)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    for file in ["memory.max_usage_in_bytes", "memory.peak", "memory.current"] {
        peaks
            .memory
            .fetch_max(number(file).unwrap_or(0), Ordering::Relaxed);
    }
    for file in ["pids.current", "pids.peak"] {
        peaks.pids.fetch_max(number(file).unwrap_or(0), Ordering::Relaxed);
    }
}

/// The lines of the kernel's log that tell of a mistake of the kernel; `None` where it can't be read.
pub(crate) fn kernel_mistakes() -> Option<Vec<String>> {
    let output = Command::new("dmesg").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then(|| mistakes_in(&text))
}

pub(crate) fn mistakes_in(text: &str) -> Vec<String> {
    const SIGNS: [&str; 8] = [
        "Oops",
        "BUG:",
        "WARNING:",
        "kernel panic",
        "general protection fault",
        "soft lockup",
        "hung task",
        "blocked for more than",
    ];
    // `traps: name[pid] general protection fault ip:…` is a process's own, which it was killed for.
    let lines = text
        .lines()
        .filter(|line| !line.contains("traps: ") && SIGNS.iter().any(|sign| line.contains(sign)));
    lines.map(str::to_owned).collect()
}
