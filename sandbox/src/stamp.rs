//! What tells two states of a file apart, without reading it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A file that was changed this recently may be changed again within the same tick of its clock, and look the same.
pub(crate) const STILL: Duration = Duration::from_secs(2);

/// A state of a file. Its owner can't set the last of it (inode(7), `ctime`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Stamp {
    place: (u64, u64),
    pub(crate) size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(meta: &Metadata) -> Stamp {
        Stamp {
            place: (meta.dev(), meta.ino()),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether its last change was long enough before `now` for each later one to show.
    pub(crate) fn is_still(&self, now: SystemTime) -> bool {
        let is_old = |(seconds, nanos): (i64, i64)| {
            let since = u64::try_from(seconds).ok().zip(u32::try_from(nanos).ok());
            since
                .and_then(|(seconds, nanos)| UNIX_EPOCH.checked_add(Duration::new(seconds, nanos)))
                .is_some_and(|at| now.duration_since(at).is_ok_and(|age| age >= STILL))
        };
        is_old(self.modified) && is_old(self.changed)
    }
}
