//! The launcher's folders: makes them, locks the run folder, and clears what a crashed predecessor left. Never removes
//! anything outside of the run folder.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

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
    locks: [Lock; 2],
}

/// A lock on a folder, held for as long as its file is open in a launcher.
#[derive(Debug)]
enum Lock {
    Taken(Flock<File>),
    /// By the launcher before, and passed on with its file.
    Carried(OwnedFd),
}

impl AsRawFd for Lock {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Lock::Taken(lock) => lock.as_raw_fd(),
            Lock::Carried(file) => file.as_raw_fd(),
        }
    }
}

/// The folders as one launcher leaves them to the next.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Carried {
    run: PathBuf,
    sockets: RawFd,
    functions: RawFd,
    logs: RawFd,
    locks: [RawFd; 2],
    store_owned_by_root: bool,
}

impl Folders {
    /// For the next launcher, with their descriptors.
    pub(super) fn carry(&self) -> (Carried, Vec<RawFd>) {
        let carried = Carried {
            run: self.run.clone(),
            sockets: self.sockets.as_raw_fd(),
            functions: self.functions.as_raw_fd(),
            logs: self.logs.as_raw_fd(),
            locks: self.locks.each_ref().map(AsRawFd::as_raw_fd),
            store_owned_by_root: self.store_owned_by_root,
        };
        let mut fds = vec![carried.sockets, carried.functions, carried.logs];
        fds.extend(carried.locks);
        (carried, fds)
    }

    /// From the launcher before, which had the same host; `own` gives its descriptors.
    ///
    /// # Errors
    /// Those of `own`.
    pub(super) fn again(
        host: &Host,
        carried: &Carried,
        own: &mut dyn FnMut(RawFd) -> io::Result<OwnedFd>,
    ) -> io::Result<Folders> {
        let [run_lock, state_lock] = carried.locks;
        Ok(Folders {
            run: carried.run.clone(),
            sockets: own(carried.sockets)?,
            staging: carried.run.join("root"),
            functions: own(carried.functions)?,
            logs: own(carried.logs)?,
            store: host.state.join("store"),
            uids: host.state.join("uids"),
            store_owned_by_root: carried.store_owned_by_root,
            crashed: false,
            locks: [Lock::Carried(own(run_lock)?), Lock::Carried(own(state_lock)?)],
        })
    }
}

/// Makes, locks and clears the folders.
///
/// # Errors
/// The folder that is not usable, or another launcher that uses it.
pub(super) fn prepare(host: &Host) -> Result<Folders, LauncherError> {
    let functions = open_folder(&host.functions, true)?;
    make(&host.run)?;
    let run = host
        .run
        .canonicalize()
        .map_err(|e| folder(&host.run, "resolve", e))?;
    check_is_ours(&run)?;
    let run_lock = lock(&run, "run")?;
    make(&host.state)?;
    let state_lock = lock(&host.state, "state")?;
    let store = host.state.join("store");
    make_ours(&store, 0o700, None)?;
    let logs = make_ours(&host.state.join("logs"), 0o750, host.supervisor)?;
    // The supervisor's group may pass, and each socket is for the supervisor's user alone.
    let group = host.supervisor.map(|(_, gid)| (0, gid));
    drop(make_ours(&run.join("i"), 0o710, group)?);
    let staging = run.join("root");
    make_ours(&staging, 0o755, None)?;
    clear_sockets(&run)?;
    Ok(Folders {
        // The supervisor, which gets it too, may not list it.
        sockets: open_folder(&run.join("i"), false)?,
        staging,
        functions,
        logs,
        store_owned_by_root: is_roots_own(&host.state) && is_roots_own(&store),
        store,
        uids: host.state.join("uids"),
        crashed: run.join("listen").exists(),
        run,
        locks: [Lock::Taken(run_lock), Lock::Taken(state_lock)],
    })
}

