//! Who may pass, for one function: limit, queue, classes, deadlines, breaker, retry budget. Pure: time and chance are arguments;
//! no tokio, no I/O. The simulator of `funcd-benches` drives the same code.
//!
//! # Use
//!
//! One [`Admission`] for each function that was ever called (1.6 KB: make it on the first request). Its life:
//!
//! | when | call | then |
//! |---|---|---|
//! | a head is complete and routed | [`Admission::offer`], or [`door::Door::enter`] after [`Admission::refuses`] | `Go`: take the instance with the fewest in flight. `Wait`: await the ticket until `until`; if it `wants_place`, tell control. `Shed`: 503 with `x-funcd-shed` = [`Reason::name`] and `Retry-After` from [`Class::retry_after`], before the body is read |
//! | the response head is there, or there will be none | [`Admission::ended`] with the time since dispatch | |
//! | the response body ended and the instance is done with it | drop the [`door::Permit`], or [`gate::Gate::release`] | tell whom it says |
//! | the caller is gone while it waits | drop the [`door::Ticket`], or [`gate::Gate::cancel`] | |
//! | instances came or went | [`Admission::set_places`] | tell whom it says |
//! | every 100 ms while anything is in flight or waits (one sweep for all functions) | [`Admission::tick`] | tell whom it says |
//! | a new revision is live | [`Admission::revise`] | tell whom it says |
//! | an attempt failed | [`budget::Attempt::may_retry`] and then [`Admission::may_retry`] | |
//!
//! [`eject::Ejector`] and [`eject::Quarantine`] belong to who starts and ends instances; [`brownout::Brownout`] is one for the host.
//!
//! ```ignore
//! // Once for each function. `cores`: its quota, or those of the host.
//! let admission = Admission::<Arc<Slot>>::new(Parts::default(), cores, state, now);
//! let door = Door::new(Arc::clone(admission.gate()), Instant::now);
//!
//! // For each request, before its body is read.
//! let rank = ranks.rank(caller, now);
//! let facts = Facts { class, rank, arrived, deadline: arrived + deadline::timeout(grpc, millis, manifest) };
//! if admission.refuses(chance) {
//!     return shed(Reason::Breaker);
//! }
//! let permit = match door.enter(&facts, brownout::score(class, rank)) {
//!     Entered::Go(permit) => permit,
//!     Entered::Shed(reason) => return shed(reason),
//!     Entered::Wait(ticket) => {
//!         if ticket.wants_place() {
//!             tell_control(Wanted);
//!         }
//!         match timeout_at(ticket.until(), ticket).await {
//!             Ok(verdict) => verdict?,
//!             Err(_) => return shed(Reason::Waited),
//!         }
//!     }
//! };
//! // … lease an instance, send, and when the head is there:
//! admission.ended(Outcome::Answered, dispatched.elapsed());
//! // … and the permit goes with the body, and ends with it.
//!
//! // The sweep, and whenever control publishes instances.
//! let mut verdicts = Vec::new();
//! admission.tick(utilisation, now, &mut verdicts);
//! door.tell(verdicts);
//! ```
//!
//! A permit is for as long as the function *works*, not for as long as somebody waits: a request whose caller left keeps its
//! permit until the instance has ended its stream. A permit does not name an instance: when none has a free place after all (one
//! is draining), whoever holds it waits for one, and so does a retry: it was admitted, and its work is still owed.

pub mod breaker;
pub mod brownout;
pub mod budget;
pub mod class;
pub mod deadline;
pub mod door;
pub mod eject;
pub mod gate;
#[cfg(test)]
mod gate_tests;
pub mod go_duration;
pub mod latency;
mod learnt;
pub mod limit;
pub mod queue;
pub mod route;
#[cfg(test)]
mod route_tests;
mod sync;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use budget::Budget;
pub use class::Class;
use gate::{Gate, Offer, Verdicts};
use latency::Latencies;
use learnt::Learnt;
use limit::{Places, Window};
pub use queue::Reason;
use queue::{Facts, Order};

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The function answered, with whatever status.
    Answered,
    /// No head in time, the memory limit, or a refused connection: there was too much at once.
    Dropped,
    /// The connection broke, or what came was not HTTP.
    Failed,
    /// The caller left first: says nothing, but that there was no answer for so long.
    Abandoned,
}

