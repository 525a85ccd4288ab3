//! The program itself: exit codes, standard output and standard error, against a host of which only the admin API runs.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, mpsc as channel};

use funcd::admin::peer::Peers;
use funcd::admin::view::{FunctionState, InstanceView, Snapshot, State};
use funcd::admin::{Ask, Readiness, Sources, host, server};
use funcd::catalog::Entry;
use funcd::config::{ClientBounds, Config};
use funcd::name::{FunctionName, RevisionId};
use funcd::telemetry::{Logs, metrics};
use funcd_sandbox::spec::Digest;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

const SINCE: &str = "2026-01-01T00:00:00.000Z";

/// A host of which only the admin API runs, in this process.
struct Host {
    dir: tempfile::TempDir,
    logs: Logs,
    entries: watch::Sender<BTreeMap<String, Entry>>,
    known: watch::Sender<Snapshot>,
}

impl Host {
    fn start() -> Host {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("functions")).unwrap();
        let listener = UnixListener::bind(dir.path().join("admin.sock")).unwrap();
        let folder = File::open(dir.path()).unwrap();
        let config = config(dir.path());
        let (entries, entries_seen) = watch::channel(BTreeMap::from([("hello".to_owned(), Entry::Accepted)]));
        let (known, known_seen) = watch::channel(snapshot());
        let (started, host) = channel::channel();
        // Ends with the process: the listener lives as long as its thread.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let logs = Logs::new(folder.into(), runtime.handle().clone());
            started.send(logs.clone()).unwrap();
            let (control, mut asked) = mpsc::channel::<Ask>(1);
            let sources = Arc::new(Sources {
                upgrades: mpsc::channel(1).0,
                control,
                entries: entries_seen,
                doctor: host::doctor(&[], Some(7), &[], true),
                logs,
                readiness: watch::channel(Readiness::Ready).1,
                metrics: metrics::install(),
                ledgers: Default::default(),
                host: watch::channel(funcd::host::State::new(std::time::UNIX_EPOCH)).1,
                config: watch::channel(Arc::new(config)).1,
            });
            let peers = Peers {
                trusted: vec![nix::unistd::geteuid().as_raw()],
                group: false,
                functions: 0..0,
            };
            runtime.block_on(async {
                let control = async {
                    while let Some(Ask(answer)) = asked.recv().await {
                        let _ = answer.send(known_seen.borrow().clone());
                    }
                };
                tokio::join!(
                    control,
                    server::serve_unix(listener, peers, sources, server::Places::default())
                )
            })
        });
        let logs = host.recv().unwrap();
        Host {
            dir,
            logs,
            entries,
            known,
        }
    }

    fn funcd(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_funcd"));
        command.args(line.split_whitespace());
        command.env("FUNCD_ADMIN", self.dir.path().join("admin.sock"));
        command.stdin(Stdio::null());
        command
    }

    fn functions(&self) -> PathBuf {
        self.dir.path().join("functions")
    }
}

fn config(dir: &Path) -> Config {
    let second = std::time::Duration::from_secs(1);
    Config {
        functions: dir.join("functions"),
        state: dir.to_owned(),
        run: dir.to_owned(),
        listen: vec!["127.0.0.1:8080".parse().unwrap()],
        admin: dir.join("admin.sock"),
        admin_listen: None,
        workers: 1,
        trusted: vec![],
        user: String::new(),
        uid_first: 0,
        uid_count: 0,
        read_roots: vec![],
        write_roots: vec![],
        secrets: "/etc/funcd/secrets".into(),
        degraded: vec![],
        brownout: true,
        journal: false,
        max_instances: 1,
        standbys: 8,
        client: ClientBounds {
            head_timeout: second,
            body_idle: second,
            idle: second,
            head_bytes: 1024,
            connections: 1,
        },
        egress: funcd::config::EgressSettings::default(),
        rescan: second,
        drain: second,
        defaults: String::new(),
    }
}

