//! Takes its time: `/?ms=500` before the head; `/stream?ms=50&n=10` between n pieces of the body.
//! `/asked` tells how many requests there were before. `START_MS` delays its start.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use misbehaving::{Body, number, pieces, serve, status};
use tokio::time::sleep;

static ASKED: AtomicUsize = AtomicUsize::new(0);

async fn respond(request: Request<Incoming>) -> Response<Body> {
    let before = ASKED.fetch_add(1, Ordering::SeqCst);
    if request.uri().path() == "/asked" {
        return status(200, format!("{before}\n"));
    }
    let (ms, n) = (number(&request, "ms", 500), number(&request, "n", 10));
    if request.uri().path() == "/stream" {
        return Response::new(pieces(move |at| async move {
            if at > 0 {
                sleep(Duration::from_millis(ms)).await;
            }
            (at < n).then(|| Bytes::from(format!("piece {at}\n")))
        }));
    }
    sleep(Duration::from_millis(ms)).await;
    status(200, "slept\n")
}

fn main() -> std::io::Result<()> {
    if let Some(ms) = std::env::var("START_MS").ok().and_then(|ms| ms.parse().ok()) {
        std::thread::sleep(Duration::from_millis(ms));
    }
    serve(respond)
}
