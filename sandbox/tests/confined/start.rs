//! What the stories are told with: a start with the whole default profile, and what it said.

use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use funcd_sandbox::confine::{self, Confinement, Failure, Mounts, Progress, Spawned};
use funcd_sandbox::namespace::{self, Loopback};
use funcd_sandbox::probe::{self, ProbeInput};
use funcd_sandbox::rlimit;
use funcd_sandbox::spec::Limits;
use nix::sys::wait::WaitStatus;
use tempfile::TempDir;

pub(crate) const UID: u32 = 64_321;
pub(crate) const TMP_BYTES: u64 = 256 * 1024;

/// The static payload, compiled once for each run.
pub(crate) static PAYLOAD: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    let dir = open_directory();
    let path = dir.path().join("payload");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/confined/payload.c");
    let cc = Command::new("cc")
        .args(["-static", "-O1", "-w", "-o"])
        .arg(&path)
        .arg(source)
        .status();
    assert!(
        cc.expect("cc: install gcc and libc6-dev").success(),
        "cc could not compile {source}"
    );
    fs::set_permissions(&path, Permissions::from_mode(0o111)).unwrap();
    (dir, path)
});

pub(crate) fn open_directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    dir
}

/// The Landlock ABI of this kernel.
pub(crate) fn abi() -> Option<u32> {
    Some(probe::probe(&ProbeInput::default()).landlock_abi).filter(|abi| *abi > 0)
}

/// A start with the whole default profile, to be changed by the stories; owns what the confinement refers to.
pub(crate) struct Start {
    pub(crate) confinement: Confinement,
    pub(crate) output: File,
    pub(crate) _executable: File,
    pub(crate) _write_end: OwnedFd,
    pub(crate) _listener: UnixListener,
    pub(crate) _network: Option<OwnedFd>,
    pub(crate) _directory: TempDir,
}

/// Whether starts are prepared first, and then told to execute.
pub(crate) static AHEAD: AtomicBool = AtomicBool::new(false);

fn stand_by_and_go(confinement: &Confinement) -> Result<Spawned, Failure> {
    let (spawned, mut standby) = confine::stand_by(confinement)?;
    loop {
        match standby.progress() {
            Progress::Underway => std::thread::yield_now(),
            Progress::Ready(go) => {
                let name = fs::read_to_string(format!("/proc/{}/comm", spawned.pid)).unwrap();
                assert_eq!(name, "funcd-standby\n");
                assert_eq!(nix::unistd::write(&go, &[1]), Ok(1));
            }
            Progress::Executed => return Ok(spawned),
            Progress::Failed(failure) => {
                wait(&spawned);
                return Err(failure);
            }
        }
    }
}

pub(crate) struct Ended {
    pub(crate) text: String,
    pub(crate) status: WaitStatus,
    pub(crate) pid: i32,
    pub(crate) main: i32,
}

impl Start {
    pub(crate) fn new(executable: &Path) -> Start {
        let directory = open_directory();
        let executable = File::open(executable).unwrap();
        let (read_end, write_end) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        let network = namespace::network(Loopback::Down).ok();
        let staging = directory.path().join("staging");
        fs::create_dir(&staging).unwrap();
        let limits = Limits {
            memory_bytes: 0,
            cpu_millis: 0,
            cpu_idle: false,
            pids: 64,
            tmp_bytes: TMP_BYTES,
            files: 1024,
        };
        let confinement = Confinement {
            executable: executable.as_raw_fd(),
            artifact_path: None,
            args: vec![c"payload".into()],
            env: Vec::new(),
            stdin: None,
            stdout: write_end.as_raw_fd(),
            stderr: write_end.as_raw_fd(),
            listener: Some(listener.as_raw_fd()),
            exchange: None,
            takes_variables: false,
            cgroup: None,
            tasks: Vec::new(),
            network: network.as_ref().map(AsRawFd::as_raw_fd),
            loopback: false,
            read: Vec::new(),
            links: Vec::new(),
            write: Vec::new(),
            credentials: None,
            mounts: Some(Mounts {
                staging,
                tmp_bytes: TMP_BYTES,
                proc: false,
            }),
            pid_namespace: false,
            rlimits: rlimit::limits(&limits),
            identity: nix::unistd::geteuid().is_root().then_some((UID, UID)),
            landlock_abi: abi(),
            seccomp: true,
            first_out_of_memory: true,
        };
        Start {
            confinement,
            output: read_end.into(),
            _executable: executable,
            _write_end: write_end,
            _listener: listener,
            _network: network,
            _directory: directory,
        }
    }

    pub(crate) fn payload() -> Start {
        Start::new(&PAYLOAD.1)
    }

    pub(crate) fn args(mut self, args: &[&str]) -> Start {
        self.confinement.args = strings(args);
        self
    }

    pub(crate) fn env(mut self, env: &[&str]) -> Start {
        self.confinement.env = strings(env);
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Confinement)) -> Start {
        change(&mut self.confinement);
        self
    }

    pub(crate) fn system(self) -> Start {
        self.with(|c| {
            c.read = system_paths();
            c.mounts.as_mut().unwrap().proc = true;
        })
    }

    pub(crate) fn spawn(self) -> Result<(Spawned, File), Failure> {
        let spawned = match AHEAD.load(Ordering::Relaxed) && !self.confinement.pid_namespace {
            false => confine::spawn(&self.confinement)?,
            true => stand_by_and_go(&self.confinement)?,
        };
        Ok((spawned, self.output))
    }

    /// Starts it and reads what it says to the end.
    pub(crate) fn run(self) -> Ended {
        let (spawned, mut output) = self.spawn().unwrap();
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        Ended {
            text,
            status: wait(&spawned),
            pid: spawned.pid,
            main: spawned.main,
        }
    }
}

/// What a dynamic executable or a script needs to see.
pub(crate) fn system_paths() -> Vec<PathBuf> {
    let paths = [
        "/usr",
        "/lib",
        "/lib64",
        "/bin",
        "/etc/ld.so.cache",
        "/etc/alternatives",
    ];
    paths
        .iter()
        .map(PathBuf::from)
        .filter(|path| path.exists())
        .collect()
}

pub(crate) fn strings(list: &[&str]) -> Vec<CString> {
    list.iter().map(|text| CString::new(*text).unwrap()).collect()
}

pub(crate) fn wait(spawned: &Spawned) -> WaitStatus {
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(spawned.pid), None).unwrap()
}

impl Ended {
    /// What another process said.
    pub(crate) fn said(text: String) -> Ended {
        Ended {
            text,
            status: WaitStatus::StillAlive,
            pid: 0,
            main: 0,
        }
    }

    /// The value of a fact.
    pub(crate) fn fact(&self, name: &str) -> &str {
        let line = self
            .text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no fact {name:?} in:\n{}", self.text))
    }

    #[track_caller]
    pub(crate) fn expect(&self, facts: &[(&str, &str)]) {
        for (name, value) in facts {
            assert_eq!(self.fact(name), *value, "{name}");
        }
    }
}

/// Runs this binary again in another role and returns what it printed.
pub(crate) fn again(role: &str, command: impl FnOnce(&mut Command)) -> String {
    let dir = open_directory();
    let copy = dir.path().join("confined");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
    let mut again = Command::new(&copy);
    again
        .env("FUNCD_TEST_ROLE", role)
        .env("TMPDIR", dir.path())
        .current_dir("/");
    if AHEAD.load(Ordering::Relaxed) {
        again.env("FUNCD_TEST_AHEAD", "1");
    }
    command(&mut again);
    if nix::unistd::geteuid().is_root() {
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    }
    let output = again.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}
