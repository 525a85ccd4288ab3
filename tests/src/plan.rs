//! How a host is to be started: its folders, flags and environment; and the start itself, until it is ready or has refused.

use std::fs::{self, File, Permissions};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;

use tempfile::TempDir;

use crate::host::Host;
use crate::http::{Connection, Request};
use crate::process::Process;
use crate::{artifacts, eventually, need, until};

/// How a host is to be started.
#[derive(Debug)]
pub struct Plan {
    pub(crate) folder: TempDir,
    pub(crate) log: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) open_files: Option<u64>,
    pub(crate) given: Option<(OwnedFd, String)>,
    /// The command that starts it, before its own; empty: nobody but the test.
    pub(crate) through: Vec<String>,
    /// Whether it runs from a copy of funcd in its own folder.
    pub(crate) own_program: bool,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan::new()
    }
}

impl Plan {
    /// A host with every default.
    ///
    /// # Panics
    /// When there is no place for temporary files.
    pub fn new() -> Plan {
        let folder = tempfile::Builder::new()
            .prefix("funcd-test-")
            .tempdir()
            .expect("a place for temporary files");
        // Whatever the umask: funcd refuses a folder that others may write to, and functions walk to their volumes.
        for (path, mode) in [
            (folder.path().join("functions"), 0o755),
            (folder.path().to_owned(), 0o711),
        ] {
            let _ = fs::create_dir(&path);
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("the folder is ours");
        }
        Plan {
            log: folder.path().join("log"),
            folder,
            arguments: Vec::new(),
            environment: Vec::new(),
            open_files: None,
            given: None,
            through: Vec::new(),
            own_program: false,
        }
    }

    /// With another file for what it writes to stdout and stderr; it is not looked at.
    pub fn log_to(mut self, file: &str) -> Plan {
        self.log = file.into();
        self
    }

