//! The argument and environment vectors of an exec, ready before the clone. Never changes after that, except the digits
//! of `LISTEN_PID`.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char};
use std::marker::PhantomData;
use std::os::fd::RawFd;
use std::ptr;

use super::Errno;
use super::raw::syscall;

const LISTEN_PID: &[u8] = b"LISTEN_PID=";
/// `LISTEN_PID=`, the digits of an i32 and a NUL.
const SLOT: usize = LISTEN_PID.len() + 10 + 1;

/// The vectors of one exec.
pub(crate) struct Vectors<'a> {
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    /// `LISTEN_PID=` and its digits: the child writes them in place, as only it knows its pid.
    slot: Box<[Cell<u8>; SLOT]>,
    strings: PhantomData<&'a CString>,
}

impl<'a> Vectors<'a> {
    pub(crate) fn new(args: &'a [CString], env: &'a [CString], listen_pid: bool) -> Vectors<'a> {
        let slot = Box::new([const { Cell::new(0) }; SLOT]);
        for (cell, byte) in slot.iter().zip(LISTEN_PID) {
            cell.set(*byte);
        }
        let strings = |list: &'a [CString]| list.iter().map(|s| s.as_ptr());
        let added = listen_pid.then_some(slot.as_ptr().cast::<c_char>());
        let argv = strings(args).chain([ptr::null()]).collect();
        let envp = strings(env).chain(added).chain([ptr::null()]).collect();
        Vectors {
            argv,
            envp,
            slot,
            strings: PhantomData,
        }
    }

    /// Writes the digits of `LISTEN_PID`.
    pub(crate) fn set_listen_pid(&self, pid: i32) {
        let digits = &self.slot[LISTEN_PID.len()..];
        let mut rest = pid.unsigned_abs();
        let count = rest.checked_ilog10().unwrap_or(0) as usize + 1;
        for cell in digits[..count].iter().rev() {
            cell.set(b'0' + (rest % 10) as u8);
            rest /= 10;
        }
        digits[count].set(0);
    }

    /// Executes the file that a descriptor refers to.
    pub(crate) fn exec_fd(&self, fd: RawFd) -> Errno {
        self.exec(fd, c"", libc::AT_EMPTY_PATH)
    }

    /// Executes the file at a path.
    pub(crate) fn exec_path(&self, path: &CStr) -> Errno {
        self.exec(libc::AT_FDCWD, path, 0)
    }

    fn exec(&self, fd: RawFd, path: &CStr, flags: i32) -> Errno {
        let (argv, envp) = (self.argv.as_ptr() as usize, self.envp.as_ptr() as usize);
        let args = [fd as usize, path.as_ptr() as usize, argv, envp, flags as usize, 0];
        // SAFETY: both vectors end in null and point to NUL-terminated strings that outlive self ('a, and the slot,
        // whose last byte is never written: i32 has at most ten digits).
        unsafe { syscall(libc::SYS_execveat, args) }.err().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pid_is_written_in_place() {
        let vectors = Vectors::new(&[], &[], true);
        for pid in [i32::MAX, 1, 2, 10, 32768, 99] {
            vectors.set_listen_pid(pid);
            let text: Vec<u8> = vectors
                .slot
                .iter()
                .map(Cell::get)
                .take_while(|byte| *byte != 0)
                .collect();
            assert_eq!(String::from_utf8(text).unwrap(), format!("LISTEN_PID={pid}"));
        }
    }
}
