//! Both filters are run by a small interpreter, and compared with the tables and with seccompiler's idea of them.

use std::collections::BTreeMap;

use proptest::prelude::*;
use seccompiler::{
    SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition as Condition, SeccompFilter,
    SeccompRule,
};

use super::*;

/// Code, jump if true, jump if false, constant.
type Instruction = (u16, u8, u8, u32);
type Program = Vec<Instruction>;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

fn errno(value: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | value as u32
}

/// Runs a classic BPF program on one `struct seccomp_data`; also counts its steps.
fn run(program: &[Instruction], arch: u32, number: u32, args: [u64; 6]) -> (u32, usize) {
    let mut data = Vec::new();
    data.extend(number.to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend(0u64.to_le_bytes());
    args.iter().for_each(|arg| data.extend(arg.to_le_bytes()));
    let (mut accumulator, mut at) = (0u32, 0usize);
    for steps in 1.. {
        let (code, jt, jf, k) = program[at];
        at += 1;
        let mut jump = |condition: bool| at += usize::from(if condition { jt } else { jf });
        match code {
            0x20 => accumulator = u32::from_le_bytes(data[k as usize..][..4].try_into().unwrap()),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => jump(accumulator == k),
            0x25 => jump(accumulator > k),
            0x35 => jump(accumulator >= k),
            0x06 => return (k, steps),
            other => panic!("instruction {other:#x}"),
        }
    }
    unreachable!()
}

fn ours(arch: Arch) -> Program {
    let program = assemble(arch.audit(), &function_policy(arch));
    program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect()
}

fn ask(arch: Arch, number: u32, args: [u64; 6]) -> u32 {
    run(&ours(arch), arch.audit(), number, args).0
}

fn ask_by_name(name: &str, args: [u64; 6]) -> u32 {
    let all = [
        table::ALLOWED,
        table::CHECKED,
        table::ABSENT,
        table::SUPERVISOR_DENIED,
    ]
    .concat();
    let call = all.iter().find(|call| call.name == name).unwrap();
    let answers: Vec<u32> = [Arch::X86_64, Arch::Aarch64]
        .iter()
        .filter_map(|a| Some(ask(*a, a.number(call)?, args)))
        .collect();
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{name} differs between architectures"
    );
    answers[0]
}

fn condition(argument: u8, op: Op, value: u64) -> Condition {
    Condition::new(argument, Len::Dword, op, value).unwrap()
}

fn rule(conditions: Vec<Condition>) -> SeccompRule {
    SeccompRule::new(conditions).unwrap()
}

/// The same policy said in another way: which arguments each checked call is allowed with.
fn oracle_rules(name: &str) -> Vec<SeccompRule> {
    let only = |argument, values: &[u64]| -> Vec<SeccompRule> {
        values
            .iter()
            .map(|value| rule(vec![condition(argument, Op::Eq, *value)]))
            .collect()
    };
    let wide = |argument, op, value| Condition::new(argument, Len::Qword, op, value).unwrap();
    match name {
        "socket" => itertools([1, 2, 10], [1, 2, 5], [0, 6, 17])
            .map(|(domain, kind, protocol)| {
                rule(vec![
                    condition(0, Op::Eq, domain),
                    condition(1, Op::MaskedEq(0xf), kind),
                    condition(2, Op::Eq, protocol),
                ])
            })
            .collect(),
        "socketpair" => only(0, &[1]),
        "sendto" | "sendmmsg" => vec![rule(vec![condition(3, Op::MaskedEq(0x2000_0000), 0)])],
        "sendmsg" => vec![rule(vec![condition(2, Op::MaskedEq(0x2000_0000), 0)])],
        "setsockopt" => vec![
            rule(vec![condition(1, Op::Ne, 6)]),
            rule(vec![condition(2, Op::Ne, 30), condition(2, Op::Ne, 31)]),
        ],
        "ioctl" => vec![rule(vec![
            condition(1, Op::Ne, 0x5412),
            condition(1, Op::Ne, 0x541c),
        ])],
        "clone" => vec![rule(vec![condition(0, Op::MaskedEq(0x7e02_8000), 0)])],
        "prctl" => {
            let any = [
                15,
                0x5356_4d41,
                16,
                1,
                2,
                3,
                7,
                21,
                23,
                27,
                47,
                29,
                30,
                36,
                37,
                38,
                39,
                40,
                41,
                42,
                52,
                53,
                50,
                51,
                54,
                55,
                56,
                65,
                66,
                0x4155_5856,
            ];
            let mut rules = only(0, &any);
            rules.push(rule(vec![condition(0, Op::Eq, 4), wide(1, Op::Eq, 0)]));
            rules
        }
        "personality" => only(0, &[0, 0xffff_ffff]),
        "setrlimit" => vec![rule(vec![condition(0, Op::Ne, 4)])],
        "prlimit64" => vec![
            rule(vec![condition(1, Op::Ne, 4)]),
            rule(vec![wide(2, Op::Eq, 0)]),
        ],
        "mknod" => [0, 0o100_000, 0o010_000, 0o140_000]
            .map(|kind| rule(vec![condition(1, Op::MaskedEq(0o170_000), kind)]))
            .into(),
        "mknodat" => [0, 0o100_000, 0o010_000, 0o140_000]
            .map(|kind| rule(vec![condition(2, Op::MaskedEq(0o170_000), kind)]))
            .into(),
        other => panic!("no oracle for {other}"),
    }
}

