//! What stands before the function in a simulation: funcd's admission, unchanged, or a published limiter.

use std::time::{Duration, Instant};

use funcd::admission::gate::{Offer, Verdicts};
use funcd::admission::queue::{Facts, Order, TicketId};
use funcd::admission::{Admission, Outcome, Parts, State};

use super::chance::Chance;
use super::published::{Limiter, Published};

/// What to put before the function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Choice {
    /// funcd's admission.
    Funcd,
    /// The same without its limit: the queue alone.
    NoLimit,
    /// The same without the CPU gate.
    NoGate,
    /// The same without growth at once while there is CPU to spare.
    NoRoom,
    /// The same with a plain queue.
    Fifo,
    /// The same with a plain queue of 500 that knows no deadlines.
    Fifo500,
    /// The same without a look at deadlines.
    NoDeadlines,
    /// Somebody else's limiter, without a queue.
    Other(Published),
}

impl Choice {
    pub(crate) const ALL: [Choice; 12] = [
        Choice::Funcd,
        Choice::NoLimit,
        Choice::NoGate,
        Choice::NoRoom,
        Choice::Fifo,
        Choice::Fifo500,
        Choice::NoDeadlines,
        Choice::Other(Published::None),
        Choice::Other(Published::Vegas),
        Choice::Other(Published::Gradient2),
        Choice::Other(Published::Aimd),
        Choice::Other(Published::Envoy),
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Choice::Funcd => "funcd",
            Choice::NoLimit => "funcd, no limit",
            Choice::NoGate => "funcd, no CPU gate",
            Choice::NoRoom => "funcd, growth by √L alone",
            Choice::Fifo => "funcd, FIFO",
            Choice::Fifo500 => "funcd, FIFO of 500, no deadlines",
            Choice::NoDeadlines => "funcd, no deadlines",
            Choice::Other(Published::None) => "nothing",
            Choice::Other(Published::Vegas) => "Vegas",
            Choice::Other(Published::Gradient2) => "Gradient2",
            Choice::Other(Published::Aimd) => "AIMD",
            Choice::Other(Published::Envoy) => "Envoy gradient",
        }
    }

    fn parts(self) -> Parts {
        let all = Parts::default();
        match self {
            Choice::Funcd | Choice::Other(_) => all,
            Choice::NoLimit => Parts { limit: false, ..all },
            Choice::NoGate => Parts { gate: false, ..all },
            Choice::NoRoom => Parts { room: false, ..all },
            Choice::Fifo => Parts {
                order: Order::Fifo,
                ..all
            },
            Choice::Fifo500 => Parts {
                order: Order::Fifo,
                deadlines: false,
                bound: Some(500),
                ..all
            },
            Choice::NoDeadlines => Parts {
                deadlines: false,
                ..all
            },
        }
    }
}

/// It, at work.
pub(crate) enum Front {
    Funcd {
        admission: Box<Admission<usize>>,
        began: Instant,
    },
    Other {
        limiter: Limiter,
        in_flight: u32,
    },
}

impl Front {
    pub(crate) fn new(choice: Choice, cores: f64, state: State) -> Front {
        let began = Instant::now();
        match choice {
            Choice::Other(published) => Front::Other {
                limiter: Limiter::new(published),
                in_flight: 0,
            },
            ours => Front::Funcd {
                admission: Box::new(Admission::new(ours.parts(), cores, state, began)),
                began,
            },
        }
    }

    /// The instant of a time of the simulation, in seconds.
    fn at(began: Instant, now: f64) -> Instant {
        began + Duration::from_secs_f64(now)
    }

    pub(crate) fn offer(
        &mut self,
        ask: &Ask,
        now: f64,
        chance: &mut Chance,
        told: &mut Verdicts<usize>,
    ) -> Offer {
        match self {
            Front::Funcd { admission, began } => {
                let facts = Facts {
                    class: ask.class,
                    rank: ask.rank,
                    arrived: Front::at(*began, ask.arrived),
                    deadline: Front::at(*began, ask.deadline),
                };
                admission.offer(&facts, chance.word(), Front::at(*began, now), || ask.who, told)
            }
            Front::Other { limiter, in_flight } => match *in_flight < limiter.limit() {
                true => {
                    *in_flight += 1;
                    Offer::Go
                }
                false => Offer::Shed(funcd::admission::Reason::QueueFull),
            },
        }
    }

    /// When a ticket says that it is over, in seconds of the simulation.
    pub(crate) fn until(&self, until: Instant) -> f64 {
        match self {
            Front::Funcd { began, .. } => until.saturating_duration_since(*began).as_secs_f64(),
            Front::Other { .. } => f64::INFINITY,
        }
    }

    pub(crate) fn cancel(&mut self, ticket: TicketId, now: f64) -> bool {
        match self {
            Front::Funcd { admission, began } => {
                admission.gate().cancel(ticket, Front::at(*began, now)).is_some()
            }
            Front::Other { .. } => false,
        }
    }

    pub(crate) fn ended(&mut self, outcome: Outcome, latency: f64, now: f64, chance: &mut Chance) {
        match self {
            Front::Funcd { admission, .. } => admission.ended(outcome, Duration::from_secs_f64(latency)),
            Front::Other { limiter, in_flight } => {
                let dropped = outcome != Outcome::Answered;
                limiter.sample(now, latency, *in_flight, dropped, chance);
            }
        }
    }

    pub(crate) fn release(&mut self, now: f64, told: &mut Verdicts<usize>) {
        match self {
            Front::Funcd { admission, began } => admission.gate().release(Front::at(*began, now), told),
            Front::Other { in_flight, .. } => *in_flight -= 1,
        }
    }

    pub(crate) fn tick(&mut self, utilisation: f64, now: f64, told: &mut Verdicts<usize>) {
        if let Front::Funcd { admission, began } = self {
            admission.tick(Some(utilisation), Front::at(*began, now), told);
        }
    }

    pub(crate) fn set_places(&mut self, state: State, now: f64, told: &mut Verdicts<usize>) {
        if let Front::Funcd { admission, began } = self {
            admission.set_places(state, Front::at(*began, now), told);
        }
    }

    pub(crate) fn may_retry(&mut self, now: f64) -> bool {
        match self {
            Front::Funcd { admission, began } => admission.may_retry(Front::at(*began, now)),
            Front::Other { .. } => false,
        }
    }

    /// In flight and waiting.
    pub(crate) fn demand(&self) -> usize {
        match self {
            Front::Funcd { admission, .. } => {
                let view = admission.view();
                (view.in_flight + view.waiting) as usize
            }
            Front::Other { in_flight, .. } => *in_flight as usize,
        }
    }

    pub(crate) fn limit(&self) -> u32 {
        match self {
            Front::Funcd { admission, .. } => admission.gate().limit(),
            Front::Other { limiter, .. } => limiter.limit(),
        }
    }
}

/// A request, as the front sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    pub(crate) who: usize,
    pub(crate) class: funcd::admission::Class,
    pub(crate) rank: u8,
    pub(crate) arrived: f64,
    pub(crate) deadline: f64,
}
