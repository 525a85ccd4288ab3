//! The path of a request, from its head to the head of its response. Everything that can be said without the function
//! is said before the first byte of a body is read.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use rand::Rng;
use tracing::{debug, warn};

use super::answer::unavailable;
use super::body::{Download, Reply, Upload};
use super::connection::Connection;
use super::flaw::Flaw;
use super::forward::{self, Answer};
use super::grpc;
use super::headers::{self, BadHead, Said};
use super::ids::{self, RequestId};
use super::inside::Caller;
use super::respond::{Kind, Problem, respond};
use super::terms::{self, Terms};
use super::upgrade;
use super::via::Via;
use super::visit::Visit;
use crate::function::handle::{Function, Offered};
use crate::function::metrics::Why;

/// Answers a request: by the function, or by a problem of funcd's own.
pub(super) async fn handle(
    mut visit: Visit,
    mut request: Request<Incoming>,
) -> Result<Response<Reply>, Infallible> {
    let version = request.version();
    visit.is_call = grpc::is_call(request.headers());
    visit.settle(version);
    let caller = visit.connection().from.clone();
    let caller = caller.map(|outlet| Caller::of(outlet, request.headers_mut()));
    let id = ids::request_id(request.headers(), &mut *visit.worker().chance.borrow_mut());
    let (method, path) = (request.method().as_str(), request.uri().path());
    visit.record().asks(id.0.as_bytes(), method, path);
    match answer(&mut visit, request, &id, caller).await {
        Ok((answer, client)) => Ok(pass_on(visit, answer, client, &id)),
        Err(problem) => Ok(refuse(visit, &problem, version, &id)),
    }
}

