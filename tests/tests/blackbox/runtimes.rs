//! Functions in other languages: each starts, answers and stops under the default profile, with nothing granted by its
//! manifest and nothing degraded.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use funcd_tests::artifacts::{Hello, example_file, hello};
use funcd_tests::eventually;
use funcd_tests::host::Host;
use funcd_tests::need::{self, Need};
use funcd_tests::process::Process;
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
        a_dynamic_program_sees_its_libraries_and_no_programs: &[Need::Root, Need::Program("cc")],
        a_script_sees_its_runtime_and_no_programs: &[Need::MountNamespaces, Need::Program("/usr/bin/python3")],
        everything_that_confines_is_explained: &[Need::Program("cc")],
        a_file_is_explained_without_a_host: &[Need::Program("/usr/bin/python3")],
    ]);
}

/// What of these paths a running function sees.
fn seen<'a>(host: &Host, name: &str, paths: &[&'a str]) -> Vec<&'a str> {
    host.wait_for(&format!("/{name}/"), "200", |answer| answer.status() == 200);
    let root = format!("/proc/{}/root", host.instance(name).pid);
    let is_seen = |path: &&&str| fs::symlink_metadata(format!("{root}{path}")).is_ok();
    paths.iter().filter(is_seen).copied().collect()
}

fn a_dynamic_program_sees_its_libraries_and_no_programs() {
    let host = host();
    let executable = hello(Hello::CDynamic);
    const PROGRAMS: [&str; 4] = [
        "/usr/bin/env",
        "/usr/bin/perl",
        "/usr/share/doc",
        "/usr/sbin/chroot",
    ];
    host.drop_folder("tight", &executable, "");
    host.drop_folder("wide", &executable, "[sandbox]\nsystem = \"full\"\n");
    host.drop_folder("static", &hello(Hello::CStatic), "");
    assert_eq!(seen(&host, "wide", &PROGRAMS), PROGRAMS, "the control");
    assert_eq!(seen(&host, "tight", &PROGRAMS), Vec::<&str>::new());
    assert_eq!(
        seen(&host, "tight", &["/usr/share/zoneinfo/UTC", "/etc/ld.so.cache"]).len(),
        2
    );
    assert_eq!(
        seen(&host, "static", &["/usr", "/lib", "/etc", "/proc/self"]),
        Vec::<&str>::new()
    );
    for name in ["tight", "wide", "static"] {
        host.remove(name);
    }
}

