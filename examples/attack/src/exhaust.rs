//! Attempts to take all there is of something. Each stops by itself where nothing stops it, and gives back what it took;
//! those called `keep-…` keep it.

use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

use crate::{Outcome, came, last, number, text};

/// Does it until it fails or was done so often.
fn until_refused(most: i64, mut once: impl FnMut(i64) -> Result<(), i32>) -> Outcome {
    for done in 0..most {
        if let Err(errno) = once(done) {
            return Ok(format!("{} after {done}", crate::errno::name(errno)));
        }
    }
    Ok(format!("ok {most}"))
}

fn raw(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

/// Children that wait; all are killed and reaped at the end.
fn fork_bomb(most: i64, vfork_like: bool) -> Outcome {
    let mut children = Vec::new();
    let flags = if vfork_like {
        libc::CLONE_FS | libc::SIGCHLD
    } else {
        libc::SIGCHLD
    };
    let said = until_refused(most, |_| {
        // SAFETY: without a stack of its own the child goes on with a copy of this one, as after fork.
        let pid = came(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
        if pid == 0 {
            loop {
                // SAFETY: it takes nothing.
                unsafe { libc::pause() };
            }
        }
        children.push(pid as i32);
        Ok(())
    });
    for pid in children {
        // SAFETY: it is a child that nobody has waited for.
        unsafe {
            (
                libc::kill(pid, libc::SIGKILL),
                libc::waitpid(pid, std::ptr::null_mut(), 0),
            )
        };
    }
    said
}

/// Threads that wait until the process ends.
fn thread_bomb(most: i64) -> Outcome {
    until_refused(most, |_| {
        let builder = std::thread::Builder::new().stack_size(64 << 10);
        builder
            .spawn(|| std::thread::sleep(Duration::from_secs(600)))
            .map(drop)
            .map_err(raw)
    })
}

fn fill(folder: &str, megabytes: i64) -> Outcome {
    let path = |n| format!("{folder}/fill-{n}");
    let said = until_refused(megabytes, |n| {
        let mut file = File::create(path(n)).map_err(raw)?;
        file.write_all(&[b'x'; 1 << 20]).map_err(raw)
    });
    (0..megabytes).for_each(|n| drop(fs::remove_file(path(n))));
    said
}

fn inodes(folder: &str, most: i64) -> Outcome {
    let path = |n| format!("{folder}/inode-{n}");
    let said = until_refused(most, |n| File::create(path(n)).map(drop).map_err(raw));
    (0..most).for_each(|n| drop(fs::remove_file(path(n))));
    said
}

/// Grows one file, past the largest size that a file may have.
fn extend(path: &str, bytes: i64, allocate: bool) -> Outcome {
    // Others do the same in the same folder.
    let path = text(&format!("{path}-{}", std::process::id()));
    // SAFETY: ignoring a signal installs no handler.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    // SAFETY: the path ends in NUL, the rest are numbers.
    unsafe {
        let file = came(libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CREAT, 0o600).into())? as i32;
        libc::unlink(path.as_ptr());
        let done = match allocate {
            true => libc::fallocate(file, 0, 0, bytes),
            false => libc::ftruncate(file, bytes),
        };
        let result = came(done.into()).map(|_| String::new());
        libc::close(file);
        result
    }
}

/// Raises the soft limit as far as it goes, then opens.
fn descriptors(most: i64) -> Outcome {
    // SAFETY: the limit is ours, the rest are numbers.
    unsafe {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        until_refused(most, |_| came(libc::dup(0).into()).map(drop))
    }
}

/// Descriptors in messages that nobody reads, which no process holds.
fn in_flight(most: i64) -> Outcome {
    let mut pair = [0; 2];
    // SAFETY: the array has place for both.
    unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            libc::SOCK_DGRAM | libc::SOCK_NONBLOCK,
            0,
            pair.as_mut_ptr(),
        )
    };
    until_refused(most, |sent| {
        // SAFETY: header, buffers and control message are ours and as long as is said.
        unsafe {
            if sent % 8 == 7 {
                // A queue is short: the next ones go to another socket, which stays open through its own message.
                came(
                    libc::socketpair(
                        libc::AF_UNIX,
                        libc::SOCK_DGRAM | libc::SOCK_NONBLOCK,
                        0,
                        pair.as_mut_ptr(),
                    )
                    .into(),
                )?;
            }
            let mut byte = 0u8;
            let mut part = libc::iovec {
                iov_base: (&raw mut byte).cast(),
                iov_len: 1,
            };
            let mut control = [0u64; 8];
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_iov = &mut part;
            header.msg_iovlen = 1;
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = libc::CMSG_SPACE(4) as _;
            let message = libc::CMSG_FIRSTHDR(&header);
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = libc::CMSG_LEN(4) as _;
            std::ptr::write_unaligned(libc::CMSG_DATA(message).cast(), pair[1]);
            came(libc::sendmsg(pair[0], &header, 0) as libc::c_long).map(drop)
        }
    })
}

