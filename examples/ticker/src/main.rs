//! Streams: `/events` is server-sent events, `/ws` a WebSocket that echoes, `/` a page that shows both.
//! `?interval_ms=50` sets how fast it ticks (the WebSocket ticks only when asked to).

use std::convert::Infallible;
use std::time::Duration;
use std::{env, io};

use futures_util::{SinkExt, StreamExt, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use listenfd::ListenFd;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::{self, Message, protocol::Role};

type Body = BoxBody<Bytes, Infallible>;

const PAGE: &str =
    "<!doctype html><title>ticker</title><p>events: <b id=e></b><p>echo: <input id=i> <b id=w></b>
<script>
new EventSource('events').onmessage = m => e.textContent = m.data
const s = new WebSocket('ws')
s.onmessage = m => w.textContent = m.data
i.oninput = () => s.send(i.value)
</script>
";

fn text(status: StatusCode, kind: &'static str, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Full::from(text).boxed());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The `interval_ms` of the query.
fn interval(request: &Request<Incoming>) -> Option<Duration> {
    let query = request.uri().query()?;
    let value = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("interval_ms="))?;
    Some(Duration::from_millis(value.parse().ok().filter(|ms| *ms > 0)?))
}

/// 1, 2, 3, …: the first at once, the others an interval apart. It ends when the caller goes away.
fn events(request: &Request<Incoming>) -> Response<Body> {
    let ticks = tokio::time::interval(interval(request).unwrap_or(Duration::from_millis(100)));
    let events = stream::unfold((ticks, 1u64), |(mut ticks, n)| async move {
        ticks.tick().await;
        Some((
            Ok(Frame::data(Bytes::from(format!("data: {n}\n\n")))),
            (ticks, n + 1),
        ))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(events)));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Agrees to talk WebSocket, and does so in a task of its own.
fn upgrade(mut request: Request<Incoming>) -> Response<Body> {
    let wants = |name, value: &str| {
        let given = request
            .headers()
            .get(name)
            .and_then(|v: &HeaderValue| v.to_str().ok())
            .unwrap_or_default();
        given
            .split(',')
            .any(|part| part.trim().eq_ignore_ascii_case(value))
    };
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
    let (true, true, true, Some(key)) = (
        wants(header::CONNECTION, "upgrade"),
        wants(header::UPGRADE, "websocket"),
        wants(header::SEC_WEBSOCKET_VERSION, "13"),
        key,
    ) else {
        return text(
            StatusCode::UPGRADE_REQUIRED,
            "text/plain",
            "this is a WebSocket, version 13\n",
        );
    };
    let accept = derive_accept_key(key.as_bytes());
    let interval = interval(&request);
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(stream) = upgraded.await {
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, None).await;
            if let Err(error) = talk(socket, interval).await {
                eprintln!("websocket: {error}");
            }
        }
    });
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "text/plain", "");
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::try_from(accept).expect("base64 is a valid header value");
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// Sends back what comes, and counts up if there is an interval. tungstenite answers pings and the closing handshake.
async fn talk<S>(mut socket: WebSocketStream<S>, interval: Option<Duration>) -> Result<(), tungstenite::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut ticks = interval.map(tokio::time::interval);
    let mut n = 0u64;
    loop {
        let tick = async {
            match &mut ticks {
                Some(ticks) => ticks.tick().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = tick => {
                n += 1;
                socket.send(Message::text(format!("tick {n}"))).await?;
            }
            message = socket.next() => match message {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => socket.send(message).await?,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
        }
    }
}

async fn respond(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    Ok(match request.uri().path() {
        "/" => text(StatusCode::OK, "text/html; charset=utf-8", PAGE),
        "/events" => events(&request),
        "/ws" => upgrade(request),
        _ => text(StatusCode::NOT_FOUND, "text/plain", "try /, /events or /ws\n"),
    })
}

fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(respond));
    tokio::spawn(connection.with_upgrades());
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
