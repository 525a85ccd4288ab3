//! Rows whose attempts are made by a function: each by every runtime, natively where the language can, else by a child process.

use std::collections::BTreeMap;

use funcd_tests::need::Need;
use funcd_tests::suite::Suite;
use funcd_tests::until;
use nix::libc;

use crate::context::{Runtime, attacker, attempt, context};
use crate::control::{Control, fits};
use crate::table::{Title, note};

/// One attempt of a row.
pub(crate) struct Attempt {
    line: String,
    /// How the table calls it.
    label: &'static str,
    expected: &'static [&'static str],
    control: Control,
    /// What the control is called with, where it must differ.
    control_line: Option<String>,
    /// Runtimes for which something else is right; a comment beside it says why.
    except: &'static [(Runtime, &'static [&'static str])],
    /// Whether only root's controls and set-up make sense.
    root: bool,
}

/// An attempt that a verb of the payload makes.
pub(crate) fn by(
    label: &'static str,
    line: &str,
    expected: &'static [&'static str],
    control: Control,
) -> Attempt {
    Attempt {
        line: line.to_owned(),
        label,
        expected,
        control,
        control_line: None,
        except: &[],
        root: false,
    }
}

/// A system call with these arguments.
pub(crate) fn call(
    label: &'static str,
    number: libc::c_long,
    arguments: &str,
    expected: &'static [&'static str],
    control: Control,
) -> Attempt {
    by(label, &format!("call {number} {arguments}"), expected, control)
}

impl Attempt {
    pub(crate) fn control_with(mut self, line: &str) -> Attempt {
        self.control_line = Some(line.to_owned());
        self
    }

    pub(crate) fn except(mut self, except: &'static [(Runtime, &'static [&'static str])]) -> Attempt {
        self.except = except;
        self
    }

    pub(crate) fn root_only(mut self) -> Attempt {
        self.root = true;
        self
    }

    fn expected(&self, runtime: Runtime) -> &'static [&'static str] {
        let exception = self.except.iter().find(|(which, _)| *which == runtime);
        exception.map_or(self.expected, |(_, expected)| expected)
    }
}

/// A row of the table.
pub(crate) struct Row {
    pub(crate) title: Title,
    /// For the name of the test.
    pub(crate) name: &'static str,
    pub(crate) needs: &'static [Need],
    pub(crate) attempts: fn() -> Vec<Attempt>,
    /// The manifest of a function of its own; `None`: it shares one with the rows that hurt only their own process.
    pub(crate) own: Option<&'static str>,
    /// What else must hold, with the function's name.
    pub(crate) after: fn(&str),
}

/// Nothing else must hold.
pub(crate) fn nothing(_: &str) {}

/// Registers a row for every runtime.
pub(crate) fn register(suite: &mut Suite, row: &'static Row) {
    for runtime in Runtime::ALL {
        let needs: Vec<Need> = row.needs.iter().copied().chain(runtime.need()).collect();
        let name = format!("{:02}_{}::{}", row.title.number, row.name, runtime.name());
        suite.add(&name, needs.leak(), move || run(row, runtime));
    }
}

fn run(row: &Row, runtime: Runtime) {
    let context = context();
    let host = &context.host;
    let function = match row.own {
        None => attacker(runtime, runtime.name(), ""),
        Some(manifest) => attacker(
            runtime,
            &format!("{}-{}", runtime.name(), row.title.number),
            manifest,
        ),
    };
    let unharmed = (host.instance("neighbour"), host.supervisor());
    let attempts = (row.attempts)();
    let mut outcomes: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut children = 0;
    for attempt_ in attempts
        .iter()
        .filter(|attempt| !attempt.root || funcd_tests::need::is_root())
    {
        let answer = attempt(host, &function, &context.words(&attempt_.line, None, "/tmp"));
        let came = match answer.status() {
            200 => answer.text(),
            // The function did not survive it.
            502 => "died".to_owned(),
            status => format!("{status} {}", answer.text()),
        };
        children += usize::from(answer.header("how") == Some("child"));
        let expected = attempt_.expected(runtime);
        if !fits(&came, expected) {
            wrong.push(format!(
                "{} ({}): {came:?}, expected one of {expected:?}",
                attempt_.label, attempt_.line
            ));
        }
        // How often until it was refused differs from run to run.
        let told = came.split(" after ").next().unwrap_or_default().to_owned();
        outcomes.entry(told).or_default().push(attempt_.label);
        if came == "died" {
            host.wait_for(&format!("/{function}/"), "200 again", |answer| {
                answer.status() == 200
            });
        }
    }
    assert!(wrong.is_empty(), "{} by {}: {wrong:#?}", row.name, runtime.name());
    (row.after)(&function);
    for _ in 0..5 {
        host.get_ok("/neighbour/");
    }
    assert_eq!(
        (host.instance("neighbour"), host.supervisor()),
        unharmed,
        "neither neighbour nor supervisor noticed"
    );
    if row.own.is_some() {
        host.remove(&function);
        until("the attacker to be gone", || host.entry(&function).is_none());
    }
    let mut outcome = told(&outcomes);
    if children > 0 && runtime != Runtime::Static && runtime != Runtime::Dynamic {
        outcome += &format!(" ({children} of {} by a child process)", attempts.len());
    }
    let control = if runtime == Runtime::Static {
        controls(&attempts)
    } else {
        String::new()
    };
    note(row.title, runtime.name(), &outcome, &control);
}

fn told(outcomes: &BTreeMap<String, Vec<&str>>) -> String {
    let one = |(outcome, labels): (&String, &Vec<&str>)| format!("{outcome} ({})", labels.join(", "));
    outcomes.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn controls(attempts: &[Attempt]) -> String {
    let mut came: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for attempt in attempts
        .iter()
        .filter(|attempt| !attempt.root || funcd_tests::need::is_root())
    {
        let line = attempt.control_line.as_ref().unwrap_or(&attempt.line);
        came.entry(attempt.control.run(line))
            .or_default()
            .push(attempt.label);
    }
    told(&came)
}
