//! A host: `funcd serve` in folders of its own, on ports that the kernel chose, and what operators and callers do to it.
//! Any number run side by side. Dropping one stops it and checks that nothing of it is left.

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::http::{Connection, Request, Response};
use crate::leftovers::Belongings;
use crate::process::Process;
use crate::{artifacts, eventually, need, until};

/// How a host is to be started.
#[derive(Debug)]
pub struct Plan {
    folder: TempDir,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

/// A running host.
#[derive(Debug)]
pub struct Host {
    folder: TempDir,
    child: Mutex<Child>,
    launcher: Process,
    http: SocketAddr,
    admin_tcp: SocketAddr,
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
            folder,
            arguments: Vec::new(),
            environment: Vec::new(),
        }
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

    /// The host's own folder: `functions`, `state`, `run`, `log`, and whatever a test puts there.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The command that starts it.
    fn command(&self) -> Command {
        let at = |name: &str| self.folder.path().join(name);
        let mut command = Command::new(artifacts::funcd());
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
        if !self.arguments.iter().any(|argument| argument == "--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(["--admin-listen", "127.0.0.1:0"]);
        for property in need::missing_properties() {
            command.args(["--degraded", property]);
        }
        command.args(&self.arguments).stdin(Stdio::null());
        command
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// With its log, when it does not get ready.
    #[track_caller]
    pub fn start(self) -> Host {
        let log = File::create(self.path().join("log")).expect("the folder is ours");
        let both = log.try_clone().expect("a descriptor is left");
        let mut child = self
            .command()
            .stdout(log)
            .stderr(both)
            .spawn()
            .expect("funcd was built");
        let launcher = Process::of(child.id() as i32).expect("it is a child that nobody has waited for");
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
    pub fn start_and_fail(self) -> Output {
        let child = self
            .command()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        finished(child.expect("funcd was built"), "the host to refuse to start")
    }
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

impl Host {
    /// A host with every default, ready.
    #[track_caller]
    pub fn start() -> Host {
        Plan::new().start()
    }

    /// The host that the tests of a module share, for those that need only their own function. The first to ask starts
    /// it and deploys what all of them use.
    ///
    /// # Panics
    /// When it does not start.
    pub fn shared(module: &'static str, deploy: fn(&Host)) -> Arc<Host> {
        let mut shared = SHARED.lock().unwrap_or_else(|poison| poison.into_inner());
        let hosts = shared.get_or_insert_with(HashMap::new);
        let host = hosts.entry(module).or_insert_with(|| {
            let host = Host::start();
            deploy(&host);
            Arc::new(host)
        });
        Arc::clone(host)
    }

    /// Its own folder: `functions`, `state`, `run`, `log`.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The path of a file or folder of the functions folder.
    pub fn function_path(&self, name: &str) -> PathBuf {
        self.path().join("functions").join(name)
    }

    /// Makes a folder that functions may be granted; every uid may write there.
    #[track_caller]
    pub fn volume(&self, name: &str) -> PathBuf {
        let path = self.path().join("state/volumes").join(name);
        fs::create_dir_all(&path).expect("the folder is ours");
        fs::set_permissions(&path, Permissions::from_mode(0o1777)).expect("the folder is ours");
        path
    }

    /// Where callers connect.
    pub fn address(&self) -> SocketAddr {
        self.http
    }

    /// Where metrics and health are.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_tcp
    }

    /// The launcher.
    pub fn launcher(&self) -> &Process {
        &self.launcher
    }

    /// The supervisor.
    #[track_caller]
    pub fn supervisor(&self) -> Process {
        eventually("a supervisor", || {
            self.launcher
                .children_with_argument("supervisor")
                .pop()
                .ok_or("there is none".to_owned())
        })
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    // Deploying, as users do.

    /// Copies an executable into the folder as a plain file, with `cp`'s steps: create, write, close.
    #[track_caller]
    pub fn drop_in(&self, name: &str, executable: &Path) {
        let to = self.function_path(name);
        fs::copy(executable, &to).unwrap_or_else(|error| panic!("copy to {}: {error}", to.display()));
        fs::set_permissions(&to, Permissions::from_mode(0o755)).expect("the file is ours");
    }

    /// Puts a folder with an executable and a manifest there; the executable is called as its file.
    #[track_caller]
    pub fn drop_folder(&self, name: &str, executable: &Path, manifest: &str) {
        let file = executable
            .file_name()
            .expect("an executable has a name")
            .to_string_lossy();
        let staged = self.path().join(format!("staged-{name}"));
        let _ = fs::remove_dir_all(&staged);
        fs::create_dir(&staged).expect("the folder is ours");
        fs::set_permissions(&staged, Permissions::from_mode(0o755)).expect("the folder is ours");
        fs::copy(executable, staged.join(&*file)).expect("an executable can be copied");
        fs::set_permissions(staged.join(&*file), Permissions::from_mode(0o755)).expect("the file is ours");
        let exec = match manifest.contains("exec =") {
            true => String::new(),
            false => format!("exec = {file:?}\n"),
        };
        fs::write(staged.join("function.toml"), exec + manifest).expect("the folder is ours");
        let to = self.function_path(name);
        let _ = fs::remove_dir_all(&to);
        fs::rename(&staged, &to).expect("both are in the host's folder");
    }

    /// Deploys an example function under its own name, with a manifest when there is one, and waits until it is live.
    #[track_caller]
    pub fn deploy(&self, name: &str, example: &str, manifest: &str) {
        match manifest {
            "" => self.drop_in(name, &artifacts::example(example)),
            manifest => self.drop_folder(name, &artifacts::example(example), manifest),
        }
        self.wait_live(name);
    }

    /// Waits until the folder's entry is accepted and its function has a revision.
    #[track_caller]
    pub fn wait_live(&self, name: &str) {
        eventually(&format!("{name} to be live"), || {
            let entry = self.entry(name).ok_or("no such entry".to_owned())?;
            match entry.status == "accepted" && entry.revision.is_some() {
                true => Ok(()),
                false => Err(format!("{entry:?}")),
            }
        });
    }

    /// Takes it out of the folder.
    #[track_caller]
    pub fn remove(&self, name: &str) {
        let path = self.function_path(name);
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.unwrap_or_else(|error| panic!("remove {}: {error}", path.display()));
    }

    // Calling.

    /// A new connection.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    pub fn connect(&self) -> Connection {
        Connection::tcp(self.http).unwrap_or_else(|error| panic!("connect to {}: {error}", self.http))
    }

    /// The answer to a request on a connection of its own.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn ask(&self, request: &Request) -> Response {
        self.connect()
            .ask(request)
            .unwrap_or_else(|error| panic!("{request:?}: {error}\n{}", self.log_tail()))
    }

    /// The answer to a GET.
    #[track_caller]
    pub fn get(&self, target: &str) -> Response {
        self.ask(&Request::get(target))
    }

    /// The answer to a GET, which must be 200.
    ///
    /// # Panics
    /// When it isn't.
    #[track_caller]
    pub fn get_ok(&self, target: &str) -> Response {
        let response = self.get(target);
        assert_eq!(
            response.status(),
            200,
            "{target}: {}\n{}",
            response.text(),
            self.log_tail()
        );
        response
    }

    /// Asks until the answer is what is expected.
    #[track_caller]
    pub fn wait_for(&self, target: &str, what: &str, fits: impl Fn(&Response) -> bool) -> Response {
        eventually(&format!("{target} to answer {what}"), || {
            let answer = self
                .connect()
                .ask(&Request::get(target))
                .map_err(|error| error.to_string())?;
            match fits(&answer) {
                true => Ok(answer),
                false => Err(format!("{} {}", answer.status(), answer.text())),
            }
        })
    }

    /// The answer to a GET on the TCP socket of metrics and health.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn admin_get(&self, target: &str) -> Response {
        let mut connection = Connection::tcp(self.admin_tcp).expect("the admin socket accepts");
        connection
            .ask(&Request::get(target))
            .unwrap_or_else(|error| panic!("{target}: {error}"))
    }

    /// Sends the launcher a signal.
    pub fn signal(&self, signal: Signal) {
        self.launcher.signal(signal);
    }

    /// Waits until the launcher ends; how it did.
    #[track_caller]
    pub fn wait_ended(&self) -> ExitStatus {
        eventually("the host to end", || {
            let status = self
                .child
                .lock()
                .unwrap_or_else(|poison| poison.into_inner())
                .try_wait();
            status
                .map_err(|error| error.to_string())?
                .ok_or("it runs".to_owned())
        })
    }

    /// What belongs to it now, to look for later.
    pub fn belongings(&self) -> Belongings {
        Belongings::of(&self.launcher, self.path())
    }

    /// The same folders under a new `funcd serve`; the earlier one must have ended.
    #[track_caller]
    pub fn start_again(self) -> Host {
        self.wait_ended();
        let (this, _) = self.take_apart();
        Plan {
            folder: this,
            arguments: Vec::new(),
            environment: Vec::new(),
        }
        .start()
    }

    /// The folder of an ended host, without stopping what has ended.
    fn take_apart(mut self) -> (TempDir, Process) {
        let empty = tempfile::tempdir().expect("a place for temporary files");
        (std::mem::replace(&mut self.folder, empty), self.launcher.clone())
    }

    /// The end of its log, for whoever reads a failure.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(60)..];
        format!("--- the last lines of the host's log\n{}", tail.join("\n"))
    }

