//! The path of a call through a binding to a server outside, from its head to the head of the answer.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::{Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tracing::warn;

use super::super::body::{Reply, Upload};
use super::super::connection::Connection;
use super::super::headers;
use super::super::ids::{self, RequestId};
use super::super::request::{bad_head, check_framing, frame_anew};
use super::super::respond::{Kind, Problem, respond};
use super::super::terms::Terms;
use super::super::watch::{STREAM, Watch};
use super::answer::Download;
use super::forward::{self, Answer};
use super::outlet::InFlight;
use super::{Outlet, head, upgrade};
use crate::admission::Class;
use crate::egress::http::path;

/// One call. Dropped when its answer ends, or when its function is gone.
pub(super) struct Call {
    connection: Rc<Connection>,
    pub(super) outlet: Rc<Outlet>,
    pub(super) watch: Arc<Watch>,
    pub(super) arrived: Instant,
    number: u32,
    status: Option<u16>,
    /// The function gave back its place, once it had one.
    place: Option<InFlight>,
}

impl Call {
    fn begin(connection: &Rc<Connection>, outlet: Rc<Outlet>, version: Version) -> Call {
        let mut watch = Arc::clone(&connection.watch);
        if version == Version::HTTP_2
            && let Ok(stream) = STREAM.try_with(Arc::clone)
        {
            watch = stream;
        }
        watch.begin_request();
        Call {
            number: connection.enter(),
            connection: Rc::clone(connection),
            outlet,
            watch,
            arrived: Instant::now(),
            status: None,
            place: None,
        }
    }

    /// The head of the answer is there.
    fn answered(&mut self, status: StatusCode) {
        self.watch.head.clear();
        self.status = Some(status.as_u16());
        let switched = status == StatusCode::SWITCHING_PROTOCOLS;
        self.connection.watch.decide(self.number, switched);
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// A number from 0 to 1.
    pub(super) fn chance(&self) -> f64 {
        use rand::Rng;
        self.connection.worker.chance.borrow_mut().random()
    }

    /// Something went wrong that the operator should see: one line, if there are not too many.
    pub(super) fn complain(&self, id: &str, reason: &'static str, detail: &str) {
        let Some(others) = self.outlet.failures.may(Instant::now()) else {
            return;
        };
        warn!(
            function = self.outlet.bound.function.as_str(),
            instance = %self.outlet.instance.id,
            binding = self.outlet.binding.name,
            target = %self.outlet.bound.to,
            request_id = id,
            reason,
            detail,
            others = (others > 0).then_some(others),
            "a call through a binding failed"
        );
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let now = Instant::now();
        for deadline in [&self.watch.head, &self.watch.upload, &self.watch.download] {
            deadline.clear();
        }
        self.connection.leave(now);
        let metrics = &self.outlet.bound.metrics;
        metrics.ended(self.status);
        metrics.duration.record(now - self.arrived);
    }
}

/// Answers a call: by the target, or by a problem of funcd's own.
pub(crate) async fn handle(
    connection: Rc<Connection>,
    outlet: Rc<Outlet>,
    mut request: Request<Incoming>,
) -> Result<Response<Reply>, Infallible> {
    let version = request.version();
    let mut call = Call::begin(&connection, outlet, version);
    let origin = call.outlet.origin(request.headers());
    head::trace(request.headers_mut(), origin.parent.as_ref());
    let id = ids::request_id(request.headers(), &mut *connection.worker.chance.borrow_mut());
    let bounds = call.outlet.bounds(origin.parent.as_ref());
    let mut terms = Terms::of(request.headers(), &bounds, false, call.arrived);
    if let Some(parent) = &origin.parent {
        terms.hurry(parent.deadline);
    }
    match answer(&mut call, request, &id, &terms).await {
        Ok((answer, client)) => Ok(pass_on(call, answer, client, &id)),
        Err(problem) => Ok(refuse(call, &problem, version, &id, terms.class)),
    }
}

/// The path.
async fn answer(
    call: &mut Call,
    mut request: Request<Incoming>,
    id: &RequestId,
    terms: &Terms,
) -> Result<(Answer, Option<OnUpgrade>), Problem> {
    check_framing(&call.connection, call.number, request.headers())?;
    let client = request
        .headers()
        .contains_key(header::UPGRADE)
        .then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    headers::check(&parts).map_err(bad_head)?;
    let outlet = Rc::clone(&call.outlet);
    call.place = Some(outlet.enter()?);
    let place = outlet.bound.guard.enter(Instant::now());
    let place = place.map_err(|open| forward::is_open(&outlet, open))?;
    parts.uri = path::below(&outlet.base, &parts.uri).ok_or_else(leads_out)?;
    call.watch.set(&call.watch.head, terms.deadline);

    let asked = {
        let mut chance = call.connection.worker.chance.borrow_mut();
        head::outward(&mut parts, &outlet.host, id, &mut *chance)
    };
    let switch = asked.upgrade.is_some();
    terms.say_class(&mut parts.headers);
    frame_anew(&mut parts, &body);
    parts.version = Version::HTTP_11;
    let patience = call.connection.worker.shared.bounds.body_idle;
    let upload = Upload::new(body, u64::MAX, patience, &call.watch);
    let request = Request::from_parts(parts, upload);
    let answer = forward::forward(call, place, request, terms).await?;
    match (answer.response.status(), client) {
        (StatusCode::SWITCHING_PROTOCOLS, Some(client)) if switch => Ok((answer, Some(client))),
        (StatusCode::SWITCHING_PROTOCOLS, _) => Err(Problem::new(
            Kind::BindingMalformed,
            "the binding's target switched protocols without being asked",
        )),
        _ => Ok((answer, None)),
    }
}

/// The target's response as it is, but for the fields that end here.
fn pass_on(mut call: Call, answer: Answer, client: Option<OnUpgrade>, id: &RequestId) -> Response<Reply> {
    let (mut parts, body) = answer.response.into_parts();
    parts.version = Version::HTTP_11;
    headers::strip_response(&mut parts.headers, client.is_some());
    call.answered(parts.status);
    let reply = match client {
        Some(client) => {
            upgrade::open(client, answer.link, (answer.place, call));
            Reply::Own {
                bytes: bytes::Bytes::new(),
                _visit: None,
            }
        }
        None => {
            if call.connection.is_inspected() && call.watch.is_uploading() {
                // As for other callers: what is left of the body would have to be read before the next request.
                parts
                    .headers
                    .insert(header::CONNECTION, http::HeaderValue::from_static("close"));
                call.connection.linger.set(true);
            }
            Reply::Target(Box::new(Download::new(body, answer.link, answer.place, call, id)))
        }
    };
    Response::from_parts(parts, reply)
}

/// An answer of funcd's own.
fn refuse(
    mut call: Call,
    problem: &Problem,
    version: Version,
    id: &RequestId,
    class: Class,
) -> Response<Reply> {
    let row = problem.kind.row();
    call.answered(row.status);
    let id_text = id.0.to_str().unwrap_or("");
    call.complain(id_text, problem.reason.unwrap_or(row.slug), &problem.detail);
    if problem.close {
        call.connection.linger.set(true);
    }
    let function = Some(call.outlet.bound.function.as_str());
    let response = {
        let mut chance = call.connection.worker.chance.borrow_mut();
        respond(problem, (version, false), (function, class), id, &mut *chance)
    };
    response.map(|bytes| Reply::Own { bytes, _visit: None })
}

fn leads_out() -> Problem {
    Problem::new(
        Kind::BadRequest,
        "the path has dot segments, by which it could lead out of the base path that the binding is for",
    )
    .because("base-path")
    .closing()
}
