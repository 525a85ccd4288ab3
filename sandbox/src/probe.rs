//! What this kernel can enforce, property by property. [`grade`] and [`Plan::new`] are pure; only [`probe`] touches the system.

use serde::{Deserialize, Serialize};

use crate::namespace::{self, Loopback};
use crate::property::Property;
use crate::sys::{Errno, calls};

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
    /// The sets of mechanisms that would keep it on any host, with what each needs of the kernel, for example `mount namespace
    /// + own uid + Landlock ABI 1 (Linux 5.13)`; several are separated by `, or `.
    pub needs: String,
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

/// The first Landlock ABI that scopes signals and abstract sockets.
pub(crate) const SCOPES: u32 = 6;

/// Finds out what this host can do, by trying it in short-lived children. Takes a few milliseconds.
pub fn probe(input: &ProbeInput) -> Facts {
    let user_namespace = namespace::in_own_user_namespace();
    let may_change_identity = [CAP_SETGID, CAP_SETUID].into_iter().all(calls::has_capability);
    let tries = |flags: i32, act: fn() -> Result<(), Errno>| namespace::in_child(flags, act).is_ok();
    Facts {
        root: nix::unistd::geteuid().is_root() && !user_namespace,
        user_namespace,
        landlock_abi: calls::landlock_abi().unwrap_or(0),
        seccomp: calls::can_filter(),
        mount_namespace: tries(libc::CLONE_NEWNS, mount_something),
        network_namespace: namespace::network(Loopback::Down).is_ok(),
        pid_namespace: tries(libc::CLONE_NEWPID, || Ok(())),
        // In a user namespace of its own making, no other uid is mapped.
        own_uid: input.uid_range && may_change_identity && !user_namespace,
        store_owned_by_root: input.store_owned_by_root,
        cgroup: input.cgroup.clone(),
    }
}

/// The kernel's Landlock ABI; `None` without Landlock.
pub fn landlock_abi() -> Option<u32> {
    calls::landlock_abi().ok().filter(|&abi| abi > 0)
}

/// `CAP_SETGID`, `CAP_SETUID` (linux/capability.h).
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;

/// In a mount namespace of its own: some containers allow the namespace but no mounts.
fn mount_something() -> Result<(), Errno> {
    calls::mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None)?;
    calls::mount(Some(c"tmpfs"), c"/", Some(c"tmpfs"), libc::MS_NOSUID, None)?;
    calls::mount_add_attributes(c"/", libc::MOUNT_ATTR_NOSUID)
}

/// One mechanism that a property may rest on.
struct Mechanism {
    present: bool,
    name: String,
    /// Its name and what it needs, whatever this host has.
    needs: String,
    cause: String,
    fix: String,
}

/// Grades the ten properties, in order. Each is kept by the first set of mechanisms that is complete; of a property that
/// is missing, the causes and fixes are those of the set that lacks the least.
pub fn grade(facts: &Facts) -> Vec<Grade> {
    Property::ALL
        .into_iter()
        .map(|property| grade_one(property, sufficient(property, facts)))
        .collect()
}

fn grade_one(property: Property, sets: Vec<Vec<Mechanism>>) -> Grade {
    let needs = |set: &Vec<Mechanism>| {
        let parts: Vec<&str> = set.iter().map(|mechanism| mechanism.needs.as_str()).collect();
        parts.join(" + ")
    };
    let needs = sets.iter().map(needs).collect::<Vec<_>>().join(", or ");
    let missing = |set: &[Mechanism]| set.iter().filter(|mechanism| !mechanism.present).count();
    let set = sets
        .into_iter()
        .min_by_key(|set| missing(set))
        .unwrap_or_default();
    let join = |separator: &str, part: fn(&Mechanism) -> &str| {
        let parts: Vec<&str> = set.iter().filter(|m| !m.present).map(part).collect();
        parts.join(separator)
    };
    let names: Vec<&str> = set.iter().map(|mechanism| mechanism.name.as_str()).collect();
    let mechanism = (missing(&set) == 0).then(|| names.join(" + "));
    Grade {
        property,
        mechanism,
        cause: join("; ", |m| &m.cause),
        fix: join("; ", |m| &m.fix),
        needs,
    }
}

