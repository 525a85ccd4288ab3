//! `chaos`: several functions under a steady load well below what they bear, while processes are killed and stopped, memory and disk
//! run out, floods come, functions are replaced and removed, in an order that a seed decides. Counts what callers notice of it that
//! was not their function's own doing.

mod blame;
mod disk;
mod mishap;
mod script;

use std::thread;
use std::time::{Duration, Instant};

use crate::artifacts::Artifacts;
use crate::failure::Outcome;
use crate::host::Plan;
use crate::open::{Callers, Kind, Phase};
use crate::quiet::Watch;
use crate::table::{Row, Table, Unit};
use blame::{Blame, Cause, Happened};
use disk::Disk;
use mishap::Ground;
use script::Mishap;

/// Of `chaos` alone.
#[derive(Debug, clap::Args)]
#[group(id = "chaos")]
pub(crate) struct Options {
    /// How long `chaos` lasts.
    #[arg(long, default_value_t = 10.0, value_name = "MINUTES")]
    minutes: f64,
}

/// Callers have as much patience as this; nothing here lasts longer.
const PATIENT: Duration = Duration::from_secs(10);
/// What may fail for reasons of the platform, of all requests.
const GOAL: f64 = 1e-4;
/// Failures that are told one by one.
const TOLD: usize = 20;

/// A function under load. Its place in [`FUNCTIONS`] is its kind among the callers.
struct Function {
    name: &'static str,
    /// The example that it is.
    program: &'static str,
    manifest: &'static str,
    /// What is asked, of it.
    path: &'static str,
    /// A second.
    rate: f64,
}

/// Each has a mishap of its own, which is told by its name; `steady` has none but the host's.
const FUNCTIONS: [Function; 8] = [
    function(
        "steady",
        "work",
        "[scale]\nmin = 2\nmax = 4\n",
        "?cpu_us=200&wait_ms=5",
        60.0,
    ),
    function(
        "killed",
        "work",
        "[scale]\nmin = 3\nmax = 4\n",
        "?cpu_us=200&wait_ms=20",
        50.0,
    ),
    function(
        "stopped",
        "work",
        "[scale]\nmin = 2\nmax = 3\n",
        "?cpu_us=200",
        20.0,
    ),
    function(
        "deployed",
        "work",
        "[scale]\nmin = 1\nmax = 2\n",
        "?cpu_us=200&wait_ms=10",
        40.0,
    ),
    function("fleeting", "work", "", "?cpu_us=100", 20.0),
    function(
        "flooded",
        "work",
        "[scale]\nmax = 1\nconcurrency = 8\n",
        "?cpu_us=500",
        20.0,
    ),
    function("greedy", "hog", "", "", 10.0),
    function("crashing", "crash", "", "", 10.0),
];

const fn function(
    name: &'static str,
    program: &'static str,
    manifest: &'static str,
    path: &'static str,
    rate: f64,
) -> Function {
    Function {
        name,
        program,
        manifest,
        path,
        rate,
    }
}

/// The kind of the function `name`.
fn kind_of(name: &str) -> usize {
    let place = FUNCTIONS.iter().position(|function| function.name == name);
    place.expect("the name is one of FUNCTIONS")
}

