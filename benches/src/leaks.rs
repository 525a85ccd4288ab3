//! `leaks`: what grows with each start and stop. Twenty thousand of each: by HTTP through a whole host, whose functions end by
//! themselves when idle, and of a launcher alone, whose instances are killed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::artifacts::Artifacts;
use crate::failure::{Failure, Outcome};
use crate::holdings::{Holders, Holdings};
use crate::host::Plan;
use crate::launcher::Launcher;
use crate::quiet::Watch;
use crate::table::{Row, Table, Unit};

/// Idle for the shortest time that there is.
const MANIFEST: &str = "[scale]\nmax = 1\nidle = \"1ms\"\n";
/// Functions that start and stop side by side.
const FUNCTIONS: usize = 4;
/// One in so many cycles comes before the count: what is allocated once is no leak.
const WARM_UP: usize = 20;
/// What allocators may keep.
const MEGABYTES_MORE: f64 = 2.0;
/// A function that has not stopped by then won't.
const PATIENCE: Duration = Duration::from_secs(20);
const GLANCE: Duration = Duration::from_micros(300);

/// Measures `cycles` starts and stops, through a host and of a launcher.
///
/// # Errors
/// A host or launcher that does not start, or a start that fails.
pub(crate) fn measure(artifacts: &Artifacts, cycles: usize) -> Outcome<Vec<Table>> {
    Ok(vec![host(artifacts, cycles)?, launcher(artifacts, cycles)?])
}

fn host(artifacts: &Artifacts, cycles: usize) -> Outcome<Table> {
    // Whether one is running is seen by its socket, which one that waits has too. Prepared starts are counted by the tests.
    let plan = Plan::of(&artifacts.funcd)?.configured("standbys = 0\n");
    let names: Vec<String> = (0..FUNCTIONS).map(|number| format!("hello-{number}")).collect();
    for name in &names {
        plan.with_manifest(name, &artifacts.hello, MANIFEST)?;
    }
    let mut host = plan.start(Some(1))?;
    for name in &names {
        host.wait_until_answered(name)?;
    }
    let folder = host.folder().to_path_buf();
    let [launcher, supervisor] = host.own_processes()?;
    let (run, state) = (folder.join("run"), folder.join("state"));
    let holders = Holders {
        processes: vec![("launcher", launcher), ("supervisor", supervisor)],
        run: &run,
        state: &state,
    };
    let mut seen = Ids::default();
    let mut cycle = |until: usize| -> Outcome<()> {
        while seen.0.len() < until {
            let mut asked = Vec::new();
            for name in &names {
                let target = host.target(name);
                let mut connection = target.connect().map_err(|error| Failure(error.to_string()))?;
                connection.ask().map_err(|error| Failure(error.to_string()))?;
                asked.push(connection);
            }
            for mut connection in asked {
                connection
                    .finish()
                    .map_err(|error| Failure(format!("a start: {error}")))?;
                seen.look(&run);
            }
            seen.wait_for_none(&run)?;
        }
        Ok(())
    };
    let warm_up = cycles / WARM_UP;
    cycle(warm_up)?;
    let before = holders.at_rest()?;
    let (watch, began) = (Watch::start(), Instant::now());
    cycle(warm_up + cycles)?;
    let taken = began.elapsed();
    let after = holders.settled(&before)?;
    let note = format!(
        "{FUNCTIONS} functions started by a request each, stopped when idle for a millisecond, by SIGTERM"
    );
    Ok(table(
        "leaks",
        "a host",
        cycles,
        taken,
        (&before, &after),
        note,
        watch,
    ))
}

fn launcher(artifacts: &Artifacts, cycles: usize) -> Outcome<Table> {
    let mut launcher = Launcher::start()?;
    let digest = launcher.store(&artifacts.byte)?;
    let spec = Launcher::spec(digest);
    let (run, state) = (launcher.folder().join("run"), launcher.folder().join("state"));
    let holders = Holders {
        processes: vec![("launcher", launcher.id())],
        run: &run,
        state: &state,
    };
    let mut cycle = |cycles: usize| -> Outcome<()> {
        for _ in 0..cycles {
            let started = launcher.launch(&spec)?;
            launcher.kill(started.id)?;
        }
        Ok(())
    };
    cycle(cycles / WARM_UP)?;
    let before = holders.at_rest()?;
    let (watch, began) = (Watch::start(), Instant::now());
    cycle(cycles)?;
    let taken = began.elapsed();
    let after = holders.settled(&before)?;
    let note = "started and killed as fast as the launcher answers".to_owned();
    let name = "leaks-launcher";
    Ok(table(
        name,
        "a launcher alone",
        cycles,
        taken,
        (&before, &after),
        note,
        watch,
    ))
}

#[allow(clippy::too_many_arguments, reason = "one row each, used twice")]
fn table(
    name: &'static str,
    what: &str,
    cycles: usize,
    taken: Duration,
    (before, after): (&Holdings, &Holdings),
    note: String,
    watch: Watch,
) -> Table {
    let more = |before: &(String, u64), after: &(String, u64)| after.1 as f64 - before.1 as f64;
    let mut rows = Vec::new();
    for (before, after) in before.counts.iter().zip(&after.counts) {
        let name = format!("{}, more than before", after.0);
        rows.push(Row::of(name, Unit::Count, more(before, after)).at_most(0.0));
    }
    for (before, after) in before.memory.iter().zip(&after.memory) {
        let name = format!("{}, more than before", after.0);
        rows.push(Row::of(name, Unit::Megabytes, more(before, after) / 1e6).at_most(MEGABYTES_MORE));
    }
    rows.push(Row::of(
        "a start and a stop, on average",
        Unit::Micros,
        taken.as_secs_f64() * 1e6 / cycles as f64,
    ));
    let told = |title: &str, before: &[(String, u64)], after: &[(String, u64)]| {
        let pairs: Vec<String> = before
            .iter()
            .zip(after)
            .map(|(before, after)| format!("{} {} → {}", after.0, before.1, after.1))
            .collect();
        format!("{title}: {}", pairs.join(", "))
    };
    let notes = vec![
        note,
        told("before → after", &before.counts, &after.counts),
        told("bytes", &before.memory, &after.memory),
        told(
            "the whole machine, for information",
            &before.machine,
            &after.machine,
        ),
    ];
    Table {
        name,
        title: format!("{cycles} starts and stops of {what}"),
        rows,
        notes,
        others: watch.finish(),
    }
}

/// The instances that were seen, by the numbers of their sockets: each is one start.
#[derive(Default)]
struct Ids(BTreeSet<u64>);

impl Ids {
    /// Whether there is an instance now.
    fn look(&mut self, run: &Path) -> bool {
        let entries = fs::read_dir(run.join("i")).into_iter().flatten().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let there: Vec<u64> = numbers.collect();
        self.0.extend(&there);
        !there.is_empty()
    }

    fn wait_for_none(&mut self, run: &Path) -> Outcome<()> {
        let until = Instant::now() + PATIENCE;
        while self.look(run) {
            if Instant::now() > until {
                return Err(Failure(format!("an instance still runs after {PATIENCE:?}")));
            }
            std::thread::sleep(GLANCE);
        }
        Ok(())
    }
}
