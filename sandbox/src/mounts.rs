//! The root of an instance: planned by the launcher, built by the child in a mount namespace of its own.
//! Never leaves anything on the host: what is made is on a tmpfs that only this namespace has.
//!
//! Attributes are set with mount_setattr, which adds to what a user namespace has locked and reaches submounts. It is in
//! Linux 5.12, older than Landlock, without which P1 is missing anyway: so there is no other way here.

use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::confine::Mounts;
use crate::sys::Errno;
use crate::sys::calls;

const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
const DATA: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// Name and minor number (the major one is 1) of the devices that programs expect.
pub(crate) const DEVICES: [(&str, u64); 5] = [
    ("null", 3),
    ("zero", 5),
    ("full", 7),
    ("random", 8),
    ("urandom", 9),
];

/// Where names of hosts are looked up first.
pub(crate) const HOSTS: &CStr = c"/etc/hosts";
/// All that a network of its own has. Without it `localhost` is asked of a name server, which there is none.
const LOOPBACK: &[u8] = b"127.0.0.1 localhost\n::1 localhost\n";

/// One thing to make below the new root. Paths are relative to it.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Directory(CString),
    File(CString),
    Text {
        path: CString,
        text: &'static [u8],
    },
    Symlink {
        target: CString,
        path: CString,
    },
    Bind {
        source: CString,
        path: CString,
        attributes: u64,
        /// Whether only root can change where both paths lead: they are directly below `/`.
        fixed: bool,
    },
    Device {
        minor: u64,
        source: CString,
        path: CString,
    },
    Tmp {
        options: CString,
    },
    Proc,
}

/// A root that is ready to be built.
#[derive(Debug)]
pub(crate) struct Root {
    staging: CString,
    entries: Vec<Entry>,
}

/// A path to bind, and what may be done there.
pub(crate) struct Bind<'a> {
    pub(crate) source: &'a Path,
    pub(crate) path: &'a Path,
    pub(crate) access: Access,
}

/// What may be done with what is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    /// Reading and executing.
    Execute,
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
}

impl Access {
    fn attributes(self) -> u64 {
        match self {
            Access::Execute => READ_ONLY,
            Access::Read => READ_ONLY | DATA,
            Access::Write => DATA,
        }
    }
}

