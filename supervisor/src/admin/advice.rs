//! Why a request went as it did and what to do next: one table of words for people. Decides nothing.

use super::view::ExitView;
use crate::ledger::record::{End, Outcome, Record, Start};

/// For people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Advice {
    pub(super) why: String,
    /// Empty: nothing.
    pub(super) next: String,
}

/// Says why, and what to do. `ended` is how an instance that it was sent to ended, if it did.
pub(super) fn advice(record: &Record, function: Option<&str>, ended: Option<&ExitView>) -> Advice {
    let name = function.unwrap_or("NAME");
    let (mut why, next) = match &record.own {
        Some(own) => (own.detail.to_string(), of_problem(own.kind, name)),
        None => of_answer(record, name),
    };
    if let Some(exit) = ended
        && (record.own.is_some() || record.tried() > 1 || record.ended == End::CutOff)
    {
        why += &format!("; an instance it was sent to ended: {}", exit.message);
    }
    Advice {
        why: sentence(&why),
        next,
    }
}

/// What to do about an answer of funcd's own, by the end of its type.
pub(super) fn of_problem(kind: &str, name: &str) -> String {
    match kind {
        "queue-full" | "evicted" | "waited" => format!(
            "if this lasts: more instances or places (`scale.max`, `scale.concurrency` in function.toml), or a faster function; \
             `funcd ps {name}` shows what its instances do"
        ),
        "route-limit" => "raise `limit` of that `[[route]]` in function.toml, or make what it does cheaper; the function's other \
                          routes are not affected"
            .to_owned(),
        "deadline" => format!(
            "a longer timeout of the caller, or a faster function: `funcd ps {name} --json` shows what an answer usually takes"
        ),
        "brownout" => {
            "a bigger host, or less on it; requests that matter more say so by `x-funcd-class`".to_owned()
        }
        "breaker" => {
            format!("`funcd logs {name}` and `funcd ps {name}` show why it fails; it recovers by itself")
        }
        "unavailable" => {
            format!("`funcd ls` says why {name} does not run, `funcd logs {name}` what it said last")
        }
        "start-timeout" => format!(
            "`funcd ps {name}` shows whether its instances start or are all busy, `funcd logs {name}` what they say; more \
             instances (`scale.max`) if they are busy"
        ),
        "response-timeout" => format!(
            "`funcd logs {name}` shows what it did meanwhile; raise `request.timeout` in function.toml if it needs longer"
        ),
        "connection-refused" => format!(
            "`funcd ps {name}` shows the last exit; a server must listen on descriptor 3 (`http`) or $PORT (`port`)"
        ),
        "connection-terminated" => format!(
            "`funcd logs {name}` shows its last words, `funcd ps {name}` how it ended; the request may have had an effect, so it \
             was not sent again"
        ),
        "quarantined" => format!(
            "mend {name}: `funcd logs {name}` shows the last words of the instances that died of it; a new revision is given \
             every request again"
        ),
        "malformed-response" => format!(
            "mend {name}: what it wrote is not what its contract says; `funcd ls` shows which contract that is"
        ),
        "exec-timeout" => format!(
            "`funcd logs {name}` shows what its process did meanwhile; raise `request.timeout` in function.toml if it needs longer"
        ),
        "function-failed" | "function-error" => {
            format!("`funcd logs {name}` shows what it said on stderr and how it ended")
        }
        "output-too-large" => {
            "raise `stdio.output` in function.toml, or set stdio.mode = \"streaming\", which keeps nothing"
                .to_owned()
        }
        "unknown-route" => {
            "`funcd ls` shows all routes; a function without `routes` answers at /<name>/".to_owned()
        }
        "body-too-large" => {
            "raise `request.body` in function.toml if bodies of this size are meant".to_owned()
        }
        "upload-stalled" => {
            "nothing at the host: the caller stopped sending; `client.body_idle` is how long it may"
                .to_owned()
        }
        "bad-request" | "method-not-allowed" | "length-required" | "target-too-long"
        | "expectation-failed" | "head-too-large" => {
            "nothing at the host: the caller has to send it otherwise".to_owned()
        }
        _ => "look at funcd's own log for this request_id".to_owned(),
    }
}

