//! The goals, each with the scenario that shows it and what others reach.

use funcd::admission::Class;

use super::comparison::{Family, least, loaded, mean, most, recovery_of, runs};
use super::front::Choice;
use super::goal::Goal;
use super::measure::{Stretch, failed, goodput, p99, success};
use super::scenarios::{self as scenario, WARM, capacity};
use super::script::Scenario;

/// A scenario and its goals.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    /// With the CPU of an offer, in seconds, and so many seeds: the worst of them counts.
    pub(crate) check: fn(f64, u64) -> Vec<Goal>,
}

/// All of them.
pub(crate) const ALL: &[Entry] = &[
    Entry {
        name: "cpu",
        check: |offer, seeds| overload("cpu", scenario::cpu, offer, seeds),
    },
    Entry {
        name: "io",
        check: |offer, seeds| overload("io", scenario::io, offer, seeds),
    },
    Entry {
        name: "rest",
        check: rest,
    },
    Entry {
        name: "steady",
        check: steady,
    },
    Entry {
        name: "heavy",
        check: |offer, seeds| part("heavy", scenario::heavy, 0.90, offer, seeds),
    },
    Entry {
        name: "bimodal",
        check: |offer, seeds| part("bimodal", scenario::bimodal, 0.85, offer, seeds),
    },
    Entry {
        name: "classes",
        check: classes,
    },
    Entry {
        name: "bulk",
        check: bulk,
    },
    Entry {
        name: "dependency",
        check: dependency,
    },
    Entry {
        name: "recovery",
        check: recovers,
    },
    Entry {
        name: "storm",
        check: storm,
    },
    Entry {
        name: "kills",
        check: kills,
    },
    Entry {
        name: "scale",
        check: scale,
    },
    Entry {
        name: "slow-start",
        check: slow_start,
    },
    Entry {
        name: "long",
        check: long,
    },
];

fn overload(name: &'static str, family: Family, offer: f64, seeds: u64) -> Vec<Goal> {
    // Longer, because all others are divided by it.
    let usual = Scenario {
        length: WARM + 60.0,
        ..family(0.7, offer)
    };
    // Means of the seeds above and below: the worst of one over the best of the other would be chance.
    let usual = mean(
        runs(&usual, Choice::Funcd, seeds)
            .iter()
            .map(|books| p99(books, loaded(&usual))),
    );
    let mut goals = Vec::new();
    for (times, part) in [(2.0, 0.97), (5.0, 0.95), (10.0, 0.93)] {
        let scenario = family(times, offer);
        let runs = runs(&scenario, Choice::Funcd, seeds);
        let stretch = loaded(&scenario);
        let good = least(runs.iter().map(|books| goodput(books, stretch))) / capacity(&scenario);
        let slow = mean(runs.iter().map(|books| p99(books, stretch))) / usual;
        let anchor = "Netflix: stable past 6×";
        goals.push(Goal::at_least(
            name,
            format!("{times} × load: goodput ÷ capacity"),
            good,
            part,
            anchor,
        ));
        let anchor = "folly: 5 ms";
        goals.push(Goal::at_most(
            name,
            format!("{times} × load: p99 ÷ p99 at .7"),
            slow,
            2.5,
            anchor,
        ));
    }
    goals
}

/// Goodput alone: where a p99 at usual load says little.
fn part(name: &'static str, family: Family, goal: f64, offer: f64, seeds: u64) -> Vec<Goal> {
    [2.0, 5.0, 10.0]
        .into_iter()
        .map(|times| {
            let scenario = family(times, offer);
            let runs = runs(&scenario, Choice::Funcd, seeds);
            let good =
                least(runs.iter().map(|books| goodput(books, loaded(&scenario)))) / capacity(&scenario);
            Goal::at_least(
                name,
                format!("{times} × load: goodput ÷ capacity"),
                good,
                goal,
                "",
            )
        })
        .collect()
}

