//! What came: each check of each release, printed as it comes, as a table at the end, and as JUnit XML.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Instant;

use super::dialogue::Ended;
use super::image::Release;

/// What came of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Ok,
    /// It did not hold; what was seen instead.
    Failed(String),
    /// It can't be made there; why.
    Skipped(String),
}

#[derive(Debug)]
struct Check {
    release: Release,
    suite: String,
    name: String,
    outcome: Outcome,
    seconds: f64,
}

/// Everything that was checked.
#[derive(Debug, Default)]
pub(super) struct Report {
    checks: Vec<Check>,
    notes: Vec<(Release, String)>,
}

/// What is checked on one release, as it comes.
#[derive(Debug)]
pub(super) struct Protocol {
    release: Release,
    report: Report,
    suite: String,
    since: Instant,
}

impl Protocol {
    /// Nothing yet.
    pub(super) fn new(release: Release) -> Protocol {
        Protocol {
            release,
            report: Report::default(),
            suite: "machine".to_owned(),
            since: Instant::now(),
        }
    }

    /// Shows a line to who waits; machines may run side by side.
    pub(super) fn show(&self, line: &str) {
        println!("{:8} {line}", self.release.name());
    }

    /// What follows is of this suite.
    pub(super) fn suite(&mut self, name: &str) {
        name.clone_into(&mut self.suite);
        self.show(name);
    }

    /// A remark for whoever reads the report.
    pub(super) fn note(&mut self, text: &str) {
        self.show(&format!("  # {text}"));
        self.report.notes.push((self.release, text.to_owned()));
    }

    /// A check held.
    pub(super) fn ok(&mut self, name: &str) {
        self.add(name, Outcome::Ok);
    }

    /// A check did not hold.
    pub(super) fn failed(&mut self, name: &str) {
        self.add(name, Outcome::Failed(String::new()));
    }

    /// More about the check that failed last.
    pub(super) fn because(&mut self, line: &str) {
        self.show(&format!("         {line}"));
        if let Some(Check {
            outcome: Outcome::Failed(why),
            ..
        }) = self.report.checks.last_mut()
        {
            why.push_str(line);
            why.push('\n');
        }
    }

    /// A check that could not be made: its name, a colon, why.
    pub(super) fn skipped(&mut self, text: &str) {
        let (name, why) = text.split_once(": ").unwrap_or((text, ""));
        let demanded = std::env::var("FUNCD_TEST_REQUIRE").is_ok_and(|what| what == "all");
        // A dash says that the release can't: nothing that is installed would change that.
        match (demanded, why.strip_prefix("- ")) {
            (_, Some(why)) => self.add(name, Outcome::Skipped(why.to_owned())),
            (false, None) => self.add(name, Outcome::Skipped(why.to_owned())),
            (true, None) => {
                let why = format!("{why}, and FUNCD_TEST_REQUIRE=all allows no skip\n");
                self.add(name, Outcome::Failed(why));
            }
        }
    }

    /// The machine has ended: what came.
    pub(super) fn end(mut self, ended: Ended) -> Report {
        let why = match ended {
            Ended::Done => return self.report,
            Ended::TimedOut => "it took longer than it may: --timeout",
            Ended::Died => "the virtual machine ended before its tests did: this says nothing of funcd",
        };
        self.add(
            "the guest does all its steps",
            Outcome::Failed(format!("{why}\n")),
        );
        self.report
    }

    fn add(&mut self, name: &str, outcome: Outcome) {
        let seconds = std::mem::replace(&mut self.since, Instant::now())
            .elapsed()
            .as_secs_f64();
        self.show(&match &outcome {
            Outcome::Ok => format!("  ok     {name}"),
            Outcome::Failed(why) => format!("  FAILED {name} {}", why.trim_end()),
            Outcome::Skipped(why) => format!("  skipped: {name}: {why}"),
        });
        self.report.checks.push(Check {
            release: self.release,
            suite: self.suite.clone(),
            name: name.to_owned(),
            outcome,
            seconds,
        });
    }
}

impl Report {
    /// With what came on another release.
    pub(super) fn and(mut self, other: Report) -> Report {
        self.checks.extend(other.checks);
        self.notes.extend(other.notes);
        self
    }

    /// Whether a check did not hold.
    pub(super) fn has_failed(&self) -> bool {
        self.checks
            .iter()
            .any(|check| matches!(check.outcome, Outcome::Failed(_)))
    }

