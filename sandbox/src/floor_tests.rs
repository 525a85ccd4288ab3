//! What the floor lets through and how it says no. Starts nothing.

use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;
use crate::spec::{Digest, Image, Socket, System};

fn floor() -> Floor {
    Floor {
        read_roots: vec!["/usr/share".into()],
        write_roots: vec!["/srv".into()],
        own: vec![],
        accepted: vec![Property::MemoryLimit],
        missing: vec![],
    }
}

fn spec() -> Spec {
    Spec {
        function: "hello".into(),
        artifact: Digest([1; 32]),
        image: Image::Static,
        args: vec!["hello".into()],
        env: vec![("LOG".into(), "info".into())],
        socket: Socket::Unix,
        ports: Vec::new(),
        limits: Limits {
            memory_bytes: 64 << 20,
            cpu_millis: 1000,
            cpu_idle: false,
            pids: 64,
            tmp_bytes: 1 << 20,
            files: 1024,
        },
        system: System::Whole,
        read: vec![],
        write: vec![],
        secrets: vec![],
        degraded: vec![],
        memo: vec![],
    }
}

fn parts(paths: &[&str], links: &[(&str, &str)]) -> System {
    System::Parts {
        paths: paths.iter().map(PathBuf::from).collect(),
        links: links
            .iter()
            .map(|(path, target)| (path.into(), target.into()))
            .collect(),
    }
}

#[test]
fn parts_of_the_system_are_named_as_they_are() {
    let seen = |paths: &[&str]| {
        let spec = Spec {
            system: parts(paths, &[]),
            ..spec()
        };
        floor().check(&spec)?;
        floor().resolve(&spec, None).map(|grants| grants.system)
    };
    assert_eq!(
        seen(&["/usr/share", "/usr/lib"]).unwrap(),
        ["/usr/share", "/usr/lib"].map(PathBuf::from)
    );
    // Upgraded or removed since the supervisor looked: the function's own loader will say so.
    assert_eq!(
        seen(&["/usr/share", "/usr/lib/no-such-library.so"]).unwrap(),
        [PathBuf::from("/usr/share")]
    );
    // A symlink would lead who knows where.
    if std::path::Path::new("/bin").is_symlink() {
        assert!(
            seen(&["/bin/sh"])
                .unwrap_err()
                .to_string()
                .contains("not its real name")
        );
    }
}

#[test]
fn secrets_are_granted_to_nobody_wherever_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().canonicalize().unwrap();
    for folder in ["secrets/other", "credentials", "beside"] {
        std::fs::create_dir_all(top.join(folder)).unwrap();
    }
    let host = Host {
        functions: top.join("functions"),
        state: top.join("state"),
        run: top.join("run"),
        listen: Vec::new(),
        workers: 1,
        admin: top.join("run/admin.sock"),
        admin_listen: None,
        supervisor: None,
        uid_first: 1,
        uid_count: 1,
        read_roots: vec![top.clone()],
        write_roots: vec![top.clone()],
        secrets: top.join("secrets"),
        credentials: Some(top.join("credentials")),
        degraded: Vec::new(),
        program: Vec::new(),
        config: Vec::new(),
        max_instances: 1,
        drain_millis: 1,
    };
    let floor = Floor::new(&host, &[]);
    let granted = |path: &str| {
        let read = Spec {
            read: vec![top.join(path)],
            ..spec()
        };
        floor.check(&read)?;
        let write = Spec {
            write: vec![top.join(path)],
            ..spec()
        };
        floor.check(&write)
    };
    granted("beside").unwrap();
    for path in ["secrets", "secrets/other", "secrets/other/key", "credentials"] {
        let said = granted(path).unwrap_err().to_string();
        assert!(said.contains("which no function is granted"), "{path:?}: {said}");
    }
}

#[test]
fn an_ordinary_spec_passes() {
    assert_eq!(floor().check(&spec()), Ok(()));
}