/// The sets of mechanisms that keep a property, the cheapest first.
fn sufficient(property: Property, facts: &Facts) -> Vec<Vec<Mechanism>> {
    let own_uid = || own_uid(facts);
    let seccomp = || seccomp(facts);
    let pids = || namespace_of("pid", facts.pid_namespace, facts);
    match property {
        Property::Files => {
            vec![vec![
                namespace_of("mount", facts.mount_namespace, facts),
                own_uid(),
                landlock(1, facts),
            ]]
        }
        Property::Network => vec![vec![
            namespace_of("network", facts.network_namespace, facts),
            seccomp(),
        ]],
        Property::Processes => {
            let mut sets = vec![
                vec![landlock(SCOPES, facts), own_uid(), seccomp()],
                // What /proc tells of others must be out of reach, too: not there, or not to be read.
                vec![
                    pids(),
                    own_uid(),
                    namespace_of("mount", facts.mount_namespace, facts),
                ],
                vec![pids(), own_uid(), landlock(1, facts)],
            ];
            if facts.user_namespace {
                // Where all share one uid, a function neither sees nor names a process outside its pid namespace.
                sets.push(vec![pids(), landlock(1, facts), seccomp()]);
            }
            sets
        }
        Property::KernelSurface => vec![vec![seccomp(), always("no_new_privs")]],
        Property::MemoryLimit => vec![vec![controller("memory", facts.cgroup.memory, facts)]],
        Property::PidLimit => vec![vec![controller("pids", facts.cgroup.pids, facts)]],
        Property::CpuLimit => vec![vec![controller("cpu", facts.cgroup.cpu, facts)]],
        Property::TotalKill => vec![vec![kill(facts)], vec![pids()]],
        Property::Artifact => vec![vec![store(facts), always("executed by descriptor")]],
        Property::Privileges => vec![vec![own_uid(), always("empty capabilities")]],
    }
}

fn always(name: &str) -> Mechanism {
    Mechanism {
        present: true,
        name: name.to_owned(),
        needs: name.to_owned(),
        cause: String::new(),
        fix: String::new(),
    }
}

fn mechanism(present: bool, name: String, needs: String, cause: String, fix: &str) -> Mechanism {
    Mechanism {
        present,
        name,
        needs,
        cause,
        fix: fix.to_owned(),
    }
}

fn namespace_of(kind: &str, present: bool, facts: &Facts) -> Mechanism {
    let fix = match facts.root {
        true => "give funcd CAP_SYS_ADMIN: in a container, run it privileged",
        false => {
            "run funcd as root, or allow user namespaces (sysctl user.max_user_namespaces, \
             kernel.unprivileged_userns_clone; on Ubuntu an AppArmor profile with `userns,`)"
        }
    };
    // Mounts are made with mount_setattr(2); the namespaces themselves are older.
    let since = if kind == "mount" { " (Linux 5.12)" } else { "" };
    mechanism(
        present,
        format!("{kind} namespace"),
        format!("{kind} namespace{since}"),
        format!("{kind} namespaces can't be made and used here"),
        fix,
    )
}

fn own_uid(facts: &Facts) -> Mechanism {
    let (cause, fix) = match facts.root {
        true => (
            "there are no uids to give to functions",
            "give funcd a range of uids, and CAP_SETUID and CAP_SETGID",
        ),
        false => (
            "all functions run as the user that runs funcd",
            "run funcd as root",
        ),
    };
    let needs = "own uid (root)".to_owned();
    mechanism(facts.own_uid, "own uid".to_owned(), needs, cause.to_owned(), fix)
}

fn landlock(least: u32, facts: &Facts) -> Mechanism {
    let abi = facts.landlock_abi;
    let cause = match abi {
        0 => "the kernel has no Landlock, or it is not switched on".to_owned(),
        abi => format!("Landlock ABI {abi} does not scope signals and abstract sockets, {least} does"),
    };
    let fix = match abi {
        0 => "use Linux 5.13 or later, and boot with landlock in the list of lsm=",
        _ => "use Linux 6.12 or later",
    };
    let since = if least >= SCOPES { "6.12" } else { "5.13" };
    let needs = format!("Landlock ABI {least} (Linux {since})");
    mechanism(abi >= least, format!("Landlock ABI {abi}"), needs, cause, fix)
}

