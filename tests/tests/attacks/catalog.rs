//! Attempts 38 to 41: what deployers put into the functions folder.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;

use funcd_tests::artifacts::example;
use funcd_tests::eventually;
use funcd_tests::host::Host;
use funcd_tests::need::is_root;
use funcd_tests::suite::Suite;

use crate::control::SOMEBODY;
use crate::start::refused;
use crate::table::{Title, story};

pub(crate) fn register(suite: &mut Suite) {
    story(
        suite,
        Title {
            number: 38,
            attempt: "symlink, hard link, FIFO, socket, device in the functions folder",
            mechanism: "P9 artifact: opened without following links, fstat, O_NONBLOCK",
        },
        "special_files",
        &[],
        special_files,
    );
    story(
        suite,
        Title {
            number: 39,
            attempt: "set-uid, group- or world-writable executable, folder, manifest; a stranger's file",
            mechanism: "P9 artifact: policy of modes and owners",
        },
        "modes",
        &[],
        modes,
    );
    story(
        suite,
        Title {
            number: 40,
            attempt: "names with .., NUL, unicode, capitals, 255 bytes: as files, in requests, in commands",
            mechanism: "names are parsed once; opens relative to the folder",
        },
        "names",
        &[],
        names,
    );
    story(
        suite,
        Title {
            number: 41,
            attempt: "half an executable",
            mechanism: "close-write or rename, settling, ELF headers, hash",
        },
        "half_uploads",
        &[],
        half_uploads,
    );
}

fn run(program: &str, arguments: &[&str]) {
    assert!(
        Command::new(program).args(arguments).status().unwrap().success(),
        "{program} {arguments:?}"
    );
}

