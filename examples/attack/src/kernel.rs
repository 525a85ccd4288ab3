//! Attempts at system calls by number, at privileges, and at the other doors into the kernel.

use crate::{Outcome, came, last, number, ok, text};

/// An argument of a raw call: a number, `s:text`, `z:N` for N zero bytes, or `h:0102…`.
enum Argument {
    Number(i64),
    Bytes(Vec<u8>),
}

fn parse(word: &str) -> Argument {
    match word.split_once(':') {
        Some(("s", text)) => Argument::Bytes([text.as_bytes(), b"\0"].concat()),
        Some(("z", length)) => Argument::Bytes(vec![0; number(length) as usize]),
        Some(("h", hex)) => Argument::Bytes(
            (0..hex.len() / 2)
                .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap_or(0))
                .collect(),
        ),
        _ => Argument::Number(number(word)),
    }
}

fn call(words: &[&str]) -> Outcome {
    let mut arguments: Vec<Argument> = words.iter().map(|word| parse(word)).collect();
    let mut value = |at: usize| match arguments.get_mut(at) {
        None => 0,
        Some(Argument::Number(number)) => *number,
        Some(Argument::Bytes(bytes)) => bytes.as_mut_ptr() as i64,
    };
    let a: [i64; 7] = std::array::from_fn(&mut value);
    // SAFETY: what the kernel writes to is as long as the test says; the process ends right afterwards.
    came(unsafe { libc::syscall(a[0] as libc::c_long, a[1], a[2], a[3], a[4], a[5], a[6]) })
        .map(|_| String::new())
}

/// clone with these flags; the child ends at once.
fn clone(flags: i64) -> Outcome {
    // SAFETY: without a stack of its own the child goes on with a copy of this one, as after fork.
    let pid = came(unsafe { libc::syscall(libc::SYS_clone, flags | i64::from(libc::SIGCHLD), 0, 0, 0, 0) })?;
    if pid == 0 {
        // SAFETY: it ends this process.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: no status is asked for.
    unsafe { libc::waitpid(pid as i32, std::ptr::null_mut(), 0) };
    ok()
}

/// Executes a program and gives its output.
fn run(path: &str, arguments: &[&str]) -> Outcome {
    match std::process::Command::new(path).args(arguments).output() {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        Ok(output) => Ok(format!("failed {}", output.status)),
        Err(error) => Err(error.raw_os_error().unwrap_or(0)),
    }
}

/// Gives a file the capability CAP_NET_RAW on execution (capability.h: version 2, effective).
fn file_capability(path: &str) -> Outcome {
    let value: [u32; 5] = [0x0200_0001, 1 << 13, 0, 0, 0];
    // SAFETY: names end in NUL, the value is as long as is said.
    let set = unsafe {
        libc::setxattr(
            text(path).as_ptr(),
            c"security.capability".as_ptr(),
            value.as_ptr().cast(),
            20,
            0,
        )
    };
    came(set.into()).map(|_| String::new())
}

/// The effective capabilities, as a number.
fn capabilities() -> Outcome {
    let mut header = [0x2008_0522u32, 0];
    let mut data = [0u32; 6];
    // SAFETY: both are as long as version 3 wants them.
    came(unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr()) })?;
    Ok(format!("{:x}", u64::from(data[3]) << 32 | u64::from(data[0])))
}

#[cfg(target_arch = "x86_64")]
fn int80() -> Outcome {
    // getpid of the 32-bit table.
    let mut result: i64 = 20;
    // SAFETY: the call changes no memory.
    unsafe {
        std::arch::asm!("int 0x80", inout("rax") result, out("r8") _, out("r9") _, out("r10") _, out("r11") _)
    };
    if result > 0 { ok() } else { Err(-result as i32) }
}

/// Writes what is typed to the terminal it has, or to none.
fn push_input(request: i64) -> Outcome {
    // SAFETY: the byte outlives the call.
    came(unsafe { libc::ioctl(0, request as _, c"x".as_ptr()) }.into()).map(|_| String::new())
}

