//! stress-ng inside a function, class by class. What it does there is printed; what it must not do outside is checked.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use funcd_tests::http::{Request, Response};
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;
use serde_json::Value;

use crate::length;
use crate::ring::{MANIFEST, Ring, WORST};

/// How many stressors run side by side: all of a class get their turn in time, and few of them are taken along by one that
/// eats all memory, as most do that are about memory.
fn together(class: &str) -> usize {
    match class {
        "vm" => 3,
        _ => 12,
    }
}

/// How long each of them goes on, in seconds, the least that stress-ng knows.
const TURN: u64 = 1;

pub(crate) fn register(suite: &mut Suite) {
    const STRESS_NG: &[Need] = &[
        Need::Root,
        Need::Program("/usr/bin/stress-ng"),
        Need::Program("/usr/bin/python3"),
        Need::Property("memory-limit"),
        Need::Property("pid-limit"),
    ];
    funcd_tests::tests!(suite, "stress_ng", [
        os_stays_inside: STRESS_NG,
        filesystem_stays_inside: STRESS_NG,
        vm_stays_inside: STRESS_NG,
        network_stays_inside: STRESS_NG,
        scheduler_stays_inside: STRESS_NG,
        interrupt_stays_inside: STRESS_NG,
    ]);
}

fn os_stays_inside() {
    class("os");
}

fn filesystem_stays_inside() {
    class("filesystem");
}

fn vm_stays_inside() {
    class("vm");
}

fn network_stays_inside() {
    class("network");
}

fn scheduler_stays_inside() {
    class("scheduler");
}

fn interrupt_stays_inside() {
    class("interrupt");
}

/// The stressors of a class, as stress-ng lists them itself.
fn members(class: &str) -> Vec<String> {
    let listed = Command::new("/usr/bin/stress-ng")
        .args(["--class", &format!("{class}?")])
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&listed.stdout).into_owned() + &String::from_utf8_lossy(&listed.stderr);
    let line = text.lines().find_map(|line| line.split_once("stressors: "));
    let (_, names) = line.unwrap_or_else(|| panic!("stress-ng lists no class {class}: {text}"));
    names.split_whitespace().map(str::to_owned).collect()
}

/// What came of the stressors of a class.
#[derive(Default)]
struct Table {
    worked: usize,
    /// Began, and came to nothing: refused, or not to be had.
    nothing: Vec<String>,
    rounds: usize,
    ends: BTreeMap<String, usize>,
}

fn class(name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("stressor.py");
    fs::write(&program, include_str!("stressor.py")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let members = members(name);
    let ring = enter(&program);
    let (began, mut table) = (Instant::now(), Table::default());
    let mut asked = 0;
    for together in members.chunks(together(name)) {
        if began.elapsed() > length() {
            break;
        }
        asked += together.len();
        round(&ring, together, &mut table);
    }
    let seen = ring.leave();
    println!(
        "stress-ng {name}: {asked} of {} stressors in {} rounds; {} worked, {} came to nothing; ends: {:?}",
        members.len(),
        table.rounds,
        table.worked,
        table.nothing.len(),
        table.ends
    );
    println!("  came to nothing: {}", table.nothing.join(" "));
    print!("{seen}");
    assert!(table.worked > 0, "no stressor of {name} did anything");
}

fn enter(program: &Path) -> Ring {
    // By itself a Python function sees Python and what that needs, but not stress-ng.
    let manifest = format!("contract = \"port\"\nsandbox = {{ system = \"full\" }}\n{MANIFEST}");
    Ring::enter(program, &manifest)
}

/// Runs some stressors, until they or the function end.
fn round(ring: &Ring, stressors: &[String], table: &mut Table) {
    table.rounds += 1;
    let watch = ring.watch();
    let target = format!("/{WORST}/run?with={}&seconds={TURN}", stressors.join(","));
    let answer = ring.host.connect().ask(&Request::get(&target));
    drop(watch);
    let told = match answer {
        Ok(answer) if answer.status() == 200 => answer.json(),
        other => {
            // The function ended with them: too much memory, or a signal to all that it may signal.
            *table.ends.entry(end_of_function(ring, other)).or_default() += 1;
            return;
        }
    };
    *table.ends.entry(ended(&told["ended"])).or_default() += 1;
    let output = told["output"].as_str().unwrap_or_default();
    for stressor in stressors {
        match operations(output, stressor) {
            Some(count) if count > 0.0 => table.worked += 1,
            _ => table.nothing.push(stressor.clone()),
        }
    }
}

/// Why there was no answer: how the function ended, or what the host answered for it.
fn end_of_function(ring: &Ring, answer: std::io::Result<Response>) -> String {
    let rows = ring.host.ps();
    let mut ends = rows
        .iter()
        .filter(|row| row.function == WORST)
        .map(|row| row.last_exit.as_deref());
    match (ends.next().flatten(), answer) {
        (Some(how), _) => format!("the function: {how}"),
        (None, Ok(answer)) => format!("the host: {}", answer.status()),
        (None, Err(error)) => format!("no answer: {error}"),
    }
}

/// stress-ng's exit code, in words (stress-ng(1), EXIT STATUS).
fn ended(code: &Value) -> String {
    let word = match code.as_i64() {
        Some(0) => "done",
        Some(1) => "error",
        Some(2) => "failed",
        Some(3) => "no resources",
        Some(4) => "not implemented",
        Some(code) if code < 0 => return format!("signal {}", -code),
        _ => return code.to_string(),
    };
    word.to_owned()
}

/// What a stressor counted, in stress-ng's table of metrics: `stress-ng: metrc: [7] nice  46  1.01 …`.
fn operations(output: &str, stressor: &str) -> Option<f64> {
    let row = output
        .lines()
        .filter(|line| line.contains("metrc:"))
        .find_map(|line| {
            let mut words = line.split("] ").nth(1)?.split_whitespace();
            (words.next()? == stressor).then(|| words.next().map(str::to_owned))
        })?;
    row?.parse().ok()
}
