//! Sockets that the service manager opened before this process was there (sd_listen_fds(3)): they are used instead of
//! binding what the configuration says. A descriptor that is of no use is refused by name: it stands for something that an
//! operator wanted. Never closes what it did not take.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt};

use super::{LauncherError, listeners, log};
use crate::sys::process;

/// The first descriptor that is handed over (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;
/// More than anybody needs, and less than would be in the way.
const MOST: i32 = 64;
/// The names of a TCP socket for metrics and health; every other TCP socket is for callers.
const ADMIN_NAMES: [&str; 2] = ["admin", "metrics"];

/// What the service manager opened.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// For callers.
    pub(super) callers: Vec<(OwnedFd, SocketAddr)>,
    /// For the admin API.
    pub(super) admin: Option<OwnedFd>,
    /// For metrics and health.
    pub(super) admin_tcp: Option<(OwnedFd, SocketAddr)>,
}

/// Takes what was opened for this process, once: after a second call, and in a process that was not meant, there is nothing.
///
/// # Errors
/// A descriptor that is of no use, or variables that make no sense.
pub(super) fn take() -> Result<Given, LauncherError> {
    let text = |name| std::env::var(name).ok();
    let Some(count) = count(text("LISTEN_PID"), text("LISTEN_FDS"), std::process::id())? else {
        return Ok(Given::default());
    };
    let names = text("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = names.split(':').collect();
    let mut given = Given::default();
    for (fd, index) in (FIRST..FIRST + count).zip(0..) {
        let name = names.get(index).copied().unwrap_or_default();
        let unfit = |why: &str| LauncherError::Given {
            number: fd,
            name: name.to_owned(),
            why: why.to_owned(),
        };
        let Some(fd) = process::take_descriptor(fd).map_err(|e| unfit(&e.to_string()))? else {
            // Taken by an earlier call.
            continue;
        };
        given.add(fd, name).map_err(|why| unfit(&why))?;
    }
    let (callers, admin) = (
        given.callers.len(),
        given.admin.is_some() || given.admin_tcp.is_some(),
    );
    log(format_args!(
        "the service manager opened {callers} sockets for callers{}; what the configuration says of those is not used",
        if admin { ", and for admin" } else { "" }
    ));
    Ok(given)
}

/// How many descriptors this process was given.
fn count(pid: Option<String>, fds: Option<String>, own: u32) -> Result<Option<i32>, LauncherError> {
    let (Some(pid), Some(fds)) = (pid, fds) else {
        return Ok(None);
    };
    if pid.parse() != Ok(own) {
        return Ok(None);
    }
    match fds.parse() {
        Ok(0) => Ok(None),
        Ok(count @ 1..=MOST) => Ok(Some(count)),
        _ => Err(LauncherError::Config(format!(
            "LISTEN_FDS={fds}: 1 to {MOST} sockets can be taken over; give funcd.socket fewer ListenStream="
        ))),
    }
}

impl Given {
    /// Finds out what it is for, by what it is and then by its name.
    fn add(&mut self, fd: OwnedFd, name: &str) -> Result<(), String> {
        let refused = |e: nix::errno::Errno| format!("it is no socket: {}", e.desc());
        if getsockopt(&fd, sockopt::SockType).map_err(refused)? != nix::sys::socket::SockType::Stream {
            return Err("it is no stream socket".to_owned());
        }
        if !getsockopt(&fd, sockopt::AcceptConn).map_err(refused)? {
            return Err("it does not listen: it may be a connection (Accept=yes)".to_owned());
        }
        let flags = fcntl(&fd, FcntlArg::F_GETFL).map_err(refused)?;
        let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
        fcntl(&fd, FcntlArg::F_SETFL(flags)).map_err(refused)?;
        let address: SockaddrStorage = getsockname(fd.as_raw_fd()).map_err(refused)?;
        match address.family() {
            Some(AddressFamily::Unix) if self.admin.is_some() => {
                Err("there is one for the admin API already".to_owned())
            }
            Some(AddressFamily::Unix) => {
                self.admin = Some(fd);
                Ok(())
            }
            Some(AddressFamily::Inet | AddressFamily::Inet6) => {
                self.add_tcp(fd, name).map_err(|e| e.to_string())
            }
            other => Err(format!("it is of {other:?}")),
        }
    }

    fn add_tcp(&mut self, fd: OwnedFd, name: &str) -> io::Result<()> {
        let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        let address = listeners::local(&fd)?;
        if !ADMIN_NAMES.contains(&name) {
            self.callers.push((fd, address));
        } else if self.admin_tcp.is_some() {
            return refuse("there is one for metrics and health already");
        } else if !address.ip().is_loopback() {
            // As in the configuration: who is asked there has no door but this.
            return refuse("metrics and health are for a loopback address");
        } else {
            self.admin_tcp = Some((fd, address));
        }
        Ok(())
    }
}

/// Copies of listeners, address by address, at least one per worker: with fewer sockets than workers these share one, and its
/// queue.
///
/// # Errors
/// Those of dup.
pub(super) fn deal(
    callers: &[(OwnedFd, SocketAddr)],
    workers: usize,
) -> io::Result<(Vec<OwnedFd>, Vec<SocketAddr>)> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    let mut groups: Vec<Vec<&OwnedFd>> = Vec::new();
    for (fd, address) in callers {
        match addresses.iter().position(|known| known == address) {
            // With ReusePort= there are several queues for one address, and each must be served.
            Some(index) => groups[index].push(fd),
            None => {
                addresses.push(*address);
                groups.push(vec![fd]);
            }
        }
    }
    let mut dealt = Vec::new();
    for group in groups {
        let count = group.len().next_multiple_of(workers);
        let copies: io::Result<Vec<OwnedFd>> =
            (0..count).map(|n| group[n % group.len()].try_clone()).collect();
        dealt.extend(copies?);
    }
    Ok((dealt, addresses))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn listener() -> (OwnedFd, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener.into(), address)
    }

    #[test]
    fn only_the_process_that_was_meant_takes_them() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(count(text("7"), text("2"), 7).unwrap(), Some(2));
        assert_eq!(count(text("8"), text("2"), 7).unwrap(), None);
        assert_eq!(count(None, text("2"), 7).unwrap(), None);
        assert_eq!(count(text("7"), text("0"), 7).unwrap(), None);
        for wrong in ["65", "-1", "two", ""] {
            assert!(count(text("7"), text(wrong), 7).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn each_socket_is_for_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut given = Given::default();
        given.add(listener().0, "http").unwrap();
        given.add(listener().0, "").unwrap();
        given.add(listener().0, "metrics").unwrap();
        given
            .add(UnixListener::bind(dir.path().join("a")).unwrap().into(), "funcd")
            .unwrap();
        assert_eq!(
            (
                given.callers.len(),
                given.admin.is_some(),
                given.admin_tcp.is_some()
            ),
            (2, true, true)
        );
        let refusals = [
            (
                OwnedFd::from(UnixListener::bind(dir.path().join("b")).unwrap()),
                "",
                "for the admin API already",
            ),
            (listener().0, "metrics", "for metrics and health already"),
            (
                UdpSocket::bind("127.0.0.1:0").unwrap().into(),
                "http",
                "no stream socket",
            ),
            (
                std::fs::File::open("/dev/null").unwrap().into(),
                "http",
                "no socket",
            ),
        ];
        for (fd, name, why) in refusals {
            let refused = given.add(fd, name).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
        let (accepting, address) = listener();
        let connection = TcpStream::connect(address).unwrap();
        assert!(
            given
                .add(connection.into(), "http")
                .unwrap_err()
                .contains("Accept=yes")
        );
        drop(accepting);
        let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
        let refused = Given::default().add(everywhere.into(), "admin").unwrap_err();
        assert!(refused.contains("loopback"), "{refused}");
    }

    #[test]
    fn each_worker_has_a_listener_of_each_address_and_no_queue_is_left() {
        let (one, at_one) = listener();
        let (two, at_two) = listener();
        // As with ReusePort=: several of one address.
        let copies = || (one.try_clone().unwrap(), at_one);
        let (dealt, addresses) = deal(
            &[copies(), (two.try_clone().unwrap(), at_two), copies(), copies()],
            2,
        )
        .unwrap();
        assert_eq!(addresses, [at_one, at_two]);
        let of: Vec<SocketAddr> = dealt.iter().map(|fd| listeners::local(fd).unwrap()).collect();
        assert_eq!(of, [at_one, at_one, at_one, at_one, at_two, at_two]);
        assert_eq!(deal(&[(two, at_two)], 4).unwrap().0.len(), 4);
    }
}
