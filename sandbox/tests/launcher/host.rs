//! A host under test: a launcher in a process of its own, and the test in the place of its supervisor.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use funcd_sandbox::exit::Exit;
use funcd_sandbox::launcher::{self, Host};
use funcd_sandbox::property::Property;
use funcd_sandbox::spec::{Digest, Image, InstanceId, Limits, Socket, Spec};
use funcd_sandbox::wire::{self, Event, Handover, MAX_MESSAGE, Request, StoreError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::unistd::Pid;

/// No step of a test takes longer, on any machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Architectures that came later have only the other one.
#[cfg(target_arch = "x86_64")]
const SYS_EPOLL_WAIT: libc::c_long = libc::SYS_epoll_wait;
#[cfg(not(target_arch = "x86_64"))]
const SYS_EPOLL_WAIT: libc::c_long = libc::SYS_epoll_pwait;
/// nobody, on every Linux.
const NOBODY: u32 = 65534;
/// The first uid of functions in tests.
pub(crate) const UID_FIRST: u32 = 700_000;

/// Who runs the launcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum As {
    /// Root, with everything promised kept.
    Root,
    /// An ordinary user, with what can't be kept accepted.
    User,
}

/// A launcher that runs, and the connection to it by way of the relay.
pub(crate) struct Running {
    pub(crate) dir: tempfile::TempDir,
    launcher: Child,
    control: UnixListener,
    link: Option<OwnedFd>,
    /// Whether the link is the supervisor's own end, not one to the relay.
    hands: bool,
    buffer: Box<[u8; MAX_MESSAGE]>,
    pub(crate) next: u64,
    pub(crate) handover: Handover,
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Instances found running: id and pid, with stdout.
    pub(crate) inventory: Vec<(InstanceId, i32, OwnedFd)>,
    /// Where the supervisor listens for the instance that was told of last.
    pub(crate) ports: Vec<OwnedFd>,
}

/// An instance that a test started.
pub(crate) struct Started {
    pub(crate) id: InstanceId,
    pub(crate) pid: i32,
    pub(crate) stdout: File,
}

/// The role of the launcher: `launcher DIR AS BEHAVIOUR`.
pub(crate) fn run_launcher(dir: &Path, who: &str, behaviour: &str) -> Result<(), launcher::LauncherError> {
    let root = who == "root";
    let max_instances = fs::read_to_string(dir.join("max_instances")).map_or(1200, |n| n.parse().unwrap());
    let text = |text: &str| CString::new(text).unwrap();
    // Folders of a size, for what happens when they are full; only this process sees them.
    for folder in ["state", "run"] {
        if let Ok(options) = fs::read_to_string(dir.join(format!("small-{folder}"))) {
            use nix::mount::{MsFlags, mount};
            const NONE: Option<&str> = None;
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).unwrap();
            let options = Some(options.as_str());
            mount(
                Some("tmpfs"),
                &dir.join(folder),
                Some("tmpfs"),
                MsFlags::empty(),
                options,
            )
            .unwrap();
        }
    }
    let program = fs::read_to_string(dir.join("program")).unwrap_or_else(|_| "/proc/self/exe".to_owned());
    let control = dir.join("control");
    launcher::run(Host {
        functions: dir.join("functions"),
        state: dir.join("state"),
        run: dir.join("run"),
        listen: vec![([127, 0, 0, 1], 0).into()],
        workers: 2,
        admin: dir.join("run/admin.sock"),
        admin_listen: Some(([127, 0, 0, 1], 0).into()),
        supervisor: root.then_some((NOBODY, NOBODY)),
        uid_first: UID_FIRST,
        uid_count: 100,
        read_roots: vec!["/usr".into()],
        write_roots: vec![dir.join("data")],
        secrets: dir.join("secrets"),
        credentials: None,
        degraded: if root { Vec::new() } else { Property::ALL.to_vec() },
        program: vec![
            text(&program),
            text("relay"),
            text(control.to_str().unwrap()),
            text(behaviour),
        ],
        config: b"the configuration".to_vec(),
        max_instances,
        drain_millis: 10_000,
    })
}

impl Running {
    /// Starts a launcher and waits for its first supervisor that works.
    pub(crate) fn start(who: As) -> Running {
        Running::start_with(who, "relay")
    }

