//! The gate as request tasks use it: a permit that is given back when dropped, and a ticket that can be awaited on any
//! runtime and gives up its turn when dropped. Time comes from a function given once; nothing here starts a timer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::gate::{Gate, Offer, Verdict, Verdicts};
use super::queue::{Facts, Reason, TicketId};
use super::route::RoutePlace;
use super::sync::{Arc, Mutex};

/// Where a waiter is told.
#[derive(Debug)]
pub struct Slot(Mutex<Told>);

#[derive(Debug)]
enum Told {
    /// Nothing yet; who to wake.
    Nothing(Option<Waker>),
    /// What was decided; not yet taken note of.
    Decided(Verdict),
    /// The waiter has left, or has taken note.
    Nobody,
}

impl Slot {
    fn new() -> Arc<Slot> {
        Arc::new(Slot(Mutex::new(Told::Nothing(None))))
    }

    fn replace(&self, told: Told) -> Told {
        let mut now = self.0.lock().expect("no holder of this lock panics");
        std::mem::replace(&mut now, told)
    }
}

/// The way into one function.
#[derive(Debug)]
pub struct Door {
    gate: Arc<Gate<Arc<Slot>>>,
    clock: fn() -> Instant,
}

/// What became of a request at the door.
#[derive(Debug)]
pub enum Entered {
    /// It may go.
    Go(Permit),
    /// It waits: await the ticket, until [`Ticket::until`].
    Wait(Ticket),
    /// It is refused.
    Shed(Reason),
}

impl Door {
    /// The way through this gate. `clock` is [`Instant::now`] but for tests.
    pub fn new(gate: Arc<Gate<Arc<Slot>>>, clock: fn() -> Instant) -> Arc<Door> {
        Arc::new(Door { gate, clock })
    }

    /// A request arrived. `score` is its [`super::brownout::score`].
    pub fn enter(self: &Arc<Self>, facts: &Facts, score: u8) -> Entered {
        let mut slot = None;
        let mut verdicts = Vec::new();
        let waiter = || Arc::clone(slot.insert(Slot::new()));
        let offer = self
            .gate
            .offer(facts, score, (self.clock)(), waiter, &mut verdicts);
        // Only after the ticket exists: one of the verdicts may be its own.
        let entered = match offer {
            Offer::Go => Entered::Go(Permit::of(self)),
            Offer::Shed(reason) => Entered::Shed(reason),
            Offer::Wait {
                ticket,
                wants_place,
                until,
            } => Entered::Wait(Ticket {
                door: Arc::clone(self),
                slot: slot.expect("a waiter was made for who waits"),
                ticket,
                wants_place,
                until,
            }),
        };
        self.tell(verdicts);
        entered
    }

    /// Tells waiters what was decided: after each call of [`Gate::set`]. A place given to one who left meanwhile goes to the next.
    pub fn tell(&self, mut verdicts: Verdicts<Arc<Slot>>) {
        while let Some((slot, verdict)) = verdicts.pop() {
            match slot.replace(Told::Decided(verdict)) {
                Told::Nothing(waker) => {
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                }
                Told::Nobody => {
                    slot.replace(Told::Nobody);
                    if verdict.is_ok() {
                        self.gate.release((self.clock)(), &mut verdicts);
                    }
                }
                Told::Decided(_) => unreachable!("a waiter leaves the queue once"),
            }
        }
    }

    fn release(&self) {
        let mut verdicts = Vec::new();
        self.gate.release((self.clock)(), &mut verdicts);
        self.tell(verdicts);
    }
}

/// The right to be in flight; given back when dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the place to the next"]
pub struct Permit {
    door: Arc<Door>,
    /// Given back right after it.
    route: Option<RoutePlace>,
}

impl Permit {
    fn of(door: &Arc<Door>) -> Permit {
        Permit {
            door: Arc::clone(door),
            route: None,
        }
    }

    /// The same, which also holds the place in its route.
    pub fn with(mut self, route: Option<RoutePlace>) -> Permit {
        self.route = route;
        self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.door.release();
    }
}

/// A turn to wait for; given up when dropped.
#[derive(Debug)]
#[must_use = "dropping it gives up the turn"]
pub struct Ticket {
    door: Arc<Door>,
    slot: Arc<Slot>,
    ticket: TicketId,
    wants_place: bool,
    until: Instant,
}

impl Ticket {
    /// Every place was taken: another instance would help.
    pub fn wants_place(&self) -> bool {
        self.wants_place
    }

    /// When it is refused at the latest. The queue itself only looks when something happens: whoever awaits this stops then, with
    /// [`Reason::Waited`].
    pub fn until(&self) -> Instant {
        self.until
    }

    /// The same as things are now; `None`: the verdict is on its way.
    pub fn until_now(&self) -> Option<Instant> {
        self.door.gate.until(self.ticket, (self.door.clock)())
    }
}

impl Future for Ticket {
    type Output = Result<Permit, Reason>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut told = self.slot.0.lock().expect("no holder of this lock panics");
        match &mut *told {
            Told::Nothing(waker) => {
                match waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    None => *waker = Some(context.waker().clone()),
                }
                Poll::Pending
            }
            Told::Decided(verdict) => {
                let verdict = *verdict;
                *told = Told::Nobody;
                Poll::Ready(verdict.map(|()| Permit::of(&self.door)))
            }
            Told::Nobody => panic!("a ticket was polled after it was ready"),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        match self.slot.replace(Told::Nobody) {
            // If it is no longer in the queue, its verdict is on its way, and finds nobody.
            Told::Nothing(_) => drop(self.door.gate.cancel(self.ticket, (self.door.clock)())),
            Told::Decided(Ok(())) => self.door.release(),
            Told::Decided(Err(_)) | Told::Nobody => {}
        }
    }
}
