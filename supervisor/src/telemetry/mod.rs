//! What funcd tells about itself and about functions: metrics, its own log, the functions' logs. Decides nothing.

pub mod capture;
pub mod diary;
pub mod escape;
pub mod journal;
pub mod lines;
pub mod metrics;
pub mod names;
pub mod rate;
pub mod record;
pub mod rotate;
pub mod tail;

pub use capture::{Logs, Writer};
pub use record::rfc3339;
