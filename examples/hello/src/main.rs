//! Says hello. The smallest useful function: copy this folder to begin your own.

use std::convert::Infallible;
use std::{env, io};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use listenfd::ListenFd;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

/// `/` is answered "Hello from funcd", `/world` "Hello, world".
async fn hello(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let text = match request.uri().path().trim_matches('/') {
        "" => "Hello from funcd\n".to_owned(),
        name => format!("Hello, {name}\n"),
    };
    Ok(Response::new(Full::from(text)))
}

fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(hello)));
}

/// Accepts on the socket that funcd passes as descriptor 3; run by hand, on `$PORT` or 8080 of this machine.
#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    if let Ok(Some(passed)) = ListenFd::from_env().take_unix_listener(0) {
        passed.set_nonblocking(true)?;
        let listener = UnixListener::from_std(passed)?;
        loop {
            answer(listener.accept().await?.0);
        }
    }
    let port = env::var("PORT").unwrap_or("8080".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    loop {
        answer(listener.accept().await?.0);
    }
}