/// Sends noise on the socket that a process talks to its parent with: what a compromised supervisor would do.
fn noise(pid: i64) -> Outcome {
    // SAFETY: only numbers, and places of our own that are as long as is said.
    unsafe {
        let process = came(libc::syscall(libc::SYS_pidfd_open, pid, 0))?;
        for fd in 0..64 {
            let Ok(copy) = came(libc::syscall(libc::SYS_pidfd_getfd, process, fd, 0)) else {
                continue;
            };
            let (mut kind, mut length) = (0i32, 4);
            let asked = libc::getsockopt(
                copy as i32,
                libc::SOL_SOCKET,
                libc::SO_TYPE,
                (&raw mut kind).cast(),
                &mut length,
            );
            if asked == 0 && kind == libc::SOCK_SEQPACKET {
                let garbage = [0xffu8; 512];
                return came(
                    libc::send(copy as i32, garbage.as_ptr().cast(), garbage.len(), 0) as libc::c_long
                )
                .map(|_| format!("ok by descriptor {fd}"));
            }
        }
    }
    Ok("no such socket".to_owned())
}

pub(crate) fn attempt(verb: &str, arguments: &[&str]) -> Option<Outcome> {
    Some(match (verb, arguments) {
        ("call", words) if !words.is_empty() => call(words),
        ("clone", [flags]) => clone(number(flags)),
        ("run", [path, rest @ ..]) => run(path, rest),
        // Of what is open, not of the descriptor: whoever shares it sees the same.
        ("status-flags", [fd]) => {
            // SAFETY: only numbers.
            came(unsafe { libc::fcntl(number(fd) as i32, libc::F_GETFL) }.into())
                .map(|flags| format!("{flags:x}"))
        }
        ("file-capability", [path]) => file_capability(path),
        // SAFETY: it takes nothing.
        ("not-root", []) => Ok(if unsafe { libc::geteuid() } == 0 {
            "ok root"
        } else {
            "not root"
        }
        .to_owned()),
        ("capabilities", []) => capabilities(),
        // SAFETY: only numbers.
        ("setuid", [uid]) => {
            came(unsafe { libc::syscall(libc::SYS_setuid, number(uid)) }).map(|_| String::new())
        }
        // SAFETY: only numbers.
        ("setgid", [gid]) => {
            came(unsafe { libc::syscall(libc::SYS_setgid, number(gid)) }).map(|_| String::new())
        }
        ("setgroups", [gid]) => {
            let gid = number(gid) as u32;
            // SAFETY: one group is passed, and it outlives the call.
            came(unsafe { libc::syscall(libc::SYS_setgroups, 1, &gid) }).map(|_| String::new())
        }
        ("setfsuid", [uid]) => {
            // It never fails: it has another answer when it did nothing.
            // SAFETY: only numbers.
            let now = unsafe { (libc::setfsuid(number(uid) as u32), libc::setfsuid(u32::MAX)).1 };
            if i64::from(now) == number(uid) {
                ok()
            } else {
                Err(libc::EPERM)
            }
        }
        #[cfg(target_arch = "x86_64")]
        ("int80", []) => int80(),
        // getpid with the bit of the x32 table.
        // SAFETY: it takes nothing.
        ("x32", []) => came(unsafe { libc::syscall(0x4000_0000 + libc::SYS_getpid) }).map(|_| String::new()),
        ("push-input", [request]) => push_input(number(request)),
        ("dump-core", []) => {
            let limit = libc::rlimit {
                rlim_cur: libc::RLIM_INFINITY,
                rlim_max: libc::RLIM_INFINITY,
            };
            // SAFETY: the limit is ours; the rest are numbers.
            unsafe {
                libc::setrlimit(libc::RLIMIT_CORE, &limit);
                libc::prctl(libc::PR_SET_DUMPABLE, 1);
                let pid = libc::fork();
                if pid == 0 {
                    libc::abort();
                }
                let mut status = 0;
                if libc::waitpid(pid, &mut status, 0) < 0 {
                    return Some(Err(last()));
                }
                Ok(if libc::WCOREDUMP(status) { "ok" } else { "none" }.to_owned())
            }
        }
        ("noise", [pid]) => noise(number(pid)),
        _ => return None,
    })
}