    /// Stops it politely, then by force. What of it is left.
    fn stop(&self) -> Vec<String> {
        let belongings = self.belongings();
        let mut problems = Vec::new();
        self.signal(Signal::SIGTERM);
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.wait_ended())).is_err() {
            problems.push(format!(
                "the launcher did not end after SIGTERM\n{}",
                self.log_tail()
            ));
            self.signal(Signal::SIGKILL);
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.wait_ended()));
        }
        // Processes that were killed a moment ago may take another moment to be gone.
        let gone = || until("nothing to be left", || belongings.left().is_empty());
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(gone)).is_err() {
            problems.extend(belongings.left());
        }
        problems
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        let left = self.stop();
        if !left.is_empty() && !std::thread::panicking() {
            panic!("the host left behind: {left:#?}");
        }
    }
}

/// The hosts that tests share, by module.
static SHARED: Mutex<Option<HashMap<&'static str, Arc<Host>>>> = Mutex::new(None);

/// Stops the shared hosts after the last test. What of them is left.
pub fn stop_shared() -> Vec<String> {
    let hosts = SHARED.lock().unwrap_or_else(|poison| poison.into_inner()).take();
    let stop = |host: Arc<Host>| {
        let left = host.stop();
        // Its own drop finds everything gone already.
        drop(host);
        left
    };
    hosts
        .into_iter()
        .flatten()
        .flat_map(|(_, host)| stop(host))
        .collect()
}
