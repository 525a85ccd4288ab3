//! A function as request paths see it: which revision is live, a permit to be in flight, a lease of an instance.
//!
//! Request paths never change what exists; they tell `control` what they lack, and wait.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use funcd_sandbox::spec::{Digest, Image, InstanceId};
use tokio::sync::{Notify, mpsc};

use super::entrance::Entrance;
pub use super::entrance::Offered;
use super::instance::Instance;
use super::metrics::FunctionMetrics;
use super::poison::{Poison, Print, Verdict};
use super::routes::RouteLimits;
use super::serving::Parent;
use crate::admission::Outcome;
use crate::admission::queue::Reason;
use crate::admission::route::RouteLimit;
use crate::catalog::manifest::{Manifest, RoutePattern};
use crate::catalog::view::Wanted;
use crate::name::{FunctionName, RevisionId};

/// One immutable executable plus its manifest.
#[derive(Debug, PartialEq)]
pub struct Revision {
    /// Its name.
    pub id: RevisionId,
    /// The stored executable.
    pub artifact: Digest,
    /// How the kernel runs it.
    pub image: Image,
    /// What of the system it needs.
    pub wanted: Wanted,
    /// What it asks for.
    pub manifest: Arc<Manifest>,
    /// The same as it was typed, for the next supervisor; empty for a plain executable.
    pub manifest_text: String,
}

/// What request paths and instances tell `control`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToControl {
    /// A request found no free place.
    Wanted(FunctionName),
    /// Requests came after a while without.
    InUse(FunctionName),
    /// A draining instance has no lease left.
    Drained(InstanceId),
    /// An instance answered for the first time: it is ready. If it was prepared ahead, this or the launcher's word that it was
    /// launched, whichever comes first, is how `control` hears that a request has woken it: nobody is told earlier, as
    /// whoever wakes up then takes the CPU from the start.
    Answered(InstanceId),
    /// An instance did not do in time what it has to: it takes nothing more, and ends.
    Overdue(InstanceId),
    /// What an instance said makes no sense: it is to be killed.
    Broken(InstanceId),
    /// An instance can't be reached, for this reason, and never will: it is to be killed.
    Refused(InstanceId, String),
    /// A stock of sockets runs low.
    SocketsLow(InstanceId),
    /// Requests to an instance fail.
    Failing(InstanceId),
    /// An instance did not answer a health request.
    Unanswered(InstanceId),
}

/// Within this, the end of a process follows the end of its connections.
const DEATH_IS_KNOWN: Duration = Duration::from_millis(250);

/// A function as request paths see it.
#[derive(Debug)]
pub struct Function {
    /// Its name.
    pub name: FunctionName,
    live: ArcSwap<Live>,
    pub(super) entrance: Entrance,
    /// Requests with a permit that wait for a free place after all.
    turned_away: AtomicUsize,
    /// Something else is live, or something has become known: for all who wait.
    changed: Notify,
    /// A place is free again: for one of those who are turned away, and nobody else.
    freed: Notify,
    wanted: AtomicBool,
    last_used_millis: AtomicU64,
    epoch: Instant,
    control: mpsc::UnboundedSender<ToControl>,
    metrics: OnceLock<FunctionMetrics>,
    poison: Poison,
    routes: RouteLimits,
}

/// What is live now: replaced as a whole by `control`.
#[derive(Debug, Clone)]
pub struct Live {
    /// The revision that new requests go to.
    pub revision: Arc<Revision>,
    /// Its instances that may be leased.
    pub instances: Vec<Arc<Instance>>,
    /// Set while every request is refused at once.
    pub refusal: Option<Refusal>,
}

/// Why every request is refused at once, until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For the caller's problem+json and the log.
    pub reason: String,
    /// When it is worth trying again; `None`: the function was removed.
    pub until: Option<Instant>,
}

/// Why there is no permit or lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unavailable {
    /// Admission refused it.
    Shed(Reason),
    /// The function failed or was removed.
    Refused(Refusal),
    /// No instance had a free place before the deadline.
    DeadlineExceeded,
}