/// In the run folder this process removes, overwrites and gives away what has a certain name: who can put a link there
/// could have it done anywhere.
fn check_is_ours(run: &Path) -> Result<(), LauncherError> {
    let meta = fs::metadata(run).map_err(|e| folder(run, "look at", e))?;
    let me = nix::unistd::geteuid();
    // An ordinary user's group is often the user's alone.
    let others = if me.is_root() { 0o022 } else { 0o002 };
    let what = if meta.uid() != me.as_raw() && meta.uid() != 0 {
        format!("it belongs to uid {}", meta.uid())
    } else if meta.mode() & others != 0 {
        format!("others can write to it (mode {:o})", meta.mode() & 0o7777)
    } else {
        return Ok(());
    };
    Err(LauncherError::Folder {
        path: run.to_path_buf(),
        what: "use",
        source: io::Error::new(io::ErrorKind::PermissionDenied, what),
        fix: "remove that with `chmod go-w`, or choose a folder of its own for it with --run",
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
        let _ = clear_sockets(&self.run);
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

/// A folder that may be there with modes of its own: those are the operator's.
fn make(path: &Path) -> Result<(), LauncherError> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(|e| folder(path, "make", e))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(|e| folder(path, "set the mode of", e))
}

/// A folder inside of one of the above, whose modes are ours to set; opened. Never by way of a symlink: what is set here
/// must not be set on a folder elsewhere.
fn make_ours(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> Result<OwnedFd, LauncherError> {
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(folder(path, "make", e)),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let opened = options
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path)
        .map_err(|e| folder(path, "open", e))?;
    let meta = opened.metadata().map_err(|e| folder(path, "look at", e))?;
    let me = nix::unistd::geteuid().as_raw();
    if meta.uid() != me && owner.is_none_or(|(uid, _)| uid != meta.uid()) {
        let theirs = io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("it belongs to uid {}", meta.uid()),
        );
        return Err(folder(path, "use", theirs));
    }
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::fchown(&opened, Some(uid), Some(gid)).map_err(|e| folder(path, "give away", e))?;
    }
    opened
        .set_permissions(fs::Permissions::from_mode(mode))
        .map_err(|e| folder(path, "set the mode of", e))?;
    Ok(opened.into())
}

fn open_folder(path: &Path, readable: bool) -> Result<OwnedFd, LauncherError> {
    let flags = libc::O_DIRECTORY | if readable { 0 } else { libc::O_PATH };
    let open = OpenOptions::new().read(true).custom_flags(flags).open(path);
    open.map(OwnedFd::from).map_err(|e| folder(path, "open", e))
}

/// Locks the folder that is named by `flag`. A file for each flag, as one folder may serve as both.
fn lock(dir: &Path, flag: &'static str) -> Result<Flock<File>, LauncherError> {
    let path = dir.join(format!("{flag}.lock"));
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
                path: dir.to_path_buf(),
                flag,
            }
        } else {
            folder(&path, "lock", errno.into())
        }
    })
}

fn clear_sockets(run: &Path) -> Result<(), LauncherError> {
    let dir = run.join("i");
    let clear = || -> io::Result<()> {
        for entry in fs::read_dir(&dir)? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    };
    clear().map_err(|e| folder(&dir, "empty", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_launcher_per_run_folder() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path(), "run").unwrap();
        let said = lock(dir.path(), "run").unwrap_err().to_string();
        assert!(said.contains("another funcd runs with this run folder"), "{said}");
        let state = lock(dir.path(), "state").expect("the same folder may serve as both");
        drop((held, state));
        lock(dir.path(), "run").unwrap();
    }

    #[test]
    fn a_symlink_in_the_place_of_a_folder_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (elsewhere, link) = (dir.path().join("elsewhere"), dir.path().join("i"));
        fs::create_dir(&elsewhere).unwrap();
        fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
        assert!(make_ours(&link, 0o700, None).is_err());
        assert_eq!(fs::metadata(&elsewhere).unwrap().mode() & 0o7777, 0o755);
    }

    #[test]
    fn a_run_folder_that_others_can_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        check_is_ours(dir.path()).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        let said = check_is_ours(dir.path()).unwrap_err().to_string();
        assert!(said.contains("mode 1777") && said.contains("--run"), "{said}");
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