fn a_script_sees_its_runtime_and_no_programs() {
    let host = host();
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("look");
    let server = fs::read_to_string(example_file("py-port/server.py")).unwrap();
    let look = "import ssl, sqlite3, ctypes, subprocess\nSEEN = [p for p in ('/bin/sh', '/usr/bin/env', '/usr/bin/perl', \
                '/usr/bin/python3', '/usr/lib/python3') if os.path.exists(p)]\n";
    let server = server
        .replace("import os\n", &format!("import os\n{look}"))
        .replace("self.path", "SEEN");
    fs::write(&script, server).unwrap();
    let of = |name: &str, manifest: &str| {
        host.drop_folder(name, &script, &format!("contract = \"port\"\n{manifest}"));
        let answer = host.wait_for(&format!("/{name}/"), "200", |answer| answer.status() == 200);
        host.remove(name);
        answer.json()["hello"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(
        of("looks-wide", "[sandbox]\nsystem = \"full\"\n"),
        5,
        "the control"
    );
    assert_eq!(of("looks", ""), 2);
}

fn everything_that_confines_is_explained() {
    let host = host();
    let volume = host.volume("explained");
    host.secret("explained", "key", "never shown");
    let manifest = format!(
        "secrets = [\"key\"]\nenv = {{ TOKEN = \"not shown either\" }}\n[limits]\nmemory = \"64M\"\n[sandbox]\nwrite = [{volume:?}]\n"
    );
    host.drop_folder("explained", &hello(Hello::CDynamic), &manifest);
    host.wait_live("explained");
    let document = host.json(&["explain-sandbox", "explained"]).unwrap();
    let items = document["items"].as_array().unwrap();
    let find = |section: &str, name: &str| {
        let found = items.iter().find(|item| {
            item["section"] == section && item["name"].as_str().is_some_and(|own| own.contains(name))
        });
        let found = found.unwrap_or_else(|| panic!("no {section} {name} in {document}"));
        (
            found["value"].as_str().unwrap().to_owned(),
            found["from"].as_str().unwrap().to_owned(),
        )
    };
    assert!(
        find("files", "libc.so").1.contains("needed by the executable"),
        "{document}"
    );
    assert!(
        find("files", "/run/credentials/key")
            .1
            .contains("function.toml line 2"),
        "{document}"
    );
    let (value, from) = find("files", &volume.to_string_lossy());
    assert!(
        value.starts_with("read, write") && from == "function.toml line 7",
        "{document}"
    );
    let (memory, from) = find("limits", "memory");
    let enforced = memory == "64M, swap included";
    assert!(memory.starts_with("64M, swap included"), "{memory}");
    assert_eq!(enforced, !need::missing_properties().contains(&"memory-limit"));
    assert_eq!(from, "function.toml line 5");
    assert_eq!(find("limits", "cpu").1, "default");
    assert_eq!(
        find("environment", "TOKEN"),
        ("set".to_owned(), "function.toml line 3".to_owned())
    );
    assert!(
        find("properties", "P1").0.contains("mount") || !need::is_root(),
        "{document}"
    );
    find("network", "descriptor 3");
    find("identity", "uid");
    let allowed = |name: &str| {
        let calls = document["calls"].as_array().unwrap();
        calls
            .iter()
            .any(|call| call["name"] == name && call["answer"] == "allowed")
    };
    assert!(allowed("read") && allowed("epoll_wait") && !allowed("mount") && !allowed("ptrace"));
    let text = host
        .funcd(&["explain-sandbox", "--calls", "explained"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("FILES") && text.contains("epoll_wait"), "{text}");
    for hidden in ["never shown", "not shown either"] {
        assert!(
            !text.contains(hidden) && !document.to_string().contains(hidden),
            "{hidden}"
        );
    }
    let unknown = host.funcd(&["explain-sandbox", "nobody"]).output().unwrap();
    assert!(
        !unknown.status.success() && String::from_utf8_lossy(&unknown.stderr).contains("funcd ls"),
        "{unknown:?}"
    );
    host.remove("explained");
}

fn a_file_is_explained_without_a_host() {
    let script = example_file("py-port/server.py");
    let manifest = example_file("py-port/function.toml");
    let mut command = std::process::Command::new(funcd_tests::artifacts::funcd());
    command
        .arg("explain-sandbox")
        .arg(&script)
        .arg("--manifest")
        .arg(&manifest);
    command
        .args(["--admin", "/nonexistent/admin.sock"])
        .env("NO_COLOR", "1");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    for part in [
        "not deployed",
        "the library of Python",
        "port 8080",
        "the interpreter of its #! line",
    ] {
        assert!(text.contains(part), "{part} is not in {text}\n{output:?}");
    }
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
    // Asked again each time: on a busy machine it may have been stopped before it is looked at.
    let (process, status) = eventually(&format!("a process of {name}"), || {
        host.get_ok(&format!("/{name}/"));
        let instances = host.instances(name);
        let [one] = instances.as_slice() else {
            return Err(format!("{instances:?}"));
        };
        let process = Process::of(one.pid.expect("instances() gives only those")).ok_or("it is gone")?;
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid));
        Ok((process, status.map_err(|error| error.to_string())?))
    });
    // An ordinary user's host may keep less: what it lacks was accepted by name.
    if need::missing_properties().is_empty() {
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
