//! How much a request matters, whose turn it is, and who loses: pure. Never reads a body, never believes a stranger.

use std::time::{Duration, Instant};

/// How much a request matters. The order is the order of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Class {
    /// Somebody waits for it and can't go on without.
    Critical,
    /// Somebody waits for it, and something lesser would do.
    #[default]
    Degraded,
    /// Nobody would notice at once.
    BestEffort,
    /// Work for later: batches, crawlers, backfills.
    Bulk,
}

impl Class {
    /// All of them, the most important first.
    pub const ALL: [Class; 4] = [Class::Critical, Class::Degraded, Class::BestEffort, Class::Bulk];

    /// The request header that says it, and that is copied to child calls.
    pub const HEADER: &'static str = "x-funcd-class";

    /// Its place in [`Class::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// As people write it, and as a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Class::Critical => "critical",
            Class::Degraded => "degraded",
            Class::BestEffort => "best-effort",
            Class::Bulk => "bulk",
        }
    }

    /// The class with this name.
    pub fn parse(name: &str) -> Option<Class> {
        let name = name.trim();
        Class::ALL
            .into_iter()
            .find(|class| class.name().eq_ignore_ascii_case(name))
    }

    /// The class of a request: what its header says if its sender is `trusted`; others may only ask for less than
    /// `usual`, the manifest's. A header that names no class says nothing.
    pub fn of(header: Option<&str>, trusted: bool, usual: Class) -> Class {
        match header.and_then(Class::parse) {
            Some(asked) if trusted => asked,
            Some(asked) => asked.max(usual),
            None => usual,
        }
    }

    /// Seconds after which to try again, at least and at most: the less it matters, the later.
    pub fn retry_after(self) -> std::ops::RangeInclusive<u64> {
        match self {
            Class::Critical => 1..=2,
            Class::Degraded => 2..=4,
            Class::BestEffort => 4..=8,
            Class::Bulk => 10..=30,
        }
    }

    /// The part of all turns that it gets while it waits, whoever else waits. Strict priority alone would starve it.
    pub fn floor(self) -> f64 {
        match self {
            Class::Critical => 0.0,
            Class::Degraded => 0.05,
            Class::BestEffort => 0.03,
            Class::Bulk => 0.02,
        }
    }
}

/// Whose turn it is: strict priority, with floors by a weighted deficit.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    /// What each class is owed, in turns.
    owed: [f64; 4],
}

impl Turns {
    /// The class whose turn it is, among those that wait; `None`: none does.
    pub fn next(&mut self, waits: [bool; 4]) -> Option<Class> {
        let first = Class::ALL.into_iter().find(|class| waits[class.index()])?;
        for class in Class::ALL {
            let owed = &mut self.owed[class.index()];
            // Who does not wait is owed nothing; who is first anyway needs no floor.
            *owed = match waits[class.index()] {
                true if class != first => *owed + class.floor(),
                _ => 0.0,
            };
        }
        let creditor = Class::ALL
            .into_iter()
            .max_by(|a, b| self.owed[a.index()].total_cmp(&self.owed[b.index()]))
            .filter(|class| self.owed[class.index()] >= 1.0);
        match creditor {
            Some(class) => {
                self.owed[class.index()] -= 1.0;
                Some(class)
            }
            None => Some(first),
        }
    }
}

/// Who loses within a class: by a hash of the caller, so that some callers are served whole instead of all in part; rotated
/// each hour, so that nobody loses for long.
#[derive(Debug, Clone, Copy)]
pub struct Ranks {
    epoch: Instant,
    seed: u64,
}

impl Ranks {
    /// How long a caller keeps its rank.
    pub const ROTATION: Duration = Duration::from_secs(3600);

    /// Ranks that differ from host to host by `seed`.
    pub fn new(epoch: Instant, seed: u64) -> Ranks {
        Ranks { epoch, seed }
    }

