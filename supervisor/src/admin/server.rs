//! Accepts the connections of the admin API, checks who they are from, and keeps them few and short. Knows no route.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::peer::Peers;
use super::{Sources, api};

/// Connections that may be open at once, for each of the two listeners; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 64;
/// A request head must arrive within this; a connection without a request is closed after it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest request head, in bytes.
const HEAD_BYTES: usize = 16 * 1024;
/// A connection over TCP lives this long at most: whoever scrapes connects again.
const TCP_LIFE: Duration = Duration::from_secs(120);
/// After a failed accept (no descriptor left): others may finish meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the whole API on the Unix socket that the launcher made. Runs until dropped; needs a tokio runtime.
///
/// # Errors
/// When the descriptor is not a listening Unix socket.
pub async fn serve_unix(
    listener: std::os::unix::net::UnixListener,
    peers: Peers,
    sources: Arc<Sources>,
    places: Places,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let (router, refusal) = (api::full(sources), refusal());
    let accept = async || {
        let (stream, _) = listener.accept().await?;
        let uid = stream.peer_cred()?.uid();
        let admitted = peers.admit(uid);
        if !admitted {
            tracing::warn!(uid, "a connection to the admin socket was refused");
        }
        let router = if admitted { &router } else { &refusal };
        Ok(serve(stream, router.clone()))
    };
    serve_all(accept, places.0).await
}

/// Connections of the Unix socket.
#[derive(Debug, Clone)]
pub struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Places {
        Places(Arc::new(Semaphore::new(MAX_CONNECTIONS)))
    }
}

impl Places {
    /// Waits until all have ended, when no more are accepted.
    pub async fn all_free(&self) {
        let _ = self.0.acquire_many(MAX_CONNECTIONS as u32).await;
    }
}

/// Serves metrics and health on a TCP socket. Runs until dropped; needs a tokio runtime.
///
/// # Errors
/// When the descriptor is not a listening TCP socket.
pub async fn serve_tcp(listener: std::net::TcpListener, sources: Arc<Sources>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let router = api::observe(sources);
    let accept = async || {
        let (stream, _) = listener.accept().await?;
        let serve = serve(stream, router.clone());
        Ok(async move {
            // Over time, the connection is dropped: a client that reads slowly must not hold it for ever.
            let _ = tokio::time::timeout(TCP_LIFE, serve).await;
        })
    };
    serve_all(accept, Places::default().0).await
}

/// What who may not use the API is answered, whatever the request.
fn refusal() -> Router {
    Router::new().fallback(|| async {
        let detail =
            "you may not use the admin API: be root, the user that funcd runs as, or a member of its group";
        api::problem(StatusCode::FORBIDDEN, detail)
    })
}

async fn serve_all<F>(accept: impl AsyncFn() -> io::Result<F>, places: Arc<Semaphore>) -> io::Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let place = Arc::clone(&places);
        let place = place
            .acquire_owned()
            .await
            .expect("this semaphore is never closed");
        match accept().await {
            Ok(connection) => {
                tokio::spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the admin API could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve<S>(stream: S, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // A client that goes away or says nothing is no news.
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the admin API ended early");
    }
}
