//! What else must hold: overload that ends, classes, a slow dependency, nothing that runs yet, and instances
//! that are killed. Each on a host of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::contender::TRUSTING;
use super::{DEADLINE_MILLIS, refusals, work_micros};
use crate::artifacts::Artifacts;
use crate::failure::Outcome;
use crate::host::{Host, Plan};
use crate::open::{Callers, Kind, Part, Phase, Seen};
use crate::quiet::{Watch, cores};
use crate::stats::Samples;
use crate::table::{Row, Table, Unit};

const DEADLINE: Duration = Duration::from_millis(DEADLINE_MILLIS);
/// Where waiting is not what is tested.
pub(super) const PATIENT: Duration = Duration::from_secs(10);
/// Starts from zero.
const STARTS: u64 = 30;
/// Each kills an instance, and a second passes.
const KILLS: u64 = 8;
/// Of which one is killed each time.
const INSTANCES: usize = 4;
/// Of the rows that are told in the order of what was asked for.
const CLASSES: [&str; 4] = ["critical", "degraded", "best-effort", "bulk"];

/// The table, and the notes that belong to it.
#[derive(Default)]
pub(super) struct Told {
    pub(super) rows: Vec<Row>,
    pub(super) notes: Vec<String>,
}

impl Told {
    /// What became of those that were not good.
    fn rest(&mut self, what: &str, part: &Part, seen: &Seen) {
        eprintln!(
            "overload: {what}: {} of {} good, {}",
            part.good,
            part.offered,
            part.told()
        );
        if part.good < part.offered {
            let (good, offered) = (part.good, part.offered);
            self.notes.push(format!(
                "{what}: of {offered} requests {good} good, {}{}",
                part.told(),
                reasons(seen)
            ));
        }
    }
}

/// All of them; `capacity` is that of a CPU-bound function.
///
/// # Errors
/// A host that does not start.
pub(crate) fn measure(artifacts: &Artifacts, capacity: f64, seed: u64) -> Outcome<Table> {
    let watch = Watch::start();
    let mut told = Told::default();
    let everywhere = cores();
    let busy = format!(
        "[scale]\nmin = {everywhere}\nmax = {everywhere}\nconcurrency = 64\n[request]\ntimeout = \"{DEADLINE_MILLIS}ms\"\n"
    );
    {
        let host = host(artifacts, &busy)?;
        recovery(&host, capacity, seed, &mut told)?;
        classes(&host, capacity, seed, &mut told)?;
        bulk(&host, capacity, seed, &mut told)?;
    }
    let waiting = format!(
        "[scale]\nmin = {everywhere}\nmax = {everywhere}\nconcurrency = 256\n[request]\ntimeout = \"1s\"\n"
    );
    dependency(&host(artifacts, &waiting)?, seed, &mut told)?;
    refusals::measure(artifacts, seed, &mut told)?;
    from_zero(
        &mut host(artifacts, "[scale]\nmax = 1\nidle = \"50ms\"\n")?,
        seed,
        &mut told,
    )?;
    let several = format!("[scale]\nmin = {INSTANCES}\nmax = {INSTANCES}\n");
    kills(&mut host(artifacts, &several)?, seed, &mut told)?;
    Ok(Table {
        name: "overload",
        title: "what else must hold when there is too much, or something breaks".into(),
        rows: told.rows,
        notes: told.notes,
        others: watch.finish(),
    })
}

/// Why callers were refused, for a note.
fn reasons(seen: &Seen) -> String {
    let reasons = seen.reasons();
    if reasons.is_empty() {
        return reasons;
    }
    format!(" (all refusals of this run: {reasons})")
}

/// One whose function `work` has this manifest, and has answered.
///
/// # Errors
/// A host that does not start.
pub(super) fn host(artifacts: &Artifacts, manifest: &str) -> Outcome<Host> {
    let plan = Plan::of(&artifacts.funcd)?.configured(TRUSTING);
    plan.with_manifest("work", &artifacts.work, manifest)?;
    let mut host = plan.start(None)?;
    host.wait_until_answered("work")?;
    Ok(host)
}

fn busy(headers: &str) -> Kind {
    Kind::get(&format!("/work/?cpu_us={}", work_micros()), headers, DEADLINE)
}

/// Ten times the capacity for three seconds, then seven tenths again.
fn recovery(host: &Host, capacity: f64, seed: u64, told: &mut Told) -> Outcome<()> {
    let at = |load: f64, seconds| Phase::of(seconds, &[capacity * load]);
    let phases = vec![at(0.7, 1.0), at(10.0, 3.0), at(0.7, 4.0)];
    let seen = Callers::of(host.address()).run(&[busy("")], phases, seed)?;
    told.rest("after the overload", &seen.part(None, 4.0, 8.0), &seen);
    let seconds = seen.recovered(4.0, 8.0, 0.99);
    told.rows
        .push(Row::of("10 × ends: until 99 % succeed", Unit::Seconds, seconds).at_most(2.0));
    Ok(())
}

fn of_class(class: &str) -> Kind {
    busy(&format!("x-funcd-class: {class}\r\n"))
}

/// Ten times the capacity, of which critical is less than half of it.
fn classes(host: &Host, capacity: f64, seed: u64, told: &mut Told) -> Outcome<()> {
    let loads = [0.45, 2.0, 3.0, 4.55];
    let rates = loads.map(|load| load * capacity);
    let phases = vec![Phase::of(1.0, &[rates[0]]), Phase::of(5.0, &rates)];
    let seen = Callers::of(host.address()).run(&CLASSES.map(of_class), phases, seed)?;
    for (kind, class) in CLASSES.iter().enumerate() {
        let part = seen.part(Some(kind), 1.0, 6.0);
        told.rest(&format!("10 ×, {class}"), &part, &seen);
        let row = Row::of(format!("10 ×, {class}: success"), Unit::Part, part.success());
        told.rows.push(if kind == 0 { row.at_least(0.9995) } else { row });
    }
    Ok(())
}

