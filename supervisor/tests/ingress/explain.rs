//! What `funcd explain` will say of requests that went in different ways: the truth, and no secret.

use std::io::Read;
use std::time::Duration;

use funcd::admin::requests::{Now, RequestView, requests};
use funcd::admission::queue::Order;
use funcd::function::handle::{Refusal, ToControl};
use funcd::ledger::{Found, Wanted};

use crate::host::{Caller, Conn, Host, eventually, hello, manifest, ok};

fn look_up(host: &Host, wanted: &Wanted) -> Found {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ledgers = host.shared().ledgers();
    let found = runtime.unwrap().block_on(ledgers.look_up(wanted));
    found.expect("a worker answers")
}

fn by_id(id: &str) -> Wanted {
    Wanted {
        id: Some(id.to_owned()),
        most: 10,
        ..Wanted::default()
    }
}

/// The one request with this id, once it is over.
fn explained(host: &Host, id: &str) -> RequestView {
    let mut found = None;
    eventually("it is remembered", || {
        found = Some(look_up(host, &by_id(id)));
        let records = &found.as_ref().unwrap().records;
        !records.is_empty() && records.iter().all(|record| record.is_over())
    });
    let mut shown = requests(&found.unwrap(), Now::read(), |_, _| None).requests;
    assert_eq!(shown.len(), 1, "{shown:?}");
    shown.remove(0)
}

fn request(method: &str, path: &str, id: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: h\r\nX-Request-Id: {id}\r\n\r\n")
}

fn ask(host: &Host, path: &str, id: &str) -> Caller {
    let mut caller = host.caller();
    caller.send(request("GET", path, id));
    caller
}

fn words(view: &RequestView) -> Vec<&str> {
    view.events.iter().map(|event| event.what.as_str()).collect()
}

#[test]
fn a_warm_one_and_a_cold_one() {
    let mut host = Host::new();
    let function = host.function("f", manifest());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ask(&host, "/f/x", "cold").response().unwrap());
        eventually("it waits", || function.waiting() == 1);
        host.instance(&function, hello);
        assert_eq!(waiting.join().unwrap().1, b"hello");
    });
    assert!(matches!(host.control.try_recv(), Ok(ToControl::Wanted(_))));
    let cold = explained(&host, "cold");
    assert_eq!(
        (cold.outcome.as_str(), cold.status, cold.cold, cold.attempts),
        ("answered", Some(200), true, 1)
    );
    assert_eq!(
        words(&cold),
        [
            "arrived",
            "admitted",
            "queued",
            "leased",
            "connected",
            "head",
            "end"
        ]
    );
    assert_eq!(cold.events[2].text, "there was no instance");
    assert!(cold.events.is_sorted_by_key(|event| event.at_micros), "{cold:?}");
    assert!(cold.why.contains("cold start"), "{}", cold.why);
    assert_eq!(
        (cold.function.as_deref(), cold.path.as_str(), cold.response_bytes),
        (Some("f"), "/f/x", 5)
    );

    ask(&host, "/f/x", "warm").response().unwrap();
    let warm = explained(&host, "warm");
    assert!(!warm.cold && warm.head_micros.is_some_and(|head| head <= warm.end_micros));
    assert_eq!(words(&warm), ["arrived", "admitted", "leased", "head", "end"]);
    assert_eq!((warm.next.as_str(), warm.outcome.as_str()), ("", "answered"));
}

#[test]
fn one_that_was_sent_again_says_so_and_why() {
    let mut host = Host::new();
    // Each connection answers one request and ends at the first byte of the next.
    host.serve("f", manifest(), |conn, head| {
        hello(conn, head);
        let _ = conn.stream.read(&mut [0]);
        false
    });
    let mut caller = host.caller();
    for id in ["first", "again"] {
        caller.send(request("GET", "/f", id));
        assert_eq!(caller.response().unwrap().1, b"hello");
    }
    assert_eq!(explained(&host, "first").attempts, 1);
    let again = explained(&host, "again");
    assert_eq!((again.attempts, again.status), (2, Some(200)));
    let retry = again
        .events
        .iter()
        .find(|event| event.what == "tried-again")
        .unwrap();
    assert!(retry.text.contains("the idle connection ended"), "{}", retry.text);
    assert_eq!(retry.instance, Some(1));
    assert!(again.why.contains("sent again"), "{}", again.why);
    // What may have had an effect is not.
    caller.send(request("POST", "/f", "once").replace("\r\n\r\n", "\r\nContent-Length: 2\r\n\r\nhi"));
    caller.response().unwrap();
    let once = explained(&host, "once");
    assert_eq!((once.attempts, once.outcome.as_str()), (1, "failed"));
    assert_eq!(once.problem.unwrap().kind, "connection-terminated");
    assert_eq!(once.events[3].what, "gave-up");
    assert!(once.next.contains("was not sent again"), "{}", once.next);
}

