//! The server and its client over a real socket, with sources that a test controls.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc as channel;
use std::time::{Duration, SystemTime};

use funcd_sandbox::property::Property;
use funcd_sandbox::spec::{Digest, InstanceId};
use metrics_exporter_prometheus::PrometheusBuilder;

use super::client::{Client, ClientError};
use super::peer::Peers;
use super::requests::Requests;
use super::view::tests::state;
use super::view::{
    ConfigView, Doctor, ExitView, Functions, HostView, InstanceView, Instances, PropertyView, Snapshot,
    State, Status, Version,
};
use super::*;
use crate::config::ClientBounds;
use crate::ledger::Ledger;
use crate::ledger::record::{Outcome, Start};
use crate::name::{FunctionName, RevisionId};
use crate::telemetry::capture::Writer;
use crate::telemetry::record::Record;

/// A host without functions: only its admin API runs.
struct Host {
    dir: tempfile::TempDir,
    readiness: watch::Sender<Readiness>,
    /// What control answers; `None`: nothing.
    answer: watch::Sender<Option<Snapshot>>,
    logs: Logs,
    tcp: std::net::SocketAddr,
    /// Ends the host's thread when dropped.
    _stop: oneshot::Sender<()>,
}

impl Host {
    fn start(peers: Peers) -> Host {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("admin.sock")).unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let (readiness, readiness_seen) = watch::channel(Readiness::Ready);
        let (answer, answer_seen) = watch::channel(Some(snapshot()));
        let (stop, stopped) = oneshot::channel();
        let (started, host) = channel::channel();
        let folder: OwnedFd = File::open(dir.path()).unwrap().into();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let logs = Logs::new(folder, runtime.handle().clone());
            started.send(logs.clone()).unwrap();
            runtime.block_on(async {
                let sources = Arc::new(sources(logs, readiness_seen, answer_seen));
                tokio::select! {
                    _ = server::serve_unix(listener, peers, Arc::clone(&sources), server::Places::default()) => {}
                    _ = server::serve_tcp(tcp, sources) => {}
                    _ = stopped => {}
                }
            });
        });
        Host {
            dir,
            readiness,
            answer,
            logs: host.recv().unwrap(),
            tcp: address,
            _stop: stop,
        }
    }

    fn open() -> Host {
        Host::start(Peers {
            trusted: vec![nix::unistd::geteuid().as_raw()],
            group: false,
            functions: 0..0,
        })
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("admin.sock")
    }

    fn client(&self) -> Client {
        Client::new(&self.socket()).unwrap()
    }

    /// What a plain HTTP/1.0 client gets over TCP.
    fn over_tcp(&self, target: &str) -> String {
        let mut stream = std::net::TcpStream::connect(self.tcp).unwrap();
        write!(stream, "GET {target} HTTP/1.0\r\n\r\n").unwrap();
        std::io::read_to_string(stream).unwrap()
    }
}

fn sources(
    logs: Logs,
    readiness: watch::Receiver<Readiness>,
    answer: watch::Receiver<Option<Snapshot>>,
) -> Sources {
    let (control, mut asked) = mpsc::channel::<Ask>(1);
    tokio::spawn(async move {
        while let Some(Ask(sender)) = asked.recv().await {
            if let Some(snapshot) = answer.borrow().clone() {
                let _ = sender.send(snapshot);
            }
        }
    });
    let refused = Entry::Refused {
        kind: "setuid",
        reason: "it is setuid: chmod u-s broken".to_owned(),
    };
    let entries = BTreeMap::from([
        ("broken".to_owned(), refused),
        ("hello".to_owned(), Entry::Accepted),
    ]);
    Sources {
        upgrades: mpsc::channel(1).0,
        control,
        entries: watch::channel(entries).1,
        doctor: doctor(),
        logs,
        readiness,
        metrics: PrometheusBuilder::new().build_recorder().handle(),
        ledgers: ledgers(),
        host: watch::channel(crate::host::State::new(SystemTime::UNIX_EPOCH)).1,
        config: watch::channel(Arc::new(config())).1,
    }
}

