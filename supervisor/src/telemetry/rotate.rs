//! A log file of bounded size with one predecessor, reached through the descriptor of its folder. Never walks a path:
//! the supervisor may only have the folder.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;

/// A file larger than this is moved to its `.1`, in bytes.
pub const MAX_FILE: u64 = 8 * 1024 * 1024;

/// A log file of bounded size. Closed until something is written, so that a thousand idle functions hold nothing.
#[derive(Debug)]
pub struct Rotating {
    folder: Arc<OwnedFd>,
    name: String,
    limit: u64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    size: u64,
    /// The last line has no end: a write was cut short, by a full disk or by our own death.
    torn: bool,
}

impl Rotating {
    /// The file `name` in `folder`, moved aside when it would outgrow `limit` bytes.
    pub fn new(folder: Arc<OwnedFd>, name: String, limit: u64) -> Rotating {
        Rotating {
            folder,
            name,
            limit,
            open: None,
        }
    }

    /// Appends one line, which must not contain a newline; it is written whole or counts as not written.
    ///
    /// # Errors
    /// Those of `openat`, `renameat` and `write`; the next call tries again.
    pub fn append(&mut self, line: &str) -> io::Result<()> {
        let length = line.len() as u64 + 1;
        let open = match self.open.take() {
            Some(open) => open,
            None => self.open()?,
        };
        let open = self.open.insert(open);
        if open.size > 0 && open.size + length > self.limit {
            renameat(
                &*self.folder,
                self.name.as_str(),
                &*self.folder,
                old_name(&self.name).as_str(),
            )?;
            self.open = None;
            let fresh = self.open()?;
            self.open = Some(fresh);
        }
        self.open
            .as_mut()
            .expect("opened above, and kept where it was replaced")
            .append(line)
    }

    /// Closes the file until the next line.
    pub fn close(&mut self) {
        self.open = None;
    }

    fn open(&self) -> io::Result<Open> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_APPEND;
        let file = open_in(&self.folder, &self.name, flags)?;
        let size = file.metadata()?.len();
        let mut last = [b'\n'];
        if size > 0 {
            file.read_exact_at(&mut last, size - 1)?;
        }
        Ok(Open {
            file,
            size,
            torn: last != [b'\n'],
        })
    }
}

impl Open {
    fn append(&mut self, line: &str) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(line.len() + 2);
        if self.torn {
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
        // One write: on a full disk a part may be written, and that part must not merge with the next line.
        let written = self.file.write(&bytes)?;
        self.size += written as u64;
        self.torn = written < bytes.len();
        if self.torn {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    }
}

/// The name of a log file's predecessor.
pub fn old_name(name: &str) -> String {
    format!("{name}.1")
}

/// Opens a log file for reading; `None` when there is none.
///
/// # Errors
/// Those of `openat`.
pub fn open_for_reading(folder: &OwnedFd, name: &str) -> io::Result<Option<File>> {
    match open_in(folder, name, OFlag::O_RDONLY) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn open_in(folder: &OwnedFd, name: &str, flags: OFlag) -> io::Result<File> {
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP;
    let fd = openat(folder.as_fd(), name, flags, mode).map_err(|e: Errno| io::Error::from(e))?;
    Ok(File::from(fd))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn folder(dir: &tempfile::TempDir) -> Arc<OwnedFd> {
        Arc::new(File::open(dir.path()).unwrap().into())
    }

    #[test]
    fn rotates_by_size_and_keeps_one_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Rotating::new(folder(&dir), "a.log".to_owned(), 30);
        for i in 0..9 {
            log.append(&format!("line {i} ...")).unwrap();
        }
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("a.log"), "line 8 ...\n");
        assert_eq!(read("a.log.1"), "line 6 ...\nline 7 ...\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_line_larger_than_the_limit_gets_a_file_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Rotating::new(folder(&dir), "a.log".to_owned(), 10);
        log.append("a line of more than ten bytes").unwrap();
        log.append("b").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a.log")).unwrap(), "b\n");
    }

    #[test]
    fn goes_on_where_it_stopped_and_repairs_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.log"), "whole\nhal").unwrap();
        let mut log = Rotating::new(folder(&dir), "a.log".to_owned(), 1000);
        log.append("next").unwrap();
        log.close();
        log.append("after").unwrap();
        let text = fs::read_to_string(dir.path().join("a.log")).unwrap();
        assert_eq!(text, "whole\nhal\nnext\nafter\n");
    }

    #[test]
    fn does_not_follow_a_link_out_of_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, "").unwrap();
        std::os::unix::fs::symlink(&outside, dir.path().join("a.log")).unwrap();
        let mut log = Rotating::new(folder(&dir), "a.log".to_owned(), 1000);
        assert!(log.append("x").is_err());
        assert!(open_for_reading(&folder(&dir), "a.log").is_err());
        assert_eq!(fs::read_to_string(outside).unwrap(), "");
    }

    #[test]
    fn a_full_disk_is_an_error_and_the_next_line_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Rotating::new(folder(&dir), "a.log".to_owned(), 1000);
        log.append("before").unwrap();
        // /dev/full answers every write as a full disk does.
        let real = log.open.take().unwrap();
        let full = File::options().read(true).write(true).open("/dev/full").unwrap();
        log.open = Some(Open { file: full, ..real });
        assert_eq!(log.append("lost").unwrap_err().kind(), io::ErrorKind::StorageFull);
        log.close();
        log.append("after").unwrap();
        let text = fs::read_to_string(dir.path().join("a.log")).unwrap();
        assert_eq!(text, "before\nafter\n");
    }
}