/// Seven tenths of degraded and below, and nearly half of the capacity as critical, beside a spike of bulk.
fn bulk(host: &Host, capacity: f64, seed: u64, told: &mut Told) -> Outcome<()> {
    let rates = |bulk: f64| [0.45, 0.25, 0.0, bulk].map(|load| load * capacity);
    let phases = vec![Phase::of(1.0, &rates(0.0)), Phase::of(4.0, &rates(12.0))];
    let seen = Callers::of(host.address()).run(&CLASSES.map(of_class), phases, seed)?;
    let part = seen.part(Some(0), 1.0, 5.0);
    told.rest("12 × bulk, critical", &part, &seen);
    let row = Row::of("12 × bulk, critical: success", Unit::Part, part.success());
    told.rows.push(row.at_least(0.9995));
    Ok(())
}

/// What the function waits for gets eight times slower; its CPU has next to nothing to do.
fn dependency(host: &Host, seed: u64, told: &mut Told) -> Outcome<()> {
    let kind = |millis: u64| {
        let path = format!("/work/?cpu_us=100&wait_ms={millis}");
        Kind::get(&path, "", Duration::from_secs(1))
    };
    let phases = vec![Phase::of(4.0, &[200.0, 0.0]), Phase::of(6.0, &[0.0, 200.0])];
    let seen = Callers::of(host.address()).run(&[kind(50), kind(400)], phases, seed)?;
    let part = seen.part(Some(1), 4.0, 10.0);
    told.rest("dependency 50 → 400 ms", &part, &seen);
    let row = Row::of(
        "dependency 50 → 400 ms, CPU idle: accepted",
        Unit::Part,
        part.success(),
    );
    told.rows.push(row.at_least(0.99));
    Ok(())
}

/// No instance runs; five hundred a second come for a tenth of one.
fn from_zero(host: &mut Host, seed: u64, told: &mut Told) -> Outcome<()> {
    let (mut first, mut all, mut failed) = (Samples::default(), Samples::default(), 0);
    let mut ends = BTreeMap::new();
    for round in 0..STARTS {
        host.wait_for("to stop its idle instance", |host| {
            Ok(host.instances().is_empty().then_some(()))
        })?;
        let kind = Kind::get("/work/", "", PATIENT);
        let seen = Callers::of(host.address()).run(&[kind], vec![Phase::of(0.1, &[500.0])], seed + round)?;
        let part = seen.whole(None);
        failed += part.offered - part.good;
        ends.extend(part.ends);
        let times: Vec<Duration> = seen
            .records
            .iter()
            .filter_map(|record| record.latency())
            .collect();
        times.first().into_iter().for_each(|time| first.push(*time));
        times.into_iter().for_each(|time| all.push(time));
    }
    let p99 = |samples: &Samples| samples.summary().map_or(f64::NAN, |times| times.p99 / 1000.0);
    told.rows.extend([
        Row::of(
            "0 → 1: p99 from the request that finds nothing to its answer",
            Unit::Micros,
            p99(&first),
        )
        .at_most(50_000.0),
        Row::of("0 → 1: p99 of all that come meanwhile", Unit::Micros, p99(&all)),
        Row::of("0 → 1: failed requests", Unit::Count, failed as f64).at_most(0.0),
    ]);
    told.notes
        .push("0 → 1: the answer is there, so the decision was made before: a bound from above".into());
    if failed > 0 {
        told.notes.push(format!("0 → 1: {ends:?}"));
    }
    Ok(())
}

/// Each second, one of the instances is killed as the kernel does when memory is short.
fn kills(host: &mut Host, seed: u64, told: &mut Told) -> Outcome<()> {
    host.wait_for("to have all instances", |host| {
        Ok((host.instances().len() >= INSTANCES).then_some(()))
    })?;
    let kind = Kind::get("/work/?cpu_us=200&wait_ms=20", "", PATIENT);
    let (over, killed) = (AtomicBool::new(false), AtomicU64::new(0));
    let host = &*host;
    let seen = thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let mut next = Instant::now();
            while !over.load(Ordering::Relaxed) {
                next += Duration::from_secs(1);
                while Instant::now() < next && !over.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(20));
                }
                let instances = host.instances();
                let number = killed.load(Ordering::Relaxed) as usize;
                if let Some(pid) = instances.get(number % instances.len().max(1))
                    && !over.load(Ordering::Relaxed)
                {
                    // A child of our launcher, so the pid is nobody else's.
                    let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
                    killed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let phases = vec![Phase::of(KILLS as f64 + 0.5, &[200.0])];
        let seen = Callers::of(host.address()).run(&[kind], phases, seed);
        over.store(true, Ordering::Relaxed);
        let _ = killer.join();
        seen
    })?;
    let part = seen.whole(None);
    told.rest("kills", &part, &seen);
    let failed = part.offered - part.good;
    let what = format!(
        "one of {INSTANCES} instances killed each second, {} times: failed of {} safe requests",
        killed.load(Ordering::Relaxed),
        part.offered
    );
    told.rows
        .push(Row::of(what, Unit::Count, failed as f64).at_most(0.0));
    Ok(())
}
