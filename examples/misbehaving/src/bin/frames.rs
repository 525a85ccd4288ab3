//! Speaks HTTP/2 by hand, and goes wrong in the way that `FRAMES` names. Understands no head: what it does is by the stream.
//!
//! - `reset`: resets each stream.
//! - `refuse`: refuses the first stream, the third and so on; answers the others.
//! - `leave`: the first connection, the third and so on end with a GOAWAY that says that nothing was done; others are answered.
//! - `half`: a head, a part of the body, then GOAWAY with an error, and the end.
//! - `untold`: a call of gRPC is answered without trailers.
//! - `pings`, `settings`: sends those without end, and reads the answers.
//! - `deaf`: never reads after the first frames.
//! - `mute`: reads, and never says a word.
//! - `well`: answers each stream.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::{env, thread};

use listenfd::ListenFd;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// `:status: 200`, and `content-type: application/grpc`, as HPACK has them without a table of its own.
const HEAD: &[u8] = b"\x88\x0f\x10\x10application/grpc";
/// `grpc-status: 0`.
const TRAILERS: &[u8] = b"\x00\x0bgrpc-status\x010";

static STREAMS: AtomicU32 = AtomicU32::new(0);
static CONNECTIONS: AtomicU32 = AtomicU32::new(0);

fn write(mut to: &UnixStream, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    to.write_all(&frame)
}

/// Kind, flags and stream of the next frame.
fn read(mut from: &UnixStream) -> io::Result<(u8, u8, u32)> {
    let mut head = [0; 9];
    from.read_exact(&mut head)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    io::copy(&mut from.take(length.into()), &mut io::sink())?;
    Ok((
        head[3],
        head[4],
        u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
    ))
}

fn answer(to: &UnixStream, stream: u32) -> io::Result<()> {
    write(to, HEADERS, END_HEADERS, stream, HEAD)?;
    // One empty message.
    write(to, DATA, 0, stream, &[0; 5])?;
    write(to, HEADERS, END_HEADERS | END_STREAM, stream, TRAILERS)
}

/// Sends a frame without end. Reads all the while: when the answers no longer fit into the socket, the other end would
/// wait with its reading too, and this would be one more that is deaf.
fn flood(stream: &UnixStream, kind: u8, payload: &[u8]) -> io::Result<()> {
    thread::scope(|scope| {
        scope.spawn(|| io::copy(&mut &*stream, &mut io::sink()));
        loop {
            write(stream, kind, 0, 0, payload)?;
        }
    })
}

fn converse(stream: UnixStream, how: &str) -> io::Result<()> {
    let connection = CONNECTIONS.fetch_add(1, SeqCst);
    (&stream).read_exact(&mut [0; 24])?;
    if how != "mute" {
        write(&stream, SETTINGS, 0, 0, &[])?;
    }
    loop {
        let (kind, flags, id) = read(&stream)?;
        match (kind, how) {
            (_, "mute") => {}
            (SETTINGS, _) if flags & ACK == 0 => write(&stream, SETTINGS, ACK, 0, &[])?,
            (HEADERS, "reset") => write(&stream, RST_STREAM, 0, id, &[0, 0, 0, 2])?,
            (HEADERS, "refuse") if STREAMS.fetch_add(1, SeqCst).is_multiple_of(2) => {
                write(&stream, RST_STREAM, 0, id, &[0, 0, 0, 7])?;
            }
            (HEADERS, "leave") if connection.is_multiple_of(2) => {
                write(&stream, GOAWAY, 0, 0, &[0; 8])?;
                return Ok(());
            }
            (HEADERS, "half") => {
                write(&stream, HEADERS, END_HEADERS, id, HEAD)?;
                write(&stream, DATA, 0, id, &[0, 0, 0])?;
                let last = id.to_be_bytes();
                let goaway = [last[0], last[1], last[2], last[3], 0, 0, 0, 2];
                write(&stream, GOAWAY, 0, 0, &goaway)?;
                return Ok(());
            }
            (HEADERS, "untold") => {
                write(&stream, HEADERS, END_HEADERS, id, HEAD)?;
                write(&stream, DATA, END_STREAM, id, &[0; 5])?;
            }
            (HEADERS, "pings") => return flood(&stream, PING, &[0; 8]),
            (HEADERS, "settings") => return flood(&stream, SETTINGS, &[]),
            (HEADERS, "deaf") => loop {
                thread::park();
            },
            (HEADERS, _) => answer(&stream, id)?,
            _ => {}
        }
    }
}

fn main() -> io::Result<()> {
    let passed = ListenFd::from_env().take_unix_listener(0)?;
    let listener = passed.ok_or_else(|| io::Error::other("no socket was passed as descriptor 3"))?;
    for stream in listener.incoming() {
        let stream = stream?;
        let how = env::var("FRAMES").unwrap_or_default();
        let _ = thread::Builder::new().spawn(move || {
            if let Err(error) = converse(stream, &how) {
                eprintln!("{how}: {error}");
            }
        });
    }
    Ok(())
}
