//! What the tests stand on: a host with workers, functions that answer as the test says, a caller.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use funcd::catalog::manifest::{Defaults, Manifest, RequestBounds};
use funcd::config::{ClientBounds, Config};
use funcd::function::handle::{Function, Live, Refusal, Revision, ToControl};
use funcd::function::instance::{Address, Instance};
use funcd::ingress::{Routes, Shared, Workers, spawn_workers};
use funcd::name::{FunctionName, RevisionId};
use funcd_sandbox::spec::{Digest, Image, InstanceId};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc;

/// Nothing here takes this long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Polls until it is so.
pub(crate) fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

pub(crate) fn bounds() -> ClientBounds {
    ClientBounds {
        head_timeout: PATIENCE,
        body_idle: PATIENCE,
        idle: PATIENCE,
        head_bytes: 32 * 1024,
        connections: 1000,
    }
}

pub(crate) fn manifest() -> Manifest {
    let name = FunctionName::parse("f").unwrap();
    let mut manifest = Manifest::read(&name, Path::new("f"), None, &Defaults::default()).unwrap();
    manifest.scale.max = 1;
    manifest.scale.idle = PATIENCE;
    manifest.request = RequestBounds {
        timeout: PATIENCE,
        body: 64 << 20,
        ..manifest.request
    };
    manifest
}

/// The recorder of this process.
pub(crate) fn recorder() -> &'static PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap())
}

/// Workers and their functions.
pub(crate) struct Host {
    pub(crate) address: SocketAddr,
    pub(crate) control: mpsc::UnboundedReceiver<ToControl>,
    pub(crate) workers: Option<Workers>,
    pub(crate) shared: Arc<Shared>,
    dir: tempfile::TempDir,
    sender: mpsc::UnboundedSender<ToControl>,
    routes: Arc<ArcSwap<Routes>>,
    functions: Vec<Arc<Function>>,
    instances: AtomicU64,
}

impl Host {
    pub(crate) fn new() -> Host {
        Host::with(bounds(), &[])
    }

    pub(crate) fn with(client: ClientBounds, trusted: &[&str]) -> Host {
        recorder();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let config = Config {
            functions: "".into(),
            state: "".into(),
            run: "".into(),
            listen: vec![address],
            admin: "".into(),
            admin_listen: None,
            workers: 1,
            trusted: trusted.iter().map(|&network| network.to_owned()).collect(),
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
            standbys: 0,
            client,
            egress: funcd::config::EgressSettings::default(),
            rescan: PATIENCE,
            drain: PATIENCE,
            defaults: String::new(),
        };
        let routes = Arc::new(ArcSwap::from_pointee(Routes::default()));
        let shared = Shared::new(&config, Arc::clone(&routes)).unwrap();
        let (sender, control) = mpsc::unbounded_channel();
        Host {
            address,
            control,
            workers: Some(spawn_workers(vec![listener], Arc::clone(&shared)).unwrap()),
            shared,
            dir: tempfile::tempdir().unwrap(),
            sender,
            routes,
            functions: vec![],
            instances: AtomicU64::new(1),
        }
    }

    /// What its workers share.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// A function without an instance.
    pub(crate) fn function(&mut self, name: &str, manifest: Manifest) -> Arc<Function> {
        let revision = Arc::new(Revision {
            id: RevisionId(Digest([0; 32])),
            artifact: Digest([0; 32]),
            image: Image::Static,
            wanted: funcd::catalog::view::Wanted::default(),
            manifest: Arc::new(manifest),
            manifest_text: String::new(),
        });
        let function = Function::new(FunctionName::parse(name).unwrap(), revision, self.sender.clone());
        self.functions.push(Arc::clone(&function));
        let table = self.functions.iter().map(|function| {
            let routes = function.live().revision.manifest.routes.clone();
            (Arc::clone(function), routes)
        });
        self.routes.store(Arc::new(Routes::new(table)));
        function
    }

    /// A function with one instance that answers so.
    pub(crate) fn serve(
        &mut self,
        name: &str,
        manifest: Manifest,
        answer: Answer,
    ) -> (Arc<Function>, Arc<Server>) {
        let function = self.function(name, manifest);
        let server = self.instance(&function, answer);
        (function, server)
    }

