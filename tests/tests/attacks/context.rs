//! What attackers and controls find: the shared host with a neighbour in it, listeners outside, and the functions that attack.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use funcd_tests::artifacts::example;
use funcd_tests::host::Host;
use funcd_tests::http::{Request, Response};
use funcd_tests::need::Need;

/// Who attacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Runtime {
    Static,
    Dynamic,
    Python,
    Node,
}

impl Runtime {
    pub(crate) const ALL: [Runtime; 4] = [Runtime::Static, Runtime::Dynamic, Runtime::Python, Runtime::Node];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Runtime::Static => "static",
            Runtime::Dynamic => "dynamic",
            Runtime::Python => "python",
            Runtime::Node => "node",
        }
    }

    pub(crate) fn need(self) -> Option<Need> {
        match self {
            Runtime::Static | Runtime::Dynamic => None,
            Runtime::Python => Some(Need::Program("/usr/bin/python3")),
            Runtime::Node => Some(Need::Program("/usr/bin/node")),
        }
    }

    /// The executable, in a folder that is kept as long as the tests run.
    fn executable(self, folder: &Path) -> PathBuf {
        let script = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        match self {
            Runtime::Static => example("attack"),
            Runtime::Dynamic => example("attack-dynamic"),
            Runtime::Python => script("attack.py", include_str!("function.py")),
            Runtime::Node => script("attack.mjs", include_str!("function.mjs")),
        }
    }
}

/// The shared host, and what lies around it.
pub(crate) struct Context {
    pub(crate) host: Arc<Host>,
    /// Programs that functions are granted to read: `attack`, and a set-uid one.
    pub(crate) tools: PathBuf,
    /// A folder that functions are granted to write.
    pub(crate) lent: PathBuf,
    /// A file that anybody may read, where the host's own files are.
    pub(crate) secret: PathBuf,
    tcp: TcpListener,
    udp: UdpSocket,
    _abstract: (UnixListener, UnixDatagram),
    deployed: Mutex<BTreeMap<String, ()>>,
}

/// The name of the abstract socket that the tests listen on, outside.
pub(crate) fn abstract_name() -> String {
    format!("funcd-attacked-{}", std::process::id())
}

/// The only one.
pub(crate) fn context() -> &'static Context {
    static CONTEXT: OnceLock<Context> = OnceLock::new();
    CONTEXT.get_or_init(|| {
        let host = Host::shared("attacks", |_| {});
        let (tools, lent) = (host.volume("tools"), host.volume("lent"));
        for (name, mode) in [("attack", 0o755), ("set-uid", 0o4755), ("capable", 0o755)] {
            fs::copy(example("attack"), tools.join(name)).unwrap();
            fs::set_permissions(tools.join(name), Permissions::from_mode(mode)).unwrap();
        }
        let secret = host.path().join("secret");
        fs::write(&secret, "of the host").unwrap();
        fs::set_permissions(&secret, Permissions::from_mode(0o644)).unwrap();
        let bound = |name: &str| SocketAddr::from_abstract_name(name).unwrap();
        let stream = UnixListener::bind_addr(&bound(&abstract_name())).unwrap();
        let datagram = UnixDatagram::bind_addr(&bound(&format!("{}-d", abstract_name()))).unwrap();
        host.deploy("neighbour", "attack", "[scale]\nmin = 1\nmax = 1\n");
        host.wait_for("/neighbour/", "200", |answer| answer.status() == 200);
        host.get_ok("/neighbour/write?/tmp/secret");
        host.get_ok(&format!("/neighbour/keep-abstract?{}-n", abstract_name()));
        Context {
            tools,
            lent,
            secret,
            tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
            udp: UdpSocket::bind("127.0.0.1:0").unwrap(),
            _abstract: (stream, datagram),
            deployed: Mutex::default(),
            host,
        }
    })
}

