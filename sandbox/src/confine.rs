//! From a prepared [`Confinement`] to a confined process: straight steps that end in exec.
//!
//! Nothing between clone and exec allocates, takes a lock or calls anything but raw system calls.

use std::ffi::CString;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::exit::Step;
use crate::sys::{calls, clone};
use prepare::Prepared;

mod child;
mod init;
mod prepare;
pub(crate) mod standby;
mod word;

pub use standby::{Progress, Standby, stand_by};

/// Everything that the child needs, made before the clone. What is `None`, empty or false is left out: the grades in
/// [`crate::probe`] decide what may be left out.
#[derive(Debug)]
pub struct Confinement {
    /// The stored executable, executed by descriptor unless `artifact_path` is given. (A script's file must be readable
    /// by its interpreter: mode 0555, not 0111.)
    pub executable: RawFd,
    /// `Some` for a `#!` script, whose interpreter needs a path: with `mounts`, the path inside the sandbox
    /// (`/function/<name>`) where `executable` is bound read-only; without, its path in the store. `None`: by descriptor.
    pub artifact_path: Option<PathBuf>,
    /// Arguments, `argv[0]` included.
    pub args: Vec<CString>,
    /// Environment as `NAME=value`; `LISTEN_PID` is added by the child when `listener` is given.
    pub env: Vec<CString>,
    /// Descriptor 0; `None`: /dev/null.
    pub stdin: Option<RawFd>,
    /// Descriptor 1.
    pub stdout: RawFd,
    /// Descriptor 2.
    pub stderr: RawFd,
    /// Descriptor 3.
    pub listener: Option<RawFd>,
    /// A socket that a descriptor of [`crate::spec::EXCHANGE`] is sent to, once the child has made that directory; needs
    /// `mounts`.
    pub exchange: Option<RawFd>,
    /// Whether a standby takes variables of a request ([`crate::variables`]) with the word to execute: their length as a
    /// u32 in the order of this machine, then the block. Without, the word is one byte.
    pub takes_variables: bool,
    /// The leaf of the v2 hierarchy, for `CLONE_INTO_CGROUP`.
    pub cgroup: Option<RawFd>,
    /// The `tasks` files of the v1 leaves, open for writing.
    pub tasks: Vec<RawFd>,
    /// The network namespace to join.
    pub network: Option<RawFd>,
    /// Whether something is reached on the loopback of that network: then it is told what `localhost` is.
    pub loopback: bool,
    /// Absolute paths that it may read and execute: bound read-only, nosuid, nodev at the same path inside, and allowed by
    /// Landlock. Symlinks at the top (`/lib -> usr/lib`) are made again as symlinks.
    pub read: Vec<PathBuf>,
    /// Symlinks to be made in the root, path and target: below nothing that is bound, they would be there already.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Absolute paths that it may read and write but not execute: bound nosuid, nodev, noexec at the same path inside, and
    /// allowed by Landlock.
    pub write: Vec<PathBuf>,
    /// A directory that it finds its secrets in, bound read-only, nosuid, nodev, noexec at [`crate::spec::CREDENTIALS`];
    /// needs `mounts`.
    pub credentials: Option<PathBuf>,
    /// The root to build.
    pub mounts: Option<Mounts>,
    /// Whether it gets a pid namespace with a mini-init.
    pub pid_namespace: bool,
    /// `(RLIMIT_*, value)`, soft and hard; see [`crate::rlimit::limits`].
    pub rlimits: Vec<(u32, u64)>,
    /// The uid and gid to become, neither of them 0; `None` without privileges.
    pub identity: Option<(u32, u32)>,
    /// The Landlock ABI to use.
    pub landlock_abi: Option<u32>,
    /// Whether the seccomp filter is loaded.
    pub seccomp: bool,
    /// Whether it is ended before this process when the whole host is out of memory.
    pub first_out_of_memory: bool,
}

impl Confinement {
    /// A process of funcd's own, which confines itself: it has what this one has, and `listener` as descriptor 3.
    pub(crate) fn none(
        executable: RawFd,
        args: Vec<CString>,
        env: Vec<CString>,
        stdout: RawFd,
        listener: RawFd,
    ) -> Confinement {
        Confinement {
            executable,
            artifact_path: None,
            args,
            env,
            stdin: None,
            stdout,
            stderr: libc::STDERR_FILENO,
            listener: Some(listener),
            exchange: None,
            takes_variables: false,
            cgroup: None,
            tasks: Vec::new(),
            network: None,
            loopback: false,
            read: Vec::new(),
            links: Vec::new(),
            credentials: None,
            write: Vec::new(),
            mounts: None,
            pid_namespace: false,
            rlimits: Vec::new(),
            identity: None,
            landlock_abi: None,
            seccomp: false,
            first_out_of_memory: false,
        }
    }
}

