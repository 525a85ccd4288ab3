//! Hands a request to an instance and waits for the response head. What nobody can have read is sent again; what an instance may
//! have read only once more, if that is safe and there is budget; what may have had an effect never is.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use funcd_sandbox::spec::InstanceId;
use http::{Request, Response};
use tracing::{debug, info};

use super::answer::{
    died, died_at_its_desk, faulty, of_lambda, refused, too_late, unavailable, understand, undone,
};
use super::body::{Fault, Origin, Upload};
use super::exchange::{self, Broken, Sent, Wanted, again};
use super::per_request;
use super::respond::{Kind, Problem};
use super::suspect::Suspect;
use super::terms::Terms;
use super::via::Via;
use super::watch::Watch;
use super::worker::Worker;
use crate::admission;
use crate::admission::door::{Permit, Ticket};
use crate::admission::route::RoutePlace;
use crate::catalog::manifest::Contract;
use crate::contract::lambda::{self, Trouble};
use crate::contract::{fdk, ironhttp};
use crate::function::handle::{Function, Lease, Offered, ToControl, Unavailable};
use crate::function::instance::{Address, Instance};
use crate::function::serving::Parent;
use crate::ledger::record::{Outcome, Record, Start};

/// An instance that just died is still listed for a moment: so many refused connections, with pauses that double from
/// a millisecond, are waited out before the caller is told.
const REFUSALS: u32 = 8;

/// The launcher tells that a process runs, or never did, within a few milliseconds. Who heard nothing by then takes it to have run.
const FATE_IS_KNOWN: Duration = Duration::from_secs(1);

/// A response head and all that its body needs.
pub(super) struct Answer {
    pub(super) response: Response<Origin>,
    /// `None`: it came from no connection.
    pub(super) via: Option<Via>,
    pub(super) lease: Lease,
    pub(super) permit: Permit,
}

