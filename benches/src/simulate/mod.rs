//! `simulate`: overload, failures and scaling, event by event, with funcd's admission as it is. It supports a choice and
//! guards it; what a real host does is measured, not simulated.

pub(crate) mod chance;
mod comparison;
mod cores;
mod cost;
mod front;
mod goal;
mod goals;
mod measure;
mod picture;
mod published;
mod scenarios;
mod script;
mod world;

use std::path::PathBuf;

use serde_json::json;

use crate::failure::Outcome;
use goal::Goal;

/// Of `simulate` alone.
#[derive(Debug, clap::Args)]
#[group(id = "simulate")]
pub(crate) struct Options {
    /// Runs of each scenario in `simulate`, each with another seed [default: 5; 1 with --quick].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// Only this scenario in `simulate`.
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// Goals only in `simulate`: no comparison, no pictures.
    #[arg(long)]
    quick: bool,
    /// Where `simulate` writes its pictures.
    #[arg(long, value_name = "DIR", default_value = "target/simulate")]
    out: PathBuf,
}

/// CPU that a host spends on each request that is offered, beside the decision: reading its head and answering. In seconds.
const OFFER: f64 = 20e-6;

/// Prints the goals and the comparison, and writes the pictures.
pub(crate) fn run(flags: &Options, json: bool) -> Outcome<()> {
    let cost = cost::measure();
    // Whole microseconds, so that the same seed is the same run.
    let offer = OFFER + (cost.refuse.as_secs_f64() * 1e6).ceil() / 1e6;
    let seeds = flags.seeds.unwrap_or(if flags.quick { 1 } else { 5 });
    let mut goals = cost.goals();
    for scenario in goals::ALL {
        if flags.scenario.as_ref().is_none_or(|name| name == scenario.name) {
            let met = (scenario.check)(offer, seeds);
            if !json {
                met.iter().for_each(|goal| println!("{goal}"));
            }
            goals.extend(met);
        }
    }
    if json {
        let rows: Vec<_> = goals.iter().map(Goal::json).collect();
        println!("{}", json!({ "version": 1, "seeds": seeds, "goals": rows }));
        return Ok(());
    }
    cost.goals().iter().for_each(|goal| println!("{goal}"));
    if !flags.quick {
        println!("\n{}", comparison::table(offer, seeds, flags.scenario.as_deref()));
        picture::write_all(&flags.out, offer, flags.scenario.as_deref())?;
        println!("pictures: {}", flags.out.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every goal of the simulator, with one seed. The cost of a decision is measured elsewhere: here it would be a debug build's.
    #[test]
    fn every_goal_is_met() {
        let goals: Vec<Goal> = goals::ALL
            .iter()
            .flat_map(|scenario| (scenario.check)(OFFER + 1e-6, 1))
            .collect();
        let missed: Vec<String> = goals
            .iter()
            .filter(|goal| !goal.is_met())
            .map(Goal::to_string)
            .collect();
        assert!(goals.len() > 15, "{}", goals.len());
        assert!(missed.is_empty(), "{}", missed.join("\n"));
    }

    /// The control: without admission the same scenarios miss them.
    #[test]
    fn without_admission_they_are_missed() {
        let goodput = |choice| comparison::part_of_capacity(scenarios::cpu, 5.0, OFFER, choice, 1);
        assert!(goodput(front::Choice::Other(published::Published::None)) < 0.2);
        assert!(goodput(front::Choice::Fifo500) < 0.7);
    }
}