#[test]
fn what_is_refused_and_how_it_is_said() {
    type Change = fn(&mut Spec);
    let table: &[(&str, Change)] = &[
        ("no function name", |s| s.function = "../x".into()),
        ("no function name", |s| s.function = "".into()),
        ("no function name", |s| s.function = "-a".into()),
        ("no function name", |s| s.function = "A".into()),
        ("no function name", |s| s.function = "a\0".into()),
        ("no function name", |s| s.function = "ä".into()),
        ("no function name", |s| s.function = "a".repeat(64)),
        ("argv[0]", |s| s.args.clear()),
        ("no part of the system", |s| {
            s.system = parts(&["/etc/shadow"], &[])
        }),
        ("no part of the system", |s| {
            s.system = parts(&["/usr", "/root"], &[])
        }),
        ("no part of the system", |s| {
            s.system = parts(&[], &[("/etc/passwd", "x")])
        }),
        ("below the symlink", |s| {
            s.system = parts(&[], &[("/usr/a/b", "x"), ("/usr/a", "/")])
        }),
        ("below the symlink", |s| {
            s.system = parts(&["/usr/a/b"], &[("/usr/a", "/")])
        }),
        ("doubled or trailing", |s| s.system = parts(&["/usr/../etc"], &[])),
        ("doubled or trailing", |s| {
            s.system = parts(&[], &[("/usr/./x", "x")])
        }),
        ("holds a NUL", |s| s.system = parts(&[], &[("/usr/x", "x\0")])),
        ("more than", |s| s.system = parts(&["/usr"; 200], &[])),
        ("no secret's name", |s| s.secrets = vec!["../other/key".into()]),
        ("no secret's name", |s| s.secrets = vec![".new".into()]),
        ("no secret's name", |s| s.secrets = vec!["".into()]),
        ("no secret's name", |s| s.secrets = vec!["a\0".into()]),
        ("named twice", |s| s.secrets = vec!["key".into(), "key".into()]),
        ("more than 64 secrets", |s| s.secrets = vec!["key".into(); 65]),
        ("holds a NUL", |s| s.args = vec!["a\0b".into()]),
        ("holds a NUL", |s| s.env = vec![("A".into(), "a\0b".into())]),
        ("larger than", |s| s.args = vec!["a".repeat(40_000)]),
        ("more than", |s| s.args = vec![String::new(); 600]),
        ("LD_PRELOAD is refused", |s| {
            s.env = vec![("LD_PRELOAD".into(), "/x".into())]
        }),
        ("set by funcd", |s| {
            s.env = vec![("LISTEN_PID".into(), "1".into())]
        }),
        ("no variable name", |s| s.env = vec![("A=B".into(), "".into())]),
        ("no variable name", |s| s.env = vec![("".into(), "".into())]),
        ("set twice", |s| {
            s.env = vec![("A".into(), "1".into()), ("A".into(), "2".into())]
        }),
        ("memory", |s| s.limits.memory_bytes = 0),
        ("memory", |s| s.limits.memory_bytes = u64::MAX),
        ("cpu", |s| s.limits.cpu_millis = 0),
        ("pids", |s| s.limits.pids = 0),
        ("files", |s| s.limits.files = 3),
        ("port 0", |s| s.socket = Socket::Port(0)),
        ("port 0 can't be listened on", |s| s.ports = vec![9001, 0]),
        ("port 9001 can't", |s| s.ports = vec![9001, 9001]),
        ("port 80 can't", |s| {
            s.socket = Socket::Port(80);
            s.ports = vec![80];
        }),
        ("more than 17 ports", |s| s.ports = (1..=18).collect()),
        ("neither a socket nor a port", |s| s.socket = Socket::None),
        ("memo", |s| s.memo = vec![0; MAX_MEMO + 1]),
        ("write_roots", |s| s.write = vec!["/etc".into()]),
        ("write_roots", |s| s.write = vec!["/srvx".into()]),
        ("read_roots", |s| s.read = vec!["/root".into()]),
        ("without", |s| s.read = vec!["/usr/share/../../root".into()]),
        ("without", |s| s.read = vec!["/usr/share/./x".into()]),
        ("without", |s| s.read = vec!["usr/share".into()]),
        ("without", |s| s.read = vec!["".into()]),
        ("more than", |s| s.read = vec!["/usr/share".into(); 17]),
        ("`network` is missing, but the host does not", |s| {
            s.degraded = vec![Property::Network]
        }),
    ];
    for (expected, change) in table {
        let mut spec = spec();
        change(&mut spec);
        let said = floor().check(&spec).expect_err(expected).to_string();
        assert!(said.contains(expected), "{expected:?} is not in {said:?}");
    }
}