/// Out of a rest: what is in flight by then says nothing yet of what it costs. At the beginning, in the middle and at the end of an
/// interval between two looks at the CPU; and when what is used is told late.
fn rest(offer: f64, seeds: u64) -> Vec<Goal> {
    let worst = |times: f64| {
        let whens = [0.095, 0.05, 0.005].into_iter();
        let parts = whens.flat_map(|before| [false, true].map(|is_late| (before, is_late)));
        let parts = parts.map(|(before, is_late)| {
            let scenario = Scenario {
                is_late,
                ..scenario::rest(times, before, offer)
            };
            let runs = runs(&scenario, Choice::Funcd, seeds);
            least(runs.iter().map(|books| goodput(books, loaded(&scenario)))) / capacity(&scenario)
        });
        least(parts)
    };
    let goals = [(0.7, 0.68), (1.0, 0.95), (1.2, 0.95), (2.0, 0.95), (10.0, 0.9)];
    goals
        .into_iter()
        .map(|(times, goal)| {
            let what = format!("{times} × load: goodput ÷ capacity");
            Goal::at_least("rest", what, worst(times), goal, "")
        })
        .collect()
}

fn classes(offer: f64, seeds: u64) -> Vec<Goal> {
    let mut goals = Vec::new();
    for times in [2.0, 10.0] {
        let scenario = scenario::classes(times, offer);
        let runs = runs(&scenario, Choice::Funcd, seeds);
        let part = |class| {
            least(
                runs.iter()
                    .map(|books| success(books, loaded(&scenario), Some(class))),
            )
        };
        let what = format!("{times} × load, .45 of it critical: success of critical");
        let what = what.replace("of it", "of capacity");
        goals.push(Goal::at_least(
            "classes",
            what,
            part(Class::Critical),
            0.9995,
            "Netflix: > .994",
        ));
        let good = least(runs.iter().map(|books| {
            let bulk = books
                .fates
                .iter()
                .filter(|fate| fate.class == Class::Bulk && fate.sent >= WARM && fate.answered.is_some());
            bulk.count() as f64 / (scenario.length - WARM) / capacity(&scenario)
        }));
        let what = format!("{times} × load: bulk answered ÷ capacity");
        goals.push(Goal::at_least("classes", what, good, 0.01, "its floor is .02"));
    }
    goals
}

fn bulk(offer: f64, seeds: u64) -> Vec<Goal> {
    let scenario = scenario::bulk(offer);
    let runs = runs(&scenario, Choice::Funcd, seeds);
    let part = |class| {
        least(
            runs.iter()
                .map(|books| success(books, loaded(&scenario), Some(class))),
        )
    };
    vec![
        Goal::at_least(
            "bulk",
            "12 × bulk: success of critical",
            part(Class::Critical),
            0.9995,
            "Netflix: > .994",
        ),
        Goal::at_least(
            "bulk",
            "12 × bulk: success of degraded",
            part(Class::Degraded),
            0.98,
            "",
        ),
    ]
}

fn dependency(offer: f64, seeds: u64) -> Vec<Goal> {
    let scenario = scenario::dependency(offer);
    let runs = runs(&scenario, Choice::Funcd, seeds);
    let part = least(runs.iter().map(|books| success(books, loaded(&scenario), None)));
    let anchor = "Netflix's limiters .03–.14, Envoy .96";
    vec![Goal::at_least(
        "dependency",
        "50 → 400 ms, CPU idle: success",
        part,
        0.99,
        anchor,
    )]
}

/// Four nines where nothing is wrong: clusters of requests that chance makes are not overload.
fn steady(offer: f64, seeds: u64) -> Vec<Goal> {
    let goal = |load: f64| {
        let scenario = Scenario {
            length: WARM + 60.0,
            ..scenario::cpu(load, offer)
        };
        let runs = runs(&scenario, Choice::Funcd, seeds);
        let success = mean(runs.iter().map(|books| success(books, loaded(&scenario), None)));
        Goal::at_least("steady", format!("{load} × load: success"), success, 0.9999, "")
    };
    vec![goal(0.7), goal(0.8)]
}

fn recovers(offer: f64, seeds: u64) -> Vec<Goal> {
    let recovered = recovery_of(&scenario::recovery(offer), WARM + 10.0, Choice::Funcd, seeds);
    let anchor = "Envoy 0–33 s, Vegas 4–38 s";
    vec![Goal::at_most(
        "recovery",
        "10 × ends: seconds to 99 % success",
        recovered,
        2.0,
        anchor,
    )]
}

