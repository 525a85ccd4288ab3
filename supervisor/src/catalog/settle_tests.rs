//! The machine under an injected clock: no file, no sleep.

use funcd_sandbox::spec::Image;

use super::*;
use crate::catalog::folder::FileId;
use crate::catalog::manifest::{Defaults, Manifest};
use crate::name::FunctionName;

const MS: Duration = Duration::from_millis(1);

/// The machine with its clock and one entry, `hello`.
struct Bench {
    settle: Settle,
    now: Instant,
    program: Arc<Program>,
}

impl Bench {
    fn new() -> Bench {
        let name = FunctionName::parse("hello").unwrap();
        let manifest = Manifest::read(&name, "m".as_ref(), None, &Defaults::default()).unwrap();
        let program = Program {
            name,
            manifest: Arc::new(manifest),
            text: String::new(),
            image: Image::Static,
            asks: crate::catalog::view::Asks::Nothing,
        };
        Bench {
            settle: Settle::new(Rules::default()),
            now: Instant::now(),
            program: Arc::new(program),
        }
    }

    fn event(&mut self, event: Event) {
        self.settle
            .event(self.now, OsStr::new("hello"), OsStr::new(""), event);
    }

    /// A file is told from another by one number here.
    fn sighting(&self, version: u64, verdict: Verdict) -> Box<Sighting> {
        let entry = FileId {
            dev: 1,
            ino: version,
            size: 1,
            mode: 0o100_755,
            uid: 0,
            gid: 0,
            mtime: 1,
            ctime: 1,
        };
        Box::new(Sighting {
            identity: Identity {
                home: (0o40_755, 0),
                entry,
                manifest: None,
                executable: Some(entry),
            },
            age: Duration::ZERO,
            files: vec!["".into()],
            verdict,
        })
    }

    fn good(&self, version: u64) -> Look {
        Look::Seen(self.sighting(version, Verdict::Function(Arc::clone(&self.program))))
    }

    fn bad(&self, version: u64, kind: &'static str) -> Look {
        Look::Seen(self.sighting(version, Verdict::Refused(Refusal::new(kind, "why"))))
    }

    fn look(&mut self, look: Look) -> Option<Decision> {
        self.settle.looked(self.now, OsStr::new("hello"), look)
    }

    /// Looks whenever the machine wants to, for this long, and sees the same each time.
    fn pass(&mut self, time: Duration, look: &Look) -> Vec<Decision> {
        let end = self.now + time;
        let mut decisions = Vec::new();
        while let Some(due) = self.settle.next_due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            for name in self.settle.take_due(self.now) {
                decisions.extend(self.settle.looked(self.now, &name, look.clone()));
            }
        }
        self.now = end;
        decisions
    }

    fn status(&mut self) -> String {
        self.settle.changed = true;
        let entries = self.settle.take_entries().unwrap();
        match entries.get("hello") {
            None => "absent".into(),
            Some(Entry::Accepted) => "accepted".into(),
            Some(Entry::Settling { reason }) => format!("settling: {reason}"),
            Some(Entry::Refused { kind, .. }) => format!("refused: {kind}"),
        }
    }

    fn serial(&self) -> u64 {
        self.settle.told(OsStr::new("hello")).unwrap().2
    }

    /// Version 1 is deployed.
    fn deployed() -> Bench {
        let mut bench = Bench::new();
        bench.event(Event::Closed);
        let look = bench.good(1);
        assert_eq!(bench.pass(100 * MS, &look), [Decision::Deploy]);
        assert_eq!(bench.status(), "accepted");
        assert_eq!(bench.settle.next_due(), None);
        bench
    }
}

#[test]
fn a_copy_goes_live_once_after_its_close() {
    let mut bench = Bench::new();
    bench.event(Event::Touched);
    for version in 1..20 {
        bench.event(Event::Written);
        let half = bench.good(version);
        assert_eq!(bench.pass(30 * MS, &half), [], "not before it is closed");
    }
    assert!(
        bench.status().starts_with("settling: it is being written"),
        "{}",
        bench.status()
    );
    bench.event(Event::Closed);
    let whole = bench.good(20);
    assert_eq!(bench.pass(49 * MS, &whole), []);
    assert_eq!(bench.pass(MS, &whole), [Decision::Deploy]);
    assert_eq!(bench.pass(Duration::from_secs(600), &whole), []);
    assert_eq!(bench.status(), "accepted");
}

#[test]
fn a_stalled_copy_waits_for_its_writer() {
    let mut bench = Bench::new();
    bench.event(Event::Written);
    let half = bench.good(1);
    assert_eq!(bench.pass(Duration::from_secs(59), &half), []);
    bench.event(Event::Written);
    assert_eq!(
        bench.pass(Duration::from_secs(59), &half),
        [],
        "each write starts the wait again"
    );
    // A write whose close was never told (truncate(2) has none) does not wait for ever: the store looks for writers too.
    assert_eq!(bench.pass(Duration::from_secs(2), &half), [Decision::Deploy]);
    let serial = bench.serial();
    bench
        .settle
        .retry(bench.now, OsStr::new("hello"), serial, "still open for writing");
    assert_eq!(bench.status(), "settling: still open for writing");
    bench.event(Event::Written);
    bench.event(Event::Closed);
    let whole = bench.good(2);
    assert_eq!(bench.pass(Duration::from_secs(1), &whole), [Decision::Deploy]);
}

