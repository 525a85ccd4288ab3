//! The function: HTTP on descriptor 3, one request after the other, each attempt in a child. Never runs two at once.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;

use crate::{errno, told};

/// What a request names: the verb, then its arguments.
fn decode(word: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = word.bytes();
    while let Some(byte) = rest.next() {
        let hex = |byte: Option<u8>| (byte.unwrap_or(b'0') as char).to_digit(16).unwrap_or(0) as u8;
        match byte {
            b'%' => {
                let high = hex(rest.next());
                bytes.push(high << 4 | hex(rest.next()));
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An attempt in a child; how the child died when it says nothing.
pub(crate) fn apart(verb: &str, arguments: &[&str]) -> String {
    let mut ends = [0; 2];
    // SAFETY: the array has place for both ends.
    assert_eq!(
        unsafe { libc::pipe(ends.as_mut_ptr()) },
        0,
        "a descriptor is left"
    );
    // SAFETY: this program has one thread, so the child may do whatever its parent may.
    let child = unsafe { libc::fork() };
    if child < 0 {
        let told = errno::name(crate::last());
        // SAFETY: both are ours.
        unsafe { (libc::close(ends[0]), libc::close(ends[1])) };
        return format!("fork: {told}");
    }
    // SAFETY: the end is ours, and nothing else closes it.
    let (mut reader, mut writer) = unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) };
    if child == 0 {
        // SAFETY: only numbers are passed.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        let _ = writer.write_all(told(verb, arguments).as_bytes());
        // SAFETY: it ends this process.
        unsafe { libc::_exit(0) };
    }
    drop(writer);
    let mut said = String::new();
    let _ = reader.read_to_string(&mut said);
    let mut status = 0;
    // SAFETY: the status is ours.
    unsafe { libc::waitpid(child, &mut status, 0) };
    match (said.is_empty(), libc::WIFSIGNALED(status)) {
        (true, true) if libc::WTERMSIG(status) == libc::SIGSYS => "SIGSYS".to_owned(),
        (true, true) => format!("signal {}", libc::WTERMSIG(status)),
        (true, false) => format!("exit {}", libc::WEXITSTATUS(status)),
        _ => said,
    }
}

fn answer(target: &str) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let verb = path.trim_start_matches('/');
    let words: Vec<String> = query
        .split('&')
        .filter(|word| !word.is_empty())
        .map(decode)
        .collect();
    let arguments: Vec<&str> = words.iter().map(String::as_str).collect();
    match verb {
        "" => std::process::id().to_string(),
        verb if verb.starts_with("keep-") => told(verb, &arguments),
        verb => apart(verb, &arguments),
    }
}

fn converse(mut stream: File) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            length => head.extend(&piece[..length]),
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let body = answer(head.split(' ').nth(1).unwrap_or("/"));
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nHow: native\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Answers until it is killed.
pub(crate) fn serve() -> ! {
    loop {
        // SAFETY: descriptor 3 is the passed listener; no address is asked for.
        let stream =
            unsafe { libc::accept4(3, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC) };
        if stream >= 0 {
            // SAFETY: it was just opened for this.
            let _ = converse(unsafe { File::from_raw_fd(stream) });
            continue;
        }
        let mut wait = libc::pollfd {
            fd: 3,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one descriptor is passed, and its place is ours.
        unsafe { libc::poll(&mut wait, 1, -1) };
    }
}
