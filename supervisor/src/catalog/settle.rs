//! When is a file complete, and what does the daemon need to be told? Pure: fed with what was seen and when, it says what
//! to look at next and what changed. Touches no file, knows no clock.
//!
//! The life of an entry:
//!
//! ```text
//! event or scan → look → same as before, and quiet for long enough? ──no──→ Settling, look again when it may be
//!                              │ yes
//!                              ├─ can't be a function ──→ Refused; what runs keeps running
//!                              └─ can ──→ Deploy (once for each identity) ──→ Accepted
//!                                            │ the daemon: still being written → again, later
//!                                            └ the daemon: refused → Refused until something changes
//! absent → Remove, if it was ever deployed
//! ```
//!
//! "Long enough" depends on what is known of the writer: a close or a rename was seen: [`Rules::quiet`]; nothing was seen
//! (start-up, overflow, a remote writer): [`Rules::unseen`]; a write without its close: the close is waited for, at most
//! [`Rules::stalled`], since then the event may have been missed; the store still refuses files that are open for writing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Entry;
use super::refusal::Refusal;
use super::scan::{Identity, Look, Program, Sighting, Verdict};

/// How long is long enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// After a close or a rename.
    pub quiet: Duration,
    /// When nothing is known of the writer; also the pause after a look that failed.
    pub unseen: Duration,
    /// After a write without a close.
    pub stalled: Duration,
    /// After the store said that the file is open for writing; doubled each time, up to 32 times this.
    pub retry: Duration,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            quiet: Duration::from_millis(50),
            unseen: Duration::from_secs(1),
            stalled: Duration::from_secs(60),
            retry: Duration::from_millis(250),
        }
    }
}

/// What the kernel told about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its content changed.
    Written,
    /// A writer closed it, or it was renamed to here.
    Closed,
    /// It was made, or its permissions or owner changed.
    Touched,
    /// It was deleted, or renamed away.
    Gone,
}

/// What to do about an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Deploy it as it was just seen; see [`Settle::told`].
    Deploy,
    /// It is gone.
    Remove,
}

/// What is known of all entries.
#[derive(Debug)]
pub struct Settle {
    rules: Rules,
    entries: BTreeMap<OsString, Tracked>,
    serial: u64,
    changed: bool,
}

#[derive(Debug)]
struct Tracked {
    /// Files (in the entry) that were written to and not closed since.
    writing: BTreeSet<OsString>,
    /// The last thing that was seen of the writer was a close or a rename.
    closed: bool,
    last_event: Option<Instant>,
    sight: Option<(Box<Sighting>, Instant)>,
    /// When to look next.
    due: Option<Instant>,
    /// Its absence means nothing before: the folder itself was replaced, and may still be filled.
    missing_until: Option<Instant>,
    told: Option<Told>,
    status: Entry,
}

/// What the daemon was told last.
#[derive(Debug)]
struct Told {
    serial: u64,
    identity: Identity,
    program: Arc<Program>,
    answer: Answer,
    retries: u32,
}

#[derive(Debug)]
enum Answer {
    None,
    Refused(Refusal),
    Again(Instant),
}

impl Tracked {
    /// More files than this are not told apart.
    const MOST_WRITING: usize = 64;

    fn new() -> Tracked {
        Tracked {
            writing: BTreeSet::new(),
            closed: false,
            last_event: None,
            sight: None,
            due: None,
            missing_until: None,
            told: None,
            status: settling("it has just appeared"),
        }
    }

    /// Whether events of a file in the entry say anything about the function.
    fn cares_for(&self, file: &OsStr) -> bool {
        match &self.sight {
            Some((sight, _)) if matches!(sight.verdict, Verdict::Function(_)) => {
                file.is_empty() || sight.files.iter().any(|known| known == file)
            }
            _ => true,
        }
    }

    /// `Ok` when nobody writes it any more; else when to look again, and what is awaited.
    fn is_complete(&self, now: Instant, rules: &Rules) -> Result<(), (Instant, &'static str)> {
        let Some((sight, since)) = &self.sight else {
            return Err((now, "it has just appeared"));
        };
        // An age counts as a look that long ago.
        let steady = now.saturating_duration_since(*since).max(sight.age);
        let silent = self.last_event.map(|at| now.saturating_duration_since(at));
        let wait = |needed: Duration, quiet: Duration| {
            let rest = needed.saturating_sub(steady);
            rest.max(silent.map_or(Duration::ZERO, |silent| quiet.saturating_sub(silent)))
        };
        let written = self.writing.iter().any(|file| self.cares_for(file));
        let (rest, why) = if written {
            (
                wait(rules.stalled, rules.stalled),
                "it is being written: waiting for the writer to close it",
            )
        } else if self.closed {
            (wait(rules.quiet, rules.quiet), "it has just changed")
        } else {
            (
                wait(rules.unseen, rules.quiet),
                "it has just changed, and nobody was seen closing it",
            )
        };
        if rest.is_zero() {
            Ok(())
        } else {
            Err((now + rest, why))
        }
    }
}

