//! One function per system call that a child needs, in the order of the manual's sections. Never allocates, locks or
//! touches `errno`, so all of them are safe between clone and exec.

use std::ffi::{CStr, c_char};
use std::os::fd::RawFd;
use std::ptr;

use super::Errno;
use super::raw::syscall;

type Result<T = ()> = std::result::Result<T, Errno>;

/// A system call whose arguments are numbers, or pointers that its caller holds references for.
fn call(number: libc::c_long, args: [usize; 6]) -> Result<usize> {
    // SAFETY: private to this file: each caller passes numbers and pointers derived from references (or null) that are
    // right for that call and live across it.
    unsafe { syscall(number, args) }
}

fn pointer(text: &CStr) -> usize {
    text.as_ptr() as usize
}

fn optional(text: Option<&CStr>) -> usize {
    text.map_or(ptr::null::<c_char>(), CStr::as_ptr) as usize
}

const CWD: usize = libc::AT_FDCWD as usize;

// Processes.

pub(crate) fn exit(code: i32) -> ! {
    loop {
        let _ = call(libc::SYS_exit_group, [code as usize, 0, 0, 0, 0, 0]);
    }
}

pub(crate) fn getpid() -> i32 {
    call(libc::SYS_getpid, [0; 6]).map_or(0, |pid| pid as i32)
}

pub(crate) fn getppid() -> i32 {
    call(libc::SYS_getppid, [0; 6]).map_or(0, |pid| pid as i32)
}

pub(crate) fn setsid() -> Result {
    call(libc::SYS_setsid, [0; 6]).map(drop)
}

pub(crate) fn umask(mask: u32) {
    let _ = call(libc::SYS_umask, [mask as usize, 0, 0, 0, 0, 0]);
}

pub(crate) fn kill(pid: i32, signal: i32) -> Result {
    call(libc::SYS_kill, [pid as usize, signal as usize, 0, 0, 0, 0]).map(drop)
}

/// Waits for one child of any kind; `(pid, status)`.
pub(crate) fn wait(pid: i32, flags: i32) -> Result<(i32, i32)> {
    let mut status = 0i32;
    let args = [
        pid as usize,
        (&raw mut status) as usize,
        (flags | libc::__WALL) as usize,
        0,
        0,
        0,
    ];
    loop {
        match call(libc::SYS_wait4, args) {
            Err(libc::EINTR) => {}
            result => return result.map(|pid| (pid as i32, status)),
        }
    }
}

pub(crate) fn prctl(option: i32, args: [usize; 4]) -> Result<usize> {
    let [a, b, c, d] = args;
    call(libc::SYS_prctl, [option as usize, a, b, c, d, 0])
}

pub(crate) fn set_limit(resource: u32, value: u64) -> Result {
    let limit = [value, value];
    let args = [0, resource as usize, limit.as_ptr() as usize, 0, 0, 0];
    call(libc::SYS_prlimit64, args).map(drop)
}

// Signals. The kernel's signal set is one u64 on both architectures.

/// Blocks all signals; the mask before.
pub(crate) fn block_signals() -> u64 {
    let (all, mut before) = (u64::MAX, 0u64);
    let args = [
        libc::SIG_SETMASK as usize,
        (&raw const all) as usize,
        (&raw mut before) as usize,
        8,
        0,
        0,
    ];
    let _ = call(libc::SYS_rt_sigprocmask, args);
    before
}

/// Sets the mask of blocked signals.
pub(crate) fn set_signals(mask: u64) {
    let args = [libc::SIG_SETMASK as usize, (&raw const mask) as usize, 0, 8, 0, 0];
    let _ = call(libc::SYS_rt_sigprocmask, args);
}

/// Gives a signal its default disposition.
pub(crate) fn default_disposition(signal: i32) {
    // struct sigaction of the kernel: handler (SIG_DFL is 0), flags, restorer, mask.
    let action = [0u64; 4];
    let _ = call(
        libc::SYS_rt_sigaction,
        [signal as usize, action.as_ptr() as usize, 0, 8, 0, 0],
    );
}