/// The path.
async fn answer(
    visit: &mut Visit,
    mut request: Request<Incoming>,
    id: &RequestId,
    caller: Option<Caller>,
) -> Result<(Answer, Option<OnUpgrade>), Problem> {
    check_framing(visit.connection(), visit.number(), request.headers())?;
    let client = request
        .headers()
        .contains_key(header::UPGRADE)
        .then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    let host = headers::check(&parts).map_err(bad_head)?;

    let name = host
        .as_ref()
        .and_then(|host| host.to_str().ok())
        .map(headers::without_port);
    let (target, strip) = match &caller {
        Some(caller) => (visit.enters(caller)?, 0),
        None => {
            let found = visit.worker().route(name, parts.uri.path());
            found.ok_or_else(unknown_route)?
        }
    };
    visit.found(&target);

    let trusted = visit.connection().peer.borrow().trusted;
    let (terms, body_limit, one_at_a_time) = {
        let live = target.function.live();
        let manifest = &live.revision.manifest;
        let mut terms = match &caller {
            Some(caller) => caller.terms(&parts.headers, &manifest.request, visit.arrived()),
            None => Terms::of(&parts.headers, &manifest.request, trusted, visit.arrived()),
        };
        if manifest.contract.is_of_openfaas() {
            terms.heed_openfaas(&parts.headers, trusted, visit.arrived());
        }
        visit
            .record()
            .may_take(live.revision.id, terms.timeout(visit.arrived()));
        (terms, manifest.request.body, manifest.takes_one_connection())
    };
    visit.class = terms.class;
    if body.size_hint().lower() > body_limit {
        return Err(too_large(body_limit));
    }
    let place = target.enter().map_err(Problem::shed)?;
    let offered = offer(visit, &target.function, (&parts.headers, caller.as_ref()), &terms)?;
    visit.watch().set(&visit.watch().head, terms.deadline);

    let asked = headers::strip_request(&mut parts.headers, parts.version, trusted);
    let switch = asked.upgrade.is_some();
    {
        let mut chance = visit.worker().chance.borrow_mut();
        let peer = &mut *visit.connection().peer.borrow_mut();
        let said = Said {
            prefix: target.prefix.as_ref(),
            id,
            asked: &asked,
        };
        headers::add_request(&mut parts.headers, peer, host, said, &mut *chance);
    }
    terms.say_class(&mut parts.headers);
    if let Some(caller) = &caller {
        caller.say(&mut parts.headers);
    }
    if let brownout @ 1.. = visit.worker().shared.brownout() {
        parts
            .headers
            .insert(headers::X_FUNCD_BROWNOUT, HeaderValue::from(u16::from(brownout)));
    }
    parts.uri = headers::rewrite_target(&parts.uri, strip);
    frame_anew(&mut parts, &body);
    if one_at_a_time && !switch {
        // An idle connection would occupy a server that serves one connection at a time.
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    parts.version = Version::HTTP_11;
    let patience = visit.worker().shared.bounds.body_idle;
    let upload = Upload::new(body, body_limit, patience, visit.watch());
    let request = Request::from_parts(parts, upload);

    let now = Instant::now();
    target
        .function
        .metrics()
        .overhead
        .record(now.saturating_duration_since(visit.arrived()));
    visit.record().admit(now);
    let answer = forward::forward(
        &target.function,
        (offered, place),
        request,
        visit.on_its_way(),
        &terms,
    )
    .await?;
    let client = match (answer.response.status(), client) {
        (StatusCode::SWITCHING_PROTOCOLS, Some(client)) if switch => Some(client),
        (StatusCode::SWITCHING_PROTOCOLS, _) => {
            return Err(Problem::new(
                Kind::MalformedResponse,
                "the function switched protocols without being asked",
            ));
        }
        _ => None,
    };
    Ok((answer, client))
}

/// Asks admission, before anything of the request is worked on.
fn offer(
    visit: &Visit,
    function: &Arc<Function>,
    (headers, inside): (&HeaderMap, Option<&Caller>),
    terms: &Terms,
) -> Result<Offered, Problem> {
    let shared = &visit.worker().shared;
    let peer = visit.connection().peer.borrow();
    let address = inside.map_or(&peer.address, Caller::name);
    let caller = terms::caller(headers, address, peer.trusted, &shared.hasher);
    let rank = shared.ranks.rank(caller, visit.arrived());
    let chance = visit.worker().chance.borrow_mut().random();
    function
        .offer(&terms.facts(rank, visit.arrived()), chance)
        .map_err(unavailable)
}

/// Refuses the request that stands in for one that the inspector did not let through, and HTTP/2 heads that are too large.
pub(super) fn check_framing(
    connection: &Connection,
    number: u32,
    headers: &HeaderMap,
) -> Result<(), Problem> {
    let flaw = if connection.is_inspected() {
        connection.watch.flaw(number)
    } else {
        // As HTTP/2 counts them (RFC 9113, 10.5.1).
        let size = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 32;
        let bytes: usize = headers.iter().map(size).sum();
        (bytes > connection.worker.shared.bounds.head_bytes).then_some(Flaw::LargeHead)
    };
    let Some(flaw) = flaw else { return Ok(()) };
    let kind = match flaw {
        Flaw::LargeHead | Flaw::ManyFields => Kind::HeadTooLarge,
        Flaw::LongTarget => Kind::TargetTooLong,
        _ => Kind::BadRequest,
    };
    Err(Problem::new(kind, flaw.explain()).because(flaw.slug()).closing())
}

/// hyper writes a body of unknown length only when told to (for GET it would leave it out), and HTTP/2 callers need
/// not say that there is none.
pub(super) fn frame_anew(parts: &mut Parts, body: &Incoming) {
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        parts.headers.remove(header::CONTENT_LENGTH);
        parts
            .headers
            .insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    } else if body.is_end_stream() && matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) {
        parts
            .headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
}