    /// The rank of a caller, from 0 (loses first) to 127 (DAGOR, section 4.2.2, has 128 levels too). `caller` is any
    /// hash of who it is.
    pub fn rank(&self, caller: u64, now: Instant) -> u8 {
        let hour = now.saturating_duration_since(self.epoch).as_secs() / Ranks::ROTATION.as_secs();
        (mix(caller ^ mix(self.seed ^ hour)) >> 57) as u8
    }
}

/// The finaliser of splitmix64: every bit of the input moves half of the output's.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_read_back_and_others_are_none() {
        for class in Class::ALL {
            assert_eq!(Class::parse(class.name()), Some(class));
        }
        assert_eq!(Class::parse(" BULK "), Some(Class::Bulk));
        assert_eq!(Class::parse("urgent"), None);
    }

    #[test]
    fn a_stranger_may_ask_for_less_but_not_for_more() {
        let usual = Class::Degraded;
        assert_eq!(Class::of(Some("critical"), false, usual), Class::Degraded);
        assert_eq!(Class::of(Some("bulk"), false, usual), Class::Bulk);
        assert_eq!(Class::of(Some("critical"), true, usual), Class::Critical);
        assert_eq!(Class::of(Some("nonsense"), true, usual), usual);
        assert_eq!(Class::of(None, true, usual), usual);
    }

    #[test]
    fn the_first_class_gets_what_the_floors_leave() {
        let mut turns = Turns::default();
        let mut got = [0_u32; 4];
        for _ in 0..10_000 {
            got[turns.next([true; 4]).unwrap().index()] += 1;
        }
        assert_eq!(got.iter().sum::<u32>(), 10_000);
        for class in &Class::ALL[1..] {
            let expected = 10_000.0 * class.floor();
            let got = f64::from(got[class.index()]);
            assert!((got - expected).abs() <= 2.0, "{class:?}: {got} of {expected}");
        }
    }

    #[test]
    fn who_did_not_wait_is_owed_nothing() {
        let mut turns = Turns::default();
        for _ in 0..1000 {
            assert_eq!(turns.next([true, false, false, false]), Some(Class::Critical));
        }
        assert_eq!(turns.next([true, false, false, true]), Some(Class::Critical));
        assert_eq!(turns.next([false; 4]), None);
    }

    #[test]
    fn a_caller_keeps_its_rank_for_an_hour_and_then_gets_another() {
        let epoch = Instant::now();
        let ranks = Ranks::new(epoch, 7);
        let at = |minutes: u64, caller| ranks.rank(caller, epoch + Duration::from_secs(60 * minutes));
        assert!((0..1000).all(|caller| at(0, caller) == at(59, caller)));
        let moved = (0..1000)
            .filter(|&caller| at(0, caller) != at(60, caller))
            .count();
        assert!(moved > 950, "{moved}");
    }

    #[test]
    fn ranks_are_spread_evenly() {
        let ranks = Ranks::new(Instant::now(), 1);
        let low = (0..100_000_u64)
            .filter(|&caller| ranks.rank(caller, ranks.epoch) < 32)
            .count();
        assert!((24_000..26_000).contains(&low), "{low}");
    }

    proptest! {
        /// Whoever waits gets its floor over any stretch, whatever the others do.
        #[test]
        fn nobody_starves(others in prop::collection::vec(any::<[bool; 3]>(), 400..800)) {
            let mut turns = Turns::default();
            let got = others
                .iter()
                .filter(|o| turns.next([o[0], o[1], o[2], true]) == Some(Class::Bulk))
                .count() as f64;
            prop_assert!(got >= (others.len() as f64 * Class::Bulk.floor()).floor() - 1.0);
        }

        /// A class that does not wait never gets a turn.
        #[test]
        fn turns_go_to_who_waits(waits in prop::collection::vec(any::<[bool; 4]>(), 1..200)) {
            let mut turns = Turns::default();
            for wait in waits {
                match turns.next(wait) {
                    Some(class) => prop_assert!(wait[class.index()]),
                    None => prop_assert_eq!(wait, [false; 4]),
                }
            }
        }
    }
}