/// Deploys a function that attacks, once; its name.
pub(crate) fn attacker(runtime: Runtime, name: &str, manifest: &str) -> String {
    let context = context();
    let mut deployed = context
        .deployed
        .lock()
        .unwrap_or_else(|poison| poison.into_inner());
    if deployed.insert(name.to_owned(), ()).is_none() {
        deploy(&context.host, runtime, name, manifest);
    }
    name.to_owned()
}

/// Deploys a function that attacks to any host that has the volumes.
pub(crate) fn deploy(host: &Host, runtime: Runtime, name: &str, manifest: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (tools, lent) = (host.volume("tools"), host.volume("lent"));
    let health = if manifest.contains("[health]") {
        ""
    } else {
        "[health]\nready_within = \"60s\"\n"
    };
    let whole = format!(
        "env = {{ ATTACK_CHILD = \"{0}/attack\" }}\n{manifest}\n{health}[request]\ntimeout = \"120s\"\n[sandbox]\nread = \
         [\"{0}\"]\nwrite = [\"{1}\"]\n",
        tools.display(),
        lent.display()
    );
    host.drop_folder(name, &runtime.executable(folder.path()), &whole);
    host.wait_live(name);
    host.wait_for(&format!("/{name}/"), "200", |answer| answer.status() == 200);
}

/// The target of a request that makes an attempt.
pub(crate) fn target(function: &str, words: &[String]) -> String {
    let encode = |word: &String| {
        let byte = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' => (byte as char).to_string(),
            byte => format!("%{byte:02x}"),
        };
        word.bytes().map(byte).collect::<String>()
    };
    let arguments: Vec<String> = words[1..].iter().map(encode).collect();
    format!("/{function}/{}?{}", words[0], arguments.join("&"))
}

/// Makes an attempt. A POST: it is not tried again when it ends the function.
#[track_caller]
pub(crate) fn attempt(host: &Host, function: &str, words: &[String]) -> Response {
    host.ask(&Request::post(&target(function, words), "x"))
}

impl Context {
    /// The instance sockets of all functions that run.
    pub(crate) fn sockets(&self) -> Vec<PathBuf> {
        let folder = fs::read_dir(self.host.path().join("run/i")).unwrap();
        folder.flatten().map(|entry| entry.path()).collect()
    }

    /// A stored executable.
    fn stored(&self) -> PathBuf {
        let mut folders = vec![self.host.path().join("state/store")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => folders.push(entry.path()),
                    false => return entry.path(),
                }
            }
        }
        panic!("nothing is stored");
    }

    /// An attempt with what `{…}` stands for. `process` and `tmp` are what attacker and control have in its place.
    pub(crate) fn words(&self, line: &str, process: Option<i32>, tmp: &str) -> Vec<String> {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let value = |name: &str| match name {
            "neighbour" => process
                .unwrap_or_else(|| self.host.instance("neighbour").pid)
                .to_string(),
            "supervisor" => process.unwrap_or_else(|| self.host.supervisor().pid).to_string(),
            "launcher" => process.unwrap_or(self.host.launcher().pid).to_string(),
            "secret" => path(&self.secret),
            "program" => path(&self.host.function_path("neighbour").join("attack")),
            "stored" => path(&self.stored()),
            "socket" => path(&self.sockets().pop().expect("the neighbour listens")),
            "admin" => path(&self.host.path().join("run/admin.sock")),
            "run" => path(&self.host.path().join("run")),
            "tcp" => self.tcp.local_addr().unwrap().to_string(),
            "udp" => self.udp.local_addr().unwrap().to_string(),
            "http" => self.host.address().to_string(),
            "abstract" => abstract_name(),
            "tools" => path(&self.tools),
            "lent" => path(&self.lent),
            "tmp" => tmp.to_owned(),
            other => panic!("nothing is called {other}"),
        };
        let word = |word: &str| {
            let mut whole = String::new();
            let mut rest = word;
            while let Some((before, after)) = rest.split_once('{') {
                let (name, tail) = after.split_once('}').expect("braces come in pairs");
                whole += before;
                whole += &value(name);
                rest = tail;
            }
            whole + rest
        };
        line.split_whitespace().map(word).collect()
    }
}
