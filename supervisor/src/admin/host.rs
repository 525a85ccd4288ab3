//! What `doctor` says of a machine beside its grades, and what `host` says of it while it runs. Reads; tries nothing.

use std::path::Path;

use funcd_sandbox::probe::Grade;
use funcd_sandbox::property::Property;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::sys::utsname::uname;

use super::view::{BrownoutView, Doctor, HostView, PropertyView};
use crate::admission::brownout::Cause;
use crate::host::State;
use crate::telemetry::rfc3339;

/// How this machine keeps the promises of the sandbox, given what was probed. `landlock_abi` is `None` without
/// Landlock; `degraded` is what the operator accepts for every function; `root` is whether the launcher is root.
pub fn doctor(grades: &[Grade], landlock_abi: Option<u32>, degraded: &[Property], root: bool) -> Doctor {
    let release = uname().map(|name| name.release().to_string_lossy().into_owned());
    Doctor {
        kernel: release.unwrap_or_else(|_| "unknown".to_owned()),
        landlock_abi,
        cgroup: cgroup_layout().to_owned(),
        root,
        // As sd_booted(3) finds out.
        systemd: Path::new("/run/systemd/system").is_dir(),
        properties: grades
            .iter()
            .map(|grade| PropertyView::new(grade, degraded))
            .collect(),
    }
}

/// What the host is like now. `acts` is `brownout` of the configuration.
pub fn now(state: &State, acts: bool) -> HostView {
    let readings = &state.readings;
    HostView {
        brownout: brownout(state, acts),
        cpu_delay_ms: readings.measures.cpu_delay * 1e3,
        memory_pressure: readings.measures.memory_pressure,
        cpu_pressure: readings.cpu_pressure,
        io_pressure: readings.io_pressure,
        cpu_busy: readings.cpu_busy,
        memory_available: readings.memory_available,
        memory_total: readings.memory_total,
        descriptors_open: readings.descriptors_open,
        descriptors_limit: readings.descriptors_limit,
    }
}

/// What it holds back.
pub fn brownout(state: &State, acts: bool) -> BrownoutView {
    let stage = state.brownout.stage();
    BrownoutView {
        stage: stage.as_str().to_owned(),
        message: stage.describe().to_owned(),
        since: rfc3339(state.since),
        cause: state.brownout.cause.map(Cause::as_str).map(str::to_owned),
        overload: state.brownout.overload,
        threshold: state.brownout.threshold,
        acts,
    }
}

/// How control groups are mounted, told by the file systems where they are mounted by convention (cgroups(7)).
fn cgroup_layout() -> &'static str {
    let is_v2 = |path| statfs(path).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
    let exists = |path| statfs(path).is_ok();
    if is_v2("/sys/fs/cgroup") {
        "v2"
    } else if is_v2("/sys/fs/cgroup/unified") {
        "hybrid"
    } else if exists("/sys/fs/cgroup/memory") || exists("/sys/fs/cgroup/pids") {
        "v1"
    } else {
        "none"
    }
}
