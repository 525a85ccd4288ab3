//! The routes of the admin API and of its TCP part: each asks one source and answers with one document. All but one are GET.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http_body::Frame;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::explain::explain;
use super::host::{brownout, now as host_now};
use super::requests::{Now, Requests};
use super::view::{ConfigView, Document, Instances, Problem, Snapshot, Upgraded, Version, functions};
use super::{Ask, Readiness, Sources, Upgrade};
use crate::admission::brownout::Stage;
use crate::ledger::Wanted;
use crate::name::FunctionName;
use crate::telemetry::capture::Follow;
use crate::telemetry::metrics::{record_process, render, revision_info};
use crate::telemetry::record::Record;

/// `control` answers at once, unless something is badly wrong.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(2);
/// Clients that may follow logs at once.
const MAX_FOLLOWERS: usize = 32;
/// Lines of log that are given when none are asked for.
const DEFAULT_LINES: usize = 100;
/// Requests that are given when no number is asked for.
const DEFAULT_REQUESTS: usize = 20;
/// Requests that are given for one id.
const SAME_ID: usize = 10;

/// What handlers share.
#[derive(Debug, Clone)]
struct Shared {
    sources: Arc<Sources>,
    followers: Arc<Semaphore>,
}

/// The routes of the Unix socket.
pub fn full(sources: Arc<Sources>) -> Router {
    let context = Shared {
        sources: Arc::clone(&sources),
        followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
    };
    let own = Router::new()
        .route("/v1/functions", get(list))
        .route("/v1/functions/{name}/logs", get(logs))
        .route("/v1/functions/{name}/sandbox", get(sandbox))
        .route("/v1/instances", get(instances))
        .route("/v1/requests", get(requests))
        .route("/v1/requests/{id}", get(request))
        .route("/v1/doctor", get(doctor))
        .route("/v1/host", get(host))
        .route("/v1/config", get(config))
        .route("/v1/version", get(version))
        .route("/v1/upgrade", post(upgrade))
        .with_state(context);
    own.merge(observe(sources)).method_not_allowed_fallback(only_get)
}

/// The routes that the TCP socket has too: they tell nothing about functions but numbers.
pub fn observe(sources: Arc<Sources>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/healthz", get(readyz))
        .fallback(|| async {
            problem(
                StatusCode::NOT_FOUND,
                "no such resource: docs/api.md lists them all",
            )
        })
        .method_not_allowed_fallback(only_get)
        .with_state(sources)
}

async fn only_get() -> Response {
    problem(
        StatusCode::METHOD_NOT_ALLOWED,
        "all requests but POST /v1/upgrade are GET: functions come and go with their files in the functions folder",
    )
}

/// An answer that is not a success.
pub(super) fn problem(status: StatusCode, detail: impl Into<String>) -> Response {
    let problem = Problem {
        status: status.as_u16(),
        detail: detail.into(),
    };
    let headers = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, headers, Json(problem)).into_response()
}

fn document<T: Serialize>(body: T) -> Response {
    Json(Document::new(body)).into_response()
}

async fn snapshot(sources: &Sources) -> Result<Snapshot, Response> {
    let (answer, answered) = oneshot::channel();
    let ask = async {
        sources.control.send(Ask(answer)).await.ok()?;
        answered.await.ok()
    };
    match tokio::time::timeout(CONTROL_TIMEOUT, ask).await {
        Ok(Some(snapshot)) => Ok(snapshot),
        Ok(None) | Err(_) => Err(problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "the control thread does not answer: look at funcd's own log, and restart funcd if this lasts",
        )),
    }
}

async fn list(State(context): State<Shared>) -> Result<Response, Response> {
    let snapshot = snapshot(&context.sources).await?;
    let entries = context.sources.entries.borrow().clone();
    Ok(document(functions(
        &entries,
        snapshot.functions,
        context.sources.doctor.degraded(),
    )))
}

async fn instances(State(context): State<Shared>) -> Result<Response, Response> {
    let instances = snapshot(&context.sources).await?.instances;
    let degraded = context.sources.doctor.degraded();
    let state = context.sources.host.borrow().clone();
    let acts = context.sources.config.borrow().brownout;
    let held_back = state.brownout.stage() != Stage::None;
    let brownout = held_back.then(|| brownout(&state, acts));
    Ok(document(Instances {
        instances,
        degraded,
        brownout,
    }))
}

