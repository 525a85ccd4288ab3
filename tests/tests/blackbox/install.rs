//! `funcd install`, `funcd uninstall` and the package as users run them, below a folder.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use funcd_tests::artifacts;
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;
use serde_json::Value;

pub(crate) fn register(suite: &mut Suite) {
    funcd_tests::tests!(suite, "install", [
        what_install_brings_uninstall_takes_away,
        a_package_is_what_install_makes_and_always_the_same: &[Need::Root, Need::Program("dpkg-deb"), Need::Program("strip")],
    ]);
}

fn funcd(arguments: &[&str]) -> Output {
    let output = Command::new(artifacts::funcd()).args(arguments).output();
    output.expect("funcd was built")
}

fn json(arguments: &[&str]) -> Value {
    let output = funcd(arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}

/// What happened to the paths, each once.
fn done(report: &Value) -> Vec<&str> {
    let rows = report["paths"].as_array().expect("it is a list");
    let mut done: Vec<&str> = rows.iter().filter_map(|row| row["did"].as_str()).collect();
    done.sort_unstable();
    done.dedup();
    done
}

fn what_install_brings_uninstall_takes_away() {
    let folder = tempfile::tempdir().expect("a place for temporary files");
    let root = folder.path().to_str().expect("it is text");
    assert_eq!(done(&json(&["install", "--json", "--root", root])), ["made"]);
    assert_eq!(done(&json(&["install", "--json", "--root", root])), ["unchanged"]);
    let installed = folder.path().join("usr/local/bin/funcd");
    let same =
        fs::read(&installed).expect("it is there") == fs::read(artifacts::funcd()).expect("funcd was built");
    assert!(same, "it is this executable");
    let version = Command::new(&installed)
        .arg("version")
        .output()
        .expect("it can be run");
    assert!(version.status.success());
    // And it is well-formed: what would complain is the shell.
    let completions = folder
        .path()
        .join("usr/local/share/bash-completion/completions/funcd");
    let checked = Command::new("bash").arg("-n").arg(completions).status();
    assert!(checked.is_ok_and(|status| status.success()));

    fs::write(folder.path().join("etc/funcd/funcd.toml"), "workers = 3\n").expect("the folder is ours");
    assert_eq!(
        done(&json(&["install", "--json", "--root", root])),
        ["kept", "unchanged"]
    );
    assert_eq!(
        done(&json(&["uninstall", "--json", "--root", root])),
        ["kept", "removed"]
    );
    assert!(!installed.exists() && folder.path().join("etc/funcd/funcd.toml").exists());
    // Data of what is not installed may be somebody else's.
    json(&["uninstall", "--json", "--purge", "--root", root]);
    assert!(folder.path().join("etc/funcd").exists());
    json(&["install", "--json", "--root", root]);
    json(&["uninstall", "--json", "--purge", "--root", root]);
    assert!(!folder.path().join("etc/funcd").exists() && !folder.path().join("var/lib/funcd").exists());
    let refused = funcd(&["install", "--prefix", "/home/me", "--root", root]);
    assert_eq!(refused.status.code(), Some(2));
}

/// Regular files below a folder, with mode and content.
fn files(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("it is a folder").flatten() {
            let (path, kind) = (entry.path(), entry.metadata().expect("it is there"));
            if kind.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).expect("it is below").to_owned();
                all.insert(
                    name,
                    (
                        kind.permissions().mode() & 0o7777,
                        fs::read(&path).expect("it is ours"),
                    ),
                );
            }
        }
    }
    all
}

fn run(command: &mut Command) {
    let output = command.output().expect("it is installed");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn a_package_is_what_install_makes_and_always_the_same() {
    let folder = tempfile::tempdir().expect("a place for temporary files");
    let at = |name: &str| folder.path().join(name);
    // Without what only debuggers read, which is most of it.
    run(Command::new("strip")
        .arg(artifacts::funcd())
        .arg("-o")
        .arg(at("funcd")));
    let package = |out: &str| {
        let mut xtask = artifacts::cargo();
        xtask.args([
            "run",
            "--quiet",
            "-p",
            "xtask",
            "--",
            "package",
            "--compress",
            "none",
            "--binary",
        ]);
        xtask
            .arg(at("funcd"))
            .arg("--out")
            .arg(at(out))
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        run(xtask.env("SOURCE_DATE_EPOCH", "1700000000"));
        let mut there = fs::read_dir(at(out)).expect("it was made").flatten();
        let deb = there.next().expect("a package").path();
        assert!(there.next().is_none(), "nothing but the package");
        deb
    };
    let (one, two) = (package("one"), package("two"));
    assert!(
        fs::read(&one).expect("it is there") == fs::read(&two).expect("it is there"),
        "the same bytes"
    );

    run(Command::new("dpkg-deb").arg("-x").arg(&one).arg(at("unpacked")));
    run(Command::new(at("funcd"))
        .args(["install", "--prefix", "/usr", "--root"])
        .arg({
            fs::create_dir(at("installed")).expect("the folder is ours");
            at("installed")
        }));
    let (mut unpacked, installed) = (files(&at("unpacked")), files(&at("installed")));
    for (path, file) in &installed {
        // Debian's zsh looks elsewhere; its man pages are compressed.
        let text = path
            .to_string_lossy()
            .replace("zsh/site-functions", "zsh/vendor-completions");
        if text.contains("/man/") {
            assert!(
                unpacked.remove(Path::new(&format!("{text}.gz"))).is_some(),
                "{text}"
            );
        } else {
            assert!(unpacked.remove(Path::new(&text)).as_ref() == Some(file), "{text}");
        }
    }
    let others: Vec<_> = unpacked.keys().collect();
    assert!(
        others.iter().all(|path| path.starts_with("usr/share/doc/funcd")),
        "{others:?}"
    );
    run(Command::new("dpkg-deb").arg("-e").arg(&one).arg(at("control")));
    for script in ["postinst", "prerm", "postrm"] {
        run(Command::new("sh").arg("-n").arg(at("control").join(script)));
    }
    assert_eq!(
        fs::read_to_string(at("control/conffiles")).expect("it is there"),
        "/etc/funcd/funcd.toml\n"
    );
}
