//! The list of tests: each with what it needs, run side by side, what was skipped said by name at the end.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::host;
use crate::need::Need;

/// The tests of one binary.
#[derive(Default)]
pub struct Suite {
    tests: Vec<Test>,
    one_at_a_time: bool,
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

    /// Runs what the arguments select, stops the shared hosts, and says what was skipped.
    pub fn run(self) -> ExitCode {
        let mut arguments = Arguments::from_args();
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
                None => Trial::test(name, move || run(body)),
                Some(need) if demanded => {
                    let reason = format!("needs {need}, and FUNCD_TEST_REQUIRE=all allows no skip");
                    Trial::test(name, move || Err(Failed::from(reason)))
                }
                Some(need) => {
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

fn run(body: impl FnOnce()) -> Result<(), Failed> {
    body();
    Ok(())
}
