//! A number beside its goal. Pure: text and JSON of the same.

use std::fmt;

use serde_json::{Value, json};

/// A number with its goal.
#[derive(Debug, Clone)]
pub(crate) struct Goal {
    scenario: &'static str,
    what: String,
    measured: f64,
    at_least: Option<f64>,
    at_most: Option<f64>,
    /// What others reach.
    anchor: &'static str,
}

impl Goal {
    pub(crate) fn at_least(
        scenario: &'static str,
        what: impl Into<String>,
        measured: f64,
        goal: f64,
        anchor: &'static str,
    ) -> Goal {
        Goal {
            scenario,
            what: what.into(),
            measured,
            at_least: Some(goal),
            at_most: None,
            anchor,
        }
    }

    pub(crate) fn at_most(
        scenario: &'static str,
        what: impl Into<String>,
        measured: f64,
        goal: f64,
        anchor: &'static str,
    ) -> Goal {
        Goal {
            at_least: None,
            at_most: Some(goal),
            ..Goal::at_least(scenario, what, measured, goal, anchor)
        }
    }

    pub(crate) fn is_met(&self) -> bool {
        // What is not a number meets no goal.
        self.at_least.is_none_or(|goal| self.measured >= goal)
            && self.at_most.is_none_or(|goal| self.measured <= goal)
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "scenario": self.scenario,
            "what": self.what,
            "measured": self.measured,
            "at_least": self.at_least,
            "at_most": self.at_most,
            "anchor": self.anchor,
            "verdict": if self.is_met() { "met" } else { "missed" },
        })
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let goal = match (self.at_least, self.at_most) {
            (Some(goal), _) => format!("≥ {goal}"),
            (_, Some(goal)) => format!("≤ {goal}"),
            _ => String::new(),
        };
        let verdict = if self.is_met() { "met" } else { "MISSED" };
        let line = format!(
            "{:<11} {:<52} {goal:>9} {:>10.4}  {verdict:<7} {}",
            self.scenario, self.what, self.measured, self.anchor
        );
        f.write_str(line.trim_end())
    }
}
