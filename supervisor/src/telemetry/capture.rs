//! The functions' logs: reads what instances write line by line, keeps it bounded and escaped, shows it to who asks.
//! A function never waits for its log: what is too much is read and thrown away, and counted.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use funcd_sandbox::spec::InstanceId;
use tokio::net::unix::pipe;
use tokio::runtime::Handle;
use tokio::sync::broadcast;

use super::escape::escape;
use super::lines::{Piece, Splitter};
use super::names;
use super::rate::{Bucket, UNITS_PER_SECOND};
use super::record::{Record, Stream, rfc3339};
use super::rotate::{MAX_FILE, Rotating};
use super::tail;
use crate::name::{FunctionName, RevisionId};

/// How much of a pipe is read at once, in bytes: on the stack, so that idle readers hold no buffer.
const CHUNK: usize = 16 * 1024;
/// A function that floods its log is read at most this often, so that it costs the host little CPU.
const FLOOD_PAUSE: Duration = Duration::from_millis(1);
/// Lines that were dropped are summed up in the log at most this often.
const SUMMARY: Duration = Duration::from_secs(1);
/// Records that a follower may be behind before it misses some.
const FOLLOW_BEHIND: usize = 1024;

/// The functions' logs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Logs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    folder: Arc<OwnedFd>,
    runtime: Handle,
    functions: Mutex<HashMap<FunctionName, Arc<FunctionLog>>>,
}

/// Who writes.
#[derive(Debug, Clone)]
pub struct Writer {
    /// Whose instance.
    pub function: FunctionName,
    /// What it runs.
    pub revision: RevisionId,
    /// Which instance.
    pub instance: InstanceId,
}

impl Logs {
    /// Logs in `folder`, read and written by tasks of `runtime`. Nothing is read or written before there is something
    /// to log.
    pub fn new(folder: OwnedFd, runtime: Handle) -> Logs {
        Logs(Arc::new(Shared {
            folder: Arc::new(folder),
            runtime,
            functions: Mutex::new(HashMap::new()),
        }))
    }

    /// Reads both pipes until their other ends are closed. Returns at once; may be called from any thread.
    pub fn attach(&self, writer: Writer, stdout: OwnedFd, stderr: OwnedFd) {
        let log = self.of(&writer.function);
        for (stream, pipe) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr)] {
            log.lock().readers += 1;
            let task = read_all(Arc::clone(&log), writer.clone(), stream, pipe);
            self.0.runtime.spawn(task);
        }
    }

    /// Writes what funcd has to say about a function, for example how an instance ended. Returns at once; may be
    /// called from any thread.
    pub fn note(&self, function: &FunctionName, line: &str) {
        let (log, text) = (self.of(function), escape(line.as_bytes()));
        self.0.runtime.spawn(async move {
            let mut state = log.lock();
            log.keep(&mut state, log.platform(text));
            if state.readers == 0 {
                state.file.close();
            }
        });
    }

    /// The last `count` records, oldest first; `None`: nothing was ever logged.
    ///
    /// # Errors
    /// Those of reading the files.
    pub fn tail(&self, function: &FunctionName, count: usize) -> io::Result<Option<Vec<Record>>> {
        tail::last(&self.0.folder, &file_name(function), count)
    }

    /// The last `count` records and all that follow: none is missed or given twice between the two.
    ///
    /// # Errors
    /// Those of reading the files.
    pub fn follow(&self, function: &FunctionName, count: usize) -> io::Result<(Vec<Record>, Follow)> {
        let log = self.of(function);
        let mut state = log.lock();
        let records = self.tail(function, count)?.unwrap_or_default();
        let sender = state
            .followers
            .get_or_insert_with(|| broadcast::channel(FOLLOW_BEHIND).0);
        let receiver = sender.subscribe();
        drop(state);
        Ok((records, Follow { log, receiver }))
    }

    fn of(&self, function: &FunctionName) -> Arc<FunctionLog> {
        let mut functions = self.0.functions.lock().expect("no holder of this lock panics");
        if let Some(log) = functions.get(function) {
            return Arc::clone(log);
        }
        let file = Rotating::new(Arc::clone(&self.0.folder), file_name(function), MAX_FILE);
        let log = Arc::new(FunctionLog {
            function: function.clone(),
            lost: metrics::counter!(names::LOG_LINES_DROPPED_TOTAL, "function" => function.to_string()),
            state: Mutex::new(State {
                file,
                bucket: Bucket::new(Instant::now()),
                followers: None,
                readers: 0,
                dropped: None,
                disk_failed: false,
            }),
        });
        functions.insert(function.clone(), Arc::clone(&log));
        log
    }
}

