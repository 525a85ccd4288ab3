//! What can be started, how a start fails, and how a mini-init and a cgroup take part.

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use funcd_sandbox::confine::{Confinement, Failure};
use funcd_sandbox::exit::Step;
use nix::sys::wait::WaitStatus;
use tempfile::TempDir;

use crate::start::{Start, UID, open_directory, wait};

pub(crate) fn dynamic_executables_run() {
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

pub(crate) fn scripts_run_by_path() {
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
pub(crate) fn interpreters_run_under_the_filter() {
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

pub(crate) fn a_failed_step_is_named_with_its_errno() {
    for pid_namespace in [false, true] {
        let fails = |change: &dyn Fn(&mut Confinement)| {
            let start = Start::payload()
                .with(|c| c.pid_namespace = pid_namespace)
                .with(change);
            let failure = start.spawn().expect_err("it started");
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

pub(crate) fn a_mini_init_passes_signals_on_and_reports() {
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

pub(crate) fn killing_the_mini_init_ends_all() {
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

pub(crate) fn starts_into_a_cgroup() {
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

pub(crate) fn starts_into_v1_cgroups() {
    let root = Path::new("/sys/fs/cgroup/pids");
    if !root.join("tasks").exists() {
        return println!("skipped: no v1 hierarchy");
    }
    for pid_namespace in [false, true] {
        let leaf = Leaf(root.join(format!("funcd-test-v1-{pid_namespace}-{}", std::process::id())));
        fs::create_dir(&leaf.0).unwrap();
        let tasks = File::options().write(true).open(leaf.0.join("tasks")).unwrap();
        let start = Start::payload().args(&["payload", "wait"]);
        let start = start.with(|c| (c.tasks, c.pid_namespace) = (vec![tasks.as_raw_fd()], pid_namespace));
        let (spawned, mut output) = start.spawn().unwrap();
        output.read_exact(&mut [0; 6]).unwrap();
        let members = || fs::read_to_string(leaf.0.join("cgroup.procs")).unwrap();
        assert!(
            members().lines().any(|pid| pid == spawned.main.to_string()),
            "{}",
            members()
        );
        while let Some(pid) = members().lines().next() {
            let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL);
            std::thread::yield_now();
        }
        wait(&spawned);
    }
}

pub(crate) fn a_killed_cgroup_is_reported_as_such() {
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
