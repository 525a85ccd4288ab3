//! `/daemonise` leaves a grandchild behind that has a session of its own and never ends; the answer is its pid as it sees
//! itself. `/` says ok.

use std::io::Read;

use hyper::body::Incoming;
use hyper::{Request, Response};
use misbehaving::{Body, serve, status};
use nix::unistd::{ForkResult, fork, getpid, pause, pipe, setsid, write};

fn daemonise() -> std::io::Result<i32> {
    let (read, told) = pipe()?;
    // SAFETY: child and grandchild call only async-signal-safe functions: setsid, fork, getpid, write, pause, _exit.
    unsafe {
        if let ForkResult::Child = fork()? {
            let _ = setsid();
            if let Ok(ForkResult::Child) = fork() {
                let _ = write(&told, &getpid().as_raw().to_ne_bytes());
                loop {
                    pause();
                }
            }
            nix::libc::_exit(0);
        }
    }
    drop(told);
    let mut pid = [0; 4];
    let mut read = std::fs::File::from(read);
    read.read_exact(&mut pid)?;
    let _ = nix::sys::wait::wait(); // the child in between
    Ok(i32::from_ne_bytes(pid))
}

async fn respond(request: Request<Incoming>) -> Response<Body> {
    if request.uri().path() != "/daemonise" {
        return status(200, "ok\n");
    }
    match daemonise() {
        Ok(pid) => status(200, format!("{pid}\n")),
        Err(error) => status(500, format!("{error}\n")),
    }
}

fn main() -> std::io::Result<()> {
    serve(respond)
}