impl Function {
    /// A function with nothing running.
    pub fn new(
        name: FunctionName,
        revision: Arc<Revision>,
        control: mpsc::UnboundedSender<ToControl>,
    ) -> Arc<Function> {
        Arc::new(Function {
            name,
            live: ArcSwap::from_pointee(Live {
                revision,
                instances: Vec::new(),
                refusal: None,
            }),
            entrance: Entrance::default(),
            turned_away: AtomicUsize::new(0),
            changed: Notify::new(),
            freed: Notify::new(),
            wanted: AtomicBool::new(false),
            last_used_millis: AtomicU64::new(0),
            epoch: Instant::now(),
            control,
            metrics: OnceLock::new(),
            poison: Poison::default(),
            routes: RouteLimits::default(),
        })
    }

    /// The limit of each of these routes of its manifest, the same for all of its revisions; `None`: it has none.
    pub fn route_limits(&self, patterns: &[RoutePattern]) -> Vec<Option<Arc<RouteLimit>>> {
        self.routes.of(patterns)
    }

    /// What is live now.
    pub fn live(&self) -> arc_swap::Guard<Arc<Live>> {
        self.live.load()
    }

    /// Replaces what is live and wakes who waits. For `control` only.
    pub fn publish(&self, live: Live) {
        let revision = Arc::clone(&live.revision);
        let old = self.live.swap(Arc::new(live));
        if old.revision.id != revision.id {
            self.revise();
        }
        self.refresh();
        self.changed.notify_waiters();
    }

    /// `control` has seen the wish: the next request that lacks a place sends it again.
    pub fn wish_seen(&self) {
        self.wanted.store(false, Ordering::SeqCst);
    }

    pub(super) fn changed(&self) -> &Notify {
        &self.changed
    }

    pub(super) fn turned_away(&self) -> usize {
        self.turned_away.load(Ordering::SeqCst)
    }

    /// Asks `control` for a place, once until it has seen that.
    pub(super) fn want(&self) {
        if !self.wanted.swap(true, Ordering::SeqCst) {
            self.tell(ToControl::Wanted(self.name.clone()));
        }
    }

    /// When the last lease began or ended.
    pub fn last_used(&self) -> Instant {
        self.epoch + Duration::from_millis(self.last_used_millis.load(Ordering::Relaxed))
    }

    fn touch(&self) {
        self.last_used_millis
            .store(self.epoch.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// A place in an instance, for who has a permit: the one with the fewest leases, and `avoid` only if there is no other.
    /// When none has a free one after all (one is draining, or has just ended), asks for one and waits.
    ///
    /// # Errors
    /// [`Unavailable`]; the deadline is a tokio instant, so the caller runs on a tokio runtime with time.
    pub async fn lease(
        self: &Arc<Self>,
        avoid: Option<InstanceId>,
        deadline: Instant,
    ) -> Result<Lease, Unavailable> {
        match self.try_lease(avoid)? {
            Some(lease) => Ok(lease),
            None => {
                let _waiting = Waiting::enter(self);
                let waited = tokio::time::timeout_at(deadline.into(), self.wait_for_lease(avoid)).await;
                waited.unwrap_or(Err(Unavailable::DeadlineExceeded))
            }
        }
    }

    async fn wait_for_lease(self: &Arc<Self>, avoid: Option<InstanceId>) -> Result<Lease, Unavailable> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            let mut freed = std::pin::pin!(self.freed.notified());
            changed.as_mut().enable();
            freed.as_mut().enable();
            if let Some(lease) = self.try_lease(avoid)? {
                return Ok(lease);
            }
            self.want();
            tokio::select! {
                () = changed => {}
                () = freed => {}
            }
        }
    }

