//! What an instance sees and reaches, beside what the same program reaches without a sandbox.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::sys::wait::WaitStatus;

use crate::start::{Ended, PAYLOAD, Start, TMP_BYTES, UID, abi, open_directory};

pub(crate) fn sees_exactly_what_it_was_given(pid_namespace: bool) {
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
        ("rlimit 13", "0 0"),
        ("rlimit 14", "0 0"),
    ]);
    assert_eq!(ended.fact("pdeathsig"), if pid_namespace { "0" } else { "9" });
    assert_ne!(ended.main == ended.pid, pid_namespace);
    assert_eq!(
        ended.status,
        WaitStatus::Exited(nix::unistd::Pid::from_raw(ended.pid), 7)
    );
}

pub(crate) fn reaches_nothing_else(pid_namespace: bool) {
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

pub(crate) const REFUSED: &[(&str, &str)] = &[
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

pub(crate) const WORKS: &[(&str, &str)] = &[
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

pub(crate) fn the_control_reaches_what_the_sandbox_refuses() {
    let host = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = Command::new(&PAYLOAD.1)
        .env_clear()
        .env("CONTROL", "1")
        .env("HOST_PORT", host.local_addr().unwrap().port().to_string())
        .env("HOST_PID", std::process::id().to_string())
        .output()
        .unwrap();
    let control = Ended::said(String::from_utf8(output.stdout).unwrap());
    // It does not try on the machine what would change it, nor can it tell a call that no kernel has from one refused.
    let untold = ["ptrace", "mount", "newer call", "setuid 0"];
    for (name, refusal) in REFUSED.iter().filter(|(name, _)| !untold.contains(name)) {
        assert_ne!(
            control.fact(name),
            *refusal,
            "{name} is refused outside, too: nothing is proved by it"
        );
    }
    control.expect(&[
        ("open /etc/shadow", "OK"),
        ("tcp", "OK"),
        ("kill host", "OK"),
        ("unshare", "OK"),
    ]);
    assert_ne!(control.fact("caps"), "0 0 0 0 0 0");
    assert_eq!(control.fact("seccomp"), "0");
}

pub(crate) fn each_mechanism_can_be_left_out() {
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
    // Its scope keeps signals in, also among processes of one uid.
    let kill_host = |abi| {
        let pid = format!("HOST_PID={}", std::process::id());
        let start = Start::payload().env(&[&pid]);
        let ended = start.with(|c| (c.landlock_abi, c.identity) = (abi, None)).run();
        ended.fact("kill host").to_owned()
    };
    assert_eq!(kill_host(None), "OK");
    if abi() >= Some(6) {
        assert_eq!(kill_host(abi()), "EPERM");
    }
    // Landlock refuses TCP where there is no network namespace to do it.
    let host = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("HOST_PORT={}", host.local_addr().unwrap().port());
    let ended = Start::payload().env(&[&port]).with(|c| c.network = None).run();
    if abi() >= Some(4) {
        ended.expect(&[("tcp", "EACCES")]);
    }
}

pub(crate) fn tmp_is_bounded() {
    let ended = Start::payload()
        .env(&["FILL=1"])
        .with(|c| c.rlimits.retain(|(r, _)| *r != libc::RLIMIT_FSIZE))
        .run();
    ended.expect(&[("fill /tmp", "ENOSPC")]);
    let filled: u64 = ended.fact("filled").parse().unwrap();
    assert!(
        (TMP_BYTES / 2..=TMP_BYTES).contains(&filled),
        "{filled} of {TMP_BYTES}"
    );
}

pub(crate) fn write_grants_are_writable_and_not_executable() {
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
