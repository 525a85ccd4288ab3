//! Hands a request to an instance and waits for the response head. What was not written is tried again on another
//! connection; what may have had an effect never is.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{Method, Request, Response};
use hyper::body::{Body, Incoming};
use tracing::{debug, info};

use super::body::{Fault, Source, Upload};
use super::per_request;
use super::pool::{self, Upstream};
use super::respond::{Kind, Problem};
use super::watch::Watch;
use super::worker::Worker;
use crate::catalog::manifest::Contract;
use crate::contract::{self, fdk, ironhttp};
use crate::function::handle::{Function, Lease, ToControl, Unavailable};
use crate::function::instance::Instance;
use crate::ledger::record::{Outcome, Record, Start};

/// An instance that just died is still listed for a moment: so many refused connections, with pauses that double from
/// a millisecond, are waited out before the caller is told.
const REFUSALS: u32 = 8;

/// A response head and all that its body needs.
pub(super) struct Answer {
    pub(super) response: Response<Source>,
    /// `None`: it came from no connection.
    pub(super) upstream: Option<Box<Upstream>>,
    pub(super) lease: Lease,
}

/// Why there is no response head.
pub(super) enum Broken {
    /// Nothing was written: here is the request again.
    NotWritten(Box<Request<Upload>>),
    /// Something was written, then the connection ended.
    Died(Option<hyper::Error>),
    /// The deadline.
    TooLate,
}

/// Leases an instance, connects, sends, and waits until `deadline` for the head.
pub(super) async fn forward(
    function: &Arc<Function>,
    mut request: Request<Upload>,
    (worker, watch, record): (&Worker, &Arc<Watch>, &RefCell<Record>),
    deadline: Instant,
) -> Result<Answer, Problem> {
    let contract = function.live().revision.manifest.contract;
    if contract.is_per_request() {
        return per_request::answer(function, request, (watch, record), deadline).await;
    }
    match contract {
        Contract::Fn => fdk::call(&mut request, deadline.saturating_duration_since(Instant::now())),
        Contract::Ironhttp if !ironhttp::call(function.name.as_str(), &mut request) => {
            return Err(Problem::new(
                Kind::LengthRequired,
                "its length is to be said before the body: send it with Content-Length",
            ));
        }
        _ => {}
    }
    let repeatable = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let safe = repeatable && request.body().is_end_stream();
    let (mut refusals, mut repeated) = (0, false);
    loop {
        record.borrow_mut().begin_attempt();
        let lease = lease(function, record, deadline).await.map_err(unavailable)?;
        let instance = lease.instance();
        record.borrow_mut().leases(instance.id.0, start(instance));
        let keep = !instance.revision.manifest.takes_one_connection();
        let parked = if keep {
            pool::pop_open(&worker.pool, instance, !safe).await
        } else {
            None
        };
        let mut upstream = match parked {
            Some(upstream) => upstream,
            None => match dial(&lease, deadline).await {
                Ok(upstream) => {
                    record.borrow_mut().dials();
                    upstream
                }
                Err(problem) if problem.kind == Kind::ConnectionRefused && refusals < REFUSALS => {
                    record.borrow_mut().fails(Outcome::Refused);
                    log_retry(worker, function, record, "connection-refused");
                    drop(lease);
                    tokio::time::sleep(Duration::from_millis(1 << refusals)).await;
                    refusals += 1;
                    continue;
                }
                Err(problem) => {
                    record.borrow_mut().fails(match problem.kind {
                        Kind::ConnectionRefused => Outcome::Refused,
                        _ => Outcome::TooLate,
                    });
                    return Err(problem);
                }
            },
        };
        // A connection that was idle may have been closed for no reason of this request's; and what was sent ahead of a
        // process that then could not be started was read by nobody.
        let unborn = !instance.is_running();
        let may_repeat = (upstream.reused && !repeated) || unborn;
        let spare = (safe && may_repeat).then(|| spare(&request, watch));
        match exchange(&mut upstream, request, watch).await {
            Ok(response) => {
                record.borrow_mut().answers();
                if instance.note_answer() {
                    function.tell(ToControl::Answered(instance.id));
                }
                let response = understand(contract, response).map_err(|trouble| {
                    if trouble.is_fatal {
                        function.tell(ToControl::Broken(instance.id));
                        instance.stop_accepting();
                    }
                    trouble.problem
                })?;
                return Ok(Answer {
                    response: response.map(Source::Wire),
                    upstream: Some(upstream),
                    lease,
                });
            }
            Err(Broken::NotWritten(back)) if upstream.reused || refusals < REFUSALS => {
                refusals += u32::from(!upstream.reused);
                request = *back;
                record.borrow_mut().fails(Outcome::NotWritten);
                log_retry(worker, function, record, "not-written");
            }
            Err(Broken::NotWritten(_)) => {
                record.borrow_mut().fails(Outcome::NotWritten);
                return Err(refused());
            }
            Err(Broken::Died(error)) => match (Fault::of(watch), spare) {
                (None, Some(spare))
                    if !error.as_ref().is_some_and(hyper::Error::is_parse)
                        && (upstream.reused || !instance.is_running()) =>
                {
                    let (outcome, reason) = match upstream.reused {
                        true => (Outcome::Stale, "idle-connection-ended"),
                        false => (Outcome::Unborn, "instance-never-ran"),
                    };
                    record.borrow_mut().fails(outcome);
                    log_retry(worker, function, record, reason);
                    repeated |= upstream.reused;
                    request = spare;
                }
                (Some(fault), _) => {
                    record.borrow_mut().fails(Outcome::BadBody);
                    return Err(faulty(fault));
                }
                (None, _) => {
                    let malformed = error.as_ref().is_some_and(hyper::Error::is_parse);
                    record.borrow_mut().fails(match malformed {
                        true => Outcome::Malformed,
                        false => Outcome::Died,
                    });
                    return Err(died(error.as_ref()));
                }
            },
            Err(Broken::TooLate) => {
                record.borrow_mut().fails(Outcome::TooLate);
                return Err(Problem::new(
                    Kind::ResponseTimeout,
                    "no response head within the function's time-out",
                ));
            }
        }
    }
}

