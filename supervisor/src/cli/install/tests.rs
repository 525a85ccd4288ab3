//! Installations below a folder: what is there afterwards, to the byte.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;

const PROGRAM: &[u8] = b"\x7fELF this program";

fn place(root: &Path) -> Place {
    Place {
        prefix: "/usr/local".into(),
        root: root.to_owned(),
        dry_run: false,
    }
}

fn command(root: &Path) -> Install {
    Install {
        place: place(root),
        for_package: false,
    }
}

fn uninstallation(root: &Path, purge: bool) -> Uninstall {
    Uninstall {
        place: place(root),
        purge,
    }
}

/// Everything below a folder: path, mode and content; of folders the mode alone.
fn tree(root: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    fn walk(root: &Path, at: &Path, all: &mut BTreeMap<String, (u32, Vec<u8>)>) {
        for entry in fs::read_dir(at).unwrap().map(Result::unwrap) {
            let (path, meta) = (entry.path(), entry.metadata().unwrap());
            let content = if meta.is_dir() {
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            let name = path.strip_prefix(root).unwrap().display().to_string();
            all.insert(name, (meta.permissions().mode() & 0o7777, content));
            if meta.is_dir() {
                walk(root, &path, all);
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(root, root, &mut all);
    all
}

fn all_did(report: &Report, did: Did) -> bool {
    report.paths.iter().all(|row| row.did == did)
}

#[test]
fn installing_twice_is_installing_once() {
    let root = tempfile::tempdir().unwrap();
    let first = put(&command(root.path()), PROGRAM, true).unwrap();
    assert!(all_did(&first, Did::Made), "{first:?}");
    let after_one = tree(root.path());
    assert_eq!(after_one["usr/local/bin/funcd"], (0o755, PROGRAM.to_vec()));
    for path in [
        "usr/local/lib/systemd/system/funcd.service",
        "usr/local/share/man/man1/funcd-serve.1",
        "etc/funcd/funcd.toml",
    ] {
        assert_eq!(after_one[path].0, 0o644, "{path}");
    }
    assert_eq!(after_one["var/lib/funcd/functions"].0, 0o755);
    let second = put(&command(root.path()), PROGRAM, true).unwrap();
    assert!(all_did(&second, Did::Unchanged), "{second:?}");
    assert_eq!(tree(root.path()), after_one);
}

#[test]
fn what_changed_is_replaced_but_for_what_operators_wrote() {
    let root = tempfile::tempdir().unwrap();
    put(&command(root.path()), b"an older one", true).unwrap();
    let config = root.path().join("etc/funcd/funcd.toml");
    fs::write(&config, "workers = 3\n").unwrap();
    let unit = root.path().join("usr/local/lib/systemd/system/funcd.slice");
    fs::set_permissions(&unit, fs::Permissions::from_mode(0o600)).unwrap();
    let report = put(&command(root.path()), PROGRAM, true).unwrap();
    let did = |name: &str| {
        report
            .paths
            .iter()
            .find(|row| row.path.ends_with(name))
            .unwrap()
            .did
    };
    assert_eq!(
        (did("bin/funcd"), did("funcd.slice")),
        (Did::Replaced, Did::Replaced)
    );
    assert_eq!(
        (did("funcd.toml"), did("funcd.service")),
        (Did::Kept, Did::Unchanged)
    );
    assert_eq!(fs::read_to_string(config).unwrap(), "workers = 3\n");
    assert_eq!(tree(root.path())["usr/local/bin/funcd"].1, PROGRAM);
}

#[test]
fn uninstalling_keeps_data_and_purging_keeps_nothing() {
    let root = tempfile::tempdir().unwrap();
    put(&command(root.path()), PROGRAM, true).unwrap();
    let function = root.path().join("var/lib/funcd/functions/hello");
    fs::write(&function, "precious").unwrap();
    let report = take(&uninstallation(root.path(), false), false).unwrap();
    assert!(report.paths.iter().any(|row| row.did == Did::Kept));
    let files = |root: &Path| -> Vec<String> {
        tree(root)
            .into_keys()
            .filter(|path| root.join(path).is_file())
            .collect()
    };
    assert_eq!(
        files(root.path()),
        ["etc/funcd/funcd.toml", "var/lib/funcd/functions/hello"]
    );
    // Again: there is nothing to do, and that is no error.
    let again = take(&uninstallation(root.path(), false), false).unwrap();
    assert!(again.paths.is_empty() && again.notes.len() == 1, "{again:?}");
    // Nor for data of one that is not there: it may be another one's, or a package's.
    take(&uninstallation(root.path(), true), false).unwrap();
    assert!(function.exists());
    put(&command(root.path()), PROGRAM, true).unwrap();
    take(&uninstallation(root.path(), true), false).unwrap();
    assert_eq!(files(root.path()), [] as [&str; 0]);
    assert!(!root.path().join("var/lib/funcd").exists());
}

#[test]
fn what_another_one_installed_stays() {
    let root = tempfile::tempdir().unwrap();
    put(&command(root.path()), PROGRAM, true).unwrap();
    let mut other = command(root.path());
    other.place.prefix = "/opt/other".into();
    put(&other, PROGRAM, true).unwrap();
    // The unit starts the other one now.
    let unit = root.path().join("usr/local/lib/systemd/system/funcd.service");
    take(&uninstallation(root.path(), false), false).unwrap();
    assert!(unit.exists() && !root.path().join("usr/local/bin/funcd").exists());
    let mut uninstallation = uninstallation(root.path(), false);
    uninstallation.place.prefix = "/opt/other".into();
    take(&uninstallation, false).unwrap();
    assert!(!unit.exists());
    // A package is dpkg's to remove.
    let mut packaged = command(root.path());
    packaged.place.prefix = "/usr".into();
    put(&packaged, PROGRAM, true).unwrap();
    let list = root.path().join("var/lib/dpkg/info/funcd.list");
    fs::create_dir_all(list.parent().unwrap()).unwrap();
    fs::write(list, "/usr/bin/funcd\n").unwrap();
    uninstallation.place.prefix = "/usr".into();
    assert!(take(&uninstallation, false).is_err());
    assert!(root.path().join("usr/bin/funcd").exists());
}

#[test]
fn a_dry_run_tells_the_same_and_does_nothing() {
    let root = tempfile::tempdir().unwrap();
    let mut dry = command(root.path());
    dry.place.dry_run = true;
    let told = put(&dry, PROGRAM, true).unwrap();
    assert!(tree(root.path()).is_empty());
    let done = put(&command(root.path()), PROGRAM, true).unwrap();
    let rows = |report: &Report| -> Vec<(PathBuf, Did)> {
        report
            .paths
            .iter()
            .map(|row| (row.path.clone(), row.did))
            .collect()
    };
    assert_eq!(rows(&told), rows(&done));
    let before = tree(root.path());
    let mut dry = uninstallation(root.path(), true);
    dry.place.dry_run = true;
    assert!(take(&dry, false).unwrap().paths.len() > 10);
    assert_eq!(tree(root.path()), before);
}

#[test]
fn what_can_not_be_written_leaves_what_was_there() {
    let root = tempfile::tempdir().unwrap();
    put(&command(root.path()), b"an older one", true).unwrap();
    let before = tree(root.path());
    // A folder in the place of what is written first, which also stops root.
    let staged = root.path().join("usr/local/bin/.funcd.funcd-new");
    fs::create_dir(&staged).unwrap();
    let refused = put(&command(root.path()), PROGRAM, true).unwrap_err();
    assert!(
        refused.message.contains("bin/funcd; what was there stays"),
        "{refused}"
    );
    fs::remove_dir(&staged).unwrap();
    assert_eq!(tree(root.path()), before);
}

#[test]
fn a_full_disk_is_named_with_what_to_do() {
    for (kind, code, words) in [
        (ErrorKind::StorageFull, Code::Failure, "make room"),
        (ErrorKind::ReadOnlyFilesystem, Code::Failure, "another --prefix"),
        (ErrorKind::PermissionDenied, Code::Permission, "as root"),
    ] {
        let failure = failed("write", Path::new("/usr/local/bin/funcd"), &kind.into());
        assert_eq!(failure.code, code);
        assert!(failure.message.contains(words), "{failure}");
    }
}

#[test]
fn places_that_can_not_work_are_refused() {
    let root = tempfile::tempdir().unwrap();
    for (prefix, words) in [("opt", "absolute"), ("/home/me", "sees nothing below /home")] {
        let mut command = command(root.path());
        command.place.prefix = prefix.into();
        let refused = put(&command, PROGRAM, true).unwrap_err();
        assert_eq!(refused.code, Code::Usage);
        assert!(refused.message.contains(words), "{refused}");
    }
    let refused = put(&command(&root.path().join("nowhere")), PROGRAM, true).unwrap_err();
    assert!(refused.message.contains("no such folder"), "{refused}");
    assert!(tree(root.path()).is_empty());
}
