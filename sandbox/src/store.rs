//! The content-addressed store of executables: copied while they are hashed, named by their SHA-256, never written again.
//! A copy goes on in small steps, so that a large file never delays a start.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::statfs::{FUSE_SUPER_MAGIC, fstatfs};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use ring::digest::{Context, SHA256};

use crate::known::{self, Known};
use crate::spec::Digest;
use crate::sys::process;
use crate::wire::StoreError;

/// The largest executable, in bytes.
const MAX_SIZE: u64 = 1 << 30;
/// How much is copied between two looks at other events, in bytes: about a millisecond's work.
pub(crate) const STEP: usize = 1 << 20;
/// How much may wait to be written to disk while a copy goes on, in bytes; bounds the wait of the `fsync` at its end.
const UNWRITTEN: u64 = 4 << 20;
/// What was stored this recently stays, listed or not: its `Stored` may have crossed a `Retain` on the wire.
const FRESH: Duration = Duration::from_secs(60);

/// The store.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    fresh: HashMap<Digest, Instant>,
    known: Known,
    copies: u64,
}

/// A copy that is under way.
pub(crate) struct Copy {
    source: File,
    target: File,
    path: PathBuf,
    before: fs::Metadata,
    began: SystemTime,
    hash: Context,
    head: [u8; 2],
    done: u64,
}

/// How far a copy got.
#[derive(Debug)]
pub(crate) enum Progress {
    /// There is more to do.
    More(Box<Copy>),
    /// It is stored: its digest and size in bytes.
    Stored(Digest, u64),
}