    pub(crate) fn start_with(who: As, behaviour: &str) -> Running {
        Running::start_in(who, behaviour, |_| {})
    }

    /// With something done to its folder before.
    pub(crate) fn start_in(who: As, behaviour: &str, prepare: impl FnOnce(&Path)) -> Running {
        let dir = tempfile::tempdir().unwrap();
        make_folders(dir.path());
        prepare(dir.path());
        let control = listen_at(&dir.path().join("control"));
        let mut running = Running {
            launcher: launch(dir.path(), who, behaviour),
            dir,
            control,
            link: None,
            hands: behaviour == "hand",
            buffer: Box::new([0; MAX_MESSAGE]),
            next: 1,
            handover: Handover {
                version: 0,
                alone: true,
                config: Vec::new(),
                descriptors: Vec::new(),
                generation: 0,
                next_id: InstanceId(0),
                grades: Vec::new(),
                can_stand_by: false,
                can_freeze: false,
            },
            descriptors: Vec::new(),
            inventory: Vec::new(),
            ports: Vec::new(),
        };
        running.take_over();
        running
    }

    /// A second launcher on the same folders; returns what it says.
    pub(crate) fn start_another(&self, who: As) -> (ExitStatus, String) {
        let out = command(self.dir.path(), who, "relay")
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        (out.status, String::from_utf8(out.stderr).unwrap())
    }

    /// Waits for the next supervisor and takes what it is handed.
    pub(crate) fn take_over(&mut self) {
        readable(self.control.as_fd(), "the supervisor connects");
        let control: OwnedFd = self.control.accept().unwrap().0.into();
        self.link = Some(if self.hands { handed(&control) } else { control });
        let (event, _) = self.recv();
        let Event::Welcome(handover) = event else {
            panic!("{event:?} came before the welcome");
        };
        self.handover = *handover;
        self.descriptors.clear();
        self.inventory.clear();
        loop {
            match self.recv() {
                (Event::Descriptors, fds) => self.descriptors.extend(fds),
                (Event::Inventory { id, pid, .. }, fds) => {
                    let mut fds = fds.into_iter();
                    let (stdout, _stderr) = (fds.next().unwrap(), fds.next().unwrap());
                    self.ports = fds.collect();
                    self.inventory.push((id, pid, stdout));
                }
                (Event::InventoryEnd, _) => break,
                (other, _) => panic!("{other:?} in the handover"),
            }
        }
        self.next = self.handover.next_id.0;
    }

    /// What the next program in the supervisor's place says that is no relay.
    pub(crate) fn words(&mut self) -> String {
        readable(self.control.as_fd(), "the program connects");
        let control: OwnedFd = self.control.accept().unwrap().0.into();
        readable(control.as_fd(), "the program says something");
        let mut buffer = vec![0; MAX_MESSAGE];
        let length = nix::unistd::read(&control, &mut buffer).unwrap();
        buffer.truncate(length);
        String::from_utf8(buffer).unwrap()
    }

