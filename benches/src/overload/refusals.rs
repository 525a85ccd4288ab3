//! What a refusal costs, beside nginx, which keeps nobody waiting: four thousand a second for a function with one place.

use std::net::SocketAddr;
use std::slice;

use super::fronts::Front;
use super::mishaps::{PATIENT, Told, host};
use crate::artifacts::Artifacts;
use crate::bare::Bare;
use crate::failure::Outcome;
use crate::open::{Callers, Kind, Phase};
use crate::peer::NGINX;
use crate::process::Cost;
use crate::quiet::Watch;
use crate::table::{Row, Table, Unit};
use crate::{process, procfs};

/// Nearly everybody is refused.
const ONE_PLACE: &str = "[scale]\nmin = 1\nmax = 1\nconcurrency = 1\n";
/// A second.
const OFFERED: f64 = 4000.0;

/// What those cost that a front refused in one run.
struct Refused {
    /// Of its own processes, in microseconds for each refused request; the few that were answered are counted in.
    cpu: f64,
    /// Microseconds from the moment that a request was due.
    p50: f64,
    p99: f64,
    /// Of one core.
    callers: f64,
}

/// The cost of a refusal alone.
///
/// # Errors
/// A host that does not start.
pub(crate) fn refusals_alone(artifacts: &Artifacts, seed: u64) -> Outcome<Table> {
    let watch = Watch::start();
    let mut told = Told::default();
    measure(artifacts, seed, &mut told)?;
    Ok(Table {
        name: "refusals",
        title: "four thousand a second for a function with one place".into(),
        rows: told.rows,
        notes: told.notes,
        others: watch.finish(),
    })
}

/// The rows of funcd and of nginx.
///
/// # Errors
/// As [`refusals_alone`].
pub(super) fn measure(artifacts: &Artifacts, seed: u64, told: &mut Told) -> Outcome<()> {
    let funcd = {
        let host = host(artifacts, ONE_PLACE)?;
        refused(host.address(), "/work/?wait_ms=50", &host.own_processes()?, seed)?
    };
    let what = |what: &str| format!("4,000 refusals a second: {what}");
    told.rows.extend([
        Row::of(
            what("CPU each, of launcher and supervisor"),
            Unit::CpuMicros,
            funcd.cpu,
        )
        .at_most(5.0),
        Row::of(what("p50"), Unit::Micros, funcd.p50),
        Row::of(what("p99"), Unit::Micros, funcd.p99).at_most(1000.0),
        Row::of(
            what("the callers' own CPU"),
            Unit::CorePercent,
            funcd.callers * 100.0,
        ),
    ]);
    told.notes.push(
        "refusals: the function waits and takes no CPU; all that a refused request costs is counted, its bytes in and out too; \
         funcd has a queue, in which a request may wait before it is refused, nginx has none"
            .into(),
    );
    match NGINX.find() {
        Ok(program) => {
            let server = Bare::of(&[&artifacts.work])?.serve()?;
            let front = Front::nginx(&program, slice::from_ref(&server.socket), 1)?;
            let own = procfs::tree(front.id(), &process::table());
            let nginx = refused(front.address, "/?wait_ms=50", &own, seed)?;
            told.rows.extend([
                Row::of(what("nginx, CPU each"), Unit::CpuMicros, nginx.cpu),
                Row::of(what("nginx, p99"), Unit::Micros, nginx.p99),
                Row::of(what("CPU ÷ nginx"), Unit::Ratio, funcd.cpu / nginx.cpu),
            ]);
        }
        Err(note) => told.notes.push(note),
    }
    Ok(())
}

/// One place, held for 50 ms each; four thousand a second want it for three seconds.
fn refused(address: SocketAddr, path: &str, own: &[i32], seed: u64) -> Outcome<Refused> {
    let kind = Kind::get(path, "", PATIENT);
    let callers = Callers::of(address);
    // A queue is full before the clock starts.
    callers.run(slice::from_ref(&kind), vec![Phase::of(0.5, &[1000.0])], seed)?;
    let before = Cost::of(own)?;
    let seen = callers.run(&[kind], vec![Phase::of(3.0, &[OFFERED])], seed)?;
    let cost = Cost::of(own)?.since(before);
    let part = seen.whole(None);
    eprintln!("overload: refusals: {} of {}", part.refused, part.offered);
    let (p50, p99) = part
        .refusals
        .summary()
        .map_or((f64::NAN, f64::NAN), |times| (times.p50, times.p99));
    Ok(Refused {
        cpu: cost.cpu_nanos as f64 / 1000.0 / part.refused as f64,
        p50: p50 / 1000.0,
        p99: p99 / 1000.0,
        callers: seen.share(),
    })
}
