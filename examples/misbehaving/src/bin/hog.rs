//! Takes what it can get: `/memory?mb=512` touches that much memory and keeps it, `/cpu?ms=500` spins,
//! `/spin` answers and spins on.

use std::hint::black_box;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::{Request, Response};
use misbehaving::{Body, number, serve, status};

async fn respond(request: Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/memory" => {
            for _ in 0..number(&request, "mb", 512) {
                // Not zeros: those would be pages that nobody has touched.
                black_box(Vec::leak(vec![1u8; 1 << 20]));
            }
            status(200, "took it\n")
        }
        "/cpu" => {
            let until = Instant::now() + Duration::from_millis(number(&request, "ms", 500));
            tokio::task::spawn_blocking(move || while Instant::now() < until {})
                .await
                .expect("a loop does not panic");
            status(200, "spun\n")
        }
        "/spin" => {
            std::thread::spawn(|| {
                loop {
                    std::hint::spin_loop();
                }
            });
            status(200, "spins\n")
        }
        _ => status(200, "ok\n"),
    }
}

fn main() -> std::io::Result<()> {
    serve(respond)
}
