//! Works as asked: `/?cpu_us=2000` takes that much CPU of its only thread, `/?wait_ms=50` waits without any, as for something
//! slow; both do both, the CPU first. `/pid` answers its pid.

use std::hint::spin_loop;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, Response};
use misbehaving::{Body, number, serve, status};
use nix::time::{ClockId, clock_gettime};

/// What this thread has used: a thread that others keep waiting works no less for it.
fn used() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("every Linux has it")
        .into()
}

async fn respond(request: Request<Incoming>) -> Response<Body> {
    if request.uri().path() == "/pid" {
        return status(200, format!("{}\n", std::process::id()));
    }
    let until = used() + Duration::from_micros(number(&request, "cpu_us", 0));
    while used() < until {
        (0..500).for_each(|_| spin_loop());
    }
    let wait = Duration::from_millis(number(&request, "wait_ms", 0));
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
    status(200, "done\n")
}

fn main() -> std::io::Result<()> {
    serve(respond)
}
