//! Tells what it sees. What the tests ask a live, confined process:
//!
//! - `/` (any path not below): the request as JSON; its body as text, its trailers
//! - `/facts`: pid, uid, descriptors, environment, arguments, working directory
//! - `/pipe`: the request's body and trailers, sent back as they come
//! - `/count`: how many bytes the body had; `/bytes?n=…`: that many bytes
//! - `/early`: answers 413 without reading the body
//! - `/status?code=…`, `/log` (the body to stdout) and `/log?to=stderr`
//! - `/try?do=read&at=/etc/shadow`: attempts it (see `attempt`), answers what came of it or the errno's name

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::{env, fs, io, process};

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, Request, Response};
use misbehaving::{Body, number, param, pieces, serve, status};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::kill;
use nix::sys::stat::fstat;
use nix::unistd::{Pid, getgroups, getresgid, getresuid, getsid};
use serde_json::{Value, json};

fn headers(map: &HeaderMap) -> Value {
    let pair = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())])
    };
    map.iter().map(pair).collect()
}

async fn request(request: Request<Incoming>) -> Value {
    let (head, body) = request.into_parts();
    let (body, trailers) = match body.collect().await {
        Ok(body) => {
            let trailers = body.trailers().map(headers);
            (String::from_utf8_lossy(&body.to_bytes()).into_owned(), trailers)
        }
        Err(error) => (format!("broke off: {error}"), None),
    };
    json!({
        "pid": process::id(),
        "method": head.method.as_str(),
        "target": head.uri.to_string(),
        "version": format!("{:?}", head.version),
        "headers": headers(&head.headers),
        "body": body,
        "trailers": trailers,
    })
}

/// The descriptors that are open, by number: the type of file. It asks for each: there may be no /proc.
fn descriptors() -> BTreeMap<String, &'static str> {
    let mut open = BTreeMap::new();
    for fd in 0..4096 {
        // SAFETY: the descriptor is only asked about, and at once; nothing keeps it.
        let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        if fcntl(borrowed, FcntlArg::F_GETFD).is_ok() {
            let kind = match fstat(borrowed).map(|stat| stat.st_mode & nix::libc::S_IFMT) {
                Ok(nix::libc::S_IFSOCK) => "socket",
                Ok(nix::libc::S_IFIFO) => "pipe",
                Ok(nix::libc::S_IFCHR) => "device",
                Ok(nix::libc::S_IFREG) => "file",
                Ok(nix::libc::S_IFDIR) => "directory",
                Ok(_) => "anonymous",
                Err(_) => "unknown",
            };
            open.insert(fd.to_string(), kind);
        }
    }
    open
}

fn lossy(text: std::ffi::OsString) -> String {
    String::from_utf8_lossy(&text.into_vec()).into_owned()
}

/// What it was started with.
struct AtStart {
    descriptors: BTreeMap<String, &'static str>,
    /// Taking the passed socket takes `LISTEN_FDS` and `LISTEN_PID` out of the environment.
    environment: Vec<String>,
}

fn facts(at_start: &AtStart) -> Value {
    let ids = |ids: Option<[u32; 3]>| ids.map(|ids| ids.to_vec());
    json!({
        "pid": process::id(),
        "session": getsid(None).map(Pid::as_raw).ok(),
        "uids": ids(getresuid().ok().map(|r| [r.real.as_raw(), r.effective.as_raw(), r.saved.as_raw()])),
        "gids": ids(getresgid().ok().map(|r| [r.real.as_raw(), r.effective.as_raw(), r.saved.as_raw()])),
        "groups": getgroups().ok().map(|groups| groups.iter().map(|gid| gid.as_raw()).collect::<Vec<_>>()),
        "fds": at_start.descriptors,
        "env": at_start.environment,
        "args": env::args_os().map(lossy).collect::<Vec<_>>(),
        "cwd": env::current_dir().ok(),
        "root": fs::read_dir("/").map(|root| {
            let mut names: Vec<_> = root.flatten().map(|entry| lossy(entry.file_name())).collect();
            names.sort();
            names
        }).ok(),
    })
}

