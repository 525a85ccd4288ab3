//! The least Rust that answers on descriptor 3, without a crate: built for glibc and for musl by the tests of runtimes.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixListener;

fn main() {
    // SAFETY: funcd passes the listening socket as descriptor 3, and nothing else here uses it.
    let listener = unsafe { UnixListener::from_raw_fd(3) };
    for caller in listener.incoming().flatten() {
        std::thread::spawn(move || {
            let mut lines = BufReader::new(&caller).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let body = "hello from Rust\n";
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n";
            let _ = write!(&caller, "{head}Content-Length: {}\r\n\r\n{body}", body.len());
        });
    }
}