/// Waits for any blocked signal; its number.
pub(crate) fn next_signal() -> Result<i32> {
    let all = u64::MAX;
    call(
        libc::SYS_rt_sigtimedwait,
        [(&raw const all) as usize, 0, 0, 8, 0, 0],
    )
    .map(|signal| signal as i32)
}

// Descriptors.

pub(crate) fn open(path: &CStr, flags: i32, mode: u32) -> Result<RawFd> {
    let args = [
        CWD,
        pointer(path),
        (flags | libc::O_CLOEXEC) as usize,
        mode as usize,
        0,
        0,
    ];
    call(libc::SYS_openat, args).map(|fd| fd as RawFd)
}

pub(crate) fn close(fd: RawFd) {
    let _ = call(libc::SYS_close, [fd as usize, 0, 0, 0, 0, 0]);
}

/// Makes `to` a copy of `from` that stays open across exec; they must differ.
pub(crate) fn duplicate(from: RawFd, to: RawFd) -> Result {
    call(libc::SYS_dup3, [from as usize, to as usize, 0, 0, 0, 0]).map(drop)
}

/// A copy of a descriptor, at `lowest` or above, close-on-exec.
pub(crate) fn duplicate_above(from: RawFd, lowest: RawFd) -> Result<RawFd> {
    let args = [
        from as usize,
        libc::F_DUPFD_CLOEXEC as usize,
        lowest as usize,
        0,
        0,
        0,
    ];
    call(libc::SYS_fcntl, args).map(|fd| fd as RawFd)
}

pub(crate) fn write(fd: RawFd, bytes: &[u8]) -> Result<usize> {
    call(
        libc::SYS_write,
        [fd as usize, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0],
    )
}

/// Writes all of a file that exists in one call, as those of /proc want it.
pub(crate) fn write_file(path: &CStr, bytes: &[u8]) -> Result {
    let file = open(path, libc::O_WRONLY, 0)?;
    let result = write(file, bytes);
    close(file);
    result.map(drop)
}

/// What is there to be read, up to the length of `buffer`.
pub(crate) fn read(fd: RawFd, buffer: &mut [u8]) -> Result<usize> {
    let args = [fd as usize, buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0];
    call(libc::SYS_read, args)
}

/// Closes the descriptors from `first` to `last`, both included.
pub(crate) fn close_between(first: RawFd, last: RawFd) -> Result {
    call(libc::SYS_close_range, [first as usize, last as usize, 0, 0, 0, 0]).map(drop)
}

/// Closes all descriptors from `first` on, or (with `CLOSE_RANGE_CLOEXEC`) marks them to be closed by exec.
pub(crate) fn close_range(first: u32, flags: u32) -> Result {
    let args = [first as usize, u32::MAX as usize, flags as usize, 0, 0, 0];
    call(libc::SYS_close_range, args).map(drop)
}

pub(crate) fn socket(domain: i32, kind: i32) -> Result<RawFd> {
    call(libc::SYS_socket, [domain as usize, kind as usize, 0, 0, 0, 0]).map(|fd| fd as RawFd)
}

/// Binds a TCP socket to a port of 127.0.0.1 and listens.
pub(crate) fn listen_on_loopback(socket: RawFd, port: u16, backlog: u32) -> Result {
    // struct sockaddr_in (ip(7)): family, port and address in network order, 8 bytes of nothing.
    let mut address = [0u8; 16];
    address[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    address[2..4].copy_from_slice(&port.to_be_bytes());
    address[4..8].copy_from_slice(&[127, 0, 0, 1]);
    let bind = [socket as usize, address.as_ptr() as usize, address.len(), 0, 0, 0];
    call(libc::SYS_bind, bind)?;
    call(libc::SYS_listen, [socket as usize, backlog as usize, 0, 0, 0, 0]).map(drop)
}

/// Sets the loopback interface of this network namespace up, through any socket.
pub(crate) fn loopback_up(socket: RawFd) -> Result {
    // struct ifreq: the name in 16 bytes, then the flags; 40 bytes in all.
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16..18].copy_from_slice(&((libc::IFF_UP | libc::IFF_RUNNING) as u16).to_ne_bytes());
    let args = [
        socket as usize,
        libc::SIOCSIFFLAGS as usize,
        request.as_ptr() as usize,
        0,
        0,
        0,
    ];
    call(libc::SYS_ioctl, args).map(drop)
}

