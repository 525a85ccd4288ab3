//! Attempts 34 to 37: what a process is started with, and what is started.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use funcd_tests::artifacts::example;
use funcd_tests::host::{Host, Plan};
use funcd_tests::suite::Suite;
use funcd_tests::{eventually, until};

use nix::libc;

use crate::context::{Runtime, attacker, attempt, context};
use crate::table::{Title, story};

pub(crate) fn register(suite: &mut Suite) {
    story(
        suite,
        Title {
            number: 34,
            attempt: "inherited descriptors and working directory",
            mechanism: "P1 files: close_range, descriptors placed, chdir",
        },
        "inherited",
        &[],
        inherited,
    );
    story(
        suite,
        Title {
            number: 35,
            attempt: "secrets of the host's environment and arguments",
            mechanism: "environment built from empty",
        },
        "environment",
        &[],
        environment,
    );
    story(
        suite,
        Title {
            number: 36,
            attempt: "LD_PRELOAD and variables of funcd's own in a manifest",
            mechanism: "refused when the manifest is read",
        },
        "preload",
        &[],
        preload,
    );
    story(
        suite,
        Title {
            number: 37,
            attempt: "swap the executable after it was accepted, before it starts",
            mechanism: "P9 artifact: hashed while copied to the store, executed by descriptor",
        },
        "swap",
        &[],
        swap,
    );
}

fn inherited() -> (String, String) {
    let host = &context().host;
    for runtime in [Runtime::Static, Runtime::Dynamic] {
        let name = attacker(runtime, runtime.name(), "");
        assert_eq!(
            host.get_ok(&format!("/{name}/start-descriptors")).text(),
            "0 1 2 3"
        );
        assert_eq!(host.get_ok(&format!("/{name}/cwd")).text(), "/");
    }
    // What one function does to its descriptor 0 is not seen by another: it is not the same open file.
    let flags = |function: &str| host.get_ok(&format!("/{function}/status-flags?0")).text();
    let before = flags("neighbour");
    let set = format!("call {} 0 {} {}", libc::SYS_fcntl, libc::F_SETFL, libc::O_APPEND);
    assert_eq!(
        attempt(host, "static", &context().words(&set, None, "/tmp")).text(),
        "ok"
    );
    assert_ne!(
        flags("static"),
        before,
        "the control: it is set for all that share it"
    );
    assert_eq!(flags("neighbour"), before);
    let open = fs::read_dir(format!("/proc/{}/fd", host.launcher().pid))
        .unwrap()
        .count();
    assert!(open > 4, "the control: the launcher itself has more");
    (
        "descriptors are exactly 0, 1, 2, 3; it begins in /".to_owned(),
        "the launcher, which starts it, has more".to_owned(),
    )
}

fn environment() -> (String, String) {
    let host = Plan::new().variable("FUNCD_TEST_SECRET", "hunter2").start();
    host.deploy("env", "attack", "env = { OWN = \"a b=c\" }\n");
    let seen = host.get_ok("/env/start-environment").text();
    let pid = host.get_ok("/env/").text();
    let revision = host.entry("env").unwrap().revision.unwrap();
    let expected = format!(
        "FUNCD_FUNCTION=env\nFUNCD_REVISION={}\nHOME=/tmp\nLANG=C.UTF-8\nLISTEN_FDNAMES=http\nLISTEN_FDS=1\nLISTEN_PID={pid}\nOWN=a \
         b=c\nPATH=/usr/local/bin:/usr/bin:/bin\nTMPDIR=/tmp",
        &revision[..12]
    );
    assert_eq!(seen, expected);
    let outer = fs::read(format!("/proc/{}/environ", host.launcher().pid)).unwrap();
    assert!(
        String::from_utf8_lossy(&outer).contains("hunter2"),
        "the control: the launcher has it"
    );
    (
        "the environment, to the byte, is what is documented".to_owned(),
        "the secret is in the launcher's".to_owned(),
    )
}

/// Waits until an entry is refused; the reason.
#[track_caller]
pub(crate) fn refused(host: &Host, name: &str) -> String {
    eventually(&format!("{name:?} to be refused"), || match host.entry(name) {
        Some(entry) if entry.status == "refused" && !entry.reason.is_empty() => Ok(entry.reason),
        other => Err(format!("{other:?}")),
    })
}

fn preload() -> (String, String) {
    let host = &context().host;
    let names = [
        "LD_PRELOAD",
        "LD_AUDIT",
        "LD_LIBRARY_PATH",
        "LISTEN_FDS",
        "FUNCD_FUNCTION",
        "NOTIFY_SOCKET",
        "PORT",
    ];
    for (n, name) in names.into_iter().enumerate() {
        let function = format!("preload-{n}");
        host.drop_folder(
            &function,
            &example("hello"),
            &format!("env = {{ {name} = \"/tmp/x\" }}\n"),
        );
        let reason = refused(host, &function);
        assert!(reason.contains(name), "{reason}");
        assert_eq!(host.get(&format!("/{function}/")).status(), 404);
        host.remove(&function);
    }
    host.deploy("preload-not", "hello", "env = { LDX = \"1\" }\n");
    host.get_ok("/preload-not/");
    (
        format!("refused, by name: {}", names.join(", ")),
        "another variable is accepted".to_owned(),
    )
}

fn swap() -> (String, String) {
    let host = Host::start();
    host.deploy("swapped", "hello", "");
    assert_eq!(host.instances("swapped"), [], "it has not started yet");
    let mut writer = fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(host.function_path("swapped"))
        .unwrap();
    writer.write_all(&fs::read(example("attack")).unwrap()).unwrap();
    // Not closed: an upload under way. What was accepted is what runs, also when it is started only now.
    for _ in 0..3 {
        assert_eq!(host.get_ok("/swapped/").text(), "Hello from funcd\n");
    }
    let mut stored = vec![host.path().join("state/store")];
    while let Some(path) = stored.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        match metadata.is_dir() {
            true => stored.extend(fs::read_dir(path).unwrap().flatten().map(|entry| entry.path())),
            false => assert_eq!(
                metadata.permissions().mode() & 0o222,
                0,
                "{} is never written again",
                path.display()
            ),
        }
    }
    drop(writer);
    until("the finished upload to run", || {
        host.get("/swapped/").text() != "Hello from funcd\n"
    });
    (
        "what was accepted runs".to_owned(),
        "the same bytes run once they are complete".to_owned(),
    )
}