fn seccomp(facts: &Facts) -> Mechanism {
    let cause = "system call filters can't be loaded".to_owned();
    mechanism(
        facts.seccomp,
        "seccomp".to_owned(),
        "seccomp (Linux 4.14)".to_owned(),
        cause,
        "use a kernel with CONFIG_SECCOMP_FILTER",
    )
}

fn controller(name: &str, present: bool, facts: &Facts) -> Mechanism {
    let layout = &facts.cgroup.layout;
    let cause = format!("the {name} controller can't be used (cgroups: {layout})");
    let fix =
        "run funcd as a systemd service with Delegate=yes, or as root where cgroups are mounted writable";
    let needs = format!("{name} controller (cgroup v1 or v2)");
    mechanism(
        present,
        format!("{name} controller ({layout})"),
        needs,
        cause,
        fix,
    )
}

fn kill(facts: &Facts) -> Mechanism {
    let cause = format!(
        "no cgroup of funcd's own has cgroup.kill (cgroups: {})",
        facts.cgroup.layout
    );
    let fix = "use Linux 5.14 or later with cgroup v2 mounted, and Delegate=yes in a systemd service";
    let needs = "cgroup.kill (Linux 5.14, cgroup v2)".to_owned();
    mechanism(facts.cgroup.kill, "cgroup.kill".to_owned(), needs, cause, fix)
}

fn store(facts: &Facts) -> Mechanism {
    let cause = "the store of executables does not belong to root, or others can write to it".to_owned();
    let name = "root-owned store".to_owned();
    mechanism(
        facts.store_owned_by_root,
        name,
        "root-owned store (root)".to_owned(),
        cause,
        "run funcd as root, with a state folder that only root can write to",
    )
}

