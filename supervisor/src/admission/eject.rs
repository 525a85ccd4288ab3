//! Which instance is bad, and which request kills instances: pure. Never kills one; control replaces, drains and kills.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::{Duration, Instant};

/// What the attempts at one instance came to since they were last told of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attempts {
    /// A response head came.
    pub answered: u32,
    /// The connection broke, or what came was not HTTP.
    pub failed: u32,
    /// No response head came in time.
    pub late: u32,
    /// Failed since the last answer, from the beginning.
    pub failed_in_a_row: u32,
    /// Late since the last answer, from the beginning: places that may still be occupied.
    pub late_in_a_row: u32,
}

/// Why an instance is to be ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its connections break, or it answers what is not HTTP: certain.
    Failing,
    /// It does not answer in time: only if nothing else keeps it from that.
    Silent,
}

/// What is known of one instance.
#[derive(Debug, Clone, Default)]
struct Record {
    /// How many requests it takes at once.
    slots: u32,
    failed_in_a_row: u32,
    late_in_a_row: u32,
    /// Answers, failures and late ones, in the current and in the last period.
    counts: [[u32; 3]; 2],
    is_ejected: bool,
}

impl Record {
    fn count(&self, what: usize) -> u32 {
        self.counts[0][what] + self.counts[1][what]
    }

    fn bad(&self) -> u32 {
        self.count(1) + self.count(2)
    }

    fn total(&self) -> u32 {
        self.count(0) + self.bad()
    }
}

/// The instances of one function, by what their requests came to. `I` names an instance.
#[derive(Debug, Clone)]
pub struct Ejector<I> {
    records: HashMap<I, Record>,
    period_began: Option<Instant>,
    /// When those that were ejected went, for as long as that matters.
    gone: VecDeque<Instant>,
}

impl<I> Default for Ejector<I> {
    fn default() -> Ejector<I> {
        Ejector {
            records: HashMap::new(),
            period_began: None,
            gone: VecDeque::new(),
        }
    }
}

impl<I: Copy + Eq + Hash + Ord> Ejector<I> {
    /// So many failures in a row are enough.
    pub const IN_A_ROW: u32 = 5;
    /// So many in a row are enough to doubt the instances altogether, if half of them have as many.
    const AILING: u32 = 2;
    /// Fewer requests than this make no rate.
    const LEAST: u32 = 20;
    /// Counts are kept for one to two of these.
    const PERIOD: Duration = Duration::from_secs(10);
    /// For so long, one that was ejected counts as bad: if those that came in its stead are no better, it is not the instances.
    const MEMORY: Duration = Duration::from_secs(60);

    /// An instance is there, which takes so many requests at once.
    pub fn came(&mut self, instance: I, slots: u32) {
        self.records.entry(instance).or_default().slots = slots;
    }

    /// Those for which `stays` is false are gone.
    pub fn retain(&mut self, stays: impl Fn(I) -> bool, now: Instant) {
        let gone = &mut self.gone;
        self.records.retain(|&instance, record| {
            let stays = stays(instance);
            if !stays && record.is_ejected {
                gone.push_back(now);
            }
            stays
        });
    }

    /// What attempts at it came to.
    pub fn saw(&mut self, instance: I, attempts: Attempts, now: Instant) {
        if now.saturating_duration_since(*self.period_began.get_or_insert(now)) >= Self::PERIOD {
            self.period_began = Some(now);
            for record in self.records.values_mut() {
                record.counts = [[0; 3], record.counts[0]];
            }
        }
        let Some(record) = self.records.get_mut(&instance) else {
            return;
        };
        (record.failed_in_a_row, record.late_in_a_row) = (attempts.failed_in_a_row, attempts.late_in_a_row);
        let seen = [attempts.answered, attempts.failed, attempts.late];
        for (count, seen) in record.counts[0].iter_mut().zip(seen) {
            *count = count.saturating_add(seen);
        }
    }

    /// Something else kept it from answering: that is forgotten.
    pub fn forgive(&mut self, instance: I) {
        if let Some(record) = self.records.get_mut(&instance) {
            record.late_in_a_row = 0;
            record.counts.iter_mut().for_each(|counts| counts[2] = 0);
        }
    }

    /// The instances to eject now: start another, drain it, kill it. At most one, or a third of them, are ejected at the same
    /// time. If half or more look bad (and more than one), those that were ejected within the last minute among them, it is not
    /// the instances: none is.
    pub fn suspects(&mut self, now: Instant) -> Vec<(I, Cause)> {
        while self
            .gone
            .front()
            .is_some_and(|&then| now.saturating_duration_since(then) >= Self::MEMORY)
        {
            self.gone.pop_front();
        }
        let ailing = self.records.keys().filter(|&&i| self.is_ailing(i)).count() + self.gone.len();
        if ailing > 1 && 2 * ailing >= self.records.len() + self.gone.len() {
            return Vec::new();
        }
        let may = self.room();
        let not_yet = self.records.iter().filter(|(_, record)| !record.is_ejected);
        let mut bad: Vec<_> = not_yet.filter_map(|(&i, _)| Some((i, self.cause(i)?))).collect();
        bad.sort_unstable_by_key(|&(i, cause)| (cause == Cause::Silent, i));
        bad.truncate(may);
        bad
    }

