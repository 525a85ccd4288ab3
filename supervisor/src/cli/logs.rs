//! `funcd logs`: what a function wrote.

use std::io::{self, Write};

use super::args::{Global, Logs};
use super::exit::{Code, Failure};
use super::output::write;
use crate::telemetry::record::Record;

pub(super) fn run(global: &Global, logs: &Logs) -> Result<(), Failure> {
    let target = format!(
        "/v1/functions/{}/logs?lines={}&follow={}",
        logs.name, logs.lines, logs.follow
    );
    let mut out = io::stdout().lock();
    let client = super::client(global)?;
    client.lines(&target, &mut |line| show(&mut out, line, global.json))?;
    match logs.follow {
        true => Err(Failure::new(
            Code::Unreachable,
            "the host has ended the stream; `funcd logs` again goes on when it is back",
        )),
        false => Ok(()),
    }
}

/// The host sends records as they are on disk: escaped already, so that they may go to a terminal.
fn show(out: &mut dyn Write, line: &[u8], json: bool) -> io::Result<()> {
    let record: Record = serde_json::from_slice(line)?;
    let text = match json {
        true => serde_json::to_string(&record)?,
        false => record.to_string(),
    };
    write(out, &(text + "\n"))
}
