//! Looks at real files: what is refused, with which kind, and that nothing hangs.

use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::catalog::image::tests::elf_sample;

const SCRIPT: &str = "#!/bin/sh\n";

struct Bench {
    dir: TempDir,
    scanner: Scanner,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        // Whatever the umask of who runs the tests.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let home = OwnedFd::from(File::open(dir.path()).unwrap());
        Bench {
            dir,
            scanner: Scanner::new(home, Defaults::default(), 1 << 20, "funcd".into()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.path(name);
        if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
            fs::create_dir(parent).unwrap();
            fs::set_permissions(parent, Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    fn look(&mut self, name: &str) -> Look {
        self.scanner.look(OsStr::new(name), SystemTime::now())
    }

    fn seen(&mut self, name: &str) -> Sighting {
        match self.look(name) {
            Look::Seen(sighting) => *sighting,
            other => panic!("{name}: {other:?}"),
        }
    }

    fn program(&mut self, name: &str) -> Arc<Program> {
        match self.seen(name).verdict {
            Verdict::Function(program) => program,
            other => panic!("{name}: {other:?}"),
        }
    }

    fn refusal(&mut self, name: &str) -> Refusal {
        match self.seen(name).verdict {
            Verdict::Refused(refusal) => refusal,
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn plain_executables() {
    let mut bench = Bench::new();
    bench.file("static", elf_sample(false), 0o755);
    bench.file("dynamic", elf_sample(true), 0o700);
    bench.file("script", SCRIPT, 0o555);
    fs::hard_link(bench.path("static"), bench.path("linked")).unwrap();
    for (name, image) in [
        ("static", Image::Static),
        ("dynamic", Image::Dynamic),
        ("script", Image::Script),
        ("linked", Image::Static),
    ] {
        let program = bench.program(name);
        assert_eq!((program.image, program.name.as_str()), (image, name));
        assert_eq!(
            (program.manifest.exec.as_str(), program.text.as_str()),
            (name, "")
        );
        let sighting = bench.seen(name);
        let opened = bench
            .scanner
            .open(name.as_ref(), &sighting.identity, &program)
            .unwrap();
        assert_eq!(
            Some(folder::state(opened.as_fd()).unwrap().id),
            sighting.identity.executable
        );
    }
}

#[test]
fn folders() {
    let mut bench = Bench::new();
    bench.file("thumbs/thumbs", SCRIPT, 0o755);
    assert_eq!(bench.program("thumbs").manifest.exec, "thumbs");
    bench.file(
        "thumbs/function.toml",
        "exec = \"resize\"\nargs = [\"a\"]\n",
        0o644,
    );
    assert_eq!(bench.refusal("thumbs").kind, kind::NO_EXECUTABLE);
    bench.file("thumbs/resize", elf_sample(false), 0o755);
    let program = bench.program("thumbs");
    assert_eq!((program.image, program.manifest.args.len()), (Image::Static, 1));
    assert_eq!(program.text, "exec = \"resize\"\nargs = [\"a\"]\n");
    assert_eq!(bench.seen("thumbs").files, ["function.toml", "resize"]);

    let sighting = bench.seen("thumbs");
    assert!(
        bench
            .scanner
            .open("thumbs".as_ref(), &sighting.identity, &program)
            .is_ok()
    );
    bench.file("thumbs/function.toml", "exec = \"resize\"\n", 0o644);
    assert!(
        bench
            .scanner
            .open("thumbs".as_ref(), &sighting.identity, &program)
            .is_err()
    );
    assert_ne!(
        bench.seen("thumbs").identity,
        sighting.identity,
        "a manifest is part of what it is"
    );
    assert!(bench.program("thumbs").manifest.args.is_empty());

    let sighting = bench.seen("thumbs");
    bench.file("thumbs/data", "x", 0o644);
    assert_eq!(
        bench.seen("thumbs").identity,
        sighting.identity,
        "other files are not"
    );
}

#[test]
fn refusals_of_one_file() {
    let mut bench = Bench::new();
    let elf = elf_sample(false);
    bench.file("plain-text", "hello", 0o755);
    bench.file("half", &elf[..elf.len() - 1], 0o755);
    bench.file("no-x", SCRIPT, 0o644);
    bench.file("setuid", SCRIPT, 0o4755);
    bench.file("setgid", SCRIPT, 0o2755);
    bench.file("group", SCRIPT, 0o775);
    bench.file("world", SCRIPT, 0o757);
    bench.file("empty", "", 0o755);
    bench.file("big", vec![b'x'; (1 << 20) + 1], 0o755);
    bench.file("Upper", SCRIPT, 0o755);
    bench.file("-dash", SCRIPT, 0o755);
    bench.file("hello.sh", SCRIPT, 0o755);
    bench.file("é", SCRIPT, 0o755);
    bench.file("new\nline", SCRIPT, 0o755);
    bench.file(&"a".repeat(255), SCRIPT, 0o755);
    symlink("/bin/sh", bench.path("link")).unwrap();
    symlink("nowhere", bench.path("dangling")).unwrap();
    fs::create_dir(bench.path("folder")).unwrap();
    fs::set_permissions(bench.path("folder"), Permissions::from_mode(0o755)).unwrap();
    let table = [
        (
            "plain-text",
            kind::NOT_A_PROGRAM,
            "neither an ELF program nor a script",
        ),
        ("half", kind::TRUNCATED, "copy it again"),
        ("no-x", kind::NOT_EXECUTABLE, "(mode 0644): chmod +x"),
        ("setuid", kind::SETUID, "(mode 4755): chmod ug-s"),
        ("setgid", kind::SETUID, "(mode 2755)"),
        ("group", kind::WRITABLE, "(mode 0775): chmod go-w"),
        ("world", kind::WRITABLE, "(mode 0757)"),
        ("empty", kind::EMPTY, "it is empty"),
        ("big", kind::TOO_BIG, "at most 1048576 are stored"),
        ("Upper", kind::BAD_NAME, "a-z, 0-9 and '-'"),
        ("-dash", kind::BAD_NAME, ""),
        ("hello.sh", kind::BAD_NAME, ""),
        ("é", kind::BAD_NAME, ""),
        ("new\nline", kind::BAD_NAME, ""),
        (&"a".repeat(255), kind::BAD_NAME, ""),
        ("link", kind::SYMLINK, "copy the file itself"),
        ("dangling", kind::SYMLINK, ""),
        ("folder", kind::NO_EXECUTABLE, "it has no file \"folder\""),
    ];
    for (name, kind, reason) in table {
        let refusal = bench.refusal(name);
        assert_eq!(refusal.kind, kind, "{name}: {}", refusal.reason);
        assert!(refusal.reason.contains(reason), "{name}: {}", refusal.reason);
        assert!(kind::ALL.contains(&kind));
    }
    assert_eq!(bench.look(&"a".repeat(300)), Look::Absent);
    assert_eq!(bench.look("nothing"), Look::Absent);
}

#[test]
fn refusals_in_a_folder() {
    let mut bench = Bench::new();
    bench.file("f/f", SCRIPT, 0o755);
    fs::set_permissions(bench.path("f"), Permissions::from_mode(0o777)).unwrap();
    assert_eq!(bench.refusal("f").kind, kind::WRITABLE);
    fs::set_permissions(bench.path("f"), Permissions::from_mode(0o2755)).unwrap();
    bench.program("f");
    bench.file("f/function.toml", "memry = 1", 0o644);
    let refusal = bench.refusal("f");
    assert_eq!(refusal.kind, kind::BAD_MANIFEST);
    assert!(
        refusal
            .reason
            .starts_with("f/function.toml:1:1: unknown key `memry`"),
        "{}",
        refusal.reason
    );
    bench.file("f/function.toml", vec![b'#'; 65 * 1024], 0o644);
    assert!(bench.refusal("f").reason.contains("at most 65536 are read"));
    bench.file("f/function.toml", [b'#', 0xff], 0o644);
    assert!(bench.refusal("f").reason.contains("not UTF-8 from byte 1 on"));
    bench.file("f/function.toml", "", 0o666);
    assert_eq!(bench.refusal("f").kind, kind::WRITABLE);
    fs::remove_file(bench.path("f/function.toml")).unwrap();
    symlink("/etc/passwd", bench.path("f/function.toml")).unwrap();
    assert_eq!(bench.refusal("f").kind, kind::SYMLINK);
    fs::remove_file(bench.path("f/function.toml")).unwrap();
    fs::remove_file(bench.path("f/f")).unwrap();
    symlink("/bin/sh", bench.path("f/f")).unwrap();
    let refusal = bench.refusal("f");
    assert_eq!(refusal.kind, kind::SYMLINK);
    assert!(refusal.reason.starts_with("f/f: "), "{}", refusal.reason);
    fs::remove_file(bench.path("f/f")).unwrap();
    fs::create_dir(bench.path("f/f")).unwrap();
    assert_eq!(bench.refusal("f").kind, kind::SPECIAL_FILE);
}

#[test]
fn special_files_do_not_hang() {
    use nix::sys::stat::Mode;
    let mut bench = Bench::new();
    nix::unistd::mkfifo(&bench.path("fifo"), Mode::from_bits_truncate(0o755)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(bench.path("socket")).unwrap();
    bench.file("f/f", SCRIPT, 0o755);
    nix::unistd::mkfifo(&bench.path("f/function.toml"), Mode::from_bits_truncate(0o644)).unwrap();
    for name in ["fifo", "socket", "f"] {
        assert_eq!(bench.refusal(name).kind, kind::SPECIAL_FILE, "{name}");
    }
    // Also when it takes the place of a file between the look and the open.
    let opened = folder::open_file(bench.scanner.home(), "fifo".as_ref()).unwrap();
    assert!(folder::state(opened.as_fd()).unwrap().id.kind() != S_IFREG);
    assert!(folder::open_file(bench.scanner.home(), "../etc/passwd".as_ref()).is_err());
    symlink("/etc", bench.path("out")).unwrap();
    assert!(folder::open_folder(bench.scanner.home(), "out".as_ref()).is_err());
    assert!(folder::open_file(bench.scanner.home(), "out/passwd".as_ref()).is_err());
}

#[test]
fn a_folder_that_others_can_change_is_not_run_from() {
    let mut bench = Bench::new();
    bench.file("hello", SCRIPT, 0o755);
    let before = bench.seen("hello").identity;
    for mode in [0o777, 0o1777, 0o770] {
        fs::set_permissions(bench.dir.path(), Permissions::from_mode(mode)).unwrap();
        let refusal = bench.refusal("hello");
        assert_eq!(refusal.kind, kind::UNSAFE_FOLDER);
        assert_ne!(
            bench.seen("hello").identity,
            before,
            "so that the machine looks again"
        );
    }
    fs::set_permissions(bench.dir.path(), Permissions::from_mode(0o700)).unwrap();
    assert_eq!(bench.seen("hello").identity, before);
}

#[test]
fn an_unreadable_file_says_who_can_not_read_it() {
    let bench = Bench::new();
    let Stop::Refused(refusal) = bench.scanner.cant_open(Errno::EACCES, "f/f: ") else {
        panic!("EACCES is a refusal");
    };
    assert_eq!(refusal.kind, kind::UNREADABLE);
    assert!(
        refusal
            .reason
            .starts_with("f/f: user funcd can't read it: chmod o+r"),
        "{}",
        refusal.reason
    );
    for errno in [
        Errno::EMFILE,
        Errno::ENFILE,
        Errno::EIO,
        Errno::ENOMEM,
        Errno::ESTALE,
    ] {
        assert!(
            matches!(bench.scanner.cant_open(errno, ""), Stop::Failed(_)),
            "{errno}"
        );
    }
}

#[test]
fn an_unreadable_file_is_refused() {
    use nix::unistd::{Uid, geteuid, setfsuid};
    let mut bench = Bench::new();
    bench.file("hello", SCRIPT, 0o711);
    bench.file("f/f", SCRIPT, 0o755);
    fs::set_permissions(bench.path("hello"), Permissions::from_mode(0o111)).unwrap();
    fs::set_permissions(bench.path("f"), Permissions::from_mode(0o311)).unwrap();
    // Root reads everything, so this thread becomes somebody else where files are concerned.
    let root = geteuid().is_root();
    if root {
        setfsuid(Uid::from_raw(65_534));
    }
    let kinds = ["hello", "f"].map(|name| bench.refusal(name).kind);
    if root {
        setfsuid(Uid::from_raw(0));
    }
    fs::set_permissions(bench.path("f"), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(kinds, [kind::UNREADABLE; 2]);
}

#[test]
fn uploads_under_way() {
    let mut bench = Bench::new();
    for name in ["hello.part", "hello.tmp", "hello.filepart", "hello.crdownload"] {
        bench.file(name, SCRIPT, 0o755);
        assert_eq!(bench.seen(name).verdict, Verdict::Uploading, "{name}");
    }
}

#[test]
fn a_deleted_home_is_no_absence() {
    let mut bench = Bench::new();
    bench.file("hello", SCRIPT, 0o755);
    bench.program("hello");
    fs::remove_dir_all(bench.dir.path()).unwrap();
    assert_eq!(bench.look("hello"), Look::HomeGone);
}

#[test]
fn what_did_not_change_is_not_read_again() {
    let mut bench = Bench::new();
    bench.file("f/f", SCRIPT, 0o755);
    bench.file("f/function.toml", "args = [\"a\"]", 0o644);
    let later = SystemTime::now() + Duration::from_secs(5);
    let first = bench.program("f");
    let Look::Seen(again) = bench.scanner.look("f".as_ref(), later) else {
        panic!("it is there");
    };
    let Verdict::Function(again) = again.verdict else {
        panic!("it is a function");
    };
    assert!(Arc::ptr_eq(&first, &again));
    // While it is younger than a clock's tick could hide, it is.
    assert!(!Arc::ptr_eq(&first, &bench.program("f")));
}

#[test]
fn a_list_is_bounded() {
    let bench = Bench::new();
    for i in 0..10 {
        bench.file(&format!("f{i}"), SCRIPT, 0o755);
    }
    let (names, more) = folder::list(bench.scanner.home(), 10).unwrap();
    assert_eq!((names.len(), more), (10, false));
    let (names, more) = folder::list(bench.scanner.home(), 9).unwrap();
    assert_eq!((names.len(), more), (9, true));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_name_is_looked_at(name in proptest::collection::vec(any::<u8>().prop_filter("no separator", |b| *b != 0 && *b != b'/'), 1..300)) {
        let mut bench = Bench::new();
        let name = OsStr::from_bytes(&name);
        prop_assume!(name != "." && name != "..");
        let path = bench.dir.path().join(name);
        let made = fs::write(&path, SCRIPT).and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o755)));
        match bench.scanner.look(name, SystemTime::now()) {
            Look::Absent => prop_assert!(made.is_err()),
            Look::Seen(sighting) => match sighting.verdict {
                Verdict::Function(program) => prop_assert_eq!(program.name.as_str().as_bytes(), name.as_bytes()),
                Verdict::Refused(refusal) => prop_assert_eq!(refusal.kind, kind::BAD_NAME),
                Verdict::Uploading => {}
            },
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
