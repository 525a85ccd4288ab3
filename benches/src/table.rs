//! A measurement's results as a table: goal, measured, verdict. Pure: text and JSON of the same rows.

use std::fmt;

use serde_json::{Value, json};

use crate::quiet::OtherLoad;

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Microseconds of time.
    Micros,
    /// Microseconds of CPU, per request.
    CpuMicros,
    /// How many times the other.
    Ratio,
    /// Occurrences.
    Count,
    /// Occurrences, per request.
    PerRequest,
    /// Requests, per second.
    PerSecond,
    /// Millions of bytes.
    Megabytes,
    /// Hundredths of one core.
    CorePercent,
    /// Seconds of time.
    Seconds,
    /// A part of all requests.
    Part,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Unit::Micros => "us",
            Unit::CpuMicros => "cpu-us/request",
            Unit::Ratio => "ratio",
            Unit::Count => "count",
            Unit::PerRequest => "per-request",
            Unit::PerSecond => "requests/s",
            Unit::Megabytes => "MB",
            Unit::CorePercent => "percent-of-a-core",
            Unit::Seconds => "s",
            Unit::Part => "part-of-all",
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Unit::Micros if value >= 10_000.0 => format!("{:.1} ms", value / 1000.0),
            Unit::Micros => format!("{value:.1} µs"),
            Unit::CpuMicros => format!("{value:.2} CPU-µs"),
            Unit::Ratio => format!("{value:.2} ×"),
            Unit::Count => format!("{value:.0}"),
            Unit::PerRequest => format!("{value:.3}"),
            Unit::PerSecond => format!("{value:.0} /s"),
            Unit::Megabytes => format!("{value:.1} MB"),
            Unit::CorePercent => format!("{value:.2} %"),
            Unit::Seconds => format!("{value:.2} s"),
            Unit::Part => format!("{:.3} %", value * 100.0),
        }
    }

    /// Times say nothing on a loud machine; counts and sizes stay true.
    fn needs_quiet(self) -> bool {
        match self {
            Unit::Micros | Unit::CpuMicros | Unit::Ratio | Unit::PerRequest => true,
            Unit::PerSecond | Unit::CorePercent | Unit::Seconds | Unit::Part => true,
            Unit::Count | Unit::Megabytes => false,
        }
    }
}

/// One number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    what: String,
    unit: Unit,
    measured: f64,
    goal: Option<Goal>,
}

/// What was promised of a number.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Row {
    /// A number to know.
    pub(crate) fn of(what: impl Into<String>, unit: Unit, measured: f64) -> Row {
        Row {
            what: what.into(),
            unit,
            measured,
            goal: None,
        }
    }

    /// A number that was promised not to be larger.
    pub(crate) fn at_most(self, goal: f64) -> Row {
        Row {
            goal: Some(Goal::AtMost(goal)),
            ..self
        }
    }

    /// A number that was promised not to be smaller.
    pub(crate) fn at_least(self, goal: f64) -> Row {
        Row {
            goal: Some(Goal::AtLeast(goal)),
            ..self
        }
    }

    fn verdict(&self, loud: bool) -> Verdict {
        match self.goal {
            None => Verdict::NoGoal,
            Some(_) if loud && self.unit.needs_quiet() => Verdict::TooLoud,
            Some(Goal::AtMost(goal)) if self.measured <= goal => Verdict::Met,
            Some(Goal::AtLeast(goal)) if self.measured >= goal => Verdict::Met,
            // A number that is not a number is no proof of anything.
            Some(_) => Verdict::Missed,
        }
    }
}

/// What a row means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    NoGoal,
    Met,
    Missed,
    TooLoud,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::NoGoal => "",
            Verdict::Met => "met",
            Verdict::Missed => "MISSED",
            Verdict::TooLoud => "no verdict",
        })
    }
}

/// One measurement.
#[derive(Debug)]
pub(crate) struct Table {
    /// The command that made it.
    pub(crate) name: &'static str,
    /// What it measures.
    pub(crate) title: String,
    /// The numbers.
    pub(crate) rows: Vec<Row>,
    /// What to know when reading them: what was compared with what, and what is missing.
    pub(crate) notes: Vec<String>,
    /// What others did on the machine meanwhile.
    pub(crate) others: OtherLoad,
}

