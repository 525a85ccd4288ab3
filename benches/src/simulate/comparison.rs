//! The same scenario with many seeds, and with all choices beside each other.

use funcd::admission::Class;

use super::front::Choice;
use super::measure::{Stretch, goodput, recovery, success};
use super::scenarios::{self as scenario, WARM, capacity};
use super::script::{Books, Scenario};
use super::world::World;

/// The same scenario with each seed.
pub(crate) fn runs(scenario: &Scenario, choice: Choice, seeds: u64) -> Vec<Books> {
    (1..=seeds)
        .map(|seed| World::run(scenario, choice, seed))
        .collect()
}

/// The least; not a number if one is not.
pub(crate) fn least(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::INFINITY, |a, b| if b.is_nan() { b } else { a.min(b) })
}

/// The most; not a number if one is not.
pub(crate) fn most(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::NEG_INFINITY, |a, b| if b.is_nan() { b } else { a.max(b) })
}

/// The mean.
pub(crate) fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}

/// From the change of the load to the end.
pub(crate) fn loaded(scenario: &Scenario) -> Stretch {
    Stretch {
        from: WARM,
        to: scenario.length,
    }
}

/// A scenario by how many times its capacity is offered.
pub(crate) type Family = fn(f64, f64) -> Scenario;

/// Goodput ÷ capacity, mean of the seeds.
pub(crate) fn part_of_capacity(family: Family, times: f64, offer: f64, choice: Choice, seeds: u64) -> f64 {
    let scenario = family(times, offer);
    let runs = runs(&scenario, choice, seeds);
    mean(
        runs.iter()
            .map(|books| goodput(books, loaded(&scenario)) / capacity(&scenario)),
    )
}

/// Seconds until it has recovered from what ends at `end`: the worst seed.
pub(crate) fn recovery_of(scenario: &Scenario, end: f64, choice: Choice, seeds: u64) -> f64 {
    let runs = runs(scenario, choice, seeds);
    most(
        runs.iter()
            .map(|books| recovery(books, end, scenario.length).unwrap_or(f64::INFINITY)),
    )
}

/// All choices beside each other, as text.
pub(crate) fn table(offer: f64, seeds: u64, only: Option<&str>) -> String {
    type Column = (&'static str, &'static str, fn(f64, u64, Choice) -> f64);
    const COLUMNS: [Column; 9] = [
        ("cpu", "cpu 2×", |o, s, c| {
            part_of_capacity(scenario::cpu, 2.0, o, c, s)
        }),
        ("cpu", "5×", |o, s, c| {
            part_of_capacity(scenario::cpu, 5.0, o, c, s)
        }),
        ("cpu", "10×", |o, s, c| {
            part_of_capacity(scenario::cpu, 10.0, o, c, s)
        }),
        ("io", "io 2×", |o, s, c| {
            part_of_capacity(scenario::io, 2.0, o, c, s)
        }),
        ("io", "5×", |o, s, c| {
            part_of_capacity(scenario::io, 5.0, o, c, s)
        }),
        ("io", "10×", |o, s, c| {
            part_of_capacity(scenario::io, 10.0, o, c, s)
        }),
        ("classes", "critical", |o, s, c| {
            let scenario = scenario::classes(10.0, o);
            let runs = runs(&scenario, c, s);
            mean(
                runs.iter()
                    .map(|books| success(books, loaded(&scenario), Some(Class::Critical))),
            )
        }),
        ("dependency", "dependency", |o, s, c| {
            let scenario = scenario::dependency(o);
            let runs = runs(&scenario, c, s);
            mean(runs.iter().map(|books| success(books, loaded(&scenario), None)))
        }),
        ("recovery", "recovery s", |o, s, c| {
            recovery_of(&scenario::recovery(o), WARM + 10.0, c, s)
        }),
    ];
    let columns = COLUMNS
        .iter()
        .filter(|column| only.is_none_or(|only| only == column.0));
    let columns: Vec<&Column> = columns.collect();
    let mut text = format!("{:<34}", "goodput ÷ capacity; success; seconds");
    columns
        .iter()
        .for_each(|(_, title, _)| text.push_str(&format!(" {title:>10}")));
    for choice in Choice::ALL {
        text.push_str(&format!("\n{:<34}", choice.name()));
        for (_, _, measure) in &columns {
            text.push_str(&format!(" {:>10.3}", measure(offer, seeds, choice)));
        }
    }
    text.push('\n');
    text
}