/// One attempt at something that a sandbox may forbid.
fn attempt(what: &str, at: &str, n: u64) -> io::Result<String> {
    let address = |at: &str| at.parse::<SocketAddr>().map_err(io::Error::other);
    let said = match what {
        "read" => fs::read(at).map(|bytes| bytes.len().to_string())?,
        "show" => fs::read_to_string(at)?,
        "list" => fs::read_dir(at)?.count().to_string(),
        "stat" => fs::symlink_metadata(at).map(|meta| meta.len().to_string())?,
        "write" => fs::write(at, vec![b'x'; n as usize]).map(|()| "ok".to_owned())?,
        "exec" => process::Command::new(at)
            .status()
            .map(|status| status.to_string())?,
        "write-and-exec" => {
            use std::os::unix::fs::PermissionsExt;
            fs::write(at, "#!/bin/sh\n")?;
            fs::set_permissions(at, fs::Permissions::from_mode(0o755))?;
            process::Command::new(at)
                .status()
                .map(|status| status.to_string())?
        }
        "tcp" => TcpStream::connect(address(at)?).map(|_| "ok".to_owned())?,
        "udp" => {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.send_to(b"x", address(at)?).map(|_| "ok".to_owned())?
        }
        "unix" => UnixStream::connect(at).map(|_| "ok".to_owned())?,
        "kill" => {
            kill(Pid::from_raw(at.parse().map_err(io::Error::other)?), None).map(|()| "ok".to_owned())?
        }
        "setuid" => nix::unistd::setuid(0.into()).map(|()| "ok".to_owned())?,
        _ => return Err(io::Error::other("unknown attempt")),
    };
    Ok(said)
}

async fn respond(incoming: Request<Incoming>) -> Response<Body> {
    match incoming.uri().path() {
        "/facts" => status(200, facts(AT_START.get().expect("main set it")).to_string()),
        "/pipe" => {
            let mut response = Response::new(incoming.into_body().boxed());
            response
                .headers_mut()
                .insert("trailer", hyper::header::HeaderValue::from_static("x-sum"));
            response
        }
        "/count" => {
            let (mut body, mut count) = (incoming.into_body(), 0u64);
            while let Some(Ok(frame)) = body.frame().await {
                count += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            status(200, count.to_string())
        }
        "/bytes" => {
            let n = number(&incoming, "n", 1 << 20);
            Response::new(pieces(move |at| async move {
                let rest = n.saturating_sub(at << 16).min(1 << 16) as usize;
                static PIECE: [u8; 1 << 16] = [b'b'; 1 << 16];
                (rest > 0).then(|| Bytes::from_static(&PIECE[..rest]))
            }))
        }
        "/early" => status(413, "no need to send it\n"),
        "/status" => status(number(&incoming, "code", 200) as u16, "as asked\n"),
        "/log" => {
            let to_stderr = param(&incoming, "to") == Some("stderr");
            let bytes = incoming
                .into_body()
                .collect()
                .await
                .map(|body| body.to_bytes())
                .unwrap_or_default();
            let written = match to_stderr {
                true => io::stderr().write_all(&bytes),
                false => io::stdout().write_all(&bytes).and_then(|()| io::stdout().flush()),
            };
            status(200, format!("{written:?}\n"))
        }
        "/try" => {
            let (what, at) = (
                param(&incoming, "do").unwrap_or(""),
                param(&incoming, "at").unwrap_or(""),
            );
            status(
                200,
                match attempt(what, at, number(&incoming, "n", 1)) {
                    Ok(said) => said,
                    Err(error) => match error.raw_os_error() {
                        Some(errno) => format!("{:?}", Errno::from_raw(errno)),
                        None => error.to_string(),
                    },
                },
            )
        }
        _ => status(200, request(incoming).await.to_string()),
    }
}

/// Taken before this program opened or changed anything.
static AT_START: std::sync::OnceLock<AtStart> = std::sync::OnceLock::new();

fn main() -> io::Result<()> {
    let variable = |(name, value)| format!("{}={}", lossy(name), lossy(value));
    AT_START.get_or_init(|| AtStart {
        descriptors: descriptors(),
        environment: env::vars_os().map(variable).collect(),
    });
    serve(respond)
}
