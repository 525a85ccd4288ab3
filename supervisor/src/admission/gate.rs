//! Who may be in flight, shared by all workers: two numbers in one atomic, and a locked queue that is only touched at the
//! limit. Never computes the limit, never reads a clock, never wakes anybody: it says whom to tell.
//!
//! Invariants, whatever happens at the same time:
//! - each `Go` is answered by exactly one [`Gate::release`]; then the count is exact;
//! - each waiter leaves exactly once: it may go, is refused, or is cancelled;
//! - nobody waits while there is a place: who frees one sees in the same atomic whether somebody waits, and who begins to
//!   wait looks for a place again after it can be seen.

use std::time::{Duration, Instant};

use super::queue::{Conditions, Facts, Order, Queue, Reason, TicketId};
use super::sync::{AtomicU32, AtomicU64, Mutex, Ordering};

/// What is decided about a request that just arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It may go now.
    Go,
    /// It waits; a [`Verdict`] follows.
    Wait {
        /// To cancel it by, when its caller is gone.
        ticket: TicketId,
        /// Every place is taken: another instance would help. Otherwise the function's CPU is what is short.
        wants_place: bool,
        /// When it will have been refused at the latest, so that a timer can make sure of it.
        until: Instant,
    },
    /// It is refused.
    Shed(Reason),
}

/// What became of a request that waited: it may go, or why not.
pub type Verdict = Result<(), Reason>;

/// Whom to tell what.
pub type Verdicts<W> = Vec<(W, Verdict)>;

/// How the gate is set, from time to time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// How many may be in flight.
    pub limit: u32,
    /// How many could be, if the limit were no lower than the places.
    pub places: u32,
    /// Requests with a score above this are refused: [`super::brownout::score`]. 100: none.
    pub threshold: u8,
    /// What the queue goes by.
    pub conditions: Conditions,
}

/// In flight below, waiting above.
const WAITING: u64 = 1 << 32;

fn in_flight(state: u64) -> u32 {
    (state % WAITING) as u32
}

/// Who may be in flight in one function. `W` is by what a waiter is told.
#[derive(Debug)]
pub struct Gate<W> {
    state: AtomicU64,
    limit: AtomicU32,
    places: AtomicU32,
    threshold: AtomicU32,
    /// In microseconds; 0: unknown.
    p50: AtomicU32,
    /// The most in flight since it was last asked.
    highest: AtomicU32,
    queue: Mutex<Queue<W>>,
}

impl<W> Gate<W> {
    /// A gate that lets nobody in until it is [`Gate::set`].
    pub fn new(order: Order, now: Instant) -> Gate<W> {
        Gate {
            state: AtomicU64::new(0),
            limit: AtomicU32::new(0),
            places: AtomicU32::new(0),
            threshold: AtomicU32::new(100),
            p50: AtomicU32::new(0),
            highest: AtomicU32::new(0),
            queue: Mutex::new(Queue::new(order, now)),
        }
    }

    /// Requests that went and are not released.
    pub fn in_flight(&self) -> u32 {
        in_flight(self.state.load(Ordering::Relaxed))
    }

    /// Requests that wait.
    pub fn waiting(&self) -> u32 {
        (self.state.load(Ordering::Relaxed) / WAITING) as u32
    }

    /// Both, at one moment: who changes from one to the other is counted once.
    pub fn present(&self) -> u32 {
        let state = self.state.load(Ordering::Relaxed);
        in_flight(state) + (state / WAITING) as u32
    }