    /// With more arguments to `funcd serve`.
    pub fn arguments(mut self, arguments: &[&str]) -> Plan {
        self.arguments
            .extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// With a variable in its environment.
    pub fn variable(mut self, name: &str, value: &str) -> Plan {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// From a copy of funcd in its own folder, which a test may replace: `funcd`.
    ///
    /// # Panics
    /// When it can't be copied.
    pub fn own_program(mut self) -> Plan {
        self.own_program = true;
        put_program(self.path(), &artifacts::funcd());
        self
    }

    /// With at most so many open descriptors in each of its processes; takes prlimit(1).
    pub fn open_files(mut self, most: u64) -> Plan {
        self.open_files = Some(most);
        self
    }

    /// Started by a command that gets the host's own as its last arguments.
    pub fn through(mut self, command: &[&str]) -> Plan {
        self.through = command.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// With a descriptor from a service manager, by this name.
    pub fn given(mut self, fd: OwnedFd, name: &str) -> Plan {
        self.given = Some((fd, name.to_owned()));
        self
    }

    /// The host's own folder: `functions`, `state`, `run`, `log`, and whatever a test puts there.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The command that starts it.
    fn command(&mut self) -> Command {
        let at = |name: &str| self.folder.path().join(name);
        let program = match self.own_program {
            true => at("funcd"),
            false => artifacts::funcd(),
        };
        let limit = self.open_files.map(|most| format!("--nofile={most}:{most}"));
        let mut command = match (limit, self.through.split_first()) {
            // It executes what it is given: the pid stays.
            (Some(limit), _) => {
                let mut limited = Command::new("prlimit");
                limited.arg(limit).arg(program);
                limited
            }
            (None, Some((first, others))) => {
                let mut starter = Command::new(first);
                starter.args(others).arg(program);
                starter
            }
            (None, None) => Command::new(program),
        };
        let given = self.given.take();
        if given.is_some() {
            // A service manager in one line: descriptor 3, and the pid of who is meant.
            const MANAGER: &str = r#"exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@""#;
            let words = std::iter::once(command.get_program()).chain(command.get_args());
            let mut manager = Command::new("/bin/sh");
            manager.arg("-c").arg(MANAGER).args(words);
            command = manager;
        }
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .envs(self.environment.iter().cloned());
        command
            .arg("serve")
            .arg("--functions")
            .arg(at("functions"))
            .arg("--state")
            .arg(at("state"));
        command
            .arg("--run")
            .arg(at("run"))
            .arg("--admin")
            .arg(at("run/admin.sock"));
        command.arg("--secrets").arg(at("secrets"));
        if !self.arguments.iter().any(|argument| argument == "--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(["--admin-listen", "127.0.0.1:0"]);
        for property in need::missing_properties() {
            command.args(["--degraded", property]);
        }
        command.args(&self.arguments).stdin(Stdio::null());
        if let Some((fd, name)) = given {
            command.env("LISTEN_FDNAMES", name).stdin(fd);
        }
        command
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// With its log, when it does not get ready.
    #[track_caller]
    pub fn start(mut self) -> Host {
        let log = File::create(&self.log).expect("the folder is ours");
        let both = log.try_clone().expect("a descriptor is left");
        let mut child = self
            .command()
            .stdout(log)
            .stderr(both)
            .spawn()
            .expect("funcd was built");
        let starter = Process::of(child.id() as i32).expect("it is a child that nobody has waited for");
        let path = self.folder.path().to_owned();
        let mut addresses = None;
        let ready = std::panic::AssertUnwindSafe(|| {
            eventually("the host to get ready", || {
                if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
                    return Ok(Some(status));
                }
                let mut admin =
                    Connection::unix(&path.join("run/admin.sock")).map_err(|error| error.to_string())?;
                match admin
                    .ask(&Request::get("/readyz"))
                    .map_err(|error| error.to_string())?
                {
                    // Only now: files of an earlier host in the same folder would tell its addresses.
                    ready if ready.status() == 200 => {
                        addresses = Some(bound(&path)?);
                        Ok(None)
                    }
                    other => Err(format!("/readyz: {} {}", other.status(), other.text())),
                }
            })
        });
        let ended = std::panic::catch_unwind(ready);
        let log = || fs::read_to_string(path.join("log")).unwrap_or_default();
        let ended = ended.unwrap_or_else(|panic| {
            eprintln!("--- the host's log\n{}", log());
            let _ = child.kill();
            let _ = child.wait();
            std::panic::resume_unwind(panic)
        });
        assert!(
            ended.is_none(),
            "funcd serve ended, {}:\n{}",
            ended.unwrap_or_default(),
            log()
        );
        let (http, admin_tcp) = addresses.expect("it was found before it was ready");
        let launcher = match self.through.is_empty() {
            true => starter,
            false => launcher_of(&starter).expect("it is ready"),
        };
        Host {
            folder: self.folder,
            child: Mutex::new(child),
            launcher,
            http,
            admin_tcp,
        }
    }

    /// Starts it and waits until it gives up, for hosts that must not start.
    ///
    /// # Panics
    /// When it can't be run, or goes on running.
    #[track_caller]
    pub fn start_and_fail(mut self) -> Output {
        let child = self
            .command()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        finished(child.expect("funcd was built"), "the host to refuse to start")
    }
}

/// The first process below another one that runs funcd.
fn launcher_of(starter: &Process) -> Option<Process> {
    let runs_funcd = |process: &Process| {
        fs::read_link(format!("/proc/{}/exe", process.pid)).is_ok_and(|path| path == artifacts::funcd())
    };
    let itself = std::iter::once(starter.clone());
    itself.chain(starter.descendants()).find(runs_funcd)
}

/// Puts a program in the place of the one that a host in this folder runs from, at once, as package managers do.
///
/// # Panics
/// When it can't be copied.
pub fn put_program(folder: &Path, program: &Path) {
    let staged = folder.join("funcd.staged");
    // Not by this process: what it has open for writing, a child that another thread starts has open too, until it executes; and
    // what somebody has open for writing can't be executed.
    let copied = Command::new("cp").arg(program).arg(&staged).status();
    assert!(
        copied.is_ok_and(|status| status.success()),
        "cp to {}",
        staged.display()
    );
    fs::set_permissions(&staged, Permissions::from_mode(0o755)).expect("the file is ours");
    fs::rename(&staged, folder.join("funcd")).expect("both are in the same folder");
}

/// The output of a child that ends by itself; killed, and a panic, when it doesn't.
#[track_caller]
fn finished(mut child: Child, what: &str) -> Output {
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        until(what, || child.try_wait().is_ok_and(|status| status.is_some()));
    }));
    if let Err(panic) = ended {
        let _ = child.kill();
        let _ = child.wait();
        std::panic::resume_unwind(panic);
    }
    child.wait_with_output().expect("it has ended")
}

/// The addresses that a host listens on, as it wrote them to its run folder: callers, then metrics and health.
fn bound(folder: &Path) -> Result<(SocketAddr, SocketAddr), String> {
    let first_of = |name: &str| {
        let path = folder.join("run").join(name);
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let line = text.lines().next().unwrap_or_default();
        line.parse()
            .map_err(|error| format!("{}: {error}: {text:?}", path.display()))
    };
    Ok((first_of("listen")?, first_of("admin-listen")?))
}
