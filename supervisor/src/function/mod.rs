//! What does exist: functions, their revisions and instances. `handle` is what request paths see; `control` is the one
//! writer.

pub mod handle;
pub mod instance;
pub mod metrics;
