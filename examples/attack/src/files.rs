//! Attempts at files, local sockets, and what a process was started with.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::sync::OnceLock;

use crate::{Outcome, came, ok, text};

fn said<T>(result: io::Result<T>) -> Outcome {
    match result {
        Ok(_) => ok(),
        Err(error) => Err(error.raw_os_error().unwrap_or(0)),
    }
}

struct Start {
    descriptors: String,
    environment: String,
}

static START: OnceLock<Start> = OnceLock::new();

/// Called first: what is open, and the environment.
pub(crate) fn remember_start() {
    // SAFETY: descriptors are only asked about.
    let open = (0..4096).filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0);
    let descriptors: Vec<String> = open.map(|fd| fd.to_string()).collect();
    let mut environment: Vec<String> = std::env::vars()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    environment.sort();
    START.get_or_init(|| Start {
        descriptors: descriptors.join(" "),
        environment: environment.join("\n"),
    });
}

fn open(path: &str, flags: i32) -> Outcome {
    // SAFETY: the path ends in NUL.
    came(unsafe { libc::open(text(path).as_ptr(), flags | libc::O_CLOEXEC, 0o600) }.into())
        .map(|_| String::new())
}

fn watch(path: &str) -> Outcome {
    // SAFETY: only numbers, and a path that ends in NUL.
    let result =
        unsafe { libc::inotify_add_watch(libc::inotify_init(), text(path).as_ptr(), libc::IN_ALL_EVENTS) };
    came(result.into()).map(|_| String::new())
}

fn abstract_name(name: &str) -> SocketAddr {
    SocketAddr::from_abstract_name(name).expect("names of tests are short")
}

pub(crate) fn attempt(verb: &str, arguments: &[&str]) -> Option<Outcome> {
    Some(match (verb, arguments) {
        ("open", [path]) => open(path, libc::O_RDONLY),
        ("opath", [path]) => open(path, libc::O_PATH),
        ("write", [path]) => said(fs::write(path, "x")),
        ("stat", [path]) => said(fs::symlink_metadata(path)),
        ("list", [path]) => match fs::read_dir(path) {
            Ok(entries) => {
                let names: Vec<String> = entries
                    .flatten()
                    .map(|e| e.file_name().to_string_lossy().into_owned())
                    .collect();
                Ok(format!("ok {}", names.join(" ")))
            }
            Err(error) => Err(error.raw_os_error().unwrap_or(0)),
        },
        ("chdir", [path]) => said(std::env::set_current_dir(path)),
        ("unlink", [path]) => said(fs::remove_file(path)),
        ("mkdir", [path]) => said(fs::create_dir(path)),
        ("inotify", [path]) => watch(path),
        ("connect-unix", [path]) => said(UnixStream::connect(path)),
        ("send-unix", [path]) => said(UnixDatagram::unbound().and_then(|s| s.send_to(b"x", path))),
        ("bind-unix", [path]) => said(UnixListener::bind(path)),
        ("connect-abstract", [name]) => said(UnixStream::connect_addr(&abstract_name(name))),
        ("send-abstract", [name]) => {
            said(UnixDatagram::unbound().and_then(|s| s.send_to_addr(b"x", &abstract_name(name))))
        }
        ("keep-abstract", [name]) => {
            let stream = UnixListener::bind_addr(&abstract_name(name)).map(std::mem::forget);
            let datagram =
                UnixDatagram::bind_addr(&abstract_name(&format!("{name}-d"))).map(std::mem::forget);
            said(stream.and(datagram))
        }
        ("start-descriptors", []) => Ok(START
            .get()
            .map(|start| start.descriptors.clone())
            .unwrap_or_default()),
        ("start-environment", []) => Ok(START
            .get()
            .map(|start| start.environment.clone())
            .unwrap_or_default()),
        ("cwd", []) => Ok(std::env::current_dir()
            .map(|path| path.display().to_string())
            .unwrap_or_default()),
        _ => return None,
    })
}
