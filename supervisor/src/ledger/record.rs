//! What became of one request, as plain data: names, the moments of its phases, each attempt. Never holds a header
//! value, a query or a body, and nothing on the heap unless funcd itself answered.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use crate::name::RevisionId;

/// The longest response head or wait for a place, from arrival, of a request that is not remembered as slow.
pub const SLOW: Duration = Duration::from_secs(1);
/// So many attempts are remembered: the first ones and the last.
const ATTEMPTS: usize = 4;

/// Text of bounded length, in place; what is longer is cut.
#[derive(Debug, Clone)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    length: u8,
}

impl<const N: usize> Text<N> {
    const EMPTY: Text<N> = Text {
        bytes: [0; N],
        length: 0,
    };

    fn set(&mut self, text: &[u8]) {
        let length = text.len().min(N).min(usize::from(u8::MAX));
        self.bytes[..length].copy_from_slice(&text[..length]);
        self.length = length as u8;
    }

    /// The bytes, as they were given.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// The same as text; what is not UTF-8 is replaced.
    pub fn to_text(&self) -> String {
        String::from_utf8_lossy(self.as_bytes()).into_owned()
    }
}

/// A moment, as microseconds since the request's arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u32);

impl Moment {
    /// It did not come to that.
    pub const NEVER: Moment = Moment(u32::MAX);

    /// Microseconds, if it came to that. More than 71 minutes are shown as that.
    pub fn micros(self) -> Option<u64> {
        (self != Moment::NEVER).then_some(u64::from(self.0))
    }

    fn between(from: Instant, to: Instant) -> Moment {
        let micros = to.saturating_duration_since(from).as_micros();
        Moment(u32::try_from(micros).unwrap_or(u32::MAX).min(u32::MAX - 1))
    }
}

/// What state the instance was in when it was leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It had answered before.
    Warm,
    /// It was being started.
    Cold,
    /// It was being started from a process that was prepared ahead.
    Prepared,
}

/// How an attempt went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Not known: it goes on, or the caller left meanwhile.
    Open,
    /// A response head came.
    Answered,
    /// Nobody accepted the connection.
    Refused,
    /// The connection ended before the request was written.
    NotWritten,
    /// A connection that was idle ended as the request was sent.
    Stale,
    /// The process ended before it ran, or could not be started.
    Unborn,
    /// The connection ended before a response head.
    Died,
    /// What came was not HTTP.
    Malformed,
    /// The time-out passed.
    TooLate,
    /// The request's body broke off.
    BadBody,
}

/// One try to have an instance answer.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// When it found no free place and began to wait.
    pub queued: Moment,
    /// When that wait ended.
    pub unqueued: Moment,
    /// Requests that waited for the function then, this one among them.
    pub waiting: u32,
    /// Instances that the function had then.
    pub instances: u32,
    /// Which instance it got; `None`: it got none.
    pub instance: Option<u64>,
    /// In what state that was.
    pub start: Start,
    /// When a new connection to it was there; never: one was used again.
    pub dialled: Moment,
    /// When the attempt ended without an answer.
    pub ended: Moment,
    /// How it went.
    pub outcome: Outcome,
}

impl Attempt {
    const NEW: Attempt = Attempt {
        queued: Moment::NEVER,
        unqueued: Moment::NEVER,
        waiting: 0,
        instances: 0,
        instance: None,
        start: Start::Warm,
        dialled: Moment::NEVER,
        ended: Moment::NEVER,
        outcome: Outcome::Open,
    };
}

/// An answer of funcd's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// The end of its `type`.
    pub kind: &'static str,
    /// More exactly, as in the metric.
    pub reason: &'static str,
    /// What the caller was told.
    pub detail: Cow<'static, str>,
    /// It was refused before any work was done, so that others are answered.
    pub shed: bool,
}

/// How it ended, apart from what was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The response went out as a whole.
    Complete,
    /// The caller was gone before the response head.
    GoneBeforeHead,
    /// The caller was gone before the end of the response.
    GoneWithin,
    /// The caller stopped reading.
    ReaderStalled,
    /// The function's response broke off.
    CutOff,
}

/// Which ring a record goes to: a flood of one kind must not push out what matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Answered by the function, at once and in time.
    Ordinary,
    /// Refused before any work was done: shed, or the caller's mistake.
    Refused,
    /// Failed, retried, slow, cold, or left by its caller.
    Notable,
}

/// What became of one request.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its id.
    pub id: Text<128>,
    /// Its method.
    pub method: Text<16>,
    /// The first part of its path, without the query.
    pub path: Text<96>,
    /// The function's name; empty: no route.
    pub function: Text<63>,
    /// The revision that was live then.
    pub revision: Option<RevisionId>,
    /// When its head was complete.
    pub arrived: Instant,
    /// From arrival to the response head, at most.
    pub timeout: Duration,
    /// When funcd was done with it and looked for an instance.
    pub admitted: Moment,
    attempts: [Attempt; ATTEMPTS],
    tried: u32,
    /// Where it stands among those that are open.
    pub(super) slot: usize,
    /// When the function's response head came.
    pub head: Moment,
    /// When it was over.
    pub end: Moment,
    /// The status that the caller got.
    pub status: Option<u16>,
    /// Set when funcd answered itself.
    pub own: Option<Box<Own>>,
    /// How it ended.
    pub ended: End,
    /// Bytes of the request body.
    pub uploaded: u64,
    /// Bytes of the response body.
    pub downloaded: u64,
}