fn function(revision: &str) -> FunctionState {
    FunctionState {
        state: State::Idle,
        since: SINCE.to_owned(),
        reason: None,
        revision: revision.to_owned(),
        contract: "http".to_owned(),
        because: None,
        routes: vec!["/hello/".to_owned()],
        instances: 0,
        in_flight: 0,
        waiting: 0,
        standby: false,
        rejected: None,
        bindings: vec![],
    }
}

fn snapshot() -> Snapshot {
    let row = |function: &str, pid: Option<i32>| InstanceView {
        function: function.to_owned(),
        revision: "ab".repeat(32),
        instance: pid.map(|_| 7),
        pid,
        state: if pid.is_some() { State::Ready } else { State::Idle },
        since: SINCE.to_owned(),
        last_exit: None,
        in_flight: 0,
        admission: None,
        limits: None,
    };
    Snapshot {
        functions: BTreeMap::from([("hello".to_owned(), function(&"ab".repeat(32)))]),
        instances: vec![row("hello", Some(4242)), row("idle", None)],
        revisions: Default::default(),
    }
}

fn code(output: &Output) -> i32 {
    output
        .status
        .code()
        .unwrap_or_else(|| 128 + output.status.signal().unwrap())
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn tables_on_standard_output_have_no_colours_in_a_pipe() {
    let host = Host::start();
    let ls = host.funcd("ls").output().unwrap();
    assert_eq!((code(&ls), text(&ls.stderr)), (0, ""));
    let expected =
        "NAME   STATUS    STATE  REVISION      ROUTES\nhello  accepted  idle   abababababab  /hello/\n";
    assert_eq!(text(&ls.stdout), expected);
    let forced = host.funcd("ls").env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(text(&forced.stdout).contains("\x1b["), "{forced:?}");
}

#[test]
fn json_is_one_versioned_document() {
    let host = Host::start();
    for (line, key) in [
        ("ls --json", "functions"),
        ("--json ps", "instances"),
        ("version --json", "funcd"),
        ("doctor --json", "properties"),
    ] {
        let output = host.funcd(line).output().unwrap();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["version"], 1, "{line}");
        assert!(document.get(key).is_some(), "{line}: {document}");
        assert_eq!(text(&output.stdout).lines().count(), 1, "{line}");
    }
}

#[test]
fn exit_codes() {
    let host = Host::start();
    let nobody = host.dir.path().join("nobody.sock");
    let nobody = nobody.display();
    for (line, expected) in [
        ("ps hello".to_owned(), 0),
        ("version".to_owned(), 0),
        ("--version".to_owned(), 0),
        ("logs nobody".to_owned(), 1),
        ("rm nobody".to_owned(), 1),
        ("nonsense".to_owned(), 2),
        ("logs".to_owned(), 2),
        ("ps idle".to_owned(), 3),
        ("ps nobody".to_owned(), 3),
        (format!("--admin {nobody} ls"), 69),
        (format!("ps --admin {nobody}"), 69),
        (format!("logs -f hello --admin {nobody}"), 69),
    ] {
        let output = host.funcd(&line).output().unwrap();
        assert_eq!(code(&output), expected, "funcd {line}: {output:?}");
        assert_eq!(
            output.stderr.is_empty(),
            expected == 0,
            "funcd {line}: {output:?}"
        );
    }
}

#[test]
fn the_configuration_is_checked_and_shown_with_origins() {
    let host = Host::start();
    let file = host.dir.path().join("funcd.toml");
    let ask = |text: &str, line: &str| {
        std::fs::write(&file, text).unwrap();
        host.funcd(&format!("{line} --config {}", file.display()))
            .output()
            .unwrap()
    };
    let good = "listen = [\"127.0.0.1:1\"]\n";
    let check = ask(good, "config check");
    assert_eq!(
        (code(&check), text(&check.stdout)),
        (0, "The configuration is good.\n"),
        "{check:?}"
    );
    let show = ask(good, "config show --origin --workers 3 --json");
    let document: Value = serde_json::from_slice(&show.stdout).unwrap();
    let settings = document["settings"].as_array().unwrap();
    let origin = |key: &str| {
        let setting = settings.iter().find(|setting| setting["key"] == key).unwrap();
        setting["origin"].as_str().unwrap().to_owned()
    };
    assert_eq!(origin("listen"), format!("{}:1:10", file.display()));
    assert_eq!(origin("workers"), "flag --workers");
    assert_eq!(origin("admin"), "environment FUNCD_ADMIN");
    let bad = ask("listne = []\n", "config check");
    assert_eq!((code(&bad), text(&bad.stdout)), (78, ""));
    assert!(text(&bad.stderr).contains("funcd.toml:1:1"), "{bad:?}");
    assert!(!text(&bad.stderr).contains('\x1b'), "{bad:?}");
}

