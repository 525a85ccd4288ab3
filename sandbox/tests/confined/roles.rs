//! Stories in a process of their own: another identity, irrevocable steps, low descriptors.

use std::fs::{self, File};
use std::io::Read;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::atomic::Ordering;

use funcd_sandbox::probe::{self, Facts, ProbeInput};
use funcd_sandbox::{confine, namespace, own};

use crate::reach::{REFUSED, WORKS};
use crate::start::{AHEAD, Ended, Start, UID, abi, again, open_directory, wait};

const NOBODY: u32 = 65_534;

pub(crate) fn low_descriptors_are_moved_out_of_the_way() {
    // In a process of its own, where 0 to 3 can be closed and taken by what a start needs.
    let text = again("start", |command| {
        command.env("FUNCD_TEST_LOW", "1");
    });
    let ended = Ended::said(text);
    ended.expect(&[("fds", "0 1 2 3"), ("listener", "1"), ("write /tmp", "OK")]);
}

pub(crate) fn a_launcher_that_dropped_first_starts_the_same() {
    for pid_namespace in ["", "1"] {
        let text = again("start", |command| {
            command
                .env("FUNCD_TEST_DROP", "1")
                .env("FUNCD_TEST_PID_NAMESPACE", pid_namespace);
        });
        let ended = Ended::said(text);
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

pub(crate) fn works_without_root() {
    for pid_namespace in ["", "1"] {
        let rootless = |command: &mut Command| {
            command
                .env("FUNCD_TEST_ROOTLESS", "1")
                .env("FUNCD_TEST_DROP", "1");
            command.env("FUNCD_TEST_PID_NAMESPACE", pid_namespace);
            if nix::unistd::geteuid().is_root() {
                command.uid(NOBODY).gid(NOBODY);
            }
        };
        let text = again("start", rootless);
        if let Some(why) = text.strip_prefix("skipped") {
            let required = std::env::var("FUNCD_TEST_REQUIRE");
            assert_ne!(required.as_deref(), Ok("all"), "skipped{why}");
            return println!("skipped{why}");
        }
        let ended = Ended::said(text);
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

        let text = again("start", |command| {
            rootless(command);
            command.env("FUNCD_TEST_SCRIPT", "1");
        });
        assert_eq!(text, "/function/hello said 2 sockets\n");
    }
}

pub(crate) fn a_user_namespace_that_can_not_be_mapped_is_not_entered() {
    assert_eq!(again("half", |_| {}), "refused, and still here\n");
}

/// After it has changed its uid, a process may make a user namespace, but not write its maps: they are root's.
pub(crate) fn half() -> ExitCode {
    let uid = nix::unistd::Uid::from_raw(UID);
    nix::unistd::setresuid(uid, uid, uid).unwrap();
    let here = || fs::read_link("/proc/self/ns/user").unwrap();
    let before = here();
    let entered = namespace::enter_user_namespace();
    if entered.is_err() && here() == before && nix::unistd::geteuid() == uid {
        println!("refused, and still here");
    } else {
        println!("{entered:?}, in {:?} instead of {before:?}", here());
    }
    ExitCode::SUCCESS
}

pub(crate) fn descriptors_that_there_is_no_room_for_are_closed() {
    assert_eq!(
        again("crowded", |_| {}),
        "Store { ticket: 1 } without descriptors, and none stays\n"
    );
}

/// Receives a message with more descriptors than this process may have open.
pub(crate) fn crowded() -> ExitCode {
    use funcd_sandbox::wire::{self, MAX_FDS, MAX_MESSAGE, Request};
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    let flags = SockFlag::SOCK_CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    let fds = [theirs.as_raw_fd(); MAX_FDS];
    wire::send(ours.as_fd(), &Request::Store { ticket: 1 }, &fds).unwrap();
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // All below are taken, but for a few.
    setrlimit(Resource::RLIMIT_NOFILE, theirs.as_raw_fd() as u64 + 6, hard).unwrap();
    let received = wire::recv::<Request>(theirs.as_fd(), &mut Box::new([0; MAX_MESSAGE]));
    let (request, fds) = received.unwrap().unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    assert_eq!((fds.len(), open()), (0, before));
    println!("{request:?} without descriptors, and none stays");
    ExitCode::SUCCESS
}

pub(crate) fn start() -> ExitCode {
    let asked = |name: &str| std::env::var(name).is_ok_and(|value| value == "1");
    AHEAD.store(asked("FUNCD_TEST_AHEAD"), Ordering::Relaxed);
    if asked("FUNCD_TEST_ROOTLESS")
        && let Err(error) = namespace::enter_user_namespace()
    {
        println!("skipped: no user namespace here: {error}");
        return ExitCode::SUCCESS;
    }
    if asked("FUNCD_TEST_DROP") {
        confine::drop_inheritable().unwrap();
    }
    let directory = open_directory();
    let start = if asked("FUNCD_TEST_SCRIPT") {
        let stored = directory.path().join("stored");
        fs::write(&stored, "#!/bin/sh\necho $0 $(echo said) $1 sockets\n").unwrap();
        fs::set_permissions(&stored, fs::Permissions::from_mode(0o555)).unwrap();
        let network = namespace::network(namespace::Loopback::Up).unwrap();
        let sockets = namespace::sockets_in(network.as_fd(), 2)
            .unwrap()
            .len()
            .to_string();
        Start::new(&stored)
            .system()
            .args(&["hello", &sockets])
            .with(|c| c.artifact_path = Some("/function/hello".into()))
    } else {
        Start::payload()
    };
    let mut start = start
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

pub(crate) fn the_supervisor_confines_itself() {
    let text = again("own", |_| {});
    let ended = Ended::said(text);
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

pub(crate) fn own() -> ExitCode {
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

pub(crate) fn the_probe_finds_what_works_here() {
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