/// Waits for its turn, leases an instance, connects, sends, and waits until its deadline for the head.
pub(super) async fn forward(
    function: &Arc<Function>,
    (offered, place): (Offered, Option<RoutePlace>),
    mut request: Request<Upload>,
    (worker, watch, record): (&Worker, &Arc<Watch>, &RefCell<Record>),
    terms: &Terms,
) -> Result<Answer, Problem> {
    record.borrow_mut().begin_attempt();
    // Declared first, so that it is given back last: the function works on the request until its connection is closed.
    let permit = match offered {
        Offered::Go(permit) => permit,
        Offered::Wait(ticket, instances) => {
            record.borrow_mut().queues(function.waiting(), instances);
            turn(function, ticket, record, terms).await.map_err(unavailable)?
        }
    };
    let permit = permit.with(place);
    let contract = function.live().revision.manifest.contract;
    match contract {
        Contract::Stdio | Contract::Cgi => {
            return per_request::answer(function, permit, request, (watch, record), terms).await;
        }
        Contract::Fn => fdk::call(
            &mut request,
            terms.deadline.saturating_duration_since(Instant::now()),
        ),
        Contract::Ironhttp if !ironhttp::call(function.name.as_str(), &mut request) => {
            return Err(Problem::new(
                Kind::LengthRequired,
                "its length is to be said before the body: send it with Content-Length",
            ));
        }
        Contract::Http | Contract::Port(_) | Contract::Lambda { .. } | Contract::Ironhttp => {}
    }
    if terms.keeps_body(&request) {
        match request.body_mut().keep().await {
            Some(Ok(())) => {}
            Some(Err(fault)) => return Err(faulty(fault)),
            None => return Err(too_late()),
        }
    }
    let (mut refusals, mut retries, mut avoid, mut stale) = (0, 0, None, false);
    let suspect = Suspect::of(&request);
    loop {
        suspect.check(function).await?;
        let mut lease = lease(function, record, avoid, terms.deadline)
            .await
            .map_err(unavailable)?;
        lease.serves(|| Parent::of(request.headers(), terms.deadline, terms.class));
        let instance = lease.instance();
        let found = start(instance);
        record.borrow_mut().leases(instance.id.0, found);
        let repeatable = terms.may_repeat(request.method(), request.body().is_at_hand(), retries);
        let wanted = match (stale, repeatable) {
            (true, _) => Wanted::Fresh,
            (false, true) => Wanted::Open,
            (false, false) => Wanted::Certain,
        };
        let wanted = (wanted, terms.deadline);
        let line = match exchange::line(worker, &lease, &request, wanted, record).await {
            Ok(line) => line,
            Err(problem) => {
                let (outcome, of_function) = match problem.kind {
                    Kind::ConnectionRefused => (Outcome::Refused, admission::Outcome::Dropped),
                    Kind::StartTimeout => (Outcome::TooLate, terms.too_late(false)),
                    // The host's own fault.
                    _ => (Outcome::NotConnected, admission::Outcome::Abandoned),
                };
                function.note_end(instance, of_function, None);
                record.borrow_mut().fails(outcome);
                if outcome != Outcome::Refused || refusals == REFUSALS {
                    return Err(problem);
                }
                log_retry(worker, function, record, "connection-refused");
                avoid = Some(instance.id);
                drop(lease);
                pause(function, &mut refusals).await;
                record.borrow_mut().begin_attempt();
                continue;
            }
        };
        // What was sent ahead of a process that then could not be started was read by nobody; whether it could is told later.
        let unborn = !instance.is_running();
        let spare = (repeatable || unborn).then(|| again(&request)).flatten();
        let dispatched = Instant::now();
        if !terms.say_left(request.headers_mut(), dispatched) {
            return Err(too_late());
        }
        if let Address::Lambda(_) = instance.address {
            lambda::set_deadline(request.headers_mut(), terms.limit);
        }
        let reused = line.is_reused();
        let underway = Underway {
            function,
            instance,
            watch,
            dispatched,
            over_http2: line.is_http2(),
        };
        let sent = exchange::send(line, request, watch).await;
        let over_http2 = underway.end();
        let unanswered = |outcome, waited| blame(function, instance, over_http2, outcome, waited);
        // What ends without having read all that came, or having accepted the connection, resets it (unix(7)).
        if let Err(Broken::Died(gone)) = &sent
            && gone.has_read()
        {
            instance.note_read();
        }
        let sent = died_at_its_desk(instance, sent);
        suspect.note(function, instance, (&sent, watch), record);
        let broken = match sent {
            Ok(Sent { response, via }) => {
                let head = record.borrow_mut().answers();
                // The answer of one that was just starting is no measure of those to come.
                let took = head.saturating_duration_since(watch.complete_at(dispatched));
                let took = (found == Start::Warm).then_some(took);
                function.note_end(instance, admission::Outcome::Answered, took);
                if over_http2 {
                    instance.note_http2();
                }
                if instance.note_answer() {
                    function.tell(ToControl::Answered(instance.id));
                }
                if let Address::Lambda(_) = instance.address
                    && let Some((trouble, detail)) = Trouble::of(response.headers())
                {
                    return Err(of_lambda(trouble, detail));
                }
                let response = understand(contract, response).map_err(|trouble| {
                    if trouble.is_fatal {
                        function.tell(ToControl::Broken(instance.id));
                        instance.stop_accepting();
                    }
                    trouble.problem
                })?;
                return Ok(Answer {
                    response,
                    via: Some(via),
                    lease,
                    permit,
                });
            }
            Err(broken) => broken,
        };
        match broken {
            Broken::NotWritten(back) => {
                record.borrow_mut().fails(Outcome::NotWritten);
                if !reused {
                    unanswered(admission::Outcome::Failed, None);
                    if refusals == REFUSALS {
                        return Err(refused());
                    }
                    avoid = Some(instance.id);
                    refusals += 1;
                }
                request = *back;
                log_retry(worker, function, record, "not-written");
            }
            Broken::Undone { back, leaves } => {
                record.borrow_mut().fails(Outcome::Refused);
                if !leaves {
                    function.note_end(instance, admission::Outcome::Dropped, None);
                }
                let Some(back) = back.filter(|_| refusals < REFUSALS) else {
                    return Err(undone());
                };
                request = *back;
                avoid = (!leaves).then_some(instance.id);
                log_retry(worker, function, record, "stream-refused");
                drop(lease);
                match leaves {
                    // Another connection takes it.
                    true => refusals += 1,
                    false => pause(function, &mut refusals).await,
                }
            }
            Broken::Died(gone) => {
                if let Some(fault) = Fault::of(watch) {
                    record.borrow_mut().fails(Outcome::BadBody);
                    return Err(faulty(fault));
                }
                // Any server may close a connection that was idle just as a request is sent: that says nothing of the instance, and
                // happens once, as the next connection is a fresh one.
                if reused
                    && repeatable
                    && gone.is_unread()
                    && let Some(spare) = spare
                {
                    record.borrow_mut().fails(Outcome::Stale);
                    unanswered(admission::Outcome::Abandoned, None);
                    function.metrics().retried(true);
                    log_retry(worker, function, record, "idle-connection-ended");
                    stale = true;
                    request = spare;
                    record.borrow_mut().begin_attempt();
                    continue;
                }
                let malformed = gone.is_malformed();
                let known_by = (Instant::now() + FATE_IS_KNOWN).min(terms.deadline);
                let never_ran = unborn && instance.never_ran(known_by).await;
                record.borrow_mut().fails(match (malformed, never_ran, reused) {
                    (true, ..) => Outcome::Malformed,
                    (false, true, _) => Outcome::Unborn,
                    (false, false, true) => Outcome::Stale,
                    (false, false, false) => Outcome::Died,
                });
                let is_known = unanswered(admission::Outcome::Failed, None);
                let problem = || died(&gone);
                let Some(spare) = spare.filter(|_| !malformed && (is_known || never_ran)) else {
                    return Err(problem());
                };
                if !never_ran {
                    if !repeatable {
                        return Err(problem());
                    }
                    let granted = function.may_retry();
                    function.metrics().retried(granted);
                    if !granted {
                        return Err(problem().because("retry-budget"));
                    }
                    retries += 1;
                }
                log_retry(
                    worker,
                    function,
                    record,
                    match (never_ran, reused) {
                        (true, _) => "instance-never-ran",
                        (false, true) => "idle-connection-ended",
                        (false, false) => "instance-ended",
                    },
                );
                avoid = Some(instance.id);
                request = spare;
            }
            Broken::TooLate => {
                record.borrow_mut().fails(Outcome::TooLate);
                let outcome = terms.too_late(watch.is_uploading());
                let waited = watch.unanswered_for(dispatched, Instant::now());
                unanswered(outcome, waited);
                return Err(too_late());
            }
        }
        record.borrow_mut().begin_attempt();
    }
}

