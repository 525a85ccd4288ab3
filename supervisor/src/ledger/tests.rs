//! What is remembered, what is forgotten first.

use std::time::{Duration, Instant};

use super::record::{Class, End, Outcome, Own, Record, Start};
use super::*;

fn one(id: u32) -> Wanted {
    Wanted {
        id: Some(id.to_string()),
        most: 10,
        ..Wanted::default()
    }
}

fn put(ledger: &mut Ledger, at: Instant, id: u32, also: impl FnOnce(&mut Record)) {
    let open = ledger.open(at);
    let mut record = open.borrow_mut();
    record.asks(id.to_string().as_bytes(), "GET", "/f");
    record.is_for("f");
    record.begin_attempt();
    record.leases(1, Start::Warm);
    record.status = Some(200);
    also(&mut record);
    drop(record);
    ledger.close(&open);
}

#[test]
fn a_flood_of_good_ones_pushes_out_no_bad_one() {
    let start = Instant::now();
    let mut ledger = Ledger::new(start);
    put(&mut ledger, start, 1, |record| record.status = Some(500));
    for id in 2..5000 {
        put(
            &mut ledger,
            start + Duration::from_micros(u64::from(id)),
            id,
            |_| (),
        );
    }
    assert_eq!(ledger.look_up(&one(1)).records.len(), 1);
    assert_eq!(
        ledger.look_up(&one(2)).records.len(),
        0,
        "the oldest good one is forgotten"
    );
    assert_eq!(ledger.look_up(&one(4999)).records.len(), 1);
    let all = ledger.look_up(&Wanted {
        most: usize::MAX,
        ..Wanted::default()
    });
    assert_eq!(all.records.len(), MOST);
    assert!(
        all.records.is_sorted_by(|a, b| a.arrived >= b.arrived),
        "newest first"
    );
    assert_eq!(all.notable_since, start, "nothing notable was forgotten");
    let last_forgotten = start + Duration::from_micros(4999 - ORDINARY as u64);
    assert_eq!(all.ordinary_since, last_forgotten);
    assert!(ledger.rings.iter().map(|ring| ring.records.len()).sum::<usize>() <= ORDINARY + 1);
    let failed = Wanted {
        failed: true,
        most: 10,
        ..Wanted::default()
    };
    assert_eq!(ledger.look_up(&failed).records.len(), 1);
    let other = Wanted {
        function: Some("g".into()),
        most: 10,
        ..Wanted::default()
    };
    assert_eq!(ledger.look_up(&other).records.len(), 0);
}

#[test]
fn a_box_that_is_used_again_holds_nothing_of_its_last_request() {
    let now = Instant::now();
    let mut ledger = Ledger::new(now);
    for id in 0..=NOTABLE as u32 {
        put(&mut ledger, now, id, |record| {
            record.queues(3, 1);
            record.fails(Outcome::Died);
            record.begin_attempt();
            record.own = Some(Box::new(Own {
                kind: "internal",
                reason: "internal",
                detail: "secret".into(),
                shed: false,
            }));
            record.status = Some(502);
            record.ended = End::CutOff;
            record.ends(now);
        });
    }
    assert_eq!(ledger.spare.len(), 1);
    let open = ledger.open(now);
    let mut renewed = open.borrow_mut();
    renewed.asks(b"", "", "");
    let shown = format!(
        "{:?}",
        (
            &renewed.own,
            renewed.attempts(),
            renewed.status,
            renewed.ended,
            renewed.end
        )
    );
    let fresh = Record::new(now);
    assert_eq!(
        shown,
        format!(
            "{:?}",
            (&fresh.own, fresh.attempts(), fresh.status, fresh.ended, fresh.end)
        )
    );
    renewed.begin_attempt();
    assert_eq!(renewed.attempts()[0].queued.micros(), None);
}

#[test]
fn those_on_their_way_are_found_until_they_are_over() {
    let now = Instant::now();
    let mut ledger = Ledger::new(now);
    let open: Vec<Open> = (0..5_u32)
        .map(|id| {
            let record = ledger.open(now);
            record.borrow_mut().asks(id.to_string().as_bytes(), "GET", "/f");
            record
        })
        .collect();
    let hanging = Wanted {
        open: true,
        most: 2,
        ..Wanted::default()
    };
    let ids =
        |found: Found| -> Vec<String> { found.records.iter().map(|record| record.id.to_text()).collect() };
    open[4].borrow_mut().arrived = now - Duration::from_secs(9);
    assert_eq!(ids(ledger.look_up(&hanging)), ["4", "0"], "the oldest first");
    // From the middle, the front and the end: each leaves, and no other.
    for (left, id) in [(4, 2), (3, 0), (2, 4), (1, 3), (0, 1)] {
        assert!(!ledger.look_up(&one(id)).records[0].is_over());
        open[id as usize].borrow_mut().ends(now);
        ledger.close(&open[id as usize]);
        assert!(ledger.look_up(&one(id)).records[0].is_over());
        assert_eq!(ledger.open.len(), left);
    }
}

