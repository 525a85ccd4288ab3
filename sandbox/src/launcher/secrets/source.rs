//! Where secrets come from: finds the file of one, refuses what others may read or have put there, and copies it without
//! looking inside.

use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, renameat};
use nix::sys::sendfile::sendfile64;
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::floor::Refusal;
use crate::stamp::Stamp;
use crate::sys::process;

/// The largest secret, in bytes: as systemd's credentials.
const MAX_BYTES: u64 = 1 << 20;
/// No secret's name, so that it is never in the way of one.
const NEW: &str = ".new";

/// The operator's places.
#[derive(Debug)]
pub(super) struct Sources {
    /// The folder with a folder for each function.
    pub(super) folder: PathBuf,
    /// The service's credentials.
    pub(super) credentials: Option<PathBuf>,
}

/// A secret that was found, and may be used.
#[derive(Debug)]
pub(super) struct Secret {
    file: File,
    pub(super) stamp: Stamp,
    /// Somebody has it open for writing, as install(1) has from when the file is there: what is in it may be half of it.
    pub(super) is_being_written: bool,
}

/// Why a file is not the secret that is looked for.
#[derive(Debug)]
enum Problem {
    Missing,
    Unusable(String),
}

impl Problem {
    fn of(path: &Path, e: Errno) -> Problem {
        match e {
            Errno::ENOENT => Problem::Missing,
            Errno::ELOOP | Errno::ENOTDIR => {
                Problem::new(path, "a symlink, or not a folder: put the real one there")
            }
            e => Problem::new(path, e.desc()),
        }
    }

    fn new(path: &Path, why: impl fmt::Display) -> Problem {
        Problem::Unusable(format!("{}: {why}", path.display()))
    }
}

impl Sources {
    /// Finds a secret of a function: both names were checked by the floor.
    ///
    /// # Errors
    /// That it is missing or may not be used, and what to do.
    pub(super) fn find(&self, function: &str, name: &str) -> Result<Secret, Refusal> {
        let credential = format!("{function}.{name}");
        let found = match self.in_folder(function, name) {
            Err(Problem::Missing) => self.in_credentials(&credential),
            found => found,
        };
        found.map_err(|problem| {
            let of = format!("the secret {name:?} of {function:?}");
            Refusal(match problem {
                Problem::Missing => format!(
                    "{of} is missing: put it into {} (owned by root, mode 0400), or into the service with \
                     LoadCredential={credential}:FILE",
                    self.folder.join(function).join(name).display()
                ),
                Problem::Unusable(why) => format!("{of} can't be used: {why}"),
            })
        })
    }

    fn in_folder(&self, function: &str, name: &str) -> Result<Secret, Problem> {
        let outer = folder(AT_FDCWD, &self.folder, &self.folder)?;
        let path = self.folder.join(function);
        let inner = folder(outer.as_fd(), function, &path)?;
        secret(inner.as_fd(), name, &path.join(name))
    }

    fn in_credentials(&self, credential: &str) -> Result<Secret, Problem> {
        let path = self.credentials.as_ref().ok_or(Problem::Missing)?;
        let credentials = folder(AT_FDCWD, path, path)?;
        secret(credentials.as_fd(), credential, &path.join(credential))
    }
}

/// A folder that nobody else can put anything into.
fn folder<P: NixPath + ?Sized>(at: impl AsFd, name: &P, path: &Path) -> Result<OwnedFd, Problem> {
    let opened = open_folder(at, name).map_err(|e| Problem::of(path, e))?;
    let file = File::from(opened);
    let meta = file.metadata().map_err(|e| Problem::new(path, e))?;
    belongs(&meta, path)?;
    if meta.mode() & 0o022 != 0 {
        return Err(Problem::new(path, "others can write to it: chmod go-w it"));
    }
    Ok(file.into())
}

