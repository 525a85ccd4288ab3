//! Which peers are installed. Never installs one: says which Debian package has it.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

/// A program to compare with, as Debian packages it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    program: &'static str,
    package: &'static str,
}

/// The peer of `warm`, and the one of `overload` that refuses.
pub(crate) const NGINX: Peer = Peer {
    program: "nginx",
    package: "nginx-light",
};
/// The peer of `overload` that queues.
pub(crate) const HAPROXY: Peer = Peer {
    program: "haproxy",
    package: "haproxy",
};
/// The peer of `cold` and `spawn` that confines.
pub(crate) const BUBBLEWRAP: Peer = Peer {
    program: "bwrap",
    package: "bubblewrap",
};
/// The cold peer that does not.
pub(crate) const SOCKET_ACTIVATE: Peer = Peer {
    program: "systemd-socket-activate",
    package: "systemd",
};

/// The container runtime that starts fastest.
pub(crate) const CRUN: Peer = Peer {
    program: "crun",
    package: "crun",
};

impl Peer {
    /// Its path, or the note that names the package.
    pub(crate) fn find(self) -> Result<PathBuf, String> {
        self.find_in(env::var_os("PATH").unwrap_or_default())
            .ok_or_else(|| {
                let Peer { program, package } = self;
                format!("{program} is not installed, so that peer is missing: apt-get install {package}")
            })
    }

    fn find_in(self, path: OsString) -> Option<PathBuf> {
        // Debian keeps servers where the PATH of an ordinary user does not look.
        env::split_paths(&path)
            .chain([PathBuf::from("/usr/sbin")])
            .map(|folder| folder.join(self.program))
            .find(|candidate| candidate.is_file())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_peer_is_named_with_its_package() {
        let peer = Peer {
            program: "no-such-program",
            package: "no-such-package",
        };
        let note = peer.find().unwrap_err();
        assert!(note.ends_with("apt-get install no-such-package"), "{note}");
    }

    #[test]
    fn a_peer_is_found_on_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join(BUBBLEWRAP.program);
        std::fs::write(&program, "").unwrap();
        assert_eq!(BUBBLEWRAP.find_in(folder.path().into()), Some(program));
    }
}
