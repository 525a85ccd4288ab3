//! Which files make an installation, and where each belongs. Pure: reads and writes nothing.

use std::path::{Path, PathBuf};

use clap_complete::Shell;

use crate::cli::docs;

const SERVICE: &str = include_str!("../../../../systemd/funcd.service");
const SOCKET: &str = include_str!("../../../../systemd/funcd.socket");
const SLICE: &str = include_str!("../../../../systemd/funcd.slice");
const SYSUSERS: &str = include_str!("../../../../systemd/funcd.sysusers");
const TMPFILES: &str = include_str!("../../../../systemd/funcd.tmpfiles");
const PRESET: &str = include_str!("../../../../systemd/funcd.preset");
const CONFIG: &str = include_str!("../../../../systemd/funcd.toml");

/// The operator's own folder.
pub(super) const ETC: &str = "/etc/funcd";
/// What functions keep, and what funcd keeps of them.
pub(super) const STATE: &str = "/var/lib/funcd";
/// The executable as the unit files of the sources name it.
const USUAL: &str = "/usr/bin/funcd";

/// A file of an installation.
#[derive(Debug)]
pub(super) struct File {
    /// Where, from the root of the system.
    pub(super) path: PathBuf,
    /// Its permissions.
    pub(super) mode: u32,
    /// What is in it; `None`: this program.
    pub(super) content: Option<Vec<u8>>,
    /// Whether it is the operator's from then on: never replaced once it is there, and left when funcd goes.
    pub(super) is_theirs: bool,
}

/// What is to be there.
#[derive(Debug)]
pub(super) struct Layout {
    /// The executable first: it takes most room, and on a disk that has none left nothing else is touched.
    pub(super) files: Vec<File>,
    /// Folders, each with its parent before it; all 0755.
    pub(super) folders: Vec<PathBuf>,
}

impl Layout {
    /// All that belongs below `prefix`, and what systemd needs if it is `with_systemd`. Folders of data are not a package's:
    /// its script makes them.
    pub(super) fn new(prefix: &Path, with_systemd: bool, for_package: bool) -> Layout {
        let mut files = vec![File {
            path: executable(prefix),
            mode: 0o755,
            content: None,
            is_theirs: false,
        }];
        let mut text = |path: PathBuf, content: Vec<u8>, is_theirs| {
            files.push(File {
                path,
                mode: 0o644,
                content: Some(content),
                is_theirs,
            });
        };
        if with_systemd {
            let program = executable(prefix);
            let service = SERVICE.replace(USUAL, &program.display().to_string());
            let lib = lib(prefix);
            for (path, content) in [
                ("systemd/system/funcd.service", service.as_str()),
                ("systemd/system/funcd.socket", SOCKET),
                ("systemd/system/funcd.slice", SLICE),
                ("systemd/system-preset/90-funcd.preset", PRESET),
                ("sysusers.d/funcd.conf", SYSUSERS),
                ("tmpfiles.d/funcd.conf", TMPFILES),
            ] {
                text(lib.join(path), content.as_bytes().to_vec(), false);
            }
        }
        let share = prefix.join("share");
        for (path, shell) in [
            ("bash-completion/completions/funcd", Shell::Bash),
            ("zsh/site-functions/_funcd", Shell::Zsh),
            ("fish/vendor_completions.d/funcd.fish", Shell::Fish),
        ] {
            text(share.join(path), docs::completion(shell), false);
        }
        for (name, page) in docs::pages() {
            text(share.join("man/man1").join(name), page, false);
        }
        text(
            Path::new(ETC).join("funcd.toml"),
            CONFIG.as_bytes().to_vec(),
            true,
        );
        let mut folders = vec![ETC.into(), Path::new(ETC).join("conf.d")];
        if !for_package {
            folders.push(STATE.into());
            folders.extend(["functions", "volumes"].map(|name| Path::new(STATE).join(name)));
        }
        Layout { files, folders }
    }
}

/// Where systemd looks, whatever the prefix; never /etc, which is the operator's.
fn lib(prefix: &Path) -> &'static Path {
    match prefix == Path::new("/usr") {
        true => Path::new("/usr/lib"),
        false => Path::new("/usr/local/lib"),
    }
}

/// Where the unit goes that starts it.
pub(super) fn service(prefix: &Path) -> PathBuf {
    lib(prefix).join("systemd/system/funcd.service")
}

/// Where the executable goes.
pub(super) fn executable(prefix: &Path) -> PathBuf {
    prefix.join("bin/funcd")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(prefix: &str, with_systemd: bool) -> Vec<String> {
        let layout = Layout::new(Path::new(prefix), with_systemd, false);
        layout
            .files
            .iter()
            .map(|file| file.path.display().to_string())
            .collect()
    }

    #[test]
    fn units_are_where_systemd_looks_and_name_the_executable() {
        for (prefix, unit) in [
            ("/usr", "/usr/lib/systemd/system/funcd.service"),
            ("/usr/local", "/usr/local/lib/systemd/system/funcd.service"),
            ("/opt/funcd", "/usr/local/lib/systemd/system/funcd.service"),
        ] {
            let layout = Layout::new(Path::new(prefix), true, false);
            let file = layout
                .files
                .iter()
                .find(|file| file.path == Path::new(unit))
                .unwrap();
            let content = String::from_utf8(file.content.clone().unwrap()).unwrap();
            assert!(
                content.contains(&format!("\nExecStart={prefix}/bin/funcd serve\n")),
                "{content}"
            );
            assert!(
                prefix == "/usr" || !content.contains("/usr/bin/funcd"),
                "{content}"
            );
        }
    }

    #[test]
    fn without_systemd_there_is_no_file_of_it() {
        let of_systemd = |path: &String| {
            path.contains("systemd") || path.contains("sysusers") || path.contains("tmpfiles")
        };
        assert!(paths("/usr/local", true).iter().any(of_systemd));
        let without = paths("/usr/local", false);
        assert!(!without.iter().any(of_systemd), "{without:?}");
        assert!(without.contains(&"/usr/local/bin/funcd".to_owned()));
    }

    #[test]
    fn only_the_operators_files_are_in_etc() {
        for file in Layout::new(Path::new("/usr"), true, false).files {
            assert_eq!(
                file.path.starts_with("/etc"),
                file.is_theirs,
                "{}",
                file.path.display()
            );
        }
    }

    #[test]
    fn the_configuration_that_is_installed_is_valid_and_changes_nothing() {
        // With and without its comments: what it says of defaults must be keys.
        let uncommented: String = CONFIG
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if !key.starts_with(' ') => format!("{key}\n"),
                _ => String::new(),
            })
            .collect();
        for (text, keys) in [(CONFIG.to_owned(), 0), (uncommented, 4)] {
            let table: toml::Table = text.parse().unwrap();
            assert_eq!(table.len(), keys, "{text}");
        }
    }
}
