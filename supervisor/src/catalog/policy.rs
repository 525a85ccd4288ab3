//! What a file's name, mode and owner say about it, before it is opened. Pure: takes what stat(2) said, touches nothing.

use std::ffi::OsStr;

use super::folder::{FileId, FolderState};
use super::refusal::{Refusal, kind};

/// Names that are never functions and never shown: hidden files (also what rsync and `funcd run` write first), editors'
/// backups.
pub fn is_ignored(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b".") || name.ends_with(b"~") || (name.starts_with(b"#") && name.ends_with(b"#"))
}

/// Names that upload programs use until they are done.
pub fn is_upload(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let ends: [&[u8]; 5] = [b".part", b".partial", b".tmp", b".filepart", b".crdownload"];
    ends.iter().any(|end| name.ends_with(end))
}

/// What every file and folder must fulfil: nobody but root and the owner of the functions folder can change it. `place`
/// begins the reason.
///
/// # Errors
/// What it does not fulfil.
pub fn owned(id: &FileId, home: &FolderState, place: &str) -> Result<(), Refusal> {
    if id.mode & 0o022 != 0 {
        let mode = id.mode & 0o7777;
        let reason = format!("{place}group or others may change it (mode {mode:04o}): chmod go-w it");
        return Err(Refusal::new(kind::WRITABLE, reason));
    }
    if id.uid != 0 && id.uid != home.id.uid {
        let reason = format!(
            "{place}it belongs to uid {}: chown it to root or to the functions folder's owner (uid {})",
            id.uid, home.id.uid
        );
        return Err(Refusal::new(kind::OWNER, reason));
    }
    Ok(())
}

/// What an executable of at most `most` bytes must fulfil.
///
/// # Errors
/// What it does not fulfil.
pub fn check(id: &FileId, home: &FolderState, most: u64, place: &str) -> Result<(), Refusal> {
    let mode = id.mode & 0o7777;
    if mode & 0o6000 != 0 {
        let reason = format!("{place}it is setuid or setgid (mode {mode:04o}): chmod ug-s it");
        return Err(Refusal::new(kind::SETUID, reason));
    }
    owned(id, home, place)?;
    if id.size == 0 {
        return Err(Refusal::new(
            kind::EMPTY,
            format!("{place}it is empty: copy it again"),
        ));
    }
    if mode & 0o111 == 0 {
        return Err(Refusal::new(
            kind::NOT_EXECUTABLE,
            format!("{place}it is not executable (mode {mode:04o}): chmod +x it"),
        ));
    }
    if id.size > most {
        let reason = format!("{place}it has {} bytes, at most {most} are stored", id.size);
        return Err(Refusal::new(kind::TOO_BIG, reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, ignored) in [
            (".hello.Xy12", true),
            ("hello~", true),
            ("#hello#", true),
            ("hello", false),
            ("hello.part", false),
        ] {
            assert_eq!(is_ignored(name.as_ref()), ignored, "{name}");
        }
        for (name, upload) in [
            ("hello.part", true),
            ("hello.tmp", true),
            ("part", false),
            ("hello", false),
        ] {
            assert_eq!(is_upload(name.as_ref()), upload, "{name}");
        }
    }

    #[test]
    fn only_root_and_the_owner_of_the_folder_are_believed() {
        let file = |uid| FileId {
            dev: 1,
            ino: 1,
            size: 1,
            mode: 0o100_755,
            uid,
            gid: 7,
            mtime: 1,
            ctime: 1,
        };
        let home = FolderState {
            id: file(1000),
            deleted: false,
        };
        for (uid, kind) in [
            (0, None),
            (1000, None),
            (1001, Some(kind::OWNER)),
            (65534, Some(kind::OWNER)),
        ] {
            let refusal = check(&file(uid), &home, 10, "").err();
            assert_eq!(refusal.as_ref().map(|refusal| refusal.kind), kind, "{uid}");
        }
        let reason = owned(&file(1001), &home, "f/f: ").unwrap_err().reason;
        assert!(
            reason.starts_with("f/f: it belongs to uid 1001: chown it"),
            "{reason}"
        );
    }
}
