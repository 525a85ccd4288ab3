//! When a starting instance is ready: it accepts a connection, or its health path answers. One task per start; ends
//! with the instance.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc;

use super::handle::ToControl;
use super::instance::{Address, Instance, Stream};
use crate::catalog::manifest::H2c;

/// A function that was started for a request usually answers it within this; then no probe is made.
const PATIENCE: Duration = Duration::from_millis(50);
/// The first pause between looks, then twice as long each time up to the longest.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LONGEST_LOOK: Duration = Duration::from_millis(20);
/// A health request that takes longer is given up and made again; one to warm up is given up.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// Waits until the instance is ready, then tells `control`. `listener` is the instance's own listening socket, for
/// [`Address::Unix`]. With `requests_wait` the first look is put off: the answer to one of them is the better proof.
pub(super) async fn prove(
    instance: Arc<Instance>,
    listener: Option<OwnedFd>,
    requests_wait: bool,
    control: mpsc::UnboundedSender<ToControl>,
) {
    let health = instance.revision.manifest.health.path.clone();
    if let Address::Lambda(api) = &instance.address
        && !api.ready().await
    {
        return;
    }
    if requests_wait && is_leased_while_starting(&instance) {
        tokio::time::sleep(PATIENCE).await;
    }
    let mut probed = false;
    let mut pause = FIRST_LOOK;
    // Whoever has a pipe needs no socket: it runs, and so it is ready.
    if let Address::Pipes(_) = instance.address {
        let _ = control.send(ToControl::Answered(instance.id));
        return;
    }
    while instance.is_accepting() && !instance.has_answered() {
        let ready = match (&health, &instance.address, &listener) {
            (Some(path), _, _) => answers(&instance, path).await,
            (None, Address::Unix(_), Some(listener)) => {
                // It is ready when it took the probe out of the listener's queue, where that stays when it is closed: held
                // open it would keep a server of one connection at a time from the requests behind it, for ever.
                probed = probed || instance.dial().await.is_ok();
                probed && queue_is_empty(listener)
            }
            // It has asked for a request.
            (None, Address::Lambda(_), _) => true,
            // A connection alone may occupy it: the socket is enough.
            (None, Address::Directory(directory), _) => match directory.look() {
                Ok(()) => true,
                Err(e) => {
                    // Nobody who means well puts anything else there for a moment.
                    if e.kind() == std::io::ErrorKind::PermissionDenied {
                        let _ = control.send(ToControl::Refused(instance.id, e.to_string()));
                        return;
                    }
                    false
                }
            },
            (None, _, _) => instance.dial().await.is_ok(),
        };
        if ready {
            warm_up(&instance).await;
            let _ = control.send(ToControl::Answered(instance.id));
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_LOOK);
    }
}

/// Whether requests are sent before it is known to be ready: they wait in its socket, which was bound before it.
pub(super) fn is_leased_while_starting(instance: &Instance) -> bool {
    let health = &instance.revision.manifest.health;
    matches!(instance.address, Address::Unix(_)) && health.path.is_none() && health.warmup.is_empty()
}

/// Asks what the manifest says, once each: that is for what the function loads by that, whatever it answers.
async fn warm_up(instance: &Instance) {
    for path in &instance.revision.manifest.health.warmup {
        if !instance.is_accepting() {
            return;
        }
        if let Some(status) = ask(instance, path, "funcd-warmup", HEALTH_TIMEOUT).await {
            tracing::debug!(instance = %instance.id, path, status = status.as_u16(), "warmed up");
        } else {
            tracing::warn!(instance = %instance.id, path, "a warm-up request was not answered");
        }
    }
}

/// Whether every connection made to a listening socket was accepted.
fn queue_is_empty(listener: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
}

/// Whether `path` answers 2xx or 3xx.
async fn answers(instance: &Instance, path: &str) -> bool {
    let status = ask(instance, path, "funcd-health", HEALTH_TIMEOUT).await;
    status.is_some_and(|status| status.is_success() || status.is_redirection())
}

/// What `path` answers, if it does in time.
pub(super) async fn ask(
    instance: &Instance,
    path: &str,
    agent: &'static str,
    patience: Duration,
) -> Option<http::StatusCode> {
    let ask = async {
        let stream = instance.dial().await.ok()?;
        if instance.revision.manifest.h2c == H2c::Always {
            return ask_over_http2(stream, path, agent).await;
        }
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .ok()?;
        let request = http::Request::get(path)
            .header(http::header::HOST, "localhost")
            .header(http::header::USER_AGENT, agent)
            .body(Empty::<Bytes>::new())
            .ok()?;
        let mut response = std::pin::pin!(sender.send_request(request));
        tokio::select! {
            response = &mut response => Some(response.ok()?.status()),
            // Many servers close with the answer: it came, all the same.
            _ = connection => Some(response.await.ok()?.status()),
        }
    };
    tokio::time::timeout(patience, ask).await.ok().flatten()
}

/// The same, of a function that is spoken to in HTTP/2.
async fn ask_over_http2(stream: Stream, path: &str, agent: &'static str) -> Option<http::StatusCode> {
    let (mut sender, connection) = h2::client::handshake(stream).await.ok()?;
    let request = http::Request::get(format!("http://localhost{path}"))
        .version(http::Version::HTTP_2)
        .header(http::header::USER_AGENT, agent)
        .body(())
        .ok()?;
    let (mut response, _) = sender.send_request(request, true).ok()?;
    tokio::select! {
        response = &mut response => Some(response.ok()?.status()),
        _ = connection => Some(response.await.ok()?.status()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use funcd_sandbox::spec::InstanceId;

    use super::*;

    #[tokio::test]
    async fn an_answer_that_closes_its_connection_is_one() {
        const TIMES: usize = 50;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            for stream in listener.incoming().take(TIMES + 1) {
                let mut stream = stream.unwrap();
                let mut head = [0; 4096];
                let read = stream.read(&mut head).unwrap();
                // The control: one that closes without an answer.
                if !head[..read].starts_with(b"GET /nothing") {
                    stream
                        .write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
                        .unwrap();
                }
            }
        });
        let revision = crate::ingress::tests::revision(0, crate::ingress::tests::manifest());
        let instance = Instance::new(InstanceId(1), revision, Address::Unix(path));
        let patience = Duration::from_secs(20);
        for _ in 0..TIMES {
            let status = ask(&instance, "/", "test", patience).await;
            assert_eq!(status.map(|status| status.as_u16()), Some(204));
        }
        assert_eq!(ask(&instance, "/nothing", "test", patience).await, None);
        server.join().unwrap();
    }
}
