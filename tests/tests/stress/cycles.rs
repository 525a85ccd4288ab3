//! Five hundred starts and stops leave nothing: the short form of `funcd-benches leaks`.

use std::collections::BTreeSet;
use std::fs;

use funcd_tests::host::{Host, Plan};
use funcd_tests::need::Need;
use funcd_tests::process::Process;
use funcd_tests::suite::Suite;
use funcd_tests::traces::Traces;
use funcd_tests::{eventually, until};

/// Starts that are counted, and those before.
const CYCLES: usize = 500;
const WARM_UP: usize = 100;
/// What allocators may keep, in KiB: 500 leaked stacks, log buffers or manifests would be more.
const MORE: u64 = 3 * 1024;

pub(crate) fn register(suite: &mut Suite) {
    funcd_tests::tests!(
        suite,
        "cycles",
        [
            five_hundred_starts_leave_nothing,
            what_five_hundred_starts_would_leave_is_seen,
        ]
    );
}

/// Starts the function by a request and waits for its end, until so many different instances were seen.
fn cycle(host: &Host, cycles: usize) {
    let mut seen = BTreeSet::new();
    let instances = || {
        let entries = fs::read_dir(host.path().join("run/i")).unwrap().flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect::<Vec<_>>()
    };
    while seen.len() < cycles {
        host.get_ok("/brief/");
        // With the one that is prepared for the next request, which has its turn then.
        seen.extend(instances());
        until("the idle instance to end", || {
            !host.ps().iter().any(|row| row.pid.is_some())
        });
    }
    // So that it is there whenever what the host holds is looked at.
    until("the next start to be prepared", || {
        let ls = host.json(&["ls"]).unwrap_or_default();
        ls["functions"][0]["function"]["standby"] == Need::Standby.is_met()
    });
}

fn resident_kilobytes(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn host() -> Host {
    let host = Plan::new().arguments(&["--workers", "1"]).start();
    host.deploy("brief", "hello", "scale = { max = 1, idle = \"1ms\" }\n");
    host
}

fn five_hundred_starts_leave_nothing() {
    let host = host();
    cycle(&host, WARM_UP);
    let holders = [host.launcher().clone(), host.supervisor()];
    let memory = || holders.iter().map(resident_kilobytes).collect::<Vec<_>>();
    // No uid of a function: what belongs to those is looked at where functions do their worst.
    let nobody = 0..0;
    let (traces, before) = (Traces::of(&host, &nobody), memory());
    cycle(&host, CYCLES);
    eventually("the host to hold no more than before", || {
        let more = Traces::of(&host, &nobody).since(&traces);
        if more.is_empty() {
            Ok(())
        } else {
            Err(format!("{more:#?}"))
        }
    });
    let after = memory();
    for (before, after) in before.iter().zip(&after) {
        assert!(
            *after <= before + MORE,
            "{after} KiB resident, {before} KiB before: {holders:?}"
        );
    }
    println!("after {CYCLES} starts and stops: launcher and supervisor {before:?} → {after:?} KiB");
}

/// The control: one instance that stays is seen as what it holds.
fn what_five_hundred_starts_would_leave_is_seen() {
    let host = host();
    cycle(&host, 1);
    let before = Traces::of(&host, &(0..0));
    host.deploy("stays", "hello", "");
    host.get_ok("/stays/");
    let more = Traces::of(&host, &(0..0)).since(&before);
    for kind in [
        "launcher: descriptor",
        "supervisor: descriptor",
        "an entry of run/i",
    ] {
        assert!(
            more.iter().any(|trace| trace.starts_with(kind)),
            "{kind}: {more:#?}"
        );
    }
}
