//! Which files were stored already: whoever starts anew (a supervisor, or the launcher after an upgrade) sends all of them again, and
//! what has not changed since need not be read again. Never opens one.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::spec::Digest;

/// A file that was changed this recently may be changed again within the same tick of its clock, and look the same.
const STILL: Duration = Duration::from_secs(2);
/// Files that are known at most; beyond it is forgotten, and read again.
const MOST: usize = 16 * 1024;

/// What tells that a file is what it was. Its owner can't set the last (inode(7), `ctime`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Print {
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Print {
    fn of(file: &Metadata) -> Print {
        Print {
            size: file.size(),
            mtime: (file.mtime(), file.mtime_nsec()),
            ctime: (file.ctime(), file.ctime_nsec()),
        }
    }

    fn is_still(&self, now: SystemTime) -> bool {
        let at = |(seconds, nanos): (i64, i64)| {
            let since = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?);
            UNIX_EPOCH.checked_add(since)
        };
        let is_old = |at: Option<SystemTime>| {
            at.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age >= STILL))
        };
        is_old(at(self.mtime)) && is_old(at(self.ctime))
    }
}

/// Files, by device and number, and the digest of each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known(HashMap<(u64, u64), (Print, Digest)>);

/// The same for the next launcher in this process.
pub(crate) type Carried = Vec<Carry>;

/// A file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Carry {
    dev: u64,
    ino: u64,
    print: Print,
    digest: Digest,
}

impl Known {
    /// The digest of a file that is what it was when it was stored.
    pub(crate) fn digest(&self, file: &Metadata) -> Option<Digest> {
        let (print, digest) = self.0.get(&(file.dev(), file.ino()))?;
        (*print == Print::of(file)).then_some(*digest)
    }

    /// A file was stored, and was this all the time.
    pub(crate) fn note(&mut self, file: &Metadata, digest: Digest, now: SystemTime) {
        let print = Print::of(file);
        if !print.is_still(now) {
            return;
        }
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert((file.dev(), file.ino()), (print, digest));
    }

    /// Forgets the files whose digests `keep` does not want.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Digest) -> bool) {
        self.0.retain(|_, (_, digest)| keep(digest));
    }

    pub(crate) fn carry(&self) -> Carried {
        let all = self.0.iter();
        all.map(|(&(dev, ino), &(print, digest))| Carry {
            dev,
            ino,
            print,
            digest,
        })
        .collect()
    }

    pub(crate) fn again(carried: Carried) -> Known {
        let all = carried.into_iter().take(MOST);
        Known(all.map(|it| ((it.dev, it.ino), (it.print, it.digest))).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const DIGEST: Digest = Digest([7; 32]);

    #[test]
    fn a_file_is_known_until_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "one").unwrap();
        let look = || fs::metadata(&path).unwrap();
        let mut known = Known::default();
        let later = SystemTime::now() + STILL;
        known.note(&look(), DIGEST, later);
        assert_eq!(known.digest(&look()), Some(DIGEST));
        assert_eq!(Known::again(known.carry()).digest(&look()), Some(DIGEST));
        // The same size and time of change: another file has another number, ...
        let times = fs::FileTimes::new().set_modified(look().modified().unwrap());
        fs::write(dir.path().join("other"), "two").unwrap();
        fs::File::options()
            .write(true)
            .open(dir.path().join("other"))
            .unwrap()
            .set_times(times)
            .unwrap();
        assert_eq!(
            known.digest(&fs::metadata(dir.path().join("other")).unwrap()),
            None
        );
        // ... and the same file another time of its own.
        std::thread::sleep(Duration::from_millis(20));
        let file = fs::File::options().write(true).open(&path).unwrap();
        fs::write(&path, "two").unwrap();
        file.set_times(times).unwrap();
        assert_eq!(known.digest(&look()), None);
    }

    #[test]
    fn what_was_changed_just_now_is_read_again() {
        let file = tempfile::tempfile().unwrap();
        let look = || file.metadata().unwrap();
        let mut known = Known::default();
        known.note(&look(), DIGEST, SystemTime::now());
        assert_eq!(known.digest(&look()), None);
        // The control.
        known.note(&look(), DIGEST, SystemTime::now() + STILL);
        assert_eq!(known.digest(&look()), Some(DIGEST));
    }

    #[test]
    fn what_is_not_kept_is_forgotten() {
        let file = tempfile::tempfile().unwrap();
        let mut known = Known::default();
        known.note(&file.metadata().unwrap(), DIGEST, SystemTime::now() + STILL);
        known.retain(|digest| *digest == DIGEST);
        assert_eq!(known.carry().len(), 1);
        known.retain(|_| false);
        assert!(known.carry().is_empty());
    }
}