/// An attempt whose caller may leave: then admission hears how long there was no answer to what it had sent.
struct Underway<'a> {
    function: &'a Function,
    instance: &'a Arc<Instance>,
    watch: &'a Watch,
    dispatched: Instant,
    over_http2: bool,
}

impl Underway<'_> {
    /// Its caller waited until here. Says whether it went over HTTP/2.
    fn end(self) -> bool {
        let over_http2 = self.over_http2;
        std::mem::forget(self);
        over_http2
    }
}

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        let waited = self.watch.unanswered_for(self.dispatched, Instant::now());
        let outcome = admission::Outcome::Abandoned;
        blame(self.function, self.instance, self.over_http2, outcome, waited);
    }
}

/// An attempt has no answer. Says whether that says something of the instance: not while it is only the caller who says, by the type
/// of its body, that HTTP/2 is spoken there. Or any stranger could have functions of HTTP/1 refused to others, and their instances
/// replaced.
fn blame(
    function: &Function,
    instance: &Arc<Instance>,
    over_http2: bool,
    outcome: admission::Outcome,
    waited: Option<Duration>,
) -> bool {
    let is_known = !over_http2 || instance.speaks_http2();
    match is_known {
        true => function.note_end(instance, outcome, waited),
        false => function.note_end(instance, admission::Outcome::Abandoned, None),
    }
    is_known
}

/// An instance that was just refused by the only instance is still listed for a moment.
async fn pause(function: &Function, refusals: &mut u32) {
    if function.live().instances.len() <= 1 {
        tokio::time::sleep(Duration::from_millis(1 << *refusals)).await;
    }
    *refusals += 1;
}

/// Waits for the permit; how long is noted.
async fn turn(
    function: &Arc<Function>,
    ticket: Ticket,
    record: &RefCell<Record>,
    terms: &Terms,
) -> Result<Permit, Unavailable> {
    let began = Instant::now();
    let permit = function.turn(ticket, terms.deadline).await;
    record.borrow_mut().leaves_queue();
    function.metrics().queue_wait.record(began.elapsed());
    permit
}

/// A place in an instance. A wait for it is noted; a place that is free costs no look at the clock.
pub(super) async fn lease(
    function: &Arc<Function>,
    record: &RefCell<Record>,
    avoid: Option<InstanceId>,
    deadline: Instant,
) -> Result<Lease, Unavailable> {
    let mut leasing = pin!(function.lease(avoid, deadline));
    if let Poll::Ready(lease) = poll_fn(|cx| Poll::Ready(leasing.as_mut().poll(cx))).await {
        return lease;
    }
    record
        .borrow_mut()
        .queues(function.waiting(), function.live().instances.len());
    let lease = leasing.await;
    record.borrow_mut().leaves_queue();
    lease
}

fn start(instance: &Instance) -> Start {
    match (instance.has_answered(), instance.was_prepared()) {
        (true, _) => Start::Warm,
        (false, true) => Start::Prepared,
        (false, false) => Start::Cold,
    }
}

fn log_retry(worker: &Worker, function: &Function, record: &RefCell<Record>, reason: &'static str) {
    let (function, attempt) = (function.name.as_str(), record.borrow().tried());
    debug!(
        function,
        request_id = record.borrow().id.to_text(),
        attempt,
        reason,
        "sent again"
    );
    if let Some(others) = worker.retries.may(Instant::now()) {
        info!(
            function,
            request_id = record.borrow().id.to_text(),
            attempt,
            reason,
            others,
            "a request was sent again; one a second is written here, `others` were since the last"
        );
    }
}