    /// How many may be in flight.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// What an answer takes, as it was set; `None`: unknown.
    pub fn p50(&self) -> Option<Duration> {
        let micros = self.p50.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(u64::from(micros)))
    }

    /// The most that were in flight since this was last asked.
    pub fn take_highest(&self) -> u32 {
        self.highest.swap(self.in_flight(), Ordering::Relaxed)
    }

    /// A request arrived. `score` is its [`super::brownout::score`]; `waiter` is made only if it has to wait.
    ///
    /// Far below the limit this is four relaxed loads and one compare-and-swap. Others that waited may have to be told
    /// something: they are in `verdicts`, the new one among them if a place came free just then.
    pub fn offer(
        &self,
        facts: &Facts,
        score: u8,
        now: Instant,
        waiter: impl FnOnce() -> W,
        verdicts: &mut Verdicts<W>,
    ) -> Offer {
        if u32::from(score) > self.threshold.load(Ordering::Relaxed) {
            return Offer::Shed(Reason::Brownout);
        }
        let left = facts.deadline.saturating_duration_since(now);
        let needs = Duration::from_micros(u64::from(self.p50.load(Ordering::Relaxed)));
        if left.is_zero() || needs > left {
            return Offer::Shed(Reason::Deadline);
        }
        let state = self.state.load(Ordering::Relaxed);
        if state < WAITING && self.take(state) {
            return Offer::Go;
        }
        self.wait(facts, now, waiter(), verdicts)
    }

    /// A place below the limit, if there is one.
    fn take(&self, mut state: u64) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        loop {
            let taken = in_flight(state);
            if taken >= limit {
                return false;
            }
            match self
                .state
                .compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => {
                    if taken + 1 > self.highest.load(Ordering::Relaxed) {
                        self.highest.fetch_max(taken + 1, Ordering::Relaxed);
                    }
                    return true;
                }
                Err(now) => state = now,
            }
        }
    }

    fn wait(&self, facts: &Facts, now: Instant, waiter: W, verdicts: &mut Verdicts<W>) -> Offer {
        let mut queue = self.lock();
        let mut shed = Vec::new();
        let offer = match queue.push(*facts, waiter, now, &mut shed) {
            Ok(ticket) => Offer::Wait {
                ticket,
                wants_place: self.in_flight() >= self.places.load(Ordering::Relaxed),
                until: facts.deadline.min(now + queue.allowed(facts, now)),
            },
            Err((_, reason)) => Offer::Shed(reason),
        };
        self.settle(&mut queue, shed, now, verdicts);
        offer
    }

    /// Makes the count of waiters true again, and lets in who may go.
    fn settle(
        &self,
        queue: &mut Queue<W>,
        mut shed: Vec<(W, Reason)>,
        now: Instant,
        verdicts: &mut Verdicts<W>,
    ) {
        // Only holders of the lock change the upper half.
        self.show_waiting(queue);
        while !queue.is_empty() && self.take(self.state.load(Ordering::Acquire)) {
            match queue.pop(now, &mut shed) {
                Some(waiter) => verdicts.push((waiter, Ok(()))),
                // Those that were left came too late: nobody takes the place.
                None => {
                    self.state.fetch_sub(1, Ordering::AcqRel);
                }
            }
            self.show_waiting(queue);
        }
        verdicts.extend(shed.into_iter().map(|(waiter, reason)| (waiter, Err(reason))));
    }

    fn show_waiting(&self, queue: &Queue<W>) {
        let (shown, wait) = (self.state.load(Ordering::Relaxed) / WAITING, queue.len() as u64);
        if wait >= shown {
            self.state.fetch_add((wait - shown) * WAITING, Ordering::AcqRel);
        } else {
            self.state.fetch_sub((shown - wait) * WAITING, Ordering::AcqRel);
        }
    }

    /// A request that went is over: its response body ended, its caller is gone and its instance does not work on it any
    /// more, or its instance ended. To be called exactly once for each `Go`.
    pub fn release(&self, now: Instant, verdicts: &mut Verdicts<W>) {
        let before = self.state.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(in_flight(before) > 0, "a place was given back twice");
        if before >= WAITING {
            let mut queue = self.lock();
            self.settle(&mut queue, Vec::new(), now, verdicts);
        }
    }

    /// The caller of a waiting request is gone. `None`: it waits no more, and its verdict is on its way; if that is to go,
    /// it has to be [released](Gate::release).
    pub fn cancel(&self, ticket: TicketId, now: Instant) -> Option<W> {
        let mut queue = self.lock();
        let waiter = queue.cancel(ticket, now);
        self.show_waiting(&queue);
        waiter
    }

    /// Until when a waiting request may wait, as things are now: more than it was told at first if an instance is being started
    /// since. `None`: it waits no more, and its verdict is on its way.
    pub fn until(&self, ticket: TicketId, now: Instant) -> Option<Instant> {
        self.lock().until(ticket, now)
    }

    /// In which order the queue is served from now on.
    pub fn set_order(&self, order: Order) {
        self.lock().set_order(order);
    }

    /// Changes how the gate is set, and lets in who may go then.
    pub fn set(&self, setting: &Setting, now: Instant, verdicts: &mut Verdicts<W>) {
        let mut queue = self.lock();
        // Under the lock, so that nobody begins to wait who has not seen it.
        self.limit.store(setting.limit, Ordering::Relaxed);
        self.places.store(setting.places, Ordering::Relaxed);
        self.threshold
            .store(u32::from(setting.threshold), Ordering::Relaxed);
        let micros = setting.conditions.p50.map_or(0, |p50| p50.as_micros());
        self.p50
            .store(u32::try_from(micros).unwrap_or(u32::MAX), Ordering::Relaxed);
        // Who waited for the start of an instance goes to it, before the time that anybody else may wait counts.
        self.settle(&mut queue, Vec::new(), now, verdicts);
        queue.set_conditions(setting.conditions);
        let mut shed = Vec::new();
        queue.expire(now, &mut shed);
        self.settle(&mut queue, shed, now, verdicts);
    }

    fn lock(&self) -> impl std::ops::DerefMut<Target = Queue<W>> + '_ {
        self.queue.lock().expect("no holder of this lock panics")
    }
}
