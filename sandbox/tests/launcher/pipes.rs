//! Instances that are spoken to over pipes, and those that bind a socket in a directory of their own. Stories on live
//! processes.

use std::io::Write;
use std::os::fd::AsFd;

use funcd_sandbox::variables::Block;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::*;

/// A prepared instance that waits for a request.
struct Waiting {
    id: InstanceId,
    go: fs::File,
    stdin: fs::File,
    stdout: fs::File,
}

fn prepared(host: &mut Running, spec: Spec) -> Waiting {
    let id = InstanceId(host.next);
    host.next += 1;
    let spec = Box::new(Spec {
        socket: Socket::Pipes,
        ..spec
    });
    host.send(&Request::Prepare { id, spec }, &[]);
    let (event, fds) = host.recv();
    assert_eq!(event, Event::Prepared { id });
    let [go, stdin, stdout] = <[OwnedFd; 3]>::try_from(fds).unwrap().map(fs::File::from);
    fcntl(&stdout, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    Waiting {
        id,
        go,
        stdin,
        stdout,
    }
}

fn word(block: &[u8]) -> Vec<u8> {
    [&(block.len() as u32).to_ne_bytes(), block].concat()
}

fn is_there(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

pub(super) fn a_request_brings_its_variables_and_its_body(who: As) {
    let (mut host, digest) = started(who);
    let before = host.holds();
    let mut ready = {
        let spec = host.spec(digest, &["environment"]);
        prepared(&mut host, spec)
    };
    let mut block = Block::default();
    block.set(b"HTTP_ACCEPT", b"*/*");
    block.set(b"QUERY_STRING", &vec![b'x'; 30_000]);
    ready.go.write_all(&word(&block.finish().unwrap())).unwrap();
    let (event, fds) = host.recv();
    assert!(
        matches!(event, Event::Launched { id, .. } if id == ready.id),
        "{event:?}"
    );
    assert_eq!(fds.len(), 1, "its stderr");
    let said = read_all(ready.stdout);
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines[..2], ["GREETING=hello", "HTTP_ACCEPT=*/*"]);
    assert_eq!((lines.len(), lines[2].len()), (3, 13 + 30_000));
    assert_eq!(host.exit_of(ready.id), Exit::Code { code: 0 });
    // Its stdin: what is written there comes out of it.
    let cat = {
        let mut spec = host.spec(digest, &["cat"]);
        spec.memo = Vec::new();
        spec
    };
    let mut ready = prepared(&mut host, cat);
    ready.go.write_all(&word(b"")).unwrap();
    ready.stdin.write_all(b"a body").unwrap();
    drop(ready.stdin);
    assert_eq!(read_all(ready.stdout), "a body");
    let (event, fds) = host.recv();
    assert!(
        matches!(event, Event::Launched { id, .. } if id == ready.id),
        "{event:?}"
    );
    assert_eq!(host.exit_of(ready.id), Exit::Code { code: 0 });
    drop((fds, ready.go));
    host.holds_no_more(&before);
    host.stop();
}

pub(super) fn what_no_request_may_set_executes_nothing(who: As) {
    let (mut host, digest) = started(who);
    let before = host.holds();
    let bad: [&[u8]; 5] = [
        b"\x12\0\0\0LD_PRELOAD=/tmp/x\0",
        b"\x06\0\0\0PATH=\0",
        b"\x0b\0\0\0METHOD=GET!",
        b"\xff\xff\xff\xff",
        b"\x01\0\0",
    ];
    for word in bad {
        let mut ready = {
            let spec = host.spec(digest, &["environment"]);
            prepared(&mut host, spec)
        };
        ready.go.write_all(word).unwrap();
        drop(ready.go);
        let (event, _) = host.recv();
        assert!(
            matches!(&event, Event::LaunchFailed { id, .. } if *id == ready.id),
            "{word:?}: {event:?}"
        );
        assert_eq!(read_all(ready.stdout), "", "{word:?}");
    }
    host.holds_no_more(&before);
    host.stop();
}

/// Nobody could take its answer.
pub(super) fn one_with_pipes_ends_with_its_supervisor(who: As) {
    let (mut host, digest) = started(who);
    let spec = Spec {
        socket: Socket::Pipes,
        ..host.spec(digest, &["cat"])
    };
    let asked = host.ask(spec.clone());
    let (event, fds) = host.recv();
    let Event::Launched { id, pid } = event else {
        panic!("{event:?} instead of launched");
    };
    assert_eq!((id, fds.len()), (asked, 3), "stderr, stdin, stdout");
    let mut ready = prepared(&mut host, spec);
    ready.go.write_all(&word(b"")).unwrap();
    assert!(matches!(host.recv().0, Event::Launched { .. }));
    assert!(is_there(pid), "the control");
    kill(Pid::from_raw(host.supervisor()), Signal::SIGKILL).unwrap();
    // This test holds copies of their pipes: it is not the end of those that ends them.
    host.take_over();
    assert_eq!(host.inventory.len(), 0);
    while is_there(pid) {
        std::thread::yield_now();
    }
    drop((fds, ready.stdin));
    host.stop();
}

pub(super) fn the_directory_of_a_socket_is_the_functions_own(who: As) {
    let (mut host, digest) = started(who);
    let spec = Spec {
        socket: Socket::Directory,
        ..host.spec(digest, &["bind"])
    };
    let asked = host.ask(spec);
    let (event, fds) = match host.recv() {
        (Event::LaunchFailed { message, .. }, _) => {
            // Without mount namespaces there is no /tmp of its own.
            assert!(message.contains("mount namespaces"), "{message}");
            println!("skipped: this host can't make mount namespaces");
            return host.stop();
        }
        other => other,
    };
    assert!(
        matches!(event, Event::Launched { id, .. } if id == asked),
        "{event:?}"
    );
    let [_, _, directory] = <[OwnedFd; 3]>::try_from(fds).unwrap();
    let path = format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd());
    let socket = format!("{path}/lsnr.sock");
    while !Path::new(&socket).exists() {
        std::thread::yield_now();
    }
    assert_eq!(
        read_all(std::os::unix::net::UnixStream::connect(&socket).unwrap()),
        "hello\n"
    );
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o755);
    assert!(!Path::new("/tmp/iofs/lsnr.sock").exists(), "it is nobody else's");
    host.send(&Request::Kill { id: asked }, &[]);
    host.exit_of(asked);
    host.stop();
}