    /// How many more may be ejected now, whatever the reason.
    pub fn room(&self) -> usize {
        let ejected = self.records.values().filter(|record| record.is_ejected).count();
        (self.records.len() / 3).max(1).saturating_sub(ejected)
    }

    /// It is on its way out.
    pub fn eject(&mut self, instance: I) {
        if let Some(record) = self.records.get_mut(&instance) {
            record.is_ejected = true;
        }
    }

    /// Whether any other instance does well: only then it is worse than they are.
    pub fn others_are_well(&self, instance: I) -> bool {
        let (bad, total) = self.others(instance);
        total >= Self::LEAST && 10 * bad < total
    }

    fn others(&self, instance: I) -> (u32, u32) {
        let others = self.records.iter().filter(|&(&other, _)| other != instance);
        others.fold((0, 0), |(bad, total), (_, other)| {
            (bad + other.bad(), total + other.total())
        })
    }

    fn cause(&self, instance: I) -> Option<Cause> {
        let record = &self.records[&instance];
        if record.failed_in_a_row >= Self::IN_A_ROW {
            return Some(Cause::Failing);
        }
        // More than half of its places may be taken by what nobody waits for any more.
        if record.late_in_a_row >= Self::IN_A_ROW.max(record.slots / 2 + 1) {
            return Some(Cause::Silent);
        }
        let total = record.total();
        let is_half = |bad: u32| total >= Self::LEAST && 2 * bad >= total;
        if !is_half(record.bad()) || !self.others_are_well(instance) {
            return None;
        }
        match is_half(record.count(1)) {
            true => Some(Cause::Failing),
            false => Some(Cause::Silent),
        }
    }

    fn is_ailing(&self, instance: I) -> bool {
        let record = &self.records[&instance];
        record.is_ejected
            || record.failed_in_a_row.max(record.late_in_a_row) >= Self::AILING
            || self.cause(instance).is_some()
    }
}

/// Requests that instances died of, by fingerprint.
#[derive(Debug)]
pub struct Quarantine {
    suspects: HashMap<u64, Suspect>,
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy)]
struct Suspect {
    deaths: u32,
    /// How likely it was: with n requests in flight each bears 1/n of a death.
    blame: f64,
    last: Instant,
    /// When one was let through to see.
    tried: Instant,
}

impl Default for Quarantine {
    fn default() -> Quarantine {
        Quarantine {
            suspects: HashMap::new(),
            hasher: RandomState::new(),
        }
    }
}

impl Quarantine {
    /// So many instances died.
    const DEATHS: u32 = 2;
    /// And so much of it was its own.
    const BLAME: f64 = 1.0;
    /// For how long it is refused after the last death, and remembered.
    pub const WHILE: Duration = Duration::from_secs(300);
    /// After this one is let through: it may have been something else of the request that killed, or nothing of it, which the
    /// fingerprint does not tell, and then nobody is to be refused for it.
    pub const FIRST_TRY: Duration = Duration::from_millis(500);
    /// After each that kills too it is twice as long until the next, and this at most.
    pub const LAST_TRY: Duration = Duration::from_secs(15);
    /// Fingerprints that are remembered at most.
    const MOST: usize = 1024;

    /// The fingerprint of a request: what it asks, never its body, which may not be here yet. Made only when an instance died, or
    /// while there are suspects.
    pub fn fingerprint(
        &self,
        method: &str,
        target: &str,
        content_length: Option<u64>,
        content_type: &str,
    ) -> u64 {
        self.hasher
            .hash_one((method, target, content_length, content_type))
    }

    /// Forgets who was suspected long ago.
    pub fn tidy(&mut self, now: Instant) {
        self.suspects
            .retain(|_, suspect| now.saturating_duration_since(suspect.last) < Self::WHILE);
    }

    /// Whether an instance died of it already.
    pub fn is_suspect(&self, fingerprint: u64) -> bool {
        self.suspects.contains_key(&fingerprint)
    }

    /// Whether nobody is suspected: then no request needs a fingerprint.
    pub fn is_empty(&self) -> bool {
        self.suspects.is_empty()
    }

