//! `funcd explain` and `funcd requests`: what became of the last requests, from the ledgers of the running host.

use std::fmt::Write;

use super::args::{ExplainRequest, Global, Requests as Listed};
use super::exit::Failure;
use super::output::{BAD, GOOD, STRONG, WARN, print, print_json, safe, short, styled, table};
use crate::admin::requests::{RequestView, Requests};

pub(super) fn explain(global: &Global, command: &ExplainRequest) -> Result<(), Failure> {
    let found: Requests = super::client(global)?.get(&format!("/v1/requests/{}", escaped(&command.id)))?;
    match global.json {
        true => print_json(&found),
        false => print(&render(&found)),
    }
}

pub(super) fn list(global: &Global, command: &Listed) -> Result<(), Failure> {
    let function = command.name.as_ref();
    let function = function.map_or(String::new(), |name| format!("&function={name}"));
    let (failed, in_flight, lines) = (command.failed, command.in_flight, command.lines);
    let target = format!("/v1/requests?failed={failed}&in_flight={in_flight}&limit={lines}{function}");
    let found: Requests = super::client(global)?.get(&target)?;
    match global.json {
        true => print_json(&found),
        false => print(&render_list(&found)),
    }
}

/// An id as one segment of a path.
fn escaped(id: &str) -> String {
    let mut segment = String::with_capacity(id.len());
    for byte in id.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => segment.push(char::from(byte)),
            _ => write!(segment, "%{byte:02X}").expect("writing to a String can't fail"),
        }
    }
    segment
}

/// The newest in whole, and the others with the same id by a line.
fn render(found: &Requests) -> String {
    let Some((newest, others)) = found.requests.split_first() else {
        return "No such request is remembered.\n".to_owned();
    };
    let mut text = timeline(newest);
    if !others.is_empty() {
        text += &format!(
            "\n{} {} more with this id, newest first\n{}",
            styled(WARN, "note:"),
            others.len(),
            rows(others)
        );
    }
    text
}

fn timeline(view: &RequestView) -> String {
    let revision = view.revision.as_deref();
    let revision = revision.map_or(String::new(), |revision| {
        format!(", revision {}", short(revision))
    });
    let function = view.function.as_deref().map_or("no function".to_owned(), safe);
    let mut text = format!(
        "{} {}, {function}{revision}\n{}, {} {} {}, {}\n\n",
        styled(STRONG, "request"),
        safe(&view.request),
        safe(&view.arrived),
        outcome(view),
        if view.outcome == "in-flight" {
            "for"
        } else {
            "after"
        },
        millis(view.end_micros),
        attempts(view.attempts),
    );
    let rows = view.events.iter().map(|event| {
        vec![
            millis(event.at_micros),
            styled(STRONG, safe(&event.what)),
            safe(&event.text),
        ]
    });
    text += &table(&["AT", "WHAT", ""], rows);
    text += &format!("\n{}   {}\n", styled(STRONG, "why"), safe(&view.why));
    if !view.next.is_empty() {
        text += &format!("{}  {}\n", styled(STRONG, "next"), safe(&view.next));
    }
    text
}

fn render_list(found: &Requests) -> String {
    if found.requests.is_empty() {
        return "None.\n".to_owned();
    }
    rows(&found.requests) + "\n`funcd explain REQUEST-ID` tells why\n"
}

fn rows(views: &[RequestView]) -> String {
    let row = |view: &RequestView| {
        vec![
            safe(&view.arrived),
            view.function.as_deref().map_or("-".to_owned(), safe),
            outcome(view),
            millis(view.end_micros),
            safe(&view.request),
            format!("{} {}", safe(&view.method), safe(&view.path)),
        ]
    };
    let heading = ["ARRIVED", "FUNCTION", "OUTCOME", "TOOK", "REQUEST-ID", "REQUEST"];
    table(&heading, views.iter().map(row))
}

fn outcome(view: &RequestView) -> String {
    let style = match view.outcome.as_str() {
        "answered" => GOOD,
        "failed" | "shed" | "cut-off" => BAD,
        _ => WARN,
    };
    let status = view.status.map_or(String::new(), |status| format!(" {status}"));
    styled(style, format!("{}{status}", safe(&view.outcome)))
}

fn attempts(tried: u32) -> String {
    match tried {
        0 => "never handed to an instance".to_owned(),
        1 => "tried once".to_owned(),
        many => format!("tried {many} times"),
    }
}

