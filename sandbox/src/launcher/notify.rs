//! What the service manager is told (sd_notify(3)): that callers are served, a reload, the end, and that this host is
//! alive, which is said only when the supervisor has said so itself. By hand, as the launcher must never wait for a peer,
//! and what it is told may change with each re-execution. Never takes the variables out of the environment, where the
//! next executable of this launcher finds them; no child gets them (see [`is_ours_alone`]).

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, sendto, socket};
use nix::time::{ClockId, clock_gettime};

use super::log;

/// Messages that may wait for a manager that does not read: more than it can be told between two of its answers.
const FEW: usize = 16;
/// How long until one is tried again that the manager had no room for.
const AGAIN: Duration = Duration::from_millis(100);

/// Whether a variable is between the service manager and this process: a child that inherited it could speak in its name,
/// or take descriptors that are not there.
pub(super) fn is_ours_alone(name: &OsStr) -> bool {
    let name = name.as_bytes();
    [&b"NOTIFY_SOCKET"[..], b"WATCHDOG_USEC", b"WATCHDOG_PID"].contains(&name) || name.starts_with(b"LISTEN_")
}

/// The way to the service manager; without one every message is dropped.
#[derive(Debug)]
pub(super) struct Notify {
    to: Option<(OwnedFd, UnixAddr)>,
    unsent: VecDeque<String>,
    again: Option<Instant>,
    /// Whether it was told that callers are served, and nothing since.
    is_ready: bool,
    /// What keeps the service manager's watchdog quiet, if it has one.
    pub(super) watchdog: Option<Watchdog>,
}

impl Notify {
    /// As the environment of this process says. What can't be used is said and left.
    pub(super) fn of_environment() -> Notify {
        let to = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let to = to.and_then(|name| {
            let usable = target(&name);
            usable
                .map_err(|e| {
                    log(format_args!(
                        "NOTIFY_SOCKET {name:?}: {e}; the service manager is told nothing"
                    ))
                })
                .ok()
        });
        let text = |name| std::env::var(name).ok();
        let limit = watchdog_limit(text("WATCHDOG_USEC"), text("WATCHDOG_PID"), std::process::id());
        let limit = limit.filter(|_| to.is_some());
        Notify {
            to,
            unsent: VecDeque::new(),
            again: None,
            is_ready: false,
            watchdog: limit.map(|limit| Watchdog::new(limit, Instant::now())),
        }
    }

    /// Callers are served, for the first time or again.
    pub(super) fn ready(&mut self) {
        if !std::mem::replace(&mut self.is_ready, true) {
            self.say("READY=1\nSTATUS=serving".to_owned());
        }
    }

    /// A reload begins, which ends with [`Notify::ready`].
    pub(super) fn reloading(&mut self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
            .map(Duration::from)
            .unwrap_or_default();
        self.is_ready = false;
        self.say(format!(
            "RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reloading",
            now.as_micros()
        ));
    }

    /// It ends, and takes this long at most: the time to stop is that of the configuration, not of the unit.
    pub(super) fn stopping(&mut self, within: Duration) {
        self.say(format!(
            "STOPPING=1\nEXTEND_TIMEOUT_USEC={}\nSTATUS=draining",
            within.as_micros()
        ));
    }

    /// Callers wait, and why: what people see in `systemctl status`. Ends with [`Notify::ready`].
    pub(super) fn interrupted(&mut self, why: &str) {
        self.is_ready = false;
        self.say(format!("STATUS={}", why.replace('\n', " ")));
    }

    /// The supervisor answered: both are alive.
    pub(super) fn answered(&mut self) {
        if self.watchdog.as_mut().is_some_and(Watchdog::answered) {
            self.say("WATCHDOG=1".to_owned());
        }
    }

    /// When something of this is due.
    pub(super) fn look_at(&self) -> Option<Instant> {
        let watchdog = self.watchdog.as_ref().map(Watchdog::look_at);
        [self.again, watchdog].into_iter().flatten().min()
    }

    /// Tries again what could not be sent.
    pub(super) fn on_time(&mut self, now: Instant) {
        if self.again.is_some_and(|at| now >= at) {
            self.flush(now);
        }
    }

    fn say(&mut self, what: String) {
        if self.to.is_none() {
            return;
        }
        if self.unsent.len() == FEW {
            // It reads nothing; what it is told last counts.
            self.unsent.pop_front();
        }
        self.unsent.push_back(what);
        self.flush(Instant::now());
    }

    fn flush(&mut self, now: Instant) {
        self.again = None;
        let Some((socket, address)) = &self.to else { return };
        while let Some(next) = self.unsent.front() {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match sendto(socket.as_raw_fd(), next.as_bytes(), address, flags) {
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR) => {
                    self.again = Some(now + AGAIN);
                    return;
                }
                Err(e) => log(format_args!(
                    "can't tell the service manager {next:?}: {}",
                    e.desc()
                )),
            }
            self.unsent.pop_front();
        }
    }
}

/// A socket and the address of the service manager's.
fn target(name: &OsStr) -> io::Result<(OwnedFd, UnixAddr)> {
    let address = match name.as_bytes() {
        [b'/', ..] => UnixAddr::new(name)?,
        [b'@', hidden @ ..] => UnixAddr::new_abstract(hidden)?,
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "neither a path nor an abstract name",
            ));
        }
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    Ok((socket, address))
}

/// How long the service manager waits for a sign of life of this process (sd_watchdog_enabled(3)).
fn watchdog_limit(usec: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    let for_us = pid.is_none_or(|pid| pid.parse() == Ok(own));
    let usec: u64 = usec?.parse().ok()?;
    (for_us && usec > 0).then(|| Duration::from_micros(usec))
}

