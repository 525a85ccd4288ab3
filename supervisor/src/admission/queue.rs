//! The requests of one function that wait for a place: bounded, by class, pure. Never admits anybody; never reads a clock.
//!
//! Healthy (within the last 100 ms it was empty, or somebody left who had hardly waited): first in, first out, and a wait of
//! 100 ms is allowed. Overloaded: newest first, and only a few milliseconds are allowed, because who waits longest has the least
//! time left (CoDel, as Facebook's *Fail at Scale* applies it to request queues). The state is kept for each class: what bulk
//! does to itself changes nothing for critical.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::class::{Class, Turns};

/// What admission knows of a request: its head, never its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// How much it matters.
    pub class: Class,
    /// Who loses first within the class: 0 first. [`super::class::Ranks`]; the same for all is fine.
    pub rank: u8,
    /// When its head was complete.
    pub arrived: Instant,
    /// When nobody waits for the answer any more.
    pub deadline: Instant,
}

/// Why a request was refused. Each has a name for `x-funcd-shed` and for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The queue is full of what matters as much or more.
    QueueFull,
    /// It made room for a newer or more important one.
    Evicted,
    /// It waited longer than an overloaded function lets anybody wait.
    Waited,
    /// The answer would come after its deadline.
    Deadline,
    /// The host has too little of something, and this request mattered least.
    Brownout,
    /// The function fails more than it answers: a part of the requests does not reach it.
    Breaker,
    /// As many requests of its route are in flight as the manifest allows.
    RouteLimit,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 7] = [
        Reason::QueueFull,
        Reason::Evicted,
        Reason::Waited,
        Reason::Deadline,
        Reason::Brownout,
        Reason::Breaker,
        Reason::RouteLimit,
    ];

    /// The value of `x-funcd-shed`, and the metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Reason::QueueFull => "queue-full",
            Reason::Evicted => "evicted",
            Reason::Waited => "waited",
            Reason::Deadline => "deadline",
            Reason::Brownout => "brownout",
            Reason::Breaker => "breaker",
            Reason::RouteLimit => "route-limit",
        }
    }
}

/// Which request of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TicketId {
    class: Class,
    number: u64,
}

/// In which order a function's queue is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// First in, first out when healthy; newest first while overloaded.
    #[default]
    Adaptive,
    /// `queue = "fifo"`: first in, first out always, and a full queue refuses who comes.
    Fifo,
}

/// What the queue is told about its function from time to time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conditions {
    /// The most that may wait.
    pub bound: usize,
    /// What an answer takes, once dispatched; `None`: unknown.
    pub p50: Option<Duration>,
    /// How many leave per second; `None`: unknown.
    pub rate: Option<f64>,
    /// An instance is being started: how long that takes.
    pub cold_start: Option<Duration>,
}

impl Default for Conditions {
    fn default() -> Conditions {
        Conditions {
            bound: 1024,
            p50: None,
            rate: None,
            cold_start: None,
        }
    }
}

impl Conditions {
    /// The default bound: ten for each place, and no more than can be answered before `deadline` (Little's law: μ·(D − E\[S\])).
    pub fn bound(places: u32, rate: Option<f64>, p50: Option<Duration>, deadline: Duration) -> usize {
        let by_places = (places.max(1) as usize).saturating_mul(10);
        let in_time = deadline.saturating_sub(p50.unwrap_or_default()).as_secs_f64();
        match rate {
            Some(rate) => by_places.min((rate * in_time).ceil() as usize).max(1),
            None => by_places,
        }
    }
}

#[derive(Debug)]
struct Entry<W> {
    facts: Facts,
    since: Instant,
    waiter: W,
}

/// The queue of one class.
#[derive(Debug)]
struct Lane<W> {
    by_age: BTreeMap<u64, Entry<W>>,
    by_rank: BTreeSet<(u8, u64)>,
    /// When it was last empty, or, first in, first out, let somebody go who had hardly waited.
    well_at: Instant,
    /// When somebody was last refused or evicted because enough waited.
    turned_away: Option<Instant>,
}

impl<W> Lane<W> {
    /// It is empty now, or somebody goes who had hardly waited. That says nothing of a lane that is kept short by turning others away.
    fn note_well(&mut self, now: Instant) {
        let lately = |then: Instant| now.saturating_duration_since(then) <= Queue::<W>::INTERVAL;
        if !self.turned_away.is_some_and(lately) {
            self.well_at = now;
        }
    }

    fn remove(&mut self, number: u64, now: Instant) -> Option<Entry<W>> {
        let entry = self.by_age.remove(&number)?;
        self.by_rank.remove(&(entry.facts.rank, number));
        if self.by_age.is_empty() {
            self.note_well(now);
        }
        Some(entry)
    }

    fn is_overloaded(&self, now: Instant) -> bool {
        !self.by_age.is_empty() && now.saturating_duration_since(self.well_at) > Queue::<W>::INTERVAL
    }
}

