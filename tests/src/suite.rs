//! The list of tests: each with what it needs, run side by side, what was skipped said by name at the end.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::host;
use crate::need::Need;

/// The tests of one binary.
#[derive(Default)]
pub struct Suite {
    tests: Vec<Test>,
    one_at_a_time: bool,
    groups: Vec<(&'static str, Vec<&'static str>)>,
}

/// What came of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It held.
    Passed,
    /// It did not, or it began and nobody knows how it ended.
    Failed,
    /// It needs this, which is not here.
    Skipped(String),
}

/// What came of the tests so far, by name. Those that were not chosen are not in it.
static OUTCOMES: Mutex<BTreeMap<String, Outcome>> = Mutex::new(BTreeMap::new());

/// What came of the tests so far, by name; without those that were not chosen.
pub fn outcomes() -> BTreeMap<String, Outcome> {
    OUTCOMES.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn note(name: &str, outcome: Outcome) {
    let mut outcomes = OUTCOMES.lock().unwrap_or_else(PoisonError::into_inner);
    outcomes.insert(name.to_owned(), outcome);
}

struct Test {
    name: String,
    needs: &'static [Need],
    body: Box<dyn FnOnce() + Send>,
}

impl std::fmt::Debug for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.tests.iter().map(|test| &test.name))
            .finish()
    }
}

/// Registers functions as tests under the name of their module: `tests!(suite, "deploy", [a_test, other_test: NEEDS])`.
#[macro_export]
macro_rules! tests {
    ($suite:expr, $module:literal, [$($test:ident $(: $needs:expr)?),* $(,)?]) => {
        $($suite.add(concat!($module, "::", stringify!($test)), $crate::tests!(@needs $($needs)?), $test);)*
    };
    (@needs) => { &[] };
    (@needs $needs:expr) => { $needs };
}

impl Suite {
    /// A suite whose tests would disturb each other.
    pub fn one_at_a_time() -> Suite {
        Suite {
            one_at_a_time: true,
            ..Suite::default()
        }
    }

    /// Adds a test.
    pub fn add(&mut self, name: &str, needs: &'static [Need], body: impl FnOnce() + Send + 'static) {
        self.tests.push(Test {
            name: name.to_owned(),
            needs,
            body: Box::new(body),
        });
    }

    /// The names of the tests so far.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tests.iter().map(|test| test.name.as_str())
    }

    /// Makes `name` as a filter select these tests, and those whose own names have it.
    pub fn group(&mut self, name: &'static str, tests: impl IntoIterator<Item = &'static str>) {
        self.groups.push((name, tests.into_iter().collect()));
    }

    /// Leaves only the tests of the group that is asked for.
    fn narrow(&mut self, arguments: &mut Arguments) {
        let asked = arguments.filter.as_deref();
        let group = self.groups.iter().find(|(name, _)| asked == Some(*name));
        let Some((_, members)) = group else {
            return;
        };
        self.tests.retain(|test| {
            members.contains(&test.name.as_str()) || asked.is_some_and(|asked| test.name.contains(asked))
        });
        arguments.filter = None;
        arguments.exact = false;
    }

    /// Runs what the arguments select, stops the shared hosts, and says what was skipped.
    pub fn run(mut self) -> ExitCode {
        let mut arguments = Arguments::from_args();
        self.narrow(&mut arguments);
        // They mostly wait for processes: more of them than cores keeps the cores busy.
        arguments
            .test_threads
            .get_or_insert(if self.one_at_a_time { 1 } else { 4 });
        let demanded = std::env::var("FUNCD_TEST_REQUIRE").is_ok_and(|what| what == "all");
        let mut skipped = Vec::new();
        let mut trials = Vec::new();
        for Test { name, needs, body } in self.tests {
            let chosen = !arguments.list && is_chosen(&arguments, &name);
            let lacking = needs.iter().find(|need| chosen && !need.is_met());
            trials.push(match lacking {
                None => Trial::test(name.clone(), move || run(&name, body)),
                Some(need) if demanded => {
                    note(&name, Outcome::Failed);
                    let reason = format!("needs {need}, and FUNCD_TEST_REQUIRE=all allows no skip");
                    Trial::test(name, move || Err(Failed::from(reason)))
                }
                Some(need) => {
                    note(&name, Outcome::Skipped(need.to_string()));
                    skipped.push(format!("skipped: {name}: needs {need}"));
                    Trial::test(name, || Ok(())).with_ignored_flag(true)
                }
            });
        }
        let listing = arguments.list;
        let conclusion = libtest_mimic::run(&arguments, trials);
        let left = if listing { Vec::new() } else { host::stop_shared() };
        for line in skipped {
            println!("{line}");
        }
        for what in &left {
            println!("left behind: {what}");
        }
        if conclusion.has_failed() || !left.is_empty() {
            ExitCode::from(101)
        } else {
            ExitCode::SUCCESS
        }
    }
}

/// Whether the arguments select this test, as libtest does it.
fn is_chosen(arguments: &Arguments, name: &str) -> bool {
    let fits = |pattern: &str| {
        if arguments.exact {
            name == pattern
        } else {
            name.contains(pattern)
        }
    };
    arguments.filter.as_deref().is_none_or(fits) && !arguments.skip.iter().any(|pattern| fits(pattern))
}

fn run(name: &str, body: impl FnOnce()) -> Result<(), Failed> {
    // Until it ends: a panic leaves it so.
    note(name, Outcome::Failed);
    body();
    note(name, Outcome::Passed);
    Ok(())
}
