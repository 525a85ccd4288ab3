//! What of the system functions may see at all: the ceiling over what the supervisor works out for each. Only names; reads
//! nothing but whether they are there.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Loaders, libraries, interpreters and programs, and the few files in /etc that they can't do without (library cache,
/// alternatives, certificates, zone). Nothing in here is a secret of the host.
const PATHS: [&str; 13] = [
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/bin",
    "/sbin",
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/certs",
    "/etc/localtime",
];

/// Beside them: `/etc/java-17-openjdk` and the like, without which no JVM of Debian does more than start.
const PREFIX: &str = "/etc/java-";

/// What existed of it when this was called first: a process that confines itself asks before, as it can't list /etc after.
pub fn known() -> &'static [PathBuf] {
    static KNOWN: OnceLock<Vec<PathBuf>> = OnceLock::new();
    KNOWN.get_or_init(paths)
}

/// What exists of it on this host.
pub fn paths() -> Vec<PathBuf> {
    let usable = |path: &PathBuf| {
        // At the top a symlink is made again in the sandbox (`/lib -> usr/lib`); deeper ones are not followed.
        let top = path.parent() == Some(Path::new("/"));
        path.canonicalize().is_ok_and(|real| top || real == *path)
    };
    let listed = PATHS.iter().map(PathBuf::from);
    let named = std::fs::read_dir("/etc").into_iter().flatten().flatten();
    let named = named.map(|entry| entry.path()).filter(|path| is_prefixed(path));
    listed.chain(named).filter(usable).collect()
}

/// Whether a path is part of it, judged by its name alone.
pub fn holds(path: &Path) -> bool {
    PATHS.iter().any(|part| path.starts_with(part)) || is_prefixed(path)
}

fn is_prefixed(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().starts_with(PREFIX.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_of_it_dangles() {
        let paths = paths();
        assert!(paths.contains(&PathBuf::from("/usr")));
        assert!(paths.iter().all(|path| path.exists() && holds(path)));
    }

    #[test]
    fn what_is_not_in_it() {
        for path in [
            "/etc",
            "/etc/shadow",
            "/etc/javax",
            "/usrx",
            "/",
            "/etc/ssl",
            "/etc/ssl/private",
            "/var/lib",
        ] {
            assert!(!holds(Path::new(path)), "{path}");
        }
        for path in [
            "/usr/lib/x",
            "/etc/java-17-openjdk/security",
            "/etc/ssl/certs/x.pem",
        ] {
            assert!(holds(Path::new(path)), "{path}");
        }
    }
}