/// The requests that wait, each with a `W` by which its caller is told.
#[derive(Debug)]
pub struct Queue<W> {
    lanes: [Lane<W>; 4],
    turns: Turns,
    order: Order,
    conditions: Conditions,
    next: u64,
}

impl<W> Queue<W> {
    /// A queue that was empty within this long is healthy; it is also what a healthy one lets wait.
    pub const INTERVAL: Duration = Duration::from_millis(100);
    /// The least that an overloaded queue lets wait.
    pub const SHORTEST: Duration = Duration::from_millis(5);

    /// An empty queue.
    pub fn new(order: Order, now: Instant) -> Queue<W> {
        let lane = || Lane {
            by_age: BTreeMap::new(),
            by_rank: BTreeSet::new(),
            well_at: now,
            turned_away: None,
        };
        Queue {
            lanes: [lane(), lane(), lane(), lane()],
            turns: Turns::default(),
            order,
            conditions: Conditions::default(),
            next: 0,
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.lanes.iter().map(|lane| lane.by_age.len()).sum()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.by_age.is_empty())
    }

    /// What it goes by from now on.
    pub fn set_conditions(&mut self, conditions: Conditions) {
        self.conditions = conditions;
    }

    /// What it goes by.
    pub fn conditions(&self) -> Conditions {
        self.conditions
    }

    /// How long this request may wait here.
    pub fn allowed(&self, facts: &Facts, now: Instant) -> Duration {
        let lane = &self.lanes[facts.class.index()];
        let whole = facts.deadline.saturating_duration_since(facts.arrived);
        if self.order == Order::Fifo {
            return whole;
        }
        if let Some(start) = self.conditions.cold_start {
            // The start, and then as long as anybody may wait.
            return start + Self::INTERVAL;
        }
        match self.conditions.p50 {
            Some(p50) if lane.is_overloaded(now) => {
                let most = (whole / 10).max(Self::SHORTEST);
                (p50 / 2).clamp(Self::SHORTEST, most)
            }
            _ => Self::INTERVAL,
        }
    }

    /// In which order it is served from now on.
    pub fn set_order(&mut self, order: Order) {
        self.order = order;
    }

    /// Until when this one may wait, as things are now; `None`: it waits no more.
    pub fn until(&self, ticket: TicketId, now: Instant) -> Option<Instant> {
        let entry = self.lanes[ticket.class.index()].by_age.get(&ticket.number)?;
        let allowed = entry.since + self.allowed(&entry.facts, now);
        Some(entry.facts.deadline.min(allowed))
    }

    /// How long it would wait until its turn, at the rate at which requests leave.
    pub fn estimate(&self, class: Class, now: Instant) -> Duration {
        let Some(rate) = self.conditions.rate.filter(|&rate| rate > 0.0) else {
            return Duration::ZERO;
        };
        let ahead: usize = self.lanes[..class.index()]
            .iter()
            .map(|lane| lane.by_age.len())
            .sum();
        let lane = &self.lanes[class.index()];
        let before = match self.is_newest_first(lane, now) {
            true => 0,
            false => lane.by_age.len(),
        };
        Duration::from_secs_f64(((ahead + before) as f64 / rate).min(3600.0))
    }

    fn is_newest_first(&self, lane: &Lane<W>, now: Instant) -> bool {
        self.order == Order::Adaptive && self.conditions.cold_start.is_none() && lane.is_overloaded(now)
    }

    fn is_too_late(&self, facts: &Facts, wait: Duration, now: Instant) -> bool {
        let left = facts.deadline.saturating_duration_since(now);
        left.is_zero() || wait + self.conditions.p50.unwrap_or_default() > left
    }

    /// Lets a request wait. Another may have to make room: it goes to `shed`.
    ///
    /// # Errors
    /// Why it may not wait, with its `waiter`.
    pub fn push(
        &mut self,
        facts: Facts,
        waiter: W,
        now: Instant,
        shed: &mut Vec<(W, Reason)>,
    ) -> Result<TicketId, (W, Reason)> {
        self.expire(now, shed);
        if self.is_too_late(&facts, self.estimate(facts.class, now), now) {
            return Err((waiter, Reason::Deadline));
        }
        if let Err(reason) = self.fits_into_its_lane(&facts, now, shed) {
            return Err((waiter, reason));
        }
        if self.len() >= self.conditions.bound {
            match self.victim(facts.class) {
                Some(class) => {
                    let lane = &mut self.lanes[class.index()];
                    let oldest = lane
                        .by_age
                        .keys()
                        .next()
                        .copied()
                        .expect("a victim's lane is not empty");
                    lane.turned_away = Some(now);
                    let entry = lane.remove(oldest, now).expect("it was just seen");
                    shed.push((entry.waiter, Reason::Evicted));
                }
                None => {
                    self.lanes[facts.class.index()].turned_away = Some(now);
                    return Err((waiter, Reason::QueueFull));
                }
            }
        }
        let number = self.next;
        self.next += 1;
        let lane = &mut self.lanes[facts.class.index()];
        if lane.by_age.is_empty() {
            lane.note_well(now);
        }
        lane.by_rank.insert((facts.rank, number));
        let since = now;
        lane.by_age.insert(number, Entry { facts, since, waiter });
        Ok(TicketId {
            class: facts.class,
            number,
        })
    }