#[test]
fn writes_after_the_close_start_again() {
    let mut bench = Bench::new();
    bench.event(Event::Closed);
    let one = bench.good(1);
    assert_eq!(bench.pass(40 * MS, &one), []);
    bench.event(Event::Written);
    let two = bench.good(2);
    assert_eq!(bench.pass(200 * MS, &two), []);
    bench.event(Event::Closed);
    assert_eq!(bench.pass(60 * MS, &two), [Decision::Deploy]);
}

#[test]
fn what_only_scans_see_needs_two_looks() {
    let mut bench = Bench::new();
    let one = bench.good(1);
    assert_eq!(bench.look(one.clone()), None);
    assert_eq!(bench.pass(999 * MS, &one), []);
    let two = bench.good(2);
    assert_eq!(bench.pass(MS, &two), [], "it changed between the looks");
    assert_eq!(bench.pass(999 * MS, &two), []);
    assert_eq!(bench.pass(MS, &two), [Decision::Deploy]);
}

#[test]
fn an_old_file_needs_one_look() {
    let mut bench = Bench::new();
    let mut old = bench.sighting(1, Verdict::Function(Arc::clone(&bench.program)));
    old.age = Duration::from_secs(1);
    assert_eq!(bench.look(Look::Seen(old.clone())), Some(Decision::Deploy));

    // Its age says nothing while somebody writes.
    let mut bench = Bench::new();
    bench.event(Event::Written);
    assert_eq!(bench.look(Look::Seen(old)), None);
}

#[test]
fn a_refused_replacement_leaves_what_runs() {
    for kind in ["truncated", "not-executable", "symlink", "bad-manifest"] {
        let mut bench = Bench::deployed();
        bench.event(Event::Closed);
        let bad = bench.bad(2, kind);
        assert_eq!(bench.pass(Duration::from_secs(9), &bad), []);
        assert_eq!(bench.status(), format!("refused: {kind}"));
        bench.event(Event::Closed);
        let good = bench.good(3);
        assert_eq!(bench.pass(Duration::from_secs(9), &good), [Decision::Deploy]);
        assert_eq!(bench.status(), "accepted");
    }
}

#[test]
fn a_replacement_by_rename_is_one_deploy() {
    let mut bench = Bench::deployed();
    bench.event(Event::Closed);
    let two = bench.good(2);
    assert_eq!(bench.pass(Duration::from_secs(9), &two), [Decision::Deploy]);
}

#[test]
fn a_removal_is_told_once_and_only_after_a_deploy() {
    let mut bench = Bench::deployed();
    bench.event(Event::Gone);
    assert_eq!(
        bench.pass(Duration::from_secs(1), &Look::Absent),
        [Decision::Remove]
    );
    assert_eq!(bench.status(), "absent");
    assert_eq!(bench.look(Look::Absent), None);

    let mut bench = Bench::new();
    bench.event(Event::Written);
    bench.event(Event::Gone);
    assert_eq!(bench.pass(Duration::from_secs(1), &Look::Absent), []);
    assert_eq!(bench.status(), "absent");
}

#[test]
fn deleted_and_made_again_is_a_replacement() {
    let mut bench = Bench::deployed();
    bench.event(Event::Gone);
    bench.now += 10 * MS;
    bench.event(Event::Touched);
    bench.event(Event::Written);
    let half = bench.bad(2, "truncated");
    assert_eq!(bench.pass(Duration::from_secs(2), &half), [], "no Remove between");
    bench.event(Event::Closed);
    let whole = bench.good(2);
    assert_eq!(bench.pass(Duration::from_secs(1), &whole), [Decision::Deploy]);
}

#[test]
fn a_failed_look_is_no_absence() {
    let mut bench = Bench::deployed();
    assert_eq!(bench.look(Look::Failed("EMFILE".into())), None);
    assert_eq!(bench.look(Look::HomeGone), None);
    assert_eq!(bench.status(), "accepted");
    let one = bench.good(1);
    assert_eq!(
        bench.pass(Duration::from_secs(5), &one),
        [],
        "looked again, nothing new"
    );

    let mut bench = Bench::new();
    assert_eq!(bench.look(Look::Failed("EIO".into())), None);
    assert_eq!(bench.status(), "settling: EIO");
}

#[test]
fn a_new_home_has_time_to_be_filled() {
    let mut bench = Bench::deployed();
    bench.settle.home_replaced(bench.now);
    assert_eq!(bench.look(Look::Absent), None);
    assert!(bench.status().contains("what runs keeps running"));
    assert_eq!(bench.pass(Duration::from_secs(59), &Look::Absent), []);
    assert_eq!(
        bench.pass(Duration::from_secs(2), &Look::Absent),
        [Decision::Remove]
    );

    // Once it was seen in there, its removal is one.
    let mut bench = Bench::deployed();
    bench.settle.home_replaced(bench.now);
    let one = bench.good(1);
    assert_eq!(bench.look(one), None);
    bench.event(Event::Gone);
    assert_eq!(
        bench.pass(Duration::from_secs(1), &Look::Absent),
        [Decision::Remove]
    );
}

