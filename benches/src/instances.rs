//! `instances`: what launcher and supervisor hold with a thousand running instances.

use std::time::{Duration, Instant};

use crate::artifacts::Artifacts;
use crate::failure::{Failure, Outcome};
use crate::host::Plan;
use crate::process::Memory;
use crate::quiet::Watch;
use crate::table::{Row, Table, Unit};

const MEGABYTE: f64 = 1e6;
/// Between looks at how many run: each look is work for the machine.
const GLANCE: Duration = Duration::from_millis(200);
/// A host that has not started them by then won't.
const PATIENCE: Duration = Duration::from_secs(300);

/// Measures a host with `count` instances, of ten functions.
///
/// # Errors
/// A host that does not start, or does not start all of them.
pub(crate) fn measure(artifacts: &Artifacts, count: usize) -> Outcome<Table> {
    const FUNCTIONS: usize = 10;
    let plan = Plan::of(&artifacts.funcd)?;
    let each = count.div_ceil(FUNCTIONS);
    let manifest = format!("[scale]\nmin = {each}\nmax = {each}\n[limits]\nmemory = \"8M\"\n");
    for number in 0..FUNCTIONS {
        plan.with_manifest(&format!("hello-{number}"), &artifacts.hello, &manifest)?;
    }
    let watch = Watch::start();
    let start = Instant::now();
    let mut host = plan.start(None)?;
    let own = host.wait_for("to have a supervisor", |host| Ok(host.own_processes().ok()))?;
    let before = Memory::of(own[0])?;
    loop {
        let running = host.instances().len();
        if running >= each * FUNCTIONS {
            break;
        }
        if start.elapsed() > PATIENCE {
            return Err(Failure(format!(
                "{running} of {count} instances run after {PATIENCE:?}"
            )));
        }
        std::thread::sleep(GLANCE);
    }
    let started = start.elapsed();
    // One of them, to show that they are real.
    host.wait_until_answered("hello-0")?;
    let [launcher, supervisor] = host.own_processes()?.map(Memory::of);
    let (launcher, supervisor) = (launcher?, supervisor?);
    let others = watch.finish();

    let megabytes = |what: &str, bytes: u64| Row::of(what, Unit::Megabytes, bytes as f64 / MEGABYTE);
    let mut rows = vec![
        megabytes("launcher, RSS", launcher.rss).at_most(8.0),
        megabytes("launcher before, RSS", before.rss),
        megabytes("supervisor, RSS", supervisor.rss),
    ];
    if let (Some(launcher), Some(supervisor)) = (launcher.pss, supervisor.pss) {
        rows.push(megabytes("launcher, PSS", launcher));
        rows.push(megabytes("supervisor, PSS", supervisor));
    }
    rows.extend([
        Row::of("instances running", Unit::Count, host.instances().len() as f64),
        Row::of("start to all running", Unit::Seconds, started.as_secs_f64()),
    ]);
    Ok(Table {
        name: "instances",
        title: format!("{} running instances", each * FUNCTIONS),
        rows,
        notes: vec!["the goal is judged by RSS, which counts the pages of the program file too".into()],
        others,
    })
}
