//! The calls that are allowed with some arguments only. Never looks at memory: a filter can't, and pointers lie.
//!
//! All of these arguments are 32-bit in the kernel, which ignores the upper half, so only the lower one is compared;
//! the exceptions say so.

use super::Action;

/// What must hold for a call to be allowed: all of its rules, in order.
pub(super) type Check = &'static [Rule];

/// One condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    /// The rule is left out unless this argument has this value.
    pub(super) when: Option<(u32, u32)>,
    /// The argument, from 0.
    pub(super) argument: u32,
    /// Whether the upper half of the argument is meant.
    pub(super) upper: bool,
    /// The bits that are compared.
    pub(super) mask: u32,
    /// The values that it must have, or must not have.
    pub(super) values: &'static [u32],
    /// Whether it must have one of the values, or none of them.
    pub(super) among: bool,
    /// The answer when it does not hold.
    pub(super) refusal: Action,
}

const fn among(argument: u32, mask: u32, values: &'static [u32], errno: i32) -> Rule {
    Rule {
        when: None,
        argument,
        upper: false,
        mask,
        values,
        among: true,
        refusal: Action::Errno(errno),
    }
}

const fn none_of(argument: u32, values: &'static [u32], errno: i32) -> Rule {
    Rule {
        among: false,
        ..among(argument, u32::MAX, values, errno)
    }
}

impl Rule {
    const fn when(self, argument: u32, value: u32) -> Rule {
        Rule {
            when: Some((argument, value)),
            ..self
        }
    }

    const fn upper(self) -> Rule {
        Rule { upper: true, ..self }
    }
}

const ALL: u32 = u32::MAX;

/// Raw and packet sockets, and families other than these three, are how most holes of the network code were reached.
/// Protocols: the default, TCP and UDP; not MPTCP, which Landlock and binding rules don't see.
const SOCKET: Check = &[
    among(
        0,
        ALL,
        &[libc::AF_UNIX as u32, libc::AF_INET as u32, libc::AF_INET6 as u32],
        libc::EAFNOSUPPORT,
    ),
    among(
        1,
        0xf,
        &[
            libc::SOCK_STREAM as u32,
            libc::SOCK_DGRAM as u32,
            libc::SOCK_SEQPACKET as u32,
        ],
        libc::EPERM,
    ),
    among(
        2,
        ALL,
        &[0, libc::IPPROTO_TCP as u32, libc::IPPROTO_UDP as u32],
        libc::EOPNOTSUPP,
    ),
];
const SOCKETPAIR: Check = &[among(0, ALL, &[libc::AF_UNIX as u32], libc::EAFNOSUPPORT)];

/// Connects without connect(2), past Landlock.
const FASTOPEN: u32 = libc::MSG_FASTOPEN as u32;
const SENDTO: Check = &[among(3, FASTOPEN, &[0], libc::EOPNOTSUPP)];
const SENDMSG: Check = &[among(2, FASTOPEN, &[0], libc::EOPNOTSUPP)];
/// `TCP_FASTOPEN_CONNECT` as above; `TCP_ULP` loads kernel modules by name.
const SETSOCKOPT: Check = &[none_of(
    2,
    &[libc::TCP_FASTOPEN_CONNECT as u32, libc::TCP_ULP as u32],
    libc::EOPNOTSUPP,
)
.when(1, libc::IPPROTO_TCP as u32)];

/// Pushing input to a terminal, and the console's selection.
const IOCTL: Check = &[none_of(1, &[0x5412, 0x541c], libc::EPERM)];

/// No namespaces, and no children of the launcher (`CLONE_PARENT`), which would never be reaped.
const CLONE_REFUSED: u32 = libc::CLONE_NEWNS as u32
    | libc::CLONE_NEWCGROUP as u32
    | libc::CLONE_NEWUTS as u32
    | libc::CLONE_NEWIPC as u32
    | libc::CLONE_NEWUSER as u32
    | libc::CLONE_NEWPID as u32
    | libc::CLONE_NEWNET as u32
    | libc::CLONE_PARENT as u32;
const CLONE: Check = &[among(0, CLONE_REFUSED, &[0], libc::EPERM)];

/// The supervisor makes threads, and no process at all.
const ONLY_THREADS: Check = &[among(
    0,
    CLONE_REFUSED | libc::CLONE_THREAD as u32,
    &[libc::CLONE_THREAD as u32],
    libc::EPERM,
)];

