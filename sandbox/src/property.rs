//! The ten properties that a sandbox promises: what a start is refused for when it is missing.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a sandbox promises. Each is reached by one of several sets of mechanisms; see `probe`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Property {
    /// P1: sees and touches no file but its own.
    Files,
    /// P2: reaches no network but its declared bindings.
    Network,
    /// P3: sees, signals and traces no process but its own.
    Processes,
    /// P4: reaches only the listed system calls.
    KernelSurface,
    /// P5: uses no more memory than its limit.
    MemoryLimit,
    /// P6: has no more processes and threads than its limit.
    PidLimit,
    /// P7: uses no more CPU than its share.
    CpuLimit,
    /// P8: nothing of it survives its end.
    TotalKill,
    /// P9: what runs is what was stored.
    Artifact,
    /// P10: holds no privilege and can gain none.
    Privileges,
}

impl Property {
    /// All ten, in order.
    pub const ALL: [Property; 10] = [
        Property::Files,
        Property::Network,
        Property::Processes,
        Property::KernelSurface,
        Property::MemoryLimit,
        Property::PidLimit,
        Property::CpuLimit,
        Property::TotalKill,
        Property::Artifact,
        Property::Privileges,
    ];

    /// The name used in `degraded = [...]`, logs and metrics, for example `memory-limit`.
    pub fn as_str(self) -> &'static str {
        match self {
            Property::Files => "files",
            Property::Network => "network",
            Property::Processes => "processes",
            Property::KernelSurface => "kernel-surface",
            Property::MemoryLimit => "memory-limit",
            Property::PidLimit => "pid-limit",
            Property::CpuLimit => "cpu-limit",
            Property::TotalKill => "total-kill",
            Property::Artifact => "artifact",
            Property::Privileges => "privileges",
        }
    }

    /// The short code, `P1` to `P10`.
    pub fn code(self) -> String {
        format!("P{}", self as u8 + 1)
    }

    /// Reads a name (`memory-limit`) or a code (`P5`).
    pub fn parse(text: &str) -> Option<Property> {
        Property::ALL
            .into_iter()
            .find(|p| p.as_str() == text || p.code() == text)
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
