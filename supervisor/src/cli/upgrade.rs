//! `funcd upgrade`, and what an executable answers when the launcher of the one that runs asks what it is.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use clap::Parser;

use super::Hooks;
use super::args::{Cli, Command, Global};
use super::exit::{Code, Failure};
use super::output::{GOOD, print, print_json, safe, styled};
use crate::admin::view::Upgraded;
use crate::telemetry::diary::Format;

/// The host bounds each of the steps itself, and waits for what the upgrade before left to finish.
const TIMEOUT: Duration = Duration::from_secs(600);

pub(super) fn run(global: &Global) -> Result<(), Failure> {
    let upgraded: Upgraded = super::client(global)?.post("/v1/upgrade", TIMEOUT)?;
    match global.json {
        true => print_json(&upgraded),
        false => print(&format!(
            "{} funcd {} serves; before it was {}\n",
            styled(GOOD, "ok:"),
            safe(&upgraded.funcd),
            safe(&upgraded.before)
        )),
    }
}

/// Answers on standard output: one JSON document, or why not.
pub(super) fn check(folder: &Path, arguments: &[OsString], hooks: &Hooks) -> Result<(), Failure> {
    // One that is gone, or not to be entered without privileges, matters to relative paths alone.
    let _ = std::env::set_current_dir(folder);
    // As the host that runs was started; its name comes first.
    let words = [OsString::from("funcd")]
        .into_iter()
        .chain(arguments.iter().cloned());
    let cli = Cli::try_parse_from(words).map_err(|e| e.to_string());
    let answer = cli.and_then(|cli| match &cli.command {
        Command::Serve(serve) => {
            let variable = std::env::var("FUNCD_LOG_FORMAT").ok();
            Format::choose(serve.log_format, variable.as_deref())?;
            (hooks.check)(&cli.global, serve)
        }
        _ => Err("it was not started by `funcd serve`".to_owned()),
    });
    match answer {
        Ok(answer) => print(&answer),
        Err(why) => {
            print(&why)?;
            Err(Failure::new(Code::Failure, String::new()))
        }
    }
}
