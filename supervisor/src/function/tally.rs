//! What the attempts at one instance come to, counted by request paths without a lock and taken by `control`. Judges nothing:
//! [`crate::admission::eject`] does.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use crate::admission::Outcome;
use crate::admission::eject::{Attempts, Ejector};

/// The attempts at one instance.
#[derive(Debug, Default)]
pub(super) struct Tally {
    answered: AtomicU32,
    failed: AtomicU32,
    late: AtomicU32,
    failed_in_a_row: AtomicU32,
    late_in_a_row: AtomicU32,
    /// `control` was told that there is something to look at.
    told: AtomicBool,
    /// An answer came since somebody asked whether one did.
    heard: AtomicBool,
    /// Health requests without an answer, in a row.
    unanswered: AtomicU32,
}

impl Tally {
    /// An attempt ended, or its response head is there. True: `control` does not know yet that there is something to judge.
    pub(super) fn note(&self, outcome: Outcome) -> bool {
        let (count, in_a_row) = match outcome {
            Outcome::Answered => {
                self.answered.fetch_add(1, Relaxed);
                // Written only when that changes something: the line stays shared by all workers.
                if !self.heard.load(Relaxed) {
                    self.heard.store(true, Relaxed);
                }
                for row in [&self.failed_in_a_row, &self.late_in_a_row] {
                    if row.load(Relaxed) != 0 {
                        row.store(0, Relaxed);
                    }
                }
                return false;
            }
            Outcome::Failed => (&self.failed, &self.failed_in_a_row),
            Outcome::Dropped => (&self.late, &self.late_in_a_row),
            Outcome::Abandoned => return false,
        };
        count.fetch_add(1, Relaxed);
        in_a_row.fetch_add(1, Relaxed);
        !self.told.swap(true, Relaxed)
    }

    /// What they came to since the last time.
    pub(super) fn take(&self) -> Attempts {
        self.told.store(false, Relaxed);
        Attempts {
            answered: self.answered.swap(0, Relaxed),
            failed: self.failed.swap(0, Relaxed),
            late: self.late.swap(0, Relaxed),
            failed_in_a_row: self.failed_in_a_row.load(Relaxed),
            late_in_a_row: self.late_in_a_row.load(Relaxed),
        }
    }

    /// Something else kept it from answering in time.
    pub(super) fn forgive(&self) {
        self.late_in_a_row.store(0, Relaxed);
        self.is_alive();
    }

    /// Whether an answer came since this was asked last.
    pub(super) fn was_heard(&self) -> bool {
        self.heard.swap(false, Relaxed)
    }

    /// It answered a health request, or others.
    pub(super) fn is_alive(&self) {
        self.unanswered.store(0, Relaxed);
    }

    /// It did not answer a health request.
    pub(super) fn is_silent(&self) {
        self.unanswered.fetch_add(1, Relaxed);
    }

    /// Health requests without an answer, in a row.
    pub(super) fn unanswered(&self) -> u32 {
        self.unanswered.load(Relaxed)
    }

    /// Whether others are asked before it: it is about to be ejected, if it is not all of them.
    pub(super) fn is_last_choice(&self) -> bool {
        self.failed_in_a_row.load(Relaxed) >= Ejector::<u32>::IN_A_ROW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_is_told_once_until_it_looked() {
        let tally = Tally::default();
        assert!(!tally.note(Outcome::Answered) && !tally.note(Outcome::Abandoned));
        assert!(tally.note(Outcome::Failed) && !tally.note(Outcome::Dropped));
        let first = Attempts {
            answered: 1,
            failed: 1,
            late: 1,
            failed_in_a_row: 1,
            late_in_a_row: 1,
        };
        assert_eq!(tally.take(), first);
        assert!(tally.note(Outcome::Failed));
        assert_eq!((tally.take().failed_in_a_row, tally.is_last_choice()), (2, false));
        for _ in 0..3 {
            tally.note(Outcome::Failed);
        }
        assert!(tally.is_last_choice());
        tally.note(Outcome::Answered);
        assert_eq!(tally.take().failed_in_a_row, 0);
        assert!(!tally.is_last_choice());
    }
}