    /// The connection, to be used in ways that no supervisor should.
    pub(crate) fn link(&self) -> std::os::fd::BorrowedFd<'_> {
        self.link.as_ref().unwrap().as_fd()
    }

    /// Closes the connection.
    pub(crate) fn hang_up(&mut self) {
        self.link = None;
    }

    pub(crate) fn send(&self, request: &Request, fds: &[RawFd]) {
        wire::send(self.link.as_ref().unwrap().as_fd(), request, fds).unwrap();
    }

    pub(crate) fn recv(&mut self) -> (Event, Vec<OwnedFd>) {
        let link = self.link.as_ref().unwrap();
        readable(link.as_fd(), "the launcher says something");
        wire::recv(link.as_fd(), &mut self.buffer)
            .unwrap()
            .expect("the supervisor is alive")
    }

    /// Stores the executable at `path`; tries again as a supervisor does, because other tests fork, and a fork holds this
    /// test's writer until it executes.
    pub(crate) fn store(&mut self, path: &Path) -> Digest {
        let file = File::open(path).unwrap();
        loop {
            self.send(&Request::Store { ticket: 5 }, &[file.as_raw_fd()]);
            let Event::Stored { ticket: 5, result } = self.recv().0 else {
                panic!("the answer to a copy comes next");
            };
            match result {
                Ok((digest, size)) => {
                    assert_eq!(size, file.metadata().unwrap().len());
                    return digest;
                }
                Err(StoreError::BeingWritten) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
    }

    /// The spec of an actor that does `what`.
    pub(crate) fn spec(&self, artifact: Digest, what: &[&str]) -> Spec {
        Spec {
            function: "actor".into(),
            artifact,
            image: Image::Static,
            args: ["actor"]
                .iter()
                .chain(what)
                .map(|arg| (*arg).to_owned())
                .collect(),
            env: vec![("GREETING".into(), "hello".into())],
            socket: Socket::Unix,
            ports: Vec::new(),
            limits: Limits {
                memory_bytes: 32 << 20,
                cpu_millis: 2000,
                cpu_idle: false,
                pids: 32,
                tmp_bytes: 1 << 20,
                files: 64,
            },
            system: funcd_sandbox::spec::System::Whole,
            read: vec![],
            write: vec![],
            secrets: vec![],
            degraded: vec![],
            memo: b"memo".to_vec(),
        }
    }

    /// Asks for a launch; the answer is next.
    pub(crate) fn ask(&mut self, spec: Spec) -> InstanceId {
        let id = InstanceId(self.next);
        self.next += 1;
        self.send(
            &Request::Launch {
                id,
                spec: Box::new(spec),
            },
            &[],
        );
        id
    }

    pub(crate) fn launch(&mut self, spec: Spec) -> Started {
        let bound = spec.socket == Socket::Unix;
        let asked = self.ask(spec);
        if bound {
            assert_eq!(
                self.recv().0,
                Event::Bound { id: asked },
                "told before the process exists"
            );
        }
        let (event, fds) = self.recv();
        let Event::Launched { id, pid } = event else {
            panic!("{event:?} instead of launched");
        };
        assert_eq!(id, asked);
        assert!(fds.len() >= 2);
        let mut fds = fds.into_iter();
        let (stdout, _stderr) = (fds.next().unwrap().into(), fds.next());
        self.ports = fds.collect();
        if bound {
            // Its listener is dropped: nothing but the instance holds it then.
            self.ports.pop().unwrap();
        }
        Started { id, pid, stdout }
    }

    pub(crate) fn refused(&mut self, spec: Spec) -> String {
        let asked = self.ask(spec);
        match self.answer_to(asked) {
            Event::LaunchFailed { id, message, .. } if id == asked => message,
            other => panic!("{other:?} instead of a refusal"),
        }
    }

    /// What came of a launch, past the word that its socket is bound.
    pub(crate) fn answer_to(&mut self, asked: InstanceId) -> Event {
        match self.recv().0 {
            Event::Bound { id } if id == asked => self.recv().0,
            other => other,
        }
    }

    pub(crate) fn exit_of(&mut self, id: InstanceId) -> Exit {
        match self.recv().0 {
            Event::Exited { id: ended, exit, .. } if ended == id => exit,
            other => panic!("{other:?} instead of the end of {id}"),
        }
    }

    /// Connects to an instance as a supervisor does, and reads all it says.
    pub(crate) fn call(&self, id: InstanceId) -> String {
        read_all(self.connect(id))
    }

    pub(crate) fn connect(&self, id: InstanceId) -> UnixStream {
        let sockets = fs::File::open(self.dir.path().join("run/i")).unwrap();
        UnixStream::connect(format!("/proc/self/fd/{}/{id}", sockets.as_raw_fd())).unwrap()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.launcher.id() as i32
    }

    /// The pid of the supervisor: the launcher's only child whose role is that.
    pub(crate) fn supervisor(&self) -> i32 {
        self.find_supervisor().expect("a supervisor runs")
    }

    /// The pid of the supervisor, if one runs.
    pub(crate) fn find_supervisor(&self) -> Option<i32> {
        let children = format!("/proc/{0}/task/{0}/children", self.launcher.id());
        let is_relay = |pid: &&str| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            // A mini-init has the launcher's own arguments.
            line.split(|byte| *byte == 0).nth(1) == Some(b"relay".as_slice())
        };
        let text = fs::read_to_string(children).unwrap();
        text.split_whitespace().find(is_relay)?.parse().ok()
    }

    /// What the launcher holds of memory for itself.
    pub(crate) fn memory(&self) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.launcher.id())).unwrap();
        let line = |name: &&str| {
            status
                .lines()
                .find(|line| line.starts_with(*name))
                .unwrap_or_default()
        };
        ["VmRSS", "RssAnon"]
            .iter()
            .map(line)
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// What the launcher holds: descriptors, children, mounts, cgroups, instances' sockets and stored files.
    pub(crate) fn holds(&self) -> Vec<(&'static str, usize)> {
        let proc = PathBuf::from(format!("/proc/{}", self.launcher.id()));
        self.wait_until_idle(&proc);
        let entries = |dir: &Path| fs::read_dir(dir).map_or(0, Iterator::count);
        let text = |file: &str| fs::read_to_string(proc.join(file)).unwrap();
        let children = text(&format!("task/{}/children", self.launcher.id()));
        let leaves = self.cgroups().iter().map(|dir| entries(&dir.join("i"))).sum();
        vec![
            ("descriptors", entries(&proc.join("fd"))),
            ("children", children.split_whitespace().count()),
            ("mounts", text("mountinfo").lines().count()),
            ("cgroup files", leaves),
            ("sockets", entries(&self.dir.path().join("run/i"))),
            ("stored", entries(&self.dir.path().join("state/store"))),
        ]
    }

    /// Waits until the launcher sleeps without a time to wake, which it does once all that it makes ahead is made: after a
    /// start it rests first, and sleeps with one.
    fn wait_until_idle(&self, proc: &Path) {
        let began = Instant::now();
        let now = || fs::read_to_string(proc.join("syscall")).unwrap();
        // The number of the call, and its fourth argument: milliseconds as an int, of which -1 means for ever.
        let sleeps = |call: &str| -> bool {
            let mut fields = call.split(' ');
            let number = fields.next().and_then(|number| number.parse().ok());
            let waits =
                number.is_some_and(|number| [libc::SYS_epoll_pwait, SYS_EPOLL_WAIT].contains(&number));
            let timeout = fields.nth(3).and_then(|field| field.strip_prefix("0x"));
            let timeout = timeout.and_then(|digits| u64::from_str_radix(digits, 16).ok());
            waits && timeout.is_some_and(|timeout| timeout as u32 as i32 == -1)
        };
        while !sleeps(&now()) {
            assert!(began.elapsed() < PATIENCE, "the launcher is busy: {}", now());
            std::thread::yield_now();
        }
    }

    /// Waits until the launcher holds no more than before: cgroups that something is still in go a moment later.
    pub(crate) fn holds_no_more(&self, before: &[(&'static str, usize)]) {
        let began = Instant::now();
        loop {
            let now = self.holds();
            if now.iter().zip(before).all(|(now, before)| now.1 <= before.1) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{now:?} instead of {before:?}");
            std::thread::yield_now();
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.launcher.id() as i32), signal).unwrap();
    }

    /// Waits for the launcher's end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.launcher.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "the launcher does not end");
            std::thread::yield_now();
        }
    }

    /// A new launcher on the same folders, after the old one ended.
    pub(crate) fn restart(&mut self, who: As) {
        // The real supervisor would be gone with its launcher, and what it was handed with it.
        self.descriptors.clear();
        self.launcher = launch(self.dir.path(), who, "relay");
        self.take_over();
    }

    /// Whether this host keeps a property.
    pub(crate) fn has(&self, property: Property) -> bool {
        let keeps =
            |grade: &&funcd_sandbox::probe::Grade| grade.property == property && grade.mechanism.is_some();
        self.handover.grades.iter().find(keeps).is_some()
    }

    /// SIGTERM, drain, goodbye.
    pub(crate) fn stop(self) {
        self.stop_keeping(|| {});
    }

    /// Stops, and looks at what is in the folders after that.
    pub(crate) fn stop_keeping(mut self, look: impl FnOnce()) {
        self.signal(Signal::SIGTERM);
        loop {
            if let (Event::Shutdown, _) = self.recv() {
                break;
            }
        }
        self.send(&Request::Goodbye, &[]);
        assert!(self.ended().success());
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new());
        assert_eq!(fs::read_dir(self.dir.path().join("run/i")).unwrap().count(), 0);
        assert!(!self.dir.path().join("run/admin.sock").exists());
        look();
    }

    /// The cgroups of this host that exist.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        cgroups_of(self.dir.path())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Told twice it ends at once; one signal sent twice may arrive once.
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            // One that ended already is not signalled, as its pid may be another's.
            if let Ok(None) = self.launcher.try_wait() {
                self.signal(signal);
            }
        }
        let _ = self.launcher.wait();
    }
}

