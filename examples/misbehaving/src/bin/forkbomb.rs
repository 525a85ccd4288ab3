//! `/bomb` forks until it is refused, and says how many children that were and with which errno. They stay until killed, and pause,
//! or spin with `/bomb?then=spin`.

use hyper::body::Incoming;
use hyper::{Request, Response};
use misbehaving::{Body, param, serve, status};
use nix::unistd::{ForkResult, fork, pause};

/// A sandbox that lets more than this through has failed; the machine should live to tell.
const ENOUGH: usize = 2_000;

fn bomb(spin: bool) -> (usize, String) {
    for forked in 0..ENOUGH {
        // SAFETY: the child calls at most pause, which is async-signal-safe.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => loop {
                if spin {
                    std::hint::spin_loop();
                } else {
                    pause();
                }
            },
            Ok(ForkResult::Parent { .. }) => {}
            Err(errno) => return (forked, format!("{errno:?}")),
        }
    }
    (ENOUGH, "never".to_owned())
}

async fn respond(request: Request<Incoming>) -> Response<Body> {
    if request.uri().path() != "/bomb" {
        return status(200, "ok\n");
    }
    let (forked, refused) = bomb(param(&request, "then") == Some("spin"));
    status(
        200,
        serde_json::json!({"forked": forked, "refused": refused}).to_string(),
    )
}

fn main() -> std::io::Result<()> {
    serve(respond)
}