fn itertools(a: [u64; 3], b: [u64; 3], c: [u64; 3]) -> impl Iterator<Item = (u64, u64, u64)> {
    a.into_iter().flat_map(move |a| {
        b.into_iter()
            .flat_map(move |b| c.into_iter().map(move |c| (a, b, c)))
    })
}

fn oracle(arch: Arch) -> Program {
    let mut rules = BTreeMap::new();
    for call in table::ALLOWED.iter().chain(table::CHECKED) {
        let Some(number) = arch.number(call) else { continue };
        let checked = table::CHECKED.iter().any(|c| c.name == call.name);
        let conditions = if checked {
            oracle_rules(call.name)
        } else {
            Vec::new()
        };
        rules.insert(i64::from(number), conditions);
    }
    let target = match arch {
        Arch::X86_64 => seccompiler::TargetArch::x86_64,
        Arch::Aarch64 => seccompiler::TargetArch::aarch64,
    };
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        target,
    )
    .unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect()
}

/// Values that sit on the edges of the checks, and any others.
fn argument() -> impl Strategy<Value = u64> {
    let edges = [
        0u64,
        1,
        2,
        3,
        4,
        5,
        6,
        10,
        11,
        16,
        17,
        22,
        23,
        30,
        31,
        35,
        38,
        40,
        47,
        262,
        0x5412,
        0x541c,
        0x2000_0000,
        0x4000,
        0x8000,
        0x1000_0000,
        0x0002_0000,
        0xffff_ffff,
        0x5356_4d41,
        0o020_666,
        0o010_644,
        0o060_000,
    ];
    prop_oneof![
        8 => prop::sample::select(edges.to_vec()),
        2 => any::<u64>(),
        2 => prop::sample::select(edges.to_vec()).prop_map(|edge| edge | 0x1_0000_0000),
        2 => prop::sample::select(edges.to_vec()).prop_map(|edge| edge | 0x80000 | 0x800),
    ]
}

