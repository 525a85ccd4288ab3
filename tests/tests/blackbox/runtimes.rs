//! Functions in other languages: each starts, answers and stops under the default profile, with nothing granted by its
//! manifest and nothing degraded.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use funcd_tests::artifacts::{Hello, example_file, hello};
use funcd_tests::eventually;
use funcd_tests::host::Host;
use funcd_tests::need::{self, Need};
use funcd_tests::suite::Suite;

pub(crate) fn register(suite: &mut Suite) {
    const CC: &[Need] = &[Need::Program("cc")];
    funcd_tests::tests!(suite, "runtimes", [
        c_on_the_systems_libc: CC,
        c_static: CC,
        rust_on_the_systems_libc: CC,
        rust_static,
        go: &[Need::Program("go")],
        go_packaged_by_debian: &[Need::Program("/usr/bin/caddy")],
        python: &[Need::Program("/usr/bin/python3")],
        node: &[Need::Program("/usr/bin/node")],
        java: &[Need::Program("/usr/bin/java"), Need::Program("/usr/bin/javac")],
        perl: &[Need::Program("/usr/bin/perl")],
        shell: &[Need::Program("busybox")],
    ]);
}

fn host() -> Arc<Host> {
    Host::shared("runtimes", |_| {})
}

/// Beside what the example itself says: it stops when nobody asks, and a machine that is busy with other tests is slow.
const PATIENT: &str = "[scale]\nidle = \"1s\"\n";

/// Deploys it, asks it, looks at its process, and waits until it was stopped and did.
#[track_caller]
fn lives(name: &str, executable: &Path, manifest: &str, says: &str) {
    let host = host();
    host.drop_folder(name, executable, manifest);
    host.wait_live(name);
    let answer = host.wait_for(&format!("/{name}/"), "200", |answer| answer.status() == 200);
    assert!(answer.text().contains(says), "{}", answer.text());
    let process = host.instance(name);
    // An ordinary user's host may keep less: what it lacks was accepted by name.
    if need::missing_properties().is_empty() {
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
        for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"] {
            assert!(status.contains(line), "{line} is not in\n{status}");
        }
    }
    host.wait_idle(name);
    eventually(&format!("the log to say that {name} did as it was told"), || {
        let output = host
            .funcd(&["logs", name])
            .output()
            .map_err(|error| error.to_string())?;
        let log = String::from_utf8_lossy(&output.stdout).into_owned();
        match log.contains("ended: stopped") {
            true => Ok(()),
            false => Err(log),
        }
    });
    assert!(!process.is_there());
    // And again, from what is stored.
    let again = host.wait_for(&format!("/{name}/"), "200", |answer| answer.status() == 200);
    assert!(again.text().contains(says), "{}", again.text());
    host.remove(name);
    host.wait_idle(name);
}

/// As [`lives`], for an example that is a folder with its own manifest.
#[track_caller]
fn example_lives(folder: &str, executable: &str, says: &str) {
    let manifest = fs::read_to_string(example_file(&format!("{folder}/function.toml"))).unwrap();
    let executable = example_file(&format!("{folder}/{executable}"));
    lives(folder, &executable, &(manifest + PATIENT), says);
}

fn c_on_the_systems_libc() {
    lives("c-dynamic", &hello(Hello::CDynamic), PATIENT, "hello from C");
}

fn c_static() {
    lives("c-static", &hello(Hello::CStatic), PATIENT, "hello from C");
}

fn rust_on_the_systems_libc() {
    lives("rust-glibc", &hello(Hello::RustGlibc), PATIENT, "hello from Rust");
}

fn rust_static() {
    lives("rust-musl", &hello(Hello::RustMusl), PATIENT, "hello from Rust");
}

fn go() {
    lives("go", &hello(Hello::Go), PATIENT, "hello from Go");
}

fn go_packaged_by_debian() {
    let manifest =
        "contract = \"port\"\nargs = [\"respond\", \"--listen\", \":8080\", \"hello from caddy\"]\n";
    let manifest = manifest.to_owned() + PATIENT;
    lives(
        "caddy",
        Path::new("/usr/bin/caddy"),
        &manifest,
        "hello from caddy",
    );
}

fn python() {
    example_lives("py-port", "server.py", "hello");
}

fn node() {
    example_lives("node-http", "server.js", "\"node\":\"v");
}

fn java() {
    example_lives("java-port", "server", "hello from Java");
}

fn perl() {
    example_lives("perl-port", "server.pl", "hello from Perl");
}

fn shell() {
    example_lives("sh-port", "server.sh", "hello from Linux");
}