impl Root {
    /// Plans the root.
    ///
    /// # Errors
    /// `ENOENT` (and the like) for a bind whose source is missing, `EINVAL` for a path that is not absolute and plain,
    /// `ELOOP` for one below a symlink.
    pub(crate) fn plan(
        mounts: &Mounts,
        binds: &[Bind<'_>],
        links: &[(PathBuf, PathBuf)],
    ) -> Result<Root, Errno> {
        let mut root = Root {
            staging: text(&mounts.staging)?,
            entries: Vec::new(),
        };
        root.directory(Path::new("tmp"))?;
        // One inode for each page: fewer would run out first with small files, more would be memory of the kernel.
        let inodes = (mounts.tmp_bytes / 4096).max(64);
        let options = text(format!("mode=1777,size={},nr_inodes={inodes}", mounts.tmp_bytes))?;
        root.entries.push(Entry::Tmp { options });
        if mounts.proc {
            root.directory(Path::new("proc"))?;
            root.entries.push(Entry::Proc);
        }
        root.directory(Path::new("dev"))?;
        for (name, minor) in DEVICES {
            let source = text(format!("/dev/{name}"))?;
            root.entries.push(Entry::Device {
                minor,
                source,
                path: text(format!("dev/{name}"))?,
            });
        }
        // Where libraries keep named semaphores and shared memory (sem_overview(7), shm_overview(7)): bounded as /tmp is.
        root.entries.push(Entry::Symlink {
            target: text("/tmp")?,
            path: text("dev/shm")?,
        });
        // Parents before what is below them; of the same path, the writable one on top.
        let mut binds: Vec<&Bind<'_>> = binds.iter().collect();
        binds.sort_by_key(|bind| (bind.path, bind.access));
        for bind in binds {
            root.bind(bind)?;
        }
        for (path, target) in links {
            root.link(inside(path)?, target)?;
        }
        Ok(root)
    }

    /// A symlink, unless what is bound holds it.
    fn link(&mut self, path: &Path, target: &Path) -> Result<(), Errno> {
        if self.is_below_a_bind(path) {
            return Ok(());
        }
        if let Some(above) = path.parent().filter(|above| *above != Path::new("")) {
            self.directory(above)?;
        }
        self.entries.push(Entry::Symlink {
            target: text(target)?,
            path: text(path)?,
        });
        Ok(())
    }

    /// The names in a network of its own, unless what is bound holds that file.
    pub(crate) fn name_loopback(&mut self) -> Result<(), Errno> {
        let path = inside(Path::new(OsStr::from_bytes(HOSTS.to_bytes())))?;
        if self.is_below_a_bind(path) {
            return Ok(());
        }
        match path.parent().map(|above| self.directory(above)) {
            // Its `/etc` leads elsewhere: then it is found there, or not at all.
            Some(Err(libc::ELOOP)) => return Ok(()),
            Some(made) => made?,
            None => {}
        }
        let path = text(path)?;
        self.entries.push(Entry::Text { path, text: LOOPBACK });
        Ok(())
    }

    /// Whether it has the file that [`Root::name_loopback`] makes.
    pub(crate) fn names_loopback(&self) -> bool {
        self.entries
            .iter()
            .any(|entry| matches!(entry, Entry::Text { .. }))
    }

    fn bind(&mut self, bind: &Bind<'_>) -> Result<(), Errno> {
        let path = inside(bind.path)?;
        let top = path.components().count() == 1;
        if top && let Ok(target) = fs::read_link(bind.source) {
            self.entries.push(Entry::Symlink {
                target: text(target)?,
                path: text(path)?,
            });
            return Ok(());
        }
        let directory = fs::metadata(bind.source).map_err(|e| errno(&e))?.is_dir();
        // Below another grant its place is there already, and making it could follow a symlink out of the root.
        if !self.is_below_a_bind(path) {
            let above = if directory { Some(path) } else { path.parent() };
            if let Some(above) = above {
                self.directory(above)?;
            }
            if !directory {
                self.entries.push(Entry::File(text(path)?));
            }
        }
        self.entries.push(Entry::Bind {
            source: text(bind.source)?,
            path: text(path)?,
            attributes: bind.access.attributes(),
            fixed: top,
        });
        Ok(())
    }

    /// Whether something that is bound already holds this path.
    fn is_below_a_bind(&self, path: &Path) -> bool {
        self.entries.iter().any(|entry| {
            let Entry::Bind { path: above, .. } = entry else {
                return false;
            };
            path.starts_with(OsStr::from_bytes(above.as_bytes()))
        })
    }

    /// A directory and those above it, each once. Never by way of a symlink: while the root is built, it leads to the host.
    fn directory(&mut self, path: &Path) -> Result<(), Errno> {
        let is_symlink_above = |entry: &Entry| match entry {
            Entry::Symlink { path: link, .. } => path.starts_with(OsStr::from_bytes(link.as_bytes())),
            _ => false,
        };
        if self.entries.iter().any(is_symlink_above) {
            return Err(libc::ELOOP);
        }
        let mut above = PathBuf::new();
        for component in path.components() {
            above.push(component);
            let entry = Entry::Directory(text(&above)?);
            if !self.entries.contains(&entry) {
                self.entries.push(entry);
            }
        }
        Ok(())
    }

    /// In the child, in its own mount namespace: builds the root and moves there.
    pub(crate) fn build(&self) -> Result<(), Errno> {
        calls::mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None)?;
        let tmpfs = Some(c"tmpfs");
        // Not nodev, for /dev; nothing can be made on it, as it ends up read-only.
        let limits = Some(c"mode=0755,size=64k,nr_inodes=1024");
        calls::mount(
            tmpfs,
            &self.staging,
            tmpfs,
            libc::MS_NOSUID | libc::MS_NOEXEC,
            limits,
        )?;
        calls::chdir(&self.staging)?;
        self.entries.iter().try_for_each(Entry::make)?;
        let read_only =
            libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NOEXEC;
        calls::mount(None, c".", None, read_only, None)?;
        calls::pivot_here()?;
        calls::detach_here()
    }
}