/// What is no answer for the caller.
struct NoAnswer {
    problem: Problem,
    /// Whether the instance is of no use any more.
    is_fatal: bool,
}

/// The answer in what an instance said.
fn understand(contract: Contract, response: Response<Incoming>) -> Result<Response<Incoming>, NoAnswer> {
    let no_answer = |kind, detail: String, is_fatal| {
        let problem = Problem::new(kind, detail);
        Err(NoAnswer { problem, is_fatal })
    };
    match contract {
        Contract::Fn => fdk::answer(response).or_else(|trouble| match trouble {
            fdk::Trouble::Failed => no_answer(
                Kind::FunctionError,
                "the function failed: its log may say why".to_owned(),
                false,
            ),
            fdk::Trouble::TooLate => no_answer(
                Kind::ResponseTimeout,
                "the function did not end by its deadline".to_owned(),
                false,
            ),
            fdk::Trouble::Malformed => no_answer(
                Kind::MalformedResponse,
                "its status or headers make no HTTP".to_owned(),
                false,
            ),
            fdk::Trouble::Broken(status) => no_answer(
                Kind::MalformedResponse,
                format!("its FDK answered {}, and was ended", status.as_u16()),
                true,
            ),
        }),
        Contract::Ironhttp if !ironhttp::has_an_end(&response) => no_answer(
            Kind::MalformedResponse,
            "it does not say how long its response is (Content-Length), and was ended".to_owned(),
            true,
        ),
        _ => Ok(response),
    }
}

/// A place in an instance. A wait for it is noted; a place that is free costs no look at the clock.
pub(super) async fn lease(
    function: &Arc<Function>,
    record: &RefCell<Record>,
    deadline: Instant,
) -> Result<Lease, Unavailable> {
    let mut leasing = pin!(function.lease(deadline));
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
            "nobody read the request: sent again; one a second is written here, `others` were since the last"
        );
    }
}

/// The same request once more; it has no body.
fn spare(request: &Request<Upload>, watch: &Arc<Watch>) -> Request<Upload> {
    let mut spare = Request::new(Upload::none(watch));
    spare.method_mut().clone_from(request.method());
    spare.uri_mut().clone_from(request.uri());
    spare.headers_mut().clone_from(request.headers());
    spare
}

async fn dial(lease: &Lease, deadline: Instant) -> Result<Box<Upstream>, Problem> {
    let stream = match contract::connect(lease.instance(), deadline).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return Err(Problem::new(
                Kind::StartTimeout,
                "the function did not accept the connection in time",
            ));
        }
        // Out of descriptors or memory: a fault of the host, which the operator must see as such.
        Err(error) if matches!(error.raw_os_error(), Some(12 | 23 | 24)) => {
            return Err(Problem::new(
                Kind::Internal,
                format!("can't connect to the function: {error}"),
            ));
        }
        Err(_) => return Err(refused()),
    };
    Upstream::over(stream).await.map_err(|error| died(Some(&error)))
}

/// Sends the request and polls its connection, in this task, until there is a head.
pub(super) async fn exchange(
    upstream: &mut Upstream,
    request: Request<Upload>,
    watch: &Watch,
) -> Result<Response<Incoming>, Broken> {
    let mut head = pin!(upstream.sender.try_send_request(request));
    poll_fn(|cx| {
        let ended = upstream.poll(cx).is_ready();
        match head.as_mut().poll(cx) {
            Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
            Poll::Ready(Err(mut error)) => Poll::Ready(Err(match error.take_message() {
                Some(request) => Broken::NotWritten(Box::new(request)),
                None => Broken::Died(Some(error.into_error())),
            })),
            Poll::Pending if watch.missed(&watch.head) => Poll::Ready(Err(Broken::TooLate)),
            // hyper answers before it ends; but an instance must not be able to hang a request by proving it wrong.
            Poll::Pending if ended => Poll::Ready(Err(Broken::Died(None))),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

pub(super) fn unavailable(why: Unavailable) -> Problem {
    match why {
        Unavailable::QueueFull => Problem::new(
            Kind::QueueFull,
            "as many requests wait as the function can answer in time",
        ),
        Unavailable::Refused(refusal) => Problem {
            retry_after: refusal
                .until
                .map(|until| until.saturating_duration_since(Instant::now())),
            ..Problem::new(Kind::Unavailable, refusal.reason)
        },
        Unavailable::DeadlineExceeded => Problem::new(
            Kind::StartTimeout,
            "no instance had a free place within the function's time-out",
        ),
    }
}

fn refused() -> Problem {
    Problem::new(
        Kind::ConnectionRefused,
        "the function's instance does not accept connections",
    )
}

pub(super) fn faulty(fault: Fault) -> Problem {
    let kind = match fault {
        Fault::TooLarge => Kind::BodyTooLarge,
        Fault::Stalled => Kind::UploadStalled,
        Fault::Gone | Fault::Malformed => Kind::BadRequest,
    };
    Problem::new(kind, fault.to_string()).closing()
}

fn died(error: Option<&hyper::Error>) -> Problem {
    if let Some(error) = error.filter(|error| error.is_parse()) {
        Problem::new(
            Kind::MalformedResponse,
            format!("the function's response head is malformed: {error}"),
        )
    } else {
        Problem::new(
            Kind::ConnectionTerminated,
            "the function closed the connection before it answered",
        )
    }
}
