//! What a supervisor that was taken over can reach: a program started by the launcher in its place, with its uid and what it is
//! handed, confines itself as the supervisor does and tries. The control is the same list, tried by root outside.

use std::os::fd::{AsFd, BorrowedFd};

use funcd_sandbox::own::{self, Access};
use funcd_sandbox::wire;

use super::*;

/// What is tried: a name, and whether it succeeded or the name of its errno.
pub(crate) fn probe(dir: &Path, function: i32, launcher: i32) -> String {
    let mut said = String::new();
    let mut tell = |name: &str, result: std::io::Result<()>| {
        let how = match result {
            Ok(()) => "OK".to_owned(),
            Err(e) => format!("{:?}", nix::errno::Errno::from_raw(e.raw_os_error().unwrap_or(0))),
        };
        said += &format!("{name}: {how}\n");
    };
    let read = |path: &Path| fs::File::open(path).map(drop);
    let write = |path: &Path| fs::OpenOptions::new().append(true).open(path).map(drop);
    let make = |path: PathBuf| {
        fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
        fs::remove_file(path)
    };
    tell("read /etc/shadow", read(Path::new("/etc/shadow")));
    tell("read /etc/passwd", read(Path::new("/etc/passwd")));
    tell("read a secret", read(&dir.join("secrets/db")));
    tell("list the secrets", fs::read_dir(dir.join("secrets")).map(drop));
    tell("list the store", fs::read_dir(dir.join("state/store")).map(drop));
    tell("write to the store", make(dir.join("state/store/made")));
    tell("read the uids", read(&dir.join("state/uids")));
    tell("write to the uids", write(&dir.join("state/uids")));
    tell("write to the functions folder", make(dir.join("functions/made")));
    tell("write to the state folder", make(dir.join("state/made")));
    tell("write to the run folder", make(dir.join("run/made")));
    tell("write beside the sockets", make(dir.join("run/i/made")));
    tell("write to /tmp", make(PathBuf::from("/tmp/funcd-test-made")));
    tell(
        "read a function's environment",
        read(&PathBuf::from(format!("/proc/{function}/environ"))),
    );
    tell(
        "read the launcher's memory file",
        read(&PathBuf::from(format!("/proc/{launcher}/mem"))),
    );
    tell("see a cgroup", fs::read_dir("/sys/fs/cgroup").map(drop));
    tell("execute /bin/true", Command::new("/bin/true").status().map(drop));
    let result = |value: i64| {
        if value < 0 {
            Err(std::io::Error::last_os_error())
        } else {
            Ok(())
        }
    };
    // SAFETY: no call below is given a pointer, but for null ones and those of literals that end in NUL.
    let call = |number: i64, args: [i64; 5]| unsafe {
        libc::syscall(number, args[0], args[1], args[2], args[3], args[4])
    };
    let fork = |number: i64, flags: i64| {
        let pid = call(number, [flags, 0, 0, 0, 0]);
        if pid == 0 {
            call(libc::SYS_exit_group, [0; 5]);
        }
        if pid > 0 {
            // SAFETY: a null pointer asks for no status.
            unsafe { libc::waitpid(pid as i32, std::ptr::null_mut(), 0) };
        }
        result(pid)
    };
    #[cfg(target_arch = "x86_64")]
    tell("fork", fork(libc::SYS_fork, 0));
    tell("clone", fork(libc::SYS_clone, i64::from(libc::SIGCHLD)));
    let (function, launcher) = (i64::from(function), i64::from(launcher));
    tell(
        "signal a function",
        result(call(libc::SYS_kill, [function, 0, 0, 0, 0])),
    );
    tell(
        "signal the launcher",
        result(call(libc::SYS_kill, [launcher, 0, 0, 0, 0])),
    );
    // PTRACE_SEIZE stops nothing, and ends with this process.
    tell(
        "trace a function",
        result(call(libc::SYS_ptrace, [0x4206, function, 0, 0, 0])),
    );
    tell(
        "trace the launcher",
        result(call(libc::SYS_ptrace, [0x4206, launcher, 0, 0, 0])),
    );
    tell(
        "read a function's memory",
        result(call(libc::SYS_process_vm_readv, [function, 0, 0, 0, 0])),
    );
    let socket = |domain: i32, kind: i32, protocol: i32| {
        let fd = call(
            libc::SYS_socket,
            [
                domain.into(),
                (kind | libc::SOCK_CLOEXEC).into(),
                protocol.into(),
                0,
                0,
            ],
        );
        if fd >= 0 {
            call(libc::SYS_close, [fd, 0, 0, 0, 0]);
        }
        result(fd)
    };
    tell(
        "raw socket",
        socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
    );
    tell("packet socket", socket(libc::AF_PACKET, libc::SOCK_RAW, 0));
    tell("netlink socket", socket(libc::AF_NETLINK, libc::SOCK_RAW, 0));
    tell("limit of another", {
        // A null pointer for both limits asks for nothing, but needs the right to.
        result(call(
            libc::SYS_prlimit64,
            [launcher, libc::RLIMIT_NOFILE.into(), 0, 0, 0],
        ))
    });
    tell("bpf", result(call(libc::SYS_bpf, [0; 5])));
    tell("perf_event_open", result(call(libc::SYS_perf_event_open, [0; 5])));
    tell("io_uring", result(call(libc::SYS_io_uring_setup, [0; 5])));
    tell("keyctl", result(call(libc::SYS_keyctl, [0, -3, 0, 0, 0])));
    tell(
        "open_by_handle_at",
        result(call(libc::SYS_open_by_handle_at, [0; 5])),
    );
    tell(
        "pidfd_getfd",
        result(call(libc::SYS_pidfd_getfd, [-1, 0, 0, 0, 0])),
    );
    tell(
        "unshare",
        result(call(libc::SYS_unshare, [libc::CLONE_FS.into(), 0, 0, 0, 0])),
    );
    let none = c"funcd-none".as_ptr() as i64;
    tell(
        "mount",
        result(call(libc::SYS_mount, [0, c"/".as_ptr() as i64, none, 0, 0])),
    );
    tell(
        "chroot",
        result(call(libc::SYS_chroot, [c"/".as_ptr() as i64, 0, 0, 0, 0])),
    );
    tell("setuid to itself", {
        // SAFETY: takes no pointer.
        let own = unsafe { libc::getuid() };
        result(call(libc::SYS_setuid, [own.into(), 0, 0, 0, 0]))
    });
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines().filter(|line| {
        [
            "CapInh",
            "CapPrm",
            "CapEff",
            "CapBnd",
            "CapAmb",
            "NoNewPrivs",
            "Seccomp:",
            "Groups",
        ]
        .iter()
        .any(|name| line.starts_with(name))
    }) {
        said += &format!("{}\n", line.replace('\t', " "));
    }
    said
}