// Files and mounts.

pub(crate) fn chdir(path: &CStr) -> Result {
    call(libc::SYS_chdir, [pointer(path), 0, 0, 0, 0, 0]).map(drop)
}

pub(crate) fn mkdir(path: &CStr, mode: u32) -> Result {
    call(libc::SYS_mkdirat, [CWD, pointer(path), mode as usize, 0, 0, 0]).map(drop)
}

pub(crate) fn chmod(path: &CStr, mode: u32) -> Result {
    call(libc::SYS_fchmodat, [CWD, pointer(path), mode as usize, 0, 0, 0]).map(drop)
}

/// Sends a copy of a descriptor, with one byte, over a Unix socket.
pub(crate) fn send_descriptor(socket: RawFd, descriptor: RawFd) -> Result {
    /// `struct cmsghdr` with one descriptor, padded as CMSG_SPACE(3) does.
    #[repr(C)]
    struct Rights {
        length: usize,
        level: i32,
        kind: i32,
        descriptor: RawFd,
        _padding: i32,
    }
    /// `struct msghdr`, as the kernel has it.
    #[repr(C)]
    struct Message {
        name: usize,
        name_length: usize,
        parts: usize,
        part_count: usize,
        control: usize,
        control_length: usize,
        flags: usize,
    }
    let byte = [0_u8];
    let part = [byte.as_ptr() as usize, byte.len()];
    let rights = Rights {
        // Without the padding (CMSG_LEN(3)).
        length: size_of::<Rights>() - size_of::<i32>(),
        level: libc::SOL_SOCKET,
        kind: libc::SCM_RIGHTS,
        descriptor,
        _padding: 0,
    };
    let message = Message {
        name: 0,
        name_length: 0,
        parts: part.as_ptr() as usize,
        part_count: 1,
        control: (&raw const rights) as usize,
        control_length: size_of::<Rights>(),
        flags: 0,
    };
    let args = [
        socket as usize,
        (&raw const message) as usize,
        libc::MSG_NOSIGNAL as usize,
        0,
        0,
        0,
    ];
    call(libc::SYS_sendmsg, args).map(drop)
}

pub(crate) fn mknod(path: &CStr, mode: u32, device: u64) -> Result {
    call(
        libc::SYS_mknodat,
        [CWD, pointer(path), mode as usize, device as usize, 0, 0],
    )
    .map(drop)
}

pub(crate) fn symlink(target: &CStr, path: &CStr) -> Result {
    call(
        libc::SYS_symlinkat,
        [pointer(target), CWD, pointer(path), 0, 0, 0],
    )
    .map(drop)
}

pub(crate) fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    data: Option<&CStr>,
) -> Result {
    let args = [
        optional(source),
        pointer(target),
        optional(kind),
        flags as usize,
        optional(data),
        0,
    ];
    call(libc::SYS_mount, args).map(drop)
}

/// Adds attributes to a mount and all below it; takes none away, so it also works on mounts locked by a user namespace.
pub(crate) fn mount_add_attributes(target: &CStr, attributes: u64) -> Result {
    // struct mount_attr: set, clear, propagation, userns_fd.
    let attr = [attributes, 0, 0, 0];
    let args = [
        CWD,
        pointer(target),
        libc::AT_RECURSIVE as usize,
        attr.as_ptr() as usize,
        size_of_val(&attr),
        0,
    ];
    call(libc::SYS_mount_setattr, args).map(drop)
}

/// Opens a path only to refer to it, and only if nothing in it is a symlink (`ELOOP` otherwise).
pub(crate) fn open_plain(path: &CStr) -> Result<RawFd> {
    // struct open_how: flags, mode, resolve.
    let how = [
        (libc::O_PATH | libc::O_CLOEXEC) as u64,
        0,
        libc::RESOLVE_NO_SYMLINKS,
    ];
    let args = [CWD, pointer(path), how.as_ptr() as usize, size_of_val(&how), 0, 0];
    call(libc::SYS_openat2, args).map(|fd| fd as RawFd)
}

