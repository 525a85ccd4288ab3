//! `funcd logs`: what a function wrote. With `--follow` it outlives the supervisor that it asks: it asks the next one, and
//! shows no record twice.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::args::{Global, Logs};
use super::exit::{Code, Failure};
use super::output::{WARN, styled, write};
use crate::admin::client::{Client, ClientError};
use crate::telemetry::record::Record;

/// How long a host may be away before a follower gives up: a supervisor is back in milliseconds, a service in seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries to reach it.
const PAUSE: Duration = Duration::from_millis(100);
/// What is read again to find where the last stream ended: all that the host gives.
const AGAIN: usize = 10_000;

pub(super) fn run(global: &Global, logs: &Logs) -> Result<(), Failure> {
    let client = super::client(global)?;
    let mut shown = Shown::default();
    let mut ended = ask(&client, global, logs, logs.lines, &mut shown);
    if !logs.follow {
        return Ok(ended?);
    }
    loop {
        match ended {
            Ok(()) | Err(ClientError::Ended { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let note = styled(WARN, "note:");
        anstream::eprintln!("{note} the host has ended the stream; waiting for it to come back");
        ended = again(&client, global, logs, &mut shown)?;
    }
}

/// Asks until the host is back, and then until the stream ends once more.
fn again(
    client: &Client,
    global: &Global,
    logs: &Logs,
    shown: &mut Shown,
) -> Result<Result<(), ClientError>, Failure> {
    let gone = Instant::now();
    loop {
        std::thread::sleep(PAUSE);
        shown.catch_up();
        // Nothing was shown: what is there now is as new as it was the first time.
        let lines = if shown.last.is_some() { AGAIN } else { logs.lines };
        match ask(client, global, logs, lines, shown) {
            Err(ClientError::Unreachable { .. } | ClientError::Refused { .. })
                if gone.elapsed() < PATIENCE => {}
            Err(ClientError::Unreachable { .. }) => {
                let what = format!(
                    "the host at {} has not come back within {} s; `funcd logs` again goes on when it is back",
                    client.path().display(),
                    PATIENCE.as_secs()
                );
                return Err(Failure::new(Code::Unreachable, what));
            }
            ended => return Ok(ended),
        }
    }
}

/// One request, and its records until it ends.
fn ask(
    client: &Client,
    global: &Global,
    logs: &Logs,
    lines: usize,
    shown: &mut Shown,
) -> Result<(), ClientError> {
    let target = format!(
        "/v1/functions/{}/logs?lines={lines}&follow={}",
        logs.name, logs.follow
    );
    let mut out = io::stdout().lock();
    client.lines(&target, &mut |line| {
        let record: Record = serde_json::from_slice(line)?;
        match shown.is_news(&record) {
            true => show(&mut out, &record, global.json),
            false => Ok(()),
        }
    })
}

/// The host sends records as they are on disk: escaped already, so that they may go to a terminal.
fn show(out: &mut dyn Write, record: &Record, json: bool) -> io::Result<()> {
    let text = match json {
        true => serde_json::to_string(record)?,
        false => record.to_string(),
    };
    write(out, &(text + "\n"))
}

/// What was shown, as far as it takes to go on after it.
#[derive(Debug, Default)]
struct Shown {
    last: Option<Record>,
    /// The records come from before `last` again, until it is found or they are newer.
    catching_up: bool,
}

impl Shown {
    /// A new stream begins, somewhere before where the last one ended.
    fn catch_up(&mut self) {
        self.catching_up = self.last.is_some();
    }

    /// Whether to show a record. Times are text of one format, so that they compare as times do.
    fn is_news(&mut self, record: &Record) -> bool {
        if let Some(last) = self.last.as_ref().filter(|_| self.catching_up) {
            self.catching_up = record != last && record.time <= last.time;
            if self.catching_up || record == last {
                return false;
            }
        }
        self.last = Some(record.clone());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::record::Stream;

    #[test]
    fn a_new_stream_goes_on_where_the_last_one_ended() {
        let record = |time: &str, line: &str| Record {
            time: time.to_owned(),
            function: "hello".to_owned(),
            instance: Some(1),
            revision: None,
            stream: Stream::Stdout,
            continues: false,
            line: line.to_owned(),
        };
        let log = [
            record("2026-01-01T00:00:00.001Z", "a"),
            record("2026-01-01T00:00:00.002Z", "b"),
            record("2026-01-01T00:00:00.002Z", "c"),
            record("2026-01-01T00:00:00.002Z", "d"),
            record("2026-01-01T00:00:00.003Z", "e"),
        ];
        let news = |shown: &mut Shown, log: &[Record]| -> String {
            let lines = log.iter().filter(|record| shown.is_news(record));
            lines.map(|record| record.line.as_str()).collect()
        };
        let mut shown = Shown::default();
        shown.catch_up();
        assert_eq!(news(&mut shown, &log[..3]), "abc", "nothing was shown before");
        shown.catch_up();
        assert_eq!(news(&mut shown, &log), "de", "of the same millisecond too");
        shown.catch_up();
        assert_eq!(news(&mut shown, &[]), "");
        shown.catch_up();
        let later = [record("2026-01-01T00:00:00.004Z", "f")];
        assert_eq!(news(&mut shown, &later), "f", "the last one was rotated away");
        assert_eq!(
            news(&mut shown, &log[..1]),
            "a",
            "a clock that was set back, in one stream"
        );
    }
}