impl Entry {
    fn make(&self) -> Result<(), Errno> {
        match self {
            Entry::Directory(path) => exists_already(calls::mkdir(path, 0o755)),
            Entry::File(path) => exists_already(calls::mknod(path, libc::S_IFREG | 0o444, 0)),
            Entry::Text { path, text } => {
                exists_already(calls::mknod(path, libc::S_IFREG | 0o644, 0))?;
                match calls::write_file(path, text) {
                    // Files of the launcher may not grow (RLIMIT_FSIZE): without these names it is still started.
                    Err(libc::EFBIG) => Ok(()),
                    written => written,
                }
            }
            Entry::Symlink { target, path } => exists_already(calls::symlink(target, path)),
            Entry::Bind {
                source,
                path,
                attributes,
                fixed: true,
            } => {
                calls::mount(Some(source), path, None, libc::MS_BIND | libc::MS_REC, None)?;
                calls::mount_add_attributes(path, *attributes)
            }
            // A function that may write to a directory above may have put a symlink there since the grant was checked.
            // There may be a hundred and more of them: each gives its descriptors back, or a start would need hundreds.
            Entry::Bind {
                source,
                path,
                attributes,
                fixed: false,
            } => {
                let from = calls::open_plain(source)?;
                let copy = calls::copy_mounts(from, *attributes)?;
                let to = calls::open_plain(path)?;
                calls::place_mounts(copy, to)?;
                [from, copy, to].into_iter().for_each(calls::close);
                Ok(())
            }
            Entry::Tmp { options } => mount_new(c"tmpfs", c"tmp", 0, options),
            // Only what it may trace, which is itself. A user namespace may not mount it where the host's is masked, as it
            // is in containers; programs get along without it, or say so.
            Entry::Proc => match mount_new(
                c"proc",
                c"proc",
                libc::MS_RDONLY,
                c"hidepid=ptraceable,subset=pid",
            ) {
                Err(libc::EPERM) => Ok(()),
                result => result,
            },
            Entry::Device { minor, source, path } => {
                // A device of our own costs a third of a bind, but only root of the host may make one.
                calls::mknod(path, libc::S_IFCHR | 0o666, 1 << 8 | minor).or_else(|_| {
                    exists_already(calls::mknod(path, libc::S_IFREG | 0o444, 0))?;
                    calls::mount(Some(source), path, None, libc::MS_BIND, None)
                })
            }
        }
    }
}

fn mount_new(kind: &CStr, path: &CStr, flags: libc::c_ulong, options: &CStr) -> Result<(), Errno> {
    let flags = flags | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    calls::mount(Some(kind), path, Some(kind), flags, Some(options))
}

/// A grant below another grant finds its place there already.
fn exists_already(result: Result<(), Errno>) -> Result<(), Errno> {
    if result == Err(libc::EEXIST) {
        Ok(())
    } else {
        result
    }
}

/// The path relative to the new root.
fn inside(path: &Path) -> Result<&Path, Errno> {
    let relative = path.strip_prefix("/").map_err(|_| libc::EINVAL)?;
    let plain = relative
        .components()
        .all(|component| matches!(component, Component::Normal(_)));
    if plain && relative != Path::new("") {
        Ok(relative)
    } else {
        Err(libc::EINVAL)
    }
}

/// A string for the kernel.
pub(crate) fn text(path: impl AsRef<OsStr>) -> Result<CString, Errno> {
    CString::new(path.as_ref().as_bytes()).map_err(|_| libc::EINVAL)
}

