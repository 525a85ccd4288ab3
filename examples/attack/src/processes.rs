//! Attempts at other processes, and at outliving one's own end.

use std::fs;
use std::time::Duration;

use crate::{Outcome, came, last, number, ok};

/// Forks; the child runs what is given and ends.
fn child(act: impl FnOnce()) -> Result<i32, i32> {
    // SAFETY: this program has one thread, so the child may do whatever its parent may.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        act();
        // SAFETY: it ends this process.
        unsafe { libc::_exit(0) };
    }
    came(pid.into()).map(|pid| pid as i32)
}

fn pause_for_ever() {
    loop {
        // SAFETY: it takes nothing.
        unsafe { libc::pause() };
    }
}

/// Signals by way of a descriptor's owner: the kernel sends SIGKILL when the pipe becomes readable.
fn signal_by_owner(pid: i64) -> Outcome {
    let mut ends = [0; 2];
    // SAFETY: the array has place for both; the other calls take only numbers.
    unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, ends.as_mut_ptr());
        came(libc::fcntl(ends[0], libc::F_SETOWN, pid as i32).into())?;
        came(libc::fcntl(ends[0], 10 /* F_SETSIG */, libc::SIGKILL).into())?;
        came(libc::fcntl(ends[0], libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK).into())?;
        came(libc::write(ends[1], c"x".as_ptr().cast(), 1) as libc::c_long)?;
    }
    ok()
}

/// The processes that its /proc shows, and which of them is not its own.
fn visible() -> Outcome {
    let entries = fs::read_dir("/proc").map_err(|error| error.raw_os_error().unwrap_or(0))?;
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok());
    // SAFETY: only numbers.
    let here = unsafe { libc::getuid() };
    let foreign = pids.filter(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        uid.and_then(|line| line.split_whitespace().next()?.parse().ok()) != Some(here)
    });
    Ok(match foreign.count() {
        0 => "own".to_owned(),
        others => format!("ok {others} of others"),
    })
}

/// Says that it is ready, and whose pid it has, by every way there is; but accepts nothing.
pub(crate) fn claim() -> ! {
    println!("READY=1\nMAINPID=1\n{{\"pid\":1,\"ready\":true}}");
    eprintln!("READY=1\nMAINPID=1");
    for path in [
        "/run/systemd/notify",
        "/run/funcd/notify.sock",
        "/run/funcd/admin.sock",
    ] {
        let _ = attempt_notify(path);
    }
    // Not its to accept on, but its to write to.
    // SAFETY: the bytes are as long as is said.
    unsafe { libc::write(3, c"READY=1".as_ptr().cast(), 7) };
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn attempt_notify(path: &str) -> std::io::Result<usize> {
    std::os::unix::net::UnixDatagram::unbound()?.send_to(b"READY=1\nMAINPID=1", path)
}

pub(crate) fn attempt(verb: &str, arguments: &[&str]) -> Option<Outcome> {
    Some(match (verb, arguments) {
        // Everybody that it may signal but itself; whoever started it is among them.
        // SAFETY: only numbers.
        ("kill-all", []) => came(unsafe { libc::kill(-1, libc::SIGKILL) }.into()).map(|_| String::new()),
        // SAFETY: only numbers.
        ("signal", [pid, signal]) => {
            came(unsafe { libc::kill(number(pid) as i32, number(signal) as i32) }.into())
                .map(|_| String::new())
        }
        ("reach", pids) => {
            // SAFETY: only numbers.
            let there = pids
                .iter()
                .filter(|pid| unsafe { libc::kill(number(pid) as i32, 0) } == 0);
            Ok(there.count().to_string())
        }
        ("signal-by-owner", [pid]) => signal_by_owner(number(pid)),
        ("visible", []) => visible(),
        // A grandchild in a session of its own that never ends.
        ("keep-daemon", []) => child(|| {
            // SAFETY: only numbers.
            unsafe { libc::setsid() };
            let _ = child(pause_for_ever);
        })
        .map(|pid| {
            // SAFETY: no status is asked for.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            String::new()
        }),
        // Ignores all that can be ignored.
        ("keep-deaf", []) => {
            for signal in 1..=31 {
                // SAFETY: ignoring installs no handler.
                unsafe { libc::signal(signal, libc::SIG_IGN) };
            }
            ok()
        }
        // Processes that only fork again and end, so that a list of pids is always too old.
        ("keep-storm", [lines]) => {
            for _ in 0..number(lines) {
                let _ = child(|| {
                    // SAFETY: only numbers.
                    unsafe { (libc::setsid(), libc::signal(libc::SIGTERM, libc::SIG_IGN)) };
                    loop {
                        let _ = child(|| {
                            let _ = child(|| ());
                        });
                        // Not so fast that a host without a limit of pids has none left for others.
                        std::thread::sleep(Duration::from_micros(500));
                        // SAFETY: the child goes on in its place.
                        if unsafe { libc::fork() } > 0 {
                            // SAFETY: it ends this process.
                            unsafe { libc::_exit(0) };
                        }
                        // SAFETY: no status is asked for.
                        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
                    }
                });
            }
            ok()
        }
        // Children that nobody waits for; then it dies itself.
        ("keep-zombies", [many]) => {
            for _ in 0..number(many) {
                let _ = child(|| ());
            }
            // SAFETY: only numbers.
            unsafe { (libc::kill(libc::getpid(), libc::SIGABRT), libc::pause()) };
            Err(last())
        }
        _ => return None,
    })
}