/// When the supervisor is asked whether it is alive, and when it has failed to answer. Pure.
#[derive(Debug)]
pub(super) struct Watchdog {
    limit: Duration,
    next: Instant,
    asked: Option<Instant>,
}

/// What is to be done about the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing yet.
    Nothing,
    /// Ask it.
    Ask,
    /// It was asked and did not answer.
    Stuck,
}

impl Watchdog {
    fn new(limit: Duration, now: Instant) -> Watchdog {
        Watchdog {
            limit,
            next: now,
            asked: None,
        }
    }

    /// Another supervisor is there.
    pub(super) fn afresh(&mut self, now: Instant) {
        *self = Watchdog::new(self.limit, now);
    }

    /// When the next is due.
    pub(super) fn look_at(&self) -> Instant {
        self.asked.map_or(self.next, |asked| asked + self.limit / 2)
    }

    /// What is due. Asked every quarter of the manager's patience; replaced after half of it, so that the next one can answer
    /// before the manager ends the service, and all functions with it.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        if now < self.look_at() {
            return Due::Nothing;
        }
        let due = match self.asked.take() {
            Some(_) => Due::Stuck,
            None => {
                self.asked = Some(now);
                Due::Ask
            }
        };
        self.next = now + self.limit / 4;
        due
    }

    /// It answered; whether it had been asked.
    fn answered(&mut self) -> bool {
        self.asked.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn notify(to: &OsStr) -> Notify {
        Notify {
            to: Some(target(to).unwrap()),
            unsent: VecDeque::new(),
            again: None,
            is_ready: false,
            watchdog: None,
        }
    }

    fn read(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_is_told_each_thing_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut notify = notify(path.as_os_str());
        notify.ready();
        notify.ready();
        notify.reloading();
        notify.ready();
        notify.interrupted("a\nb");
        notify.ready();
        notify.stopping(Duration::from_secs(35));
        assert_eq!(read(&manager), "READY=1\nSTATUS=serving");
        let reloading = read(&manager);
        let usec = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(usec.split('\n').next().unwrap().parse::<u64>().unwrap() > 0);
        assert_eq!(read(&manager), "READY=1\nSTATUS=serving");
        assert_eq!(read(&manager), "STATUS=a b");
        assert_eq!(read(&manager), "READY=1\nSTATUS=serving");
        assert_eq!(
            read(&manager),
            "STOPPING=1\nEXTEND_TIMEOUT_USEC=35000000\nSTATUS=draining"
        );
    }

    #[test]
    fn a_manager_that_does_not_read_is_never_waited_for_and_told_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut notify = notify(path.as_os_str());
        let mut said = 0;
        while notify.again.is_none() {
            notify.interrupted(&said.to_string());
            said += 1;
            assert!(said < 100_000, "it reads although nobody does");
        }
        notify.ready();
        assert!(notify.look_at().is_some());
        for number in 0..said - 1 {
            assert_eq!(read(&manager), format!("STATUS={number}"));
        }
        notify.on_time(Instant::now() + AGAIN);
        assert_eq!(read(&manager), format!("STATUS={}", said - 1));
        assert_eq!(read(&manager), "READY=1\nSTATUS=serving");
    }

    #[test]
    fn abstract_names_work_and_others_are_refused() {
        let name = format!("funcd-test-{}", std::process::id());
        let address =
            <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name)
                .unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        notify(OsStr::new(&format!("@{name}"))).ready();
        assert_eq!(read(&manager), "READY=1\nSTATUS=serving");
        assert!(target(OsStr::new("vsock:2:1234")).is_err());
    }

    #[test]
    fn the_watchdog_is_that_of_this_process_only() {
        let limit =
            |usec: &str, pid: Option<&str>| watchdog_limit(Some(usec.to_owned()), pid.map(str::to_owned), 7);
        assert_eq!(limit("2000000", None), Some(Duration::from_secs(2)));
        assert_eq!(limit("2000000", Some("7")), Some(Duration::from_secs(2)));
        assert_eq!(limit("2000000", Some("8")), None);
        assert_eq!(limit("0", None), None);
        assert_eq!(limit("soon", None), None);
        assert_eq!(watchdog_limit(None, None, 7), None);
    }

    #[test]
    fn a_supervisor_is_asked_and_replaced_before_the_manager_loses_patience() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watchdog = Watchdog::new(Duration::from_secs(60), start);
        assert_eq!(watchdog.due(at(0)), Due::Ask);
        assert!(watchdog.answered());
        // Nobody asked for a second one.
        assert!(!watchdog.answered());
        assert_eq!(watchdog.due(at(14)), Due::Nothing);
        assert_eq!(watchdog.due(at(15)), Due::Ask);
        assert_eq!(watchdog.due(at(44)), Due::Nothing);
        assert_eq!(watchdog.due(at(45)), Due::Stuck);
        assert_eq!(watchdog.due(at(45)), Due::Nothing);
        watchdog.afresh(at(46));
        assert_eq!(watchdog.due(at(46)), Due::Ask);
    }

    #[test]
    fn no_child_may_speak_for_this_process() {
        for name in [
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "WATCHDOG_PID",
            "LISTEN_FDS",
            "LISTEN_FDNAMES",
        ] {
            assert!(is_ours_alone(OsStr::new(name)), "{name}");
        }
        for name in ["PATH", "FUNCD_LOG", "NOTIFY_SOCKETS", "WATCHDOG"] {
            assert!(!is_ours_alone(OsStr::new(name)), "{name}");
        }
    }
}
