//! A small disk for one host's store and logs, that can be filled: a tmpfs in a mount namespace that this thread and what it starts
//! have for themselves. The machine's mounts stay as they are.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use crate::failure::{During, Outcome};

/// Enough for the store of all functions here, and for their logs.
const SIZE: &str = "size=128m,mode=755";

/// It is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: TempDir,
}

impl Disk {
    /// A new one, seen by this thread and what it starts from now on.
    ///
    /// # Errors
    /// No right to mount.
    pub(crate) fn small() -> Outcome<Disk> {
        let folder = tempfile::Builder::new().prefix("funcd-bench-disk-").tempdir();
        let folder = folder.during("making a folder for a disk")?;
        let step = "mounting a small disk in a mount namespace of its own";
        unshare(CloneFlags::CLONE_NEWNS).during(step)?;
        let none = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).during(step)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), folder.path(), Some("tmpfs"), flags, Some(SIZE)).during(step)?;
        Ok(Disk { folder })
    }

    /// Where.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn ballast(&self) -> PathBuf {
        self.folder.path().join("ballast")
    }

    /// Takes every free byte.
    ///
    /// # Errors
    /// A disk that does not get full.
    pub(crate) fn fill(&self) -> Outcome<u64> {
        let file = self.ballast();
        let step = format!("filling {}", file.display());
        let mut ballast = File::create(&file).during(&step)?;
        let mut bytes = 0;
        for size in [1 << 20, 4096, 1] {
            let piece = vec![0x55; size];
            loop {
                match ballast.write(&piece) {
                    Ok(count) => bytes += count as u64,
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).during(&step),
                }
            }
        }
        Ok(bytes)
    }

    /// Gives it back.
    ///
    /// # Errors
    /// A file that can't be removed.
    pub(crate) fn empty(&self) -> Outcome<()> {
        fs::remove_file(self.ballast()).during(format!("removing {}", self.ballast().display()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}
