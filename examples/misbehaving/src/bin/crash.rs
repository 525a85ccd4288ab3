//! Dies when asked: `/?code=3` exits, `/?signal=11` raises, `/half` dies in the middle of a response, and `CRASH=start`
//! in the environment dies before it accepts. Any other path answers its pid.

use std::process;
use std::time::Duration;

use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper::{Request, Response};
use misbehaving::{Body, param, pieces, serve, status};
use nix::sys::signal::{Signal, raise};

async fn respond(request: Request<Incoming>) -> Response<Body> {
    if let Some(code) = param(&request, "code").and_then(|code| code.parse().ok()) {
        eprintln!("exit with {code}, as asked");
        process::exit(code);
    }
    if let Some(signal) = param(&request, "signal").and_then(|signal| signal.parse::<i32>().ok()) {
        let signal = Signal::try_from(signal).expect("the test names a signal");
        raise(signal).expect("raise has no way to fail");
    }
    if request.uri().path() == "/half" {
        let mut response = Response::new(pieces(|at| async move {
            if at == 1 {
                // Time for the first half to be flushed; what is tested is not when, but that it breaks off.
                tokio::time::sleep(Duration::from_millis(50)).await;
                process::exit(9);
            }
            Some(Bytes::from_static(b"half of it\n"))
        }));
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from_static("22"));
        return response;
    }
    status(200, format!("{}\n", process::id()))
}

fn main() -> std::io::Result<()> {
    if std::env::var("CRASH").is_ok_and(|when| when == "start") {
        eprintln!("crash at start, as asked");
        process::exit(7);
    }
    serve(respond)
}
