//! Takes what it can get: `/memory?mb=512` touches that much memory and keeps it, `/cpu?ms=500` spins,
//! `/spin` answers and spins on, `/files` opens descriptors until it is refused and keeps them, `/shout` answers and writes lines
//! to its stdout for ever.

use std::hint::black_box;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
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
        "/files" => {
            let mut opened = 0;
            while let Ok(files) = UnixStream::pair() {
                Box::leak(Box::new(files));
                opened += 2;
            }
            status(200, format!("{opened}\n"))
        }
        "/shout" => {
            std::thread::spawn(|| {
                let line = [b'!'; 120];
                // A log that takes no more is no reason to be quiet.
                loop {
                    let _ = writeln!(io::stdout(), "{}", String::from_utf8_lossy(&line));
                }
            });
            status(200, "shouts\n")
        }
        _ => status(200, "ok\n"),
    }
}

fn main() -> std::io::Result<()> {
    serve(respond)
}
