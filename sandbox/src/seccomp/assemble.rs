//! From runs of system call numbers to a classic BPF program: the architecture first, then a balanced tree.
//!
//! A tree, because the kernel runs the program for every number when it is loaded, to cache which ones are always allowed:
//! 120 compares in a row make that four times as slow as a tree of them. Never optimises beyond that.

use libc::sock_filter;

use super::Action;
use super::checks::{Check, Rule};

/// What happens at a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaf {
    /// Always the same.
    Action(Action),
    /// It depends on the arguments.
    Check(Check),
}

/// A run of numbers with the same answer; it ends where the next one starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) start: u32,
    pub(super) leaf: Leaf,
}

// Instructions (linux/bpf_common.h): class | size or operation | mode or source.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

// Offsets in struct seccomp_data; the arguments are u64, little-endian on both architectures.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

fn instruction(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

fn jump(code: u16, k: u32, jt: usize, jf: usize) -> sock_filter {
    let short = |distance: usize| {
        u8::try_from(distance).expect("checks have fewer than 256 values; the tree takes long jumps")
    };
    sock_filter {
        code,
        jt: short(jt),
        jf: short(jf),
        k,
    }
}

fn answer(action: Action) -> sock_filter {
    instruction(
        RETURN,
        match action {
            Action::Allow => libc::SECCOMP_RET_ALLOW,
            Action::Errno(errno) => libc::SECCOMP_RET_ERRNO | errno as u32,
            Action::Kill => libc::SECCOMP_RET_KILL_PROCESS,
        },
    )
}

/// Builds the program. `segments` must be sorted and start at 0.
pub(super) fn assemble(arch: u32, segments: &[Segment]) -> Vec<sock_filter> {
    let mut program = vec![
        instruction(LOAD, ARCH),
        jump(JUMP_EQUAL, arch, 1, 0),
        answer(Action::Kill),
        instruction(LOAD, NUMBER),
    ];
    program.extend(tree(segments));
    program
}

/// The half below the middle follows the compare; the other half is behind that one, maybe too far for a short jump.
fn tree(segments: &[Segment]) -> Vec<sock_filter> {
    let [segment] = segments else {
        let (below, from) = segments.split_at(segments.len() / 2);
        let (pivot, below, from) = (from[0].start, tree(below), tree(from));
        let mut program = match u8::try_from(below.len()) {
            Ok(_) => vec![jump(JUMP_AT_LEAST, pivot, below.len(), 0)],
            Err(_) => vec![
                jump(JUMP_AT_LEAST, pivot, 0, 1),
                instruction(JUMP, below.len() as u32),
            ],
        };
        program.extend(below);
        program.extend(from);
        return program;
    };
    match segment.leaf {
        Leaf::Action(action) => vec![answer(action)],
        Leaf::Check(rules) => {
            let mut program: Vec<sock_filter> = rules.iter().flat_map(check).collect();
            program.push(answer(Action::Allow));
            program
        }
    }
}

/// Falls through when the rule holds.
fn check(rule: &Rule) -> Vec<sock_filter> {
    let mut body = vec![instruction(
        LOAD,
        ARGUMENTS + 8 * rule.argument + if rule.upper { 4 } else { 0 },
    )];
    if rule.mask != u32::MAX {
        body.push(instruction(AND, rule.mask));
    }
    // The refusal comes right after the compares.
    let count = rule.values.len();
    for (index, value) in rule.values.iter().enumerate() {
        let rest = count - 1 - index;
        body.push(match rule.among {
            true => jump(JUMP_EQUAL, *value, rest + 1, 0),
            false => jump(JUMP_EQUAL, *value, rest, if rest == 0 { 1 } else { 0 }),
        });
    }
    body.push(answer(rule.refusal));
    if let Some((argument, value)) = rule.when {
        let guard = [
            instruction(LOAD, ARGUMENTS + 8 * argument),
            jump(JUMP_EQUAL, value, 0, body.len()),
        ];
        body.splice(0..0, guard);
    }
    body
}
