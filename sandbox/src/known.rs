//! Which files were stored already: whoever starts anew (a supervisor, or the launcher after an upgrade) sends all of them again, and
//! what has not changed since need not be read again. Never opens one.

use std::collections::HashMap;
use std::fs::Metadata;
use std::time::SystemTime;

use crate::spec::Digest;
use crate::stamp::Stamp;

/// Files that are known at most; beyond it is forgotten, and read again.
const MOST: usize = 16 * 1024;

/// States of files, and the digest of each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known(HashMap<Stamp, Digest>);

/// The same for the next launcher in this process.
pub(crate) type Carried = Vec<(Stamp, Digest)>;

impl Known {
    /// The digest of a file that is what it was when it was stored.
    pub(crate) fn digest(&self, file: &Metadata) -> Option<Digest> {
        self.0.get(&Stamp::of(file)).copied()
    }

    /// A file was stored, and has been this since `began`.
    pub(crate) fn note(&mut self, file: &Metadata, digest: Digest, began: SystemTime) {
        let stamp = Stamp::of(file);
        if !stamp.is_still(began) {
            return;
        }
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(stamp, digest);
    }

    /// Forgets the files whose digests `keep` does not want.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Digest) -> bool) {
        self.0.retain(|_, digest| keep(digest));
    }

    pub(crate) fn carry(&self) -> Carried {
        let all = self.0.iter();
        all.map(|(stamp, &digest)| (stamp.clone(), digest)).collect()
    }

    pub(crate) fn again(carried: Carried) -> Known {
        Known(carried.into_iter().take(MOST).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::stamp::STILL;

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
        let before = look();
        let file = fs::File::options().write(true).open(&path).unwrap();
        // Until its clock has ticked.
        while (look().ctime(), look().ctime_nsec()) == (before.ctime(), before.ctime_nsec()) {
            fs::write(&path, "two").unwrap();
            file.set_times(times).unwrap();
        }
        assert_eq!(
            (look().len(), look().modified().unwrap()),
            (before.len(), before.modified().unwrap())
        );
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