    /// An instance died with this request and `others` in flight. Says whether it is in quarantine from now on.
    pub fn killed(&mut self, fingerprint: u64, others: u32, now: Instant) -> bool {
        self.tidy(now);
        if self.suspects.len() >= Self::MOST && !self.suspects.contains_key(&fingerprint) {
            let oldest = self.suspects.iter().min_by_key(|(_, suspect)| suspect.last);
            if let Some(oldest) = oldest.map(|(&oldest, _)| oldest) {
                self.suspects.remove(&oldest);
            }
        }
        let suspect = self.suspects.entry(fingerprint).or_insert(Suspect {
            deaths: 0,
            blame: 0.0,
            last: now,
            tried: now,
        });
        suspect.deaths += 1;
        suspect.blame += 1.0 / (1.0 + f64::from(others));
        (suspect.last, suspect.tried) = (now, now);
        self.is_quarantined(fingerprint, now)
    }

    /// A request with this fingerprint was answered: it is no killer.
    pub fn answered(&mut self, fingerprint: u64) {
        self.suspects.remove(&fingerprint);
    }

    /// Whether this one in quarantine is sent after all, to see: takes the turn.
    pub fn may_try(&mut self, fingerprint: u64, now: Instant) -> bool {
        let Some(suspect) = self.suspects.get_mut(&fingerprint) else {
            return true;
        };
        let doubled = suspect.deaths.saturating_sub(Self::DEATHS).min(8);
        let wait = (Self::FIRST_TRY * (1 << doubled)).min(Self::LAST_TRY);
        let may = now.saturating_duration_since(suspect.tried) >= wait;
        if may {
            suspect.tried = now;
        }
        may
    }

