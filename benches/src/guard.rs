//! A process that this program started: ended when the guard goes, by its pid and no other way.

use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How often an end is looked for.
const GLANCE: Duration = Duration::from_millis(2);

/// A child, asked to end with SIGTERM, then made to with SIGKILL.
#[derive(Debug)]
pub(crate) struct Guard {
    pid: Pid,
    grace: Duration,
    reaped: bool,
}

impl Guard {
    /// Ends `child` when dropped; it has `grace` between the signals.
    pub(crate) fn child(child: Child, grace: Duration) -> Guard {
        Guard::pid(Pid::from_raw(child.id() as i32), grace)
    }

    /// As [`Guard::child`], of a child that is known by its pid only.
    pub(crate) fn pid(pid: Pid, grace: Duration) -> Guard {
        Guard {
            pid,
            grace,
            reaped: false,
        }
    }

    /// Which process.
    pub(crate) fn id(&self) -> i32 {
        self.pid.as_raw()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<String> {
        if self.reaped {
            return Some("it was told to".into());
        }
        let how = match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return None,
            Ok(WaitStatus::Exited(_, code)) => format!("exit code {code}"),
            Ok(WaitStatus::Signaled(_, signal, _)) => format!("{signal}"),
            Ok(other) => format!("{other:?}"),
            Err(errno) => errno.to_string(),
        };
        self.reaped = true;
        Some(how)
    }

    fn ended_within(&mut self, length: Duration) -> bool {
        let end = Instant::now() + length;
        while self.ended().is_none() {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(GLANCE);
        }
        true
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.ended().is_some() {
            return;
        }
        if !self.grace.is_zero() {
            let _ = kill(self.pid, Signal::SIGTERM);
            if self.ended_within(self.grace) {
                return;
            }
        }
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn is_there(pid: i32) -> bool {
        std::path::Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn dropping_the_guard_ends_and_reaps() {
        for grace in [Duration::ZERO, Duration::from_secs(60)] {
            let child = Command::new("sleep").arg("600").spawn().unwrap();
            let guard = Guard::child(child, grace);
            let pid = guard.id();
            assert!(is_there(pid));
            drop(guard);
            assert!(!is_there(pid));
        }
    }

    #[test]
    fn an_end_is_told_with_its_code_once() {
        let child = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let mut guard = Guard::child(child, Duration::ZERO);
        let how = loop {
            if let Some(how) = guard.ended() {
                break how;
            }
        };
        assert_eq!(how, "exit code 7");
    }
}
