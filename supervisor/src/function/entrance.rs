//! Who may pass, for one function: admission as request paths and `control` share it. Made with the first request: a function
//! that is never called has none. Never decides: [`crate::admission`] does.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::handle::{Function, Live, ToControl, Unavailable};
use super::instance::Instance;
use crate::admission::brownout::score;
use crate::admission::door::{Door, Entered, Permit, Slot, Ticket};
use crate::admission::limit::Places;
use crate::admission::queue::{Facts, Reason};
use crate::admission::{Admission, Outcome, Parts, State, View};
use crate::catalog::manifest::Manifest;

/// The most requests of one function that may wait, in tenths, as each place is worth ten: a slow function must not hoard
/// the connections of the host.
const MOST_PLACES: u32 = 102;

/// What the request path is told at once.
#[derive(Debug)]
#[must_use = "dropping it gives up the turn"]
pub enum Offered {
    /// It may go.
    Go(Permit),
    /// It waits: [`Function::turn`]. There were so many instances when it came: by now there may be the one that it asked for.
    Wait(Ticket, usize),
}

/// Admission of one function, and what `control` says about it beside what is live.
#[derive(Debug)]
pub(super) struct Entrance {
    made: OnceLock<(Admission<Arc<Slot>>, Arc<Door>)>,
    /// An instance is being started, or will be.
    starting: AtomicBool,
    /// How long a start takes, in microseconds; 0: not known.
    start_micros: AtomicU64,
    leaving: AtomicU32,
    threshold: AtomicU32,
    /// `control` looks at it every 100 ms.
    in_use: AtomicBool,
}

impl Default for Entrance {
    fn default() -> Entrance {
        Entrance {
            made: OnceLock::new(),
            starting: AtomicBool::new(false),
            start_micros: AtomicU64::new(0),
            leaving: AtomicU32::new(0),
            threshold: AtomicU32::new(100),
            in_use: AtomicBool::new(false),
        }
    }
}

impl Entrance {
    fn state(&self, live: &Live) -> State {
        let Manifest { scale, health, .. } = &*live.revision.manifest;
        // What gets a process for each request has as many places as it may have processes: those are made for requests.
        let is_per_request = live.revision.manifest.contract.is_per_request();
        let ready = match is_per_request {
            true => scale.max,
            false => u32::try_from(live.instances.len()).unwrap_or(u32::MAX),
        };
        let start = match self.start_micros.load(Ordering::Relaxed) {
            0 => health.ready_within,
            micros => Duration::from_micros(micros),
        };
        // Without an instance the request that is offered will have one started: that it may wait for.
        let starting = ready == 0 || self.starting.load(Ordering::Relaxed);
        State {
            places: Places {
                ready,
                concurrency: scale.concurrency,
            },
            leaving: self.leaving.load(Ordering::Relaxed),
            most_places: scale.max.saturating_mul(scale.concurrency).min(MOST_PLACES),
            cold_start: starting.then_some(start),
            timeout: live.revision.manifest.request.timeout,
            threshold: self.threshold.load(Ordering::Relaxed) as u8,
        }
    }
}

/// Cores that all instances of a function may use together.
fn cores(manifest: &Manifest) -> f64 {
    let host = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
    host.min(f64::from(manifest.scale.max) * f64::from(manifest.limits.cpu_millis) / 1000.0)
}

impl Function {
    fn entrance(&self) -> &(Admission<Arc<Slot>>, Arc<Door>) {
        if let Some(made) = self.entrance.made.get() {
            return made;
        }
        let made = self.entrance.made.get_or_init(|| {
            let live = self.live();
            let manifest = &live.revision.manifest;
            let parts = Parts {
                order: manifest.request.queue,
                ..Parts::default()
            };
            let state = self.entrance.state(&live);
            let admission = Admission::new(parts, cores(manifest), state, Instant::now());
            let door = Door::new(Arc::clone(admission.gate()), Instant::now);
            (admission, door)
        });
        // What was published meanwhile found nobody to tell: either it is seen now, or it sees what was just made.
        fence(Ordering::SeqCst);
        self.refresh();
        made
    }

    /// Tells admission what is live. For `control`, after each change.
    pub(super) fn refresh(&self) {
        fence(Ordering::SeqCst);
        if let Some((admission, door)) = self.entrance.made.get() {
            let mut verdicts = Vec::new();
            let state = self.entrance.state(&self.live());
            admission.set_places(state, Instant::now(), &mut verdicts);
            door.tell(verdicts);
        }
    }

    /// Another revision is live: what was learnt of the old one says nothing.
    pub(super) fn revise(&self) {
        if let Some((admission, door)) = self.entrance.made.get() {
            let mut verdicts = Vec::new();
            let live = self.live();
            let manifest = &live.revision.manifest;
            let (cores, order) = (cores(manifest), manifest.request.queue);
            admission.revise(cores, order, Instant::now(), &mut verdicts);
            door.tell(verdicts);
        }
    }

    /// What `control` knows beside what is live: whether an instance is being started, how long that takes (`None`: not
    /// known), and how many requests are in flight at instances that take no more. To be followed by
    /// [`Function::publish`] or a refresh; whether that is needed.
    pub(super) fn note_start(&self, starting: bool, takes: Option<Duration>, leaving: u32) -> bool {
        let micros = takes.map_or(0, |takes| takes.as_micros() as u64);
        let entrance = &self.entrance;
        let was = entrance.starting.swap(starting, Ordering::Relaxed);
        let took = entrance.start_micros.swap(micros, Ordering::Relaxed);
        let left = entrance.leaving.swap(leaving, Ordering::Relaxed);
        (was, took, left) != (starting, micros, leaving)
    }

