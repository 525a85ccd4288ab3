//! What goes wrong, and when. Pure: a seed decides.

use std::fmt;
use std::time::Duration;

use crate::simulate::chance::Chance;

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mishap {
    /// SIGKILL to an instance of a function that has several.
    KillInstance,
    /// SIGKILL to the supervisor.
    KillSupervisor,
    /// A function takes more memory than it may.
    OutOfMemory,
    /// A request makes its function exit.
    Crash,
    /// Several times of what a function bears, for two seconds.
    Flood,
    /// Another executable takes the place of a function's.
    Deploy,
    /// A function is removed, and comes back.
    Remove,
    /// SIGSTOP to an instance of a function that has several, for two seconds.
    StopInstance,
    /// SIGSTOP to the supervisor, for half a second.
    StopSupervisor,
    /// No byte is free where the store and the logs are, for three seconds.
    FullDisk,
}

impl Mishap {
    /// Each of them.
    pub(crate) const ALL: [Mishap; 10] = [
        Mishap::KillInstance,
        Mishap::KillSupervisor,
        Mishap::OutOfMemory,
        Mishap::Crash,
        Mishap::Flood,
        Mishap::Deploy,
        Mishap::Remove,
        Mishap::StopInstance,
        Mishap::StopSupervisor,
        Mishap::FullDisk,
    ];
}

impl fmt::Display for Mishap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mishap::KillInstance => "kill -9 of an instance",
            Mishap::KillSupervisor => "kill -9 of the supervisor",
            Mishap::OutOfMemory => "out of memory",
            Mishap::Crash => "crash",
            Mishap::Flood => "flood",
            Mishap::Deploy => "deploy",
            Mishap::Remove => "removed function",
            Mishap::StopInstance => "stopped instance",
            Mishap::StopSupervisor => "stopped supervisor",
            Mishap::FullDisk => "full disk",
        })
    }
}

/// The first one comes once all is warm, and the last one leaves time to see what comes of it, in seconds.
const BEFORE: f64 = 2.0;
const AFTER: f64 = 5.0;
/// Between one and the next, in seconds.
const LEAST: f64 = 1.5;
const MOST: f64 = 5.0;

/// What goes wrong in `length`, in order: each as often as the others, in an order that changes.
pub(crate) fn of(seed: u64, length: Duration) -> Vec<(Duration, Mishap)> {
    let mut chance = Chance::new(seed);
    let mut script = Vec::new();
    let mut bag = Vec::new();
    let mut at = BEFORE;
    while at < length.as_secs_f64() - AFTER {
        if bag.is_empty() {
            bag.extend(Mishap::ALL);
        }
        let one = chance.below(bag.len() as u64) as usize;
        script.push((Duration::from_secs_f64(at), bag.swap_remove(one)));
        at += LEAST + chance.unit() * (MOST - LEAST);
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_script_and_each_mishap_comes_equally_often() {
        let minutes = |seed| of(seed, Duration::from_secs(600));
        assert_eq!(minutes(1), minutes(1));
        assert_ne!(minutes(1), minutes(2));
        let script = minutes(1);
        let counts = Mishap::ALL.map(|mishap| script.iter().filter(|(_, other)| *other == mishap).count());
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(*least > 5 && most - least <= 1, "{counts:?}");
    }

    #[test]
    fn nothing_goes_wrong_at_the_very_end() {
        let script = of(3, Duration::from_secs(60));
        assert!(script.is_sorted_by_key(|(at, _)| *at));
        assert!(script.last().unwrap().0 < Duration::from_secs(55));
    }
}