fn of_answer(record: &Record, name: &str) -> (String, String) {
    if !record.is_over() {
        return in_flight(record, name);
    }
    let waited = record
        .attempts()
        .iter()
        .find_map(|attempt| attempt.queued.micros());
    let nothing = String::new();
    match record.ended {
        End::GoneBeforeHead => {
            let last = record.attempts().last();
            let meanwhile = match last {
                Some(attempt) if attempt.instance.is_some() => "the function worked on it",
                Some(_) => "it waited for a place",
                None => "funcd looked at it",
            };
            return (
                format!("the caller went away while {meanwhile}"),
                format!("compare the caller's own time-out with what {name} takes"),
            );
        }
        End::GoneWithin => {
            return (
                "the caller went away before the end of the response".to_owned(),
                nothing,
            );
        }
        End::ReaderStalled => {
            let next =
                "nothing at the host: the caller stopped reading; `client.body_idle` is how long it may";
            return (
                "the caller stopped reading the response".to_owned(),
                next.to_owned(),
            );
        }
        End::CutOff => {
            return (
                "the instance's connection ended within the response body".to_owned(),
                format!("`funcd logs {name}` shows its last words, `funcd ps {name}` how it ended"),
            );
        }
        End::Complete => {}
    }
    if record.status.is_some_and(|status| status >= 500) {
        return (
            format!("the function itself answered {}", record.status.unwrap_or(0)),
            format!("`funcd logs {name}` shows what it said meanwhile"),
        );
    }
    let retried = record.tried() > 1;
    let prepared = record.start() == Some(Start::Prepared);
    let cold = record.start().is_some_and(|start| start != Start::Warm);
    let mut reasons = Vec::new();
    if retried {
        let stale = record
            .attempts()
            .iter()
            .any(|attempt| attempt.outcome == Outcome::Stale);
        let died = record
            .attempts()
            .iter()
            .any(|attempt| attempt.outcome == Outcome::Died);
        reasons.push(match (stale, died) {
            (_, true) => "it was sent again: an instance ended before it answered",
            (true, false) => "it was sent again: an idle connection to the function had ended",
            (false, false) => "it was sent again: the first instance could not take it",
        });
    }
    match (cold, prepared, waited) {
        (true, true, _) => reasons.push("it woke a prepared process: nothing ran"),
        (true, false, _) => reasons.push("it waited for an instance to start (a cold start)"),
        (false, _, Some(_)) => reasons.push("it waited for a free place: all instances were busy"),
        (false, _, None) => {}
    }
    let next = match (record.is_slow(), cold, waited) {
        (true, true, _) => format!("`scale.min` in function.toml keeps an instance of {name} running"),
        (true, false, Some(_)) => of_problem("queue-full", name),
        (true, false, None) => format!("`funcd logs {name}` shows what it did meanwhile"),
        (false, ..) => nothing,
    };
    if reasons.is_empty() {
        let why = match record.is_slow() {
            true => "the function itself took that long",
            false => "the function answered, and nothing came in between",
        };
        return (why.to_owned(), next);
    }
    (reasons.join("; "), next)
}

fn in_flight(record: &Record, name: &str) -> (String, String) {
    let has_instance = record
        .attempts()
        .last()
        .is_some_and(|attempt| attempt.instance.is_some());
    if record.head.micros().is_some() {
        let why = "it is being answered: the response goes out, or its caller reads slowly";
        return (why.to_owned(), String::new());
    }
    if has_instance {
        let next = format!("`funcd logs {name}` shows what it says, `funcd ps {name}` whether it runs");
        return ("it is being answered: the function works on it".to_owned(), next);
    }
    (
        "it waits for a place in an instance".to_owned(),
        of_problem("start-timeout", name),
    )
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}