    /// While a class is overloaded, no more of it wait than leave within the time that one may wait (Little's law, μ·W): others would wait
    /// for nothing, and who is refused on arrival costs a fraction of one who waits first. Who would lose first makes room.
    fn fits_into_its_lane(
        &mut self,
        facts: &Facts,
        now: Instant,
        shed: &mut Vec<(W, Reason)>,
    ) -> Result<(), Reason> {
        let index = facts.class.index();
        let Some(rate) = self
            .conditions
            .rate
            .filter(|_| self.is_newest_first(&self.lanes[index], now))
        else {
            return Ok(());
        };
        let most = (rate * self.allowed(facts, now).as_secs_f64()).ceil() as usize;
        let lane = &mut self.lanes[index];
        if lane.by_age.len() < most.max(1) {
            return Ok(());
        }
        lane.turned_away = Some(now);
        match lane.by_rank.first() {
            Some(&(rank, number)) if rank < facts.rank => {
                let entry = lane.remove(number, now).expect("it was just seen");
                shed.push((entry.waiter, Reason::Evicted));
                Ok(())
            }
            _ => Err(Reason::QueueFull),
        }
    }

    /// Whose oldest makes room for one of `class` when the queue is full: the lowest class that has more than its floor.
    fn victim(&self, class: Class) -> Option<Class> {
        let len = |class: Class| self.lanes[class.index()].by_age.len();
        let reserve = |class: Class| match class.floor() > 0.0 {
            true => ((self.conditions.bound as f64 * class.floor()) as usize).max(1),
            false => 0,
        };
        let has_more = |other: &Class| len(*other) > reserve(*other);
        if len(class) < reserve(class) {
            return Class::ALL.into_iter().rev().find(has_more);
        }
        let lowest = Class::ALL.into_iter().rev().find(has_more)?;
        match lowest == class {
            true => (self.order == Order::Adaptive).then_some(class),
            false => (lowest > class).then_some(lowest),
        }
    }

    /// Refuses who waited too long: the oldest of each class.
    pub fn expire(&mut self, now: Instant, shed: &mut Vec<(W, Reason)>) {
        for class in Class::ALL {
            loop {
                let lane = &self.lanes[class.index()];
                let Some((&number, oldest)) = lane.by_age.iter().next() else {
                    break;
                };
                let waited = now.saturating_duration_since(oldest.since);
                let reason = if now >= oldest.facts.deadline {
                    Reason::Deadline
                } else if waited > self.allowed(&oldest.facts, now) {
                    Reason::Waited
                } else {
                    break;
                };
                let lane = &mut self.lanes[class.index()];
                let entry = lane.remove(number, now).expect("it was just seen");
                shed.push((entry.waiter, reason));
            }
        }
    }

    /// Who goes next. Who can't be answered in time any more is not sent, but goes to `shed`.
    pub fn pop(&mut self, now: Instant, shed: &mut Vec<(W, Reason)>) -> Option<W> {
        self.expire(now, shed);
        loop {
            let waits = [0, 1, 2, 3].map(|i: usize| !self.lanes[i].by_age.is_empty());
            let class = self.turns.next(waits)?;
            let lane = &self.lanes[class.index()];
            let newest_first = self.is_newest_first(lane, now);
            let number = match newest_first {
                true => lane.by_rank.last().map(|&(_, number)| number),
                false => lane.by_age.keys().next().copied(),
            };
            let lane = &mut self.lanes[class.index()];
            let number = number.expect("only lanes where somebody waits get a turn");
            let entry = lane.remove(number, now).expect("it was just seen");
            if self.is_too_late(&entry.facts, Duration::ZERO, now) {
                shed.push((entry.waiter, Reason::Deadline));
                continue;
            }
            // Who goes newest first never waits for long: that says nothing.
            if !newest_first && now.saturating_duration_since(entry.since) <= self.target() {
                self.lanes[class.index()].note_well(now);
            }
            return Some(entry.waiter);
        }
    }

    /// A wait up to this is none to speak of: half of an answer.
    fn target(&self) -> Duration {
        (self.conditions.p50.unwrap_or_default() / 2).clamp(Self::SHORTEST, Self::INTERVAL)
    }

    /// Takes a request out whose caller is gone; `None`: it waits no more.
    pub fn cancel(&mut self, ticket: TicketId, now: Instant) -> Option<W> {
        let entry = self.lanes[ticket.class.index()].remove(ticket.number, now)?;
        Some(entry.waiter)
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