/// Those of one worker, which remembers one request.
fn ledgers() -> Ledgers {
    let ledgers = Ledgers::default();
    let mut questions = ledgers.join();
    std::thread::spawn(move || {
        let now = std::time::Instant::now();
        let mut ledger = Ledger::new(now);
        let open = ledger.open(now);
        let mut record = open.borrow_mut();
        record.asks(b"known/1", "GET", "/hello/");
        record.is_for("hello");
        record.begin_attempt();
        record.leases(7, Start::Warm);
        record.fails(Outcome::Died);
        record.status = Some(502);
        record.ends(now);
        drop(record);
        ledger.close(&open);
        while let Some(question) = questions.blocking_recv() {
            let _ = question.answer.send(ledger.look_up(&question.wanted));
        }
    });
    ledgers
}

fn snapshot() -> Snapshot {
    let instance = InstanceView {
        function: "hello".to_owned(),
        revision: "ab".repeat(32),
        instance: Some(7),
        pid: Some(4242),
        state: State::Ready,
        since: "2026-01-01T00:00:00.000Z".to_owned(),
        last_exit: None,
        in_flight: 2,
        admission: None,
        limits: None,
    };
    Snapshot {
        functions: BTreeMap::from([("hello".to_owned(), state(State::Ready))]),
        instances: vec![instance],
        revisions: Default::default(),
    }
}

fn doctor() -> Doctor {
    let grade = funcd_sandbox::probe::Grade {
        property: Property::CpuLimit,
        mechanism: None,
        cause: "no cpu controller".to_owned(),
        fix: "mount it".to_owned(),
        needs: String::new(),
    };
    Doctor {
        kernel: "6.18.0".to_owned(),
        landlock_abi: Some(7),
        cgroup: "hybrid".to_owned(),
        root: true,
        systemd: false,
        properties: vec![PropertyView::new(&grade, &[Property::CpuLimit])],
    }
}

/// Some configuration.
pub(crate) fn config() -> Config {
    let second = Duration::from_secs(1);
    Config {
        functions: "/var/lib/funcd/functions".into(),
        state: "/var/lib/funcd".into(),
        run: "/run/funcd".into(),
        listen: vec!["127.0.0.1:8080".parse().unwrap()],
        admin: "/run/funcd/admin.sock".into(),
        admin_listen: None,
        workers: 2,
        trusted: vec![],
        user: "funcd".to_owned(),
        uid_first: 61_000,
        uid_count: 1000,
        read_roots: vec![],
        write_roots: vec![],
        secrets: "/etc/funcd/secrets".into(),
        degraded: vec![],
        max_instances: 100,
        standbys: 0,
        brownout: true,
        journal: false,
        client: ClientBounds {
            head_timeout: second,
            body_idle: second,
            idle: second,
            head_bytes: 65536,
            connections: 1000,
        },
        egress: crate::config::EgressSettings::default(),
        rescan: second,
        drain: second,
        defaults: String::new(),
    }
}

#[test]
fn documents_arrive_as_they_were_sent() {
    let host = Host::open();
    let client = host.client();
    let functions: Functions = client.get("/v1/functions").unwrap();
    let rows: Vec<_> = functions
        .functions
        .iter()
        .map(|f| (f.name.as_str(), f.status))
        .collect();
    assert_eq!(rows, [("broken", Status::Refused), ("hello", Status::Accepted)]);
    assert_eq!(functions.functions[0].kind.as_deref(), Some("setuid"));
    assert_eq!(functions.functions[1].function, Some(state(State::Ready)));
    let instances: Instances = client.get("/v1/instances").unwrap();
    assert_eq!(instances.instances, snapshot().instances);
    assert_eq!(client.get::<Doctor>("/v1/doctor").unwrap(), doctor());
    assert_eq!(client.get::<ConfigView>("/v1/config").unwrap().config, config());
    assert_eq!(client.get::<HostView>("/v1/host").unwrap().brownout.stage, "none");
    assert_eq!(
        client.get::<Version>("/v1/version").unwrap(),
        Version::of_this_program()
    );
}

