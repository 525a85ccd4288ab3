//! Starts real confined processes and asks them what they can do: `payload.c` tells, one fact a line.
//!
//! One binary with a `main` of its own, as some stories need a process with a single thread and another identity: they run
//! this binary again with `FUNCD_TEST_ROLE`. Without root, what needs it is printed as skipped.

use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::LazyLock;

use funcd_sandbox::confine::{self, Confinement, Failure, Mounts, Spawned};
use funcd_sandbox::exit::Step;
use funcd_sandbox::namespace::{self, Loopback};
use funcd_sandbox::probe::{self, Facts, ProbeInput};
use funcd_sandbox::spec::Limits;
use funcd_sandbox::{own, rlimit};
use libtest_mimic::{Arguments, Trial};
use nix::sys::wait::WaitStatus;
use tempfile::TempDir;

const UID: u32 = 64_321;
const NOBODY: u32 = 65_534;
const TMP_BYTES: u64 = 256 * 1024;

fn main() -> ExitCode {
    match std::env::var("FUNCD_TEST_ROLE").as_deref() {
        Ok("start") => return role_start(),
        Ok("own") => return role_own(),
        _ => {}
    }
    let args = Arguments::from_args();
    let mut trials = Vec::new();
    let root = nix::unistd::geteuid().is_root();
    let mut add = |name: &str, needs_root: bool, story: fn()| {
        let skip = needs_root && !root;
        trials.push(Trial::test(name.to_owned(), move || {
            match (skip, std::env::var("FUNCD_TEST_REQUIRE").as_deref() == Ok("all")) {
                (true, true) => return Err("skipped, but FUNCD_TEST_REQUIRE=all: needs root".into()),
                (true, false) => println!("skipped: needs root"),
                (false, _) => story(),
            }
            Ok(())
        }));
    };
    add("sees_exactly_what_it_was_given", true, || {
        sees_exactly_what_it_was_given(false)
    });
    add("sees_exactly_what_it_was_given_in_a_pid_namespace", true, || {
        sees_exactly_what_it_was_given(true)
    });
    add("reaches_nothing_else", true, || reaches_nothing_else(false));
    add("reaches_nothing_else_in_a_pid_namespace", true, || {
        reaches_nothing_else(true)
    });
    add(
        "the_control_reaches_what_the_sandbox_refuses",
        true,
        the_control_reaches_what_the_sandbox_refuses,
    );
    add(
        "each_mechanism_can_be_left_out",
        true,
        each_mechanism_can_be_left_out,
    );
    add("tmp_is_bounded", true, tmp_is_bounded);
    add(
        "write_grants_are_writable_and_not_executable",
        true,
        write_grants_are_writable_and_not_executable,
    );
    add("dynamic_executables_run", true, dynamic_executables_run);
    add("scripts_run_by_path", true, scripts_run_by_path);
    add(
        "interpreters_run_under_the_filter",
        true,
        interpreters_run_under_the_filter,
    );
    add(
        "a_failed_step_is_named_with_its_errno",
        true,
        a_failed_step_is_named_with_its_errno,
    );
    add(
        "low_descriptors_are_moved_out_of_the_way",
        true,
        low_descriptors_are_moved_out_of_the_way,
    );
    add(
        "a_mini_init_passes_signals_on_and_reports",
        true,
        a_mini_init_passes_signals_on_and_reports,
    );
    add(
        "killing_the_mini_init_ends_all",
        true,
        killing_the_mini_init_ends_all,
    );
    add(
        "a_killed_cgroup_is_reported_as_such",
        true,
        a_killed_cgroup_is_reported_as_such,
    );
    add("starts_into_a_cgroup", true, starts_into_a_cgroup);
    add(
        "a_launcher_that_dropped_first_starts_the_same",
        true,
        a_launcher_that_dropped_first_starts_the_same,
    );
    add("works_without_root", false, works_without_root);
    add(
        "the_supervisor_confines_itself",
        false,
        the_supervisor_confines_itself,
    );
    add(
        "the_probe_finds_what_works_here",
        true,
        the_probe_finds_what_works_here,
    );
    libtest_mimic::run(&args, trials).exit_code()
}

// What the stories are told with.

/// The static payload, compiled once for each run.
static PAYLOAD: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    let dir = open_directory();
    let path = dir.path().join("payload");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/payload.c");
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

fn open_directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    dir
}

/// The Landlock ABI of this kernel.
fn abi() -> Option<u32> {
    Some(probe::probe(&ProbeInput::default()).landlock_abi).filter(|abi| *abi > 0)
}