    /// Whether it is to be answered with 502 without being sent.
    pub fn is_quarantined(&self, fingerprint: u64, now: Instant) -> bool {
        self.suspects.get(&fingerprint).is_some_and(|suspect| {
            suspect.deaths >= Self::DEATHS
                && suspect.blame >= Self::BLAME
                && now.saturating_duration_since(suspect.last) < Self::WHILE
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Instances, and what control would keep of their attempts.
    struct Story {
        ejector: Ejector<u32>,
        rows: HashMap<u32, [u32; 2]>,
        now: Instant,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum End {
        Answered,
        Failed,
        Late,
    }

    impl Story {
        fn new(instances: u32) -> Story {
            let now = Instant::now();
            let mut ejector = Ejector::default();
            (0..instances).for_each(|i| ejector.came(i, 4));
            Story {
                ejector,
                rows: HashMap::new(),
                now,
            }
        }

        fn ends(&mut self, instance: u32, times: u32, end: End) {
            for _ in 0..times {
                let rows = self.rows.entry(instance).or_default();
                match end {
                    End::Answered => *rows = [0, 0],
                    End::Failed => rows[0] += 1,
                    End::Late => rows[1] += 1,
                }
                let attempts = Attempts {
                    answered: u32::from(end == End::Answered),
                    failed: u32::from(end == End::Failed),
                    late: u32::from(end == End::Late),
                    failed_in_a_row: rows[0],
                    late_in_a_row: rows[1],
                };
                self.ejector.saw(instance, attempts, self.now);
            }
        }

        fn suspects(&mut self) -> Vec<(u32, Cause)> {
            self.ejector.suspects(self.now)
        }

        /// Ejects the first suspect, which ends at once; another takes its place.
        fn replace(&mut self, with: u32) -> Option<u32> {
            let (first, _) = self.suspects().first().copied()?;
            self.ejector.eject(first);
            self.ejector.came(with, 4);
            self.ejector.retain(|i| i != first, self.now);
            Some(first)
        }
    }

    #[test]
    fn five_failures_in_a_row_and_not_four() {
        let mut story = Story::new(3);
        story.ends(1, 4, End::Failed);
        assert_eq!(story.suspects(), []);
        story.ends(1, 1, End::Answered);
        story.ends(1, 4, End::Failed);
        assert_eq!(story.suspects(), []);
        story.ends(1, 1, End::Failed);
        assert_eq!(story.suspects(), [(1, Cause::Failing)]);
        story.ejector.eject(1);
        assert_eq!(story.suspects(), [], "it is on its way out already");
    }

    #[test]
    fn silence_is_counted_by_places_and_forgiven() {
        let mut story = Story::new(3);
        story.ends(1, 4, End::Late);
        assert_eq!(story.suspects(), []);
        story.ends(1, 1, End::Late);
        assert_eq!(story.suspects(), [(1, Cause::Silent)]);
        story.ejector.forgive(1);
        assert_eq!(story.suspects(), []);
        // More than half of a hundred places.
        story.ejector.came(2, 100);
        story.ends(2, 50, End::Late);
        story.ends(0, 1, End::Answered);
        assert_eq!(story.suspects(), []);
        story.ends(2, 1, End::Late);
        assert_eq!(story.suspects(), [(2, Cause::Silent)]);
    }

    #[test]
    fn half_of_twenty_while_the_others_are_well() {
        for (end, cause) in [(End::Failed, Cause::Failing), (End::Late, Cause::Silent)] {
            let mut story = Story::new(4);
            for _ in 0..20 {
                for instance in 0..4 {
                    story.ends(instance, 1, if instance == 2 { end } else { End::Answered });
                    story.ends(instance, 1, End::Answered);
                }
            }
            assert_eq!(story.suspects(), [(2, cause)]);
        }
        // The same when all do it: then it is not the instance.
        let mut story = Story::new(4);
        for _ in 0..20 {
            for instance in 0..4 {
                story.ends(instance, 1, End::Failed);
                story.ends(instance, 1, End::Answered);
            }
        }
        assert_eq!(story.suspects(), []);
    }

    #[test]
    fn if_half_look_bad_none_is_ejected() {
        let mut story = Story::new(4);
        story.ends(0, 5, End::Failed);
        story.ends(1, 5, End::Failed);
        assert_eq!(story.suspects(), []);
        // Whoever of them comes to five first.
        let mut story = Story::new(3);
        story.ends(0, 5, End::Failed);
        story.ends(1, 4, End::Failed);
        assert_eq!(story.suspects(), []);
    }

    #[test]
    fn a_lone_one_is_replaced_and_not_again_and_again() {
        let mut story = Story::new(1);
        story.ends(0, 5, End::Failed);
        assert_eq!(story.replace(1), Some(0));
        story.ends(1, 50, End::Failed);
        assert_eq!(story.replace(2), None, "the first was no worse");
        story.now += Ejector::<u32>::MEMORY;
        assert_eq!(story.replace(2), Some(1));
    }

    #[test]
    fn one_after_the_other_not_all_are_ejected() {
        let mut story = Story::new(3);
        let mut gone = Vec::new();
        for n in 0..9 {
            let there: Vec<u32> = story.ejector.records.keys().copied().collect();
            for instance in there {
                // Only one of them is asked at a time.
                story.ends(instance, 5, End::Failed);
                gone.extend(story.replace(10 + n));
            }
        }
        assert_eq!(gone.len(), 1, "{gone:?}");
    }

    #[test]
    fn a_third_at_a_time() {
        let mut story = Story::new(9);
        (0..4).for_each(|instance| story.ends(instance, 5, End::Failed));
        let suspects: Vec<u32> = story.suspects().into_iter().map(|(i, _)| i).collect();
        assert_eq!(suspects, [0, 1, 2]);
        suspects.into_iter().for_each(|i| story.ejector.eject(i));
        assert_eq!(story.suspects(), []);
        story.ejector.retain(|i| i != 1, story.now);
        story.ejector.came(10, 4);
        assert_eq!(story.suspects(), [(3, Cause::Failing)]);
    }

    #[test]
    fn what_killed_two_is_refused_for_a_while() {
        let now = Instant::now();
        let mut quarantine = Quarantine::default();
        let poison = quarantine.fingerprint("GET", "/boom", None, "");
        assert!(!quarantine.killed(poison, 0, now));
        assert!(quarantine.killed(poison, 0, now));
        assert!(!quarantine.is_quarantined(quarantine.fingerprint("GET", "/", None, ""), now));
        assert!(!quarantine.is_quarantined(poison, now + Quarantine::WHILE));
    }

    #[test]
    fn who_was_only_there_is_not_to_blame() {
        let now = Instant::now();
        let mut quarantine = Quarantine::default();
        for _ in 0..9 {
            assert!(!quarantine.killed(1, 9, now));
        }
        quarantine.answered(1);
        assert!(!quarantine.killed(1, 0, now));
        assert!(!quarantine.is_empty());
    }

    proptest! {
        /// However they fail: never more than a third (or one) at once, and each only once.
        #[test]
        fn never_too_many(n in 1_u32..12, ends in prop::collection::vec((0_u32..12, 0..3_u8), 0..400)) {
            let mut story = Story::new(n);
            let mut gone = Vec::new();
            for (instance, end) in ends {
                let end = [End::Answered, End::Failed, End::Late][usize::from(end)];
                story.ends(instance, 1, end);
                for (instance, _) in story.suspects() {
                    prop_assert!(!gone.contains(&instance));
                    story.ejector.eject(instance);
                    gone.push(instance);
                }
            }
            prop_assert!(gone.len() <= (n as usize / 3).max(1));
        }

        #[test]
        fn memory_is_bounded(killers in prop::collection::vec(any::<u64>(), 1500)) {
            let mut now = Instant::now();
            let mut quarantine = Quarantine::default();
            for killer in killers {
                now += Duration::from_millis(1);
                quarantine.killed(killer, 0, now);
                prop_assert!(quarantine.suspects.len() <= Quarantine::MOST);
            }
        }
    }
}
