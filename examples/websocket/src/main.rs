//! A WebSocket at `/ws` that says again what it hears, text or bytes. `close` is answered with code 4000, `open` with the number of
//! sockets that are open; `/open` says that too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::routing::any;
use listenfd::ListenFd;
use tokio::net::{TcpListener, UnixListener};

type Open = Arc<AtomicU32>;

async fn talk(mut socket: WebSocket, open: Open) {
    open.fetch_add(1, Ordering::SeqCst);
    while let Some(Ok(message)) = socket.recv().await {
        let answer = match message {
            Message::Text(text) if text.as_str() == "open" => {
                Message::Text(open.load(Ordering::SeqCst).to_string().into())
            }
            Message::Text(text) if text.as_str() == "close" => Message::Close(Some(CloseFrame {
                code: 4000,
                reason: "as asked".into(),
            })),
            Message::Text(_) | Message::Binary(_) => message,
            // axum answers pings, and the closing of the other side.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => continue,
        };
        if socket.send(answer).await.is_err() {
            break;
        }
    }
    open.fetch_sub(1, Ordering::SeqCst);
}

/// Accepts on the socket that funcd passes as descriptor 3, else on `$PORT`.
#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let upgrade = |upgrade: WebSocketUpgrade, State(open): State<Open>| async {
        upgrade.on_upgrade(|socket| talk(socket, open))
    };
    let number = |State(open): State<Open>| async move { open.load(Ordering::SeqCst).to_string() };
    let routes = Router::new()
        .route("/ws", any(upgrade))
        .route("/open", any(number));
    let router = routes.with_state(Open::default());
    if let Ok(Some(passed)) = ListenFd::from_env().take_unix_listener(0) {
        passed.set_nonblocking(true)?;
        return axum::serve(UnixListener::from_std(passed)?, router).await;
    }
    let port = std::env::var("PORT").unwrap_or("8080".into());
    axum::serve(TcpListener::bind(format!("0.0.0.0:{port}")).await?, router).await
}