impl Plan {
    /// The plan for a host.
    pub fn new(facts: &Facts) -> Plan {
        let scoped = facts.landlock_abi >= SCOPES;
        let processes = scoped && facts.own_uid && facts.seccomp;
        Plan {
            // It costs a mini-init, so only where P3 or P8 has nothing else.
            pid_namespace: facts.pid_namespace && !(processes && facts.cgroup.kill),
            landlock_abi: Some(facts.landlock_abi).filter(|abi| *abi > 0),
            seccomp: facts.seccomp,
            mounts: facts.mount_namespace,
            network: facts.network_namespace,
            shared_network: facts.network_namespace && scoped,
            identity: facts.own_uid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best() -> Facts {
        let cgroup = CgroupFacts {
            kill: true,
            memory: true,
            pids: true,
            cpu: true,
            layout: "v2".into(),
        };
        Facts {
            root: true,
            user_namespace: false,
            landlock_abi: 7,
            seccomp: true,
            mount_namespace: true,
            network_namespace: true,
            pid_namespace: true,
            own_uid: true,
            store_owned_by_root: true,
            cgroup,
        }
    }

    fn missing(facts: &Facts) -> Vec<String> {
        grade(facts)
            .iter()
            .filter(|grade| grade.mechanism.is_none())
            .map(|grade| grade.property.code())
            .collect()
    }

    fn mechanism_of(property: Property, facts: &Facts) -> String {
        grade(facts)[property as usize]
            .mechanism
            .clone()
            .unwrap_or_default()
    }

    #[test]
    fn a_good_host_keeps_all_ten_by_the_cheapest_means() {
        let names: Vec<String> = Property::ALL
            .into_iter()
            .map(|p| mechanism_of(p, &best()))
            .collect();
        let expected = [
            "mount namespace + own uid + Landlock ABI 7",
            "network namespace + seccomp",
            "Landlock ABI 7 + own uid + seccomp",
            "seccomp + no_new_privs",
            "memory controller (v2)",
            "pids controller (v2)",
            "cpu controller (v2)",
            "cgroup.kill",
            "root-owned store + executed by descriptor",
            "own uid + empty capabilities",
        ];
        assert_eq!(names, expected);
        assert!(!Plan::new(&best()).pid_namespace);
        assert!(Plan::new(&best()).shared_network);
    }

    #[test]
    fn each_lost_mechanism_loses_what_rests_on_it() {
        type Change = fn(&mut Facts);
        let table: [(Change, &[&str]); 16] = [
            (|f| f.landlock_abi = 5, &[]),
            (|f| f.landlock_abi = 0, &["P1"]),
            (|f| f.seccomp = false, &["P2", "P4"]),
            (|f| f.mount_namespace = false, &["P1"]),
            (|f| f.network_namespace = false, &["P2"]),
            (|f| f.pid_namespace = false, &[]),
            (|f| f.own_uid = false, &["P1", "P3", "P10"]),
            (|f| f.store_owned_by_root = false, &["P9"]),
            (|f| f.cgroup.memory = false, &["P5"]),
            (|f| f.cgroup.pids = false, &["P6"]),
            (|f| f.cgroup.cpu = false, &["P7"]),
            (|f| f.cgroup.kill = false, &[]),
            (|f| (f.cgroup.kill, f.pid_namespace) = (false, false), &["P8"]),
            (|f| (f.landlock_abi, f.pid_namespace) = (5, false), &["P3"]),
            (|f| (f.landlock_abi, f.mount_namespace) = (5, false), &["P1"]),
            // Its own pids are no use to who can read the host's /proc.
            (
                |f| (f.landlock_abi, f.mount_namespace) = (0, false),
                &["P1", "P3"],
            ),
        ];
        for (index, (change, expected)) in table.into_iter().enumerate() {
            let mut facts = best();
            change(&mut facts);
            assert_eq!(missing(&facts), expected, "row {index}");
        }
    }

    /// An ordinary user on a laptop: a user namespace, one uid, maybe no cgroups.
    #[test]
    fn without_root_it_says_what_is_missing() {
        let facts = Facts {
            root: false,
            user_namespace: true,
            own_uid: false,
            store_owned_by_root: false,
            cgroup: CgroupFacts {
                layout: "not delegated".into(),
                ..CgroupFacts::default()
            },
            ..best()
        };
        assert_eq!(missing(&facts), ["P1", "P5", "P6", "P7", "P9", "P10"]);
        assert_eq!(
            mechanism_of(Property::Processes, &facts),
            "pid namespace + Landlock ABI 7 + seccomp"
        );
        assert_eq!(mechanism_of(Property::TotalKill, &facts), "pid namespace");
        assert!(Plan::new(&facts).pid_namespace);
        assert!(!Plan::new(&facts).identity);
        let files = &grade(&facts)[0];
        assert_eq!(files.cause, "all functions run as the user that runs funcd");
        assert_eq!(files.fix, "run funcd as root");
    }

    /// Every combination: a grade has either a mechanism or a cause and a fix, never both; more mechanisms never lose a
    /// property; and the plan makes use of what the grades rest on.
    #[test]
    fn all_combinations_are_graded_and_planned_alike() {
        let facts = |bits: u32| {
            let bit = |index: u32| bits >> index & 1 == 1;
            let cgroup = CgroupFacts {
                kill: bit(0),
                memory: bit(1),
                pids: bit(2),
                cpu: bit(3),
                layout: "some".into(),
            };
            let abi = [0, 1, 5, 6][(bits >> 4 & 3) as usize];
            Facts {
                root: bit(6),
                user_namespace: !bit(6) && bit(7),
                landlock_abi: abi,
                seccomp: bit(8),
                mount_namespace: bit(9),
                network_namespace: bit(10),
                pid_namespace: bit(11),
                own_uid: bit(12) && bit(6),
                store_owned_by_root: bit(13),
                cgroup,
            }
        };
        for bits in 0..1 << 14 {
            let facts = facts(bits);
            let (grades, plan) = (grade(&facts), Plan::new(&facts));
            assert_eq!(grades.len(), 10);
            for grade in &grades {
                let kept = grade.mechanism.is_some();
                assert_eq!(
                    (grade.cause.is_empty(), grade.fix.is_empty()),
                    (kept, kept),
                    "{facts:?} {grade:?}"
                );
                let text = grade.mechanism.as_deref().unwrap_or_default();
                assert!(
                    !text.contains("pid namespace") || plan.pid_namespace,
                    "{facts:?} {grade:?}"
                );
                assert!(!text.contains("mount namespace") || plan.mounts);
                assert!(!text.contains("network namespace") || plan.network);
                assert!(!text.contains("own uid") || plan.identity);
                assert!(!text.contains("seccomp") || plan.seccomp);
                assert!(!text.contains("Landlock") || plan.landlock_abi.is_some());
            }
        }
    }
}
