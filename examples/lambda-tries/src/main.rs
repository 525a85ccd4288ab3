//! What funcd's tests ask of a Lambda function with the runtime crate of AWS. An event says what to `do`, a request says it in
//! its path.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use lambda_runtime::{
    Error, FunctionResponse, LambdaEvent, MetadataPrelude, StreamResponse, run_concurrent, service_fn,
};
use serde_json::{Value, json};

/// Invocations that are worked on now, and the most that ever were.
static NOW: AtomicU64 = AtomicU64::new(0);
static MOST: AtomicU64 = AtomicU64::new(0);

type Pieces = BoxStream<'static, Result<Vec<u8>, Infallible>>;
type Answer = FunctionResponse<Value, BoxStream<'static, Result<Vec<u8>, Error>>>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    if std::env::var("TRIES_INIT").as_deref() == Ok("exit") {
        return Err("told to end before the first event".into());
    }
    run_concurrent(service_fn(answer)).await
}

async fn answer(event: LambdaEvent<Value>) -> Result<Answer, Error> {
    let (event, context) = event.into_parts();
    let path = event["rawPath"].as_str().unwrap_or_default();
    let mut words = path.trim_start_matches('/').split('/');
    let what = event["do"].as_str().or_else(|| words.next()).unwrap_or_default();
    let number = event["number"]
        .as_u64()
        .or_else(|| words.next()?.parse().ok())
        .unwrap_or(0);
    let whole = |value: Value| Ok(FunctionResponse::BufferedResponse(value));
    match what {
        "event" => whole(event),
        "context" => whole(json!({
            "id": context.request_id,
            "left": context.deadline.saturating_sub(now()),
            "arn": context.invoked_function_arn,
            "trace": context.xray_trace_id,
            "client": context.client_context,
            "memory": context.env_config.memory,
        })),
        "text" => whole(json!("text")),
        "status" => whole(json!({"statusCode": number})),
        "large" => whole(json!("x".repeat(number as usize))),
        "fail" => Err("told to fail".into()),
        "panic" => panic!("told to panic"),
        "exit" => std::process::exit(number as i32),
        "sleep" => {
            tokio::time::sleep(Duration::from_millis(number)).await;
            whole(json!("slept"))
        }
        // Answers when so many are here at once.
        "meet" => {
            MOST.fetch_max(NOW.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            while MOST.load(Ordering::SeqCst) < number {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            whole(json!(MOST.load(Ordering::SeqCst)))
        }
        // So many pieces; one more breaks off.
        "stream" => Ok(streamed(number, false)),
        "break" => Ok(streamed(number, true)),
        _ => whole(json!({"statusCode": 404})),
    }
}

fn streamed(pieces: u64, breaks: bool) -> Answer {
    let mut prelude = MetadataPrelude::default();
    prelude
        .headers
        .insert("content-type", "text/event-stream".parse().expect("a type"));
    prelude.headers.insert("x-pieces", pieces.into());
    prelude.cookies.push("streamed=yes; Secure".to_owned());
    let data = |n| Ok::<_, Infallible>(format!("data: {n}\n\n").into_bytes());
    let all: Pieces = stream::iter(0..pieces).map(data).boxed();
    let end = stream::iter(breaks.then(|| Err(Error::from("told to break off"))));
    FunctionResponse::StreamingResponse(StreamResponse {
        metadata_prelude: prelude,
        stream: all.map(|piece| piece.map_err(Error::from)).chain(end).boxed(),
    })
}

fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as u64)
}
