//! A host: `funcd serve` in folders of its own, on ports that the kernel chose, and what deployers and callers do to it;
//! `operate` has what operators do. Any number run side by side. Dropping one stops it and checks that nothing of it is
//! left.

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::http::{Connection, Request, Response};
use crate::leftovers::Belongings;
pub use crate::plan::{Plan, put_program};
use crate::process::Process;
use crate::{artifacts, eventually, until};

/// A running host.
#[derive(Debug)]
pub struct Host {
    pub(crate) folder: TempDir,
    pub(crate) child: Mutex<Child>,
    pub(crate) launcher: Process,
    pub(crate) http: SocketAddr,
    pub(crate) admin_tcp: SocketAddr,
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

    /// Puts a secret of a function where operators do, in the place of an earlier one at once.
    #[track_caller]
    pub fn secret(&self, function: &str, name: &str, value: &str) -> PathBuf {
        let folder = self.path().join("secrets").join(function);
        fs::create_dir_all(&folder).expect("the folder is ours");
        for folder in [&folder, &self.path().join("secrets")] {
            fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("the folder is ours");
        }
        let (path, staged) = (folder.join(name), folder.join(format!(".{name}.staged")));
        fs::write(&staged, value).expect("the folder is ours");
        fs::set_permissions(&staged, Permissions::from_mode(0o400)).expect("the file is ours");
        fs::rename(&staged, &path).expect("the folder is ours");
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

    /// What started it: the launcher itself, unless that was started [through](Plan::through) something else.
    ///
    /// # Panics
    /// When that has ended.
    pub fn starter(&self) -> Process {
        let child = self.child.lock().unwrap_or_else(|poison| poison.into_inner());
        Process::of(child.id() as i32).expect("it runs")
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
        let self_program = self.path().join("funcd").exists();
        let (this, _) = self.take_apart();
        Plan {
            log: this.path().join("log"),
            folder: this,
            arguments: Vec::new(),
            environment: Vec::new(),
            open_files: None,
            given: None,
            through: Vec::new(),
            own_program: self_program,
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
        let mut child = self.child.lock().unwrap_or_else(|poison| poison.into_inner());
        // What would start it again is told first.
        if let (Ok(None), Some(starter)) = (child.try_wait(), Process::of(child.id() as i32))
            && starter != self.launcher
        {
            starter.signal(Signal::SIGTERM);
        }
        drop(child);
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
            eprintln!("{}\n{}", self.log_tail(), self.belongings().doing());
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
        let mut left = host.stop();
        let folder = host.path().to_owned();
        // Its own drop finds everything gone already.
        drop(host);
        // A test binary that keeps it in a static never drops it, and would leave the folder.
        if let Err(error) = fs::remove_dir_all(&folder)
            && error.kind() != ErrorKind::NotFound
        {
            left.push(format!("folder {}: {error}", folder.display()));
        }
        left
    };
    hosts
        .into_iter()
        .flatten()
        .flat_map(|(_, host)| stop(host))
        .collect()
}
