//! What came of each attempt, as the table that is printed at the end. Never judges.

use std::collections::BTreeMap;
use std::sync::Mutex;

use funcd_tests::need::Need;
use funcd_tests::suite::Suite;

/// An attempt as the table names it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Title {
    pub(crate) number: u8,
    pub(crate) attempt: &'static str,
    /// The property that it rests on, and the mechanisms.
    pub(crate) mechanism: &'static str,
}

#[derive(Default)]
struct Line {
    attempt: &'static str,
    mechanism: &'static str,
    /// By who tried it.
    outcomes: BTreeMap<&'static str, String>,
    control: String,
}

static LINES: Mutex<BTreeMap<u8, Line>> = Mutex::new(BTreeMap::new());

/// Notes what came of an attempt. An empty control leaves the one that is there.
pub(crate) fn note(title: Title, who: &'static str, outcome: &str, control: &str) {
    let mut lines = LINES.lock().unwrap_or_else(|poison| poison.into_inner());
    let line = lines.entry(title.number).or_default();
    line.attempt = title.attempt;
    line.mechanism = title.mechanism;
    line.outcomes.insert(who, outcome.to_owned());
    if !control.is_empty() {
        line.control = control.to_owned();
    }
}

/// Prints what was noted, as Markdown.
pub(crate) fn print() {
    let lines = LINES.lock().unwrap_or_else(|poison| poison.into_inner());
    if lines.is_empty() {
        return;
    }
    println!("| # | attempt | mechanism | outcome | control |\n|---|---|---|---|---|");
    for (number, line) in &*lines {
        // Who saw the same is named together.
        let mut seen: Vec<(Vec<&str>, &String)> = Vec::new();
        for (who, outcome) in &line.outcomes {
            match seen.iter_mut().find(|(_, same)| *same == outcome) {
                Some((names, _)) => names.push(who),
                None => seen.push((vec![who], outcome)),
            }
        }
        let told: Vec<String> = seen
            .iter()
            .map(|(names, outcome)| match names.as_slice() {
                [""] => (*outcome).clone(),
                names => format!("**{}**: {outcome}", names.join(", ")),
            })
            .collect();
        let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
        println!(
            "| {number} | {} | {} | {} | {} |",
            line.attempt,
            line.mechanism,
            cell(&told.join("; ")),
            cell(&line.control)
        );
    }
    println!("{} attempts of the table were made.", lines.len());
}

/// Registers a row that is one story. It gives what came, and what came of the control.
pub(crate) fn story(
    suite: &mut Suite,
    title: Title,
    name: &str,
    needs: &'static [Need],
    body: fn() -> (String, String),
) {
    suite.add(&format!("{:02}_{name}", title.number), needs, move || {
        let (outcome, control) = body();
        note(title, "", &outcome, &control);
    });
}
