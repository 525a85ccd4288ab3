//! What is said between the guest and here, from its first boot to its last word. Every line of the guest that begins with
//! `@@` is for here; tests/vm/guest.sh and tests/vm/lib.sh say them.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use super::caller::Caller;
use super::image::{self, Image};
use super::machine::{Heard, Machine, Parts, Ports};
use super::payload::Payload;
use super::report::{Protocol, Report};
use super::run;

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The guest did all that it was to do. What came is in the report.
    Done,
    /// It took too long.
    TimedOut,
    /// The machine ended before that.
    Died,
}

/// A first boot that takes longer is tried once more.
const BOOT: Duration = Duration::from_secs(420);
const PORTS: [u16; 3] = [80, 8080, 9090];

/// Boots an image and lets it take the steps.
///
/// # Errors
/// When a machine can't be started at all.
pub(super) fn hold(
    image: &Image,
    payload: &Payload,
    steps: &[&str],
    limit: Duration,
    verbose: bool,
) -> Result<(Ended, Report), String> {
    let logs = image.folder.join("logs").join(image.release.name());
    let _ = fs::remove_dir_all(&logs);
    fs::create_dir_all(&logs).map_err(|why| format!("{}: {why}", logs.display()))?;
    let ports = Ports::forward(&PORTS)?;
    let parts = Parts {
        image,
        disk: logs.join("disk"),
        payload: payload.archive.clone(),
        results: logs.join("results.tar"),
        ports: ports.clone(),
        console: logs.join("console.log"),
    };
    image::copy(&image.disk, &parts.disk)?;
    fs::File::create(&parts.results)
        .and_then(|file| file.set_len(64 << 20))
        .map_err(|why| format!("{}: {why}", parts.results.display()))?;
    let mut protocol = Protocol::new(image.release);
    let mut guest = Guest {
        machine: Machine::start(&parts)?,
        parts: &parts,
        caller: Caller::new(ports, payload.guide.clone()),
        steps,
        verbose,
        began: Instant::now(),
        booted: false,
        tried_again: false,
        comes_back: false,
    };
    let ended = guest.listen(limit, &mut protocol);
    drop(guest);
    if ended != Ended::Done {
        let console = fs::read_to_string(&parts.console).unwrap_or_default();
        let lines: Vec<&str> = console.lines().collect();
        protocol.show(&format!("the end of {}:", parts.console.display()));
        for line in &lines[lines.len().saturating_sub(30)..] {
            protocol.show(line);
        }
    }
    // There is nothing in it when the guest never got that far.
    let _ = run(Command::new("tar")
        .arg("-xf")
        .arg(&parts.results)
        .arg("-C")
        .arg(&logs));
    for file in [&parts.disk, &parts.results] {
        let _ = fs::remove_file(file);
    }
    Ok((ended, protocol.end(ended)))
}

struct Guest<'a> {
    machine: Machine,
    parts: &'a Parts<'a>,
    caller: Caller,
    steps: &'a [&'a str],
    verbose: bool,
    began: Instant,
    /// It has spoken since its first start.
    booted: bool,
    tried_again: bool,
    /// It said that it would end, and is to be started again.
    comes_back: bool,
}

impl Guest<'_> {
    fn listen(&mut self, limit: Duration, report: &mut Protocol) -> Ended {
        let mut boot_by = Instant::now() + BOOT;
        let end = Instant::now() + limit;
        loop {
            let until = if self.booted { end } else { boot_by.min(end) };
            let heard = self.machine.hear(until);
            let again = match heard {
                Heard::Line(line) => match self.heard(&line, report) {
                    Ok(true) => return Ended::Done,
                    Ok(false) => false,
                    Err(why) => {
                        report.show(&why);
                        return Ended::Died;
                    }
                },
                Heard::Nothing if Instant::now() >= end => return Ended::TimedOut,
                Heard::Ended if self.comes_back => {
                    self.comes_back = false;
                    true
                }
                // No test has run that could be at fault.
                Heard::Nothing | Heard::Ended if !self.booted && !self.tried_again => {
                    self.tried_again = true;
                    report.note("the first boot did not come through, and was tried once more");
                    boot_by = Instant::now() + BOOT;
                    if let Err(why) = image::copy(&self.parts.image.disk, &self.parts.disk) {
                        report.show(&why);
                        return Ended::Died;
                    }
                    true
                }
                Heard::Nothing | Heard::Ended => return Ended::Died,
            };
            if again && let Err(why) = self.start() {
                report.show(&why);
                return Ended::Died;
            }
        }
    }

    /// A new QEMU on the same disk; the one before has ended, or is ended now.
    fn start(&mut self) -> Result<(), String> {
        self.machine.end();
        self.machine = Machine::start(self.parts)?;
        Ok(())
    }

    /// Whether this was its last word.
    fn heard(&mut self, line: &str, report: &mut Protocol) -> Result<bool, String> {
        let Some(word) = line.strip_prefix("@@ ") else {
            if self.verbose {
                report.show(&format!("    {line}"));
            }
            return Ok(false);
        };
        let (word, rest) = word.split_once(' ').unwrap_or((word, ""));
        match word {
            "boot" => {
                self.booted = true;
                report.note(&format!(
                    "boot {rest}, {} s after the start",
                    self.began.elapsed().as_secs()
                ));
                self.machine.say(&self.steps.join(" "));
            }
            "suite" => report.suite(rest),
            "ok" => report.ok(rest),
            "failed" => report.failed(rest),
            "because" => report.because(rest),
            "skipped" => report.skipped(rest),
            "note" => report.note(rest),
            "host" => {
                let answer = match self.caller.does(rest) {
                    Ok(what) => format!("0 {what}"),
                    Err(why) => format!("1 {why}"),
                };
                self.machine.say(&answer);
            }
            "reboot" => self.comes_back = true,
            "powercut" => self.start()?,
            "done" => return Ok(true),
            _ => println!("    {line}"),
        }
        Ok(false)
    }
}