#[test]
fn shed_ones_and_those_that_left_the_queue() {
    let mut host = Host::new();
    let mut narrow = manifest();
    narrow.scale.concurrency = 1;
    narrow.request.queue = Order::Fifo;
    let function = host.function("f", narrow);
    let waiting: Vec<Caller> = (0..10).map(|n| ask(&host, "/f", &format!("waits-{n}"))).collect();
    eventually("the queue is full", || function.waiting() == 10);
    ask(&host, "/f", "one-too-many").response().unwrap();
    let shed = explained(&host, "one-too-many");
    assert_eq!(
        (shed.outcome.as_str(), shed.status, shed.attempts),
        ("shed", Some(503), 0)
    );
    assert_eq!(shed.problem.as_ref().unwrap().kind, "queue-full");
    assert_eq!(words(&shed), ["arrived", "shed"]);
    assert!(shed.next.contains("scale.max"), "{}", shed.next);

    let waits = requests(&look_up(&host, &by_id("waits-3")), Now::read(), |_, _| None).requests;
    assert_eq!(waits[0].outcome, "in-flight");
    assert_eq!(words(&waits[0]), ["arrived", "admitted", "queued"]);
    assert!(waits[0].why.contains("waits for a place"), "{}", waits[0].why);
    let hanging = Wanted {
        open: true,
        most: 200,
        ..Wanted::default()
    };
    assert_eq!(look_up(&host, &hanging).records.len(), 10);
    drop(waiting);
    let gone = explained(&host, "waits-3");
    assert_eq!((gone.outcome.as_str(), gone.status), ("client-gone", None));
    assert_eq!(words(&gone), ["arrived", "admitted", "queued", "end"]);
    assert!(gone.why.contains("waited for a place"), "{}", gone.why);

    let reason = "it crashed 5 times".to_owned();
    host.refuse(&function, Refusal { reason, until: None });
    ask(&host, "/f", "refused").response().unwrap();
    let refused = explained(&host, "refused");
    assert_eq!(
        (refused.outcome.as_str(), refused.why.as_str()),
        ("shed", "It crashed 5 times")
    );

    let failed = Wanted {
        function: Some("f".to_owned()),
        failed: true,
        most: 10,
        ..Wanted::default()
    };
    let failed = look_up(&host, &failed).records;
    let ids: Vec<String> = failed.iter().map(|record| record.id.to_text()).collect();
    assert_eq!(
        ids,
        ["refused", "one-too-many"],
        "newest first, and nobody who left"
    );
}

#[test]
fn those_that_took_too_long() {
    let mut host = Host::new();
    let mut hasty = manifest();
    hasty.request.timeout = Duration::from_millis(50);
    let function = host.function("f", hasty);
    ask(&host, "/f", "nobody-there").response().unwrap();
    let start = explained(&host, "nobody-there");
    assert_eq!(start.problem.as_ref().unwrap().kind, "start-timeout");
    assert_eq!(words(&start), ["arrived", "admitted", "queued", "end"]);
    // Reads the request and then only waits for the end of the connection.
    host.instance(&function, |conn: &mut Conn, _| {
        let _ = conn.stream.read(&mut [0]);
        false
    });
    ask(&host, "/f", "no-answer").response().unwrap();
    let late = explained(&host, "no-answer");
    assert_eq!((late.outcome.as_str(), late.status), ("failed", Some(504)));
    assert_eq!(late.problem.as_ref().unwrap().kind, "response-timeout");
    assert_eq!(
        words(&late),
        ["arrived", "admitted", "leased", "connected", "gave-up", "end"]
    );
    assert!(
        late.timeout_micros == Some(50_000) && late.end_micros >= 50_000,
        "{late:?}"
    );
    assert!(late.next.contains("request.timeout"), "{}", late.next);
}

#[test]
fn ends_within_the_response() {
    let mut host = Host::new();
    host.serve("f", manifest(), |conn, head| {
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
        if head.contains(" /cut ") {
            return false;
        }
        let _ = conn.stream.read(&mut [0]);
        false
    });
    ask(&host, "/f/cut", "cut").rest();
    let cut = explained(&host, "cut");
    assert_eq!((cut.outcome.as_str(), cut.response_bytes), ("cut-off", 4));
    let mut leaver = ask(&host, "/f/leave", "left");
    assert!(leaver.head().unwrap().starts_with("HTTP/1.1 200"));
    drop(leaver);
    let left = explained(&host, "left");
    assert_eq!((left.outcome.as_str(), left.status), ("client-gone", Some(200)));
    assert!(left.why.contains("before the end"), "{}", left.why);
    // A whole answer without a body is none of these.
    host.serve("g", manifest(), |conn, _| {
        conn.send("HTTP/1.1 204 No Content\r\n\r\n")
    });
    ask(&host, "/g", "whole").response().unwrap();
    assert_eq!(explained(&host, "whole").outcome, "answered");
}

#[test]
fn what_callers_get_wrong_is_remembered_too() {
    let host = Host::new();
    ask(&host, "/nobody", "lost").response().unwrap();
    let lost = explained(&host, "lost");
    assert_eq!((lost.outcome.as_str(), lost.function), ("refused", None));
    assert_eq!(lost.problem.unwrap().kind, "unknown-route");
}

#[test]
fn nothing_secret_is_remembered() {
    let mut host = Host::new();
    host.serve("f", manifest(), |conn, head| {
        conn.body(head);
        conn.send(ok("reply-hunter2"))
    });
    let mut caller = host.caller();
    caller.send(
        "POST /f/visible?token=query-hunter2 HTTP/1.1\r\nHost: h\r\nX-Request-Id: s\r\n\
         Authorization: Bearer header-hunter2\r\nContent-Length: 12\r\n\r\nbody-hunter2",
    );
    caller.response().unwrap();
    let view = explained(&host, "s");
    let record = &look_up(&host, &by_id("s")).records[0];
    // The record prints its texts as numbers of bytes: those are looked through, beyond their lengths too.
    let texts = [record.path.to_text(), format!("{view:?}"), format!("{record:?}")];
    let numbers = "hunter2"
        .bytes()
        .map(|byte| byte.to_string())
        .collect::<Vec<_>>()
        .join(", ");
    for text in &texts {
        assert!(!text.contains("hunter2") && !text.contains(&numbers), "{text}");
    }
    assert!(
        texts[1].contains("/f/visible"),
        "the control: what is remembered is found"
    );
    let seen = "visible"
        .bytes()
        .map(|byte| byte.to_string())
        .collect::<Vec<_>>()
        .join(", ");
    assert!(texts[2].contains(&seen), "the control: as numbers too");
}