#[test]
fn an_overflow_forgets_the_writer() {
    let mut bench = Bench::new();
    bench.event(Event::Written);
    bench.settle.events_lost();
    let look = bench.good(1);
    assert_eq!(bench.look(look.clone()), None);
    assert_eq!(bench.pass(999 * MS, &look), []);
    assert_eq!(bench.pass(MS, &look), [Decision::Deploy]);
}

#[test]
fn the_daemon_asks_for_later_and_later() {
    let mut bench = Bench::deployed();
    let one = bench.good(1);
    let mut waits = Vec::new();
    for _ in 0..8 {
        let serial = bench.serial();
        bench
            .settle
            .retry(bench.now, OsStr::new("hello"), serial, "open for writing");
        let asked = bench.now;
        let mut deployed = vec![];
        while deployed.is_empty() {
            deployed = bench.pass(10 * MS, &one);
        }
        assert_eq!(deployed, [Decision::Deploy]);
        assert_eq!(bench.serial(), serial + 1);
        waits.push((bench.now - asked).as_millis());
    }
    assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 8000, 8000]);
}

#[test]
fn the_daemons_refusal_shows_until_something_changes() {
    let mut bench = Bench::deployed();
    let hello = OsStr::new("hello");
    let serial = bench.serial();
    bench
        .settle
        .refuse(hello, serial, Refusal::new("never-ready", "exit 1"));
    assert_eq!(bench.status(), "refused: never-ready");
    let one = bench.good(1);
    assert_eq!(bench.look(one.clone()), None);
    assert_eq!(bench.status(), "refused: never-ready");
    bench.settle.accept(hello, serial);
    assert_eq!(bench.status(), "accepted");

    bench.event(Event::Closed);
    let two = bench.good(2);
    assert_eq!(bench.pass(Duration::from_secs(1), &two), [Decision::Deploy]);
    bench.settle.refuse(
        hello,
        serial,
        Refusal::new("never-ready", "late news of the one before"),
    );
    bench.settle.retry(bench.now, hello, serial, "late");
    assert_eq!(bench.status(), "accepted");
    bench
        .settle
        .refuse(OsStr::new("other"), 1, Refusal::new("x", "of nobody"));
}

#[test]
fn files_that_do_not_matter_do_not_delay() {
    let mut bench = Bench::new();
    let thumbs = OsStr::new("thumbs");
    let mut sighting = bench.sighting(1, Verdict::Function(Arc::clone(&bench.program)));
    sighting.files = vec!["function.toml".into(), "thumbs".into()];
    let look = Look::Seen(sighting);
    // A log is being written in the folder, from before anything was known.
    bench
        .settle
        .event(bench.now, thumbs, OsStr::new("log"), Event::Written);
    bench
        .settle
        .event(bench.now, thumbs, OsStr::new("thumbs"), Event::Written);
    assert_eq!(
        bench.pass(Duration::from_secs(1), &look),
        [],
        "the executable is being written"
    );
    bench
        .settle
        .event(bench.now, thumbs, OsStr::new("thumbs"), Event::Closed);
    assert_eq!(bench.pass(Duration::from_secs(2), &look), [Decision::Deploy]);
    bench
        .settle
        .event(bench.now, thumbs, OsStr::new("log"), Event::Written);
    assert_eq!(bench.settle.next_due(), None);
    bench
        .settle
        .event(bench.now, thumbs, OsStr::new("function.toml"), Event::Written);
    assert!(bench.settle.next_due().is_some());
}

#[test]
fn uploads_are_shown_and_never_deployed() {
    let mut bench = Bench::new();
    let look = Look::Seen(bench.sighting(1, Verdict::Uploading));
    bench.event(Event::Closed);
    assert_eq!(bench.pass(Duration::from_secs(99), &look), []);
    assert!(bench.status().contains("rename it when it is done"));
}

#[test]
fn a_chmod_is_a_new_look() {
    let mut bench = Bench::new();
    bench.event(Event::Closed);
    let plain = bench.bad(1, "not-executable");
    assert_eq!(bench.pass(Duration::from_secs(1), &plain), []);
    assert_eq!(bench.status(), "refused: not-executable");
    bench.event(Event::Touched);
    let executable = bench.good(2);
    assert_eq!(bench.pass(100 * MS, &executable), [Decision::Deploy]);
}

#[test]
fn names_for_people() {
    use std::os::unix::ffi::OsStrExt;
    assert_eq!(display(OsStr::new("hé-llo")), "hé-llo");
    assert_eq!(display(OsStr::from_bytes(b"a\x1b[31m")), "a\\x1b[31m");
    assert_eq!(display(OsStr::from_bytes(b"\xff")), "\\xff");
}
