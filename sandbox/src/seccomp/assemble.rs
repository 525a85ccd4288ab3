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

/// Builds the program. `segments` must be sorted and start at 0.
pub(super) fn assemble(arch: u32, segments: &[Segment]) -> Vec<sock_filter> {
    let mut program = Backwards {
        reversed: Vec::new(),
        answers: Vec::new(),
    };
    let root = program.tree(segments);
    program.fall_through_to(root);
    let number = program.push(LOAD, NUMBER);
    let foreign = program.answer(Action::Kill);
    program.compare(JUMP_EQUAL, arch, number, foreign);
    program.push(LOAD, ARCH);
    program.reversed.reverse();
    program.reversed
}

/// A program that grows from its end to its start, as jumps only go forward: where they go is known when they are written.
/// Each answer is written once where that is near enough, as the kernel pays for every instruction when it loads them.
struct Backwards {
    reversed: Vec<sock_filter>,
    /// Where each answer is, the nearest last.
    answers: Vec<(Action, Label)>,
}

/// An instruction, counted from the end.
type Label = usize;

/// The furthest that a compare can jump, less room for the two steps of [`Backwards::near`].
const FAR: usize = 250;

impl Backwards {
    fn push(&mut self, code: u16, k: u32) -> Label {
        self.reversed.push(sock_filter {
            code,
            jt: 0,
            jf: 0,
            k,
        });
        self.reversed.len() - 1
    }

    /// How far the next instruction has to jump to get there.
    fn distance(&self, to: Label) -> usize {
        self.reversed.len() - 1 - to
    }

    fn answer(&mut self, action: Action) -> Label {
        let known = self.answers.iter().rev().find(|(known, _)| *known == action);
        if let Some((_, label)) = known
            && self.distance(*label) < FAR
        {
            return *label;
        }
        let value = match action {
            Action::Allow => libc::SECCOMP_RET_ALLOW,
            Action::Errno(errno) => libc::SECCOMP_RET_ERRNO | errno as u32,
            Action::Kill => libc::SECCOMP_RET_KILL_PROCESS,
        };
        let label = self.push(RETURN, value);
        self.answers.push((action, label));
        label
    }

    /// The same place, or a step towards it that a compare can reach.
    fn near(&mut self, label: Label) -> Label {
        match self.distance(label) {
            0..FAR => label,
            far => self.push(JUMP, far as u32),
        }
    }

    fn compare(&mut self, code: u16, k: u32, met: Label, not_met: Label) -> Label {
        let (met, not_met) = (self.near(met), self.near(not_met));
        let short = |distance| u8::try_from(distance).expect("near leaves at most FAR + 1");
        let (jt, jf) = (short(self.distance(met)), short(self.distance(not_met)));
        self.reversed.push(sock_filter { code, jt, jf, k });
        self.reversed.len() - 1
    }

    /// Makes sure that what is written next goes on at a place.
    fn fall_through_to(&mut self, label: Label) {
        if self.distance(label) > 0 {
            self.push(JUMP, self.distance(label) as u32);
        }
    }

    fn tree(&mut self, segments: &[Segment]) -> Label {
        if let [segment] = segments {
            return match segment.leaf {
                Leaf::Action(action) => self.answer(action),
                Leaf::Check(rules) => {
                    let allow = self.answer(Action::Allow);
                    rules
                        .iter()
                        .rev()
                        .fold(allow, |next, rule| self.check(rule, next))
                }
            };
        }
        let (below, from) = segments.split_at(segments.len() / 2);
        let pivot = from[0].start;
        let from = self.tree(from);
        let below = self.tree(below);
        self.compare(JUMP_AT_LEAST, pivot, from, below)
    }

    /// Goes on at `next` when the rule holds.
    fn check(&mut self, rule: &Rule, next: Label) -> Label {
        let refusal = self.answer(rule.refusal);
        let (equal, different) = if rule.among {
            (next, refusal)
        } else {
            (refusal, next)
        };
        let compares = rule.values.iter().rev().fold(different, |otherwise, value| {
            self.compare(JUMP_EQUAL, *value, equal, otherwise)
        });
        self.fall_through_to(compares);
        if rule.mask != u32::MAX {
            self.push(AND, rule.mask);
        }
        let half = if rule.upper { 4 } else { 0 };
        let body = self.push(LOAD, ARGUMENTS + 8 * rule.argument + half);
        let Some((argument, value)) = rule.when else {
            return body;
        };
        self.compare(JUMP_EQUAL, value, body, next);
        self.push(LOAD, ARGUMENTS + 8 * argument)
    }
}
