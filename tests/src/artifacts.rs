//! What is tested: funcd, the examples and the peers, built once a run with this run's profile and gathered in
//! `<target>/blackbox`, so that no test runs a stale binary and another user can run the same ones. What others wrote is in
//! `peers`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::fcntl::{Flock, FlockArg};

pub use crate::peers::{cargo_lambda, fdk, gunicorn, static_web_server, uvicorn};

/// The example functions' executables.
const EXECUTABLES: [&str; 22] = [
    "hello",
    "thumbs",
    "notes",
    "ticker",
    "slow",
    "crash",
    "hog",
    "forkbomb",
    "fuzzer",
    "deaf",
    "daemon",
    "garbage",
    "echo",
    "sour",
    "attack",
    "lambda-http",
    "lambda-tries",
    "frames",
    "grpc",
    "grpc-client",
    "websocket",
    "websocket-client",
];
/// The files of the examples that tests use as they are.
const FILES: [&str; 18] = [
    "py-port/server.py",
    "py-port/function.toml",
    "notes/function.toml",
    "thumbs/function.toml",
    "node-http/server.js",
    "node-http/function.toml",
    "perl-port/server.pl",
    "perl-port/function.toml",
    "java-port/server",
    "java-port/function.toml",
    "sh-port/server.sh",
    "sh-port/function.toml",
    "c-http/hello.c",
    "go-http/main.go",
    "lambda-http/function.toml",
    "grpc/function.toml",
    "lambda-py/bootstrap",
    "lambda-py/function.toml",
];
/// Of those, the ones that run as they are.
const SCRIPTS: [&str; 6] = [
    "server.py",
    "server.js",
    "server.pl",
    "server",
    "server.sh",
    "bootstrap",
];

/// Where what is tested lies: `funcd`, `bin/<example>`, `examples/<file of an example>`, `peers/`, and the tests
/// themselves, by name.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| match std::env::var_os("FUNCD_TEST_ARTIFACTS") {
        Some(folder) => folder.into(),
        None => build(),
    })
}

/// The funcd executable.
pub fn funcd() -> PathBuf {
    folder().join("funcd")
}

/// The executable of an example function.
///
/// # Panics
/// When there is none of that name.
pub fn example(name: &str) -> PathBuf {
    let path = folder().join("bin").join(name);
    assert!(
        path.exists(),
        "{} is missing: no example of that name",
        path.display()
    );
    path
}

/// A file of an example, for instance `py-port/server.py`.
///
/// # Panics
/// When the harness does not gather it.
pub fn example_file(name: &str) -> PathBuf {
    let path = folder().join("examples").join(name);
    assert!(path.exists(), "{} is missing: add it to FILES", path.display());
    path
}

/// The source tree.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ is a member of the workspace")
}

/// The target directory and the profile that this test binary was built with: it is `<target>/<profile>/deps/<name>`.
fn target() -> (PathBuf, String) {
    let exe = std::env::current_exe().expect("/proc is mounted");
    let folder = exe.ancestors().nth(2).expect("cargo put it into <profile>/deps");
    let profile = folder
        .file_name()
        .expect("a profile has a name")
        .to_string_lossy()
        .into_owned();
    (
        folder
            .parent()
            .expect("a profile is in a target directory")
            .to_owned(),
        profile,
    )
}

/// Runs a command; its output is shown only when it fails.
///
/// # Panics
/// When it can't be run or fails.
#[track_caller]
pub fn run(command: &mut Command) {
    match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            panic!(
                "{command:?} failed, {}:\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            )
        }
        Err(error) => panic!("{command:?}: {error}"),
    }
}

/// The cargo that runs the tests, without what it told this package only.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "RUSTFLAGS" {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// Held while something is built or installed: runs side by side wait for each other.
pub(crate) fn lock(folder: &Path) -> Flock<File> {
    fs::create_dir_all(folder).expect("the target directory is writable");
    let file = File::create(folder.join("lock")).expect("the target directory is writable");
    Flock::lock(file, FlockArg::LockExclusive).expect("nothing interrupts the wait")
}

fn build() -> PathBuf {
    let (target, profile) = target();
    let folder = target.join("blackbox");
    let _lock = lock(&folder);
    eprintln!("building funcd and the examples (minutes when nothing is built yet)");
    let profile_flag = if profile == "debug" { "dev" } else { &profile };
    // The whole workspace is selected so that dependencies get the features that the tests were built with.
    run(cargo()
        .args([
            "build",
            "--quiet",
            "--workspace",
            "--bin",
            "funcd",
            "--profile",
            profile_flag,
        ])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(root()));
    let triple = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    add_target(&triple);
    let examples = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(_) => target.join("examples"),
        None => root().join("examples/target"),
    };
    run(cargo()
        .args(["build", "--quiet", "--release"])
        .env("CARGO_BUILD_TARGET", &triple)
        .arg("--target-dir")
        .arg(&examples)
        .current_dir(root().join("examples")));
    gather(&target.join(&profile).join("funcd"), &folder.join("funcd"), 0o755);
    // So that the folder is all that another user needs to run the tests.
    let own = std::env::current_exe().expect("/proc is mounted");
    // Cargo adds a hash to the name.
    let name = own.file_name().expect("a file has a name").to_string_lossy();
    let name = name.rsplit_once('-').map_or(&*name, |(name, _)| name);
    gather(&own, &folder.join(name), 0o755);
    for name in EXECUTABLES {
        gather(
            &examples.join(&triple).join("release").join(name),
            &folder.join("bin").join(name),
            0o755,
        );
    }
    gather(
        &dynamic_attack(&examples),
        &folder.join("bin/attack-dynamic"),
        0o755,
    );
    for name in FILES {
        let file = name.rsplit('/').next().unwrap_or(name);
        let mode = if SCRIPTS.contains(&file) { 0o755 } else { 0o644 };
        gather(
            &root().join("examples").join(name),
            &folder.join("examples").join(name),
            mode,
        );
    }
    folder
}

