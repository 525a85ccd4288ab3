//! The launcher's folders: makes them, locks the run folder, and clears what a crashed predecessor left. Never removes
//! anything outside of the run folder.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::{Host, LauncherError};

/// The folders of a running launcher.
#[derive(Debug)]
pub(super) struct Folders {
    /// The run folder, without symlinks.
    pub(super) run: PathBuf,
    /// Where instances' sockets are bound: `run/i`.
    pub(super) sockets: OwnedFd,
    /// An empty directory to build roots on: `run/root`.
    pub(super) staging: PathBuf,
    /// The functions folder.
    pub(super) functions: OwnedFd,
    /// `state/logs`.
    pub(super) logs: OwnedFd,
    /// `state/store`.
    pub(super) store: PathBuf,
    /// `state/uids`.
    pub(super) uids: PathBuf,
    /// Whether only root can change what is stored.
    pub(super) store_owned_by_root: bool,
    /// Whether a launcher before this one ended without clearing up.
    pub(super) crashed: bool,
    /// Held as long as this launcher lives.
    _lock: Flock<File>,
}

/// Makes, locks and clears the folders.
///
/// # Errors
/// The folder that is not usable, or another launcher that uses it.
pub(super) fn prepare(host: &Host) -> Result<Folders, LauncherError> {
    let functions = open_folder(&host.functions, true)?;
    make(&host.run, 0o755, None)?;
    let run = host
        .run
        .canonicalize()
        .map_err(|e| folder(&host.run, "resolve", e))?;
    let lock = lock(&run)?;
    make(&host.state, 0o755, None)?;
    let store = host.state.join("store");
    make(&store, 0o700, None)?;
    let logs = host.state.join("logs");
    make(&logs, 0o750, host.supervisor)?;
    let sockets = run.join("i");
    // The supervisor's group may pass, and each socket is for the supervisor's user alone.
    make(&sockets, 0o710, host.supervisor.map(|(_, gid)| (0, gid)))?;
    let staging = run.join("root");
    make(&staging, 0o755, None)?;
    clear_sockets(&sockets)?;
    Ok(Folders {
        sockets: open_folder(&sockets, false)?,
        staging,
        functions,
        logs: open_folder(&logs, true)?,
        store_owned_by_root: is_roots_own(&host.state) && is_roots_own(&store),
        store,
        uids: host.state.join("uids"),
        crashed: run.join("listen").exists(),
        run,
        _lock: lock,
    })
}

/// Whether a folder belongs to root and nobody else can write to it.
pub(super) fn is_roots_own(dir: &Path) -> bool {
    fs::metadata(dir).is_ok_and(|dir| dir.is_dir() && dir.uid() == 0 && dir.mode() & 0o022 == 0)
}

impl Folders {
    /// The path of an instance's socket, short enough for any run folder: `sun_path` has 108 bytes.
    pub(super) fn socket(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.sockets.as_raw_fd()))
    }

    /// Writes a file for tests and the command line to read.
    ///
    /// # Errors
    /// When it can't be written.
    pub(super) fn tell(&self, name: &str, text: &str) -> Result<(), LauncherError> {
        let path = self.run.join(name);
        let write = || -> io::Result<()> {
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
        };
        write().map_err(|e| folder(&path, "write", e))
    }

    /// Removes what only a running launcher has. The lock's file stays: removing it would let two launchers lock two files.
    pub(super) fn clear(&self) {
        for name in ["listen", "admin-listen"] {
            let _ = fs::remove_file(self.run.join(name));
        }
        let _ = clear_sockets(&self.run.join("i"));
    }
}

fn folder(path: &Path, what: &'static str, source: io::Error) -> LauncherError {
    LauncherError::Folder {
        path: path.to_path_buf(),
        what,
        source,
        fix: "make it, or make it usable for the user that funcd runs as, or choose another folder",
    }
}

fn make(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> Result<(), LauncherError> {
    let existed = path.is_dir();
    fs::create_dir_all(path).map_err(|e| folder(path, "make", e))?;
    let meta = fs::metadata(path).map_err(|e| folder(path, "look at", e))?;
    let me = nix::unistd::geteuid().as_raw();
    // A folder that was there, with modes of its own, is the operator's; those below it are ours to set.
    if existed && owner.is_none() && mode == 0o755 {
        return Ok(());
    }
    if meta.uid() != me && owner.is_none_or(|(uid, _)| uid != meta.uid()) {
        let theirs = io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("it belongs to uid {}", meta.uid()),
        );
        return Err(folder(path, "use", theirs));
    }
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).map_err(|e| folder(path, "give away", e))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|e| folder(path, "set the mode of", e))
}

fn open_folder(path: &Path, readable: bool) -> Result<OwnedFd, LauncherError> {
    let flags = libc::O_DIRECTORY | if readable { 0 } else { libc::O_PATH };
    let open = OpenOptions::new().read(true).custom_flags(flags).open(path);
    open.map(OwnedFd::from).map_err(|e| folder(path, "open", e))
}

fn lock(run: &Path) -> Result<Flock<File>, LauncherError> {
    let path = run.join("lock");
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)
        .map_err(|e| folder(&path, "open", e))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == nix::errno::Errno::EWOULDBLOCK {
            LauncherError::Running {
                path: run.to_path_buf(),
            }
        } else {
            folder(&path, "lock", errno.into())
        }
    })
}

fn clear_sockets(dir: &Path) -> Result<(), LauncherError> {
    let clear = || -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    };
    clear().map_err(|e| folder(dir, "empty", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_launcher_per_run_folder() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        let said = lock(dir.path()).unwrap_err().to_string();
        assert!(said.contains("another funcd runs"), "{said}");
        drop(held);
        lock(dir.path()).unwrap();
    }

    #[test]
    fn a_folder_that_others_can_write_is_not_roots_own() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!is_roots_own(dir.path()));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(is_roots_own(dir.path()), nix::unistd::geteuid().is_root());
    }
}
