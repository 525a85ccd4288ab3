//! Goes bad when asked: after `/turn` every connection is closed without an answer, after `/hang` nobody is accepted or
//! answered any more, `/die` aborts, `/reset?ms=50` closes its own connection after a while. Anything else answers the pid. Does
//! not start while the file that `BROKEN` names is there.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use std::{env, process, thread};

use listenfd::ListenFd;

static TURNED: AtomicBool = AtomicBool::new(false);
static HUNG: AtomicBool = AtomicBool::new(false);

fn hang_if_asked() {
    while HUNG.load(SeqCst) {
        thread::park();
    }
}

fn converse(mut stream: UnixStream) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    loop {
        let first = lines.next()?.ok()?;
        let target = first.split(' ').nth(1)?.to_owned();
        while !lines.next()?.ok()?.is_empty() {}
        hang_if_asked();
        if TURNED.load(SeqCst) {
            return None;
        }
        match target.split('?').next()? {
            "/turn" => TURNED.store(true, SeqCst),
            "/hang" => HUNG.store(true, SeqCst),
            "/die" => process::abort(),
            "/reset" => {
                let ms = target.split_once("ms=").and_then(|(_, ms)| ms.parse().ok());
                thread::sleep(Duration::from_millis(ms.unwrap_or(0)));
                return None;
            }
            _ => {}
        }
        let pid = process::id().to_string();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", pid.len());
        stream.write_all((head + &pid).as_bytes()).ok()?;
    }
}

fn main() -> std::io::Result<()> {
    if env::var_os("BROKEN").is_some_and(|file| Path::new(&file).exists()) {
        eprintln!("the file that breaks it is there");
        process::exit(5);
    }
    let passed = ListenFd::from_env().take_unix_listener(0)?;
    let listener = passed.ok_or_else(|| std::io::Error::other("no socket was passed as descriptor 3"))?;
    for stream in listener.incoming() {
        hang_if_asked();
        let stream = stream?;
        // Without a thread for it, it is closed.
        let _ = thread::Builder::new().spawn(move || converse(stream));
    }
    Ok(())
}
