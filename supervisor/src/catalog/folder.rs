//! Looking at files below an open folder: by descriptor, one path segment at a time, never through a symbolic link, never
//! waiting for a FIFO's other end. Judges nothing.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::sys::statfs::{self, FsType};

/// Everything by which a change of a file shows without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    /// The file system.
    pub dev: u64,
    /// The inode.
    pub ino: u64,
    /// Bytes; for folders 0, since theirs says nothing.
    pub size: u64,
    /// Type and permissions.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Nanoseconds since 1970 of the last change of content; for folders 0.
    pub mtime: i128,
    /// Nanoseconds since 1970 of the last change at all; for folders 0, since any file in it changes it.
    pub ctime: i128,
}

impl FileId {
    fn of(stat: &FileStat) -> FileId {
        let nanos = |secs: i64, nanos: i64| i128::from(secs) * 1_000_000_000 + i128::from(nanos);
        let folder = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
        FileId {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: if folder {
                0
            } else {
                u64::try_from(stat.st_size).unwrap_or(0)
            },
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: if folder {
                0
            } else {
                nanos(stat.st_mtime, stat.st_mtime_nsec)
            },
            ctime: if folder {
                0
            } else {
                nanos(stat.st_ctime, stat.st_ctime_nsec)
            },
        }
    }

    /// The type bits (`S_IFREG`, …; inode(7)).
    pub fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    /// How long ago it changed last; zero if that lies in the future.
    pub fn age(&self, now: SystemTime) -> Duration {
        let now = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as i128);
        u64::try_from(now - self.ctime).map_or(Duration::ZERO, Duration::from_nanos)
    }
}

/// An open folder, as it is now.
#[derive(Debug, Clone, Copy)]
pub struct FolderState {
    /// The folder.
    pub id: FileId,
    /// It was deleted; the descriptor is all that is left of it.
    pub deleted: bool,
}

/// The state of an open file or folder.
///
/// # Errors
/// Those of fstat(2).
pub fn state(fd: BorrowedFd<'_>) -> nix::Result<FolderState> {
    let stat = fstat(fd)?;
    Ok(FolderState {
        id: FileId::of(&stat),
        deleted: stat.st_nlink == 0,
    })
}

/// What is there under a name. `None`: nothing.
///
/// # Errors
/// Those of stat(2) that don't mean absence.
pub fn look(folder: BorrowedFd<'_>, name: &OsStr) -> nix::Result<Option<FileId>> {
    match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileId::of(&stat))),
        // No file can have a name that is too long.
        Err(Errno::ENOENT | Errno::ENAMETOOLONG) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Opens a file for reading.
///
/// # Errors
/// Those of open(2); `ELOOP` for a symbolic link.
pub fn open_file(folder: BorrowedFd<'_>, name: &OsStr) -> nix::Result<OwnedFd> {
    open(folder, name, OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
}

/// Opens a folder.
///
/// # Errors
/// Those of open(2); `ELOOP` or `ENOTDIR` for a symbolic link.
pub fn open_folder(folder: BorrowedFd<'_>, name: &OsStr) -> nix::Result<OwnedFd> {
    open(folder, name, OFlag::O_DIRECTORY)
}

fn open(folder: BorrowedFd<'_>, name: &OsStr, flags: OFlag) -> nix::Result<OwnedFd> {
    let flags = flags | OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let resolve =
        ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    match openat2(folder, name, OpenHow::new().flags(flags).resolve(resolve)) {
        // Kernels before 5.6, and filters that don't know it. A name is one segment, so that O_NOFOLLOW does the same.
        Err(Errno::ENOSYS | Errno::EPERM) if !name.as_encoded_bytes().contains(&b'/') && name != ".." => {
            openat(folder, name, flags, Mode::empty())
        }
        opened => opened,
    }
}

/// The names in a folder, at most `most`, and whether there are more.
///
/// # Errors
/// Those of listing it. A list that broke off is an error, never a shorter list.
pub fn list(folder: BorrowedFd<'_>, most: usize) -> io::Result<(Vec<OsString>, bool)> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path_of(folder))? {
        if names.len() == most {
            return Ok((names, true));
        }
        names.push(entry?.file_name());
    }
    Ok((names, false))
}

/// A path that leads to an open file whatever lies above it.
pub fn path_of(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Whether the times in this folder come from this machine's clock: only then does a file's age say anything.
pub fn clock_is_ours(folder: &impl AsFd) -> bool {
    // From statfs(2).
    const LOCAL: [FsType; 5] = [
        statfs::EXT4_SUPER_MAGIC,
        // XFS, which nix does not name on musl.
        FsType(0x5846_5342),
        statfs::BTRFS_SUPER_MAGIC,
        statfs::TMPFS_MAGIC,
        statfs::OVERLAYFS_SUPER_MAGIC,
    ];
    statfs::fstatfs(folder.as_fd()).is_ok_and(|fs| LOCAL.contains(&fs.filesystem_type()))
}