#[test]
fn a_missing_property_refuses_by_name_unless_accepted() {
    let missing = |property| Floor {
        missing: vec![Grade {
            property,
            mechanism: None,
            cause: "no cgroup".into(),
            fix: "run it as root".into(),
            needs: String::new(),
        }],
        ..floor()
    };
    let said = missing(Property::PidLimit)
        .check(&spec())
        .unwrap_err()
        .to_string();
    for part in [
        "P6",
        "`pid-limit`",
        "no cgroup",
        "Run it as root",
        "degraded = [\"pid-limit\"]",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert_eq!(missing(Property::MemoryLimit).check(&spec()), Ok(()));
}

#[test]
fn grants_are_followed_and_stay_below_their_roots() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().canonicalize().unwrap();
    let (inside, outside) = (top.join("in"), top.join("out"));
    std::fs::create_dir(&inside).unwrap();
    std::fs::create_dir(&outside).unwrap();
    symlink(&outside, inside.join("escape")).unwrap();
    symlink(inside.join("real"), inside.join("alias")).unwrap();
    std::fs::create_dir(inside.join("real")).unwrap();
    std::fs::write(inside.join("file"), "").unwrap();
    let floor = Floor {
        read_roots: vec![inside.clone()],
        write_roots: vec![inside.clone()],
        ..floor()
    };
    let write = |path: PathBuf| {
        floor.resolve(
            &Spec {
                write: vec![path],
                ..spec()
            },
            None,
        )
    };
    assert_eq!(write(inside.join("alias")).unwrap().write, [inside.join("real")]);
    assert!(
        write(inside.join("escape"))
            .unwrap_err()
            .to_string()
            .contains("write_roots")
    );
    assert!(
        write(inside.join("escape/new"))
            .unwrap_err()
            .to_string()
            .contains("write_roots")
    );
    assert!(!outside.join("new").exists());
    assert!(
        write(inside.join("file"))
            .unwrap_err()
            .to_string()
            .contains("only a directory")
    );
    assert!(write(inside.join("a/b")).is_err());
    assert_eq!(write(inside.join("made")).unwrap().write, [inside.join("made")]);
    assert!(inside.join("made").is_dir());
    let gone = Spec {
        read: vec![inside.join("gone")],
        ..spec()
    };
    assert!(
        floor
            .resolve(&gone, None)
            .unwrap_err()
            .to_string()
            .contains("make it")
    );
}

#[test]
fn what_is_funcds_own_is_granted_to_nobody_whatever_the_roots() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path().canonicalize().unwrap();
    for folder in [
        "state/store",
        "state/logs",
        "state/volumes/a",
        "functions",
        "run/i",
    ] {
        std::fs::create_dir_all(top.join(folder)).unwrap();
    }
    std::fs::write(top.join("state/uids"), "").unwrap();
    symlink(top.join("state/store"), top.join("state/volumes/alias")).unwrap();
    let floor = Floor {
        read_roots: vec!["/".into()],
        write_roots: vec!["/".into()],
        own: [
            top.join("state/store"),
            top.join("state/logs"),
            top.join("state/uids"),
        ]
        .into_iter()
        .chain([top.join("functions"), top.join("run")])
        .chain(NEVER.map(PathBuf::from))
        .collect(),
        ..floor()
    };
    let granted = |path: &Path, write: bool| {
        let mut spec = spec();
        let grants = if write { &mut spec.write } else { &mut spec.read };
        grants.push(path.to_path_buf());
        floor
            .check(&spec)
            .and_then(|()| floor.resolve(&spec, None).map(drop))
    };
    for write in [false, true] {
        // The control: beside them, also in the state folder.
        granted(&top.join("state/volumes/a"), write).unwrap();
        for path in [
            "state",
            "state/store",
            "state/store/0000",
            "state/logs",
            "state/uids",
            "functions",
            "functions/neighbour",
            "run",
            "run/i",
            "state/volumes/alias",
        ] {
            let said = granted(&top.join(path), write).unwrap_err().to_string();
            assert!(said.contains("no function is granted"), "{path}: {said}");
        }
        for path in [
            "/proc/self/root/etc",
            "/proc/1",
            "/dev/mem",
            "/sys/fs/cgroup/unified",
            "/etc",
            "/etc/funcd/secrets/db",
            "/run",
            top.to_str().unwrap(),
            "/run/credentials/funcd.service",
            "/",
        ] {
            let said = granted(Path::new(path), write).unwrap_err().to_string();
            assert!(said.contains("no function is granted"), "{path}: {said}");
        }
    }
    assert!(!top.join("state/store/0000").exists());
}

#[test]
fn nothing_is_made_behind_a_symlink_that_came_after_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let (checked, outside) = (dir.join("checked"), dir.join("outside"));
    std::fs::create_dir(&checked).unwrap();
    std::fs::create_dir(&outside).unwrap();
    let name = OsStr::new("made");
    make_below(&checked, name, None).unwrap();
    assert!(checked.join(name).is_dir());
    std::fs::rename(&checked, dir.join("moved")).unwrap();
    symlink(&outside, &checked).unwrap();
    let error = make_below(&checked, name, None).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    assert!(!outside.join(name).exists());
}

proptest! {
    #[test]
    fn names_that_pass_are_safe_as_file_names(name in "\\PC{0,70}") {
        if check_name(&name).is_ok() {
            prop_assert!(!name.contains(['/', '.', '\0']) && !name.is_empty() && name.len() <= 63);
        }
    }

    #[test]
    fn grants_that_pass_are_below_a_root(path in "[a-z./]{0,40}") {
        let roots = [PathBuf::from("/a")];
        if check_grant(Path::new(&path), &roots, "read").is_ok() {
            prop_assert!(path == "/a" || path.starts_with("/a/"));
            // `a..` is an ordinary name.
            prop_assert!(path.split('/').all(|part| part != ".." && part != "."));
        }
    }
}
