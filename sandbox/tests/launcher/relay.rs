//! The smallest supervisor: passes every message on between the launcher and the test, so that the test is the one who
//! asks. Killing it is the crash of a supervisor.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use funcd_sandbox::wire::{self, Event, MAX_MESSAGE, Request};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// Relays until one side is gone. With `garbage`, the first supervisor sends some and waits for what comes of it. With
/// `probe`, the second one tries what it can reach. With `hand`, it hands its end of the socket to the test, which then plays the supervisor without anything in between.
pub(crate) fn run(control: &Path, behaviour: &str) {
    let launcher = wire::inherited().expect("the launcher gives a socket as descriptor 3");
    if behaviour == "hand" {
        let test = connect_to(control);
        wire::send_bytes(test.as_fd(), b"my socket", &[launcher.as_raw_fd()]).unwrap();
        drop(launcher);
        loop {
            nix::unistd::pause();
        }
    }
    let mut buffer = Box::new([0; MAX_MESSAGE]);
    wait(&[&launcher]);
    let (first, _) = wire::recv::<Event>(launcher.as_fd(), &mut buffer)
        .unwrap()
        .unwrap();
    let is_first = matches!(&first, Event::Welcome(handover) if handover.generation == 0);
    if behaviour == "garbage" && is_first {
        wire::send_bytes(launcher.as_fd(), &[255; 40], &[]).unwrap();
        loop {
            nix::unistd::pause();
        }
    }
    let test = connect_to(control);
    if behaviour == "probe" && !is_first {
        crate::place::run(&launcher, first, test.as_fd(), control.parent().unwrap());
        loop {
            nix::unistd::pause();
        }
    }
    wire::send(test.as_fd(), &first, &[]).unwrap();
    loop {
        wait(&[&launcher, &test]);
        if !pass::<Event>(&launcher, &test, &mut buffer) || !pass::<Request>(&test, &launcher, &mut buffer) {
            return;
        }
    }
}

fn connect_to(control: &Path) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    let test = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
    connect(test.as_raw_fd(), &UnixAddr::new(control).unwrap()).unwrap();
    test
}

fn wait(fds: &[&OwnedFd]) {
    let mut fds: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN))
        .collect();
    poll(&mut fds, PollTimeout::NONE).unwrap();
}

/// Passes what there is; false when the sender is gone.
fn pass<T>(from: &OwnedFd, to: &OwnedFd, buffer: &mut [u8; MAX_MESSAGE]) -> bool
where
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    loop {
        match wire::recv::<T>(from.as_fd(), buffer) {
            Ok(Some((message, fds))) => {
                keep(&message);
                let fds: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
                while let Err(e) = wire::send(to.as_fd(), &message, &fds) {
                    if e.kind() != std::io::ErrorKind::WouldBlock {
                        return false;
                    }
                    let mut full = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
                    poll(&mut full, PollTimeout::NONE).unwrap();
                }
            }
            Ok(None) => return false,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return true,
            Err(_) => return false,
        }
    }
}

/// Real messages are the seeds of the fuzz targets: `FUNCD_TEST_SEEDS=DIR cargo test -p funcd-sandbox --test launcher`.
fn keep<T: serde::Serialize>(message: &T) {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let Some(dir) = std::env::var_os("FUNCD_TEST_SEEDS") else {
        return;
    };
    let bytes = wire::encode(message).unwrap();
    let mut hash = DefaultHasher::new();
    bytes.hash(&mut hash);
    let _ = std::fs::write(Path::new(&dir).join(format!("{:016x}", hash.finish())), bytes);
}
