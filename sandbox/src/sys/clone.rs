//! clone3: a child that borrows this process's memory until it has executed, or one with a copy of it.
//! Never decides what the child does.

use std::arch::asm;
use std::mem::MaybeUninit;
use std::os::fd::{OwnedFd, RawFd};

use super::raw::syscall;
use super::{Errno, calls, own};

/// `struct clone_args` (linux/sched.h), as of `CLONE_INTO_CGROUP`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// A child and the pidfd that names it.
pub(crate) struct Child {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
}

/// Which side of a fork this is.
pub(crate) enum Fork {
    Child,
    Parent(Child),
}

/// Room for the deepest step in a build without optimisation, with much to spare; only touched pages cost anything.
const STACK: usize = 128 * 1024;

/// Signal dispositions other than "ignored" are reset (clone3(2)).
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

impl CloneArgs {
    fn new(flags: u64, cgroup: Option<RawFd>) -> CloneArgs {
        let (into, cgroup) = cgroup.map_or((0, 0), |fd| (CLONE_INTO_CGROUP, fd as u64));
        let flags = flags | into | CLONE_CLEAR_SIGHAND | libc::CLONE_PIDFD as u64;
        CloneArgs {
            flags,
            cgroup,
            exit_signal: libc::SIGCHLD as u64,
            ..CloneArgs::default()
        }
    }
}

/// Runs `child` in a new process that shares this one's memory, on a stack of its own, and waits until it has executed
/// another program or ended. All signals are blocked meanwhile, so that no handler runs on memory that is not its own; the
/// child starts with all of them blocked.
///
/// `child` must neither allocate nor take a lock (another thread may hold it); what it returns is its exit code.
pub(crate) fn vfork<F: Fn() -> i32>(flags: u64, cgroup: Option<RawFd>, child: F) -> Result<Child, Errno> {
    let mut stack: Vec<MaybeUninit<u8>> = Vec::new();
    stack.try_reserve_exact(STACK).map_err(|_| libc::ENOMEM)?;
    let mut pidfd: i32 = -1;
    let mut args = CloneArgs::new(flags | (libc::CLONE_VM | libc::CLONE_VFORK) as u64, cgroup);
    args.pidfd = (&raw mut pidfd) as u64;
    // The kernel starts the child at stack + stack_size, which the ABIs want to be a multiple of 16.
    let base = (stack.as_mut_ptr() as usize).next_multiple_of(16);
    args.stack = base as u64;
    args.stack_size = (STACK - 16) as u64 & !15;

    let mask = calls::block_signals();
    let argument = (&raw const child).cast::<libc::c_void>();
    // SAFETY: args is a valid clone_args, its stack is 128 KiB that nothing else uses until the child is done with them,
    // and `enter::<F>` gets the pointer to an `F` that outlives it, as CLONE_VFORK stops this thread meanwhile.
    let result = unsafe { clone_and_call(&args, enter::<F>, argument) };
    calls::set_signals(mask);
    drop(stack);
    match result {
        pid if pid > 0 => Ok(Child {
            pid: pid as i32,
            pidfd: own(pidfd),
        }),
        error => Err(-error as Errno),
    }
}

/// Like fork, with clone3's flags: the child has a copy of the memory. It starts with all signals blocked, and must not
/// allocate where the process has threads.
pub(crate) fn fork(flags: u64, cgroup: Option<RawFd>) -> Result<Fork, Errno> {
    let mut pidfd: i32 = -1;
    let mut args = CloneArgs::new(flags, cgroup);
    args.pidfd = (&raw mut pidfd) as u64;
    let mask = calls::block_signals();
    let pointer = (&raw const args) as usize;
    // SAFETY: args is a valid clone_args without a stack: both sides go on with (a copy of) this one.
    let result = unsafe { syscall(libc::SYS_clone3, [pointer, size_of::<CloneArgs>(), 0, 0, 0, 0]) };
    if result == Ok(0) {
        return Ok(Fork::Child);
    }
    calls::set_signals(mask);
    result.map(|pid| {
        Fork::Parent(Child {
            pid: pid as i32,
            pidfd: own(pidfd),
        })
    })
}

/// A child without pidfd, for the mini-init; the signal mask stays as it is.
pub(crate) fn plain_fork() -> Result<i32, Errno> {
    let args = CloneArgs {
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    let pointer = (&raw const args) as usize;
    // SAFETY: args is a valid clone_args without a stack: both sides go on with (a copy of) this one.
    unsafe { syscall(libc::SYS_clone3, [pointer, size_of::<CloneArgs>(), 0, 0, 0, 0]) }.map(|pid| pid as i32)
}

/// Where the child starts. A panic in it ends it (unwinding out of `extern "C"` aborts).
extern "C" fn enter<F: Fn() -> i32>(child: *const libc::c_void) -> ! {
    // SAFETY: `vfork` passes a pointer to an F that lives until this process is done with the shared memory.
    let child = unsafe { &*child.cast::<F>() };
    calls::exit(child())
}

/// clone3 with a stack, then `entry(argument)` in the child. In the parent: the pid, or a negative errno.
///
/// # Safety
/// `args` must name a stack, and `argument` must be what `entry` wants.
unsafe fn clone_and_call(
    args: &CloneArgs,
    entry: extern "C" fn(*const libc::c_void) -> !,
    argument: *const libc::c_void,
) -> isize {
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the child has an empty stack, so it must not return into this frame: it calls `entry`, which never returns.
    // Inputs live in registers that the system call keeps (it changes rax, rcx and r11 only), and by name: a compiler that
    // chose rbp for one would have it cleared before it is used.
    unsafe {
        asm!("syscall", "test rax, rax", "jnz 2f", "xor ebp, ebp", "mov rdi, r8", "call r9", "ud2", "2:",
             in("r8") argument, in("r9") entry,
             inout("rax") libc::SYS_clone3 as isize => result, in("rdi") args, in("rsi") size_of::<CloneArgs>(),
             out("rcx") _, out("r11") _);
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above; the system call keeps all registers but x0.
    unsafe {
        asm!("svc 0", "cbnz x0, 2f", "mov x29, xzr", "mov x30, xzr", "mov x0, x9", "blr x10", "brk 1", "2:",
             in("x9") argument, in("x10") entry,
             in("x8") libc::SYS_clone3, inout("x0") args as *const CloneArgs as isize => result,
             in("x1") size_of::<CloneArgs>(), out("x30") _);
    }
    result
}