/// What control and the sweep know of a function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct State {
    /// Its instances that take requests, and how many each takes.
    pub places: Places,
    /// Requests in flight at instances that take no more: they hold permits, but none of `places`.
    pub leaving: u32,
    /// Instances that may be there at most, times what each takes: what the queue is sized by.
    pub most_places: u32,
    /// An instance is being started: how long that takes, as measured; `None`: none is.
    pub cold_start: Option<Duration>,
    /// Until when a request has to be answered, usually.
    pub timeout: Duration,
    /// Of the host: [`brownout::Brownout::threshold`].
    pub threshold: u8,
}

/// Which parts are in use. All, but where the simulator shows what each is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// The order of the queue.
    pub order: Order,
    /// The limit is computed; otherwise it is all places.
    pub limit: bool,
    /// The limit looks at the CPU.
    pub gate: bool,
    /// It grows at once while there is CPU to spare.
    pub room: bool,
    /// Requests are refused when they can't be answered in time.
    pub deadlines: bool,
    /// The queue has a bound of its own instead of the computed one.
    pub bound: Option<usize>,
}

impl Default for Parts {
    fn default() -> Parts {
        Parts {
            order: Order::Adaptive,
            limit: true,
            gate: true,
            room: true,
            deadlines: true,
            bound: None,
        }
    }
}

/// Who may pass, for one function. `W` is by what a waiter is told: [`door::Slot`] in the proxy.
#[derive(Debug)]
pub struct Admission<W> {
    gate: Arc<Gate<W>>,
    latencies: Latencies,
    /// Requests that were dispatched and ended, but for abandoned ones.
    ended: AtomicU64,
    answered: AtomicU64,
    /// What the breaker refused.
    refused: AtomicU64,
    dropped: AtomicU64,
    /// Callers who left although they had waited for longer than an answer takes.
    left: AtomicU64,
    /// What an answer may take, in microseconds; 0: unknown.
    usual: AtomicU64,
    /// The part that the breaker refuses, of 2³².
    refuse: AtomicU32,
    learnt: Mutex<Learnt>,
}

impl<W> Admission<W> {
    /// How often [`Admission::tick`] is to be called.
    pub const TICK: Duration = Duration::from_millis(100);

    /// Admission of a function that may use `cores`, and has no instance yet.
    pub fn new(parts: Parts, cores: f64, state: State, now: Instant) -> Admission<W> {
        let admission = Admission {
            gate: Arc::new(Gate::new(parts.order, now)),
            latencies: Latencies::default(),
            ended: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            left: AtomicU64::new(0),
            usual: AtomicU64::new(0),
            refuse: AtomicU32::new(0),
            learnt: Mutex::new(Learnt::new(parts, cores, state, now)),
        };
        admission.set_places(state, now, &mut Vec::new());
        admission
    }

    /// What is shared by all who pass.
    pub fn gate(&self) -> &Arc<Gate<W>> {
        &self.gate
    }

