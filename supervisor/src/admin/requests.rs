//! What became of a request, for people at night: a timeline, why it went so, what to do next. Made from the ledger's
//! record and from what `control` knows now; never shows a query, a header or a body.

use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::advice::{Advice, advice};
use super::view::ExitView;
use crate::ledger::Found;
use crate::ledger::record::{Attempt, End, Outcome, Record, Start};
use crate::telemetry::rfc3339;

/// `GET /v1/requests` and `GET /v1/requests/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// Newest first. Callers may use an id more than once.
    pub requests: Vec<RequestView>,
    /// How far back this host remembers.
    pub remembered: Remembered,
}

/// Since when all requests of a kind are remembered: RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Answered by their function, at once.
    pub ordinary_since: String,
    /// Refused before any work was done.
    pub refused_since: String,
    /// Failed, tried again, slow, cold, or left by their caller.
    pub notable_since: String,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestView {
    /// Its id.
    pub request: String,
    /// `GET`.
    pub method: String,
    /// The first part of its path, without the query.
    pub path: String,
    /// The function; absent when no route fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// The revision that was live then, 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// When its head was complete: RFC 3339.
    pub arrived: String,
    /// A word from a closed list: `in-flight`, `answered`, `failed`, `shed`, `refused`, `cut-off`, `client-gone`.
    pub outcome: String,
    /// The status that the caller got; absent when it was gone before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Set when funcd answered in the function's stead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<ProblemView>,
    /// Whether it waited for an instance to start.
    pub cold: bool,
    /// Whether it was slow to be answered: a second or more.
    pub slow: bool,
    /// How often it was tried.
    pub attempts: u32,
    /// From arrival to the response head, at most; absent without a function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_micros: Option<u64>,
    /// From arrival to the response head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_micros: Option<u64>,
    /// From arrival to its end, or to now.
    pub end_micros: u64,
    /// Bytes of the request body.
    pub request_bytes: u64,
    /// Bytes of the response body.
    pub response_bytes: u64,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// Why it went so, for people.
    pub why: String,
    /// What to do next, for people; empty when there is nothing to do.
    pub next: String,
}

/// An answer of funcd's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemView {
    /// The end of `type` in the answer.
    pub kind: String,
    /// More exactly, as in the metric.
    pub reason: String,
    /// What the caller was told.
    pub detail: String,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// From arrival.
    pub at_micros: u64,
    /// A word from a closed list: `arrived`, `admitted`, `queued`, `leased`, `connected`, `tried-again`, `gave-up`, `shed`,
    /// `refused`, `head`, `end`.
    pub what: String,
    /// The instance that it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u64>,
    /// The same for people.
    pub text: String,
}

/// The point in time that all moments are counted from.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// On the clock that only goes on.
    pub instant: Instant,
    /// On the clock of people.
    pub time: SystemTime,
}

impl Now {
    /// This moment.
    pub fn read() -> Now {
        Now {
            instant: Instant::now(),
            time: SystemTime::now(),
        }
    }

    fn at(self, instant: Instant) -> String {
        rfc3339(self.time - self.instant.saturating_duration_since(instant))
    }
}

/// The document. `exits` tells how an instance of a function ended, if that is known.
pub fn requests(found: &Found, now: Now, exits: impl Fn(&str, u64) -> Option<ExitView>) -> Requests {
    Requests {
        requests: found
            .records
            .iter()
            .map(|record| request(record, now, &exits))
            .collect(),
        remembered: Remembered {
            ordinary_since: now.at(found.ordinary_since),
            refused_since: now.at(found.refused_since),
            notable_since: now.at(found.notable_since),
        },
    }
}

fn request(record: &Record, now: Now, exits: impl Fn(&str, u64) -> Option<ExitView>) -> RequestView {
    let function = Some(record.function.to_text()).filter(|name| !name.is_empty());
    let mut events = Events(Vec::new());
    events.add(
        0,
        "arrived",
        None,
        format!("{} {}", record.method.to_text(), record.path.to_text()),
    );
    if let (Some(at), Some(function)) = (record.admitted.micros(), &function) {
        let text = format!("for {function}, to be answered within {:?}", record.timeout);
        events.add(at, "admitted", None, text);
    }
    let attempts = record.attempts();
    for (number, attempt) in attempts.iter().enumerate() {
        let is_last = number + 1 == attempts.len();
        if is_last && record.tried() as usize > attempts.len() {
            let left_out = record.tried() as usize - attempts.len();
            let at = attempt.queued.micros().or(attempt.ended.micros());
            let at = at.unwrap_or(events.latest());
            events.add(
                at,
                "tried-again",
                None,
                format!("{left_out} more attempts, not remembered one by one"),
            );
        }
        events.attempt(attempt, is_last, |instance| exits(function.as_deref()?, instance));
    }
    if let Some(at) = record.head.micros() {
        events.add(
            at,
            "head",
            None,
            format!("the function answered {}", record.status.unwrap_or(0)),
        );
    }
    let so_far = now.instant.saturating_duration_since(record.arrived).as_micros() as u64;
    let end = record.end.micros().unwrap_or(so_far);
    let outcome = outcome(record);
    if record.is_over() {
        events.add(end, end_word(outcome), None, end_text(record));
    }
    let ended = attempts
        .iter()
        .rev()
        .find_map(|attempt| exits(function.as_deref()?, attempt.instance?));
    let Advice { why, next } = advice(record, function.as_deref(), ended.as_ref());
    RequestView {
        request: record.id.to_text(),
        method: record.method.to_text(),
        path: record.path.to_text(),
        revision: record.revision.map(|revision| revision.to_string()),
        arrived: now.at(record.arrived),
        outcome: outcome.to_owned(),
        status: record.status,
        problem: record.own.as_ref().map(|own| ProblemView {
            kind: own.kind.to_owned(),
            reason: own.reason.to_owned(),
            detail: own.detail.to_string(),
        }),
        cold: record.start().is_some_and(|start| start != Start::Warm),
        slow: record.is_slow(),
        attempts: record.tried(),
        timeout_micros: function
            .is_some()
            .then_some(record.timeout.as_micros() as u64)
            .filter(|micros| *micros > 0),
        head_micros: record.head.micros(),
        end_micros: end,
        request_bytes: record.uploaded,
        response_bytes: record.downloaded,
        events: events.0,
        why,
        next,
        function,
    }
}

