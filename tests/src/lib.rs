//! The harness of the black-box tests: builds what is tested once a run, starts hosts, talks to them as callers and
//! operators do. It knows funcd only from outside: the command line, the sockets, the folder, /proc.
//!
//! A test reads as a story of three nouns: a [`host::Host`], what is dropped into it, and what a caller then sees.
//!
//! Environment:
//! - `FUNCD_TEST_REQUIRE=all`: what can't be tested here is a failure, not a skip;
//! - `FUNCD_TEST_ARTIFACTS=DIR`: test what an earlier run left in `<target>/blackbox` (copied anywhere), build nothing;
//! - `FUNCD_TEST_PATIENCE=N`: wait N times as long before giving up, for slow machines.

pub mod artifacts;
pub mod host;
pub mod http;
pub mod leftovers;
pub mod load;
pub mod names;
pub mod need;
pub mod operate;
pub mod peers;
mod plan;
pub mod process;
pub mod suite;
pub mod traces;
pub mod wheels;

use std::time::{Duration, Instant};

/// How long a condition may take before a test gives up: a minute times `FUNCD_TEST_PATIENCE`. No test passes or fails by how
/// long something took below that. A minute, because machines that are shared stand still for half of one.
pub fn patience() -> Duration {
    let times = std::env::var("FUNCD_TEST_PATIENCE")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1);
    Duration::from_secs(60) * times
}

/// Asks again and again until there is an answer.
///
/// # Panics
/// When there is none within [`patience`], with `what` was awaited and the last reason why not.
#[track_caller]
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let until = Instant::now() + patience();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(reason) if Instant::now() > until => panic!("still waiting for {what}: {reason}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// [`eventually`] for a condition that has nothing to say.
///
/// # Panics
/// As [`eventually`].
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, || {
        if holds() {
            Ok(())
        } else {
            Err("not yet".to_owned())
        }
    });
}