    /// Whether the breaker refuses this request. `chance` is uniform over all of `u32`.
    pub fn refuses(&self, chance: u32) -> bool {
        let refuse = self.refuse.load(Ordering::Relaxed);
        let refuses = refuse > 0 && chance < refuse;
        if refuses {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        refuses
    }

    /// A request arrived. Whom to tell something meanwhile is added to `verdicts`.
    pub fn offer(
        &self,
        facts: &Facts,
        chance: u32,
        now: Instant,
        waiter: impl FnOnce() -> W,
        verdicts: &mut Verdicts<W>,
    ) -> Offer {
        if self.refuses(chance) {
            return Offer::Shed(Reason::Breaker);
        }
        let score = brownout::score(facts.class, facts.rank);
        self.gate.offer(facts, score, now, waiter, verdicts)
    }

    /// An attempt ended, or its response head is there: `latency` after its dispatch. No lock.
    pub fn ended(&self, outcome: Outcome, latency: Duration) {
        match outcome {
            Outcome::Answered => {
                self.latencies.record(latency);
                return self.answered();
            }
            Outcome::Dropped => drop(self.dropped.fetch_add(1, Ordering::Relaxed)),
            Outcome::Failed => {}
            Outcome::Abandoned => {
                let usual = Duration::from_micros(self.usual.load(Ordering::Relaxed));
                if !latency.is_zero() && latency > 2 * usual {
                    self.left.fetch_add(1, Ordering::Relaxed);
                }
                return;
            }
        }
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// An attempt was answered, and how long that took says nothing: its instance was still starting.
    pub fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Instances came or went, one is being started, or the host is short of something.
    pub fn set_places(&self, state: State, now: Instant, verdicts: &mut Verdicts<W>) {
        let mut learnt = self.lock();
        learnt.state = state;
        self.gate.set(&learnt.setting(), now, verdicts);
    }

    /// Learns from what happened since the last call. `utilisation` is the CPU time of the function's cgroups ÷ what it may
    /// use, since the last call; `None`: not known.
    pub fn tick(&self, utilisation: Option<f64>, now: Instant, verdicts: &mut Verdicts<W>) {
        let mut learnt = self.lock();
        let learnt = &mut *learnt;
        learnt.look(utilisation, self.gate.in_flight(), now);
        let counts = [&self.ended, &self.answered, &self.refused].map(|n| n.load(Ordering::Relaxed));
        let missed = [&self.dropped, &self.left].map(|n| n.load(Ordering::Relaxed));
        let ended = self.latencies.count() + missed[0] + missed[1];
        if learnt.limit.is_due(ended, now) {
            let (samples, p50) = self.latencies.take();
            let window = Window {
                p50,
                samples,
                dropped: self.dropped.swap(0, Ordering::Relaxed),
                left: self.left.swap(0, Ordering::Relaxed),
                max_in_flight: self.gate.take_highest(),
            };
            learnt.close(&window, self.gate.limit(), now);
            let usual = learnt.limit.usual(window.p50).unwrap_or_default();
            self.usual.store(usual.as_micros() as u64, Ordering::Relaxed);
            let [ended, answered, refused] = std::array::from_fn(|i| counts[i] - learnt.told[i]);
            learnt.told = counts;
            // What came too late for want of CPU is for the limit to mend: the breaker would refuse for two minutes what a smaller
            // limit lets be answered.
            let late = if learnt.was_short(now) { window.dropped } else { 0 };
            let wanted = (ended + refused).saturating_sub(late).max(answered);
            learnt.breaker.add(wanted, answered, now);
            let part = learnt.breaker.refuse(now);
            self.refuse
                .store((part * f64::from(u32::MAX)) as u32, Ordering::Relaxed);
        }
        self.gate.set(&learnt.setting(), now, verdicts);
    }

    /// Another revision is live: what was learnt of the old one says nothing. It may use `cores`, and its queue has this order.
    pub fn revise(&self, cores: f64, order: Order, now: Instant, verdicts: &mut Verdicts<W>) {
        {
            let mut learnt = self.lock();
            learnt.cores = cores;
            learnt.parts.order = order;
            self.gate.set_order(order);
        }
        self.reset(now, verdicts);
    }

    /// What was learnt says nothing any more.
    pub fn reset(&self, now: Instant, verdicts: &mut Verdicts<W>) {
        let mut learnt = self.lock();
        let told = learnt.told;
        *learnt = Learnt::new(learnt.parts, learnt.cores, learnt.state, now);
        learnt.told = told;
        learnt.budget = Budget::new(told[0], now);
        self.latencies.take();
        self.usual.store(0, Ordering::Relaxed);
        self.refuse.store(0, Ordering::Relaxed);
        self.gate.set(&learnt.setting(), now, verdicts);
    }

    /// Takes one retry out of the budget, if there is one.
    pub fn may_retry(&self, now: Instant) -> bool {
        let requests = self.ended.load(Ordering::Relaxed);
        self.lock().budget.withdraw(requests, now)
    }

    /// What is known, for people.
    pub fn view(&self) -> View {
        let learnt = self.lock();
        View {
            limit: self.gate.limit(),
            in_flight: self.gate.in_flight(),
            waiting: self.gate.waiting(),
            p50: learnt.p50,
            is_saturated: learnt.limit.is_saturated(),
            breaker: f64::from(self.refuse.load(Ordering::Relaxed)) / f64::from(u32::MAX),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Learnt> {
        self.learnt.lock().expect("no holder of this lock panics")
    }
}

/// What `funcd ps` shows of a function's admission.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View {
    /// How many may be in flight.
    pub limit: u32,
    /// How many are.
    pub in_flight: u32,
    /// How many wait.
    pub waiting: u32,
    /// The median of the last window.
    pub p50: Option<Duration>,
    /// Whether its CPU is what is short.
    pub is_saturated: bool,
    /// The part that the breaker refuses.
    pub breaker: f64,
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