    /// One more instance of a function, live from now on.
    pub(crate) fn instance(&self, function: &Arc<Function>, answer: Answer) -> Arc<Server> {
        let server = self.instance_of_late(function, answer);
        server.instance.note_running();
        server
    }

    /// The same, but the launcher did not yet tell that it runs.
    pub(crate) fn instance_of_late(&self, function: &Arc<Function>, answer: Answer) -> Arc<Server> {
        let id = self.instances.fetch_add(1, Ordering::SeqCst);
        let path = self.dir.path().join(id.to_string());
        let listener = UnixListener::bind(&path).unwrap();
        let live = function.live();
        let instance = Arc::new(Instance::new(
            InstanceId(id),
            Arc::clone(&live.revision),
            Address::Unix(path),
        ));
        let mut instances = live.instances.clone();
        instances.push(Arc::clone(&instance));
        function.publish(Live {
            revision: Arc::clone(&live.revision),
            instances,
            refusal: None,
        });
        let server = Arc::new(Server {
            instance,
            accepted: AtomicUsize::new(0),
            seen: Mutex::default(),
            bytes: Mutex::default(),
        });
        let counted = Arc::clone(&server);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                counted.accepted.fetch_add(1, Ordering::SeqCst);
                let counted = Arc::clone(&counted);
                std::thread::spawn(move || {
                    let stream = Recorded {
                        stream: stream.unwrap(),
                        server: Arc::clone(&counted),
                    };
                    let mut conn = Conn {
                        stream: BufReader::new(stream),
                        server: counted,
                    };
                    while let Some(head) = conn.head() {
                        if !answer(&mut conn, &head) {
                            return;
                        }
                    }
                });
            }
        });
        server
    }

    /// Every request is refused.
    pub(crate) fn refuse(&self, function: &Function, refusal: Refusal) {
        let live = function.live();
        function.publish(Live {
            revision: Arc::clone(&live.revision),
            instances: vec![],
            refusal: Some(refusal),
        });
    }

    pub(crate) fn caller(&self) -> Caller {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Caller(BufReader::new(stream))
    }

    /// Sends these bytes on a connection of their own and returns all that comes until it is closed.
    pub(crate) fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut caller = self.caller();
        caller.send(bytes);
        caller.rest()
    }

    /// A GET on a connection of its own.
    pub(crate) fn get(&self, path: &str) -> String {
        self.raw(format!(
            "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        ))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(workers) = self.workers.take() {
            workers.drain(Instant::now());
        }
    }
}

/// Answers one request whose head was read; false: closes the connection.
pub(crate) type Answer = fn(&mut Conn, &str) -> bool;

/// An instance's server, seen from the test.
pub(crate) struct Server {
    pub(crate) instance: Arc<Instance>,
    accepted: AtomicUsize,
    seen: Mutex<Vec<String>>,
    bytes: Mutex<Vec<u8>>,
}

impl Server {
    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Every byte that it read since this was asked last.
    pub(crate) fn take_bytes(&self) -> Vec<u8> {
        std::mem::take(&mut self.bytes.lock().unwrap())
    }

    /// Heads so far.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// The instance's end of a connection, which keeps what it reads.
pub(crate) struct Recorded {
    stream: UnixStream,
    server: Arc<Server>,
}

impl Read for Recorded {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let read = self.stream.read(buf)?;
        self.server.bytes.lock().unwrap().extend(&buf[..read]);
        Ok(read)
    }
}

impl Write for Recorded {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.stream.write(buf)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

/// A connection within an instance.
pub(crate) struct Conn {
    pub(crate) stream: BufReader<Recorded>,
    pub(crate) server: Arc<Server>,
}

impl Conn {
    fn head(&mut self) -> Option<String> {
        let head = read_head(&mut self.stream)?;
        self.server.seen.lock().unwrap().push(head.clone());
        Some(head)
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.get_mut().write_all(bytes.as_ref()).is_ok()
    }