/// A start with the whole default profile, to be changed by the stories; owns what the confinement refers to.
struct Start {
    confinement: Confinement,
    output: File,
    _executable: File,
    _write_end: OwnedFd,
    _listener: UnixListener,
    _network: Option<OwnedFd>,
    _directory: TempDir,
}

struct Ended {
    text: String,
    status: WaitStatus,
    pid: i32,
    main: i32,
}

impl Start {
    fn new(executable: &Path) -> Start {
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
            pids: 64,
            tmp_bytes: TMP_BYTES,
            files: 1024,
        };
        let confinement = Confinement {
            executable: executable.as_raw_fd(),
            artifact_path: None,
            args: vec![c"payload".into()],
            env: Vec::new(),
            stdout: write_end.as_raw_fd(),
            stderr: write_end.as_raw_fd(),
            listener: Some(listener.as_raw_fd()),
            cgroup: None,
            tasks: Vec::new(),
            network: network.as_ref().map(AsRawFd::as_raw_fd),
            read: Vec::new(),
            write: Vec::new(),
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

    fn payload() -> Start {
        Start::new(&PAYLOAD.1)
    }

    fn args(mut self, args: &[&str]) -> Start {
        self.confinement.args = strings(args);
        self
    }

    fn env(mut self, env: &[&str]) -> Start {
        self.confinement.env = strings(env);
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Confinement)) -> Start {
        change(&mut self.confinement);
        self
    }

    fn system(self) -> Start {
        self.with(|c| {
            c.read = system_paths();
            c.mounts.as_mut().unwrap().proc = true;
        })
    }

    fn spawn(self) -> Result<(Spawned, File), Failure> {
        let spawned = confine::spawn(&self.confinement)?;
        Ok((spawned, self.output))
    }