/// The file of a secret, that nobody else can read.
fn secret(folder: BorrowedFd<'_>, name: &str, path: &Path) -> Result<Secret, Problem> {
    // Not waiting for the other end of a FIFO.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = File::from(openat(folder, name, flags, Mode::empty()).map_err(|e| Problem::of(path, e))?);
    let meta = file.metadata().map_err(|e| Problem::new(path, e))?;
    if !meta.is_file() {
        return Err(Problem::new(
            path,
            "it is not a regular file: put the value into one",
        ));
    }
    belongs(&meta, path)?;
    if meta.mode() & 0o077 != 0 {
        let mode = meta.mode() & 0o7777;
        let why = format!("group or others may use it (mode {mode:04o}): chmod 0400 it");
        return Err(Problem::new(path, why));
    }
    if meta.size() > MAX_BYTES {
        return Err(Problem::new(
            path,
            format!("it has {} bytes, at most {MAX_BYTES} are delivered", meta.size()),
        ));
    }
    let stamp = Stamp::of(&meta);
    // A file system without leases does not tell: the comparison after the copy stays.
    let lease = process::try_lease(file.as_fd());
    let is_being_written = lease.is_err_and(|e| e.raw_os_error() == Some(libc::EAGAIN));
    Ok(Secret {
        file,
        stamp,
        is_being_written,
    })
}

fn belongs(meta: &Metadata, path: &Path) -> Result<(), Problem> {
    let me = nix::unistd::geteuid().as_raw();
    if meta.uid() == 0 || meta.uid() == me {
        return Ok(());
    }
    Err(Problem::new(
        path,
        format!("it belongs to uid {}: chown it to root", meta.uid()),
    ))
}

/// Opens a folder, which is no symlink.
pub(super) fn open_folder<P: NixPath + ?Sized>(at: impl AsFd, path: &P) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(at, path, flags, Mode::empty())
}

impl Secret {
    /// Copies it into a folder, for `owner` alone, in the place of an earlier one at once; its state.
    ///
    /// # Errors
    /// Those of the file system, and that it is being written, or changed meanwhile.
    pub(super) fn deliver(
        &self,
        folder: BorrowedFd<'_>,
        name: &str,
        owner: Option<(u32, u32)>,
    ) -> io::Result<Stamp> {
        if self.is_being_written {
            return Err(io::Error::other("it is being written: wait until it is closed"));
        }
        match unlinkat(folder, NEW, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::ENOENT) | Ok(()) => {}
            Err(e) => return Err(e.into()),
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let copy = openat(folder, NEW, flags, Mode::S_IRUSR)?;
        if let Some((uid, gid)) = owner {
            fchown(&copy, Some(uid), Some(gid))?;
        }
        let (mut copied, mut offset) = (0, 0);
        // By the kernel, from file to file. One byte more than there should be is asked for, to see that there is none.
        loop {
            match sendfile64(&copy, &self.file, Some(&mut offset), MAX_BYTES as usize + 1)? {
                0 => break,
                n => copied += n as u64,
            }
            if copied > MAX_BYTES {
                break;
            }
        }
        if copied != self.stamp.size || Stamp::of(&self.file.metadata()?) != self.stamp {
            return Err(io::Error::other(
                "it changed while it was copied: replace secrets by renaming (mv)",
            ));
        }
        renameat(folder, NEW, folder, name)?;
        Ok(self.stamp.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};

    use super::*;

    fn put(path: &Path, value: &[u8], mode: u32) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(path);
        fs::write(path, value).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        // Other tests fork, and a fork holds this writer until it executes.
        let reader = File::open(path);
        while reader
            .as_ref()
            .is_ok_and(|file| process::try_lease(file.as_fd()).is_err())
        {
            std::thread::yield_now();
        }
    }