const SET_DUMPABLE: u32 = libc::PR_SET_DUMPABLE as u32;
const PRCTL: Check = &[
    among(
        0,
        ALL,
        &[
            libc::PR_SET_NAME as u32,
            0x5356_4d41, // PR_SET_VMA, which allocators name their memory with
            libc::PR_GET_NAME as u32,
            libc::PR_SET_PDEATHSIG as u32,
            libc::PR_GET_PDEATHSIG as u32,
            libc::PR_GET_DUMPABLE as u32,
            SET_DUMPABLE,
            libc::PR_GET_KEEPCAPS as u32,
            libc::PR_GET_SECCOMP as u32,
            libc::PR_CAPBSET_READ as u32,
            libc::PR_GET_SECUREBITS as u32,
            libc::PR_CAP_AMBIENT as u32,
            libc::PR_SET_TIMERSLACK as u32,
            libc::PR_GET_TIMERSLACK as u32,
            libc::PR_SET_CHILD_SUBREAPER as u32,
            libc::PR_GET_CHILD_SUBREAPER as u32,
            libc::PR_SET_NO_NEW_PRIVS as u32,
            libc::PR_GET_NO_NEW_PRIVS as u32,
            libc::PR_GET_TID_ADDRESS as u32,
            libc::PR_SET_THP_DISABLE as u32,
            libc::PR_GET_THP_DISABLE as u32,
            52,          // PR_GET_SPECULATION_CTRL
            53,          // PR_SET_SPECULATION_CTRL
            50,          // PR_SVE_SET_VL
            51,          // PR_SVE_GET_VL
            54,          // PR_PAC_RESET_KEYS
            55,          // PR_SET_TAGGED_ADDR_CTRL
            56,          // PR_GET_TAGGED_ADDR_CTRL
            65,          // PR_SET_MDWE
            66,          // PR_GET_MDWE
            0x4155_5856, // PR_GET_AUXV
        ],
        libc::EPERM,
    ),
    // A program may hide from its neighbours, not undo that it is hidden. The value is a long.
    among(1, ALL, &[0], libc::EPERM).when(0, SET_DUMPABLE),
    among(1, ALL, &[0], libc::EPERM).when(0, SET_DUMPABLE).upper(),
];

/// Asking, and the default; others switch address randomisation off or make memory executable.
const PERSONALITY: Check = &[among(0, ALL, &[0, u32::MAX], libc::EPERM)];

/// The core limit is 1, which stops a handler that core_pattern pipes to; 0 would start it again.
const CORE: u32 = crate::rlimit::CORE;
const SETRLIMIT: Check = &[none_of(0, &[CORE], libc::EPERM)];
/// Reading it (no new limit: a null pointer, both halves) is fine.
const PRLIMIT: Check = &[
    among(2, ALL, &[0], libc::EPERM).when(1, CORE),
    among(2, ALL, &[0], libc::EPERM).when(1, CORE).upper(),
];

/// Pipes, sockets and files, never devices.
const NODES: &[u32] = &[0, libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK];
const MKNOD: Check = &[among(1, libc::S_IFMT, NODES, libc::EPERM)];
const MKNODAT: Check = &[among(2, libc::S_IFMT, NODES, libc::EPERM)];

/// The check of a call that the supervisor makes, of those whose arguments matter for it.
pub(super) fn of_supervisor(name: &str) -> Option<Check> {
    match name {
        "socket" | "socketpair" | "ioctl" => Some(of(name)),
        "clone" => Some(ONLY_THREADS),
        _ => None,
    }
}

/// The check of a call.
pub(super) fn of(name: &str) -> Check {
    match name {
        "socket" => SOCKET,
        "socketpair" => SOCKETPAIR,
        "sendto" => SENDTO,
        "sendmsg" => SENDMSG,
        // The same argument as sendto's: descriptor, messages, count, flags.
        "sendmmsg" => SENDTO,
        "setsockopt" => SETSOCKOPT,
        "ioctl" => IOCTL,
        "clone" => CLONE,
        "prctl" => PRCTL,
        "personality" => PERSONALITY,
        "setrlimit" => SETRLIMIT,
        "prlimit64" => PRLIMIT,
        "mknod" => MKNOD,
        "mknodat" => MKNODAT,
        other => unreachable!("{other} has no check: a test makes every table"),
    }
}