/// All of it.
///
/// # Errors
/// A host that does not start, or that ends.
pub(crate) fn measure(artifacts: &Artifacts, options: &Options, seed: u64) -> Outcome<Table> {
    let watch = Watch::start();
    let length = Duration::from_secs_f64(options.minutes.max(0.1) * 60.0);
    // Before the host: it lives in the same mounts, and is gone before its disk.
    let disk = Disk::small();
    let mut plan = Plan::of(&artifacts.funcd)?;
    if let Ok(disk) = &disk {
        plan = plan.with_state(disk.path());
    }
    for function in &FUNCTIONS {
        plan.with_manifest(
            function.name,
            &artifacts.example(function.program)?,
            function.manifest,
        )?;
    }
    let mut host = plan.start(None)?;
    for function in &FUNCTIONS {
        host.wait_until_answered(function.name)?;
    }

    let kinds = FUNCTIONS.each_ref().map(|function| {
        let path = format!("/{}/{}", function.name, function.path);
        Kind::get(&path, "", PATIENT)
    });
    let rates = FUNCTIONS.each_ref().map(|function| function.rate);
    let address = host.address();
    let script = script::of(seed, length);
    let mut ground = Ground::of(&mut host, artifacts, disk.as_ref().ok(), seed);
    let (seen, happened) = thread::scope(|scope| {
        let start = Instant::now();
        let callers = scope.spawn(move || {
            let phase = Phase::of(length.as_secs_f64(), &rates);
            Callers::of(address)
                .that_send_again()
                .run(&kinds, vec![phase], seed)
        });
        let mut happened = Vec::new();
        for (at, mishap) in script {
            thread::sleep(at.saturating_sub(start.elapsed()));
            let from = start.elapsed();
            let how = ground.happen(mishap);
            let to = start.elapsed();
            let (minutes, seconds) = (from.as_secs() / 60, from.as_secs() % 60);
            let told = how.as_deref().unwrap_or_else(|failure| &failure.0);
            eprintln!("chaos {minutes:02}:{seconds:02} {mishap}: {told}");
            happened.push(Happened {
                mishap,
                from,
                to,
                failed: how.is_err(),
            });
        }
        (callers.join().expect("callers do not panic"), happened)
    });
    let seen = seen?;
    let blame = Blame::of(&seen.records, &happened);
    let mut notes = vec![
        format!("seed {seed}; {length:.0?}; {} mishaps", happened.len()),
        "not the platform's: what fails of a function while it crashes, outgrows its memory, is flooded or is not there".into(),
        "callers send safe requests again, once, when a connection that had served breaks before any answer, as HTTP clients do".into(),
    ];
    if !blame.of_platform.is_empty() {
        notes.push(format!("reasons of all refusals: {}", seen.reasons()));
    }
    if let Err(failure) = &disk {
        notes.push(format!("no full disk: {failure}"));
    }
    notes.extend(blame.of_platform.iter().take(TOLD).map(|(record, cause)| {
        let end = record.ended.map_or_else(
            || "no end".to_owned(),
            |(at, end)| {
                format!(
                    "{end:?} after {:.1} s",
                    at.saturating_sub(record.due).as_secs_f64()
                )
            },
        );
        let due = record.due.as_secs_f64();
        format!("{} at {due:.1} s, {end}: {cause}", FUNCTIONS[record.kind].name)
    }));
    let title = "functions under a steady load while everything goes wrong".to_owned();
    // Before its disk is.
    drop(host);
    Ok(Table {
        name: "chaos",
        title,
        rows: rows(&blame, &happened, seen.records.len(), seen.resent),
        notes,
        others: watch.finish(),
    })
}

fn rows(blame: &Blame, happened: &[Happened], requests: usize, resent: u64) -> Vec<Row> {
    let platform = blame.of_platform.len();
    let mut rows = vec![
        Row::of(
            "platform-caused failures ÷ requests",
            Unit::Part,
            platform as f64 / requests as f64,
        )
        .at_most(GOAL),
        Row::of("requests", Unit::Count, requests as f64),
        Row::of("platform-caused failures", Unit::Count, platform as f64),
        Row::of(
            "failures of the functions' own doing",
            Unit::Count,
            blame.of_functions as f64,
        ),
        Row::of("sent again by callers", Unit::Count, resent as f64),
    ];
    for mishap in Mishap::ALL {
        let those = happened.iter().filter(|happened| happened.mishap == mishap);
        let (times, failed) = those.fold((0, 0), |(times, failed), happened| {
            (times + 1, failed + usize::from(happened.failed))
        });
        let after = blame.after(Cause::Mishap(mishap));
        let could_not = if failed > 0 {
            format!(", {failed} not done")
        } else {
            String::new()
        };
        let what = format!("{mishap}, {times} ×{could_not}: platform-caused failures");
        rows.push(Row::of(what, Unit::Count, after as f64));
    }
    rows.push(Row::of(
        "while nothing happened: platform-caused failures",
        Unit::Count,
        blame.after(Cause::Nothing) as f64,
    ));
    rows
}
