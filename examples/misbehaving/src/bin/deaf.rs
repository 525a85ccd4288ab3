//! Ignores SIGTERM. Answers its pid.

use hyper::body::Incoming;
use hyper::{Request, Response};
use misbehaving::{Body, serve, status};
use nix::sys::signal::{SigHandler, Signal, signal};

async fn respond(_: Request<Incoming>) -> Response<Body> {
    status(200, format!("{}\n", std::process::id()))
}

fn main() -> std::io::Result<()> {
    // SAFETY: ignoring a signal installs no handler.
    unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }?;
    serve(respond)
}