/// The one word.
fn outcome(record: &Record) -> &'static str {
    if !record.is_over() {
        return "in-flight";
    }
    match (&record.own, record.ended) {
        (Some(own), _) if own.shed => "shed",
        (Some(_), _) if record.is_failed() => "failed",
        (Some(_), _) => "refused",
        (None, End::CutOff) => "cut-off",
        (None, End::GoneBeforeHead | End::GoneWithin | End::ReaderStalled) => "client-gone",
        (None, End::Complete) if record.is_failed() => "failed",
        (None, End::Complete) => "answered",
    }
}

fn end_word(outcome: &str) -> &'static str {
    match outcome {
        "shed" => "shed",
        "refused" => "refused",
        _ => "end",
    }
}

fn end_text(record: &Record) -> String {
    let (up, down) = (record.uploaded, record.downloaded);
    if let Some(own) = &record.own {
        return format!("funcd answered {}: {}", record.status.unwrap_or(0), own.reason);
    }
    match record.ended {
        End::Complete if up > 0 => format!("complete: {down} bytes, for {up} bytes of request body"),
        End::Complete => format!("complete: {down} bytes"),
        End::GoneBeforeHead => "the caller was gone before there was an answer".to_owned(),
        End::GoneWithin => format!("the caller was gone after {down} bytes of the response"),
        End::ReaderStalled => format!("the caller took nothing more after {down} bytes of the response"),
        End::CutOff => format!("the response broke off after {down} bytes"),
    }
}

struct Events(Vec<Event>);

impl Events {
    fn add(&mut self, at: u64, what: &str, instance: Option<u64>, text: String) {
        self.0.push(Event {
            at_micros: at,
            what: what.to_owned(),
            instance,
            text,
        });
    }

    fn latest(&self) -> u64 {
        self.0.last().map_or(0, |event| event.at_micros)
    }

    fn attempt(&mut self, attempt: &Attempt, is_last: bool, exits: impl Fn(u64) -> Option<ExitView>) {
        if let Some(at) = attempt.queued.micros() {
            let place = match attempt.instances {
                0 => "there was no instance".to_owned(),
                1 => "there was no free place in the one instance".to_owned(),
                many => format!("there was no free place in {many} instances"),
            };
            let text = match attempt.waiting.saturating_sub(1) {
                0 => place,
                1 => format!("{place}; 1 other waited too"),
                others => format!("{place}; {others} others waited too"),
            };
            self.add(at, "queued", None, text);
        }
        if let Some(instance) = attempt.instance {
            let at = attempt.unqueued.micros().unwrap_or(self.latest());
            let state = match attempt.start {
                Start::Warm => "running",
                Start::Cold => "being started",
                Start::Prepared => "being started, from a prepared process",
            };
            self.add(
                at,
                "leased",
                Some(instance),
                format!("instance {instance}, {state}"),
            );
            if let Some(at) = attempt.dialled.micros() {
                self.add(
                    at,
                    "connected",
                    Some(instance),
                    "a new connection; the request was sent".to_owned(),
                );
            }
        }
        let why = match attempt.outcome {
            Outcome::Open | Outcome::Answered => return,
            Outcome::Refused => "nobody accepted the connection",
            Outcome::NotWritten => "the connection ended before the request was written",
            Outcome::Stale => "the idle connection ended as the request was sent",
            Outcome::Unborn => "the process never ran",
            Outcome::Died => "the connection ended before an answer",
            Outcome::Malformed => "what came was not HTTP",
            Outcome::TooLate => "the time-out passed",
            Outcome::BadBody => "the request's body broke off",
        };
        let exit = attempt.instance.and_then(exits);
        let exit = exit.map_or(String::new(), |exit| {
            format!(" (instance ended: {})", exit.message)
        });
        let (what, then) = match is_last {
            true => ("gave-up", ""),
            false => ("tried-again", "; tried again"),
        };
        let at = attempt.ended.micros().unwrap_or(self.latest());
        self.add(at, what, attempt.instance, format!("{why}{exit}{then}"));
    }
}
