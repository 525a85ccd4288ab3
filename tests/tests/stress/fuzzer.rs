//! Random system calls inside a function. The seed is printed: `FUNCD_TEST_SEED` repeats a run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use funcd_tests::artifacts;
use funcd_tests::http::Request;
use funcd_tests::need::Need;
use funcd_tests::suite::Suite;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::length;
use crate::ring::{MANIFEST, Ring, WORST};

/// How long each request goes on, in milliseconds: what a function that ends itself takes along is no more.
const TURN: u64 = 1000;

pub(crate) fn register(suite: &mut Suite) {
    const NEEDS: &[Need] = &[
        Need::Root,
        Need::Property("kernel-surface"),
        Need::Property("memory-limit"),
        Need::Property("pid-limit"),
    ];
    funcd_tests::tests!(suite, "fuzzer", [random_system_calls_stay_inside: NEEDS]);
}

#[derive(Default)]
struct Tally {
    calls: u64,
    children: u64,
    outcomes: BTreeMap<String, u64>,
    ends: BTreeMap<String, u64>,
    tried: BTreeSet<u64>,
    succeeded: BTreeSet<u64>,
    /// Requests without an answer: the function ended itself, or was past help.
    lost: u64,
    /// Answers that can't be true: its children can write where it counts.
    spoilt: u64,
}

impl Tally {
    fn add(&mut self, told: &Value) {
        let count = |key: &str| told[key].as_u64().unwrap_or(0);
        let outcomes = told["outcomes"].as_object().into_iter().flatten();
        let outcomes: u128 = outcomes
            .map(|(_, count)| u128::from(count.as_u64().unwrap_or(0)))
            .sum();
        // A child may be killed between the two counts.
        if u128::from(count("calls")).abs_diff(outcomes) > u128::from(count("children")) {
            self.spoilt += 1;
            return;
        }
        self.calls += count("calls");
        self.children += count("children");
        for (key, sum) in [("outcomes", &mut self.outcomes), ("ends", &mut self.ends)] {
            for (name, count) in told[key].as_object().into_iter().flatten() {
                *sum.entry(name.clone()).or_default() += count.as_u64().unwrap_or(0);
            }
        }
        for (key, set) in [("tried", &mut self.tried), ("succeeded", &mut self.succeeded)] {
            set.extend(
                told[key]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_u64),
            );
        }
    }
}

fn random_system_calls_stay_inside() {
    let given = std::env::var("FUNCD_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| u64::from(std::process::id()));
    println!("fuzzer: FUNCD_TEST_SEED={seed}");
    let ring = Ring::enter(&artifacts::example("fuzzer"), &MANIFEST.replace("60s", "5s"));
    let (began, mut tally, mut turn) = (Instant::now(), Tally::default(), 0);
    while began.elapsed() < length() {
        turn += 1;
        let watch = ring.watch();
        // Every fifth time without mercy for the one who counts: with signals to everybody.
        let gentle = u8::from(turn % 5 != 0);
        let target = format!(
            "/{WORST}/fuzz?seed={}&ms={TURN}&workers=8&gentle={gentle}",
            seed + turn
        );
        let answer = ring.host.connect().ask(&Request::get(&target));
        drop(watch);
        match answer {
            Ok(answer) if answer.status() == 200 => tally.add(&answer.json()),
            _ => {
                tally.lost += 1;
                // It may have stopped itself, or limited itself to nothing.
                for instance in ring.host.instances(WORST) {
                    if let Some(process) = instance.pid.and_then(funcd_tests::process::Process::of) {
                        process.signal(Signal::SIGKILL);
                    }
                }
                ring.host.wait_for(&format!("/{WORST}/"), "200 again", |answer| {
                    answer.status() == 200
                });
            }
        }
    }
    let seen = ring.leave();
    println!(
        "fuzzer: {} calls by {} children in {turn} requests, {} of which ended the function and {} spoilt \
         its counts; {} numbers tried, {} succeeded at \
         least once",
        tally.calls,
        tally.children,
        tally.lost,
        tally.spoilt,
        tally.tried.len(),
        tally.succeeded.len()
    );
    let mut outcomes: Vec<_> = tally.outcomes.iter().collect();
    outcomes.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let shown: Vec<String> = outcomes
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    println!("  outcomes: {}", shown.join(", "));
    println!("  children ended by: {:?}", tally.ends);
    print!("{seen}");
    assert!(tally.calls > 10_000, "{} calls show nothing", tally.calls);
    for outcome in ["ok", "EPERM", "ENOSYS"] {
        assert!(
            tally.outcomes.contains_key(outcome),
            "never {outcome}: nothing was allowed, or nothing refused"
        );
    }
}