fn special_files() -> (String, String) {
    let host = Host::start();
    let at = |name: &str| host.function_path(name);
    let hello = example("hello");
    symlink(&hello, at("link")).unwrap();
    symlink("/nonexistent", at("dangling")).unwrap();
    symlink(at("loop"), at("loop")).unwrap();
    run("mkfifo", &[&at("fifo").to_string_lossy()]);
    let _socket = UnixListener::bind(at("socket")).unwrap();
    // A link to a folder, and links and FIFOs within one.
    symlink("/usr/bin", at("folder-link")).unwrap();
    for (folder, file, manifest) in [
        ("within", "link", "exec = \"link\"\n"),
        ("deep", "fifo", "exec = \"fifo\"\n"),
    ] {
        fs::create_dir(at(folder)).unwrap();
        fs::set_permissions(at(folder), Permissions::from_mode(0o755)).unwrap();
        fs::write(at(folder).join("function.toml"), manifest).unwrap();
        match file {
            "fifo" => run("mkfifo", &[&at(folder).join(file).to_string_lossy()]),
            _ => symlink(&hello, at(folder).join(file)).unwrap(),
        }
    }
    fs::create_dir(at("manifest")).unwrap();
    fs::set_permissions(at("manifest"), Permissions::from_mode(0o755)).unwrap();
    fs::copy(&hello, at("manifest").join("manifest")).unwrap();
    run(
        "mkfifo",
        &[&at("manifest").join("function.toml").to_string_lossy()],
    );
    let mut names = vec![
        "link",
        "dangling",
        "loop",
        "fifo",
        "socket",
        "folder-link",
        "within",
        "deep",
        "manifest",
    ];
    if is_root() {
        run("mknod", &[&at("device").to_string_lossy(), "c", "1", "3"]);
        // A link that anybody could make to a file that isn't theirs, on file systems that let them.
        let theirs = host.path().join("theirs");
        fs::copy(&hello, &theirs).unwrap();
        chown(&theirs, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
        fs::hard_link(&theirs, at("hard-link")).unwrap();
        names.extend(["device", "hard-link"]);
    }
    for name in &names {
        refused(&host, name);
        assert_eq!(host.get(&format!("/{name}/")).status(), 404, "{name}");
    }
    // Nothing hung: the next one is deployed as ever.
    host.deploy("plain", "hello", "");
    host.get_ok("/plain/");
    (
        format!("refused with a reason, no hang: {}", names.join(", ")),
        "a plain copy is served".to_owned(),
    )
}

fn modes() -> (String, String) {
    let host = Host::start();
    let mut told = Vec::new();
    for (name, mode) in [
        ("suid", 0o4755),
        ("sgid", 0o2755),
        ("group", 0o775),
        ("world", 0o757),
        ("closed", 0o644),
    ] {
        // As one step: a file that is fine for a moment would go live.
        let staged = host.path().join("staged");
        fs::copy(example("hello"), &staged).unwrap();
        fs::set_permissions(&staged, Permissions::from_mode(mode)).unwrap();
        fs::rename(&staged, host.function_path(name)).unwrap();
        refused(&host, name);
        told.push(name);
    }
    for (name, mode) in [("open-folder", 0o777), ("group-folder", 0o775)] {
        let staged = host.path().join("staged");
        fs::create_dir(&staged).unwrap();
        fs::copy(example("hello"), staged.join(name)).unwrap();
        fs::set_permissions(&staged, Permissions::from_mode(mode)).unwrap();
        fs::rename(&staged, host.function_path(name)).unwrap();
        refused(&host, name);
        told.push(name);
    }
    let staged = host.path().join("staged");
    fs::create_dir(&staged).unwrap();
    fs::set_permissions(&staged, Permissions::from_mode(0o755)).unwrap();
    fs::copy(example("hello"), staged.join("manifest")).unwrap();
    fs::write(staged.join("function.toml"), "").unwrap();
    fs::set_permissions(staged.join("function.toml"), Permissions::from_mode(0o666)).unwrap();
    fs::rename(&staged, host.function_path("manifest")).unwrap();
    refused(&host, "manifest");
    if is_root() {
        fs::copy(example("hello"), &staged).unwrap();
        fs::set_permissions(&staged, Permissions::from_mode(0o755)).unwrap();
        chown(&staged, Some(SOMEBODY), Some(SOMEBODY)).unwrap();
        fs::rename(&staged, host.function_path("stranger")).unwrap();
        refused(&host, "stranger");
        told.push("stranger");
    }
    for name in ["suid", "world", "closed"] {
        fs::set_permissions(host.function_path(name), Permissions::from_mode(0o755)).unwrap();
        host.wait_live(name);
        host.get_ok(&format!("/{name}/"));
    }
    (
        format!("refused with a reason: {}, manifest", told.join(", ")),
        "the same files with mode 0755 are served".to_owned(),
    )
}

fn names() -> (String, String) {
    let host = Host::start();
    let long = "a".repeat(64);
    let longest = "b".repeat(255);
    let wrong = [
        "Upper",
        "under_score",
        "ünïcode",
        "two words",
        "-dash",
        "dot.ted",
        "new\nline",
        "\u{202e}evil",
        "a'b\"c",
        &long,
        &longest,
    ];
    for name in wrong {
        let staged = host.path().join("staged");
        fs::copy(example("hello"), &staged).unwrap();
        fs::set_permissions(&staged, Permissions::from_mode(0o755)).unwrap();
        fs::rename(&staged, host.function_path(name)).unwrap();
    }
    eventually("all to be refused", || {
        let rows = host.ls();
        let refused = rows.iter().filter(|row| row.status == "refused").count();
        let live = rows.iter().filter(|row| row.status == "accepted").count();
        if refused == wrong.len() && live == 0 {
            Ok(())
        } else {
            Err(format!("{rows:?}"))
        }
    });
    for target in [
        "/../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/Upper/",
        "/upper/",
        "/a%00b/",
        "/..%2f..%2f/",
        "/.hidden/",
        "/%c3%bcn/",
    ] {
        let status = host.get(target).status();
        assert!([400, 404].contains(&status), "{target}: {status}");
    }
    assert!([400, 404, 414, 431].contains(&host.get(&format!("/{}/", "x".repeat(5000))).status()));
    for name in ["../../../etc/passwd", "../staged", "/etc/passwd", "Upper", ""] {
        let hello = example("hello").to_string_lossy().into_owned();
        for command in [vec!["logs", name], vec!["rm", name], vec!["run", name, &hello]] {
            let output = host.funcd(&command).output().unwrap();
            assert!(!output.status.success(), "{command:?}: {output:?}");
            assert!(
                !String::from_utf8_lossy(&output.stdout).contains("root:"),
                "{output:?}"
            );
        }
    }
    for (n, manifest) in [
        "exec = \"../meanwhile\"\n",
        "exec = \"/bin/sh\"\n",
        "exec = \"..\"\n",
        "[sandbox]\nread = [\"/usr/../etc\"]\n",
        "[sandbox]\nread = [\"/usrlocal\"]\n",
        "[sandbox]\nread = [\"/\"]\n",
        "[sandbox]\nread = [\"usr\"]\n",
        "[sandbox]\nwrite = [\"/usr/share\"]\n",
        "[sandbox]\nwrite = [\"/etc\"]\n",
    ]
    .into_iter()
    .enumerate()
    {
        let function = format!("path-{n}");
        host.drop_folder(&function, &example("hello"), manifest);
        eventually(&format!("{manifest:?} to be refused"), || {
            match host.get(&format!("/{function}/")).status() {
                200 => panic!("{manifest:?} is served"),
                _ => match host.entry(&function) {
                    // By its manifest, or by the launcher when it should start.
                    Some(entry) if entry.status == "refused" || entry.state.as_deref() == Some("failed") => {
                        Ok(())
                    }
                    other => Err(format!("{other:?}")),
                },
            }
        });
    }
    for name in ["a-1".to_owned(), "0".to_owned(), "c".repeat(63)] {
        host.deploy(&name, "hello", "");
        host.get_ok(&format!("/{name}/"));
    }
    (
        "refused as files; 400 or 404 in requests; errors in commands".to_owned(),
        "names by the rule are served, 63 bytes too".to_owned(),
    )
}

fn half_uploads() -> (String, String) {
    let host = Host::start();
    let whole = fs::read(example("hello")).unwrap();
    let (first, second) = whole.split_at(whole.len() / 2);
    let writer = |name: &str| {
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(host.function_path(name))
            .unwrap();
        file.set_permissions(Permissions::from_mode(0o755)).unwrap();
        file
    };
    let mut open = writer("open");
    open.write_all(first).unwrap();
    writer("closed").write_all(first).unwrap();
    writer("named.part").write_all(&whole).unwrap();
    refused(&host, "closed");
    // Long after the other one was looked at.
    host.deploy("meanwhile", "hello", "");
    for name in ["open", "named.part", "named"] {
        assert!(
            host.entry(name).is_none_or(|entry| entry.status != "accepted"),
            "{name}: {:?}",
            host.entry(name)
        );
    }
    for name in ["open", "closed", "named"] {
        assert_eq!(host.get(&format!("/{name}/")).status(), 404, "{name}");
    }
    open.write_all(second).unwrap();
    drop(open);
    writer("closed").write_all(second).unwrap();
    fs::rename(host.function_path("named.part"), host.function_path("named")).unwrap();
    for name in ["open", "closed", "named"] {
        host.wait_live(name);
        host.get_ok(&format!("/{name}/"));
    }
    (
        "none goes live: settling, or refused as truncated".to_owned(),
        "each is served once it is whole".to_owned(),
    )
}
