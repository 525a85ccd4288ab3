//! The functions' logs: reads what instances write line by line, keeps it bounded and escaped, shows it to who asks.
//! A function never waits for its log: what is too much is read and thrown away, and counted.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use funcd_sandbox::spec::InstanceId;
use tokio::net::unix::pipe;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, watch};

use super::escape::escape;
use super::journal::Journal;
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
    journal: Option<Arc<Journal>>,
    functions: Mutex<HashMap<FunctionName, Arc<FunctionLog>>>,
    /// True: nothing is read any more.
    stopped: watch::Sender<bool>,
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
        Logs::with_journal(folder, runtime, None)
    }

    /// The same, with each line told to the journal, too.
    pub fn with_journal(folder: OwnedFd, runtime: Handle, journal: Option<Journal>) -> Logs {
        Logs(Arc::new(Shared {
            folder: Arc::new(folder),
            runtime,
            journal: journal.map(Arc::new),
            functions: Mutex::new(HashMap::new()),
            stopped: watch::channel(false).0,
        }))
    }

    /// Reads no more of what instances write: somebody else has the same pipes.
    pub fn stop(&self) {
        self.0.stopped.send_replace(true);
    }

    /// Reads both pipes until their other ends are closed. Returns at once; may be called from any thread.
    pub fn attach(&self, writer: Writer, outputs: [Option<OwnedFd>; 2]) {
        let log = self.of(&writer.function);
        for (stream, pipe) in [Stream::Stdout, Stream::Stderr].into_iter().zip(outputs) {
            let Some(pipe) = pipe else { continue };
            log.lock().readers += 1;
            let task = read_all(
                Arc::clone(&log),
                writer.clone(),
                stream,
                (pipe, self.0.stopped.subscribe()),
            );
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
            journal: self.0.journal.clone(),
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
    journal: Option<Arc<Journal>>,
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
        if let Some(journal) = &self.journal {
            journal.tell(&record);
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
async fn read_all(
    log: Arc<FunctionLog>,
    writer: Writer,
    stream: Stream,
    (pipe, mut stopped): (OwnedFd, watch::Receiver<bool>),
) {
    let mut splitter = Splitter::default();
    let read = tokio::select! {
        biased;
        _ = stopped.wait_for(|stopped| *stopped) => Ok(()),
        read = read_lines(&log, &writer, stream, pipe, &mut splitter) => read,
    };
    // Whoever reads the pipe from here on can't know what was read of a line.
    splitter.leave(&mut |piece| {
        log.take(&writer, stream, piece, Instant::now());
    });
    if let Err(error) = read {
        tracing::warn!(
            function = %writer.function, instance = %writer.instance, stream = stream.as_str(), %error,
            "an instance's output can't be read any more"
        );
    }
    log.end();
}

async fn read_lines(
    log: &FunctionLog,
    writer: &Writer,
    stream: Stream,
    pipe: OwnedFd,
    splitter: &mut Splitter,
) -> io::Result<()> {
    let pipe = pipe::Receiver::from_owned_fd(pipe)?;
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
        match read_chunk(&pipe, splitter, &mut each) {
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