    /// Starts it and reads what it says to the end.
    fn run(self) -> Ended {
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
fn system_paths() -> Vec<PathBuf> {
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

fn strings(list: &[&str]) -> Vec<CString> {
    list.iter().map(|text| CString::new(*text).unwrap()).collect()
}

fn wait(spawned: &Spawned) -> WaitStatus {
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(spawned.pid), None).unwrap()
}

impl Ended {
    /// The value of a fact.
    fn fact(&self, name: &str) -> &str {
        let line = self
            .text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no fact {name:?} in:\n{}", self.text))
    }

    #[track_caller]
    fn expect(&self, facts: &[(&str, &str)]) {
        for (name, value) in facts {
            assert_eq!(self.fact(name), *value, "{name}");
        }
    }
}

/// Runs this binary again in another role and returns what it printed.
fn again(role: &str, command: impl FnOnce(&mut Command)) -> String {
    let dir = open_directory();
    let copy = dir.path().join("confined");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
    let mut again = Command::new(&copy);
    again
        .env("FUNCD_TEST_ROLE", role)
        .env("TMPDIR", dir.path())
        .current_dir("/");
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

// The stories.

fn sees_exactly_what_it_was_given(pid_namespace: bool) {
    let env = ["LISTEN_FDS=1", "EMPTY=", "NAME=two words = and more"];
    let ended = Start::payload()
        .env(&env)
        .args(&["payload", "", "b c"])
        .with(|c| c.pid_namespace = pid_namespace)
        .run();
    let expected_pid = if pid_namespace {
        "2".to_owned()
    } else {
        ended.pid.to_string()
    };
    let lines = |prefix: &str| -> Vec<String> {
        ended
            .text
            .lines()
            .filter_map(|line| Some(line.strip_prefix(prefix)?.to_owned()))
            .collect()
    };
    let mut expected: Vec<String> = env.iter().map(|&text| text.to_owned()).collect();
    expected.push(format!("LISTEN_PID={expected_pid}"));
    assert_eq!(lines("env "), expected);
    assert_eq!(lines("arg "), ["payload", "", "b c"]);
    let ids = format!("{UID} {UID} {UID} {UID} {UID} {UID} groups 0");
    ended.expect(&[
        ("fds", "0 1 2 3"),
        ("pid", &expected_pid),
        ("session", "own"),
        ("ids", &ids),
        ("caps", "0 0 0 0 0 0"),
        ("bounding", "0"),
        ("securebits", "2f"),
        ("nnp", "1"),
        ("seccomp", "2"),
        ("umask", "77"),
        ("cwd", "/"),
        ("signals", "blocked 0 changed 0"),
        ("listener", "1"),
        ("rlimit 4", "1 1"),
        ("rlimit 6", "256 256"),
        ("rlimit 7", "1024 1024"),
        ("rlimit 8", "65536 65536"),
    ]);
    assert_eq!(ended.fact("pdeathsig"), if pid_namespace { "0" } else { "9" });
    assert_ne!(ended.main == ended.pid, pid_namespace);
    assert_eq!(
        ended.status,
        WaitStatus::Exited(nix::unistd::Pid::from_raw(ended.pid), 7)
    );
}

fn reaches_nothing_else(pid_namespace: bool) {
    let host = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("HOST_PORT={}", host.local_addr().unwrap().port());
    let pid = format!("HOST_PID={}", std::process::id());
    let ended = Start::payload()
        .env(&[&port, &pid])
        .with(|c| c.pid_namespace = pid_namespace)
        .run();
    ended.expect(REFUSED);
    // The filter answers before the kernel looks for the process, except for kill.
    ended.expect(&[("kill host", if pid_namespace { "ESRCH" } else { "EPERM" })]);
    ended.expect(WORKS);
    #[cfg(target_arch = "x86_64")]
    ended.expect(&[("int80", "Bad system call")]);
    assert!(ended.text.ends_with("done\n"), "{}", ended.text);
}

const REFUSED: &[(&str, &str)] = &[
    ("stat /etc/shadow", "ENOENT"),
    ("open /etc/shadow", "ENOENT"),
    ("path /etc/shadow", "ENOENT"),
    ("inotify /etc", "ENOENT"),
    ("stat /proc", "ENOENT"),
    ("stat /usr/bin/env", "ENOENT"),
    ("list /", "EACCES"),
    ("mkdir /made", "EROFS"),
    ("mkdir /dev/made", "EROFS"),
    ("mknod", "EPERM"),
    ("exec /tmp", "EACCES"),
    ("map /tmp", "EPERM"),
    ("tcp", "ENETUNREACH"),
    ("udp", "ENETUNREACH"),
    ("fastopen", "EOPNOTSUPP"),
    ("mptcp", "EOPNOTSUPP"),
    ("netlink", "EAFNOSUPPORT"),
    ("packet", "EAFNOSUPPORT"),
    ("vsock", "EAFNOSUPPORT"),
    ("raw", "EPERM"),
    ("ptrace", "EPERM"),
    ("process_vm_readv", "EPERM"),
    ("setuid 0", "EPERM"),
    ("capset", "EPERM"),
    ("unshare", "EPERM"),
    ("clone user", "EPERM"),
    ("clone3", "ENOSYS"),
    ("mount", "EPERM"),
    ("chroot", "EPERM"),
    ("bpf", "EPERM"),
    ("io_uring", "ENOSYS"),
    ("keyctl", "EPERM"),
    ("add_key", "EPERM"),
    ("userfaultfd", "EPERM"),
    ("perf", "EPERM"),
    ("sysv", "EPERM"),
    ("tiocsti", "EPERM"),
    ("raise core", "EPERM"),
    ("newer call", "ENOSYS"),
    ("personality", "EPERM"),
];

const WORKS: &[(&str, &str)] = &[
    ("write /tmp", "OK"),
    ("mkfifo", "OK"),
    ("device null", "OK"),
    ("device zero", "OK"),
    ("device full", "OK"),
    ("device random", "OK"),
    ("device urandom", "OK"),
    ("socketpair", "OK"),
    ("thread", "OK"),
    ("close_range", "OK"),
];

fn the_control_reaches_what_the_sandbox_refuses() {
    let host = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = Command::new(&PAYLOAD.1)
        .env_clear()
        .env("CONTROL", "1")
        .env("HOST_PORT", host.local_addr().unwrap().port().to_string())
        .env("HOST_PID", std::process::id().to_string())
        .output()
        .unwrap();
    let status = WaitStatus::Exited(nix::unistd::Pid::from_raw(1), 0);
    let control = Ended {
        text: String::from_utf8(output.stdout).unwrap(),
        status,
        pid: 0,
        main: 0,
    };
    for name in [
        "stat /etc/shadow",
        "open /etc/shadow",
        "path /etc/shadow",
        "inotify /etc",
        "stat /proc",
        "list /",
    ] {
        control.expect(&[(name, "OK")]);
    }
    for name in [
        "mkdir /made",
        "mknod",
        "tcp",
        "udp",
        "netlink",
        "packet",
        "raw",
        "kill host",
        "unshare",
        "clone user",
    ] {
        control.expect(&[(name, "OK")]);
    }
    for name in [
        "chroot",
        "add_key",
        "sysv",
        "raise core",
        "personality",
        "map /tmp",
    ] {
        control.expect(&[(name, "OK")]);
    }
    // Refused by the kernel for another reason than a sandbox would.
    control.expect(
        &[
            ("exec /tmp", "ENOEXEC"),
            ("io_uring", "EFAULT"),
            ("clone3", "EINVAL"),
            ("bpf", "E2BIG"),
        ]
        .map(|(name, value)| {
            (
                name,
                if control.fact(name) == "EINVAL" {
                    "EINVAL"
                } else {
                    value
                },
            )
        }),
    );
    assert_ne!(control.fact("caps"), "0 0 0 0 0 0");
    assert_eq!(control.fact("seccomp"), "0");
}

fn each_mechanism_can_be_left_out() {
    let ended = Start::payload()
        .with(|c| {
            c.mounts = None;
            c.network = None;
            c.landlock_abi = None;
            c.seccomp = false;
            c.listener = None;
            c.rlimits = Vec::new();
            c.identity = None;
        })
        .env(&["CONTROL=1"])
        .run();
    ended.expect(&[
        ("fds", "0 1 2"),
        ("stat /etc/shadow", "OK"),
        ("open /etc/shadow", "OK"),
        ("seccomp", "0"),
    ]);
    // Privileges are never left.
    ended.expect(&[("caps", "0 0 0 0 0 0"), ("nnp", "1"), ("bounding", "0")]);
    assert!(!ended.text.contains("LISTEN_PID"), "{}", ended.text);

    // Landlock alone keeps files from being opened, and is the second hand on exec.
    let ended = Start::payload()
        .env(&["CONTROL=1"])
        .with(|c| c.mounts = None)
        .run();
    ended.expect(&[
        ("open /etc/shadow", "EACCES"),
        ("list /", "EACCES"),
        ("write /tmp", "EACCES"),
        ("device null", "OK"),
    ]);
    // The mount namespace alone keeps them from being seen.
    let ended = Start::payload().with(|c| c.landlock_abi = None).run();
    ended.expect(&[
        ("stat /etc/shadow", "ENOENT"),
        ("mkdir /made", "EROFS"),
        ("exec /tmp", "EACCES"),
        ("list /", "OK"),
    ]);
    // Landlock refuses TCP where there is no network namespace to do it.
    let host = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("HOST_PORT={}", host.local_addr().unwrap().port());
    let ended = Start::payload().env(&[&port]).with(|c| c.network = None).run();
    if abi() >= Some(4) {
        ended.expect(&[("tcp", "EACCES")]);
    }
}

fn tmp_is_bounded() {
    let ended = Start::payload()
        .env(&["FILL=1"])
        .with(|c| c.rlimits.retain(|(r, _)| *r != libc::RLIMIT_FSIZE))
        .run();
    ended.expect(&[("fill /tmp", "ENOSPC")]);
    let filled: u64 = ended.fact("filled").parse().unwrap();
    assert!(
        filled <= TMP_BYTES && filled >= TMP_BYTES / 2,
        "{filled} of {TMP_BYTES}"
    );
}

fn write_grants_are_writable_and_not_executable() {
    let dir = open_directory();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    let grant = format!("GRANT={}", dir.path().display());
    let path = dir.path().to_owned();
    let ended = Start::payload()
        .env(&[&grant])
        .with(|c| c.write = vec![path])
        .run();
    ended.expect(&[("write grant", "OK"), ("exec grant", "EACCES")]);
    assert_eq!(fs::read(dir.path().join("made")).unwrap(), b"x");
    fs::remove_file(dir.path().join("made")).unwrap();
    // The control, and what a read grant means.
    let path = dir.path().to_owned();
    let ended = Start::payload()
        .env(&[&grant])
        .with(|c| c.read = vec![path])
        .run();
    assert!(
        ["EROFS", "EACCES"].contains(&ended.fact("write grant")),
        "{}",
        ended.fact("write grant")
    );
}

fn dynamic_executables_run() {
    for pid_namespace in [false, true] {
        let env = Start::new(Path::new("/usr/bin/env"));
        let ended = env
            .system()
            .args(&["env"])
            .env(&["A=b"])
            .with(|c| c.pid_namespace = pid_namespace)
            .run();
        assert!(ended.text.starts_with("A=b\nLISTEN_PID="), "{}", ended.text);
    }
    // The control: it does need the libraries.
    let failure = Start::new(Path::new("/usr/bin/env")).spawn().err();
    assert_eq!(
        failure,
        Some(Failure {
            step: Step::Exec,
            errno: libc::ENOENT
        })
    );
}

fn script(text: &str) -> (TempDir, PathBuf) {
    let dir = open_directory();
    let path = dir.path().join("stored");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o555)).unwrap();
    (dir, path)
}

fn scripts_run_by_path() {
    let (_dir, path) = script("#!/bin/sh\necho $0 $1; echo x > /function/hello; cat /etc/shadow\n");
    for pid_namespace in [false, true] {
        let start = Start::new(&path).system().args(&["hello", "world"]);
        let inside = PathBuf::from("/function/hello");
        let ended = start
            .with(|c| (c.artifact_path, c.pid_namespace) = (Some(inside), pid_namespace))
            .run();
        assert!(
            ended.text.starts_with("/function/hello world\n"),
            "{}",
            ended.text
        );
        assert!(
            ended.text.contains("/function/hello: Read-only file system")
                || ended.text.contains("Permission denied")
        );
        assert!(ended.text.contains("/etc/shadow: No such file"), "{}", ended.text);
    }
    // Without a mount namespace: by its path in the store.
    let stored = path.clone();
    let ended = Start::new(&path)
        .system()
        .args(&["hello", "world"])
        .with(|c| (c.artifact_path, c.mounts) = (Some(stored), None))
        .run();
    assert!(
        ended.text.starts_with(&format!("{} world\n", path.display())),
        "{}",
        ended.text
    );
    assert!(
        ended.text.contains("/etc/shadow: Permission denied"),
        "{}",
        ended.text
    );
    // The control: by descriptor the interpreter finds nothing.
    let failure = Start::new(&path).system().spawn().err();
    assert_eq!(
        failure,
        Some(Failure {
            step: Step::Exec,
            errno: libc::ENOENT
        })
    );
}

/// Runtimes that come with a machine often; those that are missing are named.
fn interpreters_run_under_the_filter() {
    let python = "import threading, subprocess, socket, tempfile, sys\n\
                  t = threading.Thread(target=lambda: None); t.start(); t.join()\n\
                  s = socket.socket(fileno=3); s.settimeout(1)\n\
                  tempfile.TemporaryFile().write(b'x')\n\
                  assert subprocess.run(['/bin/true']).returncode == 0\n\
                  print('fine')\n";
    let node = "const c = require('child_process');\
                require('fs').writeFileSync('/tmp/x', 'x');\
                setTimeout(() => { c.execFileSync('/bin/true'); console.log('fine'); }, 1);";
    let perl = "if (my $pid = fork) { waitpid $pid, 0 } else { exit } print \"fine\\n\"";
    let others = "import os\n\
                  assert os.readlink('/proc/self/exe')\n\
                  pids = [name for name in os.listdir('/proc') if name.isdigit()]\n\
                  print('fine' if pids == [str(os.getpid())] and not os.path.exists('/proc/1/environ') else pids)\n";
    for (program, args) in [
        ("/usr/bin/python3", vec!["python3", "-c", others]),
        ("/usr/bin/python3", vec!["python3", "-c", python]),
        ("/usr/bin/node", vec!["node", "-e", node]),
        ("/usr/bin/perl", vec!["perl", "-e", perl]),
        ("/usr/bin/java", vec!["java", "-Xmx64m", "-version"]),
        (
            "/usr/bin/bash",
            vec!["bash", "-c", "x=$(echo fine | cat) && echo $x"],
        ),
    ] {
        let Ok(path) = fs::canonicalize(program) else {
            println!("skipped: {program} is not installed");
            continue;
        };
        let start = Start::new(&path)
            .system()
            .args(&args)
            .env(&["PATH=/usr/bin:/bin", "HOME=/tmp"]);
        let ended = start
            .with(|c| {
                c.read.extend(
                    ["/opt", "/etc/java-17-openjdk"]
                        .map(PathBuf::from)
                        .into_iter()
                        .filter(|p| p.exists()),
                );
                c.artifact_path = Some(path.clone());
                c.mounts.as_mut().unwrap().tmp_bytes = 64 << 20;
                c.rlimits.retain(|(r, _)| *r != libc::RLIMIT_FSIZE);
            })
            .run();
        let code = matches!(ended.status, WaitStatus::Exited(_, 0));
        assert!(
            code && (program.ends_with("java") || ended.text.contains("fine")),
            "{program}: {}",
            ended.text
        );
    }
}

fn a_failed_step_is_named_with_its_errno() {
    for pid_namespace in [false, true] {
        let fails = |change: &dyn Fn(&mut Confinement)| {
            let start = Start::payload()
                .with(|c| c.pid_namespace = pid_namespace)
                .with(change);
            let failure = start.spawn().err().expect("it started");
            assert_no_children();
            failure
        };
        let at = |step, errno| Failure { step, errno };
        for bad in [(0, UID), (UID, 0), (u32::MAX, UID), (UID, u32::MAX)] {
            assert_eq!(
                fails(&|c| c.identity = Some(bad)),
                at(Step::Identity, libc::EINVAL),
                "{bad:?}"
            );
        }
        let gone = || PathBuf::from("/no/such/grant");
        assert_eq!(fails(&|c| c.read = vec![gone()]), at(Step::Mounts, libc::ENOENT));
        assert_eq!(
            fails(&|c| c.mounts.as_mut().unwrap().staging = gone()),
            at(Step::Mounts, libc::ENOENT)
        );
        let null = File::open("/dev/null").unwrap();
        assert_eq!(
            fails(&|c| c.network = Some(null.as_raw_fd())),
            at(Step::JoinNetwork, libc::EINVAL)
        );
        assert_eq!(
            fails(&|c| c.rlimits = vec![(99, 1)]),
            at(Step::Rlimits, libc::EINVAL)
        );
        assert_eq!(
            fails(&|c| c.tasks = vec![999_999]),
            at(Step::JoinCgroup, libc::EBADF)
        );
        assert_eq!(
            fails(&|c| c.cgroup = Some(null.as_raw_fd())),
            at(Step::Clone, libc::EBADF)
        );
        assert_eq!(fails(&|c| c.stdout = 999_999), at(Step::Descriptors, libc::EBADF));
        let (_dir, text) = script("neither ELF nor script\n");
        let text = File::open(text).unwrap();
        assert_eq!(
            fails(&|c| c.executable = text.as_raw_fd()),
            at(Step::Exec, libc::ENOEXEC)
        );
    }
}

/// As long as a test thread has failed starts only, it has no child left.
fn assert_no_children() {
    let children = fs::read_to_string("/proc/thread-self/children");
    assert_eq!(children.unwrap_or_default().trim(), "");
}

fn low_descriptors_are_moved_out_of_the_way() {
    // In a process of its own, where 0 to 3 can be closed and taken by what a start needs.
    let text = again("start", |command| {
        command.env("FUNCD_TEST_LOW", "1");
    });
    let ended = Ended {
        text,
        status: WaitStatus::StillAlive,
        pid: 0,
        main: 0,
    };
    ended.expect(&[("fds", "0 1 2 3"), ("listener", "1"), ("write /tmp", "OK")]);
}

fn a_mini_init_passes_signals_on_and_reports() {
    let start = Start::payload()
        .args(&["payload", "wait"])
        .with(|c| c.pid_namespace = true);
    let (spawned, mut output) = start.spawn().unwrap();
    let mut ready = [0; 6];
    output.read_exact(&mut ready).unwrap();
    let namespaces = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap();
    assert_eq!(namespaces(spawned.main), namespaces(spawned.pid));
    assert_ne!(
        namespaces(spawned.main),
        fs::read_link("/proc/self/ns/pid").unwrap()
    );
    let fds = fs::read_dir(format!("/proc/{}/fd", spawned.pid)).unwrap().count();
    assert_eq!(fds, 1, "the mini-init holds its report only");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(spawned.pid), nix::sys::signal::SIGTERM).unwrap();
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(
        text, "signal 15\n",
        "and its own child died with it, else the pipe would still be open"
    );
    let mut status = Vec::new();
    File::from(spawned.report.as_ref().unwrap().try_clone().unwrap())
        .read_to_end(&mut status)
        .unwrap();
    let status = i32::from_ne_bytes(status.try_into().unwrap());
    assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 42));
    assert_eq!(
        wait(&spawned),
        WaitStatus::Exited(nix::unistd::Pid::from_raw(spawned.pid), 42)
    );
}