#[test]
fn who_may_not_ask_is_told_to_be_somebody_else() {
    let host = Host::start();
    let path = host.dir.path().join("strict.sock");
    let strict = UnixListener::bind(&path).unwrap();
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = strict.accept().unwrap();
        let _ = std::io::Read::read(&mut stream, &mut [0; 1024]).unwrap();
        let body = r#"{"status":403,"detail":"you may not"}"#;
        let head = format!("HTTP/1.1 403 Forbidden\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + body).as_bytes()).unwrap();
    });
    let output = host
        .funcd(&format!("ls --admin {}", path.display()))
        .output()
        .unwrap();
    answers.join().unwrap();
    assert_eq!(code(&output), 77);
    assert!(text(&output.stderr).contains("you may not"), "{output:?}");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let host = Host::start();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = host.funcd("completions bash").stdout(writer).output().unwrap();
    assert_eq!((code(&output), text(&output.stderr)), (141, ""));
}

#[test]
fn logs_for_people_and_for_programs() {
    let host = Host::start();
    let name = FunctionName::parse("hello").unwrap();
    host.logs.note(&name, "instance 7 ended: \x1b[31mout of memory");
    while host
        .logs
        .tail(&name, 1)
        .unwrap()
        .is_none_or(|records| records.is_empty())
    {
        std::thread::yield_now();
    }
    let output = host.funcd("logs hello").output().unwrap();
    let line = text(&output.stdout);
    assert!(
        line.ends_with(" hello platform: instance 7 ended: \\x1b[31mout of memory\n"),
        "{line}"
    );
    let output = host.funcd("logs --json -n 1 hello").output().unwrap();
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["stream"], "platform");
}

#[test]
fn run_waits_until_its_own_revision_is_live() {
    let host = Host::start();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"abc").unwrap();
    let child = host
        .funcd(&format!("run hello {}", file.path().display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The host takes it up some time after it has appeared.
    while !host.functions().join("hello").exists() {
        std::thread::yield_now();
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, b"abc");
    let digest = Digest(digest.as_ref().try_into().unwrap());
    let revision = RevisionId::of(digest, "").to_string();
    host.known.send_modify(|known| {
        known.functions.insert("hello".to_owned(), function(&revision));
    });
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0);
    assert_eq!(
        text(&output.stdout),
        "ok: hello is live:\n  curl http://127.0.0.1:8080/hello/\n"
    );
}

#[test]
fn run_says_why_it_is_refused() {
    let host = Host::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    let child = host
        .funcd(&format!("run hello {}", file.path().display()))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !host.functions().join("hello").exists() {
        std::thread::yield_now();
    }
    let refused = Entry::Refused {
        kind: "empty",
        reason: "it is empty".to_owned(),
    };
    host.entries.send_modify(|entries| {
        entries.insert("hello".to_owned(), refused);
    });
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 1);
    assert_eq!(text(&output.stderr), "funcd: hello is refused: it is empty\n");
}

#[test]
fn rm_waits_until_it_is_gone() {
    let host = Host::start();
    std::fs::write(host.functions().join("hello"), "").unwrap();
    let child = host.funcd("rm hello").stdout(Stdio::piped()).spawn().unwrap();
    while host.functions().join("hello").exists() {
        std::thread::yield_now();
    }
    host.entries.send_modify(|entries| entries.clear());
    host.known.send_modify(|known| known.functions.clear());
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), text(&output.stdout)), (0, "ok: hello is gone\n"));
    assert_eq!(std::fs::read_dir(host.functions()).unwrap().count(), 0);
}