/// In the supervisor's place: takes what it is handed, confines itself as [`crate::relay`] never does, and tries.
pub(crate) fn run(launcher: &OwnedFd, first: wire::Event, test: BorrowedFd<'_>, dir: &Path) {
    let Event::Welcome(handover) = first else {
        panic!("{first:?} comes first");
    };
    let mut fds = Vec::new();
    let mut function = 0;
    let mut buffer = Box::new([0; wire::MAX_MESSAGE]);
    loop {
        host::readable(launcher.as_fd(), "the handover goes on");
        match wire::recv::<Event>(launcher.as_fd(), &mut buffer)
            .unwrap()
            .unwrap()
        {
            (Event::Descriptors, more) => fds.extend(more),
            (Event::Inventory { pid, .. }, _) => function = pid,
            (Event::InventoryEnd, _) => break,
            (other, _) => panic!("{other:?} in the handover"),
        }
    }
    let of = |kind: Descriptor| {
        fds[handover
            .descriptors
            .iter()
            .position(|other| *other == kind)
            .unwrap()]
        .as_fd()
    };
    // As `daemon::supervise` does.
    let myself = fs::File::open("/proc/self").unwrap();
    let access = Access {
        read: vec![of(Descriptor::Functions), of(Descriptor::Sockets), myself.as_fd()],
        write: vec![of(Descriptor::Logs)],
    };
    let parent = nix::unistd::getppid().as_raw();
    own::confine_self(&access).unwrap();
    let said = probe(dir, function, parent);
    wire::send_bytes(test, said.as_bytes(), &[]).unwrap();
}