/// The root of an instance: a read-only tmpfs that holds the grants, `/tmp` and a minimal `/dev`.
#[derive(Debug, Clone, Default)]
pub struct Mounts {
    /// An empty directory that exists, to build the root on. Any number of starts may share it: each builds in a mount
    /// namespace of its own, and the directory itself stays empty.
    pub staging: PathBuf,
    /// Size of `/tmp`, in bytes.
    pub tmp_bytes: u64,
    /// Whether it has a read-only `/proc` with nothing but its own processes in it. For dynamic executables and scripts:
    /// the dynamic linker finds `$ORIGIN` there (a JVM does not start without), and runtimes themselves. It costs a mount.
    pub proc: bool,
}

/// A process that was started: exec succeeded.
#[derive(Debug)]
pub struct Spawned {
    /// The child of the launcher, as the launcher sees it: the function, or its mini-init when it has a pid namespace.
    pub pid: i32,
    /// The pidfd of `pid`. SIGTERM sent to a mini-init is passed on to the function; SIGKILL ends everything in its namespace.
    pub pidfd: OwnedFd,
    /// The function's main process as the launcher sees it; the same as `pid` without a pid namespace.
    pub main: i32,
    /// With a pid namespace: where the mini-init reports how the function ended (one i32, a wait status, then the end of
    /// the file; only the end of the file when the mini-init itself was killed).
    pub report: Option<OwnedFd>,
}

/// A start that failed; nothing of it is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// The step that failed.
    pub step: Step,
    /// Its errno. 0: it was killed at that step (at [`Step::Clone`]: before its first step, as happens to every child
    /// in a cgroup that was once killed, and to every child of a launcher that sits in one).
    pub errno: i32,
}

/// Starts one confined process and returns when exec has succeeded or failed.
///
/// Without a pid namespace the child shares this process's memory while this thread waits (`CLONE_VM | CLONE_VFORK`): it
/// tells how it failed by writing that there, which costs no pipe. A mini-init has to outlive the start, so it gets a copy of
/// the memory and tells over a socket, which also translates the pid of the main process.
///
/// # Errors
/// The step that failed and its errno; the child is reaped.
pub fn spawn(confinement: &Confinement) -> Result<Spawned, Failure> {
    let prepared = Prepared::new(confinement)?;
    if confinement.pid_namespace {
        return init::spawn(&prepared);
    }
    let child = clone::vfork(prepared.clone_flags(), confinement.cgroup, || {
        let failure = prepared.enclose().err().unwrap_or_else(|| prepared.last_steps());
        prepared.failure.set(Some(failure));
        127
    })
    .map_err(|errno| Failure {
        step: Step::Clone,
        errno,
    })?;
    let failure = match prepared.at.get() {
        Step::Exec => prepared.failure.get(),
        // It did not come to exec: it failed, or was killed.
        step => prepared.failure.get().or(Some(Failure { step, errno: 0 })),
    };
    match failure {
        None => Ok(Spawned {
            pid: child.pid,
            main: child.pid,
            pidfd: child.pidfd,
            report: None,
        }),
        Some(failure) => {
            reap(child.pid);
            Err(failure)
        }
    }
}

fn reap(pid: i32) {
    let _ = calls::wait(pid, 0);
}

/// Whether this process has dropped what its children would drop. Nothing can undo that.
static DROPPED: AtomicBool = AtomicBool::new(false);

/// Called once by the launcher at its start: empties the bounding set, locks the securebits (0x2f) and sets
/// `no_new_privs`, so that no start pays for them again. The launcher keeps the capabilities it has, can gain none by exec, and
/// passes them on only to what it executes itself after [`crate::sys::calls::keep_capabilities`];
/// a child of it that changes its uid must clear its capabilities itself (`SECBIT_NO_SETUID_FIXUP`).
///
/// # Errors
/// Those of prctl(2). Without `CAP_SETPCAP` (and so without privileges to lose) only `no_new_privs` is set.
pub fn drop_inheritable() -> io::Result<()> {
    // For an upgrade, which executes the next launcher: what is not inheritable before the bounding set is empty can't become it.
    let _ = calls::inherit_capabilities();
    let drop = || {
        if calls::has_capability(prepare::CAP_SETPCAP) {
            child::drop_bounding()?;
        }
        calls::no_new_privs()
    };
    drop().map_err(io::Error::from_raw_os_error)?;
    DROPPED.store(true, Ordering::Relaxed);
    Ok(())
}