/// The errno of an I/O error.
pub(crate) fn errno(error: &std::io::Error) -> Errno {
    // Only a path with a NUL in it never reaches the kernel.
    error.raw_os_error().unwrap_or(libc::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(paths: &[(&str, Access)]) -> Result<Vec<Entry>, Errno> {
        let binds: Vec<Bind<'_>> = paths
            .iter()
            .map(|(path, access)| Bind {
                source: Path::new(path),
                path: Path::new(path),
                access: *access,
            })
            .collect();
        let mounts = Mounts {
            staging: "/staging".into(),
            tmp_bytes: 1 << 20,
            proc: false,
        };
        Ok(Root::plan(&mounts, &binds, &[])?
            .entries
            .into_iter()
            .skip(4 + DEVICES.len())
            .collect())
    }

    #[test]
    fn parents_come_before_what_is_below_them() {
        let entries = plan(&[
            ("/usr/bin", Access::Write),
            ("/usr", Access::Execute),
            ("/etc/passwd", Access::Execute),
        ])
        .unwrap();
        let bind = |path: &str, attributes| Entry::Bind {
            source: text(format!("/{path}")).unwrap(),
            path: text(path).unwrap(),
            attributes,
            fixed: path == "usr",
        };
        let expected = [
            Entry::Directory(c"etc".into()),
            Entry::File(c"etc/passwd".into()),
            bind("etc/passwd", READ_ONLY),
            Entry::Directory(c"usr".into()),
            bind("usr", READ_ONLY),
            // It is there, in what is bound above it.
            bind("usr/bin", DATA),
        ];
        assert_eq!(entries, expected);
    }

    #[test]
    fn what_is_missing_or_no_plain_path_is_refused() {
        assert_eq!(plan(&[("/no/such/path", Access::Execute)]), Err(libc::ENOENT));
        for path in ["/", "relative", "/usr/../etc", "", "/etc\0"] {
            assert_eq!(plan(&[(path, Access::Execute)]), Err(libc::EINVAL), "{path:?}");
        }
    }

    #[test]
    fn nothing_is_made_below_a_symlink() {
        let mounts = Mounts {
            staging: "/staging".into(),
            tmp_bytes: 1 << 20,
            proc: false,
        };
        let plan = |links: &[(&str, &str)]| {
            let links: Vec<_> = links.iter().map(|(path, to)| (path.into(), to.into())).collect();
            Root::plan(&mounts, &[], &links).map(drop)
        };
        assert_eq!(plan(&[("/usr/a", "/"), ("/usr/b/c", "/")]), Ok(()), "the control");
        for below in ["/usr/a/b", "/usr/a/etc/cron.d/x"] {
            assert_eq!(
                plan(&[("/usr/a", "/"), (below, "/")]),
                Err(libc::ELOOP),
                "{below}"
            );
        }
        assert_eq!(plan(&[("/lib", "/"), ("/lib/x", "/")]), Err(libc::ELOOP));
    }

    #[test]
    fn a_symlink_put_into_the_place_of_a_grant_is_not_followed() {
        if !nix::unistd::geteuid().is_root() {
            return println!("skipped: making mount namespaces needs root");
        }
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let (outer, inner, staging) = (dir.join("outer"), dir.join("outer/inner"), dir.join("staging"));
        fs::create_dir_all(&inner).unwrap();
        fs::create_dir(&staging).unwrap();
        let mounts = Mounts {
            staging,
            tmp_bytes: 1 << 20,
            proc: false,
        };
        let bind = |path| Bind {
            source: path,
            path,
            access: Access::Write,
        };
        let build = |root: &Root| crate::namespace::in_child(libc::CLONE_NEWNS, || root.build());
        let alone = Root::plan(&mounts, &[bind(&inner)], &[]).unwrap();
        let both = Root::plan(&mounts, &[bind(&outer), bind(&inner)], &[]).unwrap();
        for root in [&alone, &both] {
            build(root).unwrap();
        }
        fs::remove_dir(&inner).unwrap();
        std::os::unix::fs::symlink("/etc", &inner).unwrap();
        for root in [&alone, &both] {
            assert_eq!(build(root).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        }
    }

    #[test]
    fn localhost_has_a_name_unless_a_grant_holds_the_file() {
        let named = |paths: &[(&str, Access)]| {
            let mut root = Root {
                staging: c"/staging".into(),
                entries: plan(paths).unwrap(),
            };
            root.name_loopback().unwrap();
            root.names_loopback()
        };
        let own = tempfile::tempdir().unwrap();
        let other = own.path().to_str().unwrap();
        assert!(named(&[]) && named(&[(other, Access::Read)]));
        assert!(!named(&[("/etc", Access::Read)]));
    }
}