impl Settle {
    /// Nothing is known yet.
    pub fn new(rules: Rules) -> Settle {
        Settle {
            rules,
            entries: BTreeMap::new(),
            serial: 0,
            changed: true,
        }
    }

    /// Something happened to an entry, or to a file in it (`file` is empty for the entry itself).
    pub fn event(&mut self, now: Instant, name: &OsStr, file: &OsStr, event: Event) {
        let changed = &mut self.changed;
        let tracked = self.entries.entry(name.to_owned()).or_insert_with(|| {
            *changed = true;
            Tracked::new()
        });
        if !tracked.cares_for(file) {
            return;
        }
        tracked.last_event = Some(now);
        let mut soon = self.rules.quiet;
        match event {
            Event::Written => {
                if tracked.writing.len() < Tracked::MOST_WRITING {
                    tracked.writing.insert(file.to_owned());
                }
                tracked.closed = false;
            }
            Event::Closed => {
                tracked.writing.remove(file);
                tracked.closed = tracked.writing.is_empty();
                soon = Duration::ZERO;
            }
            Event::Touched => {}
            Event::Gone => {
                tracked.writing.remove(file);
                if file.is_empty() {
                    tracked.writing.clear();
                    tracked.closed = false;
                }
            }
        }
        let at = now + soon;
        tracked.due = Some(tracked.due.map_or(at, |due| due.min(at)));
    }

    /// Events were lost: what is known of writers is no longer known. The caller looks at everything.
    pub fn events_lost(&mut self) {
        for tracked in self.entries.values_mut() {
            tracked.writing.clear();
            tracked.closed = false;
        }
    }

    /// The functions folder is another one now: what is not in it yet gets [`Rules::stalled`] to come back before it counts
    /// as removed. The caller looks at everything.
    pub fn home_replaced(&mut self, now: Instant) {
        self.events_lost();
        for tracked in self.entries.values_mut() {
            tracked.missing_until = Some(now + self.rules.stalled);
        }
    }

    /// Entries to look at now.
    pub fn take_due(&mut self, now: Instant) -> Vec<OsString> {
        let due = self
            .entries
            .iter_mut()
            .filter(|(_, tracked)| tracked.due.is_some_and(|due| due <= now));
        due.map(|(name, tracked)| {
            tracked.due = None;
            name.clone()
        })
        .collect()
    }

    /// When [`Settle::take_due`] has something next.
    pub fn next_due(&self) -> Option<Instant> {
        self.entries.values().filter_map(|tracked| tracked.due).min()
    }

    /// The entries that something is known of.
    pub fn names(&self) -> Vec<OsString> {
        self.entries.keys().cloned().collect()
    }

    /// What a look at an entry saw.
    pub fn looked(&mut self, now: Instant, name: &OsStr, look: Look) -> Option<Decision> {
        match look {
            Look::HomeGone => None,
            Look::Absent => {
                let missing = self.entries.get_mut(name)?;
                if let Some(until) = missing.missing_until.filter(|until| *until > now) {
                    missing.due = Some(until);
                    self.set_status(
                        name,
                        settling("it is not in the new functions folder yet; what runs keeps running"),
                    );
                    return None;
                }
                let gone = self.entries.remove(name)?;
                self.changed = true;
                gone.told.map(|_| Decision::Remove)
            }
            Look::Failed(why) => {
                let again = now + self.rules.unseen;
                let tracked = self.entries.entry(name.to_owned()).or_insert_with(Tracked::new);
                tracked.due = Some(again);
                if !matches!(tracked.status, Entry::Accepted) {
                    self.set_status(name, settling(&why));
                }
                None
            }
            Look::Seen(sighting) => self.seen(now, name, sighting),
        }
    }

    fn seen(&mut self, now: Instant, name: &OsStr, sighting: Box<Sighting>) -> Option<Decision> {
        let tracked = self.entries.entry(name.to_owned()).or_insert_with(Tracked::new);
        let since = match &tracked.sight {
            Some((before, since)) if before.identity == sighting.identity => *since,
            _ => now,
        };
        tracked.sight = Some((sighting, since));
        tracked.missing_until = None;
        if let Err((at, why)) = tracked.is_complete(now, &self.rules) {
            tracked.due = Some(at);
            // What is only noticed now, and was deployed as it is, needs no word.
            let deployed = tracked.told.as_ref().zip(tracked.sight.as_ref());
            let news = deployed.is_none_or(|(told, (sight, _))| told.identity != sight.identity);
            if news {
                self.set_status(name, settling(why));
            }
            return None;
        }
        let (sighting, _) = tracked.sight.as_ref().expect("set above");
        match &sighting.verdict {
            Verdict::Uploading => {
                self.set_status(
                    name,
                    settling("its name says that it is being uploaded: rename it when it is done"),
                );
                None
            }
            Verdict::Refused(refusal) => {
                let refused = refused(refusal);
                self.set_status(name, refused);
                None
            }
            Verdict::Function(program) => {
                let (program, identity) = (Arc::clone(program), sighting.identity.clone());
                self.function(now, name, program, identity)
            }
        }
    }

