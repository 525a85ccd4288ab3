//! What does exist: functions, their revisions and instances. `handle` is what request paths see; `control` is the one
//! writer.

mod awaited;
pub mod backoff;
mod busy;
pub mod control;
pub mod demand;
mod deploy;
mod effects;
mod entrance;
mod entry;
#[cfg(test)]
mod entry_tests;
mod events;
pub mod facts;
pub mod handle;
#[cfg(test)]
mod handle_tests;
pub mod instance;
mod judge;
#[cfg(test)]
mod judge_tests;
mod liveness;
pub mod metrics;
mod pipes;
mod place;
pub mod poison;
mod prove;
mod publish;
pub mod report;
mod rescale;
#[cfg(test)]
mod rescale_tests;
pub mod room;
mod routes;
pub mod scale;
pub mod serving;
mod singles;
mod standby;
#[cfg(test)]
mod standby_tests;
pub(crate) mod start;
pub mod starts;
pub mod state;
pub mod status;
mod succession;
mod sweep;
mod tally;
mod usage;
