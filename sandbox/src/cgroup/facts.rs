//! What our cgroups can keep: seen while they were made and tried on a leaf, not guessed from what is mounted.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::{Ceiling, Controller, Dirs, Leaf};

/// Whether something can be kept here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Support {
    /// Yes, by this mechanism.
    Yes(String),
    /// No.
    No {
        /// Why not.
        cause: String,
        /// What to do about it.
        fix: String,
    },
}

/// Which limits can be kept here, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// P5.
    pub(crate) memory: Support,
    /// P6.
    pub(crate) pids: Support,
    /// P7.
    pub(crate) cpu: Support,
    /// P8, beside pid namespaces.
    pub(crate) kill: Support,
}

/// Finds out what can be kept; `trouble` is what went wrong while the directories were made.
pub(super) fn find(dirs: &Rc<Dirs>, trouble: Option<String>, v2_mounted: bool) -> Facts {
    let why = Why {
        trouble,
        v2_mounted,
        refused: dirs.v2.as_ref().and_then(|v2| v2.refused.clone()),
        place: dirs.v2.as_ref().map(|v2| v2.dir.clone()),
    };
    let mut facts = Facts {
        memory: support(dirs, Controller::Memory, "memory", &why),
        pids: support(dirs, Controller::Pids, "pids", &why),
        cpu: support(dirs, Controller::Cpu, "cpu", &why),
        kill: kill_support(dirs, &why),
    };
    try_limits(dirs, &mut facts);
    facts
}

/// Why a controller is not there.
struct Why {
    trouble: Option<String>,
    v2_mounted: bool,
    refused: Option<String>,
    place: Option<PathBuf>,
}

impl Why {
    fn cause(&self, what: &str) -> String {
        if let Some(trouble) = &self.trouble {
            return format!("can't make a cgroup: {trouble}");
        }
        if let Some(refused) = &self.refused {
            return refused.clone();
        }
        match (&self.place, self.v2_mounted) {
            (Some(dir), _) => format!("cgroup {} is not given the `{what}` controller", dir.display()),
            (None, true) => "no cgroup was delegated to this user".to_owned(),
            (None, false) => format!("no cgroup hierarchy with `{what}` is mounted writable"),
        }
    }

    fn fix(&self) -> String {
        if nix::unistd::geteuid().is_root() {
            "run funcd as a systemd service with `Delegate=yes`, or mount the cgroup hierarchy writable"
                .to_owned()
        } else {
            "start it with `systemd-run --user --scope -p Delegate=yes funcd …`, or as root".to_owned()
        }
    }
}

fn support(dirs: &Dirs, controller: Controller, name: &str, why: &Why) -> Support {
    if dirs.v2(controller).is_some() {
        Support::Yes(format!("cgroup v2 {name}"))
    } else if dirs.v1(controller).is_some() {
        Support::Yes(format!("cgroup v1 {name}"))
    } else {
        Support::No {
            cause: why.cause(name),
            fix: why.fix(),
        }
    }
}

/// Only `cgroup.kill` is taken for a total kill: the v1 freezer is used as well as can be, but a pid namespace is surer.
fn kill_support(dirs: &Dirs, why: &Why) -> Support {
    match &dirs.v2 {
        Some(v2) if v2.has_kill => Support::Yes("cgroup.kill".to_owned()),
        Some(_) => Support::No {
            cause: "this kernel has no cgroup.kill".to_owned(),
            fix: "use Linux 5.14 or newer".to_owned(),
        },
        None => Support::No {
            cause: why.cause("cgroup.kill"),
            fix: why.fix(),
        },
    }
}

/// Asks for a limit of each kind on a leaf that nothing runs in: what the kernel refuses there is not kept.
fn try_limits(dirs: &Rc<Dirs>, facts: &mut Facts) {
    const PROBE: Ceiling = Ceiling {
        memory_bytes: 64 << 20,
        cpu_millis: 1000,
        cpu_idle: false,
        pids: 64,
    };
    let no = |e: &io::Error| Support::No {
        cause: format!("a cgroup limit was refused: {e}"),
        fix: "run funcd as root or as a systemd service with `Delegate=yes`".to_owned(),
    };
    let mut leaf = match Leaf::create(Rc::clone(dirs), 0) {
        Ok(leaf) => leaf,
        Err(e) => {
            for fact in [
                &mut facts.memory,
                &mut facts.pids,
                &mut facts.cpu,
                &mut facts.kill,
            ] {
                *fact = no(&e);
            }
            return;
        }
    };
    let tried = leaf.try_each(PROBE);
    for (fact, result) in [
        (&mut facts.memory, tried.0),
        (&mut facts.pids, tried.1),
        (&mut facts.cpu, tried.2),
    ] {
        if let (Support::Yes(_), Err(e)) = (&*fact, &result) {
            *fact = no(e);
        }
    }
    // Nothing ever ran in it, so the directory can't be busy.
    let _ = leaf.remove();
}