async fn sandbox(State(context): State<Shared>, Path(name): Path<String>) -> Result<Response, Response> {
    let name = FunctionName::parse(&name).map_err(|e| problem(StatusCode::BAD_REQUEST, e.to_string()))?;
    let snapshot = snapshot(&context.sources).await?;
    let Some(revision) = snapshot.revisions.get(name.as_str()) else {
        let detail = format!("there is no function {name}: `funcd ls` shows what there is");
        return Err(problem(StatusCode::NOT_FOUND, detail));
    };
    let config = context.sources.config.borrow().clone();
    Ok(document(explain(
        &name,
        revision,
        &config,
        &context.sources.doctor,
        true,
    )))
}

/// The query of the requests: whose, whether only those that failed or are on their way, and how many.
#[derive(Debug, Deserialize)]
struct RequestsQuery {
    function: Option<String>,
    #[serde(default)]
    failed: bool,
    #[serde(default)]
    in_flight: bool,
    limit: Option<usize>,
}

async fn requests(
    State(context): State<Shared>,
    Query(query): Query<RequestsQuery>,
) -> Result<Response, Response> {
    let wanted = Wanted {
        id: None,
        function: query.function,
        failed: query.failed,
        open: query.in_flight,
        most: query.limit.unwrap_or(DEFAULT_REQUESTS),
    };
    Ok(document(remembered(&context.sources, wanted).await?))
}

async fn request(State(context): State<Shared>, Path(id): Path<String>) -> Result<Response, Response> {
    let wanted = Wanted {
        id: Some(id),
        most: SAME_ID,
        ..Wanted::default()
    };
    let found = remembered(&context.sources, wanted).await?;
    if found.requests.is_empty() {
        let since = &found.remembered;
        let detail = format!(
            "no request with this id is on its way or remembered. This host remembers those that were answered at once since {}, \
             those that failed, were slow, cold or tried again since {}, and those that were refused since {}. `funcd requests` \
             lists the last; older ones may be in the log of whatever stands before funcd",
            since.ordinary_since, since.notable_since, since.refused_since
        );
        return Err(problem(StatusCode::NOT_FOUND, detail));
    }
    Ok(document(found))
}

async fn remembered(sources: &Sources, wanted: Wanted) -> Result<Requests, Response> {
    let Some(found) = sources.ledgers.look_up(&wanted).await else {
        return Err(problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "no worker answers: funcd is starting or stopping, try again; if this lasts, look at funcd's own log",
        ));
    };
    // Exits only add to it: without control the timeline is still true.
    let instances = snapshot(sources)
        .await
        .map_or_else(|_| Vec::new(), |known| known.instances);
    let exits = |function: &str, instance: u64| {
        let row = instances.iter().find(|row| row.function == function)?;
        let exit = row.last_exit.clone()?;
        (exit.instance == Some(instance)).then_some(exit)
    };
    Ok(super::requests::requests(&found, Now::read(), exits))
}

async fn host(State(context): State<Shared>) -> Response {
    let acts = context.sources.config.borrow().brownout;
    document(host_now(&context.sources.host.borrow(), acts))
}

async fn doctor(State(context): State<Shared>) -> Response {
    document(&context.sources.doctor)
}

async fn config(State(context): State<Shared>) -> Response {
    let config = context.sources.config.borrow().as_ref().clone();
    document(ConfigView { config })
}

/// Answered once another supervisor serves, or when it is known that none will.
async fn upgrade(State(context): State<Shared>) -> Result<Response, Response> {
    let (answer, answered) = oneshot::channel();
    let asked = context.sources.upgrades.send(Upgrade(answer)).await;
    let result = match asked {
        Ok(()) => answered.await.ok(),
        Err(_) => None,
    };
    match result {
        Some(Ok(funcd)) => Ok(document(Upgraded {
            funcd,
            before: Version::of_this_program().funcd,
        })),
        Some(Err(why)) => Err(problem(StatusCode::CONFLICT, format!("not upgraded: {why}"))),
        None => Err(problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "the control thread does not answer: look at funcd's own log",
        )),
    }
}

async fn version() -> Response {
    document(Version::of_this_program())
}