impl Store {
    /// Opens the folder, which exists, and removes what an interrupted copy left.
    ///
    /// # Errors
    /// When it can't be read.
    pub(crate) fn open(dir: &Path) -> io::Result<Store> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Store {
            dir: dir.to_path_buf(),
            fresh: HashMap::new(),
            known: Known::default(),
            copies: 0,
        })
    }

    /// The same with what another launcher knew.
    pub(crate) fn knowing(mut self, carried: known::Carried) -> Store {
        self.known = Known::again(carried);
        self
    }

    /// What the next launcher is to know.
    pub(crate) fn carry(&self) -> known::Carried {
        self.known.carry()
    }

    /// Looks at a file that a supervisor sent, and begins to copy it if it is not stored already. Its position is neither used nor moved.
    ///
    /// # Errors
    /// When somebody writes it now, or it is nothing that can be stored.
    pub(crate) fn begin(&mut self, source: OwnedFd) -> Result<Progress, StoreError> {
        let source = File::from(source);
        let began = SystemTime::now();
        let before = source.metadata().map_err(|e| refused("can't be looked at", &e))?;
        check(&before)?;
        match process::try_lease(source.as_fd()) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => return Err(StoreError::BeingWritten),
            // Another user's file without CAP_LEASE, or a file system without leases: the comparison after the copy stays.
            Err(_) => {}
        }
        if let Some(digest) = self.known.digest(&before)
            && self.holds(&digest, before.size())
            // Who may not read it learns nothing of it.
            && source.read_at(&mut [0], 0).is_ok()
        {
            self.fresh.insert(digest, Instant::now());
            return Ok(Progress::Stored(digest, before.size()));
        }
        self.copies += 1;
        let path = self.dir.join(format!(".copy-{}", self.copies));
        let target = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(storing)?;
        Ok(Progress::More(Box::new(Copy {
            source,
            target,
            path,
            before,
            began,
            hash: Context::new(&SHA256),
            head: [0; 2],
            done: 0,
        })))
    }

    /// Copies one step, with `buffer` of [`STEP`] bytes.
    ///
    /// # Errors
    /// When it changed meanwhile, can't be read, or the disk is full.
    pub(crate) fn step(&mut self, mut copy: Box<Copy>, buffer: &mut [u8]) -> Result<Progress, StoreError> {
        let length = copy
            .source
            .read_at(buffer, copy.done)
            .map_err(|e| refused("can't be read", &e))?;
        if length == 0 {
            return self.finish(*copy);
        }
        let bytes = &buffer[..length];
        if copy.done + length as u64 > copy.before.size() {
            return Err(StoreError::Changed);
        }
        for (index, byte) in bytes.iter().enumerate().take(2) {
            if let Some(slot) = copy.head.get_mut(copy.done as usize + index) {
                *slot = *byte;
            }
        }
        copy.hash.update(bytes);
        copy.target.write_all_at(bytes, copy.done).map_err(storing)?;
        // Small files may never reach the disk: the store may have them already.
        if copy.done >= UNWRITTEN {
            process::write_back(copy.target.as_fd(), copy.done, length as u64, false);
            process::write_back(copy.target.as_fd(), copy.done - UNWRITTEN, length as u64, true);
        }
        copy.done += length as u64;
        Ok(Progress::More(copy))
    }

    fn finish(&mut self, mut copy: Copy) -> Result<Progress, StoreError> {
        let after = copy
            .source
            .metadata()
            .map_err(|e| refused("can't be looked at", &e))?;
        let same = |of: fn(&fs::Metadata) -> i64| of(&copy.before) == of(&after);
        let unchanged = copy.done == copy.before.size()
            && copy.before.size() == after.size()
            && same(MetadataExt::mtime)
            && same(MetadataExt::mtime_nsec)
            && same(MetadataExt::ctime)
            && same(MetadataExt::ctime_nsec);
        if !unchanged {
            return Err(StoreError::Changed);
        }
        let hash = std::mem::replace(&mut copy.hash, Context::new(&SHA256)).finish();
        let digest = Digest(hash.as_ref().try_into().expect("a SHA-256 has 32 bytes"));
        let path = self.path(&digest);
        self.fresh.insert(digest, Instant::now());
        if keeps_times(&copy.source) {
            self.known.note(&after, digest, copy.began);
        }
        if self.holds(&digest, copy.done) {
            return Ok(Progress::Stored(digest, copy.done));
        }
        // An interpreter must be able to read its script; nobody needs to read an executable to run it.
        let mode = if copy.head == *b"#!" { 0o555 } else { 0o111 };
        copy.target
            .set_permissions(fs::Permissions::from_mode(mode))
            .map_err(storing)?;
        copy.target.sync_all().map_err(storing)?;
        fs::rename(&copy.path, &path).map_err(storing)?;
        Ok(Progress::Stored(digest, copy.done))
    }

    fn holds(&self, digest: &Digest, size: u64) -> bool {
        fs::symlink_metadata(self.path(digest)).is_ok_and(|there| there.is_file() && there.size() == size)
    }

    /// Opens a stored executable, only to execute it.
    ///
    /// # Errors
    /// `NotFound` when it is not stored.
    pub(crate) fn executable(&self, digest: &Digest) -> io::Result<OwnedFd> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW);
        options.open(self.path(digest)).map(OwnedFd::from)
    }

    /// Where a stored executable lies.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.to_string())
    }

    /// Removes every executable that `keep` does not want and that was not stored just now.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Digest) -> bool) -> io::Result<()> {
        self.fresh.retain(|_, since| since.elapsed() < FRESH);
        let fresh = &self.fresh;
        self.known
            .retain(|digest| keep(digest) || fresh.contains_key(digest));
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Some(digest) = entry.file_name().to_str().and_then(parse_digest) else {
                continue;
            };
            if !keep(&digest) && !self.fresh.contains_key(&digest) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Copy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Copy({}, {} bytes)", self.path.display(), self.done)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // Gone already if the copy was renamed to its digest.
        let _ = fs::remove_file(&self.path);
    }
}

/// Whether a change of a file shows in its times: not where those are made up (FUSE), or of an image that can be replaced as a whole.
fn keeps_times(file: &File) -> bool {
    let is_image = fstatvfs(file).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_RDONLY));
    let is_fuse = fstatfs(file).is_ok_and(|fs| fs.filesystem_type() == FUSE_SUPER_MAGIC);
    !is_image && !is_fuse
}

fn check(file: &fs::Metadata) -> Result<(), StoreError> {
    let refuse = |what: &str| Err(StoreError::Refused(what.to_owned()));
    let mode = file.mode();
    if !file.is_file() {
        return refuse("not a regular file: put the executable itself there");
    }
    if mode & 0o6000 != 0 {
        return refuse("setuid or setgid: remove that with `chmod ug-s`");
    }
    if mode & 0o022 != 0 {
        return refuse("writable by its group or by everyone: remove that with `chmod go-w`");
    }
    if mode & 0o111 == 0 {
        return refuse("not executable: make it so with `chmod +x`");
    }
    if file.size() == 0 {
        return refuse("empty: copy it again");
    }
    if file.size() > MAX_SIZE {
        return refuse("larger than 1 GiB: strip it, or grant the function a directory for its data");
    }
    Ok(())
}

