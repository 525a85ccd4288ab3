//! From a prepared [`Confinement`] to a confined process: straight steps that end in exec.
//!
//! Nothing between clone and exec allocates, takes a lock or calls anything but raw system calls.

use std::ffi::CString;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

use crate::exit::Step;

/// Everything that the child needs, made before the clone. What is `None`, empty or false is left out: the grades in
/// `probe` decide what may be left out.
#[derive(Debug)]
pub struct Confinement {
    /// The stored executable, executed by descriptor.
    pub executable: RawFd,
    /// Where a script or dynamic executable is bound in the sandbox (`/function/<name>`) from its path in the store.
    pub artifact_path: Option<PathBuf>,
    /// Arguments, `argv[0]` included.
    pub args: Vec<CString>,
    /// Environment as `NAME=value`; `LISTEN_PID` is added by the child when `listener` is given.
    pub env: Vec<CString>,
    /// Descriptors 1 and 2.
    pub stdout: RawFd,
    /// Descriptor 2.
    pub stderr: RawFd,
    /// Descriptor 3.
    pub listener: Option<RawFd>,
    /// The leaf of the v2 hierarchy, for `CLONE_INTO_CGROUP`.
    pub cgroup: Option<RawFd>,
    /// The `tasks` files of the v1 leaves.
    pub tasks: Vec<RawFd>,
    /// The network namespace to join.
    pub network: Option<RawFd>,
    /// The root to build.
    pub mounts: Option<Mounts>,
    /// Whether it gets a pid namespace with a mini-init.
    pub pid_namespace: bool,
    /// `(RLIMIT_*, value)`, soft and hard.
    pub rlimits: Vec<(u32, u64)>,
    /// The uid and gid to become; `None` without privileges.
    pub identity: Option<(u32, u32)>,
    /// The Landlock ABI to use.
    pub landlock_abi: Option<u32>,
    /// Whether the seccomp filter is loaded.
    pub seccomp: bool,
}

/// The root of an instance: a read-only tmpfs with these things in it, `/tmp` and a minimal `/dev`.
#[derive(Debug, Default)]
pub struct Mounts {
    /// An empty directory that exists, to build the root on.
    pub staging: PathBuf,
    /// What is bound read-only (with execute), nosuid, nodev; same path inside. Symlinks at the top (`/lib -> usr/lib`)
    /// are made again as symlinks.
    pub read: Vec<PathBuf>,
    /// What is bound read-write, nosuid, nodev, noexec; same path inside.
    pub write: Vec<PathBuf>,
    /// Size of `/tmp`, in bytes.
    pub tmp_bytes: u64,
}

/// A process that was started.
#[derive(Debug)]
pub struct Spawned {
    /// Its pid, as the launcher sees it.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// With a pid namespace: where the mini-init reports how the function ended (one i32, a wait status).
    pub report: Option<OwnedFd>,
}

/// A start that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// The step that failed.
    pub step: Step,
    /// Its errno.
    pub errno: i32,
}