#[test]
fn requests_are_found_by_id_with_what_control_knows_of_their_instances() {
    let host = Host::open();
    let client = host.client();
    let asked = |target: &str| client.get::<Requests>(target);
    let found = asked("/v1/requests/known%2F1").unwrap();
    assert_eq!(found.requests[0].outcome, "failed");
    let gave_up = |found: &Requests| found.requests[0].events[2].text.clone();
    assert_eq!(gave_up(&found), "the connection ended before an answer");

    let mut known = snapshot();
    known.instances[0].last_exit = Some(ExitView {
        instance: Some(7),
        ..ExitView::new(
            &funcd_sandbox::exit::Exit::Oom,
            "2026-01-01T00:00:00.000Z".to_owned(),
        )
    });
    host.answer.send(Some(known.clone())).unwrap();
    let found = asked("/v1/requests/known%2F1").unwrap();
    assert!(gave_up(&found).contains("out of memory"), "{found:?}");
    // Another instance's end says nothing about it.
    known.instances[0].last_exit.as_mut().unwrap().instance = Some(6);
    host.answer.send(Some(known)).unwrap();
    assert!(!gave_up(&asked("/v1/requests/known%2F1").unwrap()).contains("out of memory"));

    let count = |target: &str| asked(target).unwrap().requests.len();
    assert_eq!(count("/v1/requests?function=hello&failed=true&limit=5"), 1);
    assert_eq!(count("/v1/requests?function=other"), 0);
    assert_eq!(count("/v1/requests?limit=0"), 0);
    let unknown = asked("/v1/requests/unknown").unwrap_err();
    assert!(matches!(&unknown, ClientError::Refused { status, .. } if status.as_u16() == 404));
    let since = &found.remembered.notable_since[..16];
    assert!(unknown.to_string().contains(since), "how far back: {unknown}");
}

#[test]
fn readiness_follows_the_host_and_says_why_not() {
    let host = Host::open();
    let client = host.client();
    let ask = |target: &str| {
        let (status, text) = client.text(target).unwrap();
        (status.as_u16(), text)
    };
    assert_eq!(ask("/livez"), (200, "ok\n".to_owned()));
    assert_eq!(ask("/readyz"), (200, "ok\n".to_owned()));
    assert_eq!(ask("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(
        ask("/readyz?verbose"),
        (200, "[+]phase ok\n[+]control ok\nok\n".to_owned())
    );
    host.readiness.send(Readiness::Draining).unwrap();
    assert_eq!(ask("/readyz"), (503, "not ready\n".to_owned()));
    let verbose = "[-]phase draining: told to stop\n[+]control ok\nnot ready\n";
    assert_eq!(ask("/readyz?verbose=1"), (503, verbose.to_owned()));
    assert_eq!(ask("/livez"), (200, "ok\n".to_owned()));
    host.readiness.send(Readiness::Ready).unwrap();
    host.answer.send(None).unwrap();
    let verbose = "[+]phase ok\n[-]control the control thread does not answer\nnot ready\n";
    assert_eq!(ask("/readyz?verbose"), (503, verbose.to_owned()));
    let refused = client.get::<Instances>("/v1/instances").unwrap_err();
    assert!(matches!(refused, ClientError::Refused { status, .. } if status.as_u16() == 503));
}

#[test]
fn tcp_has_health_and_metrics_and_nothing_else() {
    let host = Host::open();
    assert!(host.over_tcp("/metrics").contains("text/plain; version=0.0.4"));
    for target in ["/livez", "/readyz", "/healthz"] {
        assert!(host.over_tcp(target).starts_with("HTTP/1.0 200"), "{target}");
    }
    for target in [
        "/v1/functions",
        "/v1/config",
        "/v1/functions/hello/logs",
        "/v1/requests",
        "/v1/requests/known%2F1",
        "/",
    ] {
        assert!(host.over_tcp(target).starts_with("HTTP/1.0 404"), "{target}");
    }
}

#[test]
fn what_is_not_get_is_told_so() {
    let host = Host::open();
    let mut stream = std::net::TcpStream::connect(host.tcp).unwrap();
    write!(stream, "POST /metrics HTTP/1.0\r\n\r\n").unwrap();
    let answer = std::io::read_to_string(stream).unwrap();
    assert!(answer.starts_with("HTTP/1.0 405"), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
}

#[test]
fn a_peer_that_may_not_is_told_so_whatever_it_asks() {
    let me = nix::unistd::geteuid();
    if me.is_root() {
        // Root is always admitted: be somebody else for the connection, in a process of its own.
        return refused_as_another_user();
    }
    let host = Host::start(Peers {
        trusted: vec![],
        group: false,
        functions: 0..0,
    });
    let denied = host.client().get::<Version>("/v1/version").unwrap_err();
    assert!(matches!(denied, ClientError::Denied { .. }), "{denied}");
}

/// curl as uid 61000, which is among the functions' uids, on a socket that everybody may connect to.
fn refused_as_another_user() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let host = Host::start(Peers {
        trusted: vec![],
        group: true,
        functions: 61_000..61_001,
    });
    let open =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    open(host.dir.path(), 0o755);
    open(&host.socket(), 0o666);
    let status = |uid: u32| {
        // The test's own program is not readable to others, so another client: curl, or else nothing is shown.
        let output = std::process::Command::new("curl")
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket"])
            .arg(host.socket())
            .arg("http://funcd/v1/version")
            .uid(uid)
            .gid(uid)
            .output();
        output
            .ok()
            .map(|output| String::from_utf8(output.stdout).unwrap())
    };
    let Some(seen) = status(61_000) else {
        println!("skipped: a_peer_that_may_not_is_told_so_whatever_it_asks: no curl");
        return;
    };
    assert_eq!(seen, "403");
    assert_eq!(status(61_001).unwrap(), "200");
}

#[test]
fn nobody_there_and_not_allowed_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let ask = || {
        Client::new(&path)
            .unwrap()
            .get::<Version>("/v1/version")
            .unwrap_err()
    };
    let missing = ask();
    assert!(matches!(missing, ClientError::Unreachable { .. }), "{missing}");
    assert!(missing.to_string().contains(path.to_str().unwrap()));
    drop(UnixListener::bind(&path).unwrap());
    let left_behind = ask();
    assert!(
        matches!(left_behind, ClientError::Unreachable { .. }),
        "{left_behind}"
    );
}