fn refused(what: &str, e: &io::Error) -> StoreError {
    StoreError::Refused(format!("{what}: {e}"))
}

fn storing(e: io::Error) -> StoreError {
    let next = match e.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => "; make room in the state folder and copy the executable again",
        _ => "; look at the state folder",
    };
    StoreError::Refused(format!("can't be written to the store: {e}{next}"))
}

fn parse_digest(name: &str) -> Option<Digest> {
    if name.len() != 64
        || !name
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    {
        return None;
    }
    let mut digest = [0; 32];
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&name[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(Digest(digest))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    struct Case {
        dir: tempfile::TempDir,
        store: Store,
    }

    impl Case {
        fn new() -> Case {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("store")).unwrap();
            let store = Store::open(&dir.path().join("store")).unwrap();
            Case { dir, store }
        }

        fn file(&self, bytes: &[u8], mode: u32) -> PathBuf {
            let path = self.dir.path().join("file");
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        }

        /// Copies as the supervisor does, which tries again: other tests fork, and a fork holds this test's own writer
        /// until it executes.
        fn copy(&mut self, path: &Path) -> Result<(Digest, u64), StoreError> {
            loop {
                match self.copy_once(path) {
                    Err(StoreError::BeingWritten) => std::thread::yield_now(),
                    other => return other,
                }
            }
        }

        fn copy_once(&mut self, path: &Path) -> Result<(Digest, u64), StoreError> {
            let begun = self.store.begin(File::open(path).unwrap().into())?;
            self.run(begun)
        }

        fn run(&mut self, mut progress: Progress) -> Result<(Digest, u64), StoreError> {
            let mut buffer = vec![0; STEP];
            loop {
                match progress {
                    Progress::More(copy) => progress = self.store.step(copy, &mut buffer)?,
                    Progress::Stored(digest, size) => return Ok((digest, size)),
                }
            }
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.dir.path().join("store")).unwrap();
            let mut names: Vec<_> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }
    }

    #[test]
    fn what_is_stored_is_named_by_its_hash_and_not_writable() {
        let mut case = Case::new();
        let path = case.file(b"\x7fELF", 0o755);
        let (digest, size) = case.copy(&path).unwrap();
        assert_eq!(size, 4);
        let expected = ring::digest::digest(&SHA256, b"\x7fELF");
        assert_eq!(digest.0, expected.as_ref());
        assert_eq!(case.names(), [digest.to_string()]);
        assert_eq!(
            fs::metadata(case.store.path(&digest)).unwrap().mode() & 0o7777,
            0o111
        );
        case.store.executable(&digest).unwrap();
        // Again: the same name, nothing left over.
        assert_eq!(case.copy(&path).unwrap(), (digest, 4));
        assert_eq!(case.names(), [digest.to_string()]);
    }

    #[test]
    fn a_script_stays_readable_for_its_interpreter() {
        let mut case = Case::new();
        let path = case.file(b"#!/bin/sh\n", 0o755);
        let (digest, _) = case.copy(&path).unwrap();
        assert_eq!(
            fs::metadata(case.store.path(&digest)).unwrap().mode() & 0o7777,
            0o555
        );
    }

    #[test]
    fn a_large_file_is_copied_in_steps() {
        let mut case = Case::new();
        let bytes: Vec<u8> = (0..9 * STEP + 7).map(|i| (i / 3) as u8).collect();
        let path = case.file(&bytes, 0o755);
        let (digest, size) = case.copy(&path).unwrap();
        assert_eq!(size, bytes.len() as u64);
        assert_eq!(digest.0, ring::digest::digest(&SHA256, &bytes).as_ref());
        let path = case.store.path(&digest);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn what_can_not_be_stored_is_refused_with_the_fix() {
        let mut case = Case::new();
        for (mode, expected) in [
            (0o4755, "chmod ug-s"),
            (0o2755, "chmod ug-s"),
            (0o775, "chmod go-w"),
            (0o757, "chmod go-w"),
            (0o644, "chmod +x"),
        ] {
            let path = case.file(b"x", mode);
            match case.copy(&path) {
                Err(StoreError::Refused(said)) => assert!(said.contains(expected), "{said}"),
                other => panic!("{mode:o}: {other:?}"),
            }
        }
        let empty = case.file(b"", 0o755);
        assert!(matches!(case.copy(&empty), Err(StoreError::Refused(said)) if said.contains("empty")));
        let fifo = case.dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o755)).unwrap();
        let mut options = OpenOptions::new();
        let opened = options
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&fifo)
            .unwrap();
        let said = case.store.begin(opened.into()).unwrap_err();
        assert!(matches!(said, StoreError::Refused(said) if said.contains("regular")));
        assert!(case.names().is_empty());
    }

    #[test]
    fn a_file_opened_without_reading_is_refused() {
        let mut case = Case::new();
        let path = case.file(b"x", 0o755);
        let unreadable = OpenOptions::new().write(true).open(&path).unwrap();
        assert!(case.store.begin(unreadable.into()).is_err());
        let mut options = OpenOptions::new();
        let only_path = options.read(true).custom_flags(libc::O_PATH).open(&path).unwrap();
        let copy = case.store.begin(only_path.into());
        assert!(copy.and_then(|copy| case.run(copy)).is_err());
    }

    #[test]
    fn what_is_stored_already_is_not_read_again() {
        let mut case = Case::new();
        let path = case.file(b"program", 0o755);
        let (digest, size) = case.copy(&path).unwrap();
        // As if it had been stored long after it was written.
        let later = SystemTime::now() + Duration::from_secs(10);
        case.store
            .known
            .note(&fs::metadata(&path).unwrap(), digest, later);
        let begun = |case: &mut Case| loop {
            match case.store.begin(File::open(&path).unwrap().into()) {
                Err(StoreError::BeingWritten) => std::thread::yield_now(),
                other => return other.unwrap(),
            }
        };
        let Progress::Stored(at_once, length) = begun(&mut case) else {
            panic!("it is read again");
        };
        assert_eq!((at_once, length), (digest, size));
        // Only where it may be read.
        let mut options = OpenOptions::new();
        let only_path = options.read(true).custom_flags(libc::O_PATH).open(&path).unwrap();
        assert!(!matches!(
            case.store.begin(only_path.into()),
            Ok(Progress::Stored(..))
        ));
        // When it is gone from the store, it is stored again.
        fs::remove_file(case.store.path(&digest)).unwrap();
        assert!(matches!(begun(&mut case), Progress::More(_)));
        assert_eq!(case.copy(&path).unwrap(), (digest, size));
        // And when it has changed.
        case.file(b"another", 0o755);
        assert!(matches!(begun(&mut case), Progress::More(_)));
        assert_ne!(case.copy(&path).unwrap().0, digest);
    }

    #[test]
    fn a_file_that_somebody_writes_is_not_stored() {
        let mut case = Case::new();
        let path = case.file(b"half", 0o755);
        let writer = OpenOptions::new().append(true).open(&path).unwrap();
        assert_eq!(case.copy_once(&path), Err(StoreError::BeingWritten));
        drop(writer);
        case.copy(&path).unwrap();
    }

    #[test]
    fn a_file_that_changes_meanwhile_is_not_stored() {
        let mut case = Case::new();
        let path = case.file(&vec![1; 2 * STEP], 0o755);
        let copy = loop {
            match case.store.begin(File::open(&path).unwrap().into()) {
                Err(StoreError::BeingWritten) => std::thread::yield_now(),
                Ok(Progress::More(copy)) => break copy,
                other => panic!("{other:?}"),
            }
        };
        let mut buffer = vec![0; STEP];
        let Ok(Progress::More(copy)) = case.store.step(copy, &mut buffer) else {
            panic!("two steps are needed");
        };
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"more")
            .unwrap();
        assert_eq!(case.run(Progress::More(copy)), Err(StoreError::Changed));
        assert!(case.names().is_empty());
    }

    #[test]
    fn retain_keeps_what_is_wanted_or_fresh() {
        let mut case = Case::new();
        let path = case.file(b"a", 0o755);
        let (fresh, _) = case.copy(&path).unwrap();
        let (wanted, old) = (Digest([1; 32]), Digest([2; 32]));
        for digest in [wanted, old] {
            fs::write(case.store.path(&digest), "x").unwrap();
        }
        case.store.retain(|digest| *digest == wanted).unwrap();
        let mut expected = vec![fresh.to_string(), wanted.to_string()];
        expected.sort();
        assert_eq!(case.names(), expected);
    }

    #[test]
    fn an_interrupted_copy_is_cleared_away() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".copy-1"), "x").unwrap();
        Store::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
