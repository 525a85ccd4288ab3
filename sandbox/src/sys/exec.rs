//! The argument and environment vectors of an exec, ready before the clone. Never changes after that, except the digits
//! of `LISTEN_PID`, and what a request adds to the environment in the memory that is there for it.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char};
use std::marker::PhantomData;
use std::os::fd::RawFd;
use std::ptr;

use super::raw::syscall;
use super::{Errno, calls};
use crate::variables;

const LISTEN_PID: &[u8] = b"LISTEN_PID=";
/// `LISTEN_PID=`, the digits of an i32 and a NUL.
const SLOT: usize = LISTEN_PID.len() + 10 + 1;

/// The vectors of one exec.
pub(crate) struct Vectors<'a> {
    argv: Vec<*const c_char>,
    envp: Cell<Vec<*const c_char>>,
    /// Room for the variables of a request; none where there will not be any.
    received: Cell<Vec<u8>>,
    /// `LISTEN_PID=` and its digits: the child writes them in place, as only it knows its pid.
    slot: Box<[Cell<u8>; SLOT]>,
    strings: PhantomData<&'a CString>,
}

impl<'a> Vectors<'a> {
    pub(crate) fn new(
        args: &'a [CString],
        env: &'a [CString],
        listen_pid: bool,
        takes_variables: bool,
    ) -> Vectors<'a> {
        let slot = Box::new([const { Cell::new(0) }; SLOT]);
        for (cell, byte) in slot.iter().zip(LISTEN_PID) {
            cell.set(*byte);
        }
        let strings = |list: &'a [CString]| list.iter().map(|s| s.as_ptr());
        let added = listen_pid.then_some(slot.as_ptr().cast::<c_char>());
        let argv = strings(args).chain([ptr::null()]).collect();
        let (bytes, count) = match takes_variables {
            true => (variables::MAX_BYTES, variables::MAX_COUNT),
            false => (0, 0),
        };
        let mut envp = Vec::with_capacity(env.len() + 2 + count);
        envp.extend(strings(env).chain(added).chain([ptr::null()]));
        Vectors {
            argv,
            envp: Cell::new(envp),
            received: Cell::new(vec![0; bytes]),
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

    /// In a child with a memory of its own: reads a request's variables from a pipe, as [`crate::confine::Confinement`] has
    /// them, and adds them to the environment. Allocates nothing, and ends early when the pipe does.
    pub(crate) fn receive(&self, pipe: RawFd) -> Result<(), Errno> {
        let mut length = [0; 4];
        read_all(pipe, &mut length)?;
        let length = u32::from_ne_bytes(length) as usize;
        let (mut received, mut envp) = (self.received.take(), self.envp.take());
        let block = received.get_mut(..length).ok_or(libc::E2BIG)?;
        read_all(pipe, block)?;
        // Who sent it is not trusted; and there is room for so many.
        variables::count(block).ok_or(libc::EINVAL)?;
        envp.pop();
        envp.extend(variables::each(block).map(|variable| variable.as_ptr().cast::<c_char>()));
        envp.push(ptr::null());
        // Moving them leaves where they point to.
        self.received.set(received);
        self.envp.set(envp);
        Ok(())
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
        let env = self.envp.take();
        let (argv, envp) = (self.argv.as_ptr() as usize, env.as_ptr() as usize);
        // Back before exec: where the memory is shared, whoever owns it frees it.
        self.envp.set(env);
        let args = [fd as usize, path.as_ptr() as usize, argv, envp, flags as usize, 0];
        // SAFETY: both vectors end in null and point to NUL-terminated strings that outlive self ('a; the slot, whose last
        // byte is never written: i32 has at most ten digits; and a received block, whose last byte was found to be one).
        unsafe { syscall(libc::SYS_execveat, args) }.err().unwrap_or(0)
    }
}

fn read_all(pipe: RawFd, mut buffer: &mut [u8]) -> Result<(), Errno> {
    while !buffer.is_empty() {
        match calls::read(pipe, buffer) {
            Ok(0) => return Err(libc::EPIPE),
            Ok(length) => buffer = &mut buffer[length..],
            Err(libc::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pid_is_written_in_place() {
        let vectors = Vectors::new(&[], &[], true, false);
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
    #[test]
    fn variables_of_a_request_come_behind_its_own_and_only_whole() {
        use std::io::Write;
        use std::os::fd::AsRawFd;
        let own = [c"PATH=/bin".to_owned()];
        let send = |length: u32, block: &[u8]| {
            let vectors = Vectors::new(&[], &own, false, true);
            let room = vectors.envp.take();
            let (at, capacity) = (room.as_ptr(), room.capacity());
            vectors.envp.set(room);
            let (read, write) = nix::unistd::pipe().unwrap();
            let mut write = std::fs::File::from(write);
            write.write_all(&[&length.to_ne_bytes(), block].concat()).unwrap();
            drop(write);
            vectors.receive(read.as_raw_fd())?;
            let envp = vectors.envp.take();
            assert_eq!((envp.as_ptr(), envp.capacity()), (at, capacity), "it allocated");
            Ok::<_, Errno>(envp.len())
        };
        assert_eq!(send(0, b""), Ok(2));
        assert_eq!(send(18, b"METHOD=GET\0ROUTE=\0"), Ok(4));
        assert_eq!(send(19, b"METHOD=GET\0ROUTE=\0"), Err(libc::EPIPE));
        assert_eq!(send(5, b"LD_A=\0"), Err(libc::EINVAL));
        assert_eq!(send(6, b"LD_A=\0"), Err(libc::EINVAL));
        assert_eq!(send(u32::MAX, b""), Err(libc::E2BIG));
        let many = b"METHOD=\0".repeat(variables::MAX_COUNT);
        assert_eq!(send(many.len() as u32, &many), Ok(2 + variables::MAX_COUNT));
    }
}