fn killing_the_mini_init_ends_all() {
    let start = Start::payload()
        .args(&["payload", "wait"])
        .with(|c| c.pid_namespace = true);
    let (spawned, mut output) = start.spawn().unwrap();
    let mut ready = [0; 6];
    output.read_exact(&mut ready).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(spawned.pid), nix::sys::signal::SIGKILL).unwrap();
    wait(&spawned);
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    let mut report = Vec::new();
    File::from(spawned.report.unwrap())
        .read_to_end(&mut report)
        .unwrap();
    assert_eq!(report, b"");
}

/// An empty cgroup of the v2 hierarchy, wherever that is mounted.
struct Leaf(PathBuf);

impl Leaf {
    fn new(name: &str) -> Option<Leaf> {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let Some(root) = roots.into_iter().find(|root| root.join("cgroup.procs").exists()) else {
            println!("skipped: no cgroup v2 hierarchy");
            return None;
        };
        let path = root.join(format!("funcd-test-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Some(Leaf(path))
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).expect("the cgroup is empty: what ran in it was waited for");
    }
}

fn starts_into_a_cgroup() {
    for pid_namespace in [false, true] {
        let Some(leaf) = Leaf::new(&format!("into-{pid_namespace}")) else {
            return;
        };
        let fd = File::open(&leaf.0).unwrap();
        let start = Start::payload().args(&["payload", "wait"]);
        let start = start.with(|c| (c.cgroup, c.pid_namespace) = (Some(fd.as_raw_fd()), pid_namespace));
        let (spawned, mut output) = start.spawn().unwrap();
        let mut ready = [0; 6];
        output.read_exact(&mut ready).unwrap();
        let members = fs::read_to_string(leaf.0.join("cgroup.procs")).unwrap();
        assert!(
            members.lines().any(|pid| pid == spawned.main.to_string()),
            "{members:?} without {}",
            spawned.main
        );
        fs::write(leaf.0.join("cgroup.kill"), "1").unwrap();
        wait(&spawned);
        output.read_to_end(&mut Vec::new()).unwrap();
        // Until the kernel has let go of the last of them.
        while fs::read_to_string(leaf.0.join("cgroup.events"))
            .unwrap()
            .contains("populated 1")
        {
            std::thread::yield_now();
        }
    }
}

fn a_killed_cgroup_is_reported_as_such() {
    for pid_namespace in [false, true] {
        let Some(leaf) = Leaf::new(&format!("killed-{pid_namespace}")) else {
            return;
        };
        let fd = File::open(&leaf.0).unwrap();
        let start =
            || Start::payload().with(|c| (c.cgroup, c.pid_namespace) = (Some(fd.as_raw_fd()), pid_namespace));
        start().run().expect(&[("fds", "0 1 2 3")]);
        fs::write(leaf.0.join("cgroup.kill"), "1").unwrap();
        assert_eq!(
            start().spawn().err(),
            Some(Failure {
                step: Step::Clone,
                errno: 0
            })
        );
    }
}

fn a_launcher_that_dropped_first_starts_the_same() {
    for pid_namespace in ["", "1"] {
        let text = again("start", |command| {
            command
                .env("FUNCD_TEST_DROP", "1")
                .env("FUNCD_TEST_PID_NAMESPACE", pid_namespace);
        });
        let ended = Ended {
            text,
            status: WaitStatus::StillAlive,
            pid: 0,
            main: 0,
        };
        let ids = format!("{UID} {UID} {UID} {UID} {UID} {UID} groups 0");
        ended.expect(&[
            ("fds", "0 1 2 3"),
            ("caps", "0 0 0 0 0 0"),
            ("bounding", "0"),
            ("securebits", "2f"),
        ]);
        ended.expect(&[("nnp", "1"), ("seccomp", "2"), ("ids", &ids)]);
        ended.expect(REFUSED);
        ended.expect(WORKS);
    }
}

fn works_without_root() {
    for pid_namespace in ["", "1"] {
        let text = again("start", |command| {
            command
                .env("FUNCD_TEST_ROOTLESS", "1")
                .env("FUNCD_TEST_PID_NAMESPACE", pid_namespace);
            command.env("FUNCD_TEST_DROP", "1");
            if nix::unistd::geteuid().is_root() {
                command.uid(NOBODY).gid(NOBODY);
            }
        });
        if let Some(why) = text.strip_prefix("skipped") {
            assert_ne!(
                std::env::var("FUNCD_TEST_REQUIRE").as_deref(),
                Ok("all"),
                "skipped{why}"
            );
            return println!("skipped{why}");
        }
        let ended = Ended {
            text,
            status: WaitStatus::StillAlive,
            pid: 0,
            main: 0,
        };
        ended.expect(&[
            ("fds", "0 1 2 3"),
            ("caps", "0 0 0 0 0 0"),
            ("nnp", "1"),
            ("seccomp", "2"),
            ("bounding", "0"),
        ]);
        for (name, value) in REFUSED {
            // The one uid of this namespace is not 0: there is nothing that setuid could mean.
            let value = if *name == "setuid 0" { "EINVAL" } else { value };
            ended.expect(&[(name, value)]);
        }
        ended.expect(WORKS);
    }
}

fn role_start() -> ExitCode {
    let asked = |name: &str| std::env::var(name).is_ok_and(|value| value == "1");
    if asked("FUNCD_TEST_ROOTLESS")
        && let Err(error) = namespace::enter_user_namespace()
    {
        println!("skipped: no user namespace here: {error}");
        return ExitCode::SUCCESS;
    }
    if asked("FUNCD_TEST_DROP") {
        confine::drop_inheritable().unwrap();
    }
    let mut start = Start::payload()
        .env(&["HOST_PID=1"])
        .with(|c| c.pid_namespace = asked("FUNCD_TEST_PID_NAMESPACE"));
    if asked("FUNCD_TEST_LOW") {
        // What a start needs, at numbers that it fills.
        let c = &mut start.confinement;
        nix::unistd::dup2_stdin(&start._executable).unwrap();
        nix::unistd::dup2_stderr(&start._write_end).unwrap();
        (c.executable, c.stdout, c.stderr) = (0, 2, 2);
    }
    let ended = {
        let (spawned, mut from) = start.spawn().unwrap();
        if asked("FUNCD_TEST_LOW") {
            // Else its reading end would never be at the end.
            nix::unistd::dup2_stderr(std::io::stdout()).unwrap();
        }
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        Ended {
            text,
            status: wait(&spawned),
            pid: spawned.pid,
            main: spawned.main,
        }
    };
    print!("{}", ended.text);
    ExitCode::SUCCESS
}

fn the_supervisor_confines_itself() {
    let text = again("own", |_| {});
    let ended = Ended {
        text,
        status: WaitStatus::StillAlive,
        pid: 0,
        main: 0,
    };
    for name in [
        "before read",
        "before exec",
        "before write",
        "read",
        "write",
        "thread",
        "tcp",
    ] {
        ended.expect(&[(name, "OK")]);
    }
    ended.expect(&[
        ("exec", "EPERM"),
        ("unshare", "EPERM"),
        ("netlink", "EAFNOSUPPORT"),
    ]);
    if abi().is_some() {
        ended.expect(&[("outside", "EACCES"), ("write to read", "EACCES")]);
    }
}

fn role_own() -> ExitCode {
    fn tell<T>(name: &str, result: std::io::Result<T>) {
        match result {
            Ok(_) => println!("{name} OK"),
            Err(error) => {
                let errno = nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0));
                println!("{name} {errno:?}");
            }
        }
    }
    let (read, write) = (open_directory(), open_directory());
    fs::write(read.path().join("file"), "x").unwrap();
    tell("before read", fs::read("/etc/passwd"));
    tell("before exec", Command::new("/bin/true").status());
    tell("before write", fs::write(read.path().join("other"), "x"));
    let (read_fd, write_fd) = (
        File::open(read.path()).unwrap(),
        File::open(write.path()).unwrap(),
    );
    let access = own::Access {
        read: vec![read_fd.as_fd()],
        write: vec![write_fd.as_fd()],
    };
    let enforced = own::confine_self(&access).unwrap();
    println!("enforced {enforced:?}");
    tell("read", fs::read(read.path().join("file")));
    tell("write", fs::write(write.path().join("file"), "x"));
    tell("write to read", fs::write(read.path().join("third"), "x"));
    tell("outside", fs::read("/etc/passwd"));
    tell("exec", Command::new("/bin/true").status());
    let unshare = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUTS);
    tell("unshare", unshare.map_err(std::io::Error::from));
    let kind = nix::sys::socket::SockType::Raw;
    let flags = nix::sys::socket::SockFlag::empty();
    let netlink = nix::sys::socket::socket(nix::sys::socket::AddressFamily::Netlink, kind, flags, None);
    tell("netlink", netlink.map_err(std::io::Error::from));
    tell(
        "thread",
        std::thread::Builder::new()
            .spawn(|| ())
            .map(|thread| thread.join().unwrap()),
    );
    tell(
        "tcp",
        TcpListener::bind("127.0.0.1:0").and_then(|l| std::net::TcpStream::connect(l.local_addr()?)),
    );
    ExitCode::SUCCESS
}

fn the_probe_finds_what_works_here() {
    let facts = probe::probe(&ProbeInput {
        uid_range: true,
        ..ProbeInput::default()
    });
    let Facts {
        root,
        user_namespace,
        seccomp,
        mount_namespace,
        network_namespace,
        pid_namespace,
        own_uid,
        ..
    } = facts;
    assert_eq!((root, user_namespace), (true, false));
    // What the other stories use as root.
    assert_eq!(
        [
            seccomp,
            mount_namespace,
            network_namespace,
            pid_namespace,
            own_uid
        ],
        [true; 5]
    );
}
