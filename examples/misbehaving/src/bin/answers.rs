//! Answers `ok` in the way of the contract that its argument names, with as little as that takes: what is left to time is
//! the host.

use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n";

fn main() -> io::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("stdio") => one(b"ok\n"),
        Some("cgi") => one(b"Content-Type: text/plain\n\nok\n"),
        Some("ironhttp") => serve(io::stdin(), io::stdout()),
        Some("http") => unix(
            listenfd::ListenFd::from_env()
                .take_unix_listener(0)?
                .ok_or(ErrorKind::NotFound)?,
        ),
        Some("port") => port(),
        Some("fn") => unix(bind(&variable("FN_LISTENER")?)?),
        Some("lambda") => lambda(),
        _ => Err(io::Error::other(
            "say which contract: stdio, cgi, ironhttp, http, port, fn, lambda",
        )),
    }
}

fn variable(name: &str) -> io::Result<String> {
    std::env::var(name).map_err(io::Error::other)
}

/// One request, and the end.
fn one(answer: &[u8]) -> io::Result<()> {
    io::copy(&mut io::stdin(), &mut io::sink())?;
    io::stdout().write_all(answer)
}

/// The head of a message, and the length of the body behind it; `None` at the end of the connection.
fn head(from: &mut impl BufRead, mut field: impl FnMut(&str, &str)) -> io::Result<Option<u64>> {
    let (mut line, mut length, mut first) = (String::new(), 0, true);
    loop {
        line.clear();
        if from.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let text = line.trim_end();
        if text.is_empty() {
            return Ok(Some(length));
        }
        if let Some((name, value)) = text.split_once(':').filter(|_| !first) {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            field(name, value.trim());
        }
        first = false;
    }
}

/// Drops a body.
fn skip(from: &mut impl Read, length: u64) -> io::Result<()> {
    io::copy(&mut from.take(length), &mut io::sink()).map(drop)
}

/// One request after the other.
fn serve(from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut from = BufReader::new(from);
    while let Some(length) = head(&mut from, |_, _| {})? {
        skip(&mut from, length)?;
        to.write_all(OK)?;
        to.flush()?;
    }
    Ok(())
}

fn unix(listener: UnixListener) -> io::Result<()> {
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || serve(&stream, &stream));
    }
    Ok(())
}

/// As the FDKs of Fn do it: a socket under another name, then a link to it.
fn bind(listener: &str) -> io::Result<UnixListener> {
    let link = Path::new(listener.trim_start_matches("unix:"));
    let own = link.with_file_name("own.sock");
    let socket = UnixListener::bind(&own)?;
    fs::set_permissions(&own, Permissions::from_mode(0o666))?;
    symlink("own.sock", link)?;
    Ok(socket)
}

fn port() -> io::Result<()> {
    let port = variable("PORT")?.parse().map_err(io::Error::other)?;
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    for stream in listener.incoming() {
        let stream = stream?;
        stream.set_nodelay(true)?;
        thread::spawn(move || serve(&stream, &stream));
    }
    Ok(())
}

/// As many at once as it is told.
fn lambda() -> io::Result<()> {
    let many = variable("AWS_LAMBDA_MAX_CONCURRENCY")
        .ok()
        .and_then(|many| many.parse().ok());
    let pollers: Vec<_> = (0..many.unwrap_or(1)).map(|_| thread::spawn(poll)).collect();
    for poller in pollers {
        poller
            .join()
            .map_err(|_| io::Error::other("a poller panicked"))??;
    }
    Ok(())
}

fn poll() -> io::Result<()> {
    let api = TcpStream::connect(variable("AWS_LAMBDA_RUNTIME_API")?)?;
    api.set_nodelay(true)?;
    let mut from = BufReader::new(&api);
    let base = "/2018-06-01/runtime/invocation";
    let body = r#"{"statusCode":200,"headers":{"content-type":"text/plain"},"body":"ok\n"}"#;
    loop {
        (&api).write_all(format!("GET {base}/next HTTP/1.1\r\nHost: api\r\n\r\n").as_bytes())?;
        let mut id = String::new();
        let field = |name: &str, value: &str| {
            if name.eq_ignore_ascii_case("lambda-runtime-aws-request-id") {
                value.clone_into(&mut id);
            }
        };
        let Some(length) = head(&mut from, field)? else {
            return Ok(());
        };
        skip(&mut from, length)?;
        let answer = format!(
            "POST {base}/{id}/response HTTP/1.1\r\nHost: api\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        (&api).write_all(answer.as_bytes())?;
        let Some(length) = head(&mut from, |_, _| {})? else {
            return Ok(());
        };
        skip(&mut from, length)?;
    }
}
