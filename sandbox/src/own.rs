//! How the supervisor confines itself. Called by it before it starts threads; never undone.

use std::io;
use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access as _, AccessFs, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};

use crate::landlock::version;
use crate::seccomp::supervisor_filter;
use crate::sys::calls;

/// What the supervisor keeps access to.
#[derive(Debug, Default)]
pub struct Access<'a> {
    /// Directories (or files) that it may read.
    pub read: Vec<BorrowedFd<'a>>,
    /// Directories (or files) that it may read and write.
    pub write: Vec<BorrowedFd<'a>>,
}

/// What was enforced, as opposed to asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enforced {
    /// The Landlock ABI in force; `None` where the kernel has none.
    pub landlock_abi: Option<u32>,
    /// Whether the filter that refuses exec, ptrace, mounts and namespaces is loaded.
    pub seccomp: bool,
}

/// Confines the calling process, which must have one thread: Landlock to `access` (files and both scopes; TCP stays free,
/// as it is what the supervisor serves), and a filter that refuses exec, fork (threads are fine), ptrace, mounts,
/// namespaces and the like with `EPERM`. Nothing may be executed, also not below `access`. What the kernel lacks is left out and told.
///
/// # Errors
/// A mechanism that the kernel has but that could not be enforced as a whole.
pub fn confine_self(access: &Access<'_>) -> io::Result<Enforced> {
    let system = io::Error::from_raw_os_error;
    calls::no_new_privs().map_err(system)?;
    let landlock_abi = calls::landlock_abi().ok().filter(|abi| *abi > 0);
    if let Some(abi) = landlock_abi {
        restrict(access, version(abi)).map_err(|error| io::Error::other(format!("Landlock: {error}")))?;
    }
    let seccomp = calls::can_filter();
    if seccomp {
        calls::load_filter(&supervisor_filter()).map_err(system)?;
    }
    Ok(Enforced {
        landlock_abi,
        seccomp,
    })
}

fn restrict(access: &Access<'_>, abi: ABI) -> Result<(), Box<dyn std::error::Error>> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = AccessFs::from_all(abi) & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock);
    let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(abi))?;
    if !Scope::from_all(abi).is_empty() {
        ruleset = ruleset.scope(Scope::from_all(abi))?;
    }
    let mut ruleset = ruleset.create()?;
    for (directories, rights) in [(&access.read, read), (&access.write, write)] {
        for directory in directories {
            ruleset = ruleset.add_rule(PathBeneath::new(directory, rights))?;
        }
    }
    match ruleset.restrict_self()?.ruleset {
        RulesetStatus::NotEnforced => Err("the kernel has it but did not enforce it".into()),
        // Partially: rights of directories on files, which the crate leaves out of the rule.
        RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(()),
    }
}
