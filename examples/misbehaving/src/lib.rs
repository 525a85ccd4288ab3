//! What the misbehaving functions share: a small HTTP server, and the query. Never for production, never a template.

use std::convert::Infallible;
use std::{env, io};

use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use listenfd::ListenFd;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

/// A response body of any kind.
pub type Body = BoxBody<Bytes, hyper::Error>;

/// A whole text as a body.
pub fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

/// A whole text as a response with a status.
pub fn status(code: u16, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(text(body));
    *response.status_mut() = StatusCode::from_u16(code).expect("callers give a status");
    response
}

/// A body made piece by piece: `piece(n)` for n = 0, 1, … until it gives `None`.
pub fn pieces<F>(piece: impl Fn(u64) -> F + Send + Sync + 'static) -> Body
where
    F: Future<Output = Option<Bytes>> + Send + Sync + 'static,
{
    let stream = stream::unfold((piece, 0), |(piece, n)| async move {
        let bytes = piece(n).await?;
        Some((Ok(Frame::data(bytes)), (piece, n + 1)))
    });
    BodyExt::boxed(StreamBody::new(stream))
}

/// A parameter of the query, not decoded.
pub fn param<'a>(request: &'a Request<Incoming>, key: &str) -> Option<&'a str> {
    let pairs = request.uri().query()?.split('&');
    pairs
        .filter_map(|pair| pair.split_once('='))
        .find(|(k, _)| *k == key)
        .map(|(_, value)| value)
}

/// A numeric parameter of the query.
pub fn number(request: &Request<Incoming>, key: &str, default: u64) -> u64 {
    param(request, key)
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

fn spawn<H, F>(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Copy + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let response = handler(request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    tokio::spawn(
        http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades(),
    );
}

/// Answers with `handler` on the socket passed as descriptor 3, else on `$PORT`, else on 8080.
pub fn serve<H, F>(handler: H) -> io::Result<()>
where
    H: Fn(Request<Incoming>) -> F + Copy + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        if let Ok(Some(passed)) = ListenFd::from_env().take_unix_listener(0) {
            passed.set_nonblocking(true)?;
            let listener = UnixListener::from_std(passed)?;
            loop {
                spawn(listener.accept().await?.0, handler);
            }
        }
        let port = env::var("PORT").unwrap_or("8080".into());
        let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
        loop {
            spawn(listener.accept().await?.0, handler);
        }
    })
}
