//! `overload`: an open loop at half to ten times the capacity of real functions, beside HAProxy and nginx in front of the same
//! program; then what else must hold when there is too much, or something breaks.

mod contender;
mod fronts;
mod mishaps;
mod refusals;
mod sweep;

use crate::artifacts::Artifacts;
use crate::failure::Outcome;
use crate::quiet::cores;
use crate::table::Table;
pub(crate) use refusals::refusals_alone;

/// Callers leave after this, in milliseconds.
const DEADLINE_MILLIS: u64 = 250;

/// What a request takes of a CPU, in microseconds: so much that a thousand a second, which a single thread of callers offers ten
/// times over, are the capacity of any machine.
fn work_micros() -> u64 {
    (1000 * cores() as u64).min(20_000)
}

/// The sweep over CPU-bound and I/O-bound functions, then the mishaps.
///
/// # Errors
/// A contender that does not start or never answers.
pub(crate) fn measure(artifacts: &Artifacts, seed: u64) -> Outcome<Vec<Table>> {
    let cpu = sweep::measure(artifacts, &sweep::cpu_bound(), seed)?;
    let io = sweep::measure(artifacts, &sweep::io_bound(), seed)?;
    let capacity = cpu.capacity;
    Ok(vec![
        cpu.table,
        io.table,
        mishaps::measure(artifacts, capacity, seed)?,
    ])
}

/// The sweep over the I/O-bound function.
///
/// # Errors
/// As [`measure`].
pub(crate) fn waiting_alone(artifacts: &Artifacts, seed: u64) -> Outcome<Table> {
    Ok(sweep::measure(artifacts, &sweep::io_bound(), seed)?.table)
}
