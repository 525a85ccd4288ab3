//! A launcher under measurement, with this program in the place of its supervisor: requests go to it directly, and its answers
//! come back directly. The launcher is a process of its own, `funcd-benches as-launcher DIR`: the same code that
//! `funcd serve` runs, as it needs a process with one thread.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use funcd_sandbox::launcher::{self, Host};
use funcd_sandbox::property::Property;
use funcd_sandbox::spec::{Digest, Image, InstanceId, Limits, Socket, Spec, System};
use funcd_sandbox::wire::{self, Event, MAX_MESSAGE, Request, StoreError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::failure::{During, Failure, Outcome};
use crate::guard::Guard;

/// The word that makes this program a launcher.
pub(crate) const AS_LAUNCHER: &str = "as-launcher";
/// The word that makes this program the process that a launcher takes for its supervisor.
pub(crate) const AS_SUPERVISOR: &str = "as-supervisor";

/// A launcher that has not answered by then won't.
const PATIENCE: Duration = Duration::from_secs(30);
/// nobody, on every Linux.
const NOBODY: u32 = 65534;
/// Uids that no host has by default.
const UID_FIRST: u32 = 1_800_000_000;

/// A launcher that runs.
#[derive(Debug)]
pub(crate) struct Launcher {
    link: OwnedFd,
    buffer: Box<[u8; MAX_MESSAGE]>,
    next: u64,
    // Dropped in this order: the launcher uses the folder until it ends, and the descriptors are of no further use.
    _descriptors: Vec<OwnedFd>,
    process: Guard,
    folder: TempDir,
}

/// An instance that runs.
#[derive(Debug)]
pub(crate) struct Started {
    /// Its id.
    pub(crate) id: InstanceId,
    /// Its main process.
    pub(crate) pid: i32,
    /// What it writes.
    pub(crate) stdout: File,
}

/// The role of the launcher.
///
/// # Errors
/// Why it did not start.
pub(crate) fn run(folder: &Path) -> Outcome<()> {
    let root = nix::unistd::geteuid().is_root();
    let text = |text: &str| CString::new(text).expect("no path here has a zero byte");
    let control = folder.join("control");
    let host = Host {
        functions: folder.join("functions"),
        state: folder.join("state"),
        run: folder.join("run"),
        listen: vec![([127, 0, 0, 1], 0).into()],
        workers: 1,
        admin: folder.join("run/admin.sock"),
        admin_listen: None,
        supervisor: root.then_some((NOBODY, NOBODY)),
        uid_first: UID_FIRST,
        uid_count: 100,
        read_roots: vec!["/usr".into()],
        write_roots: Vec::new(),
        secrets: folder.join("secrets"),
        credentials: None,
        degraded: if root { Vec::new() } else { Property::ALL.to_vec() },
        program: vec![
            text("/proc/self/exe"),
            text(AS_SUPERVISOR),
            text(&control.to_string_lossy()),
        ],
        config: Vec::new(),
        max_instances: 1200,
        drain_millis: 1000,
    };
    launcher::run(host).during("running a launcher")
}

/// The role of its supervisor: gives its end of the socket to who measures, and stays until that one is gone.
///
/// # Errors
/// When nobody measures.
pub(crate) fn give_link(control: &Path) -> Outcome<()> {
    let step = "being a supervisor";
    let link = wire::inherited().during(step)?;
    let to = seqpacket()?;
    connect(to.as_raw_fd(), &UnixAddr::new(control).during(step)?).during(step)?;
    wire::send(to.as_fd(), &Request::Goodbye, &[link.as_raw_fd()]).during(step)?;
    poll(
        &mut [PollFd::new(to.as_fd(), PollFlags::POLLIN)],
        PollTimeout::NONE,
    )
    .during(step)?;
    Ok(())
}

fn seqpacket() -> Outcome<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).during("making a socket")
}