    /// A complete entry that can be a function.
    fn function(
        &mut self,
        now: Instant,
        name: &OsStr,
        program: Arc<Program>,
        identity: Identity,
    ) -> Option<Decision> {
        let tracked = self.entries.get_mut(name).expect("it was just seen");
        let retries = match &tracked.told {
            Some(told) if told.identity == identity => match &told.answer {
                Answer::None => {
                    self.set_status(name, Entry::Accepted);
                    return None;
                }
                Answer::Refused(refusal) => {
                    let refused = refused(refusal);
                    self.set_status(name, refused);
                    return None;
                }
                Answer::Again(at) if *at > now => {
                    tracked.due = Some(*at);
                    return None;
                }
                Answer::Again(_) => told.retries + 1,
            },
            _ => 0,
        };
        self.serial += 1;
        tracked.told = Some(Told {
            serial: self.serial,
            identity,
            program,
            answer: Answer::None,
            retries,
        });
        self.set_status(name, Entry::Accepted);
        Some(Decision::Deploy)
    }

    /// What to deploy after [`Decision::Deploy`]: its identity, the program and the serial that the daemon answers with.
    pub fn told(&self, name: &OsStr) -> Option<(&Identity, &Arc<Program>, u64)> {
        let told = self.entries.get(name)?.told.as_ref()?;
        Some((&told.identity, &told.program, told.serial))
    }

    /// The file is still open for writing, or changed while it was copied: deploy it again, a little later each time.
    /// Ignored when the serial is not the last one, as in all answers.
    pub fn retry(&mut self, now: Instant, name: &OsStr, serial: u64, why: &str) {
        let pause = self.rules.retry;
        if let Some(tracked) = self.answered(name, serial)
            && let Some(told) = &mut tracked.told
        {
            let at = now + pause * (1 << told.retries.min(5));
            told.answer = Answer::Again(at);
            tracked.due = Some(at);
            self.set_status(name, settling(why));
        }
    }

    /// The daemon refuses what it was told to deploy, until something about it changes.
    pub fn refuse(&mut self, name: &OsStr, serial: u64, refusal: Refusal) {
        if let Some(tracked) = self.answered(name, serial)
            && let Some(told) = &mut tracked.told
        {
            let status = refused(&refusal);
            told.answer = Answer::Refused(refusal);
            self.set_status(name, status);
        }
    }

    /// The daemon takes a refusal back.
    pub fn accept(&mut self, name: &OsStr, serial: u64) {
        if let Some(tracked) = self.answered(name, serial)
            && let Some(told) = &mut tracked.told
        {
            told.answer = Answer::None;
            self.set_status(name, Entry::Accepted);
        }
    }

    fn answered(&mut self, name: &OsStr, serial: u64) -> Option<&mut Tracked> {
        let tracked = self.entries.get_mut(name)?;
        let current = tracked.told.as_ref().is_some_and(|told| told.serial == serial);
        current.then_some(tracked)
    }

    fn set_status(&mut self, name: &OsStr, status: Entry) {
        let tracked = self.entries.get_mut(name).expect("callers have it");
        if tracked.status != status {
            tracked.status = status;
            self.changed = true;
        }
    }

    /// Whether an entry that may become a function is to be looked at by then.
    pub fn awaits(&self, until: Instant) -> bool {
        let mut entries = self.entries.values();
        entries
            .any(|it| matches!(it.status, Entry::Settling { .. }) && it.due.is_some_and(|due| due <= until))
    }

    /// All entries, if anything about them changed since the last call. Names that are no plain text are shown escaped.
    pub fn take_entries(&mut self) -> Option<BTreeMap<String, Entry>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let entries = self
            .entries
            .iter()
            .map(|(name, tracked)| (display(name), tracked.status.clone()));
        Some(entries.collect())
    }
}

/// A file name for people: escaped where it is not UTF-8 or would move a terminal's cursor.
pub fn display(name: &OsStr) -> String {
    match name.to_str() {
        Some(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => name.as_encoded_bytes().escape_ascii().to_string(),
    }
}

fn settling(why: &str) -> Entry {
    Entry::Settling {
        reason: why.to_owned(),
    }
}

fn refused(refusal: &Refusal) -> Entry {
    Entry::Refused {
        kind: refusal.kind,
        reason: refusal.reason.clone(),
    }
}

#[cfg(test)]
#[path = "settle_tests.rs"]
mod tests;
