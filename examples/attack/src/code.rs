//! Attempts to run what was not deployed.

use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::{Outcome, came, last, text};

/// A program of a few bytes that exits with 42.
fn program() -> Vec<u8> {
    #[cfg(target_arch = "x86_64")]
    const CODE: &[u8] = &[0xbf, 42, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    #[cfg(target_arch = "x86_64")]
    const MACHINE: u16 = 62;
    #[cfg(target_arch = "aarch64")]
    const CODE: &[u8] = &[
        0x40, 0x05, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4,
    ];
    #[cfg(target_arch = "aarch64")]
    const MACHINE: u16 = 183;
    const BASE: u64 = 0x40_0000;
    let size = 120 + CODE.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |file: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    half(&mut file, &[2, MACHINE, 1, 0]);
    [BASE + 120, 64, 0]
        .iter()
        .for_each(|v| file.extend(v.to_le_bytes()));
    half(&mut file, &[0, 0, 64, 56, 1, 0, 0, 0]);
    // One segment, readable and executable.
    [1u32, 5].iter().for_each(|v| file.extend(v.to_le_bytes()));
    [0, BASE, BASE, size, size, 4096]
        .iter()
        .for_each(|v: &u64| file.extend(v.to_le_bytes()));
    file.extend(CODE);
    file
}

fn drop_program(folder: &str) -> Result<String, i32> {
    let path = format!("{folder}/downloaded-{}", std::process::id());
    let written = fs::write(&path, program())
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)));
    written
        .map_err(|error| error.raw_os_error().unwrap_or(0))
        .map(|()| path)
}

fn ended(result: std::io::Result<std::process::ExitStatus>) -> Outcome {
    match result {
        Ok(status) if status.code() == Some(42) => Ok("ok it ran".to_owned()),
        Ok(status) => Ok(format!("failed {status}")),
        Err(error) => Err(error.raw_os_error().unwrap_or(0)),
    }
}

/// Executes an open file, after what has to happen before, in a child.
fn execute_descriptor(open: impl Fn() -> i32 + Send + Sync + 'static) -> Outcome {
    let mut command = Command::new("/never");
    let act = move || {
        let file = open();
        let arguments = [c"downloaded".as_ptr(), std::ptr::null()];
        let empty: &CStr = c"";
        // SAFETY: strings and lists end as the kernel wants it; it returns only when it failed.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                file,
                empty.as_ptr(),
                arguments.as_ptr(),
                arguments[1..].as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
        Err(std::io::Error::last_os_error())
    };
    // SAFETY: only system calls are made between fork and exec.
    ended(unsafe { command.pre_exec(act) }.status())
}

fn memory_file(flags: u32, bytes: &[u8]) -> i32 {
    // SAFETY: the name ends in NUL, the bytes are as long as is said.
    unsafe {
        let file = libc::memfd_create(c"downloaded".as_ptr(), flags);
        libc::write(file, bytes.as_ptr().cast(), bytes.len());
        file
    }
}

/// Maps the file as code and says whether it might have been called.
fn map(path: &str, later: bool) -> Outcome {
    // SAFETY: the path ends in NUL; nothing is done with the mapping.
    unsafe {
        let file = came(libc::open(text(path).as_ptr(), libc::O_RDONLY).into())? as i32;
        let first = if later {
            libc::PROT_READ
        } else {
            libc::PROT_READ | libc::PROT_EXEC
        };
        let place = libc::mmap(std::ptr::null_mut(), 4096, first, libc::MAP_PRIVATE, file, 0);
        if place == libc::MAP_FAILED {
            return Err(last());
        }
        came(libc::mprotect(place, 4096, libc::PROT_READ | libc::PROT_EXEC).into()).map(|_| String::new())
    }
}

pub(crate) fn attempt(verb: &str, arguments: &[&str]) -> Option<Outcome> {
    let with_program = |folder: &str, act: &dyn Fn(&str) -> Outcome| {
        let path = drop_program(folder)?;
        let outcome = act(&path);
        let _ = fs::remove_file(path);
        outcome
    };
    Some(match (verb, arguments) {
        ("execute-file", [folder]) => with_program(folder, &|path| ended(Command::new(path).status())),
        ("execute-open-file", [folder]) => with_program(folder, &|path| {
            let path = text(path);
            // SAFETY: the path ends in NUL.
            execute_descriptor(move || unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) })
        }),
        ("map-file", [folder]) => with_program(folder, &|path| map(path, false)),
        ("map-file-later", [folder]) => with_program(folder, &|path| map(path, true)),
        // The system's dynamic linker, asked to run a file.
        ("execute-by-linker", [linker, folder]) => {
            with_program(folder, &|path| ended(Command::new(linker).arg(path).status()))
        }
        ("execute-memory", []) => {
            let bytes = program();
            execute_descriptor(move || memory_file(0, &bytes))
        }
        _ => return None,
    })
}
