//! Puts files where they belong, each as a whole or not at all: what was there stays until the new one is complete on
//! the disk. Knows nothing of what they are for.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Did {
    /// It was not there.
    Made,
    /// It was there with other content or permissions.
    Replaced,
    /// It was there as it should be.
    Unchanged,
    /// It is the operator's, and is left as it is.
    Kept,
    /// It was there.
    Removed,
}

impl Did {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Did::Made => "made",
            Did::Replaced => "replaced",
            Did::Unchanged => "unchanged",
            Did::Kept => "kept",
            Did::Removed => "removed",
        }
    }
}

/// Where everything goes, and whether it is only said.
#[derive(Debug)]
pub(super) struct Target<'a> {
    /// The root of the system.
    pub(super) root: &'a Path,
    /// Only tell what would be done.
    pub(super) dry_run: bool,
}

impl Target<'_> {
    /// A path of the system, as it is found from here.
    pub(super) fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The same, unless symbolic links lead out of the root: they are meant for whoever runs in it.
    fn within(&self, path: &Path) -> io::Result<PathBuf> {
        let at = self.at(path);
        let there = at.ancestors().skip(1).find(|folder| folder.exists());
        let there = there.unwrap_or(self.root).canonicalize()?;
        if !there.starts_with(self.root.canonicalize()?) {
            let what = format!(
                "a symbolic link on its way leads to {}, out of the root",
                there.display()
            );
            return Err(io::Error::other(what));
        }
        Ok(at)
    }

    /// Makes a folder that is not there, and its parents: 0755, whatever the umask.
    ///
    /// # Errors
    /// Those of mkdir(2), and something else in its place.
    pub(super) fn folder(&self, path: &Path) -> io::Result<Did> {
        let at = self.within(path)?;
        if at.is_dir() {
            return Ok(Did::Unchanged);
        }
        if !self.dry_run {
            make_folder(&at)?;
        }
        Ok(Did::Made)
    }

    /// Puts a file there, unless it is there already; one that is `theirs` is never replaced.
    ///
    /// # Errors
    /// Those of writing; what was there is there still.
    pub(super) fn file(&self, path: &Path, content: &[u8], mode: u32, theirs: bool) -> io::Result<Did> {
        let at = self.within(path)?;
        let did = match fs::symlink_metadata(&at) {
            Err(e) if e.kind() == ErrorKind::NotFound => Did::Made,
            Err(e) => return Err(e),
            Ok(there) if there.is_dir() => {
                return Err(io::Error::new(ErrorKind::IsADirectory, "a folder is there"));
            }
            Ok(there) => {
                let same = there.is_file()
                    && there.permissions().mode() & 0o7777 == mode
                    && fs::read(&at)? == content;
                match (same, theirs) {
                    (true, _) => Did::Unchanged,
                    (false, true) => return Ok(Did::Kept),
                    (false, false) => Did::Replaced,
                }
            }
        };
        if did != Did::Unchanged && !self.dry_run {
            replace(&at, content, mode)?;
        }
        Ok(did)
    }

    /// Removes a file, or a folder with all that is in it; `None` when there is none.
    ///
    /// # Errors
    /// Those of unlink(2) and rmdir(2), and a file system that is mounted below.
    pub(super) fn remove(&self, path: &Path) -> io::Result<Option<Did>> {
        let at = self.within(path)?;
        let there = match fs::symlink_metadata(&at) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            there => there?,
        };
        if !self.dry_run {
            match there.is_dir() {
                true => {
                    nothing_is_mounted_below(&at)?;
                    fs::remove_dir_all(&at)?;
                }
                false => fs::remove_file(&at)?,
            }
        }
        Ok(Some(Did::Removed))
    }
}

/// What is mounted there is somebody's data, and no part of what goes.
fn nothing_is_mounted_below(folder: &Path) -> io::Result<()> {
    let folder = folder.canonicalize()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    match mounted_below(&mounts, &folder) {
        None => Ok(()),
        Some(mount) => {
            let what = format!("a file system is mounted at {mount}: unmount it first");
            Err(io::Error::new(ErrorKind::ResourceBusy, what))
        }
    }
}

/// The first mount point at or below a folder (proc_pid_mountinfo(5): the fifth field, with spaces and their like in octal).
fn mounted_below(mounts: &str, folder: &Path) -> Option<String> {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let plain = points.map(|point| point.replace("\\040", " "));
    plain
        .into_iter()
        .find(|point| Path::new(point).starts_with(folder))
}

fn make_folder(at: &Path) -> io::Result<()> {
    if at.is_dir() {
        return Ok(());
    }
    if let Some(parent) = at.parent() {
        make_folder(parent)?;
    }
    DirBuilder::new().mode(0o755).create(at)?;
    fs::set_permissions(at, Permissions::from_mode(0o755))
}

/// Writes a new file beside it, and renames that over it once it is on the disk.
fn replace(at: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let (Some(folder), Some(name)) = (at.parent(), at.file_name()) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    make_folder(folder)?;
    let staged = folder.join(format!(".{}.funcd-new", name.to_string_lossy()));
    // Of an installation that was cut off.
    if let Err(e) = fs::remove_file(&staged)
        && e.kind() != ErrorKind::NotFound
    {
        return Err(e);
    }
    let write = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&staged)?;
        file.write_all(content)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&staged, at)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&staged);
    })?;
    // After a power cut it is either the old one or the new one; which, does not matter enough to fail for.
    let _ = fs::File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_mounted_below_is_found() {
        let mounts = "36 35 98:0 / /var/lib rw - ext4 /dev/a rw\n37 36 98:1 / /var/lib/funcd/volumes/my\\040disk rw - ext4 /dev/b rw\n";
        let below = |folder| mounted_below(mounts, Path::new(folder));
        assert_eq!(
            below("/var/lib/funcd").as_deref(),
            Some("/var/lib/funcd/volumes/my disk")
        );
        assert_eq!(below("/var/lib/fun"), None);
    }

    #[test]
    fn links_that_lead_out_of_the_root_are_not_followed() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(root.path().join("var")).unwrap();
        symlink(outside.path(), root.path().join("etc")).unwrap();
        symlink("var", root.path().join("also")).unwrap();
        let target = Target {
            root: root.path(),
            dry_run: false,
        };
        let path = Path::new("/etc/funcd/funcd.toml");
        let error = target.file(path, b"x", 0o644, false).unwrap_err();
        assert!(error.to_string().contains("out of the root"), "{error}");
        fs::write(outside.path().join("there"), "").unwrap();
        assert!(target.remove(Path::new("/etc/there")).is_err());
        assert!(outside.path().join("there").exists());
        // One that stays within is followed.
        target.file(Path::new("/also/file"), b"x", 0o644, false).unwrap();
        assert!(root.path().join("var/file").exists());
    }
}
