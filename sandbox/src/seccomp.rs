//! Which system calls a function, and the supervisor, may make. Filters are built once and only loaded afterwards.
//!
//! For a function this is an allow-list, as new kernels add calls. What it is not allowed answers `EPERM` where the call
//! is known, and `ENOSYS` where it is newer than our tables, so that libraries fall back as on an older kernel.

mod assemble;
mod checks;
mod table;

use std::sync::LazyLock;

use assemble::{Leaf, Segment, assemble};
use table::Call;

/// How the kernel answers a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// It runs.
    Allow,
    /// It fails with this error number.
    Errno(i32),
    /// All threads of the process are killed by SIGSYS.
    Kill,
}

/// The architectures that there are tables for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code, reason = "each build makes one; tests make both"))]
enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    #[cfg(target_arch = "x86_64")]
    const THIS: Arch = Arch::X86_64;
    #[cfg(target_arch = "aarch64")]
    const THIS: Arch = Arch::Aarch64;

    /// `AUDIT_ARCH_*` (linux/audit.h): the ELF machine, 64-bit, little-endian.
    fn audit(self) -> u32 {
        match self {
            Arch::X86_64 => 0xc000_003e,
            Arch::Aarch64 => 0xc000_00b7,
        }
    }

    fn number(self, call: &Call) -> Option<u32> {
        match self {
            Arch::X86_64 => call.x86_64,
            Arch::Aarch64 => call.aarch64,
        }
    }

    fn gap(self) -> std::ops::RangeInclusive<u32> {
        match self {
            Arch::X86_64 => table::GAP_X86_64,
            Arch::Aarch64 => table::GAP_AARCH64,
        }
    }
}

/// The filter of functions as the kernel and other sandboxes take it: one `struct sock_filter` after the other.
pub fn function_filter_bytes() -> Vec<u8> {
    let instruction = |filter: &libc::sock_filter| {
        let [code_low, code_high] = filter.code.to_ne_bytes();
        let [a, b, c, d] = filter.k.to_ne_bytes();
        [code_low, code_high, filter.jt, filter.jf, a, b, c, d]
    };
    function_filter().iter().flat_map(instruction).collect()
}

/// The names of the calls that functions may make, some of them only with certain arguments.
pub fn function_calls() -> impl Iterator<Item = &'static str> {
    let calls = table::ALLOWED.iter().chain(table::CHECKED);
    calls.map(|call| call.name)
}

/// How a function's call is answered, unless it is unknown or not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It runs.
    Allowed,
    /// It runs with some arguments.
    Checked,
    /// As by a kernel that has none of it.
    Absent,
}

/// The calls that functions on this architecture are not simply refused, by name.
pub fn calls() -> impl Iterator<Item = (&'static str, Answer)> {
    let lists = [
        (table::ALLOWED, Answer::Allowed),
        (table::CHECKED, Answer::Checked),
        (table::ABSENT, Answer::Absent),
    ];
    let there = |call: &&Call| Arch::THIS.number(call).is_some();
    let named = move |(list, answer): (&'static [Call], Answer)| {
        list.iter().filter(there).map(move |call| (call.name, answer))
    };
    lists.into_iter().flat_map(named)
}

/// The filter of functions, for this architecture.
pub(crate) fn function_filter() -> &'static [libc::sock_filter] {
    static FILTER: LazyLock<Vec<libc::sock_filter>> =
        LazyLock::new(|| assemble(Arch::THIS.audit(), &function_policy(Arch::THIS)));
    &FILTER
}

/// The filter of the supervisor, for this architecture.
pub(crate) fn supervisor_filter() -> Vec<libc::sock_filter> {
    assemble(Arch::THIS.audit(), &supervisor_policy(Arch::THIS))
}

fn function_policy(arch: Arch) -> Vec<Segment> {
    let mut leaves = vec![Leaf::Action(Action::Errno(libc::EPERM)); table::NEWEST as usize + 1];
    for number in arch.gap() {
        leaves[number as usize] = Leaf::Action(Action::Errno(libc::ENOSYS));
    }
    set(&mut leaves, arch, table::ALLOWED, |_| Leaf::Action(Action::Allow));
    set(&mut leaves, arch, table::ABSENT, |_| {
        Leaf::Action(Action::Errno(libc::ENOSYS))
    });
    set(&mut leaves, arch, table::CHECKED, |call| {
        Leaf::Check(checks::of(call.name))
    });
    segments(arch, leaves, Action::Errno(libc::ENOSYS))
}

fn supervisor_policy(arch: Arch) -> Vec<Segment> {
    let mut leaves = vec![Leaf::Action(Action::Allow); table::NEWEST as usize + 1];
    set(&mut leaves, arch, table::SUPERVISOR_DENIED, |_| {
        Leaf::Action(Action::Errno(libc::EPERM))
    });
    set(&mut leaves, arch, table::ABSENT, |_| {
        Leaf::Action(Action::Errno(libc::ENOSYS))
    });
    for call in table::CHECKED {
        if let Some(check) = checks::of_supervisor(call.name) {
            set(&mut leaves, arch, std::slice::from_ref(call), |_| {
                Leaf::Check(check)
            });
        }
    }
    segments(arch, leaves, Action::Errno(libc::ENOSYS))
}

fn set(leaves: &mut [Leaf], arch: Arch, calls: &[Call], leaf: impl Fn(&Call) -> Leaf) {
    for call in calls {
        if let Some(number) = arch.number(call) {
            leaves[number as usize] = leaf(call);
        }
    }
}

/// Cuts all 2^32 numbers into runs of the same answer: the known calls, what is newer, and the x32 calls of x86-64 (bit 30).
fn segments(arch: Arch, leaves: Vec<Leaf>, newer: Action) -> Vec<Segment> {
    let known = leaves
        .into_iter()
        .zip(0..)
        .map(|(leaf, start)| Segment { start, leaf });
    let mut rest = vec![(table::NEWEST + 1, newer)];
    if arch == Arch::X86_64 {
        rest.extend([(0x4000_0000, Action::Kill), (0x8000_0000, newer)]);
    }
    let rest = rest.into_iter().map(|(start, action)| Segment {
        start,
        leaf: Leaf::Action(action),
    });
    let mut runs: Vec<Segment> = known.chain(rest).collect();
    runs.dedup_by(|next, run| next.leaf == run.leaf);
    runs
}

#[cfg(test)]
mod tests;