impl Record {
    /// An empty one.
    pub fn new(arrived: Instant) -> Record {
        Record {
            id: Text::EMPTY,
            method: Text::EMPTY,
            path: Text::EMPTY,
            function: Text::EMPTY,
            revision: None,
            arrived,
            timeout: Duration::ZERO,
            admitted: Moment::NEVER,
            attempts: [Attempt::NEW; ATTEMPTS],
            tried: 0,
            slot: 0,
            head: Moment::NEVER,
            end: Moment::NEVER,
            status: None,
            own: None,
            ended: End::Complete,
            uploaded: 0,
            downloaded: 0,
        }
    }

    /// Empties it for another request. The texts and attempts stay where they are, beyond their new lengths.
    pub(super) fn renew(&mut self, arrived: Instant) {
        self.id.length = 0;
        self.method.length = 0;
        self.path.length = 0;
        self.function.length = 0;
        self.revision = None;
        self.arrived = arrived;
        self.timeout = Duration::ZERO;
        self.admitted = Moment::NEVER;
        self.tried = 0;
        self.head = Moment::NEVER;
        self.end = Moment::NEVER;
        self.status = None;
        self.own = None;
        self.ended = End::Complete;
        self.uploaded = 0;
        self.downloaded = 0;
    }

    /// What it is called and what it asks.
    pub fn asks(&mut self, id: &[u8], method: &str, path: &str) {
        self.id.set(id);
        self.method.set(method.as_bytes());
        self.path.set(path.as_bytes());
    }

    /// Which function it is for.
    pub fn is_for(&mut self, function: &str) {
        self.function.set(function.as_bytes());
    }

    /// Which revision it goes to, and how long that may take.
    pub fn may_take(&mut self, revision: RevisionId, timeout: Duration) {
        self.revision = Some(revision);
        self.timeout = timeout;
    }

    /// funcd has done its part.
    pub fn admit(&mut self, now: Instant) {
        self.admitted = self.at(now);
    }

    /// Another attempt begins.
    pub fn begin_attempt(&mut self) {
        self.tried += 1;
        *self.last() = Attempt::NEW;
    }

    /// No place is free: it waits with so many, for so many instances.
    pub fn queues(&mut self, waiting: usize, instances: usize) {
        let now = self.at(Instant::now());
        let attempt = self.last();
        attempt.queued = now;
        attempt.waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        attempt.instances = u32::try_from(instances).unwrap_or(u32::MAX);
    }

    /// The wait for a place is over, one way or the other.
    pub fn leaves_queue(&mut self) {
        let now = self.at(Instant::now());
        self.last().unqueued = now;
    }

    /// It has a place in this instance.
    pub fn leases(&mut self, instance: u64, start: Start) {
        let attempt = self.last();
        attempt.instance = Some(instance);
        attempt.start = start;
    }

    /// A new connection to the instance is there.
    pub fn dials(&mut self) {
        let now = self.at(Instant::now());
        self.last().dialled = now;
    }

    /// The attempt ended without an answer.
    pub fn fails(&mut self, outcome: Outcome) {
        let now = self.at(Instant::now());
        let attempt = self.last();
        attempt.ended = now;
        attempt.outcome = outcome;
    }

    /// The function's response head is there, and since now.
    pub fn answers(&mut self) -> Instant {
        let now = Instant::now();
        self.head = self.at(now);
        self.last().outcome = Outcome::Answered;
        now
    }

    /// It is over.
    pub fn ends(&mut self, now: Instant) {
        self.end = self.at(now);
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.end != Moment::NEVER
    }

    /// The attempts that are remembered, oldest first.
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts[..(self.tried as usize).min(ATTEMPTS)]
    }

    /// How many attempts there were.
    pub fn tried(&self) -> u32 {
        self.tried
    }

    /// How the first attempt that was answered found its instance; else the last.
    pub fn start(&self) -> Option<Start> {
        let last = self.attempts().last()?;
        last.instance.map(|_| last.start)
    }

    /// Whether it failed: funcd answered in the function's stead, the function with a 5xx, or the response broke off.
    pub fn is_failed(&self) -> bool {
        self.own
            .as_ref()
            .is_some_and(|own| own.shed || self.is_server_error())
            || self.is_server_error()
            || matches!(self.ended, End::CutOff)
    }

    /// Whether its head, its end or a place took longer than [`SLOW`].
    pub fn is_slow(&self) -> bool {
        let slow = |moment: Moment| moment != Moment::NEVER && u128::from(moment.0) >= SLOW.as_micros();
        // The end of a stream says nothing; but without a head the end is what was waited for.
        slow(self.head) || (self.head == Moment::NEVER && slow(self.end))
    }

    /// Which ring it goes to.
    pub fn class(&self) -> Class {
        if let Some(own) = &self.own
            && (own.shed || !self.is_server_error())
            && self.attempts().iter().all(|attempt| attempt.instance.is_none())
        {
            return Class::Refused;
        }
        let cold = self.start().is_some_and(|start| start != Start::Warm);
        let notable = cold
            || self.own.is_some()
            || self.ended != End::Complete
            || self.tried > 1
            || self.is_failed()
            || self.is_slow();
        if notable { Class::Notable } else { Class::Ordinary }
    }

    fn is_server_error(&self) -> bool {
        self.status.is_some_and(|status| status >= 500)
    }

    fn at(&self, now: Instant) -> Moment {
        Moment::between(self.arrived, now)
    }

    fn last(&mut self) -> &mut Attempt {
        let last = (self.tried as usize).clamp(1, ATTEMPTS) - 1;
        &mut self.attempts[last]
    }
}
