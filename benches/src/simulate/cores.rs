//! k cores that all jobs share evenly (processor sharing), exactly: who has been served how much is one number for all.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The cores. Times and work are in seconds.
#[derive(Debug)]
pub(crate) struct Cores {
    total: f64,
    /// What the supervisor takes of them now.
    taken: f64,
    /// The work that each job has got that was there all the time.
    served: f64,
    now: f64,
    jobs: BinaryHeap<Reverse<(Ordered, usize, u32)>>,
    active: u32,
    /// Core seconds used.
    used: f64,
}

/// A finite number.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ordered(f64);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Ordered) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Ordered) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Cores {
    pub(crate) fn new(total: f64) -> Cores {
        Cores {
            total,
            taken: 0.0,
            served: 0.0,
            now: 0.0,
            jobs: BinaryHeap::new(),
            active: 0,
            used: 0.0,
        }
    }

    /// What each job gets of a core.
    fn rate(&self) -> f64 {
        if self.active == 0 {
            return 0.0;
        }
        ((self.total - self.taken) / f64::from(self.active)).min(1.0)
    }

    /// Lets time pass.
    pub(crate) fn advance(&mut self, to: f64) {
        let work = (to - self.now) * self.rate();
        self.served += work;
        self.used += work * f64::from(self.active);
        self.now = to;
    }

    /// A job begins. `generation` tells it from what the same owner began before.
    pub(crate) fn begin(&mut self, owner: usize, generation: u32, work: f64) {
        self.jobs
            .push(Reverse((Ordered(self.served + work), owner, generation)));
        self.active += 1;
    }

    /// A job ends before it is done; its entry is to be skipped when it comes up.
    pub(crate) fn abandon(&mut self) {
        self.active -= 1;
    }

    /// When the next entry is done, if nothing else happens.
    pub(crate) fn next(&self) -> Option<f64> {
        let Reverse((Ordered(work), _, _)) = self.jobs.peek()?;
        match self.rate() {
            // Only abandoned ones are left.
            0.0 => Some(self.now),
            rate => Some(self.now + ((work - self.served) / rate).max(0.0)),
        }
    }

    /// Takes the next entry out. Whoever owns it says by [`Cores::done`] that it was not abandoned.
    pub(crate) fn pop(&mut self) -> Option<(usize, u32)> {
        self.jobs
            .pop()
            .map(|Reverse((_, owner, generation))| (owner, generation))
    }

    /// The job that was taken out is done.
    pub(crate) fn done(&mut self) {
        self.active -= 1;
    }

    /// The supervisor takes so many cores from now on.
    pub(crate) fn take(&mut self, cores: f64) {
        self.taken = cores.min(0.9 * self.total);
    }

    /// Core seconds used since the last call.
    pub(crate) fn used(&mut self) -> f64 {
        std::mem::take(&mut self.used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_share_what_there_is() {
        let mut cores = Cores::new(2.0);
        for owner in 0..4 {
            cores.begin(owner, 0, 1.0);
        }
        assert_eq!(cores.next(), Some(2.0));
        cores.advance(1.0);
        cores.abandon();
        cores.abandon();
        // Two are left on two cores, each with half of its work done.
        assert_eq!(cores.next(), Some(1.5));
        cores.advance(1.5);
        assert!((cores.used() - 3.0).abs() < 1e-9);
    }
}