fn file_name(function: &FunctionName) -> String {
    format!("{function}.log")
}

/// The records of one function as they are written.
#[derive(Debug)]
pub struct Follow {
    log: Arc<FunctionLog>,
    receiver: broadcast::Receiver<Arc<Record>>,
}

impl Follow {
    /// The next record. Who is too slow is told how many it missed.
    pub async fn next(&mut self) -> Arc<Record> {
        match self.receiver.recv().await {
            Ok(record) => record,
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                let text = format!("{missed} lines are not shown here: this reader is too slow");
                Arc::new(self.log.platform(text))
            }
            Err(broadcast::error::RecvError::Closed) => {
                // The sender goes only when nobody follows, and we do; nothing can come any more.
                std::future::pending().await
            }
        }
    }
}

/// The log of one function.
#[derive(Debug)]
struct FunctionLog {
    function: FunctionName,
    lost: metrics::Counter,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: Rotating,
    bucket: Bucket,
    /// Made when somebody follows: a thousand idle functions should not each hold a channel.
    followers: Option<broadcast::Sender<Arc<Record>>>,
    /// Pipes that are being read.
    readers: u32,
    dropped: Option<Dropped>,
    /// The disk refused the last line; said once.
    disk_failed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Dropped {
    lines: u64,
    since: Instant,
}

impl FunctionLog {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// Keeps one line of an instance, if the function has not logged too much. False: dropped.
    fn take(&self, writer: &Writer, stream: Stream, piece: Piece<'_>, now: Instant) -> bool {
        let mut state = self.lock();
        if !state.bucket.take(piece.bytes.len(), now) {
            self.lost.increment(1);
            let dropped = state.dropped.get_or_insert(Dropped { lines: 0, since: now });
            dropped.lines += 1;
            return false;
        }
        self.sum_up(&mut state, now, SUMMARY);
        let record = Record {
            time: rfc3339(SystemTime::now()),
            function: self.function.to_string(),
            instance: Some(writer.instance.0),
            revision: Some(writer.revision.short()),
            stream,
            continues: piece.continues,
            line: escape(piece.bytes),
        };
        self.keep(&mut state, record);
        true
    }

    /// Says how many lines were dropped, when the first of them is older than `after`.
    fn sum_up(&self, state: &mut State, now: Instant, after: Duration) {
        if let Some(dropped) = state.dropped
            && now.saturating_duration_since(dropped.since) >= after
        {
            state.dropped = None;
            let text = format!(
                "{} lines were dropped: more than {UNITS_PER_SECOND} a second",
                dropped.lines
            );
            self.keep(state, self.platform(text));
        }
    }

    /// A record of what funcd itself says.
    fn platform(&self, line: String) -> Record {
        Record {
            time: rfc3339(SystemTime::now()),
            function: self.function.to_string(),
            instance: None,
            revision: None,
            stream: Stream::Platform,
            continues: false,
            line,
        }
    }

    fn keep(&self, state: &mut State, record: Record) {
        let json = serde_json::to_string(&record).expect("a record has string keys and no failing field");
        match state.file.append(&json) {
            Ok(()) => state.disk_failed = false,
            Err(error) => {
                state.file.close();
                self.lost.increment(1);
                if !std::mem::replace(&mut state.disk_failed, true) {
                    tracing::warn!(
                        function = %self.function, %error,
                        "a function's log can't be written; its lines are dropped and counted until it can: free some space"
                    );
                }
            }
        }
        if let Some(followers) = &state.followers
            && followers.send(Arc::new(record)).is_err()
        {
            state.followers = None;
        }
    }

