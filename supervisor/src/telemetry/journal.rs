//! The functions' lines in systemd's journal, beside their own files, with fields that journalctl(1) selects by. Speaks the
//! journal's native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL>), and never waits for it: what it does not take at
//! once is not there.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use super::record::{Record, Stream};

/// Where journald listens; systemd keeps the socket when journald is restarted.
pub const SOCKET: &str = "/run/systemd/journal/socket";
/// `info` of syslog(3), for what a function writes to its standard output, and `notice` for what funcd says about it.
const INFO: u8 = 6;
const NOTICE: u8 = 5;
/// `warning`: what it writes to its standard error. Most of what programs write there is none, and still is what is looked for.
const WARNING: u8 = 4;

/// A way to the journal.
#[derive(Debug)]
pub struct Journal(UnixDatagram);

impl Journal {
    /// Connects to the journal's socket; afterwards its path is not needed any more.
    ///
    /// # Errors
    /// Where there is no journal, or it is not for us.
    pub fn connect(socket: &Path) -> io::Result<Journal> {
        let ours = UnixDatagram::unbound()?;
        ours.connect(socket)?;
        ours.set_nonblocking(true)?;
        Ok(Journal(ours))
    }

    /// Hands it a record. A journal that is busy or gone misses it; the function's own file has it.
    pub fn tell(&self, record: &Record) {
        let _ = self.0.send(entry(record).as_bytes());
    }
}

/// A record as the journal reads it: fields, each a line. The text of a record is escaped, and has no line feed.
fn entry(record: &Record) -> String {
    let priority = match record.stream {
        Stream::Stdout => INFO,
        Stream::Stderr => WARNING,
        Stream::Platform => NOTICE,
    };
    let mut entry = format!(
        "MESSAGE={}\nPRIORITY={priority}\nSYSLOG_IDENTIFIER={function}\nFUNCD_FUNCTION={function}\nFUNCD_STREAM={}\n",
        record.line,
        record.stream.as_str(),
        function = record.function,
    );
    if let Some(instance) = record.instance {
        entry += &format!("FUNCD_INSTANCE={instance}\n");
    }
    if let Some(revision) = &record.revision {
        entry += &format!("FUNCD_REVISION={revision}\n");
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            time: "2026-01-01T00:00:00.000Z".to_owned(),
            function: "hello".to_owned(),
            instance: Some(7),
            revision: Some("1f0c5ab3e1d2".to_owned()),
            stream: Stream::Stderr,
            continues: false,
            line: super::super::escape::escape(b"one\nFUNCD_FUNCTION=other"),
        }
    }

    #[test]
    fn an_entry_says_whose_line_it_is_and_no_line_says_otherwise() {
        let entry = entry(&record());
        let fields: Vec<&str> = entry.lines().collect();
        assert!(fields[0].starts_with("MESSAGE=one"), "{entry}");
        assert_eq!(
            fields[1..],
            [
                "PRIORITY=4",
                "SYSLOG_IDENTIFIER=hello",
                "FUNCD_FUNCTION=hello",
                "FUNCD_STREAM=stderr",
                "FUNCD_INSTANCE=7",
                "FUNCD_REVISION=1f0c5ab3e1d2"
            ]
        );
    }

    #[test]
    fn a_journal_that_does_not_read_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::connect(&path).unwrap();
        // More than any socket buffers.
        for _ in 0..10_000 {
            journal.tell(&record());
        }
        let mut first = [0; 1024];
        let length = journald.recv(&mut first).unwrap();
        assert!(first[..length].starts_with(b"MESSAGE=one"));
        drop(journald);
        journal.tell(&record());
        assert!(Journal::connect(&dir.path().join("none")).is_err());
    }
}
