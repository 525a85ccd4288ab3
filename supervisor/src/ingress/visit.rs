//! One request from its arrival to the end of its response: what is counted then, and what its connection may do next.

use std::cell::{RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use http::{StatusCode, Version};
use metrics::counter;

use super::connection::Connection;
use super::inside::{Caller, InFlight};
use super::respond::Problem;
use super::route::Target;
use super::watch::{STREAM, Watch};
use super::worker::Worker;
use crate::admission::Class;
use crate::function::metrics::Why;
use crate::ledger::Open;
use crate::ledger::record::{End, Own, Record};
use crate::telemetry::names;

/// One request. Dropped when its response body ends, or when its caller is gone.
pub(super) struct Visit {
    connection: Rc<Connection>,
    watch: Arc<Watch>,
    arrived: Instant,
    /// Which request of its connection this is; the first is 1.
    number: u32,
    target: Option<Arc<Target>>,
    /// How much it matters, once that is known.
    pub(super) class: Class,
    /// It is a call of gRPC.
    pub(super) is_call: bool,
    status: Option<StatusCode>,
    downloaded: u64,
    /// When the response was complete, if somebody had to look at the clock then.
    completed: Option<Instant>,
    /// What the ledger says of it.
    record: Open,
    /// Its place among the calls of the function that makes it.
    inside: Option<InFlight>,
}

impl Visit {
    /// A request's head is complete.
    pub(super) fn begin(connection: &Rc<Connection>) -> Visit {
        let number = connection.enter();
        let arrived = Instant::now();
        let record = connection.worker.ledger.borrow_mut().open(arrived);
        Visit {
            watch: Arc::clone(&connection.watch),
            connection: Rc::clone(connection),
            arrived,
            record,
            number,
            target: None,
            class: Class::default(),
            is_call: false,
            status: None,
            downloaded: 0,
            completed: None,
            inside: None,
        }
    }

    /// It is a function's, for a sibling: which that is, if it may be called.
    pub(super) fn enters(&mut self, caller: &Caller) -> Result<Arc<Target>, Problem> {
        self.inside = Some(caller.enter()?);
        let target = self.worker().sibling(caller.sibling());
        target.ok_or_else(|| caller.finds_nobody())
    }

    /// Takes the deadlines of the task that it now runs in: HTTP/2 streams have their own.
    pub(super) fn settle(&mut self, version: Version) {
        if version == Version::HTTP_2
            && let Ok(watch) = STREAM.try_with(Arc::clone)
        {
            self.watch = watch;
        }
        self.watch.begin_request();
    }

    /// The route is known: from now on it counts as the function's.
    pub(super) fn found(&mut self, target: &Arc<Target>) {
        target.function.metrics().in_flight.increment(1);
        self.record().is_for(target.function.name.as_str());
        self.target = Some(Arc::clone(target));
    }

    /// The response head is there.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.watch.head.clear();
        self.status = Some(status);
        self.record().status = Some(status.as_u16());
        let switched = status == StatusCode::SWITCHING_PROTOCOLS;
        self.connection.watch.decide(self.number, switched);
    }

    /// It failed, and not because the function said so.
    pub(super) fn failed(&self, reason: &'static str) {
        if self.target.is_none() {
            counter!(names::REQUESTS_REJECTED_TOTAL, "reason" => reason).increment(1);
        }
        if let Some(target) = &self.target {
            let function = target.function.name.as_str().to_owned();
            counter!(names::INVOCATION_ERRORS_TOTAL, "function" => function, "reason" => reason).increment(1);
        }
    }

    /// What the ledger says of it; to be given back before anything is waited for.
    pub(super) fn record(&self) -> RefMut<'_, Record> {
        self.record.borrow_mut()
    }

    /// What a request on its way needs at once.
    pub(super) fn on_its_way(&self) -> (&Worker, &Arc<Watch>, &RefCell<Record>) {
        (&self.connection.worker, &self.watch, &self.record)
    }

    /// Its id, for the log.
    pub(super) fn id(&self) -> String {
        self.record().id.to_text()
    }

    /// It gets an answer of funcd's own.
    pub(super) fn refused(&self, problem: &Problem, shed: bool) {
        let row = problem.kind.row();
        self.record().own = Some(Box::new(Own {
            kind: row.slug,
            reason: problem.reason.unwrap_or(row.slug),
            detail: problem.detail.clone(),
            shed,
        }));
    }

    /// The response did not go out as a whole.
    pub(super) fn broke_off(&self, end: End) {
        self.record().ended = end;
    }

    /// It was refused before any work was done.
    pub(super) fn shed(&self, why: Why) {
        if let Some(target) = &self.target {
            let function = &target.function;
            function.metrics().shed(&function.name, why, self.class);
        }
    }

    /// That many bytes of the response body went out.
    pub(super) fn downloaded(&mut self, bytes: usize) {
        self.downloaded += bytes as u64;
    }

    /// The function's response is complete.
    pub(super) fn completed(&mut self, now: Instant) {
        self.completed = Some(now);
    }

    /// The connection ends after this answer, once the caller had a chance to read it.
    pub(super) fn linger(&self) {
        self.connection.linger.set(true);
    }

    /// Whether the connection carries one request after the other.
    pub(super) fn is_http1(&self) -> bool {
        self.connection.is_inspected()
    }

    pub(super) fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    pub(super) fn arrived(&self) -> Instant {
        self.arrived
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn worker(&self) -> &Rc<Worker> {
        &self.connection.worker
    }

    /// The function's name, once it is known.
    pub(super) fn function(&self) -> Option<&str> {
        self.target.as_ref().map(|target| target.function.name.as_str())
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        // Both are in the same poll: one look at the clock serves them.
        let now = self.completed.unwrap_or_else(Instant::now);
        {
            let mut record = self.record.borrow_mut();
            record.ends(now);
            record.status = self.status.map(|status| status.as_u16());
            if self.status.is_none() {
                record.ended = End::GoneBeforeHead;
            } else if record.ended == End::GoneWithin && self.watch.missed(&self.watch.download) {
                record.ended = End::ReaderStalled;
            }
            record.uploaded = self.watch.uploaded.load(Ordering::Relaxed);
            record.downloaded = self.downloaded;
            if let Some(target) = &self.target {
                tracing::debug!(
                    function = target.function.name.as_str(),
                    request_id = record.id.to_text(),
                    status = record.status,
                    milliseconds = (now - self.arrived).as_secs_f64() * 1e3,
                    uploaded = record.uploaded,
                    downloaded = record.downloaded,
                    "request"
                );
            }
        }
        self.connection.worker.ledger.borrow_mut().close(&self.record);
        for deadline in [&self.watch.head, &self.watch.upload, &self.watch.download] {
            deadline.clear();
        }
        self.connection.leave(now);
        if let Some(InFlight(outlet)) = &self.inside {
            outlet
                .bound
                .metrics
                .ended(self.status.map(|status| status.as_u16()));
            outlet.bound.metrics.duration.record(now - self.arrived);
        }
        let Some(target) = &self.target else { return };
        let metrics = target.function.metrics();
        metrics.in_flight.decrement(1);
        metrics.duration.record(now - self.arrived);
        match self.status {
            Some(status) => metrics.answered(status.as_u16()),
            None => self.failed("client-gone"),
        }
        let uploaded = self.watch.uploaded.load(Ordering::Relaxed);
        if uploaded > 0 {
            metrics.request_bytes.increment(uploaded);
        }
        if self.downloaded > 0 {
            metrics.response_bytes.increment(self.downloaded);
        }
    }
}
