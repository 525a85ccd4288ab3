//! Talks to a WebSocket: `websocket-client URL`, one command a line on stdin, one line of what came of it on stdout. `text WORDS`,
//! `binary BYTES` (so many, sent and compared), `ping WORD`, `close CODE`, `next` (what comes unasked).

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

fn said(message: &Message) -> String {
    match message {
        Message::Text(text) => format!("text {text}"),
        Message::Binary(bytes) => format!("binary {}", bytes.len()),
        Message::Ping(word) => format!("ping {}", String::from_utf8_lossy(word)),
        Message::Pong(word) => format!("pong {}", String::from_utf8_lossy(word)),
        Message::Close(Some(frame)) => format!("close {} {}", u16::from(frame.code), frame.reason),
        Message::Close(None) => "close".to_owned(),
        Message::Frame(_) => "frame".to_owned(),
    }
}

async fn next<S>(socket: &mut WebSocketStream<S>) -> String
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    match socket.next().await {
        Some(Ok(message)) => said(&message),
        Some(Err(Error::ConnectionClosed)) | None => "end".to_owned(),
        Some(Err(error)) => format!("cut {error}"),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args()
        .nth(1)
        .ok_or("usage: websocket-client ws://HOST:PORT/PATH")?;
    let host = url.strip_prefix("ws://").and_then(|rest| rest.split('/').next());
    let stream = tokio::net::TcpStream::connect(host.ok_or("the URL begins with ws://")?).await?;
    let (mut socket, response) = match client_async(&url, stream).await {
        Ok(open) => open,
        Err(Error::Http(response)) => {
            println!("refused {}", response.status().as_u16());
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    println!("open {}", response.status().as_u16());
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let (command, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let sent = match command {
            "text" => socket.send(Message::text(rest)).await,
            "binary" => {
                let bytes: Vec<u8> = (0..rest.parse::<usize>()?).map(|n| (n % 251) as u8).collect();
                let sent = socket.send(Message::binary(bytes.clone())).await;
                match socket.next().await {
                    Some(Ok(Message::Binary(back))) if back == bytes => println!("same {}", back.len()),
                    other => println!(
                        "other {:?}",
                        other.map(|other| other.map(|message| said(&message)))
                    ),
                }
                sent?;
                continue;
            }
            "ping" => socket.send(Message::Ping(rest.to_owned().into())).await,
            "close" => {
                let code = rest.parse::<u16>()?.into();
                let reason = "bye".into();
                socket.close(Some(CloseFrame { code, reason })).await
            }
            "next" => Ok(()),
            other => return Err(format!("no command {other:?}").into()),
        };
        match sent {
            Ok(()) => println!("{}", next(&mut socket).await),
            Err(error) => println!("cut {error}"),
        }
    }
    Ok(())
}
