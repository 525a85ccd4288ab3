//! Which instance is bad, and which request kills instances: pure. Never kills one; control replaces, drains and kills.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::{Duration, Instant};

/// What is known of one instance.
#[derive(Debug, Clone, Default)]
struct Record {
    /// Local failures since the last answer: reset, timeout, bad framing.
    in_a_row: u32,
    /// Answers and failures, in the current and in the last period.
    counts: [[u32; 2]; 2],
    is_ejected: bool,
}

impl Record {
    fn answered(&self) -> u32 {
        self.counts[0][0] + self.counts[1][0]
    }

    fn failed(&self) -> u32 {
        self.counts[0][1] + self.counts[1][1]
    }

    fn total(&self) -> u32 {
        self.answered() + self.failed()
    }
}

/// The instances of one function, by what their requests came to. `I` names an instance.
#[derive(Debug, Clone)]
pub struct Ejector<I> {
    records: HashMap<I, Record>,
    period_began: Instant,
}

impl<I: Copy + Eq + Hash + Ord> Ejector<I> {
    /// So many failures in a row are enough.
    const IN_A_ROW: u32 = 5;
    /// Fewer requests than this make no rate.
    const LEAST: u32 = 20;
    /// Counts are kept for one to two of these.
    const PERIOD: Duration = Duration::from_secs(10);

    /// Without an instance.
    pub fn new(now: Instant) -> Ejector<I> {
        Ejector {
            records: HashMap::new(),
            period_began: now,
        }
    }

    /// An instance is there.
    pub fn came(&mut self, instance: I) {
        self.records.entry(instance).or_default();
    }

    /// An instance is gone.
    pub fn went(&mut self, instance: I) {
        self.records.remove(&instance);
    }

    /// A request to it ended: whether it was answered, or failed for a reason that lies with the instance.
    pub fn ended(&mut self, instance: I, answered: bool, now: Instant) {
        if now.saturating_duration_since(self.period_began) >= Self::PERIOD {
            self.period_began = now;
            for record in self.records.values_mut() {
                record.counts = [[0; 2], record.counts[0]];
            }
        }
        if let Some(record) = self.records.get_mut(&instance) {
            record.in_a_row = if answered { 0 } else { record.in_a_row + 1 };
            record.counts[0][usize::from(!answered)] += 1;
        }
    }

    /// The instance to eject now, if there is one: start another, drain it, kill it. At most one, or a third of them, are ejected at
    /// the same time. If half or more look bad (and more than one), it is not the instances: none is.
    pub fn eject(&mut self) -> Option<I> {
        let bad: Vec<I> = {
            let mut bad: Vec<I> = self.records.keys().copied().filter(|&i| self.is_bad(i)).collect();
            bad.sort_unstable();
            bad
        };
        if bad.len() > 1 && 2 * bad.len() >= self.records.len() {
            return None;
        }
        let ejected = self.records.values().filter(|record| record.is_ejected).count();
        if ejected >= (self.records.len() / 3).max(1) {
            return None;
        }
        let next = bad.into_iter().find(|i| !self.records[i].is_ejected)?;
        self.records.get_mut(&next).expect("it was just seen").is_ejected = true;
        Some(next)
    }

    fn is_bad(&self, instance: I) -> bool {
        let record = &self.records[&instance];
        if record.is_ejected || record.in_a_row >= Self::IN_A_ROW {
            return true;
        }
        let others = self.records.iter().filter(|&(&other, _)| other != instance);
        let (failed, total) = others.fold((0, 0), |(failed, total), (_, other)| {
            (failed + other.failed(), total + other.total())
        });
        record.total() >= Self::LEAST
            && 2 * record.failed() >= record.total()
            && total >= Self::LEAST
            && 10 * failed < total
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

    /// Whether nobody is suspected: then no request needs a fingerprint.
    pub fn is_empty(&self) -> bool {
        self.suspects.is_empty()
    }

    /// An instance died with this request and `others` in flight. Says whether it is in quarantine from now on.
    pub fn killed(&mut self, fingerprint: u64, others: u32, now: Instant) -> bool {
        self.suspects
            .retain(|_, suspect| now.saturating_duration_since(suspect.last) < Self::WHILE);
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
        });
        suspect.deaths += 1;
        suspect.blame += 1.0 / (1.0 + f64::from(others));
        suspect.last = now;
        self.is_quarantined(fingerprint, now)
    }

    /// A request with this fingerprint was answered: it is no killer, unless it is in quarantine already (then nobody sends it).
    pub fn answered(&mut self, fingerprint: u64) {
        self.suspects.remove(&fingerprint);
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

    fn ejector(instances: u32, now: Instant) -> Ejector<u32> {
        let mut ejector = Ejector::new(now);
        (0..instances).for_each(|i| ejector.came(i));
        ejector
    }

    #[test]
    fn five_failures_in_a_row_and_not_four() {
        let now = Instant::now();
        let mut ejector = ejector(3, now);
        for _ in 0..4 {
            ejector.ended(1, false, now);
        }
        assert_eq!(ejector.eject(), None);
        ejector.ended(1, true, now);
        ejector.ended(1, false, now);
        assert_eq!(ejector.eject(), None);
        for _ in 0..4 {
            ejector.ended(1, false, now);
        }
        assert_eq!(ejector.eject(), Some(1));
        // It is on its way out already.
        assert_eq!(ejector.eject(), None);
    }

    #[test]
    fn half_of_twenty_while_the_others_are_well() {
        let now = Instant::now();
        let mut ejector = ejector(4, now);
        for n in 0..40 {
            for instance in 0..4 {
                ejector.ended(instance, instance != 2 || n % 2 == 0, now);
            }
        }
        assert_eq!(ejector.eject(), Some(2));
        // The same when all do it: then it is not the instance.
        let mut ejector = super::tests::ejector(4, now);
        for n in 0..40 {
            for instance in 0..4 {
                ejector.ended(instance, n % 2 == 0, now);
            }
        }
        assert_eq!(ejector.eject(), None);
    }

    #[test]
    fn if_half_look_bad_none_is_ejected() {
        let now = Instant::now();
        let mut ejector = ejector(4, now);
        for instance in [0, 1] {
            (0..5).for_each(|_| ejector.ended(instance, false, now));
        }
        assert_eq!(ejector.eject(), None);
        // A lone instance that hangs is replaced.
        let mut lone = super::tests::ejector(1, now);
        (0..5).for_each(|_| lone.ended(0, false, now));
        assert_eq!(lone.eject(), Some(0));
    }

    #[test]
    fn a_third_at_a_time() {
        let now = Instant::now();
        let mut ejector = ejector(9, now);
        for instance in 0..4 {
            (0..5).for_each(|_| ejector.ended(instance, false, now));
        }
        assert_eq!(
            [(); 4].map(|()| ejector.eject()),
            [Some(0), Some(1), Some(2), None]
        );
        ejector.went(1);
        ejector.came(10);
        assert_eq!(ejector.eject(), Some(3));
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
        fn never_too_many(n in 1_u32..12, ends in prop::collection::vec((0_u32..12, any::<bool>()), 0..400)) {
            let now = Instant::now();
            let mut ejector = ejector(n, now);
            let mut gone = Vec::new();
            for (instance, answered) in ends {
                ejector.ended(instance, answered, now);
                if let Some(instance) = ejector.eject() {
                    prop_assert!(!gone.contains(&instance));
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