#[test]
fn logs_are_given_and_followed() {
    let host = Host::open();
    let client = host.client();
    let name = FunctionName::parse("hello").unwrap();
    let (stdout, out) = nix::unistd::pipe().unwrap();
    let (stderr, err) = nix::unistd::pipe().unwrap();
    let writer = Writer {
        function: name.clone(),
        revision: RevisionId(Digest([1; 32])),
        instance: InstanceId(7),
    };
    host.logs.attach(writer, [Some(stdout), Some(stderr)]);
    let mut out = File::from(out);
    out.write_all(b"one\ntwo\n").unwrap();
    drop(err);

    let mut seen = Vec::new();
    let mut next = 3;
    let ended = client.lines("/v1/functions/hello/logs?follow=true&lines=2", &mut |line| {
        let record: Record = serde_json::from_slice(line).unwrap();
        seen.push(record.line);
        if seen.len() == 4 {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        if seen.len() >= 2 {
            writeln!(out, "{next}").unwrap();
            next += 1;
        }
        Ok(())
    });
    assert!(matches!(ended, Err(ClientError::Output(_))), "{ended:?}");
    assert_eq!(seen, ["one", "two", "3", "4"]);

    let mut last = Vec::new();
    let mut keep = |line: &[u8]| {
        last.push(serde_json::from_slice::<Record>(line).unwrap().line);
        Ok(())
    };
    client
        .lines("/v1/functions/hello/logs?lines=1", &mut keep)
        .unwrap();
    assert_eq!(last.len(), 1);
}

#[test]
fn logs_of_what_never_was_are_not_found() {
    let host = Host::open();
    let status = |target: &str| {
        let ended = host.client().lines(target, &mut |_| Ok(()));
        match ended {
            Ok(()) => 200,
            Err(ClientError::Refused { status, .. }) => status.as_u16(),
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(status("/v1/functions/hello/logs"), 200);
    assert_eq!(status("/v1/functions/nobody/logs"), 404);
    assert_eq!(status("/v1/functions/NOT-A-NAME/logs"), 400);
    assert_eq!(status("/v1/functions/..%2Fadmin/logs"), 400);
}
