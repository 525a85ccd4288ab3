//! Whose doing a failed request was. Pure.

use std::fmt;
use std::time::Duration;

use super::kind_of;
use super::script::Mishap;
use crate::open::{End, Record};

/// How long after a mishap its consequences may last: a restart after a backoff, a queue that empties.
const AFTERMATH: Duration = Duration::from_secs(5);
/// The clocks of callers and mishaps begin within this.
const SLACK: Duration = Duration::from_millis(100);

/// A mishap as it was.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Happened {
    /// Which.
    pub(crate) mishap: Mishap,
    /// Since the start of the run.
    pub(crate) from: Duration,
    /// When it was over.
    pub(crate) to: Duration,
    /// It could not be done.
    pub(crate) failed: bool,
}

impl Happened {
    /// A request was under way while this lasted, or right after it.
    fn concerns(&self, record: &Record) -> bool {
        let ended = record.ended.map_or(Duration::MAX, |(at, _)| at);
        record.due <= self.to + AFTERMATH && ended + SLACK >= self.from
    }

    /// This request failed by what its function did or what was done to it on purpose, and nobody could have answered it.
    fn excuses(&self, record: &Record) -> bool {
        let own = match self.mishap {
            Mishap::OutOfMemory => "greedy",
            Mishap::Crash => "crashing",
            Mishap::Flood => "flooded",
            Mishap::Remove => "fleeting",
            Mishap::KillInstance | Mishap::KillSupervisor | Mishap::Deploy => return false,
            Mishap::StopInstance | Mishap::StopSupervisor | Mishap::FullDisk => return false,
        };
        kind_of(own) == record.kind && self.concerns(record)
    }
}

/// What went wrong last before a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// This.
    Mishap(Mishap),
    /// No mishap was anywhere near.
    Nothing,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Mishap(mishap) => write!(f, "after {mishap}"),
            Cause::Nothing => f.write_str("nothing had happened"),
        }
    }
}

/// All failed requests of a run.
#[derive(Debug)]
pub(crate) struct Blame {
    /// Those that the platform should have answered.
    pub(crate) of_platform: Vec<(Record, Cause)>,
    /// The others.
    pub(crate) of_functions: usize,
}

impl Blame {
    /// Of `records`.
    pub(crate) fn of(records: &[Record], happened: &[Happened]) -> Blame {
        let mut blame = Blame {
            of_platform: Vec::new(),
            of_functions: 0,
        };
        let good = |record: &&Record| !matches!(record.ended, Some((_, End::Answered(200))));
        for record in records.iter().filter(good) {
            if happened.iter().any(|happened| happened.excuses(record)) {
                blame.of_functions += 1;
                continue;
            }
            let near = happened.iter().rfind(|happened| happened.concerns(record));
            let cause = near.map_or(Cause::Nothing, |happened| Cause::Mishap(happened.mishap));
            blame.of_platform.push((*record, cause));
        }
        blame
    }

    /// Failures of the platform after this.
    pub(crate) fn after(&self, cause: Cause) -> usize {
        self.of_platform
            .iter()
            .filter(|(_, other)| *other == cause)
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, due: u64, end: End) -> Record {
        Record {
            kind: kind_of(name),
            due: Duration::from_secs(due),
            sent: None,
            ended: Some((Duration::from_secs(due), end)),
        }
    }

    fn happened(mishap: Mishap, from: u64, to: u64) -> Happened {
        Happened {
            mishap,
            from: Duration::from_secs(from),
            to: Duration::from_secs(to),
            failed: false,
        }
    }

    #[test]
    fn a_function_is_excused_for_what_was_done_to_it_and_only_then() {
        let happened = [happened(Mishap::Flood, 10, 12)];
        let records = [
            record("flooded", 11, End::Answered(503)),
            record("steady", 11, End::Answered(503)),
            record("flooded", 60, End::Answered(503)),
            record("flooded", 11, End::Answered(200)),
        ];
        let blame = Blame::of(&records, &happened);
        assert_eq!(blame.of_functions, 1);
        assert_eq!(blame.after(Cause::Mishap(Mishap::Flood)), 1, "its neighbour");
        assert_eq!(blame.after(Cause::Nothing), 1, "long after");
    }

    #[test]
    fn nobody_is_excused_when_the_platform_was_hit() {
        for mishap in [
            Mishap::KillInstance,
            Mishap::KillSupervisor,
            Mishap::Deploy,
            Mishap::FullDisk,
        ] {
            let records: Vec<_> = ["killed", "deployed", "steady"]
                .map(|name| record(name, 10, End::Late))
                .into();
            let blame = Blame::of(&records, &[happened(mishap, 10, 10)]);
            assert_eq!((blame.of_functions, blame.after(Cause::Mishap(mishap))), (0, 3));
        }
    }

    #[test]
    fn the_last_of_several_is_blamed() {
        let happened = [
            happened(Mishap::Deploy, 8, 9),
            happened(Mishap::KillSupervisor, 11, 11),
        ];
        let blame = Blame::of(&[record("steady", 12, End::Late)], &happened);
        assert_eq!(blame.after(Cause::Mishap(Mishap::KillSupervisor)), 1);
    }
}
