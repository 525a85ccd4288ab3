//! Reads the last records of a log, from the end backwards and bounded, so that neither the size of the file nor the
//! wish of a client decides how much memory that takes.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use super::record::Record;
use super::rotate::{old_name, open_for_reading};

/// The most records that are given at once.
pub const MAX_RECORDS: usize = 10_000;
/// The most bytes of log that are read for one answer.
const MAX_BYTES: u64 = 4 * 1024 * 1024;
const BLOCK: u64 = 64 * 1024;

/// The last `count` records (at most [`MAX_RECORDS`]) of the log `name` and its predecessor, oldest first. `None`: no
/// such log. Lines that are no records (torn by a full disk) are left out.
///
/// # Errors
/// Those of `openat` and `read`.
pub fn last(folder: &OwnedFd, name: &str, count: usize) -> io::Result<Option<Vec<Record>>> {
    let count = count.min(MAX_RECORDS);
    let mut records = VecDeque::new();
    let mut budget = MAX_BYTES;
    let mut found = false;
    for name in [name.to_owned(), old_name(name)] {
        if let Some(file) = open_for_reading(folder, &name)? {
            found = true;
            collect(&file, count, &mut budget, &mut records)?;
        }
    }
    Ok(found.then(|| records.into()))
}

/// Puts records of the file, last first, at the front until there are `count` or the budget of bytes is used up.
fn collect(file: &File, count: usize, budget: &mut u64, records: &mut VecDeque<Record>) -> io::Result<()> {
    let mut at = file.metadata()?.len();
    // The beginning of what was read so far: the end of a line whose start lies before `at`.
    let mut partial: Vec<u8> = Vec::new();
    while at > 0 && records.len() < count && *budget > 0 {
        let length = BLOCK.min(at).min(*budget);
        at -= length;
        *budget -= length;
        let mut block = vec![0; length as usize];
        file.read_exact_at(&mut block, at)?;
        block.append(&mut partial);
        let first_whole = match at {
            0 => 0,
            _ => block
                .iter()
                .position(|b| *b == b'\n')
                .map_or(block.len(), |end| end + 1),
        };
        for line in block[first_whole..].rsplit(|byte| *byte == b'\n') {
            if records.len() == count {
                break;
            }
            if let Ok(record) = serde_json::from_slice(line) {
                records.push_front(record);
            }
        }
        block.truncate(first_whole);
        partial = block;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::record::Stream;
    use super::*;
    use std::fs;

    fn line(i: usize, padding: usize) -> String {
        let record = Record {
            time: "2026-01-01T00:00:00.000Z".to_owned(),
            function: "hello".to_owned(),
            instance: Some(1),
            revision: None,
            stream: Stream::Stdout,
            continues: false,
            line: format!("{i} {}", "x".repeat(padding)),
        };
        serde_json::to_string(&record).unwrap() + "\n"
    }

    fn numbers(dir: &tempfile::TempDir, count: usize) -> Vec<usize> {
        let folder: OwnedFd = File::open(dir.path()).unwrap().into();
        let records = last(&folder, "hello.log", count).unwrap().unwrap();
        let number = |r: &Record| r.line.split(' ').next().unwrap().parse().unwrap();
        records.iter().map(number).collect()
    }

    #[test]
    fn crosses_blocks_and_files_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let lines = |range: std::ops::Range<usize>| range.map(|i| line(i, i % 700)).collect::<String>();
        fs::write(dir.path().join("hello.log.1"), lines(0..3000)).unwrap();
        fs::write(dir.path().join("hello.log"), lines(3000..3500)).unwrap();
        assert_eq!(numbers(&dir, 3), [3497, 3498, 3499]);
        assert_eq!(numbers(&dir, 500), (3000..3500).collect::<Vec<_>>());
        assert_eq!(numbers(&dir, 1700), (1800..3500).collect::<Vec<_>>());
        assert_eq!(numbers(&dir, usize::MAX), (0..3500).collect::<Vec<_>>());
        assert!(numbers(&dir, 0).is_empty());
    }

    #[test]
    fn torn_lines_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("{}{{\"time\":\"20\n{}", line(1, 0), line(2, 0));
        fs::write(dir.path().join("hello.log"), text).unwrap();
        assert_eq!(numbers(&dir, 10), [1, 2]);
    }

    #[test]
    fn reads_a_bounded_part_of_a_large_file() {
        let dir = tempfile::tempdir().unwrap();
        let text: String = (0..9000).map(|i| line(i, 900)).collect();
        fs::write(dir.path().join("hello.log"), text).unwrap();
        let numbers = numbers(&dir, 9000);
        assert_eq!(*numbers.last().unwrap(), 8999);
        assert!(numbers.len() < 4500, "{}", numbers.len());
        assert_eq!(numbers, (9000 - numbers.len()..9000).collect::<Vec<_>>());
    }

    #[test]
    fn no_log_is_told_from_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let folder: OwnedFd = File::open(dir.path()).unwrap().into();
        assert!(last(&folder, "hello.log", 1).unwrap().is_none());
        fs::write(dir.path().join("hello.log"), "").unwrap();
        assert_eq!(last(&folder, "hello.log", 1).unwrap().unwrap(), []);
    }
}