fn number() -> impl Strategy<Value = u32> {
    let checked: Vec<u32> = table::CHECKED
        .iter()
        .flat_map(|call| [call.x86_64, call.aarch64])
        .flatten()
        .collect();
    prop_oneof![6 => prop::sample::select(checked), 3 => 0u32..600, 1 => any::<u32>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn allows_exactly_what_seccompiler_allows(number in number(), args in prop::array::uniform6(argument())) {
        static PROGRAMS: LazyLock<[[Program; 2]; 2]> =
            LazyLock::new(|| [Arch::X86_64, Arch::Aarch64].map(|arch| [ours(arch), oracle(arch)]));
        for (arch, [ours, oracle]) in [Arch::X86_64, Arch::Aarch64].into_iter().zip(PROGRAMS.iter()) {
            let answer = run(ours, arch.audit(), number, args).0;
            let expected = run(oracle, arch.audit(), number, args).0;
            prop_assert_eq!(answer == ALLOW, expected == ALLOW, "{:?} call {} {:x?}: {:#x}", arch, number, args, answer);
        }
    }
}

#[test]
fn every_number_is_answered_as_its_table_says() {
    for arch in [Arch::X86_64, Arch::Aarch64] {
        let program = ours(arch);
        let listed = |list: &[Call], number| list.iter().any(|call| arch.number(call) == Some(number));
        for number in 0..2000 {
            let (answer, steps) = run(&program, arch.audit(), number, [0; 6]);
            assert!(steps < 80, "{steps} steps for {number}");
            if listed(table::CHECKED, number) {
                continue;
            }
            let expected = if listed(table::ALLOWED, number) {
                ALLOW
            } else if number > table::NEWEST || arch.gap().contains(&number) || listed(table::ABSENT, number)
            {
                errno(libc::ENOSYS)
            } else {
                errno(libc::EPERM)
            };
            assert_eq!(answer, expected, "{arch:?} {number}");
        }
        assert_eq!(
            run(&program, arch.audit(), u32::MAX, [0; 6]).0,
            errno(libc::ENOSYS)
        );
    }
}

#[test]
fn foreign_architectures_and_x32_are_killed() {
    for arch in [Arch::X86_64, Arch::Aarch64] {
        // i386, 32-bit arm, and each other.
        for foreign in [0x4000_0003, 0x4000_0028, 0xc000_003e ^ 0xc000_00b7 ^ arch.audit()] {
            for number in [0, 1, 39, 400, 0x4000_0001] {
                assert_eq!(
                    run(&ours(arch), foreign, number, [0; 6]).0,
                    KILL,
                    "{arch:?} {foreign:#x} {number}"
                );
            }
        }
    }
    for number in [0x4000_0000, 0x4000_0001, 0x4000_0208, 0x7fff_ffff] {
        assert_eq!(ask(Arch::X86_64, number, [0; 6]), KILL);
    }
}

#[test]
fn refusals_have_the_errno_that_programs_expect() {
    let socket = |domain, kind, protocol| ask_by_name("socket", [domain, kind, protocol, 0, 0, 0]);
    assert_eq!(socket(2, 1 | 0x80000 | 0x800, 6), ALLOW);
    assert_eq!(socket(10, 2, 17), ALLOW);
    assert_eq!(socket(1, 5, 0), ALLOW);
    // NETLINK, PACKET, ALG, VSOCK
    for family in [16, 17, 38, 40] {
        assert_eq!(socket(family, 3, 0), errno(libc::EAFNOSUPPORT));
    }
    assert_eq!(socket(2, 3, 1), errno(libc::EPERM));
    assert_eq!(socket(2, 1, 262), errno(libc::EOPNOTSUPP));
    // The kernel looks at the lower half only, so a bit above must not hide the value.
    assert_eq!(socket(0x1_0000_0010, 1, 0), errno(libc::EAFNOSUPPORT));
    assert_eq!(
        ask_by_name("sendto", [3, 0, 0, 0x2000_0000, 0, 0]),
        errno(libc::EOPNOTSUPP)
    );
    assert_eq!(
        ask_by_name("sendmsg", [3, 0, 0x2000_4000, 0, 0, 0]),
        errno(libc::EOPNOTSUPP)
    );
    assert_eq!(
        ask_by_name("sendmmsg", [3, 0, 1, 0x2000_0000, 0, 0]),
        errno(libc::EOPNOTSUPP)
    );
    assert_eq!(
        ask_by_name("setsockopt", [3, 6, 30, 0, 0, 0]),
        errno(libc::EOPNOTSUPP)
    );
    assert_eq!(ask_by_name("setsockopt", [3, 1, 30, 0, 0, 0]), ALLOW);
    for (name, args) in [
        ("ioctl", [0, 0x1_0000_5412, 0, 0, 0, 0]),
        ("clone", [0x1000_0011, 0, 0, 0, 0, 0]),
        ("clone", [0x8011, 0, 0, 0, 0, 0]),
        ("prctl", [4, 1, 0, 0, 0, 0]),
        ("prctl", [22, 2, 0, 0, 0, 0]),
        ("personality", [0x0040_0000, 0, 0, 0, 0, 0]),
        ("setrlimit", [4, 0x7000, 0, 0, 0, 0]),
        ("prlimit64", [0, 4, 0x7f00_0000_0000, 0, 0, 0]),
        ("mknod", [0, 0o020_666, 0, 0, 0, 0]),
        ("ptrace", [0; 6]),
        ("bpf", [0; 6]),
        ("keyctl", [0; 6]),
        ("mount", [0; 6]),
        ("unshare", [0; 6]),
        ("open_by_handle_at", [0; 6]),
        ("shmget", [0; 6]),
        ("mq_open", [0; 6]),
    ] {
        assert_eq!(ask_by_name(name, args), errno(libc::EPERM), "{name} {args:x?}");
    }
    assert_eq!(ask_by_name("clone3", [0; 6]), errno(libc::ENOSYS));
    assert_eq!(ask_by_name("io_uring_setup", [0; 6]), errno(libc::ENOSYS));
    // What a thread of glibc or of Go is made with.
    assert_eq!(ask_by_name("clone", [0x003d_0f00, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(ask_by_name("clone", [0x0005_0f00, 0, 0, 0, 0, 0]), ALLOW);
}

#[test]
fn the_supervisor_can_serve_but_not_execute() {
    for arch in [Arch::X86_64, Arch::Aarch64] {
        let program: Vec<_> = assemble(arch.audit(), &supervisor_policy(arch))
            .iter()
            .map(|i| (i.code, i.jt, i.jf, i.k))
            .collect();
        for call in table::SUPERVISOR_DENIED {
            let Some(number) = arch.number(call) else { continue };
            assert_eq!(
                run(&program, arch.audit(), number, [0; 6]).0,
                errno(libc::EPERM),
                "{}",
                call.name
            );
        }
        for name in [
            "accept4",
            "sendmsg",
            "recvmsg",
            "epoll_wait",
            "openat",
            "inotify_add_watch",
            "pidfd_open",
        ] {
            let call = table::ALLOWED
                .iter()
                .chain(table::CHECKED)
                .find(|call| call.name == name)
                .unwrap();
            let Some(number) = arch.number(call) else { continue };
            assert_eq!(run(&program, arch.audit(), number, [0; 6]).0, ALLOW, "{name}");
        }
        // Threads as glibc and musl make them, and no process.
        let clone = table::CHECKED.iter().find(|call| call.name == "clone").unwrap();
        let number = arch.number(clone).unwrap();
        for (flags, expected) in [
            (0x003d_0f00, ALLOW),
            (0x007d_0f00, ALLOW),
            (libc::SIGCHLD as u64, errno(libc::EPERM)),
            (0x4111, errno(libc::EPERM)),
            (0x003d_0f00 | libc::CLONE_NEWUSER as u64, errno(libc::EPERM)),
        ] {
            assert_eq!(
                run(&program, arch.audit(), number, [flags, 0, 0, 0, 0, 0]).0,
                expected,
                "{flags:x}"
            );
        }
    }
}

#[test]
fn the_tables_have_no_number_twice() {
    for arch in [Arch::X86_64, Arch::Aarch64] {
        let mut numbers: Vec<u32> = [table::ALLOWED, table::CHECKED, table::ABSENT]
            .concat()
            .iter()
            .filter_map(|call| arch.number(call))
            .collect();
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count, "{arch:?}");
        assert!((200..=280).contains(&count), "{arch:?} allows {count}");
    }
}

#[test]
fn the_numbers_are_those_of_libc() {
    for (name, number) in [
        ("read", libc::SYS_read),
        ("openat", libc::SYS_openat),
        ("clone", libc::SYS_clone),
        ("socket", libc::SYS_socket),
        ("prlimit64", libc::SYS_prlimit64),
        ("landlock_restrict_self", libc::SYS_landlock_restrict_self),
        ("futex_waitv", libc::SYS_futex_waitv),
    ] {
        let all = [table::ALLOWED, table::CHECKED].concat();
        let call = all.iter().find(|call| call.name == name).unwrap();
        assert_eq!(Arch::THIS.number(call).map(i64::from), Some(number), "{name}");
    }
    // asm-generic/unistd.h, for whichever architecture this is not.
    let aarch64 = |name: &str| {
        table::ALLOWED
            .iter()
            .find(|call| call.name == name)
            .unwrap()
            .aarch64
    };
    assert_eq!(
        [aarch64("read"), aarch64("openat"), aarch64("execve")],
        [Some(63), Some(56), Some(221)]
    );
    assert_eq!(
        [aarch64("open"), aarch64("fork"), aarch64("arch_prctl")],
        [None; 3]
    );
}

#[test]
fn the_program_is_small() {
    let length = function_filter().len();
    assert!(
        length < 600,
        "{length} instructions: each costs time at every start"
    );
    println!(
        "functions: {length} instructions, supervisor: {}",
        supervisor_filter().len()
    );
}