fn storm(offer: f64, seeds: u64) -> Vec<Goal> {
    let scenario = scenario::storm(offer);
    let runs = runs(&scenario, Choice::Funcd, seeds);
    // Of what each caller's attempts became, funcd's own retries are what is more than one.
    let amplified = most(
        runs.iter()
            .map(|books| books.dispatched as f64 / books.offered as f64),
    );
    let broke = recovery_of(&scenario, WARM + 5.0, Choice::Funcd, seeds);
    let spiked = recovery_of(&scenario::spike(offer), WARM + 3.0, Choice::Funcd, seeds);
    vec![
        Goal::at_most(
            "storm",
            "half of all attempts break: dispatches ÷ requests",
            amplified,
            1.1,
            "",
        ),
        Goal::at_most(
            "storm",
            "it ends, callers try 3 × more: seconds to 99 %",
            broke,
            2.0,
            "",
        ),
        Goal::at_most(
            "storm",
            "a 3 × spike ends, callers try 3 × more: seconds",
            spiked,
            2.0,
            "",
        ),
    ]
}

fn kills(offer: f64, seeds: u64) -> Vec<Goal> {
    let scenario = scenario::kills(offer);
    let lost = most(
        runs(&scenario, Choice::Funcd, seeds)
            .iter()
            .map(|books| failed(books, WARM) as f64),
    );
    let anchor = "“a single retry nearly 100 %”";
    vec![Goal::at_most(
        "kills",
        "one of four killed each second: failed",
        lost,
        0.0,
        anchor,
    )]
}

fn scale(offer: f64, seeds: u64) -> Vec<Goal> {
    let mut goals = Vec::new();
    for (what, scenario) in [
        ("0 → 1", scenario::zero_to_one(offer)),
        ("1 → 50", scenario::one_to_fifty(offer)),
    ] {
        let runs = runs(&scenario, Choice::Funcd, seeds);
        let decision = most(runs.iter().map(|books| 1e3 * books.decision));
        let lost = most(runs.iter().map(|books| failed(books, 0.0) as f64));
        let starts = least(runs.iter().map(|books| f64::from(books.starts)));
        let anchor = "Knative: a tick of 2 s";
        goals.push(Goal::at_most(
            "scale",
            format!("{what}: decision, ms"),
            decision,
            50.0,
            anchor,
        ));
        goals.push(Goal::at_most("scale", format!("{what}: failed"), lost, 0.0, ""));
        let wanted = if scenario.most_instances == 1 { 1.0 } else { 35.0 };
        goals.push(Goal::at_least(
            "scale",
            format!("{what}: instances started"),
            starts,
            wanted,
            "",
        ));
    }
    goals
}

fn slow_start(offer: f64, seeds: u64) -> Vec<Goal> {
    let scenario = scenario::slow_start(offer);
    let runs = runs(&scenario, Choice::Funcd, seeds);
    let part = least(runs.iter().map(|books| success(books, loaded(&scenario), None)));
    vec![Goal::at_least(
        "slow-start",
        "a new instance is 4 × slower: success",
        part,
        0.999,
        "",
    )]
}

fn long(offer: f64, seeds: u64) -> Vec<Goal> {
    let scenario = scenario::long(offer);
    let runs = runs(&scenario, Choice::Funcd, seeds.min(2));
    let stretch = Stretch {
        from: scenario.length - 30.0,
        to: scenario.length,
    };
    let good = least(runs.iter().map(|books| goodput(books, stretch))) / capacity(&scenario);
    let early = Stretch {
        from: WARM + 5.0,
        to: WARM + 35.0,
    };
    let slower = most(runs.iter().map(|books| p99(books, stretch) / p99(books, early)));
    vec![
        Goal::at_least("long", "after 3 min of 2 ×: goodput ÷ capacity", good, 0.97, ""),
        Goal::at_most(
            "long",
            "after 3 min of 2 ×: p99 ÷ p99 in the first",
            slower,
            1.25,
            "",
        ),
    ]
}
