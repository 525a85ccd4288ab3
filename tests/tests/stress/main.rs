//! Functions that do their worst: other people's attack tools, and random system calls. Whatever they do, nothing outside of
//! their sandbox changes: no process, file, mount, key or cgroup stays behind, limits hold, neighbours are served.
//! Asks nothing of funcd's inside, and judges no times: it prints them.
//!
//! Environment: `FUNCD_TEST_STRESS_SECONDS=N` gives each class of stressors and the fuzzer about N seconds (default: 15);
//! `FUNCD_TEST_SEED=N` repeats a run of the fuzzer.
#![expect(
    clippy::unwrap_used,
    reason = "a test that panics says where: this is a test in whole"
)]

mod cycles;
mod fuzzer;
mod pulse;
mod ring;
mod stressors;
mod watch;

use std::time::Duration;

use funcd_tests::suite::Suite;

fn main() -> std::process::ExitCode {
    let mut suite = Suite::one_at_a_time();
    ring::register(&mut suite);
    cycles::register(&mut suite);
    stressors::register(&mut suite);
    fuzzer::register(&mut suite);
    suite.run()
}

/// How long each part may go on.
fn length() -> Duration {
    let seconds = std::env::var("FUNCD_TEST_STRESS_SECONDS").ok();
    Duration::from_secs(seconds.and_then(|n| n.parse().ok()).unwrap_or(15))
}