/// Facts by name.
fn facts(said: &str) -> std::collections::BTreeMap<&str, &str> {
    said.lines().filter_map(|line| line.split_once(": ")).collect()
}

pub(super) fn the_supervisor_can_reach_nothing_of_the_host(who: As) {
    let mut host = Running::start_in(who, "probe", |dir| {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        fs::create_dir(dir.join("secrets")).unwrap();
        let mut options = fs::OpenOptions::new();
        let mut secret = options
            .write(true)
            .create(true)
            .mode(0o600)
            .open(dir.join("secrets/db"))
            .unwrap();
        secret.write_all(b"secret").unwrap();
        fs::set_permissions(dir.join("secrets"), fs::Permissions::from_mode(0o700)).unwrap();
    });
    let digest = host.store(&actor());
    let function = host.launch(host.spec(digest, &["serve"]));
    read_line(&function.stdout);
    kill(Pid::from_raw(host.supervisor()), Signal::SIGKILL).unwrap();
    let said = host.words();
    let inside = facts(&said);
    // In a process of its own, as what it traces is only let go at its end.
    let arguments = [function.pid.to_string(), host.pid().to_string()];
    let mut outside = Command::new("/proc/self/exe");
    let output = outside
        .arg("probe")
        .arg(host.dir.path())
        .args(arguments)
        .output()
        .unwrap();
    let control = String::from_utf8(output.stdout).unwrap();
    let control = facts(&control);
    println!("{:32}  in its place  as root outside", "");
    for (name, how) in &inside {
        println!("{name:32}  {how:12}  {}", control[name]);
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(inside[set], "0000000000000000", "{set}");
    }
    assert_eq!(
        (inside["NoNewPrivs"], inside["Seccomp"], inside["Groups"].trim()),
        ("1", "2", "")
    );
    let facts_of_status = [
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Groups",
    ];
    for (name, how) in inside.iter().filter(|(name, _)| !facts_of_status.contains(name)) {
        assert_ne!(*how, "OK", "{name}");
    }
    // Nothing is proved by an attempt that fails outside, too: these must not.
    for name in [
        "read /etc/shadow",
        "read a secret",
        "list the secrets",
        "write to the store",
        "write to the uids",
        "write to the functions folder",
        "write to the state folder",
        "write to the run folder",
        "write beside the sockets",
        "write to /tmp",
        "read a function's environment",
        "read the launcher's memory file",
        "execute /bin/true",
        "clone",
        "signal a function",
        "signal the launcher",
        "trace the launcher",
        "raw socket",
        "packet socket",
        "netlink socket",
        "unshare",
        "chroot",
        "setuid to itself",
    ] {
        assert_eq!(control[name], "OK", "outside: {name}");
        assert!(
            ["EPERM", "EACCES", "EAFNOSUPPORT"].contains(&inside[name]),
            "{name}: {}",
            inside[name]
        );
    }
    for (name, expected) in [
        ("io_uring", "ENOSYS"),
        ("bpf", "EPERM"),
        ("mount", "EPERM"),
        ("pidfd_getfd", "EPERM"),
    ] {
        assert_eq!(inside[name], expected, "{name}");
        assert_ne!(control[name], expected, "outside: {name}");
    }
    assert_eq!(host.call(function.id), "hello\n");
}