/// A copy of the mounts at and below what a descriptor refers to, mounted nowhere yet, with attributes added to all of them.
pub(crate) fn copy_mounts(from: RawFd, attributes: u64) -> Result<RawFd> {
    let empty = pointer(c"");
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    let flags = flags as usize | (libc::AT_RECURSIVE | libc::AT_EMPTY_PATH) as usize;
    let copy = call(libc::SYS_open_tree, [from as usize, empty, flags, 0, 0, 0])?;
    let attr = [attributes, 0, 0, 0];
    let flags = (libc::AT_RECURSIVE | libc::AT_EMPTY_PATH) as usize;
    let args = [copy, empty, flags, attr.as_ptr() as usize, size_of_val(&attr), 0];
    call(libc::SYS_mount_setattr, args)?;
    Ok(copy as RawFd)
}

/// Mounts such a copy on what a descriptor refers to.
pub(crate) fn place_mounts(copy: RawFd, to: RawFd) -> Result {
    let empty = pointer(c"");
    let flags = (libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH) as usize;
    call(
        libc::SYS_move_mount,
        [copy as usize, empty, to as usize, empty, flags, 0],
    )
    .map(drop)
}

/// Makes the working directory the root and puts the old root on top of it (pivot_root(2), `pivot_root(".", ".")`).
pub(crate) fn pivot_here() -> Result {
    call(libc::SYS_pivot_root, [pointer(c"."), pointer(c"."), 0, 0, 0, 0]).map(drop)
}

/// Detaches the topmost mount on the working directory.
pub(crate) fn detach_here() -> Result {
    call(
        libc::SYS_umount2,
        [pointer(c"."), libc::MNT_DETACH as usize, 0, 0, 0, 0],
    )
    .map(drop)
}

// Namespaces.

pub(crate) fn setns(fd: RawFd, kind: i32) -> Result {
    call(libc::SYS_setns, [fd as usize, kind as usize, 0, 0, 0, 0]).map(drop)
}

pub(crate) fn unshare(flags: i32) -> Result {
    call(libc::SYS_unshare, [flags as usize, 0, 0, 0, 0, 0]).map(drop)
}

// Identity and privileges.

pub(crate) fn join_new_session_keyring() -> Result {
    call(
        libc::SYS_keyctl,
        [libc::KEYCTL_JOIN_SESSION_KEYRING as usize, 0, 0, 0, 0, 0],
    )
    .map(drop)
}

pub(crate) fn clear_groups() -> Result {
    call(libc::SYS_setgroups, [0; 6]).map(drop)
}

pub(crate) fn set_gid(gid: u32) -> Result {
    call(
        libc::SYS_setresgid,
        [gid as usize, gid as usize, gid as usize, 0, 0, 0],
    )
    .map(drop)
}

pub(crate) fn set_uid(uid: u32) -> Result {
    call(
        libc::SYS_setresuid,
        [uid as usize, uid as usize, uid as usize, 0, 0, 0],
    )
    .map(drop)
}

/// Irrevocable: exec grants no privilege any more.
pub(crate) fn no_new_privs() -> Result {
    prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]).map(drop)
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Whether this thread has a capability in effect.
pub(crate) fn has_capability(capability: u32) -> bool {
    let header = [CAPABILITY_VERSION_3, 0];
    // Twice effective, permitted, inheritable: capabilities 0 to 31, then 32 to 63.
    let mut data = [0u32; 6];
    let args = [header.as_ptr() as usize, data.as_mut_ptr() as usize, 0, 0, 0, 0];
    let (word, bit) = (capability as usize / 32 * 3, capability % 32);
    call(libc::SYS_capget, args).is_ok() && data.get(word).is_some_and(|set| set >> bit & 1 == 1)
}

/// The capabilities that this thread may have in effect, in two words; `None` for old kernels.
fn permitted() -> Result<([u32; 6], [u32; 2])> {
    let header = [CAPABILITY_VERSION_3, 0];
    let mut data = [0u32; 6];
    let args = [header.as_ptr() as usize, data.as_mut_ptr() as usize, 0, 0, 0, 0];
    call(libc::SYS_capget, args)?;
    Ok((data, [data[1], data[4]]))
}

