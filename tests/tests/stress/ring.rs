//! The ring: a host with a neighbour that is served all the time, and one function that does its worst. What must hold
//! afterwards is checked in one place; and that each check can fail is tested here too.

use std::ops::Range;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use funcd_tests::eventually;
use funcd_tests::host::{Host, Plan};
use funcd_tests::need::Need;
use funcd_tests::process::Process;
use funcd_tests::suite::Suite;
use funcd_tests::traces::Traces;

use crate::pulse::{Beats, Pulse};
use crate::watch::{self, Peaks, Watch};

pub(crate) fn register(suite: &mut Suite) {
    const ROOT: &[Need] = &[Need::Root];
    funcd_tests::tests!(suite, "control", [
        what_is_left_is_found: ROOT,
        what_launcher_and_supervisor_hold_is_counted: ROOT,
        a_mistake_of_the_kernel_is_found,
    ]);
}

/// How many uids a host of these tests has.
const UIDS: u32 = 50;
/// How long the neighbour is asked with nothing else going on, before and after.
const QUIET: Duration = Duration::from_secs(2);
/// The name of the function that does its worst.
pub(crate) const WORST: &str = "worst";
/// Its limits.
pub(crate) const MANIFEST: &str = "
scale = { max = 1, concurrency = 2 }
limits = { memory = \"256M\", pids = 128, tmp = \"64M\", cpu = 1.0 }
request = { timeout = \"60s\" }
health = { stop_within = \"1s\" }
";
const MEMORY: u64 = 256 << 20;
const PIDS: u64 = 128;
/// What the kernel takes for itself beyond a limit rather than fail (`__GFP_NOFAIL`, cgroup-v2.rst on memory.max): pages.
const FORCED: u64 = 1 << 20;

/// A host with its neighbour, as it was before.
pub(crate) struct Ring {
    pub(crate) host: Host,
    uids: Range<u32>,
    supervisor: Process,
    neighbour: Process,
    traces: Traces,
    mistakes: Option<Vec<String>>,
    before: Beats,
    pub(crate) peaks: Arc<Peaks>,
    pulse: Option<Pulse>,
}

/// What was seen of one who did its worst.
pub(crate) struct Seen {
    pub(crate) peaks: Arc<Peaks>,
    pub(crate) neighbour: [Beats; 3],
}

/// A host whose functions have uids that no other host on this machine uses.
fn host() -> (Host, Range<u32>) {
    static HOSTS: AtomicU32 = AtomicU32::new(0);
    let number = HOSTS.fetch_add(1, Ordering::Relaxed) % 20;
    // Far from the default range, and another one for each test process.
    let first = 2_000_000_000 + std::process::id() % 1_000_000 * 1000 + number * UIDS;
    // One worker: each would keep a connection to the neighbour of its own, from whenever its first request came.
    let plan = Plan::new()
        .arguments(&["--workers", "1"])
        .variable("FUNCD_UID_FIRST", &first.to_string())
        .variable("FUNCD_UID_COUNT", &UIDS.to_string());
    let host = plan.start();
    (host, first..first + UIDS)
}

impl Ring {
    /// Deploys what does its worst once and takes it away again, so that whatever a first function leaves for good (a stored
    /// file, a uid) is there before.
    pub(crate) fn enter(executable: &Path, manifest: &str) -> Ring {
        let (host, uids) = host();
        host.deploy("neighbour", "hello", "scale = { min = 1, max = 1 }\n");
        host.get_ok("/neighbour/");
        let deploy = || {
            host.drop_folder(WORST, executable, manifest);
            host.wait_live(WORST);
            host.get_ok(&format!("/{WORST}/"));
        };
        deploy();
        host.remove(WORST);
        eventually("the first function to be gone", || gone(&host));
        let before = Pulse::of(host.address(), "/neighbour/", QUIET);
        let traces = settled(&host, &uids);
        deploy();
        Ring {
            supervisor: host.supervisor(),
            neighbour: host.instance("neighbour"),
            mistakes: watch::kernel_mistakes(),
            peaks: Arc::default(),
            pulse: Some(Pulse::start(host.address(), "/neighbour/")),
            uids,
            traces,
            before,
            host,
        }
    }

    /// Looks at the limits of the instance that there is now.
    pub(crate) fn watch(&self) -> Watch {
        // The one before may be about to end.
        let target = format!("/{WORST}/");
        self.host
            .wait_for(&target, "200", |answer| answer.status() == 200);
        Watch::of(&self.host, WORST, &self.peaks)
    }

    /// Takes the function away, and checks that nothing outside of its sandbox changed.
    pub(crate) fn leave(mut self) -> Seen {
        let during = self.pulse.take().expect("it runs until now").stop();
        let host = &self.host;
        host.remove(WORST);
        eventually("the function to be gone", || gone(host));
        eventually("nothing of the function to be left", || {
            match Traces::of(host, &self.uids).since(&self.traces) {
                left if left.is_empty() => Ok(()),
                left => Err(format!("{left:#?}")),
            }
        });
        let after = Pulse::of(host.address(), "/neighbour/", QUIET);
        for beats in [&self.before, &during, &after] {
            assert_eq!(
                beats.failures,
                Vec::<String>::new(),
                "the neighbour was not served"
            );
            assert!(beats.count() > 100, "{} requests show nothing", beats.count());
        }
        assert!(
            host.launcher().is_alive() && self.supervisor == host.supervisor(),
            "launcher and supervisor are the same as before\n{}",
            host.log_tail()
        );
        assert_eq!(
            self.neighbour,
            host.instance("neighbour"),
            "the neighbour is the same as before"
        );
        let (memory, pids) = (
            self.peaks.memory.load(Ordering::Relaxed),
            self.peaks.pids.load(Ordering::Relaxed),
        );
        assert!(memory > 0 && pids > 0, "nothing was seen of its limits");
        assert!(
            memory <= MEMORY + FORCED && pids <= PIDS,
            "{memory} bytes, {pids} processes"
        );
        if let (Some(before), Some(after)) = (&self.mistakes, watch::kernel_mistakes()) {
            // Old lines fall out of the log; new ones come last.
            let new: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
            assert!(
                new.is_empty(),
                "the kernel tells of a mistake of its own: {new:#?}"
            );
        }
        Seen {
            peaks: self.peaks,
            neighbour: [self.before, during, after],
        }
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [memory, pids] = [&self.peaks.memory, &self.peaks.pids].map(|peak| peak.load(Ordering::Relaxed));
        writeln!(
            f,
            "  at most {} of {} MiB, {pids} of {PIDS} processes",
            memory >> 20,
            MEMORY >> 20
        )?;
        let name = ["before", "meanwhile", "after"];
        for (name, beats) in name.iter().zip(&self.neighbour) {
            let [p50, p99] = beats.percentiles().map(|time| time.as_micros());
            let [net50, net99] = beats.net_percentiles().map(|time| time.as_micros());
            writeln!(
                f,
                "  the neighbour {name}: {} requests, {} failed, p50 {p50} µs, p99 {p99} µs; without what its caller itself waited for \
                 a CPU {net50} µs, {net99} µs",
                beats.count(),
                beats.failures.len()
            )?;
        }
        Ok(())
    }
}

fn gone(host: &Host) -> Result<(), String> {
    let instances = host.instances(WORST);
    match (host.entry(WORST), instances.as_slice()) {
        (None, []) => Ok(()),
        (entry, some) => Err(format!("{entry:?} {some:?}")),
    }
}

/// What there is once it stays the same: the launcher makes things ahead in its own time.
fn settled(host: &Host, uids: &Range<u32>) -> Traces {
    let mut last = Traces::of(host, uids);
    eventually("the host to be at rest", || {
        let now = Traces::of(host, uids);
        let same = now == last;
        let changed = now.since(&last);
        last = now;
        if same {
            Ok(last.clone())
        } else {
            Err(format!("{changed:?}"))
        }
    })
}

// The controls: each kind of leftover is found when it is there.

/// Runs a command as `uid`, to its end.
fn run_as(uid: u32, script: &str) -> String {
    let output = Command::new("/usr/bin/python3")
        .args(["-c", script])
        .uid(uid)
        .gid(uid)
        .current_dir("/")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn what_is_left_is_found() {
    let uid = 1_999_000_000 + std::process::id() % 100_000;
    let uids = uid..uid + 1;
    let before = Traces::of_uids(&uids);
    let found = |what: &str, prefix: &str| {
        let since = Traces::of_uids(&uids).since(&before);
        assert!(
            since.iter().any(|trace| trace.starts_with(prefix)),
            "{what} is not found: {since:#?}"
        );
    };
    let mut process = Command::new("sleep").arg("60").uid(uid).gid(uid).spawn().unwrap();
    found("a process", "process ");
    process.kill().unwrap();
    process.wait().unwrap();

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("left");
    std::fs::write(&file, "").unwrap();
    chown(&file, Some(uid), Some(uid)).unwrap();
    found("a file", "file ");
    std::fs::remove_file(&file).unwrap();

    // shmget(IPC_PRIVATE, 4096, 0600), then shmctl(IPC_RMID) by whoever may.
    let shm = "import ctypes; print(ctypes.CDLL(None).shmget(0, 4096, 0o600))";
    let id = run_as(uid, shm);
    found("shared memory", "System V shm");
    let remove = format!(
        "import ctypes; print(ctypes.CDLL(None).shmctl({}, 0, None))",
        id.trim()
    );
    run_as(uid, &remove);

    // Its queue is in the namespace of this process, which the file system shows.
    let queue =
        "import ctypes; c = ctypes.CDLL('librt.so.1'); print(c.mq_open(b'/funcd-left', 0o102, 0o600, None))";
    assert_ne!(run_as(uid, queue).trim(), "-1");
    found("a message queue", "message queue");
    let remove = "import ctypes; c = ctypes.CDLL('librt.so.1'); print(c.mq_unlink(b'/funcd-left'))";
    assert_eq!(run_as(uid, remove).trim(), "0");

    // Into the keyring of the user, which outlives its processes: KEY_SPEC_USER_KEYRING, keyctl(KEYCTL_CLEAR).
    let (add, clear) = key_calls();
    assert_ne!(run_as(uid, &add).trim(), "-1");
    found("a key", "/proc/key-users");
    assert_eq!(run_as(uid, &clear).trim(), "0");

    mount_in(folder.path());
    found("a mount", "mount ");
    unmount(folder.path());

    let since = Traces::of_uids(&uids).since(&before);
    let left: Vec<_> = since
        .iter()
        .filter(|trace| !trace.starts_with("/proc/key"))
        .collect();
    assert!(left.is_empty(), "what was planted is gone again: {left:#?}");
}

/// Python has no keyrings of its own.
fn key_calls() -> (String, String) {
    let call = |arguments: String| format!("import ctypes; print(ctypes.CDLL(None).syscall({arguments}))");
    let (add_key, keyctl) = (nix::libc::SYS_add_key, nix::libc::SYS_keyctl);
    (
        call(format!("{add_key}, b'user', b'funcd-left', b'x', 1, -4")),
        call(format!("{keyctl}, 7, -4")),
    )
}

fn mount_in(folder: &Path) {
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "funcd-test"])
        .arg(folder)
        .status();
    assert!(mounted.unwrap().success());
}

fn unmount(folder: &Path) {
    assert!(Command::new("umount").arg(folder).status().unwrap().success());
}

fn what_launcher_and_supervisor_hold_is_counted() {
    let (host, uids) = host();
    let before = settled(&host, &uids);
    // A function that runs is all that a stopped one must not leave: its process, its cgroups, its descriptors.
    host.deploy(WORST, "hello", "");
    host.get_ok(&format!("/{WORST}/"));
    let since = Traces::of(&host, &uids).since(&before);
    for kind in [
        "process ",
        "net namespace",
        "cgroups in",
        "launcher: descriptor",
        "an entry of run/i",
    ] {
        assert!(
            since.iter().any(|trace| trace.starts_with(kind)),
            "{kind}: {since:#?}"
        );
    }
}

fn a_mistake_of_the_kernel_is_found() {
    let log = "[1.0] BUG: unable to handle page fault for address: 0\n[2.0] Memory cgroup out of memory\n\
               [3.0] general protection fault, probably for non-canonical address 0xdead\n\
               [4.0] traps: fuzzer[7] general protection fault ip:1 sp:2 error:0 in fuzzer\n";
    assert_eq!(watch::mistakes_in(log).len(), 2);
}
