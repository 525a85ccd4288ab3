//! `cargo run -p xtask -- vm [SUITE…]`: funcd as users install it, on machines with systemd and cgroup v2 alone, under QEMU.
//! What is tested there is written in tests/vm; here the machines are built, booted, fed, asked from outside, and what
//! came is reported. Never measures: everything is emulated.

mod caller;
mod cpio;
mod dialogue;
mod guide;
mod image;
mod machine;
mod payload;
mod report;
mod suites;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use crate::run::target;
use image::{Image, Release};
use report::Report;

/// Runs the tests on a real systemd and cgroup v2 under QEMU.
#[derive(Debug, clap::Args)]
pub(crate) struct Vm {
    /// What to test (all of it): see --list.
    suites: Vec<String>,
    /// On which releases of Debian (both).
    #[arg(long = "release", value_enum, value_delimiter = ',')]
    releases: Vec<Release>,
    /// Package this executable instead of one that is built now, with the release profile.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Give up on a release after so many seconds.
    #[arg(long, value_name = "S", default_value_t = 900)]
    timeout: u64,
    /// So many machines at once; each takes a core and 1.3 GB.
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// Write what came as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Show all that the guests say, not only what they checked.
    #[arg(long)]
    verbose: bool,
    /// Build new images even if there are some of this week.
    #[arg(long)]
    fresh: bool,
    /// Name the suites and end.
    #[arg(long)]
    list: bool,
}

/// A check failed.
const FAILED: u8 = 1;
/// A release took longer than it may.
const TIMED_OUT: u8 = 124;
/// A virtual machine could not be made, or ended before its tests did: says nothing of funcd.
const DIED: u8 = 125;

impl Vm {
    /// Does it. Exits with 0 when every check held, 1 when one did not, 124 after a time-out, 125 when a virtual
    /// machine died or could not be made.
    ///
    /// # Errors
    /// What, where, why and what to do.
    pub(crate) fn run(self) -> Result<ExitCode, String> {
        if self.list {
            suites::list();
            return Ok(ExitCode::SUCCESS);
        }
        let steps = suites::steps(&self.suites)?;
        if let Some(missing) = missing_program() {
            return if std::env::var("FUNCD_TEST_REQUIRE").is_ok_and(|what| what == "all") {
                Err(format!(
                    "vm needs {missing}, and FUNCD_TEST_REQUIRE=all allows no skip"
                ))
            } else {
                println!("skipped: vm: needs {missing}");
                Ok(ExitCode::SUCCESS)
            };
        }
        let folder = target().join("vm");
        fs::create_dir_all(&folder).map_err(|why| format!("{}: {why}", folder.display()))?;
        // Two at once would share disks, and the machine has no room for two.
        let lock = fs::File::create(folder.join("lock")).and_then(|file| file.lock().map(|()| file));
        let _lock = lock.map_err(|why| format!("{}: {why}", folder.join("lock").display()))?;
        let releases = match self.releases.is_empty() {
            true => vec![Release::Bookworm, Release::Trixie],
            false => self.releases.clone(),
        };
        let began = Instant::now();
        let mut images = Vec::new();
        for release in releases {
            match image::ready(&folder, release, self.fresh) {
                Ok(image) => images.push(image),
                // No mirror, no room: nothing was tested.
                Err(why) => {
                    eprintln!("vm: {why}");
                    return Ok(ExitCode::from(DIED));
                }
            }
        }
        let building = Instant::now();
        let payload = payload::stage(&folder, self.binary.as_deref())?;
        println!("payload staged in {} s", building.elapsed().as_secs());
        let limit = Duration::from_secs(self.timeout);
        let hold = |image: &Image| dialogue::hold(image, &payload, &steps, limit, self.verbose);
        let mut report = Report::default();
        let mut worst = 0;
        for few in images.chunks(self.jobs.max(1)) {
            let held: Vec<_> = thread::scope(|scope| {
                let begun: Vec<_> = few.iter().map(|image| scope.spawn(|| hold(image))).collect();
                begun.into_iter().map(|one| one.join()).collect()
            });
            for one in held {
                let (ended, came) = one.map_err(|_| "a thread panicked: look above".to_owned())??;
                report = report.and(came);
                worst = worst.max(match ended {
                    dialogue::Ended::Done => 0,
                    dialogue::Ended::TimedOut => TIMED_OUT,
                    dialogue::Ended::Died => DIED,
                });
            }
        }
        print!("{}", report.table());
        fs::write(folder.join("report.txt"), report.table()).map_err(|why| format!("report.txt: {why}"))?;
        if let Some(junit) = &self.junit {
            fs::write(junit, report.junit()).map_err(|why| format!("{}: {why}", junit.display()))?;
        }
        println!(
            "vm: {} s in all; logs in {}",
            began.elapsed().as_secs(),
            folder.display()
        );
        if worst == 0 && report.has_failed() {
            worst = FAILED;
        }
        Ok(ExitCode::from(worst))
    }
}

/// A program that can't be done without and is not here.
fn missing_program() -> Option<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &str| {
        std::env::split_paths(&path)
            .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
            .any(|folder| folder.join(name).is_file())
    };
    ["qemu-system-x86_64", "mmdebstrap", "mke2fs", "xz", "tar"]
        .into_iter()
        .find(|name| !there(name))
}

/// Runs a command; its output is shown only when it fails.
///
/// # Errors
/// The command, how it ended and the end of what it said.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|why| format!("{command:?} can't be run: {why}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let lines: Vec<&str> = said.lines().collect();
    let end = lines[lines.len().saturating_sub(30)..].join("\n");
    Err(format!("{command:?} failed, {}:\n{end}", output.status))
}