impl Launcher {
    /// Starts one in folders of its own, and takes what its supervisor is handed.
    ///
    /// # Errors
    /// A launcher that ends or says nothing.
    pub(crate) fn start() -> Outcome<Launcher> {
        let step = "starting a launcher";
        let folder = tempfile::Builder::new().prefix("funcd-bench-").tempdir();
        let folder = folder.during(step)?;
        for name in ["", "functions", "state", "run"] {
            let path = folder.path().join(name);
            fs::create_dir_all(&path).during(step)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).during(step)?;
        }
        let control = folder.path().join("control");
        let waiting = seqpacket()?;
        bind(waiting.as_raw_fd(), &UnixAddr::new(&control).during(step)?).during(step)?;
        fs::set_permissions(&control, fs::Permissions::from_mode(0o666)).during(step)?;
        listen(&waiting, Backlog::new(1).during(step)?).during(step)?;
        let log = File::create(folder.path().join("log")).during(step)?;
        let child = Command::new("/proc/self/exe")
            .arg(AS_LAUNCHER)
            .arg(folder.path())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .during(step)?;
        let process = Guard::child(child, PATIENCE);
        let said = || fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        readable(&waiting).map_err(|failure| Failure(format!("{step}: {failure}. It said: {}", said())))?;
        let peer: OwnedFd = UnixListener::from(waiting).accept().during(step)?.0.into();
        let mut buffer = Box::new([0; MAX_MESSAGE]);
        readable(&peer)?;
        let given = wire::recv::<Request>(peer.as_fd(), &mut buffer).during(step)?;
        let link = given.and_then(|(_, fds)| fds.into_iter().next());
        let link = link.ok_or_else(|| Failure(format!("{step}: its supervisor gave no socket")))?;
        let mut launcher = Launcher {
            link,
            buffer,
            next: 1,
            // The supervisor stays as long as this end of its socket does.
            _descriptors: vec![peer],
            process,
            folder,
        };
        launcher.take_over()?;
        Ok(launcher)
    }

    fn take_over(&mut self) -> Outcome<()> {
        loop {
            match self.receive()? {
                (Event::Welcome(handover), _) => self.next = handover.next_id.0,
                (Event::Descriptors, fds) => self._descriptors.extend(fds),
                (Event::InventoryEnd, _) => return Ok(()),
                (other, _) => return Err(Failure(format!("a launcher began with {other:?}"))),
            }
        }
    }

    fn send(&self, request: &Request, fds: &[i32]) -> Outcome<()> {
        wire::send(self.link.as_fd(), request, fds).during("asking a launcher")
    }

    fn receive(&mut self) -> Outcome<(Event, Vec<OwnedFd>)> {
        readable(&self.link)?;
        let received = wire::recv(self.link.as_fd(), &mut self.buffer).during("hearing a launcher")?;
        received.ok_or_else(|| Failure("the launcher is gone".into()))
    }

    /// Its process.
    pub(crate) fn id(&self) -> i32 {
        self.process.id()
    }

    /// Its folder: `run`, `state`.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Stores an executable.
    ///
    /// # Errors
    /// One that the launcher refuses.
    pub(crate) fn store(&mut self, path: &Path) -> Outcome<Digest> {
        let step = format!("storing {}", path.display());
        let file = File::open(path).during(&step)?;
        loop {
            self.send(&Request::Store { ticket: 1 }, &[file.as_raw_fd()])?;
            match self.receive()?.0 {
                Event::Stored { result, .. } => match result {
                    Ok((digest, _)) => return Ok(digest),
                    // This process has just built it, and starts others.
                    Err(StoreError::BeingWritten | StoreError::Changed) => {}
                    Err(StoreError::Refused(why)) => return Err(Failure(format!("{step}: {why}"))),
                },
                other => return Err(Failure(format!("{step}: {other:?}"))),
            }
        }
    }

    /// A start of a static executable with the default limits.
    pub(crate) fn spec(artifact: Digest) -> Spec {
        Spec {
            function: "byte".into(),
            artifact,
            image: Image::Static,
            args: vec!["byte".into()],
            env: Vec::new(),
            socket: Socket::Unix,
            ports: Vec::new(),
            limits: Limits {
                memory_bytes: 256 << 20,
                cpu_millis: 1000,
                cpu_idle: false,
                pids: 64,
                tmp_bytes: 64 << 20,
                files: 1024,
            },
            system: System::Parts {
                paths: Vec::new(),
                links: Vec::new(),
            },
            read: Vec::new(),
            write: Vec::new(),
            secrets: Vec::new(),
            degraded: Vec::new(),
            memo: Vec::new(),
        }
    }

    /// Starts an instance; returns when the launcher says that it runs.
    ///
    /// # Errors
    /// What the launcher says.
    pub(crate) fn launch(&mut self, spec: &Spec) -> Outcome<Started> {
        let (id, spec) = (self.next_id(), Box::new(spec.clone()));
        self.send(&Request::Launch { id, spec }, &[])?;
        self.launched()
    }

    /// Has an instance prepared; returns when it waits right before exec, with the pipe that lets it go on.
    ///
    /// # Errors
    /// What the launcher says: not every host can.
    pub(crate) fn prepare(&mut self, spec: &Spec) -> Outcome<File> {
        let (id, spec) = (self.next_id(), Box::new(spec.clone()));
        self.send(&Request::Prepare { id, spec }, &[])?;
        match self.receive()? {
            (Event::Prepared { .. }, fds) => {
                let go = fds.into_iter().next();
                go.map(File::from)
                    .ok_or_else(|| Failure("a prepared instance came without its pipe".into()))
            }
            (Event::LaunchFailed { message, .. }, _) => Err(Failure(message)),
            (other, _) => Err(Failure(format!("preparing an instance: {other:?}"))),
        }
    }

    fn next_id(&mut self) -> InstanceId {
        self.next += 1;
        InstanceId(self.next - 1)
    }

    /// Waits for the word that an instance runs.
    ///
    /// # Errors
    /// What the launcher says.
    pub(crate) fn launched(&mut self) -> Outcome<Started> {
        loop {
            match self.receive()? {
                (Event::Bound { .. }, _) => {}
                (Event::Launched { id, pid }, fds) => {
                    let stdout = fds.into_iter().next();
                    let stdout =
                        stdout.ok_or_else(|| Failure("an instance came without its output".into()))?;
                    return Ok(Started {
                        id,
                        pid,
                        stdout: stdout.into(),
                    });
                }
                (Event::LaunchFailed { message, .. }, _) => return Err(Failure(message)),
                (other, _) => return Err(Failure(format!("starting an instance: {other:?}"))),
            }
        }
    }

    /// Kills an instance; returns when the launcher says that nothing of it is left.
    ///
    /// # Errors
    /// A launcher that says something else.
    pub(crate) fn kill(&mut self, id: InstanceId) -> Outcome<()> {
        self.send(&Request::Kill { id }, &[])?;
        match self.receive()?.0 {
            Event::Exited { id: ended, .. } if ended == id => Ok(()),
            other => Err(Failure(format!("killing instance {id}: {other:?}"))),
        }
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // Told twice it ends at once; one signal sent twice may arrive once. The guard waits.
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let _ = kill(Pid::from_raw(self.process.id()), signal);
        }
    }
}

/// Waits until there is something to read.
pub(crate) fn readable(from: &impl AsFd) -> Outcome<()> {
    let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(0) => Err(Failure(format!("nothing came within {PATIENCE:?}"))),
        Ok(_) => Ok(()),
        Err(errno) => Err(Failure(errno.to_string())),
    }
}