async fn metrics(State(sources): State<Arc<Sources>>) -> Response {
    record_process();
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    let mut text = render(&sources.metrics);
    // Without control all others are still true.
    if let Ok(known) = snapshot(&sources).await {
        let served = known.revisions.iter().map(|(function, revision)| {
            let (id, digest) = (revision.id.to_string(), revision.artifact.to_string());
            (function.as_str(), id, digest)
        });
        text += &revision_info(served);
    }
    (kind, text).into_response()
}

/// The query of the health paths: `?verbose` or `?verbose=…`.
#[derive(Debug, Deserialize)]
struct HealthQuery {
    verbose: Option<String>,
}

async fn readyz(State(sources): State<Arc<Sources>>, Query(query): Query<HealthQuery>) -> Response {
    let readiness = *sources.readiness.borrow();
    let phase = match readiness {
        Readiness::Starting => Err("starting: the folder was not scanned yet"),
        Readiness::Ready => Ok(()),
        Readiness::Draining => Err("draining: told to stop"),
    };
    let control = match snapshot(&sources).await {
        Ok(_) => Ok(()),
        Err(_) => Err("the control thread does not answer"),
    };
    let checks = [("phase", phase), ("control", control)];
    let status = match checks.iter().all(|(_, check)| check.is_ok()) {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let word = if status.is_success() {
        "ok\n"
    } else {
        "not ready\n"
    };
    if query.verbose.is_none() {
        return (status, word).into_response();
    }
    let line = |(name, check): &(&str, Result<(), &str>)| match check {
        Ok(()) => format!("[+]{name} ok\n"),
        Err(why) => format!("[-]{name} {why}\n"),
    };
    let text: String = checks.iter().map(line).collect();
    (status, text + word).into_response()
}

/// The query of the logs: how many of the last lines, and whether to go on with what follows.
#[derive(Debug, Deserialize)]
struct LogsQuery {
    lines: Option<usize>,
    #[serde(default)]
    follow: bool,
}

async fn logs(
    State(context): State<Shared>,
    Path(name): Path<String>,
    Query(query): Query<LogsQuery>,
) -> Result<Response, Response> {
    let name = FunctionName::parse(&name).map_err(|e| problem(StatusCode::BAD_REQUEST, e.to_string()))?;
    let sources = &context.sources;
    let lines = query.lines.unwrap_or(DEFAULT_LINES);
    let unreadable = |e: std::io::Error| {
        let detail = format!("the log of {name} can't be read: {e}");
        problem(StatusCode::INTERNAL_SERVER_ERROR, detail)
    };
    let records = sources.logs.tail(&name, lines).map_err(unreadable)?;
    let known = records.is_some() || sources.entries.borrow().contains_key(name.as_str());
    if !known {
        let detail =
            format!("there is no function {name}, and no log of one: `funcd ls` shows what there is");
        return Err(problem(StatusCode::NOT_FOUND, detail));
    }
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    if !query.follow {
        let text: String = records.unwrap_or_default().iter().map(ndjson).collect();
        return Ok((kind, text).into_response());
    }
    let Ok(permit) = Arc::clone(&context.followers).try_acquire_owned() else {
        let detail = format!("{MAX_FOLLOWERS} clients follow logs already: end one of them");
        return Err(problem(StatusCode::SERVICE_UNAVAILABLE, detail));
    };
    let (records, follow) = sources.logs.follow(&name, lines).map_err(unreadable)?;
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(send_all(records, follow, sender, permit));
    Ok((kind, Body::new(Lines(receiver))).into_response())
}

fn ndjson(record: &Record) -> String {
    serde_json::to_string(record).expect("a record has string keys and no failing field") + "\n"
}

/// Sends the tail and then what follows, until the client is gone.
async fn send_all(
    records: Vec<Record>,
    mut follow: Follow,
    sender: mpsc::Sender<Bytes>,
    _permit: OwnedSemaphorePermit,
) {
    let tail: String = records.iter().map(ndjson).collect();
    if sender.send(tail.into()).await.is_err() {
        return;
    }
    loop {
        let record = tokio::select! {
            () = sender.closed() => return,
            record = follow.next() => record,
        };
        if sender.send(ndjson(&record).into()).await.is_err() {
            return;
        }
    }
}

/// A body of lines as they come.
struct Lines(mpsc::Receiver<Bytes>);

impl http_body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.get_mut().0.poll_recv(cx);
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