fn millis(micros: u64) -> String {
    format!("{}.{:03} ms", micros / 1000, micros % 1000)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant, SystemTime};

    use super::*;
    use crate::admin::requests::{Now, requests};
    use crate::admin::view::ExitView;
    use crate::ledger::record::{End, Outcome, Own, Record, Start};
    use crate::ledger::{Ledger, Wanted};

    const AT: &str = "2026-01-01T00:00:10.000Z";

    /// The text for one request that arrived ten seconds ago, all of it at once.
    fn shown(also: impl FnOnce(&mut Record)) -> String {
        let arrived = Instant::now();
        let now = Now {
            instant: arrived + Duration::from_secs(10),
            time: SystemTime::from(AT.parse::<jiff::Timestamp>().unwrap()),
        };
        let mut ledger = Ledger::new(arrived);
        // Moments are taken when they are noted: an arrival in the future makes all of them 0.
        let open = ledger.open(arrived + Duration::from_secs(3600));
        open.borrow_mut().asks(b"id-1", "GET", "/hello/a\x1b");
        also(&mut open.borrow_mut());
        open.borrow_mut().arrived = arrived;
        if open.borrow().is_over() {
            ledger.close(&open);
        }
        let most = 10;
        let found = ledger.look_up(&Wanted {
            most,
            ..Wanted::default()
        });
        let exits = |function: &str, instance: u64| {
            (function == "hello" && instance == 7).then(|| ExitView {
                instance: Some(7),
                ..ExitView::new(&funcd_sandbox::exit::Exit::Oom, AT.to_owned())
            })
        };
        anstream::adapter::strip_str(&render(&requests(&found, now, exits))).to_string()
    }

    fn routed(record: &mut Record) {
        record.is_for("hello");
        record.may_take(
            crate::name::RevisionId(funcd_sandbox::spec::Digest([0xab; 32])),
            Duration::from_secs(30),
        );
        record.admit(record.arrived);
    }

    #[test]
    fn a_retry_after_a_wait() {
        let text = shown(|record| {
            routed(record);
            record.begin_attempt();
            record.queues(3, 0);
            record.leaves_queue();
            record.leases(7, Start::Cold);
            record.fails(Outcome::Unborn);
            record.begin_attempt();
            record.leases(8, Start::Prepared);
            record.dials();
            record.answers();
            record.status = Some(200);
            record.downloaded = 5;
            record.ends(record.arrived + Duration::from_micros(1_234_567));
        });
        let expected = "\
request id-1, hello, revision abababababab
2026-01-01T00:00:00.000Z, answered 200 after 1234.567 ms, tried 2 times

AT           WHAT
0.000 ms     arrived      GET /hello/a\\x1b
0.000 ms     admitted     for hello, to be answered within 30s
0.000 ms     queued       there was no instance; 2 others waited too
0.000 ms     leased       instance 7, being started
0.000 ms     tried-again  the process never ran (instance ended: out of memory: reached its memory limit); tried again
0.000 ms     leased       instance 8, being started, from a prepared process
0.000 ms     connected    a new connection; the request was sent
0.000 ms     head         the function answered 200
1234.567 ms  end          complete: 5 bytes

why   It was sent again: the first instance could not take it; it woke a prepared process: nothing ran; an instance it was sent to ended: out of memory: reached its memory limit
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_shed_one() {
        let text = shown(|record| {
            routed(record);
            record.own = Some(Box::new(Own {
                kind: "queue-full",
                reason: "queue-full",
                detail: "as many requests wait as the function can answer in time".into(),
                shed: true,
            }));
            record.status = Some(503);
            record.ends(record.arrived + Duration::from_micros(40));
        });
        let expected = "\
request id-1, hello, revision abababababab
2026-01-01T00:00:00.000Z, shed 503 after 0.040 ms, never handed to an instance

AT        WHAT
0.000 ms  arrived   GET /hello/a\\x1b
0.000 ms  admitted  for hello, to be answered within 30s
0.040 ms  shed      funcd answered 503: queue-full

why   As many requests wait as the function can answer in time
next  if this lasts: more instances or places (`scale.max`, `scale.concurrency` in function.toml), or a faster function; `funcd ps hello` shows what its instances do
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_caller_that_left_and_one_without_a_function() {
        let text = shown(|record| {
            routed(record);
            record.begin_attempt();
            record.queues(1, 2);
            record.ended = End::GoneBeforeHead;
            record.ends(record.arrived + Duration::from_millis(50));
        });
        assert!(
            text.contains(", client-gone after 50.000 ms, tried once"),
            "{text}"
        );
        assert!(
            text.contains("there was no free place in 2 instances\n"),
            "{text}"
        );
        assert!(
            text.contains("why   The caller went away while it waited for a place\n"),
            "{text}"
        );
        let text = shown(|record| {
            record.own = Some(Box::new(Own {
                kind: "unknown-route",
                reason: "unknown-route",
                detail: "no function has this host and path".into(),
                shed: false,
            }));
            record.status = Some(404);
            record.ends(record.arrived);
        });
        assert!(text.contains("request id-1, no function\n"), "{text}");
        assert!(
            text.contains("refused 404") && text.contains("next  `funcd ls`"),
            "{text}"
        );
    }

    #[test]
    fn ids_of_callers_are_one_segment() {
        assert_eq!(escaped("a/b?c%d.."), "a%2Fb%3Fc%25d%2E%2E");
    }
}