    /// One pipe has ended.
    fn end(&self) {
        let mut state = self.lock();
        self.sum_up(&mut state, Instant::now(), Duration::ZERO);
        state.readers -= 1;
        if state.readers == 0 {
            state.file.close();
        }
    }
}

/// Reads one pipe to its end.
async fn read_all(log: Arc<FunctionLog>, writer: Writer, stream: Stream, pipe: OwnedFd) {
    if let Err(error) = read_lines(&log, &writer, stream, pipe).await {
        tracing::warn!(
            function = %writer.function, instance = %writer.instance, stream = stream.as_str(), %error,
            "an instance's output can't be read any more"
        );
    }
    log.end();
}

async fn read_lines(log: &FunctionLog, writer: &Writer, stream: Stream, pipe: OwnedFd) -> io::Result<()> {
    let pipe = pipe::Receiver::from_owned_fd(pipe)?;
    let mut splitter = Splitter::default();
    loop {
        let waiting_summary = log.lock().dropped.is_some();
        if waiting_summary {
            if tokio::time::timeout(SUMMARY, pipe.readable()).await.is_err() {
                let mut state = log.lock();
                log.sum_up(&mut state, Instant::now(), Duration::ZERO);
                continue;
            }
        } else {
            pipe.readable().await?;
        }
        let now = Instant::now();
        let mut flooded = false;
        let mut each = |piece: Piece<'_>| flooded |= !log.take(writer, stream, piece, now);
        match read_chunk(&pipe, &mut splitter, &mut each) {
            Ok(0) => {
                splitter.finish(&mut each);
                return Ok(());
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        if flooded {
            tokio::time::sleep(FLOOD_PAUSE).await;
        }
    }
}

fn read_chunk(
    pipe: &pipe::Receiver,
    splitter: &mut Splitter,
    each: &mut dyn FnMut(Piece<'_>),
) -> io::Result<usize> {
    let mut chunk = [0; CHUNK];
    let length = pipe.try_read(&mut chunk)?;
    splitter.feed(&chunk[..length], each);
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;
    use std::path::Path;

    use funcd_sandbox::spec::Digest;

    fn logs(dir: &Path) -> Logs {
        Logs::new(File::open(dir).unwrap().into(), Handle::current())
    }

    fn name(text: &str) -> FunctionName {
        FunctionName::parse(text).unwrap()
    }

    fn writer(function: &str, instance: u64) -> Writer {
        Writer {
            function: name(function),
            revision: RevisionId(Digest([0xab; 32])),
            instance: InstanceId(instance),
        }
    }

    /// An attached instance: what it writes its stdout and stderr to.
    fn attach(logs: &Logs, function: &str, instance: u64) -> (File, File) {
        let (stdout, out) = nix::unistd::pipe().unwrap();
        let (stderr, err) = nix::unistd::pipe().unwrap();
        logs.attach(writer(function, instance), stdout, stderr);
        (out.into(), err.into())
    }

    async fn until_detached(logs: &Logs, function: &str) {
        while logs.of(&name(function)).lock().readers > 0 {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn lines_of_both_streams_are_kept_with_their_source() {
        let dir = tempfile::tempdir().unwrap();
        let logs = logs(dir.path());
        let (mut out, mut err) = attach(&logs, "hello", 7);
        out.write_all(b"one\n\x1b[31mtwo").unwrap();
        err.write_all(b"oops\n").unwrap();
        drop((out, err));
        until_detached(&logs, "hello").await;
        let records = logs.tail(&name("hello"), 10).unwrap().unwrap();
        let of = |stream: Stream| -> Vec<&str> {
            let kept = records.iter().filter(|r| r.stream == stream);
            kept.map(|r| r.line.as_str()).collect()
        };
        assert_eq!(of(Stream::Stdout), ["one", r"\x1b[31mtwo"]);
        assert_eq!(of(Stream::Stderr), ["oops"]);
        assert!(records.iter().all(|r| r.instance == Some(7)));
        assert!(
            records
                .iter()
                .all(|r| r.revision.as_deref() == Some("abababababab"))
        );
        assert!(logs.tail(&name("other"), 10).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_follower_gets_the_tail_and_then_each_record_once() {
        let dir = tempfile::tempdir().unwrap();
        let logs = logs(dir.path());
        let (mut out, _err) = attach(&logs, "hello", 1);
        let (tail, mut follow) = logs.follow(&name("hello"), 10).unwrap();
        assert!(tail.is_empty());
        out.write_all(b"a\nb\n").unwrap();
        assert_eq!(follow.next().await.line, "a");
        assert_eq!(follow.next().await.line, "b");
        let (tail, mut second) = logs.follow(&name("hello"), 1).unwrap();
        assert_eq!(tail[0].line, "b");
        logs.note(&name("hello"), "instance 1 ended: out of memory");
        for follow in [&mut follow, &mut second] {
            let note = follow.next().await;
            assert_eq!((note.stream, note.instance), (Stream::Platform, None));
            assert_eq!(note.line, "instance 1 ended: out of memory");
        }
    }

    #[tokio::test]
    async fn a_slow_follower_is_told_what_it_missed_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let logs = logs(dir.path());
        let (_, mut follow) = logs.follow(&name("hello"), 0).unwrap();
        let log = logs.of(&name("hello"));
        for i in 0..FOLLOW_BEHIND + 5 {
            log.keep(&mut log.lock(), log.platform(i.to_string()));
        }
        assert_eq!(
            follow.next().await.line,
            "5 lines are not shown here: this reader is too slow"
        );
        assert_eq!(follow.next().await.line, "5");
    }

    #[tokio::test]
    async fn a_flood_is_drained_dropped_and_summed_up() {
        let dir = tempfile::tempdir().unwrap();
        let logs = logs(dir.path());
        let (mut out, err) = attach(&logs, "flood", 1);
        let writer = std::thread::spawn(move || {
            for _ in 0..200 {
                out.write_all(&b"x\n".repeat(1000)).unwrap();
            }
        });
        drop(err);
        until_detached(&logs, "flood").await;
        writer.join().unwrap();
        let records = logs.tail(&name("flood"), tail::MAX_RECORDS).unwrap().unwrap();
        let dropped: u64 = records
            .iter()
            .filter(|r| r.stream == Stream::Platform)
            .map(|r| r.line.split(' ').next().unwrap().parse::<u64>().unwrap())
            .sum();
        assert!(dropped > 0);
        let whole = std::fs::read_to_string(dir.path().join("flood.log")).unwrap();
        let kept = whole.matches(r#""stdout""#).count() as u64;
        assert_eq!(kept + dropped, 200_000);
    }

    #[tokio::test]
    async fn drops_are_summed_up_once_a_second_of_the_given_clock() {
        let dir = tempfile::tempdir().unwrap();
        let logs = logs(dir.path());
        let log = logs.of(&name("hello"));
        let start = Instant::now() + Duration::from_secs(1);
        let line = |now: Instant| {
            let piece = Piece {
                bytes: b"x",
                continues: false,
            };
            log.take(&writer("hello", 1), Stream::Stdout, piece, now)
        };
        let kept = (0..5000).filter(|_| line(start)).count();
        assert_eq!(kept, 4000);
        let summaries = || {
            let records = logs.tail(&name("hello"), 10_000).unwrap().unwrap();
            let of_platform = records.into_iter().filter(|r| r.stream == Stream::Platform);
            of_platform.map(|r| r.line).collect::<Vec<_>>()
        };
        assert!(line(start + Duration::from_millis(500)));
        assert!(summaries().is_empty());
        assert!(line(start + Duration::from_millis(1000)));
        assert_eq!(summaries(), ["1000 lines were dropped: more than 1000 a second"]);
    }

    #[tokio::test]
    async fn a_disk_that_refuses_stops_neither_readers_nor_followers() {
        let dir = tempfile::tempdir().unwrap();
        let logs = logs(dir.path());
        // A folder in the place of the file: every open fails.
        std::fs::create_dir(dir.path().join("hello.log")).unwrap();
        let log = logs.of(&name("hello"));
        let mut receiver = {
            let sender = broadcast::channel(4).0;
            let receiver = sender.subscribe();
            log.lock().followers = Some(sender);
            receiver
        };
        log.keep(&mut log.lock(), log.platform("seen".to_owned()));
        assert_eq!(receiver.recv().await.unwrap().line, "seen");
        assert!(log.lock().disk_failed);
        std::fs::remove_dir(dir.path().join("hello.log")).unwrap();
        log.keep(&mut log.lock(), log.platform("kept".to_owned()));
        assert!(!log.lock().disk_failed);
        assert_eq!(logs.tail(&name("hello"), 10).unwrap().unwrap()[0].line, "kept");
    }

    #[tokio::test]
    async fn idle_functions_hold_no_file_and_no_channel() {
        let dir = tempfile::tempdir().unwrap();
        let logs = logs(dir.path());
        let (mut out, err) = attach(&logs, "hello", 1);
        out.write_all(b"x\n").unwrap();
        drop((out, err));
        until_detached(&logs, "hello").await;
        let (_, follow) = logs.follow(&name("hello"), 0).unwrap();
        drop(follow);
        let log = logs.of(&name("hello"));
        log.keep(&mut log.lock(), log.platform("y".to_owned()));
        assert!(log.lock().followers.is_none());
    }
}