impl Table {
    /// For machines.
    pub(crate) fn json(&self) -> Value {
        let loud = self.others.is_loud();
        let row = |row: &Row| {
            json!({
                "what": row.what,
                "unit": row.unit.name(),
                "measured": row.measured,
                "at_most": match row.goal { Some(Goal::AtMost(goal)) => Some(goal), _ => None },
                "at_least": match row.goal { Some(Goal::AtLeast(goal)) => Some(goal), _ => None },
                "verdict": match row.verdict(loud) {
                    Verdict::NoGoal => Value::Null,
                    Verdict::Met => "met".into(),
                    Verdict::Missed => "missed".into(),
                    Verdict::TooLoud => "none".into(),
                },
            })
        };
        json!({
            "name": self.name,
            "title": self.title,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "notes": self.notes,
            "other_load_cores": self.others.cores,
        })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let loud = self.others.is_loud();
        let header = ["", "goal", "measured", ""].map(String::from);
        let cells = self.rows.iter().map(|row| {
            let goal = row.goal.map(|goal| match goal {
                Goal::AtMost(goal) => format!("≤ {}", row.unit.show(goal)),
                Goal::AtLeast(goal) => format!("≥ {}", row.unit.show(goal)),
            });
            [
                row.what.clone(),
                goal.unwrap_or_default(),
                row.unit.show(row.measured),
                row.verdict(loud).to_string(),
            ]
        });
        let lines: Vec<[String; 4]> = std::iter::once(header).chain(cells).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
        let [what, goal, measured] = [0, 1, 2].map(|column| width(column).unwrap_or(0));
        writeln!(f, "{}: {}", self.name, self.title)?;
        for [a, b, c, d] in &lines {
            let line = format!("  {a:<what$}  {b:>goal$}  {c:>measured$}  {d}");
            writeln!(f, "{}", line.trim_end())?;
        }
        for note in &self.notes {
            writeln!(f, "  - {note}")?;
        }
        write!(
            f,
            "  - other load: {:.2} of {} cores",
            self.others.cores, self.others.of
        )?;
        if loud {
            write!(
                f,
                "; more than half, so times get no verdict: run it again on a quiet machine"
            )?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(cores: f64) -> Table {
        Table {
            name: "cold",
            title: "from zero".into(),
            rows: vec![
                Row::of("p50", Unit::Ratio, 1.5).at_most(2.0),
                Row::of("p99", Unit::Micros, 5_001.0).at_most(5_000.0),
                Row::of("errors", Unit::Count, 0.0).at_most(0.0),
                Row::of("floor", Unit::Micros, 812.25),
            ],
            notes: vec!["a note".into()],
            others: OtherLoad { cores, of: 2 },
        }
    }

    #[test]
    fn a_goal_is_met_or_missed_and_the_line_says_which() {
        let text = table(0.1).to_string();
        let line = |start: &str| {
            text.lines()
                .find(|line| line.trim_start().starts_with(start))
                .unwrap()
        };
        assert!(line("p50").ends_with("≤ 2.00 ×     1.50 ×  met"), "{text}");
        assert!(line("p99").ends_with("5001.0 µs  MISSED"), "{text}");
        assert!(line("floor").ends_with("812.2 µs"), "{text}");
        assert!(text.contains("- a note\n"), "{text}");
    }

    #[test]
    fn a_loud_machine_gets_no_verdict_on_times_but_on_counts() {
        let verdicts: Vec<Verdict> = table(1.5).rows.iter().map(|row| row.verdict(true)).collect();
        assert_eq!(
            verdicts,
            [Verdict::TooLoud, Verdict::TooLoud, Verdict::Met, Verdict::NoGoal]
        );
        assert!(table(1.5).to_string().contains("run it again on a quiet machine"));
    }

    #[test]
    fn json_holds_the_same_verdicts() {
        let json = table(0.1).json();
        let verdict = |row: usize| json["rows"][row]["verdict"].clone();
        assert_eq!(verdict(0), "met");
        assert_eq!(verdict(1), "missed");
        assert_eq!(verdict(3), Value::Null);
        assert_eq!(json["rows"][1]["unit"], "us");
    }

    #[test]
    fn what_is_not_a_number_does_not_meet_a_goal() {
        let row = Row::of("p50", Unit::Ratio, f64::NAN).at_most(2.0);
        assert_eq!(row.verdict(false), Verdict::Missed);
    }

    #[test]
    fn a_number_that_must_not_be_smaller_is_judged_the_other_way_round() {
        let row = |measured| Row::of("peer", Unit::Ratio, measured).at_least(5.0);
        assert_eq!(row(5.0).verdict(false), Verdict::Met);
        assert_eq!(row(4.9).verdict(false), Verdict::Missed);
        assert_eq!(row(f64::NAN).verdict(false), Verdict::Missed);
    }

    #[test]
    fn long_times_are_shown_in_milliseconds() {
        assert_eq!(Unit::Micros.show(12_345.0), "12.3 ms");
        assert_eq!(Unit::Micros.show(9_999.0), "9999.0 µs");
    }
}