    fn sources(dir: &Path) -> Sources {
        for folder in ["secrets/fn", "credentials", "out"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        for folder in ["secrets/fn", "secrets", "credentials"] {
            fs::set_permissions(dir.join(folder), fs::Permissions::from_mode(0o755)).unwrap();
        }
        Sources {
            folder: dir.join("secrets"),
            credentials: Some(dir.join("credentials")),
        }
    }

    #[test]
    fn a_secret_is_found_by_its_function_in_both_places() {
        let dir = tempfile::tempdir().unwrap();
        let sources = sources(dir.path());
        let out = File::open(dir.path().join("out")).unwrap();
        let delivered = |function: &str| {
            sources.find(function, "key").map(|secret| {
                secret.deliver(out.as_fd(), "key", None).unwrap();
                fs::read_to_string(dir.path().join("out/key")).unwrap()
            })
        };
        put(&dir.path().join("credentials/fn.key"), b"a credential", 0o400);
        assert_eq!(delivered("fn").unwrap(), "a credential");
        put(&dir.path().join("secrets/fn/key"), b"a file", 0o400);
        assert_eq!(delivered("fn").unwrap(), "a file", "the folder comes first");
        assert_eq!(
            fs::metadata(dir.path().join("out/key")).unwrap().mode() & 0o7777,
            0o400
        );
        let missing = delivered("other").unwrap_err().to_string();
        assert!(
            missing.contains("LoadCredential=other.key:") && missing.contains("secrets/other/key"),
            "{missing}"
        );
    }

    #[test]
    fn what_is_half_written_is_not_delivered() {
        let dir = tempfile::tempdir().unwrap();
        let sources = sources(dir.path());
        let out = File::open(dir.path().join("out")).unwrap();
        let path = dir.path().join("secrets/fn/key");
        let deliver = || {
            let secret = sources.find("fn", "key").unwrap();
            secret.deliver(out.as_fd(), "key", None)
        };
        put(&path, b"old", 0o400);
        deliver().unwrap();
        // As install(1) replaces a file: it is there, with modes that are fine, before anything is in it.
        fs::remove_file(&path).unwrap();
        let mut options = fs::OpenOptions::new();
        let mut writer = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .unwrap();
        writer.write_all(b"ne").unwrap();
        let said = deliver().unwrap_err().to_string();
        assert!(said.contains("is being written"), "{said}");
        let delivered = || fs::read_to_string(dir.path().join("out/key")).unwrap();
        assert_eq!(delivered(), "old");
        writer.write_all(b"w").unwrap();
        drop(writer);
        while deliver().is_err() {
            std::thread::yield_now();
        }
        assert_eq!(delivered(), "new");
    }

    #[test]
    fn what_others_could_read_or_have_put_there_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let sources = sources(dir.path());
        let path = dir.path().join("secrets/fn/key");
        let refusal = || sources.find("fn", "key").map(drop).unwrap_err().to_string();
        put(&path, b"x", 0o400);
        assert!(sources.find("fn", "key").is_ok(), "the control");
        for mode in [0o440, 0o404, 0o644, 0o420] {
            put(&path, b"x", mode);
            assert!(refusal().contains("chmod 0400"), "{mode:o}: {}", refusal());
        }
        put(&path, &vec![b'x'; MAX_BYTES as usize + 1], 0o400);
        assert!(refusal().contains("at most 1048576"), "{}", refusal());
        fs::remove_file(&path).unwrap();
        put(&dir.path().join("real"), b"x", 0o400);
        symlink(dir.path().join("real"), &path).unwrap();
        assert!(refusal().contains("symlink"), "{}", refusal());
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, Mode::S_IRUSR).unwrap();
        assert!(refusal().contains("regular"), "{}", refusal());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(refusal().contains("regular"), "{}", refusal());
        fs::remove_dir(&path).unwrap();
        put(&path, b"x", 0o400);
        fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o775)).unwrap();
        assert!(refusal().contains("chmod go-w"), "{}", refusal());
        fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(path.parent().unwrap(), dir.path().join("elsewhere")).unwrap();
        symlink(dir.path().join("elsewhere"), path.parent().unwrap()).unwrap();
        assert!(refusal().contains("symlink"), "{}", refusal());
        if nix::unistd::geteuid().is_root() {
            fs::remove_file(path.parent().unwrap()).unwrap();
            put(&path, b"x", 0o400);
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            assert!(refusal().contains("chown it to root"), "{}", refusal());
        }
    }
}