    /// A request arrived. `chance` is uniform over all of `u32`.
    ///
    /// # Errors
    /// [`Unavailable::Shed`], and [`Unavailable::Refused`] while the function is Failed.
    pub fn offer(&self, facts: &Facts, chance: u32) -> Result<Offered, Unavailable> {
        let live = self.live();
        if let Some(refusal) = &live.refusal {
            return Err(Unavailable::Refused(refusal.clone()));
        }
        let (admission, door) = self.entrance();
        if admission.refuses(chance) {
            return Err(Unavailable::Shed(Reason::Breaker));
        }
        match door.enter(facts, score(facts.class, facts.rank)) {
            Entered::Shed(reason) => Err(Unavailable::Shed(reason)),
            // `control` is told with its end: until then it would only keep a start from the CPU.
            Entered::Go(permit) => Ok(Offered::Go(permit)),
            Entered::Wait(ticket) => {
                let instances = live.instances.len();
                // Where the CPU is what is short, `control` sees by itself that requests wait.
                if ticket.wants_place() {
                    self.want();
                }
                self.note_use();
                Ok(Offered::Wait(ticket, instances))
            }
        }
    }

    fn note_use(&self) {
        if !self.entrance.in_use.load(Ordering::Relaxed) && !self.entrance.in_use.swap(true, Ordering::SeqCst)
        {
            self.tell(ToControl::InUse(self.name.clone()));
        }
    }

    /// Waits for the turn, at most as long as admission allows.
    ///
    /// # Errors
    /// [`Unavailable`]. The caller runs on a tokio runtime with time.
    pub async fn turn(&self, mut ticket: Ticket, deadline: Instant) -> Result<Permit, Unavailable> {
        let mut until = ticket.until();
        loop {
            let mut changed = pin!(self.changed().notified());
            changed.as_mut().enable();
            if let Some(refusal) = &self.live().refusal {
                return Err(Unavailable::Refused(refusal.clone()));
            }
            let told = tokio::time::timeout_at(until.into(), async {
                tokio::select! {
                    biased;
                    verdict = &mut ticket => Some(verdict),
                    () = changed => None,
                }
            });
            let reason = match told.await {
                Ok(Some(Ok(permit))) => return Ok(permit),
                Ok(Some(Err(reason))) => reason,
                Ok(None) => continue,
                // It may be that an instance is being started since: then it may wait longer.
                Err(_) => match ticket.until_now() {
                    Some(later) if later > Instant::now() => {
                        until = later;
                        continue;
                    }
                    Some(_) => Reason::Waited,
                    // Its verdict is on its way.
                    None => {
                        until += Duration::from_secs(1);
                        continue;
                    }
                },
            };
            return Err(match Instant::now() >= deadline {
                true => Unavailable::DeadlineExceeded,
                false => Unavailable::Shed(reason),
            });
        }
    }

    /// An attempt at an instance ended, or its response head is there, so long after its dispatch; `None`: how long it took says
    /// nothing.
    pub fn note_end(&self, instance: &Arc<Instance>, outcome: Outcome, took: Option<Duration>) {
        self.ended(outcome, took);
        self.note_attempt(instance, outcome);
    }

    fn ended(&self, outcome: Outcome, took: Option<Duration>) {
        let (admission, _) = self.entrance();
        self.note_use();
        match (outcome, took) {
            (Outcome::Answered, None) => admission.answered(),
            (outcome, took) => admission.ended(outcome, took.unwrap_or_default()),
        }
    }

    /// Takes one retry out of the budget, if there is one.
    pub fn may_retry(&self) -> bool {
        self.entrance().0.may_retry(Instant::now())
    }

    /// Requests that wait for a permit, or with one for an instance.
    pub fn waiting(&self) -> usize {
        let queued = self.entrance.made.get();
        queued.map_or(0, |(admission, _)| admission.gate().waiting() as usize) + self.turned_away()
    }

    /// Requests between arrival and the end of their response body, those that wait among them.
    pub fn admitted(&self) -> usize {
        let made = self.entrance.made.get();
        made.map_or(0, |(admission, _)| admission.gate().present() as usize)
    }

    /// What admission knows, for people; `None`: it was never asked.
    pub fn view(&self) -> Option<View> {
        self.entrance.made.get().map(|(admission, _)| admission.view())
    }

    /// The host holds back requests with a score above this: 100 for none.
    pub(super) fn note_threshold(&self, threshold: u8) {
        let threshold = u32::from(threshold);
        if self.entrance.threshold.swap(threshold, Ordering::Relaxed) != threshold {
            self.refresh();
        }
    }

    /// Learns from what happened since the last call: every 100 ms while it is in use. `utilisation` is the CPU time of its cgroups ÷
    /// what it may use until `now`; `None`: not known.
    pub(super) fn tick(&self, utilisation: Option<f64>, threshold: u8, now: Instant) {
        self.entrance
            .threshold
            .store(u32::from(threshold), Ordering::Relaxed);
        let Some((admission, door)) = self.entrance.made.get() else {
            return;
        };
        self.refresh();
        let mut verdicts = Vec::new();
        admission.tick(utilisation, now, &mut verdicts);
        door.tell(verdicts);
        self.metrics().admission(&admission.view());
    }

    /// `control` does not look at it any more, unless it is in use again by now: then true.
    pub(super) fn leave_alone(&self) -> bool {
        self.entrance.in_use.store(false, Ordering::SeqCst);
        self.admitted() > 0 && !self.entrance.in_use.swap(true, Ordering::SeqCst)
    }
}