/// Bytes in sockets that nobody reads: memory of the kernel, not of the process.
fn eat_sockets(megabytes: i64) -> Outcome {
    let chunk = [b'x'; 64 << 10];
    let mut left = megabytes << 20;
    while left > 0 {
        let mut pair = [0; 2];
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
        // SAFETY: the array has place for both; the bytes are as long as is said.
        unsafe {
            came(libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()).into())?;
            for end in pair {
                loop {
                    match libc::write(end, chunk.as_ptr().cast(), chunk.len()) {
                        ..0 => break,
                        taken => left -= taken as i64,
                    }
                }
            }
        }
    }
    Ok(String::new())
}

/// Keeps so many processes busy for a while.
fn spin(processes: i64, milliseconds: i64) -> Outcome {
    let until = Instant::now() + Duration::from_millis(milliseconds as u64);
    let mut children = Vec::new();
    for _ in 0..processes {
        // SAFETY: this program has one thread, so the child may do whatever its parent may.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            while Instant::now() < until {}
            // SAFETY: it ends this process.
            unsafe { libc::_exit(0) };
        }
        children.push(came(pid.into())? as i32);
    }
    for pid in children {
        // SAFETY: no status is asked for.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    }
    Ok(String::new())
}

pub(crate) fn attempt(verb: &str, arguments: &[&str]) -> Option<Outcome> {
    Some(match (verb, arguments) {
        ("fork-bomb", [most]) => fork_bomb(number(most), false),
        ("clone-bomb", [most]) => fork_bomb(number(most), true),
        ("thread-bomb", [most]) => thread_bomb(number(most)),
        ("eat", [megabytes]) => {
            for _ in 0..number(megabytes) {
                // Not zeros: those would be pages that nobody has touched.
                std::hint::black_box(Vec::leak(vec![1u8; 1 << 20]));
            }
            Ok(String::new())
        }
        ("eat-sockets", [megabytes]) => eat_sockets(number(megabytes)),
        ("lock", [bytes]) => {
            let memory = vec![1u8; number(bytes) as usize];
            // SAFETY: the memory is ours and as long as is said.
            came(unsafe { libc::mlock(memory.as_ptr().cast(), memory.len()) }.into()).map(|_| String::new())
        }
        ("fill", [folder, megabytes]) => fill(folder, number(megabytes)),
        ("inodes", [folder, most]) => inodes(folder, number(most)),
        ("extend", [path, bytes]) => extend(path, number(bytes), false),
        ("allocate", [path, bytes]) => extend(path, number(bytes), true),
        ("descriptors", [most]) => descriptors(number(most)),
        ("in-flight", [most]) => in_flight(number(most)),
        ("spin", [processes, milliseconds]) => spin(number(processes), number(milliseconds)),
        // SAFETY: only numbers.
        ("keep-inotify", [most]) => until_refused(number(most), |_| match unsafe { libc::inotify_init() } {
            -1 => Err(last()),
            _ => Ok(()),
        }),
        _ => return None,
    })
}