    /// Until there is something to read, or the end; reads nothing.
    pub(crate) fn wait_for_more(&self) {
        let stream = self.stream.get_ref().stream.as_fd();
        poll(&mut [PollFd::new(stream, PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
    }

    /// The request's body; `None` when it breaks off.
    pub(crate) fn body(&mut self, head: &str) -> Option<Vec<u8>> {
        read_body(&mut self.stream, head).map(|(body, _)| body)
    }
}

/// A 200 with this body.
pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Answers each request with "hello", its body read.
pub(crate) fn hello(conn: &mut Conn, head: &str) -> bool {
    conn.body(head).is_some() && conn.send(ok("hello"))
}

fn read_head(stream: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

/// The value of a metric of this process that has no other labels than these.
pub(crate) fn metric(name: &str, labels: &str) -> u64 {
    let line = format!("{name}{{{labels}}} ");
    let shown = recorder().render();
    let value = shown.lines().find_map(|shown| shown.strip_prefix(&*line));
    value.map_or(0, |value| value.parse().unwrap())
}

/// The value of a field, compared without case.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// A body and its trailers, by the framing of its head.
fn read_body(stream: &mut impl BufRead, head: &str) -> Option<(Vec<u8>, String)> {
    let mut body = vec![];
    if field(head, "transfer-encoding").is_none() {
        let length = field(head, "content-length").map_or(0, |length| length.parse().unwrap());
        stream.take(length).read_to_end(&mut body).ok()?;
        return (body.len() as u64 == length).then_some((body, String::new()));
    }
    loop {
        let mut size = String::new();
        stream.read_line(&mut size).ok()?;
        let size = u64::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            let mut trailers = String::new();
            while trailers != "\r\n" && !trailers.ends_with("\r\n\r\n") {
                if stream.read_line(&mut trailers).ok()? == 0 {
                    return None;
                }
            }
            return Some((body, trailers));
        }
        if stream.take(size).read_to_end(&mut body).ok()? as u64 != size {
            return None;
        }
        let mut end = [0; 2];
        stream.read_exact(&mut end).ok()?;
    }
}

/// A client that writes what it likes.
pub(crate) struct Caller(pub(crate) BufReader<TcpStream>);

impl Caller {
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// A response head; `None` at the end of the connection.
    pub(crate) fn head(&mut self) -> Option<String> {
        read_head(&mut self.0)
    }

    /// A response with its body and trailers.
    pub(crate) fn response(&mut self) -> Option<(String, Vec<u8>, String)> {
        let head = self.head()?;
        let (body, trailers) = read_body(&mut self.0, &head)?;
        Some((head, body, trailers))
    }

    /// All that comes until the connection is closed, orderly or not.
    pub(crate) fn rest(&mut self) -> String {
        String::from_utf8_lossy(&self.rest_bytes()).into_owned()
    }

    /// The same, byte for byte.
    pub(crate) fn rest_bytes(&mut self) -> Vec<u8> {
        let mut rest = vec![];
        let ended = self.0.read_to_end(&mut rest);
        if let Err(error) = ended {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "never closed");
        }
        rest
    }
}

/// Asserts that an answer is a problem of funcd's own with these words in its head and body.
#[track_caller]
pub(crate) fn assert_problem(answer: &str, status: u16, slug: &str, proxy_error: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(
        field(head, "content-type"),
        Some("application/problem+json"),
        "{answer}"
    );
    assert_eq!(
        field(head, "proxy-status"),
        Some(&*format!("funcd; error={proxy_error}")),
        "{answer}"
    );
    let retry = field(head, "retry-after").map(|seconds| seconds.parse::<u64>().unwrap());
    assert_eq!(
        retry.is_some_and(|seconds| seconds >= 1),
        status == 503,
        "{answer}"
    );
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["type"], format!("urn:funcd:error:{slug}"));
    assert_eq!(body["status"], status);
    assert_eq!(body["request_id"].as_str(), field(head, "x-request-id"));
    assert!(!body["title"].as_str().unwrap().is_empty() && !body["detail"].as_str().unwrap().is_empty());
}