/// Makes all permitted capabilities inheritable, which changes nothing until they are made ambient.
pub(crate) fn inherit_capabilities() -> Result<()> {
    let (mut data, permitted) = permitted()?;
    [data[2], data[5]] = permitted;
    let header = [CAPABILITY_VERSION_3, 0];
    call(
        libc::SYS_capset,
        [header.as_ptr() as usize, data.as_ptr() as usize, 0, 0, 0, 0],
    )
    .map(drop)
}

/// The next exec keeps all permitted capabilities, or none: `false`.
pub(crate) fn keep_capabilities(keep: bool) -> Result<()> {
    if !keep {
        return prctl(
            libc::PR_CAP_AMBIENT,
            [libc::PR_CAP_AMBIENT_CLEAR_ALL as usize, 0, 0, 0],
        )
        .map(drop);
    }
    let (_, words) = permitted()?;
    let has = |capability: &usize| words[capability / 32] >> (capability % 32) & 1 == 1;
    (0..64).filter(has).try_for_each(|capability| {
        prctl(
            libc::PR_CAP_AMBIENT,
            [libc::PR_CAP_AMBIENT_RAISE as usize, capability, 0, 0],
        )
        .map(drop)
    })
}

/// Whether a descriptor stays open when this process executes another program.
pub(crate) fn stay_open(fd: RawFd, open: bool) -> Result<()> {
    let flags = if open { 0 } else { libc::FD_CLOEXEC };
    let args = [fd as usize, libc::F_SETFD as usize, flags as usize, 0, 0, 0];
    call(libc::SYS_fcntl, args).map(drop)
}

/// Empties the effective, permitted and inheritable sets, and with them the ambient set.
pub(crate) fn clear_capabilities() -> Result {
    let header = [CAPABILITY_VERSION_3, 0];
    let data = [0u32; 6];
    call(
        libc::SYS_capset,
        [header.as_ptr() as usize, data.as_ptr() as usize, 0, 0, 0, 0],
    )
    .map(drop)
}

/// `struct landlock_ruleset_attr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Handled {
    pub(crate) files: u64,
    pub(crate) network: u64,
    pub(crate) scopes: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    access: u64,
    parent: i32,
}

pub(crate) fn landlock_abi() -> Result<u32> {
    const VERSION: usize = 1;
    call(libc::SYS_landlock_create_ruleset, [0, 0, VERSION, 0, 0, 0]).map(|abi| abi as u32)
}

/// A new ruleset. Older kernels take the longer attributes of newer ones as long as what they don't know is 0.
pub(crate) fn landlock_ruleset(handled: &Handled) -> Result<RawFd> {
    let args = [ptr::from_ref(handled) as usize, size_of::<Handled>(), 0, 0, 0, 0];
    call(libc::SYS_landlock_create_ruleset, args).map(|fd| fd as RawFd)
}

pub(crate) fn landlock_allow(ruleset: RawFd, parent: RawFd, access: u64) -> Result {
    const PATH_BENEATH: usize = 1;
    let rule = PathBeneath { access, parent };
    let args = [
        ruleset as usize,
        PATH_BENEATH,
        (&raw const rule) as usize,
        0,
        0,
        0,
    ];
    call(libc::SYS_landlock_add_rule, args).map(drop)
}

pub(crate) fn landlock_restrict(ruleset: RawFd) -> Result {
    call(
        libc::SYS_landlock_restrict_self,
        [ruleset as usize, 0, 0, 0, 0, 0],
    )
    .map(drop)
}

pub(crate) fn load_filter(filter: &[libc::sock_filter]) -> Result {
    const SET_MODE_FILTER: usize = 1;
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut(),
    };
    call(
        libc::SYS_seccomp,
        [SET_MODE_FILTER, 0, (&raw const program) as usize, 0, 0, 0],
    )
    .map(drop)
}

/// Whether the kernel can load filters that kill the process.
pub(crate) fn can_filter() -> bool {
    const GET_ACTION_AVAIL: usize = 2;
    let action = libc::SECCOMP_RET_KILL_PROCESS;
    call(
        libc::SYS_seccomp,
        [GET_ACTION_AVAIL, 0, (&raw const action) as usize, 0, 0, 0],
    )
    .is_ok()
}