    /// A line for each check, a column for each release; what failed, and why; the remarks.
    pub(super) fn table(&self) -> String {
        let mut releases: Vec<Release> = self.checks.iter().map(|check| check.release).collect();
        releases.sort_unstable();
        releases.dedup();
        let mut lines: Vec<(String, BTreeMap<Release, &str>)> = Vec::new();
        for check in &self.checks {
            let name = format!("{}: {}", check.suite, check.name);
            let said = match check.outcome {
                Outcome::Ok => "ok",
                Outcome::Failed(_) => "FAILED",
                Outcome::Skipped(_) => "skipped",
            };
            match lines.iter_mut().find(|(known, _)| *known == name) {
                Some((_, cells)) => drop(cells.insert(check.release, said)),
                None => lines.push((name, BTreeMap::from([(check.release, said)]))),
            }
        }
        let width = lines
            .iter()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0);
        let mut text = format!("\n{:width$}", "check");
        for release in &releases {
            let _ = write!(text, "  {:9}", release.name());
        }
        text.push('\n');
        for (name, cells) in &lines {
            let _ = write!(text, "{name:width$}");
            for release in &releases {
                let _ = write!(text, "  {:9}", cells.get(release).unwrap_or(&"-"));
            }
            text = text.trim_end().to_owned() + "\n";
        }
        for release in &releases {
            let of = self.checks.iter().filter(|check| check.release == *release);
            let count = |is: fn(&Outcome) -> bool| of.clone().filter(|check| is(&check.outcome)).count();
            let _ = writeln!(
                text,
                "\n{}: {} ok, {} failed, {} skipped in {:.0} s",
                release.name(),
                count(|outcome| *outcome == Outcome::Ok),
                count(|outcome| matches!(outcome, Outcome::Failed(_))),
                count(|outcome| matches!(outcome, Outcome::Skipped(_))),
                of.clone().map(|check| check.seconds).sum::<f64>()
            );
            for (_, note) in self.notes.iter().filter(|(of, _)| of == release) {
                let _ = writeln!(text, "  # {note}");
            }
            for check in of {
                match &check.outcome {
                    Outcome::Ok => {}
                    Outcome::Failed(why) => {
                        let _ = writeln!(
                            text,
                            "  FAILED {}: {}\n    {}",
                            check.suite,
                            check.name,
                            why.trim_end().replace('\n', "\n    ")
                        );
                    }
                    Outcome::Skipped(why) => drop(writeln!(
                        text,
                        "  skipped: {}: {}: {why}",
                        check.suite, check.name
                    )),
                }
            }
        }
        text
    }

    /// The same for machines.
    pub(super) fn junit(&self) -> String {
        let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"vm\">\n".to_owned();
        let mut releases: Vec<Release> = self.checks.iter().map(|check| check.release).collect();
        releases.dedup();
        for release in releases {
            let _ = writeln!(text, " <testsuite name=\"{}\">", release.name());
            for check in self.checks.iter().filter(|check| check.release == release) {
                let _ = write!(
                    text,
                    "  <testcase classname=\"vm.{}.{}\" name=\"{}\" time=\"{:.1}\"",
                    release.name(),
                    escaped(&check.suite),
                    escaped(&check.name),
                    check.seconds
                );
                let _ = match &check.outcome {
                    Outcome::Ok => writeln!(text, "/>"),
                    Outcome::Failed(why) => writeln!(text, "><failure>{}</failure></testcase>", escaped(why)),
                    Outcome::Skipped(why) => {
                        writeln!(text, "><skipped message=\"{}\"/></testcase>", escaped(why))
                    }
                };
            }
            text.push_str(" </testsuite>\n");
        }
        text + "</testsuites>\n"
    }
}

/// As XML has it; characters that XML has no way to say are left out.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() && c != '\n' => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_failed_is_told_with_why_everywhere() {
        let mut protocol = Protocol::new(Release::Trixie);
        protocol.suite("install");
        protocol.ok("the unit is active");
        protocol.failed("curl <answers>");
        protocol.because("HTTP/1.1 503 & more");
        let report = Report::default().and(protocol.end(Ended::Done));
        assert!(report.has_failed());
        let line = report
            .table()
            .lines()
            .any(|line| line.starts_with("install: curl <answers>") && line.ends_with("FAILED"));
        assert!(line, "{}", report.table());
        assert!(report.table().contains("HTTP/1.1 503 & more"));
        assert!(report.junit().contains("name=\"curl &lt;answers&gt;\""));
        assert!(report.junit().contains("<failure>HTTP/1.1 503 &amp; more"));
    }

    #[test]
    fn a_machine_that_died_is_a_failure() {
        let begun = || {
            let mut protocol = Protocol::new(Release::Bookworm);
            protocol.ok("the unit is active");
            protocol
        };
        assert!(!begun().end(Ended::Done).has_failed());
        assert!(begun().end(Ended::Died).has_failed());
    }
}
