//! What this kernel can enforce, property by property. [`grade`] and [`Plan::new`] are pure; only [`probe`] touches the system.

use serde::{Deserialize, Serialize};

use crate::property::Property;

/// How one property stands on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grade {
    /// Which property.
    pub property: Property,
    /// The mechanisms that keep it, for example `mount namespace + own uid + Landlock 7`; `None` when it is missing.
    pub mechanism: Option<String>,
    /// Why it is missing; empty when it is kept.
    pub cause: String,
    /// What to do about that; empty when it is kept.
    pub fix: String,
}

/// What the launcher's cgroups can enforce, told by whoever manages them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupFacts {
    /// A v2 leaf can be made and has `cgroup.kill`.
    pub kill: bool,
    /// The memory controller can be used.
    pub memory: bool,
    /// The pids controller can be used.
    pub pids: bool,
    /// The cpu controller can be used.
    pub cpu: bool,
    /// How they are laid out, for users: for example `v2`, `hybrid`, or why there are none.
    pub layout: String,
}

/// What [`probe`] is told because it can't find it out.
#[derive(Debug, Clone, Default)]
pub struct ProbeInput {
    /// The cgroups.
    pub cgroup: CgroupFacts,
    /// Whether the store belongs to root and nobody else can write to it.
    pub store_owned_by_root: bool,
    /// Whether there are uids to give to functions.
    pub uid_range: bool,
}

/// What this host can do: plain facts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The launcher is root, outside any user namespace that it made.
    pub root: bool,
    /// The launcher sits in a user namespace that it made.
    pub user_namespace: bool,
    /// The Landlock ABI; 0 where there is none.
    pub landlock_abi: u32,
    /// seccomp filters can be loaded.
    pub seccomp: bool,
    /// Mount namespaces can be made and mounted in.
    pub mount_namespace: bool,
    /// Network namespaces can be made.
    pub network_namespace: bool,
    /// Pid namespaces can be made.
    pub pid_namespace: bool,
    /// Functions can have uids of their own.
    pub own_uid: bool,
    /// See [`ProbeInput::store_owned_by_root`].
    pub store_owned_by_root: bool,
    /// See [`ProbeInput::cgroup`].
    pub cgroup: CgroupFacts,
}

/// What a start does on this host: the cheapest set of mechanisms that keeps as many properties as can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// See [`crate::confine::Confinement::pid_namespace`].
    pub pid_namespace: bool,
    /// See [`crate::confine::Confinement::landlock_abi`].
    pub landlock_abi: Option<u32>,
    /// See [`crate::confine::Confinement::seccomp`].
    pub seccomp: bool,
    /// Whether it gets a mount namespace with a root of its own.
    pub mounts: bool,
    /// Whether it joins a network namespace.
    pub network: bool,
    /// Whether all functions on `Unix` sockets may share one empty network namespace (abstract sockets are scoped).
    pub shared_network: bool,
    /// Whether it becomes a uid of its own.
    pub identity: bool,
}

/// Finds out what this host can do, by trying it in short-lived children.
pub fn probe(input: &ProbeInput) -> Facts {
    Facts {
        store_owned_by_root: input.store_owned_by_root,
        cgroup: input.cgroup.clone(),
        ..Facts::default()
    }
}

/// Grades the ten properties, in order.
pub fn grade(facts: &Facts) -> Vec<Grade> {
    let _ = facts;
    Vec::new()
}

impl Plan {
    /// The plan for a host.
    pub fn new(facts: &Facts) -> Plan {
        Plan {
            pid_namespace: facts.pid_namespace,
            landlock_abi: None,
            seccomp: facts.seccomp,
            mounts: facts.mount_namespace,
            network: facts.network_namespace,
            shared_network: false,
            identity: facts.own_uid,
        }
    }
}