#[test]
fn each_class_has_its_ring() {
    let now = Instant::now();
    let own = |shed| {
        Some(Box::new(Own {
            kind: "k",
            reason: "k",
            detail: "".into(),
            shed,
        }))
    };
    type Change<'a> = &'a dyn Fn(&mut Record);
    let cases: [(&str, Class, bool, Change<'_>); 9] = [
        ("good", Class::Ordinary, false, &|_| ()),
        ("404 of the function", Class::Ordinary, false, &|r| {
            r.status = Some(404)
        }),
        ("500 of the function", Class::Notable, true, &|r| {
            r.status = Some(500)
        }),
        ("cold", Class::Notable, false, &|r| r.leases(1, Start::Cold)),
        ("retried", Class::Notable, false, &|r| r.begin_attempt()),
        ("gone", Class::Notable, false, &|r| r.ended = End::GoneWithin),
        ("cut", Class::Notable, true, &|r| r.ended = End::CutOff),
        ("slow", Class::Notable, false, &|r| r.ends(now + SLOW_ENOUGH)),
        ("timed out", Class::Notable, true, &|r| {
            r.own = own(false);
            r.status = Some(504);
        }),
    ];
    const SLOW_ENOUGH: Duration = record::SLOW;
    for (what, class, failed, change) in cases {
        let mut record = Record::new(now);
        record.begin_attempt();
        record.leases(1, Start::Warm);
        record.status = Some(200);
        change(&mut record);
        assert_eq!((record.class(), record.is_failed()), (class, failed), "{what}");
    }
    let mut refused = Record::new(now);
    refused.own = own(true);
    refused.status = Some(503);
    assert_eq!((refused.class(), refused.is_failed()), (Class::Refused, true));
    refused.own = own(false);
    refused.status = Some(404);
    assert_eq!((refused.class(), refused.is_failed()), (Class::Refused, false));
}

#[test]
fn texts_are_cut_and_attempts_are_counted() {
    let mut record = Record::new(Instant::now());
    record.asks(&[b'i'; 500], "GET", &"p".repeat(500));
    assert_eq!(
        (record.id.as_bytes().len(), record.path.as_bytes().len()),
        (128, 96)
    );
    for instance in 1..=9 {
        record.begin_attempt();
        record.leases(instance, Start::Warm);
    }
    let seen: Vec<_> = record.attempts().iter().map(|attempt| attempt.instance).collect();
    assert_eq!(seen, [Some(1), Some(2), Some(3), Some(9)]);
    assert_eq!(record.tried(), 9);
}

/// What a warm request pays: `cargo test --release -p funcd -- --ignored what_a_request_pays --nocapture`.
#[test]
#[ignore = "a measurement"]
fn what_a_request_pays() {
    let mut ledger = Ledger::new(Instant::now());
    let rounds = 2_000_000_u32;
    let revision = crate::name::RevisionId(funcd_sandbox::spec::Digest([7; 32]));
    for clock in [false, true] {
        let start = Instant::now();
        for _ in 0..rounds {
            let open = ledger.open(start);
            let mut record = open.borrow_mut();
            record.asks(
                std::hint::black_box(b"4bf92f3577b34da6a3ce929d0e0e4736"),
                "GET",
                "/hello/world",
            );
            record.is_for("hello");
            record.may_take(revision, Duration::from_secs(30));
            record.admit(start);
            record.begin_attempt();
            record.leases(7, Start::Warm);
            if clock {
                record.answers();
            }
            record.status = Some(200);
            record.ends(start);
            drop(record);
            ledger.close(std::hint::black_box(&open));
        }
        let each = start.elapsed().as_nanos() as f64 / f64::from(rounds);
        println!(
            "clock read: {clock}: {each:.1} ns for each request; a record has {} bytes",
            size_of::<Record>()
        );
    }
}
