//! The launcher of funcd and the sandbox that it starts functions in.
//!
//! Linux only. Nothing here knows HTTP, tokio or what a function is for: it turns a [`spec::Spec`] into a
//! confined process and tells how that process ended. `sys` is the only module with unsafe code.

mod cgroup;
mod condition;
pub mod confine;
pub mod exit;
mod floor;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod known;
mod landlock;
pub mod launcher;
mod mounts;
pub mod namespace;
mod oom;
pub mod own;
pub mod probe;
pub mod property;
pub mod rlimit;
mod sandbox;
pub mod seccomp;
pub mod self_check;
pub mod spec;
mod stamp;
mod store;
pub mod sys;
pub mod system;
mod uids;
pub mod variables;
pub mod wire;
mod without;
