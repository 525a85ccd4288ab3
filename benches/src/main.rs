//! `funcd-benches cold|warm|contracts|memory|instances|spawn|leaks|overload|neighbours|binding|upgrade|all`: measures every number that SPECIFICATION.md promises,
//! beside its peers in the same run; `chaos` breaks things for ten minutes, `simulate` shows what admission does under overload.
//! Installs nothing, and never calls a number good that it did not measure.

#![deny(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use funcd_sandbox::self_check::{self, Target};
use serde_json::json;

use crate::artifacts::Artifacts;
use crate::environment::Environment;
use crate::failure::Outcome;
use crate::table::Table;

mod answer;
mod artifacts;
mod bare;
mod binding;
mod chaos;
mod client;
mod cold;
mod contracts;
mod environment;
mod failure;
mod guard;
mod holdings;
mod host;
mod instances;
mod launcher;
mod leaks;
mod load;
mod memory;
mod neighbours;
mod nginx;
mod oci;
mod open;
mod overload;
mod peer;
mod placement;
mod process;
mod procfs;
mod quiet;
mod simulate;
mod spawn;
mod stats;
mod sys;
mod table;
mod upgrade;
mod warm;

/// Measure what funcd promises, beside its peers, and print goal, measured and verdict.
///
/// Exit code 0 also when a goal is missed; 1 when something could not be measured.
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    /// What to measure.
    what: What,
    /// Print one JSON document instead of tables.
    #[arg(long)]
    json: bool,
    /// Starts in `cold` and `spawn` [default: 1000], rounds of `contracts` and each table of `warm` [default: 20].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Length of each run in `warm` and `contracts`, in milliseconds.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    run_millis: u64,
    /// Starts and stops in `leaks`.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    cycles: u32,
    /// Registered functions in `memory`, running instances in `instances`.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    functions: u32,
    /// Requests in `upgrade`, without and with upgrades each.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    requests: u32,
    /// What chance is drawn from in `overload`, `neighbours` and `chaos`.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// In `neighbours`: only those whose name contains this.
    #[arg(long, value_name = "WORD", default_value = "")]
    only: String,
    /// Measure this funcd instead of building one.
    #[arg(long, value_name = "FILE")]
    funcd: Option<PathBuf>,
    /// Use this function instead of building examples/hello; it must answer `GET /` with 200.
    #[arg(long, value_name = "FILE")]
    hello: Option<PathBuf>,
    #[command(flatten)]
    chaos: chaos::Options,
    #[command(flatten)]
    simulate: simulate::Options,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// From zero to the first answer, beside a bare vfork and exec.
    Cold,
    /// A running function, beside nginx.
    Warm,
    /// Each way into a process, beside a direct call of the same program.
    Contracts,
    /// A thousand registered functions.
    Memory,
    /// A thousand running instances.
    Instances,
    /// A confined process and its end, beside bubblewrap and crun.
    Spawn,
    /// Twenty thousand starts and stops.
    Leaks,
    /// Half to ten times of what functions bear, beside HAProxy and nginx.
    Overload,
    /// A function's callers, beside eight sorts of bad neighbours.
    Neighbours,
    /// What a refused request costs: a part of `overload`, alone.
    Refusals,
    /// Functions that wait for others, at half to ten times of what they bear: a part of `overload`, alone.
    Waiting,
    /// A call by a binding, beside the same call made directly.
    Binding,
    /// Requests while another program is put in place, beside the same without.
    Upgrade,
    /// All of these.
    All,
    /// Kills, stops, floods, deploys and a full disk under a steady load: not one of `all`.
    Chaos,
    /// Overload, failures and scaling, with admission as it is and everything else simulated.
    Simulate,
}

fn main() -> ExitCode {
    // Before any thread: these roles are processes of `spawn` and `leaks`, started by this program only.
    let words: Vec<_> = std::env::args_os().collect();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(target) = Target::parse(&arguments) {
        // A launcher attacks its sandbox with its own program before it serves.
        self_check::attack(&target);
    }
    let outcome = match (words.get(1).and_then(|word| word.to_str()), words.get(2)) {
        (Some(launcher::AS_LAUNCHER), Some(folder)) => launcher::run(folder.as_ref()),
        (Some(launcher::AS_SUPERVISOR), Some(control)) => launcher::give_link(control.as_ref()),
        (Some(binding::AS_CALLER), None) => binding::call(),
        _ => run(&Flags::parse()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("funcd-benches: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> Outcome<()> {
    if flags.what == What::Simulate {
        return simulate::run(&flags.simulate, flags.json);
    }
    let artifacts = Artifacts::build(flags.funcd.clone(), flags.hello.clone())?;
    let environment = Environment::read();
    if !flags.json {
        println!("{environment}\n");
    }
    let mut tables = Vec::new();
    for what in [
        What::Cold,
        What::Warm,
        What::Contracts,
        What::Memory,
        What::Instances,
        What::Spawn,
        What::Leaks,
        What::Overload,
        What::Neighbours,
        What::Refusals,
        What::Waiting,
        What::Binding,
        What::Upgrade,
        What::Chaos,
    ] {
        if flags.what == what
            || (flags.what == What::All && !matches!(what, What::Chaos | What::Refusals | What::Waiting))
        {
            for table in measure(what, flags, &artifacts)? {
                if !flags.json {
                    println!("{table}");
                }
                tables.push(table);
            }
        }
    }
    if flags.json {
        let tables: Vec<_> = tables.iter().map(Table::json).collect();
        println!(
            "{}",
            json!({ "version": 1, "environment": environment.json(), "tables": tables })
        );
    }
    Ok(())
}

fn measure(what: What, flags: &Flags, artifacts: &Artifacts) -> Outcome<Vec<Table>> {
    let rounds = |default| flags.rounds.unwrap_or(default) as usize;
    let length = warm::Length {
        rounds: rounds(20),
        run: Duration::from_millis(flags.run_millis),
    };
    match what {
        What::Cold => Ok(vec![cold::measure(artifacts, rounds(1000))?]),
        What::Spawn => Ok(vec![spawn::measure(artifacts, rounds(1000))?]),
        What::Leaks => leaks::measure(artifacts, flags.cycles as usize),
        What::Memory => Ok(vec![memory::measure(artifacts, flags.functions as usize)?]),
        What::Instances => Ok(vec![instances::measure(artifacts, flags.functions as usize)?]),
        What::Neighbours => Ok(vec![neighbours::measure(artifacts, &flags.only, flags.seed)?]),
        What::Binding => Ok(vec![binding::measure(artifacts, rounds(20))?]),
        What::Upgrade => Ok(vec![upgrade::measure(artifacts, flags.requests as usize)?]),
        What::Chaos => Ok(vec![chaos::measure(artifacts, &flags.chaos, flags.seed)?]),
        What::Refusals => Ok(vec![overload::refusals_alone(artifacts, flags.seed)?]),
        What::Waiting => Ok(vec![overload::waiting_alone(artifacts, flags.seed)?]),
        What::Overload => overload::measure(artifacts, flags.seed),
        What::Contracts => Ok(vec![contracts::measure(artifacts, length)?]),
        What::Warm | What::All | What::Simulate => warm::measure(artifacts, length),
    }
}
