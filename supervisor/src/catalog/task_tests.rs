//! The whole catalog on a real folder: what the daemon is told when files are copied, replaced, renamed and removed.
//! Waits for messages, never for time.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::catalog::image::tests::elf_sample;
use crate::catalog::manifest::Defaults;

const SCRIPT: &str = "#!/bin/sh\n";

struct Bench {
    _parent: TempDir,
    path: PathBuf,
    handle: Handle,
    changes: UnboundedReceiver<Change>,
    /// What was received and not asked for yet.
    deployed: Vec<Candidate>,
    removed: Vec<String>,
    entries: Option<BTreeMap<String, Entry>>,
}

impl Bench {
    /// Fails loudly instead of hanging.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn start(fill: impl FnOnce(&Path)) -> Bench {
        Bench::start_with(fill, |_| {})
    }

    fn start_with(fill: impl FnOnce(&Path), change: impl FnOnce(&mut Options)) -> Bench {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("functions");
        make_folder(&path);
        fill(&path);
        let mut options = Options::new(&path, Duration::from_secs(3600), Defaults::default());
        options.rules.quiet = Duration::from_millis(20);
        options.rules.unseen = Duration::from_millis(100);
        options.rules.retry = Duration::from_millis(10);
        change(&mut options);
        let home = OwnedFd::from(File::open(&path).unwrap());
        let (catalog, handle) = Catalog::start(home, options);
        let (sender, changes) = mpsc::unbounded_channel();
        tokio::spawn(catalog.run(sender));
        Bench {
            _parent: parent,
            path,
            handle,
            changes,
            deployed: Vec::new(),
            removed: Vec::new(),
            entries: None,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    async fn receive(&mut self) {
        let change = tokio::time::timeout(Bench::PATIENCE, self.changes.recv()).await;
        let seen = format!("{:?}", self.entries);
        match change
            .unwrap_or_else(|_| panic!("nothing was told; entries: {seen}"))
            .unwrap()
        {
            Change::Deploy(candidate) => self.deployed.push(candidate),
            Change::Remove(name) => self.removed.push(name.to_string()),
            Change::Entries(entries) => self.entries = Some(entries),
        }
    }

    async fn deploy(&mut self) -> Candidate {
        while self.deployed.is_empty() {
            self.receive().await;
        }
        self.deployed.remove(0)
    }

    async fn remove(&mut self) -> String {
        while self.removed.is_empty() {
            self.receive().await;
        }
        self.removed.remove(0)
    }

    /// Waits until the folder is watched and everything was looked at.
    async fn until_running(&mut self) {
        while self.entries.is_none() {
            self.receive().await;
        }
    }

    /// Waits until an entry is as wanted.
    async fn until(&mut self, name: &str, wanted: impl Fn(Option<&Entry>) -> bool) {
        while !self
            .entries
            .as_ref()
            .is_some_and(|entries| wanted(entries.get(name)))
        {
            self.receive().await;
        }
    }

    async fn until_refused(&mut self, name: &str, wanted: &str) {
        self.until(
            name,
            |entry| matches!(entry, Some(Entry::Refused { kind, .. }) if *kind == wanted),
        )
        .await;
    }

    async fn until_accepted(&mut self, name: &str) {
        self.until(name, |entry| entry == Some(&Entry::Accepted)).await;
    }
}

fn make_folder(path: &Path) {
    fs::create_dir(path).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

fn content(candidate: &Candidate) -> Vec<u8> {
    fs::read(folder::path_of(candidate.executable.as_fd())).unwrap()
}

#[tokio::test]
async fn who_is_patient_tells_first_what_has_settled() {
    for is_patient in [true, false] {
        let fill = |home: &Path| {
            write(&home.join("fresh"), SCRIPT);
            // Its name says that it is not to be waited for.
            write(&home.join("other.part"), SCRIPT);
        };
        let mut bench = Bench::start_with(fill, |options| {
            options.is_patient = is_patient;
            options.rules.unseen = Duration::from_secs(1);
        });
        bench.until_running().await;
        let fresh = bench.entries.as_ref().unwrap().get("fresh").cloned();
        assert_eq!(fresh == Some(Entry::Accepted), is_patient, "{fresh:?}");
        assert_eq!(bench.deploy().await.name.as_str(), "fresh");
    }
}

#[tokio::test]
async fn the_first_entries_are_complete() {
    let mut bench = Bench::start(|folder| {
        write(&folder.join("hello"), SCRIPT);
        write(&folder.join(".hidden"), SCRIPT);
        write(&folder.join("Bad"), SCRIPT);
    });
    bench.until_running().await;
    let names: Vec<String> = bench.entries.clone().unwrap().into_keys().collect();
    assert_eq!(names, ["Bad", "hello"]);
    let candidate = bench.deploy().await;
    assert_eq!(
        (candidate.name.as_str(), content(&candidate)),
        ("hello", SCRIPT.into())
    );
    bench.until_refused("Bad", kind::BAD_NAME).await;
    bench.until_accepted("hello").await;
}

#[tokio::test]
async fn an_empty_folder_is_told_too() {
    let mut bench = Bench::start(|_| {});
    bench.until("x", |entry| entry.is_none()).await;
    assert!(bench.entries.unwrap().is_empty());
}

#[tokio::test]
async fn a_half_copied_program_never_goes_live() {
    let mut bench = Bench::start(|_| {});
    bench.until_running().await;
    let whole = elf_sample(false);
    let mut file = File::create(bench.file("hello")).unwrap();
    file.set_permissions(Permissions::from_mode(0o755)).unwrap();
    file.write_all(&whole[..300]).unwrap();
    bench
        .until(
            "hello",
            |entry| matches!(entry, Some(Entry::Settling { reason }) if reason.contains("being written")),
        )
        .await;
    // The writer dies: what it left is closed, and shorter than it says.
    drop(file);
    bench.until_refused("hello", kind::TRUNCATED).await;
    write(&bench.file("hello"), &whole);
    let candidate = bench.deploy().await;
    assert_eq!(content(&candidate), whole);
    bench.until_accepted("hello").await;
}

#[tokio::test]
async fn replacing_and_removing() {
    let mut bench = Bench::start(|folder| write(&folder.join("hello"), SCRIPT));
    let first = bench.deploy().await;
    write(&bench.file(".next"), "#!/bin/sh\n# 2\n");
    fs::rename(bench.file(".next"), bench.file("hello")).unwrap();
    let second = bench.deploy().await;
    assert!(second.serial > first.serial);
    assert_eq!(content(&second), b"#!/bin/sh\n# 2\n");
    assert_eq!(
        content(&first),
        SCRIPT.as_bytes(),
        "the old file is still the old file"
    );

    write(&bench.file("hello"), "nonsense");
    bench.until_refused("hello", kind::NOT_A_PROGRAM).await;
    fs::set_permissions(bench.file("hello"), Permissions::from_mode(0o644)).unwrap();
    bench.until_refused("hello", kind::NOT_EXECUTABLE).await;
    assert!(bench.removed.is_empty(), "what runs keeps running");

    fs::remove_file(bench.file("hello")).unwrap();
    assert_eq!(bench.remove().await, "hello");
    bench.until("hello", |entry| entry.is_none()).await;
    assert!(bench.deployed.is_empty());
}

#[tokio::test]
async fn a_chmod_is_noticed() {
    let mut bench = Bench::start(|_| {});
    bench.until_running().await;
    fs::write(bench.file("hello"), SCRIPT).unwrap();
    fs::set_permissions(bench.file("hello"), Permissions::from_mode(0o644)).unwrap();
    bench.until_refused("hello", kind::NOT_EXECUTABLE).await;
    fs::set_permissions(bench.file("hello"), Permissions::from_mode(0o755)).unwrap();
    bench.deploy().await;
}

#[tokio::test]
async fn folders_are_watched_from_their_birth() {
    let mut bench = Bench::start(|_| {});
    bench.until_running().await;
    make_folder(&bench.file("thumbs"));
    write(&bench.file("thumbs/thumbs"), SCRIPT);
    let candidate = bench.deploy().await;
    assert!(candidate.manifest.args.is_empty() && candidate.manifest_text.is_empty());

    fs::write(bench.file("thumbs/function.toml"), "args = [\"a\"]").unwrap();
    fs::set_permissions(bench.file("thumbs/function.toml"), Permissions::from_mode(0o644)).unwrap();
    let mut candidate = bench.deploy().await;
    while candidate.manifest.args.is_empty() {
        candidate = bench.deploy().await;
    }
    assert_eq!(candidate.manifest_text, "args = [\"a\"]");

    fs::write(bench.file("thumbs/function.toml"), "agrs = []").unwrap();
    bench.until_refused("thumbs", kind::BAD_MANIFEST).await;
    fs::rename(bench.file("thumbs"), bench.file("other")).unwrap();
    assert_eq!(bench.remove().await, "thumbs");
    bench.until_refused("other", kind::BAD_MANIFEST).await;
    // The renamed folder is still watched, under its new name.
    fs::write(bench.file("other/function.toml"), "exec = \"thumbs\"").unwrap();
    let candidate = bench.deploy().await;
    assert_eq!(candidate.name.as_str(), "other");
    fs::remove_dir_all(bench.file("other")).unwrap();
    assert_eq!(bench.remove().await, "other");
}

#[tokio::test]
async fn answers_of_the_daemon() {
    let mut bench = Bench::start(|folder| write(&folder.join("hello"), SCRIPT));
    let first = bench.deploy().await;
    bench
        .handle
        .retry(&first.name, first.serial, "still open for writing");
    let second = bench.deploy().await;
    assert_eq!(content(&second), content(&first));
    bench
        .handle
        .refuse(&first.name, first.serial, "late", "of the one before");
    bench
        .handle
        .refuse(&second.name, second.serial, "never-ready", "exit 1");
    bench.until_refused("hello", "never-ready").await;
    bench.handle.accept(&second.name, second.serial);
    bench.until_accepted("hello").await;
    assert!(bench.deployed.is_empty() && bench.removed.is_empty());
}

#[tokio::test]
async fn a_scan_finds_what_was_not_told() {
    let mut bench = Bench::start_with(
        |folder| {
            make_folder(&folder.join("thumbs"));
            write(&folder.join("thumbs/thumbs"), SCRIPT);
        },
        |options| options.rescan = Duration::from_millis(20),
    );
    bench.deploy().await;
    // Files behind a mount or on a server change without an event; so does what lies below a folder's folder.
    fs::write(bench.file(".script"), "#!/bin/sh\n# other\n").unwrap();
    fs::set_permissions(bench.file(".script"), Permissions::from_mode(0o755)).unwrap();
    fs::hard_link(bench.file(".script"), bench.file("linked")).unwrap();
    let candidate = bench.deploy().await;
    assert_eq!(candidate.name.as_str(), "linked");
}

#[tokio::test]
async fn a_folder_opened_to_others_refuses_everything_and_removes_nothing() {
    let mut bench = Bench::start(|folder| write(&folder.join("hello"), SCRIPT));
    bench.deploy().await;
    fs::set_permissions(&bench.path, Permissions::from_mode(0o777)).unwrap();
    bench.until_refused("hello", kind::UNSAFE_FOLDER).await;
    fs::set_permissions(&bench.path, Permissions::from_mode(0o755)).unwrap();
    bench.until_accepted("hello").await;
    assert!(bench.removed.is_empty() && bench.deployed.is_empty());
}

#[tokio::test]
async fn a_renamed_home_keeps_what_runs_and_is_found_again() {
    let mut bench = Bench::start_with(
        |folder| write(&folder.join("hello"), SCRIPT),
        |options| options.rescan = Duration::from_millis(20),
    );
    bench.deploy().await;
    let away = bench.path.with_file_name("away");
    fs::rename(&bench.path, &away).unwrap();
    fs::remove_file(away.join("hello")).unwrap();
    make_folder(&bench.path);
    write(&bench.file("hello"), "#!/bin/sh\n# new\n");
    let candidate = bench.deploy().await;
    assert_eq!(content(&candidate), b"#!/bin/sh\n# new\n");
    assert!(bench.removed.is_empty());
    // And the new one is watched.
    fs::remove_file(bench.file("hello")).unwrap();
    assert_eq!(bench.remove().await, "hello");
}

#[tokio::test]
async fn open_candidates_are_bounded() {
    const ALL: usize = OUTSTANDING + 20;
    let mut bench = Bench::start(|folder| {
        for i in 0..ALL {
            write(&folder.join(format!("f{i}")), SCRIPT);
        }
    });
    while bench.deployed.len() < OUTSTANDING {
        bench.receive().await;
    }
    // The catalog still answers, so it is not merely slow: it holds the others back.
    bench
        .handle
        .refuse(&bench.deployed[0].name, bench.deployed[0].serial, "x", "x");
    let name = bench.deployed[0].name.to_string();
    bench.until_refused(&name, "x").await;
    assert_eq!(bench.deployed.len(), OUTSTANDING);
    let mut names: Vec<String> = bench
        .deployed
        .drain(..)
        .map(|candidate| candidate.name.to_string())
        .collect();
    while names.len() < ALL {
        names.push(bench.deploy().await.name.to_string());
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), ALL);
}

#[tokio::test]
async fn a_flood_of_events_is_survived() {
    let mut bench = Bench::start(|_| {});
    bench.until_running().await;
    // More than the queue holds, all before the task gets its turn: the last events, of `hello`, are lost.
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let most: usize = most.trim().parse().unwrap();
    for i in 0..most.min(200_000) {
        File::create(bench.file(&format!(".{}", i % 2))).unwrap();
    }
    write(&bench.file("hello"), SCRIPT);
    let candidate = bench.deploy().await;
    assert_eq!(candidate.name.as_str(), "hello");
}

#[tokio::test]
async fn too_many_entries_are_said_so() {
    let mut bench = Bench::start_with(
        |folder| (0..5).for_each(|i| write(&folder.join(format!("f{i}")), SCRIPT)),
        |options| options.max_entries = 3,
    );
    bench.until_refused("(more)", kind::TOO_MANY).await;
    assert_eq!(bench.entries.unwrap().len(), 4);
}

#[tokio::test]
async fn it_ends_with_its_listener() {
    let parent = tempfile::tempdir().unwrap();
    let home = OwnedFd::from(File::open(parent.path()).unwrap());
    let options = Options::new(parent.path(), Duration::from_secs(3600), Defaults::default());
    let (catalog, _handle) = Catalog::start(home, options);
    let (sender, changes) = mpsc::unbounded_channel();
    let task = tokio::spawn(catalog.run(sender));
    drop(changes);
    tokio::time::timeout(Bench::PATIENCE, task)
        .await
        .unwrap()
        .unwrap();
}
