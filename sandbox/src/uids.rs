//! Which uid belongs to which function: once given, a function keeps its uid for as long as the state folder lives, so
//! that files which it wrote stay its own. Never gives one uid to two functions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long after a save that failed it is tried again: what is not saved may be given to another function after a crash.
const AGAIN: Duration = Duration::from_secs(30);

/// The uids of functions, and the file that remembers them (one `name uid` per line).
#[derive(Debug)]
pub(crate) struct Uids {
    path: PathBuf,
    first: u32,
    count: u32,
    by_name: BTreeMap<String, u32>,
    taken: BTreeSet<u32>,
    unsaved: bool,
    /// When the last save failed: it is tried again later, and by the next new function.
    failed: Option<Instant>,
}

/// Why there is no uid.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UidError {
    /// The file can't be read or written.
    #[error("{path}: {source}; make room on its disk, and it readable and writable for this user", path = path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what this module wrote.
    #[error(
        "{path}, line {line}: expected `name uid`, found {text:?}; correct the line (a function that loses its line gets another uid)",
        path = path.display()
    )]
    Line {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What it says.
        text: String,
    },
    /// All are given away.
    #[error("all {count} uids from {first} are given to functions; raise `uid_count`, or remove functions that are gone from {path}", path = path.display())]
    Exhausted {
        /// The first of the range.
        first: u32,
        /// The size of the range.
        count: u32,
        /// The file that lists them.
        path: PathBuf,
    },
}

impl Uids {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// When it can't be read, or holds something else: a wrong guess could give a function another's files.
    pub(crate) fn load(path: &Path, first: u32, count: u32) -> Result<Uids, UidError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => {
                return Err(UidError::File {
                    path: path.to_path_buf(),
                    source,
                });
            }
        };
        let mut uids = Uids {
            path: path.to_path_buf(),
            first,
            count,
            by_name: BTreeMap::new(),
            taken: BTreeSet::new(),
            unsaved: false,
            failed: None,
        };
        for (index, line) in text.lines().enumerate() {
            let entry = line
                .split_once(' ')
                .and_then(|(name, uid)| Some((name, uid.parse::<u32>().ok()?)));
            match entry {
                Some((name, uid)) if uid != 0 && uids.taken.insert(uid) => {
                    uids.by_name.insert(name.to_owned(), uid);
                }
                _ => {
                    return Err(UidError::Line {
                        path: path.to_path_buf(),
                        line: index + 1,
                        text: line.to_owned(),
                    });
                }
            }
        }
        Ok(uids)
    }

    /// The uid of a function; a new function gets the lowest that is free. [`Uids::save`] makes it last.
    ///
    /// A remembered uid outside a range that was changed meanwhile is not used: the range is the operator's word.
    ///
    /// # Errors
    /// When none is free.
    pub(crate) fn get(&mut self, function: &str) -> Result<u32, UidError> {
        let range = self.first..self.first.saturating_add(self.count);
        if let Some(&uid) = self.by_name.get(function)
            && range.contains(&uid)
        {
            return Ok(uid);
        }
        let free = range.clone().find(|uid| !self.taken.contains(uid));
        let uid = free.ok_or_else(|| UidError::Exhausted {
            first: self.first,
            count: self.count,
            path: self.path.clone(),
        })?;
        if let Some(old) = self.by_name.insert(function.to_owned(), uid) {
            self.taken.remove(&old);
        }
        self.taken.insert(uid);
        self.unsaved = true;
        self.failed = None;
        Ok(uid)
    }

    /// Whether [`Uids::save`] has something to do.
    pub(crate) fn is_unsaved(&self, now: Instant) -> bool {
        self.unsaved
            && self
                .failed
                .is_none_or(|failed| now.saturating_duration_since(failed) >= AGAIN)
    }

    /// Writes the file if something is new: all of it or nothing of it, whatever happens meanwhile. Off the start path,
    /// because it waits for the disk.
    ///
    /// # Errors
    /// When it can't be written; a later call tries again.
    pub(crate) fn save(&mut self) -> Result<(), UidError> {
        if !self.unsaved {
            return Ok(());
        }
        let text: String = self
            .by_name
            .iter()
            .map(|(name, uid)| format!("{name} {uid}\n"))
            .collect();
        let next = self.path.with_extension("new");
        let write = || -> io::Result<()> {
            let mut options = File::options();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.custom_flags(libc::O_NOFOLLOW).open(&next)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&next, &self.path)
        };
        if let Err(source) = write() {
            self.failed = Some(Instant::now());
            return Err(UidError::File {
                path: self.path.clone(),
                source,
            });
        }
        self.unsaved = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_keeps_its_uid_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("uids");
        let mut uids = Uids::load(&path, 1000, 10).unwrap();
        let (a, b) = (uids.get("a").unwrap(), uids.get("b").unwrap());
        assert_eq!((a, b), (1000, 1001));
        assert_eq!(uids.get("a").unwrap(), a);
        uids.save().unwrap();
        let mut again = Uids::load(&path, 1000, 10).unwrap();
        assert_eq!(again.get("b").unwrap(), b);
        assert_eq!(again.get("c").unwrap(), 1002);
    }

    #[test]
    fn a_save_that_failed_is_tried_again_later() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("state");
        let mut uids = Uids::load(&folder.join("uids"), 1000, 10).unwrap();
        uids.get("a").unwrap();
        assert!(uids.is_unsaved(Instant::now()));
        assert!(uids.save().is_err(), "its folder is missing");
        assert!(!uids.is_unsaved(Instant::now()));
        fs::create_dir(&folder).unwrap();
        assert!(uids.is_unsaved(Instant::now() + AGAIN));
        uids.save().unwrap();
        assert!(!uids.is_unsaved(Instant::now() + AGAIN));
    }

    #[test]
    fn a_moved_range_moves_the_functions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("uids");
        let mut uids = Uids::load(&path, 1000, 10).unwrap();
        uids.get("a").unwrap();
        uids.save().unwrap();
        assert_eq!(Uids::load(&path, 5000, 10).unwrap().get("a").unwrap(), 5000);
    }

    #[test]
    fn an_exhausted_range_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let mut uids = Uids::load(&dir.path().join("uids"), 1000, 1).unwrap();
        uids.get("a").unwrap();
        assert!(
            uids.get("b")
                .unwrap_err()
                .to_string()
                .contains("raise `uid_count`")
        );
    }

    #[test]
    fn a_damaged_file_is_refused_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("uids");
        for bad in ["a 1000\nb\n", "a 0\n", "a 1000\nb 1000\n", "a x\n"] {
            fs::write(&path, bad).unwrap();
            let error = Uids::load(&path, 1000, 10).unwrap_err().to_string();
            assert!(error.contains("line"), "{bad:?}: {error}");
        }
    }
}
