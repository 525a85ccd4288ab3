//! What a test needs of the machine, and whether it is there.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit};
use serde_json::Value;

use crate::artifacts;
use crate::peers::{self, Package};
use crate::wheels;

/// Something that a test can't do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// To be root.
    Root,
    /// A property of the sandbox that this machine must be able to keep, by name: `memory-limit`.
    Property(&'static str),
    /// Starts that can be prepared: functions that need no pid namespace to keep the property `processes`.
    Standby,
    /// Cgroups that can be frozen: root's, v2 (Linux 5.2) or v1's freezer.
    Freezer,
    /// Mount namespaces: root's, or those of user namespaces. They hide files also where the property `files` takes more.
    MountNamespaces,
    /// A program in the search path, or at an absolute path.
    Program(&'static str),
    /// To be allowed to open as many files.
    OpenFiles(u64),
    /// curl that speaks HTTP/2.
    CurlHttp2,
    /// static-web-server: built already, or a C compiler and crates.io to build it.
    StaticWebServer,
    /// gunicorn: installed already, or /usr/bin/python3 with pip, and PyPI.
    Gunicorn,
    /// uvicorn: installed already, or /usr/bin/python3 with pip, and PyPI.
    Uvicorn,
    /// Fn's FDK for Python: installed already, or /usr/bin/python3 with pip, and PyPI.
    Fdk,
    /// A package of PyPI and all that it needs, as `name==version`: fetched already, or /usr/bin/python3 with pip, and PyPI.
    Wheels(&'static str),
    /// cargo-lambda: installed already, or /usr/bin/python3 with pip, and PyPI.
    CargoLambda,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Need::Root => f.write_str("root"),
            Need::Property(name) => {
                let why = properties()
                    .get(*name)
                    .and_then(|property| property.clone().err())
                    .unwrap_or_default();
                write!(f, "the sandbox property {name}: {why}")
            }
            Need::Standby => f.write_str("root and Landlock ABI 6, to prepare starts"),
            Need::Freezer => f.write_str("root and a cgroup freezer"),
            Need::MountNamespaces => f.write_str("mount namespaces (user namespaces for whoever isn't root)"),
            Need::Program(name) => write!(f, "the program {name}"),
            Need::OpenFiles(count) => write!(f, "a limit of open files of {count} (ulimit -Hn)"),
            Need::CurlHttp2 => f.write_str("curl with HTTP/2"),
            Need::StaticWebServer => f.write_str("static-web-server from crates.io"),
            Need::Gunicorn => f.write_str("/usr/bin/python3 with pip, and gunicorn from PyPI"),
            Need::Uvicorn => f.write_str("/usr/bin/python3 with pip, and uvicorn from PyPI"),
            Need::Fdk => f.write_str("/usr/bin/python3 with pip, and fdk from PyPI"),
            Need::Wheels(package) => write!(f, "/usr/bin/python3 with pip, and {package} from PyPI"),
            Need::CargoLambda => f.write_str("/usr/bin/python3 with pip, and cargo-lambda from PyPI"),
        }
    }
}

/// Whether this process is root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// What `funcd doctor --json` says of this machine. Asked once.
///
/// # Panics
/// When it does not answer with its document.
fn doctor() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        // A socket that isn't there: it is this machine that is asked about, not a host that happens to run on it.
        let mut doctor = Command::new(artifacts::funcd());
        let output = doctor
            .args(["--json", "doctor", "--admin", "/nonexistent/admin.sock"])
            .output();
        let output = output.expect("funcd was built");
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("funcd --json doctor: {error}: {output:?}"))
    })
}

/// The properties of the sandbox by name: kept here, or why not. Asked of `funcd doctor` once.
///
/// # Panics
/// When `funcd doctor --json` does not answer with its document.
pub fn properties() -> &'static BTreeMap<String, Result<(), String>> {
    static PROPERTIES: OnceLock<BTreeMap<String, Result<(), String>>> = OnceLock::new();
    PROPERTIES.get_or_init(|| {
        let document = doctor();
        let rows = document["properties"]
            .as_array()
            .expect("doctor lists the properties");
        let grade = |row: &Value| match row["kept"].as_bool() {
            Some(true) => Ok(()),
            _ => Err(row["cause"]
                .as_str()
                .unwrap_or("doctor does not say why")
                .to_owned()),
        };
        rows.iter()
            .map(|row| (row["name"].as_str().unwrap_or_default().to_owned(), grade(row)))
            .collect()
    })
}

/// The properties that this machine can't keep.
pub fn missing_properties() -> Vec<&'static str> {
    properties()
        .iter()
        .filter(|(_, kept)| kept.is_err())
        .map(|(name, _)| name.as_str())
        .collect()
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    Path::new(program).is_absolute() && Path::new(program).exists()
        || std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn has_from_pypi(package: Package) -> bool {
    let mut pip = Command::new("/usr/bin/python3");
    let pip = pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"]);
    let which = format!("{}=={}", package.name, package.version);
    package.is_there() || tempfile::tempdir().is_ok_and(|to| succeeds(pip.arg(to.path()).arg(which)))
}

fn can_download(package: &str) -> bool {
    let mut pip = Command::new("/usr/bin/python3");
    let pip = pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"]);
    tempfile::tempdir().is_ok_and(|to| succeeds(pip.arg(to.path()).arg(package)))
}

impl Need {
    /// Whether it is there.
    pub fn is_met(self) -> bool {
        match self {
            Need::Root => is_root(),
            Need::Property(name) => properties().get(name).is_some_and(Result::is_ok),
            Need::Standby => {
                let mechanism = &doctor()["properties"][2]["mechanism"];
                mechanism
                    .as_str()
                    .is_some_and(|mechanism| mechanism.starts_with("Landlock"))
            }
            Need::Freezer => {
                let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
                let freezer = |line: &str| line.contains(" cgroup2 ") || line.contains("freezer");
                is_root() && mounts.lines().any(freezer)
            }
            Need::MountNamespaces => {
                succeeds(Command::new("unshare").args(["--user", "--map-root-user", "--mount", "true"]))
            }
            Need::Program(name) => is_there(name),
            Need::OpenFiles(count) => getrlimit(Resource::RLIMIT_NOFILE).is_ok_and(|(_, hard)| hard >= count),
            Need::CurlHttp2 => {
                let version = Command::new("curl").arg("--version").output();
                version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("HTTP2"))
            }
            Need::StaticWebServer => {
                peers::STATIC_WEB_SERVER.is_there()
                    || succeeds(
                        artifacts::cargo()
                            .args(["info", "--quiet", "static-web-server"])
                            .current_dir("/"),
                    )
            }
            Need::Gunicorn => has_from_pypi(peers::GUNICORN),
            Need::Uvicorn => has_from_pypi(peers::UVICORN),
            Need::Fdk => has_from_pypi(peers::FDK),
            Need::Wheels(package) => wheels::are_there(package) || can_download(package),
            Need::CargoLambda => has_from_pypi(peers::CARGO_LAMBDA),
        }
    }
}