    /// A place if one is free now.
    ///
    /// # Errors
    /// [`Unavailable::Refused`].
    pub fn try_lease(self: &Arc<Self>, avoid: Option<InstanceId>) -> Result<Option<Lease>, Unavailable> {
        let live = self.live();
        if let Some(refusal) = &live.refusal {
            return Err(Unavailable::Refused(refusal.clone()));
        }
        // A full or draining instance is passed over; counts move while we look, so look once at each in order.
        let mut tried = 0_u64;
        loop {
            let free = live
                .instances
                .iter()
                .enumerate()
                .filter(|(i, _)| *i >= 64 || tried & (1 << i) == 0);
            let Some((i, instance)) = free.min_by_key(|(_, instance)| {
                let last = avoid == Some(instance.id) || instance.tally.is_last_choice();
                (last, instance.in_flight())
            }) else {
                return Ok(None);
            };
            if instance.try_lease() {
                // One for a single request is told to execute with what that brings.
                if !instance.is_for_one_request() {
                    instance.wake();
                }
                self.touch();
                return Ok(Some(Lease {
                    function: Arc::clone(self),
                    instance: Arc::clone(instance),
                    serves: None,
                }));
            }
            // The drain may have seen this try as a lease: then nobody else tells that there is none.
            if !instance.is_accepting() && instance.in_flight() == 0 {
                self.tell(ToControl::Drained(instance.id));
            }
            if i >= 64 {
                return Ok(None);
            }
            tried |= 1 << i;
        }
    }

    /// An attempt of a request ended, or its response head is there.
    pub fn note_attempt(&self, instance: &Arc<Instance>, outcome: Outcome) {
        if instance.tally.note(outcome) {
            self.tell(ToControl::Failing(instance.id));
        }
    }

    /// The requests of which its instances died.
    pub fn poison(&self) -> &Poison {
        &self.poison
    }

    /// Whether a request is not to be sent, because instances died of it. Waits a moment if whether one just did is about to
    /// be known.
    pub async fn is_poison(&self, print: &Print) -> bool {
        let until = Instant::now() + DEATH_IS_KNOWN;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            match self.poison.judge(print, Instant::now()) {
                Verdict::Pass => return false,
                Verdict::Refuse => return true,
                Verdict::Unclear => {}
            }
            if tokio::time::timeout_at(until.into(), changed).await.is_err() {
                return false;
            }
        }
    }

    /// Its metric handles, made when they are first asked for: a function that is never called costs no series.
    pub fn metrics(&self) -> &FunctionMetrics {
        self.metrics.get_or_init(|| FunctionMetrics::new(&self.name))
    }

    /// Tells `control` something about an instance.
    pub fn tell(&self, message: ToControl) {
        let _ = self.control.send(message);
    }
}

/// A hold on one instance for one request; released when the response body ends.
#[derive(Debug)]
pub struct Lease {
    function: Arc<Function>,
    instance: Arc<Instance>,
    /// Under which number the instance knows the request.
    serves: Option<u64>,
}

impl Lease {
    /// What is held.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// The request is about to be sent: calls that the instance makes for it are a part of it.
    pub fn serves(&mut self, request: impl FnOnce() -> Parent) {
        if self.serves.is_none() && self.instance.revision.manifest.makes_calls() {
            self.serves = Some(self.instance.serving.enter(request()));
        }
    }

    /// Whose it is.
    pub fn function(&self) -> &Arc<Function> {
        &self.function
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(key) = self.serves {
            self.instance.serving.leave(key);
        }
        if self.instance.has_lost_its_pipes() {
            self.instance.stop_accepting();
            self.function.tell(ToControl::Broken(self.instance.id));
        }
        self.instance.release();
        self.function.touch();
        if !self.instance.is_accepting() && self.instance.in_flight() == 0 {
            self.function.tell(ToControl::Drained(self.instance.id));
        }
        if self.function.turned_away() > 0 {
            self.function.freed.notify_one();
        }
    }
}

/// Counts a request that waits though it has a permit.
struct Waiting<'a>(&'a Function);

impl<'a> Waiting<'a> {
    fn enter(function: &'a Function) -> Waiting<'a> {
        function.turned_away.fetch_add(1, Ordering::SeqCst);
        Waiting(function)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.turned_away.fetch_sub(1, Ordering::SeqCst);
    }
}
