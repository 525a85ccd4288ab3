//! Answers what is not HTTP, or not quite: the path says which kind. One answer for each connection, then it closes.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use listenfd::ListenFd;

fn answer(kind: &str) -> &'static [u8] {
    match kind {
        "/noise" => b"\x16\x03\x01\x02\x00 this is not HTTP at all\r\n\r\n",
        "/empty" => b"",
        "/half-head" => b"HTTP/1.1 200 OK\r\nContent-Le",
        "/bad-status" => b"HTTP/1.1 20O OK\r\nContent-Length: 2\r\n\r\nok",
        "/bad-header" => b"HTTP/1.1 200 OK\r\nno colon here\r\nContent-Length: 2\r\n\r\nok",
        "/two-lengths" => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
        "/bad-chunk" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n",
        "/short-body" => b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
        "/until-close" => b"HTTP/1.1 200 OK\r\n\r\nas long as it lasts",
        "/hop-by-hop" => {
            b"HTTP/1.1 200 OK\r\nConnection: close, X-Private\r\nX-Private: secret\r\nKeep-Alive: timeout=9\r\n\
              X-Public: shown\r\nContent-Length: 2\r\n\r\nok"
        }
        "/hints" => b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        _ => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
    }
}

fn converse(mut stream: UnixStream) -> Option<()> {
    let mut lines = BufReader::new(&stream).lines();
    let first = lines.next()?.ok()?;
    let path = first.split(' ').nth(1)?.split('?').next()?.to_owned();
    while !lines.next()?.ok()?.is_empty() {}
    drop(lines);
    match &*path {
        "/endless-head" => endless(stream, b"HTTP/1.1 200 OK\r\nX: ", &[b'y'; 65536]),
        "/storm" => {
            let storm = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(10_000);
            stream.write_all(&storm).ok()?;
            stream.write_all(answer("/")).ok()
        }
        path => stream.write_all(answer(path)).ok(),
    }
}

/// Until nobody reads any more.
fn endless(mut stream: UnixStream, begin: &[u8], piece: &[u8]) -> Option<()> {
    stream.write_all(begin).ok()?;
    loop {
        stream.write_all(piece).ok()?;
    }
}

fn main() -> std::io::Result<()> {
    let passed = ListenFd::from_env().take_unix_listener(0)?;
    let listener = passed.ok_or_else(|| std::io::Error::other("no socket was passed as descriptor 3"))?;
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || converse(stream));
    }
    Ok(())
}