/// The attacks as a dynamic executable of the system's C library.
fn dynamic_attack(examples: &Path) -> PathBuf {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    run(cargo()
        .args(["build", "--quiet", "--release", "--package", "attack"])
        .env("CARGO_BUILD_TARGET", &triple)
        .arg("--target-dir")
        .arg(examples)
        .current_dir(root().join("examples")));
    examples.join(triple).join("release/attack")
}

/// rust-toolchain.toml brings the target of the usual machine; others get theirs here.
fn add_target(triple: &str) {
    let mut ask = Command::new("rustc");
    let known = ask
        .args(["--print", "target-libdir", "--target", triple])
        .current_dir(root())
        .output();
    let folder = known.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    if !folder.is_ok_and(|folder| folder.is_dir()) {
        run(Command::new("rustup")
            .args(["target", "add", triple])
            .current_dir(root()));
    }
}

/// Copies a file, replacing what is there by rename: what still runs keeps its own.
pub fn gather(from: &Path, to: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    let folder = to.parent().expect("artifacts lie in a folder");
    fs::create_dir_all(folder).expect("the target directory is writable");
    let staged = to.with_extension("staged");
    let copied = fs::copy(from, &staged)
        .and_then(|_| fs::set_permissions(&staged, fs::Permissions::from_mode(mode)))
        .and_then(|()| fs::rename(&staged, to));
    copied.unwrap_or_else(|error| panic!("copy {} to {}: {error}", from.display(), to.display()));
}

/// A program that says hello, in another language or linked in another way, built with what this machine has for it; kept
/// beside the others.
///
/// # Panics
/// When it can't be built.
pub fn hello(how: Hello) -> PathBuf {
    let folder = folder().join("runtimes");
    let path = folder.join(how.name());
    if path.exists() {
        return path;
    }
    let _lock = lock(&folder);
    if !path.exists() {
        // Renamed when it is whole: an interrupted build leaves nothing that looks like one.
        let made = path.with_extension("new");
        run(how.build().arg(&made).arg(how.source()).env("CGO_ENABLED", "0"));
        fs::rename(&made, &path).expect("the target directory is writable");
    }
    path
}

/// A program that says hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hello {
    /// C, linked to the system's libc.
    CDynamic,
    /// C, with glibc inside.
    CStatic,
    /// Rust's standard library on the system's libc.
    RustGlibc,
    /// Rust's standard library with musl inside.
    RustMusl,
    /// Go's net/http.
    Go,
}

impl Hello {
    fn name(self) -> &'static str {
        match self {
            Hello::CDynamic => "c-dynamic",
            Hello::CStatic => "c-static",
            Hello::RustGlibc => "rust-glibc",
            Hello::RustMusl => "rust-musl",
            Hello::Go => "go",
        }
    }

    fn source(self) -> PathBuf {
        match self {
            Hello::CDynamic | Hello::CStatic => example_file("c-http/hello.c"),
            Hello::RustGlibc | Hello::RustMusl => root().join("tests/functions/plain.rs"),
            Hello::Go => example_file("go-http/main.go"),
        }
    }

    /// The compiler, up to the name of what it makes.
    fn build(self) -> Command {
        let arguments: &[&str] = match self {
            Hello::CDynamic => &["cc", "-O2", "-o"],
            Hello::CStatic => &["cc", "-O2", "-static", "-o"],
            Hello::RustGlibc | Hello::RustMusl => {
                let libc = if self == Hello::RustGlibc { "gnu" } else { "musl" };
                let triple = format!("{}-unknown-linux-{libc}", std::env::consts::ARCH);
                let mut rustc = Command::new("rustc");
                let flags = [
                    "--edition",
                    "2024",
                    "-C",
                    "opt-level=s",
                    "--target",
                    &triple,
                    "-o",
                ];
                rustc.args(flags).current_dir(root());
                return rustc;
            }
            Hello::Go => &["go", "build", "-o"],
        };
        let mut command = Command::new(arguments[0]);
        command.args(&arguments[1..]);
        if self == Hello::Go {
            let cache = folder().join("runtimes/go-cache");
            command.env("GOCACHE", &cache).env("GOPATH", &cache);
        }
        command
    }
}