/// The function's response as it is, but for the fields that end here and the request's id.
fn pass_on(mut visit: Visit, answer: Answer, client: Option<OnUpgrade>, id: &RequestId) -> Response<Reply> {
    let Answer {
        response,
        via,
        lease,
        permit,
    } = answer;
    let (mut parts, body) = response.into_parts();
    parts.version = Version::HTTP_11;
    headers::strip_response(&mut parts.headers, client.is_some());
    // What answers in another type is not told in the way of gRPC that it broke off: it would seem to be complete.
    visit.is_call &= grpc::is_call(&parts.headers);
    parts
        .headers
        .entry(ids::X_REQUEST_ID)
        .or_insert_with(|| id.0.clone());
    if visit.is_http1() && visit.watch().is_uploading() && client.is_none() {
        // What is left of the body would have to be read before the next request. Closing with it unread resets the
        // connection, and the answer may be lost: the caller is told, and its body dropped for a while.
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
        visit.linger();
    }
    let reply = match client {
        Some(client) => {
            if let Some(Via::Connection(upstream)) = via {
                upgrade::open(client, upstream, (lease, permit), visit);
            }
            Reply::Own {
                bytes: bytes::Bytes::new(),
                _visit: None,
            }
        }
        None => {
            visit.answered(parts.status);
            Reply::Function(Download::new(body, via, lease, permit, visit))
        }
    };
    Response::from_parts(parts, reply)
}

/// An answer of funcd's own.
fn refuse(mut visit: Visit, problem: &Problem, version: Version, id: &RequestId) -> Response<Reply> {
    let row = problem.kind.row();
    visit.answered(row.status);
    let is_shed = matches!(
        problem.kind,
        Kind::Shed(_) | Kind::Unavailable | Kind::Quarantined
    );
    if !is_shed {
        visit.failed(problem.reason.unwrap_or(row.slug));
    }
    visit.refused(problem, is_shed);
    let id_text = id.0.to_str().unwrap_or("");
    match problem.kind {
        // What callers do wrong, or bring about, must not fill the log; nor what is known and logged once already.
        Kind::Shed(_) | Kind::Unavailable | Kind::Quarantined => {
            visit.shed(match problem.kind {
                Kind::Shed(reason) => Why::Admission(reason),
                Kind::Quarantined => Why::Quarantined,
                _ => Why::Unavailable,
            });
            debug!(
                function = visit.function(),
                request_id = id_text,
                reason = row.slug,
                "a request was shed"
            );
            if let Some(others) = visit.worker().sheds.may(visit.arrived()) {
                warn!(
                    function = visit.function(),
                    request_id = id_text,
                    reason = row.slug,
                    class = visit.class.name(),
                    detail = &*problem.detail,
                    others,
                    "requests are shed: one a second is written here, `others` were shed since the last"
                );
            }
        }
        kind if row.status.is_client_error() && kind != Kind::ExecTimeout => {}
        _ => {
            if let Some(others) = visit.worker().failures.may(visit.arrived()) {
                warn!(
                    function = visit.function(),
                    request_id = id_text,
                    reason = row.slug,
                    detail = &*problem.detail,
                    others = (others > 0).then_some(others),
                    "a request failed"
                );
            }
        }
    }
    if problem.close {
        visit.linger();
    }
    let response = {
        let mut chance = visit.worker().chance.borrow_mut();
        respond(
            problem,
            (version, visit.is_call),
            (visit.function(), visit.class),
            id,
            &mut *chance,
        )
    };
    response.map(|bytes| Reply::Own {
        bytes,
        _visit: Some(visit),
    })
}

fn unknown_route() -> Problem {
    Problem::new(
        Kind::UnknownRoute,
        "no function has this host and path; functions answer at /<name>/ unless their manifest has routes",
    )
}

fn too_large(limit: u64) -> Problem {
    Problem::new(
        Kind::BodyTooLarge,
        format!("the function takes bodies of up to {limit} bytes"),
    )
    .closing()
}

pub(super) fn bad_head(bad: BadHead) -> Problem {
    let (kind, reason, detail) = match bad {
        BadHead::Connect => (Kind::MethodNotAllowed, "connect", "CONNECT is not served"),
        BadHead::Target => (
            Kind::BadRequest,
            "target",
            "the target is neither a path nor an absolute URI",
        ),
        BadHead::NoHost => (Kind::BadRequest, "no-host", "HTTP/1.1 needs a Host field"),
        BadHead::Host => (
            Kind::BadRequest,
            "host",
            "Host is not one host with an optional port",
        ),
        BadHead::Expectation => (
            Kind::ExpectationFailed,
            "expectation",
            "only 100-continue can be expected",
        ),
    };
    Problem::new(kind, detail).because(reason).closing()
}
