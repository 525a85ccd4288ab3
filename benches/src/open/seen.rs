//! What an open loop saw, and what is said of it. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::book::{End, Record};
use crate::stats::Samples;

/// A run.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Every request, in the order in which they were due.
    pub(crate) records: Vec<Record>,
    /// Requests that were sent again on another connection.
    pub(crate) resent: u64,
    /// How often which reason was given for a refusal.
    pub(crate) reasons: BTreeMap<String, u64>,
    /// What the callers' own thread used.
    pub(crate) cpu: Duration,
    /// From the first request to the end of the last one.
    pub(crate) took: Duration,
    /// The callers' thread went before everything else.
    pub(crate) urgent: bool,
}

/// A part of a run, by when requests were due.
#[derive(Debug, Default)]
pub(crate) struct Part {
    /// Its length.
    pub(crate) seconds: f64,
    /// Requests that were due.
    pub(crate) offered: u64,
    /// Answered with 200 within their deadline.
    pub(crate) good: u64,
    /// Refused: 503 or 429.
    pub(crate) refused: u64,
    /// Everything else.
    pub(crate) failed: u64,
    /// Of the good.
    pub(crate) times: Samples,
    /// Of the refused.
    pub(crate) refusals: Samples,
    /// From when a request was due until it was sent.
    pub(crate) lag: Samples,
    /// How often what else came of them.
    pub(crate) ends: BTreeMap<String, u64>,
}

impl Seen {
    /// Requests of `kind`, or of all kinds, that were due from `from` to `to`, in seconds.
    pub(crate) fn part(&self, kind: Option<usize>, from: f64, to: f64) -> Part {
        let mut part = Part {
            seconds: to - from,
            ..Part::default()
        };
        let range = Duration::from_secs_f64(from)..Duration::from_secs_f64(to);
        let those =
            |record: &&Record| range.contains(&record.due) && kind.is_none_or(|kind| kind == record.kind);
        self.records
            .iter()
            .filter(those)
            .for_each(|record| part.add(record));
        part
    }

    /// All of it.
    pub(crate) fn whole(&self, kind: Option<usize>) -> Part {
        self.part(kind, 0.0, self.took.as_secs_f64())
    }

    /// Why requests were refused, in words; empty when none was.
    pub(crate) fn reasons(&self) -> String {
        let told = self
            .reasons
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"));
        told.collect::<Vec<_>>().join(", ")
    }

    /// Cores that the callers used.
    pub(crate) fn share(&self) -> f64 {
        self.cpu.as_secs_f64() / self.took.as_secs_f64()
    }

    /// How long after `end` it took until `part` of all requests to `until` were good, in seconds.
    pub(crate) fn recovered(&self, end: f64, until: f64, part: f64) -> f64 {
        const STEP: f64 = 0.05;
        let steps = ((until - end) / STEP) as usize;
        let starts = (0..steps).map(|step| step as f64 * STEP);
        let good = |after: &f64| self.part(None, end + after, until).success() >= part;
        starts.into_iter().find(good).unwrap_or(f64::INFINITY)
    }
}

impl Part {
    fn add(&mut self, record: &Record) {
        self.offered += 1;
        if let Some(sent) = record.sent {
            self.lag.push(sent.saturating_sub(record.due));
        }
        let latency = record.latency().unwrap_or_default();
        match record.ended {
            Some((_, End::Answered(200))) => {
                self.good += 1;
                self.times.push(latency);
            }
            Some((_, End::Answered(503 | 429))) => {
                self.refused += 1;
                self.refusals.push(latency);
            }
            other => {
                self.failed += 1;
                let how = match other {
                    Some((_, End::Answered(status))) => format!("status {status}"),
                    Some((_, End::Broken(kind))) => format!("broken: {kind}"),
                    Some((_, End::Late)) => "late".to_owned(),
                    Some((_, End::Unsent)) | None => "never sent".to_owned(),
                };
                *self.ends.entry(how).or_default() += 1;
            }
        }
    }

    /// Good ones a second.
    pub(crate) fn goodput(&self) -> f64 {
        self.good as f64 / self.seconds
    }

    /// The part that was good.
    pub(crate) fn success(&self) -> f64 {
        self.good as f64 / self.offered as f64
    }

    /// p50 of the good, in microseconds.
    pub(crate) fn p50(&self) -> f64 {
        self.times.summary().map_or(f64::NAN, |times| times.p50 / 1000.0)
    }

    /// p99 of the good, in microseconds.
    pub(crate) fn p99(&self) -> f64 {
        self.times.summary().map_or(f64::NAN, |times| times.p99 / 1000.0)
    }

    /// What else came of them, in words; empty when nothing did.
    pub(crate) fn told(&self) -> String {
        let refused = (self.refused > 0).then(|| format!("{} refused", self.refused));
        let ends = self.ends.iter().map(|(how, count)| format!("{count} {how}"));
        refused.into_iter().chain(ends).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(records: impl IntoIterator<Item = (u64, End)>) -> Seen {
        let record = |(due, end)| Record {
            kind: 0,
            due: Duration::from_millis(due),
            sent: Some(Duration::from_millis(due + 1)),
            ended: Some((Duration::from_millis(due + 5), end)),
        };
        Seen {
            records: records.into_iter().map(record).collect(),
            resent: 0,
            reasons: BTreeMap::new(),
            cpu: Duration::from_millis(250),
            took: Duration::from_secs(10),
            urgent: true,
        }
    }

    #[test]
    fn only_a_200_in_time_is_good_and_a_503_is_no_failure() {
        let ends = [
            End::Answered(200),
            End::Answered(503),
            End::Answered(500),
            End::Late,
            End::Broken(std::io::ErrorKind::ConnectionReset),
        ];
        let part = seen((0..).zip(ends)).whole(None);
        assert_eq!((part.offered, part.good, part.refused, part.failed), (5, 1, 1, 3));
        assert_eq!(part.p99(), 5000.0);
        assert_eq!(
            part.told(),
            "1 refused, 1 broken: connection reset, 1 late, 1 status 500"
        );
    }

    #[test]
    fn a_part_holds_what_was_due_in_it() {
        let seen = seen([
            (500, End::Answered(200)),
            (1500, End::Late),
            (2500, End::Answered(200)),
        ]);
        assert_eq!(seen.part(None, 1.0, 3.0).offered, 2);
        assert_eq!(seen.part(None, 1.0, 3.0).goodput(), 0.5);
        assert_eq!(seen.part(Some(1), 0.0, 9.0).offered, 0);
        assert_eq!(seen.share(), 0.025);
    }

    #[test]
    fn recovery_ends_when_all_that_follows_is_good() {
        let end = |at| {
            if (1000..1500).contains(&at) {
                End::Late
            } else {
                End::Answered(200)
            }
        };
        let seen = seen((0..4000).step_by(10).map(|at| (at, end(at))));
        let after = seen.recovered(1.0, 4.0, 0.99);
        assert!((0.4..=0.5).contains(&after), "{after}");
        assert!(seen.recovered(1.0, 1.5, 0.99).is_infinite());
    }
}
