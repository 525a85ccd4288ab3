//! What is known of runtimes: where their own libraries lie, by the name of the interpreter. Only names.
//!
//! A runtime that is not in the table, and every shell, sees the whole system: what they run is not written anywhere.

use std::path::{Path, PathBuf};

use funcd_sandbox::system;

/// A runtime.
#[derive(Debug)]
pub(super) struct Runtime {
    /// For people.
    pub(super) name: &'static str,
    /// Its interpreter's file is called so, with a version behind it or none.
    interpreter: &'static str,
    /// Where its libraries lie. A `*` at the end stands for any rest of the name (`python3.11`); one in the middle, as a
    /// whole part, for any folder.
    paths: &'static [&'static str],
    /// Whether the folder above the interpreter's `bin` is its own.
    has_home: bool,
}

/// Debian's places, which others share where they have them at all.
const RUNTIMES: [Runtime; 5] = [
    Runtime {
        name: "Python",
        interpreter: "python",
        paths: &["/usr/lib/python3*", "/usr/local/lib/python3*"],
        has_home: false,
    },
    Runtime {
        name: "Node",
        interpreter: "node",
        paths: &[
            "/usr/share/nodejs",
            "/usr/lib/nodejs",
            "/usr/lib/node_modules",
            "/usr/share/node_modules",
            "/usr/local/lib/node_modules",
        ],
        has_home: false,
    },
    Runtime {
        name: "Java",
        interpreter: "java",
        paths: &["/usr/share/java"],
        has_home: true,
    },
    Runtime {
        name: "Perl",
        interpreter: "perl",
        paths: &[
            "/usr/share/perl*",
            "/usr/lib/*/perl*",
            "/usr/local/share/perl*",
            "/usr/local/lib/*/perl*",
        ],
        has_home: false,
    },
    Runtime {
        name: "Ruby",
        interpreter: "ruby",
        paths: &[
            "/usr/lib/ruby",
            "/usr/share/ruby*",
            "/usr/local/lib/ruby",
            "/usr/lib/*/ruby",
        ],
        has_home: false,
    },
];

/// The runtime of an interpreter, by the name of its real file.
pub(super) fn of(file: &str) -> Option<&'static Runtime> {
    let version = |rest: &str| rest.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let fits = |runtime: &&Runtime| {
        // Debian's own name for Node.
        let file = if file == "nodejs" { "node" } else { file };
        file.strip_prefix(runtime.interpreter).is_some_and(version)
    };
    RUNTIMES.iter().find(fits)
}

impl Runtime {
    /// The folders that are there.
    pub(super) fn paths(&self, interpreter: &Path) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = self.paths.iter().flat_map(|pattern| expand(pattern)).collect();
        let bin = interpreter
            .parent()
            .filter(|folder| folder.file_name().is_some_and(|name| name == "bin"));
        if let Some(home) = bin.and_then(Path::parent)
            && self.has_home
            // `/usr` is nobody's home.
            && home.starts_with("/usr/lib")
        {
            paths.push(home.to_owned());
            // Its configuration, on Debian.
            let of_java = |path: &&PathBuf| path.as_os_str().as_encoded_bytes().starts_with(b"/etc/java-");
            paths.extend(system::known().iter().filter(of_java).cloned());
        }
        paths
    }
}

/// What is there of a pattern.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/")];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        let Some(start) = part.strip_suffix('*') else {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        };
        let below = |folder: &PathBuf| {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let names =
                entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(start.as_bytes()));
            names.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        found = found.iter().flat_map(below).collect();
    }
    found.retain(|path| path.exists());
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_by_their_files() {
        for (file, name) in [
            ("python3.11", "Python"),
            ("python3", "Python"),
            ("node", "Node"),
            ("nodejs", "Node"),
            ("node20", "Node"),
            ("java", "Java"),
            ("perl", "Perl"),
            ("perl5.36.0", "Perl"),
            ("ruby3.1", "Ruby"),
        ] {
            assert_eq!(of(file).map(|runtime| runtime.name), Some(name), "{file}");
        }
        for file in [
            "sh",
            "dash",
            "bash",
            "javac",
            "perldoc",
            "python-config",
            "busybox",
            "",
        ] {
            assert!(of(file).is_none(), "{file}");
        }
    }

    #[test]
    fn patterns() {
        assert_eq!(expand("/usr/bin"), [PathBuf::from("/usr/bin")]);
        assert_eq!(expand("/no/such*"), Vec::<PathBuf>::new());
        assert!(expand("/et*").contains(&PathBuf::from("/etc")));
    }
}
