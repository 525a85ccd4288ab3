//! What a test takes away from a host, so that what is promised can be tested where less can be kept: a host graded as if its
//! kernel had no Landlock refuses what such a host refuses.
//!
//! Only ever takes away. What is taken is not used by any start either, and a property that rested on it is missing: without
//! the operator's word (`degraded`) nothing starts. So nobody who sets the variable gets more than they had.

use std::fmt;

use crate::probe::Facts;

/// The variable, in the environment that `funcd serve` or `funcd doctor` is started with: names separated by commas.
pub(crate) const VARIABLE: &str = "FUNCD_WITHOUT";

/// What is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mechanism {
    MountNamespace,
    NetworkNamespace,
    PidNamespace,
    /// Landlock beyond this ABI; 0: all of it.
    Landlock(u32),
    Seccomp,
    OwnUid,
    Memory,
    Pids,
    Cpu,
    CgroupKill,
    Store,
}

/// The names, but for `landlock=N`.
const NAMES: [(&str, Mechanism); 11] = [
    ("mount-namespace", Mechanism::MountNamespace),
    ("network-namespace", Mechanism::NetworkNamespace),
    ("pid-namespace", Mechanism::PidNamespace),
    ("landlock", Mechanism::Landlock(0)),
    ("seccomp", Mechanism::Seccomp),
    ("own-uid", Mechanism::OwnUid),
    ("memory", Mechanism::Memory),
    ("pids", Mechanism::Pids),
    ("cpu", Mechanism::Cpu),
    ("cgroup-kill", Mechanism::CgroupKill),
    ("store", Mechanism::Store),
];

/// Everything that is taken away; usually nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Without(Vec<Mechanism>);

/// A name that means nothing: what was to be taken away would stay.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{VARIABLE}: {0:?} is no mechanism; they are {names}, landlock=N; unset it, it is for tests only", names = names())]
pub(crate) struct Unknown(String);

fn names() -> String {
    NAMES.map(|(name, _)| name).join(", ")
}

impl Without {
    /// What this process's environment takes away.
    ///
    /// # Errors
    /// A name that means nothing.
    pub(crate) fn of_environment() -> Result<Without, Unknown> {
        std::env::var_os(VARIABLE).map_or(Ok(Without::default()), |text| {
            Without::parse(&text.to_string_lossy())
        })
    }

    fn parse(text: &str) -> Result<Without, Unknown> {
        let one = |name: &str| {
            let abi = name.strip_prefix("landlock=").and_then(|abi| abi.parse().ok());
            let named = || {
                NAMES
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, mechanism)| *mechanism)
            };
            abi.map(Mechanism::Landlock)
                .or_else(named)
                .ok_or_else(|| Unknown(name.to_owned()))
        };
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.map(one).collect::<Result<_, _>>().map(Without)
    }

    /// Whether nothing is taken away.
    pub(crate) fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }

    /// The facts without what is taken away.
    pub(crate) fn take_from(&self, facts: &mut Facts) {
        for mechanism in &self.0 {
            match mechanism {
                Mechanism::MountNamespace => facts.mount_namespace = false,
                Mechanism::NetworkNamespace => facts.network_namespace = false,
                Mechanism::PidNamespace => facts.pid_namespace = false,
                Mechanism::Landlock(abi) => facts.landlock_abi = facts.landlock_abi.min(*abi),
                Mechanism::Seccomp => facts.seccomp = false,
                Mechanism::OwnUid => facts.own_uid = false,
                Mechanism::Memory => facts.cgroup.memory = false,
                Mechanism::Pids => facts.cgroup.pids = false,
                Mechanism::Cpu => facts.cgroup.cpu = false,
                Mechanism::CgroupKill => facts.cgroup.kill = false,
                Mechanism::Store => facts.store_owned_by_root = false,
            }
        }
    }
}

impl fmt::Display for Without {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mechanism) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            let name = NAMES.iter().find(|(_, known)| known == mechanism);
            match (name, mechanism) {
                (Some((name, _)), _) => write!(f, "{separator}{name}")?,
                (None, Mechanism::Landlock(abi)) => write!(f, "{separator}landlock beyond ABI {abi}")?,
                (None, other) => write!(f, "{separator}{other:?}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::CgroupFacts;

    fn all(yes: bool) -> Facts {
        let cgroup = CgroupFacts {
            kill: yes,
            memory: yes,
            pids: yes,
            cpu: yes,
            layout: String::new(),
        };
        Facts {
            root: true,
            user_namespace: false,
            landlock_abi: if yes { 7 } else { 0 },
            seccomp: yes,
            mount_namespace: yes,
            network_namespace: yes,
            pid_namespace: yes,
            own_uid: yes,
            store_owned_by_root: yes,
            cgroup,
        }
    }

    #[test]
    fn all_names_together_take_everything_and_give_nothing() {
        let everything = Without::parse(&names()).unwrap();
        for before in [true, false] {
            let mut facts = all(before);
            everything.take_from(&mut facts);
            assert_eq!(facts, all(false));
        }
        let more = Without::parse("landlock=9").unwrap();
        let mut facts = all(true);
        more.take_from(&mut facts);
        assert_eq!(facts.landlock_abi, 7, "more than the kernel has is not given");
        Without::parse("landlock=4, seccomp")
            .unwrap()
            .take_from(&mut facts);
        assert_eq!((facts.landlock_abi, facts.seccomp), (4, false));
    }

    #[test]
    fn a_name_that_means_nothing_is_refused() {
        assert!(Without::parse("").unwrap().is_nothing());
        for text in ["landlok", "landlock=", "landlock=-1", "seccomp;cpu"] {
            let said = Without::parse(text).unwrap_err().to_string();
            assert!(
                said.contains("is no mechanism") && said.contains("cgroup-kill"),
                "{said}"
            );
        }
        let shown = Without::parse("landlock=4,own-uid").unwrap().to_string();
        assert_eq!(shown, "landlock beyond ABI 4, own-uid");
    }
}
