//! THE HOST ITSELF: what it has too little of, looked at four times a second by one timer of the house, off the path of
//! requests. What follows from that is decided in [`crate::admission::brownout`], and done by those who ask: request paths read one
//! atomic each, `control` is told.
//!
//! ```text
//! gauges (proc, own cgroup) → overloads → steady → brownout → header (an atomic) · control (scale, reclaim, admission) · log, metrics
//! ```

mod gauges;
mod watch;

use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::SystemTime;

use crate::admission::brownout::Brownout;

pub use gauges::{Gauges, Readings};
pub use watch::watch;

/// What the host is like now, for those who look.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// What was read last.
    pub readings: Readings,
    /// What that calls for, after two samples agreed.
    pub brownout: Brownout,
    /// Since when its stage has been what it is.
    pub since: SystemTime,
}

impl State {
    /// Before anything was read.
    pub fn new(since: SystemTime) -> State {
        State {
            readings: Readings::default(),
            brownout: Brownout::NONE,
            since,
        }
    }
}

/// Whom the timer tells.
#[derive(Debug)]
pub struct Told {
    /// The value of `x-funcd-brownout` for functions; 0: none.
    pub header: Arc<AtomicU8>,
    /// `control`, which stops scaling up, reclaims, and tells admission whom to refuse. Told again at each sample while there is something to reclaim.
    pub control: tokio::sync::watch::Sender<Brownout>,
    /// The admin API.
    pub admin: tokio::sync::watch::Sender<State>,
}