fn command(dir: &Path, who: As, behaviour: &str) -> Command {
    let mut command = command_of("launcher", dir, who);
    match who {
        As::Root => command.arg("root"),
        As::User => command.arg("user"),
    };
    command.arg(behaviour);
    command
}

fn command_of(role: &str, dir: &Path, who: As) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(role).arg(dir);
    if who == As::User && nix::unistd::geteuid().is_root() {
        for folder in ["", "functions", "state", "run", "data"] {
            let folder = dir.join(folder);
            if folder.exists() {
                chown(folder, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// What the relay hands over: the supervisor's end of the launcher's socket.
fn handed(control: &OwnedFd) -> OwnedFd {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    use std::os::fd::FromRawFd;
    readable(control.as_fd(), "the relay hands its socket over");
    let mut word = [0; 64];
    let mut parts = [std::io::IoSliceMut::new(&mut word)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(control.as_raw_fd(), &mut parts, Some(&mut space), flags).unwrap();
    let rights = message.cmsgs().unwrap().find_map(|control| match control {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    // SAFETY: the kernel just made this descriptor for this process, and nothing else knows of it.
    unsafe { OwnedFd::from_raw_fd(rights.unwrap()) }
}

/// A launcher that must not start: how it ended, what it said, and which cgroups it left.
pub(crate) fn refused_start(who: As, prepare: impl FnOnce(&Path)) -> (ExitStatus, String, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    make_folders(dir.path());
    prepare(dir.path());
    let out = command(dir.path(), who, "relay")
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    (
        out.status,
        String::from_utf8(out.stderr).unwrap(),
        cgroups_of(dir.path()),
    )
}

fn make_folders(dir: &Path) {
    for folder in ["", "functions", "state", "run", "data"] {
        let path = dir.join(folder);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn cgroups_of(dir: &Path) -> Vec<PathBuf> {
    let run = dir.join("run").canonicalize().unwrap();
    let hash = ring::digest::digest(&ring::digest::SHA256, run.as_os_str().as_encoded_bytes());
    let name: String = hash.as_ref()[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    cgroups_named(&format!("funcd-{name}"))
}

fn launch(dir: &Path, who: As, behaviour: &str) -> Child {
    command(dir, who, behaviour).stdin(Stdio::null()).spawn().unwrap()
}

fn listen_at(path: &Path) -> UnixListener {
    let fd = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    bind(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
    listen(&fd, Backlog::new(8).unwrap()).unwrap();
    fd.into()
}

pub(crate) fn readable(fd: std::os::fd::BorrowedFd<'_>, what: &str) {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut fds, timeout), Ok(1), "waited in vain until {what}");
}

/// Reads until the other end is closed by everybody who holds it.
pub(crate) fn read_all(mut from: impl Read + AsFd) -> String {
    let mut all = Vec::new();
    loop {
        readable(from.as_fd(), "there is more to read");
        let mut some = [0; 256];
        match from.read(&mut some).unwrap() {
            0 => return String::from_utf8(all).unwrap(),
            length => all.extend_from_slice(&some[..length]),
        }
    }
}

/// Reads one line, a byte at a time.
pub(crate) fn read_line(mut from: &File) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        readable(from.as_fd(), "a line is there");
        assert_eq!(from.read(&mut byte).unwrap(), 1, "the end came before a line");
        if byte[0] == b'\n' {
            return String::from_utf8(line).unwrap();
        }
        line.push(byte[0]);
    }
}

/// The cgroups with this name, in any hierarchy.
pub(crate) fn cgroups_named(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut below = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = below.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_name() == name {
                found.push(entry.path());
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                below.push(entry.path());
            }
        }
    }
    found
}

/// The role of `doctor`: one line for each property.
pub(crate) fn print_grades() {
    for grade in launcher::grades(None) {
        match grade.mechanism {
            Some(mechanism) => println!("{} kept by {mechanism}", grade.property),
            None => println!("{} missing: {}; {}", grade.property, grade.cause, grade.fix),
        }
    }
}

/// Grades this machine in a process of its own: its pid, and what it prints.
pub(crate) fn grades(who: As) -> (u32, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = command_of("grades", dir.path(), who);
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    (pid, String::from_utf8(out.stdout).unwrap())
}
