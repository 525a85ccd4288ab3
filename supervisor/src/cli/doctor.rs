//! `funcd doctor`: how this machine keeps the promises of the sandbox, and what to do about those that it can't.

use funcd_sandbox::probe::Grade;

use super::args::Global;
use super::exit::{Code, Failure};
use super::output::{BAD, GOOD, STRONG, WARN, print, print_json, safe, styled, table};
use crate::admin::client::ClientError;
use crate::admin::host;
use crate::admin::view::{Doctor, PropertyView};

pub(super) fn run(global: &Global, probe: fn() -> (Vec<Grade>, Option<u32>)) -> Result<(), Failure> {
    let doctor = match super::client(global)?.get("/v1/doctor") {
        Ok(doctor) => doctor,
        Err(error @ (ClientError::Unreachable { .. } | ClientError::Denied { .. })) => {
            let label = styled(WARN, "note:");
            anstream::eprintln!("{label} {error}. This is what a host started by you would get.");
            let (grades, landlock_abi) = probe();
            host::doctor(&grades, landlock_abi, &[], nix::unistd::geteuid().is_root())
        }
        Err(error) => return Err(error.into()),
    };
    match global.json {
        true => print_json(&doctor)?,
        false => print(&render(&doctor))?,
    }
    let missing: Vec<String> = missing(&doctor).map(|p| p.name.to_string()).collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(
            Code::Failure,
            format!(
                "missing on this machine: {}; to run functions without: funcd serve --degraded {}",
                missing.join(", "),
                missing.join(",")
            ),
        )),
    }
}

fn missing(doctor: &Doctor) -> impl Iterator<Item = &PropertyView> {
    doctor.properties.iter().filter(|property| !property.kept)
}

/// What nobody does for a host that systemd does not start.
const WITHOUT_SYSTEMD: &str = "
no systemd: whatever starts funcd has to start it again when it ends, keep what it writes to standard error (there is no
  journal), and set what the unit would: OOMScoreAdjust, LimitNOFILE, ProtectSystem (docs/operations.md, \"Without systemd\")
";

/// The confinement table, and what to do about what is missing.
pub(super) fn render(doctor: &Doctor) -> String {
    let landlock = doctor
        .landlock_abi
        .map_or("none".to_owned(), |abi| format!("ABI {abi}"));
    let by = if doctor.root { "root" } else { "an ordinary user" };
    let mut text = format!(
        "kernel {}, Landlock {landlock}, cgroups {}, started by {by}\n\n",
        safe(&doctor.kernel),
        safe(&doctor.cgroup)
    );
    text += &table(
        &["", "PROPERTY", "STATE", "BY", "NEEDS"],
        doctor.properties.iter().map(row),
    );
    for property in missing(doctor) {
        let name = styled(STRONG, format_args!("{} {}", property.code, property.name));
        text += &format!("\n{name} is missing: {}\n", safe(&property.cause));
        if !property.fix.is_empty() {
            text += &format!("  to fix it: {}\n", safe(&property.fix));
        }
    }
    if !doctor.systemd {
        text += WITHOUT_SYSTEMD;
    }
    text
}

fn row(property: &PropertyView) -> Vec<String> {
    let state = match (property.kept, property.accepted) {
        (true, _) => styled(GOOD, "kept"),
        (false, true) => styled(WARN, "missing, accepted"),
        (false, false) => styled(BAD, "missing"),
    };
    let by = property.mechanism.as_deref().unwrap_or("-");
    vec![
        property.code.clone(),
        property.name.to_string(),
        state,
        safe(by),
        safe(&property.needs),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use funcd_sandbox::property::Property;

    #[test]
    fn golden() {
        let kept = Grade {
            property: Property::Files,
            mechanism: Some("mount namespace + own uid + Landlock 7".to_owned()),
            cause: String::new(),
            fix: String::new(),
            needs: "mount namespace (Linux 5.12) + own uid (root) + Landlock ABI 1 (Linux 5.13)".to_owned(),
        };
        let missing = |property| Grade {
            property,
            mechanism: None,
            cause: "no such controller".to_owned(),
            fix: "mount it".to_owned(),
            needs: "a controller".to_owned(),
        };
        let grades = [kept, missing(Property::MemoryLimit), missing(Property::CpuLimit)];
        let doctor = Doctor {
            kernel: "6.18.0".to_owned(),
            cgroup: "hybrid".to_owned(),
            systemd: true,
            ..host::doctor(&grades, Some(7), &[Property::CpuLimit], true)
        };
        let expected = "\
kernel 6.18.0, Landlock ABI 7, cgroups hybrid, started by root

    PROPERTY      STATE              BY                                      NEEDS
P1  files         kept               mount namespace + own uid + Landlock 7  mount namespace (Linux 5.12) + own uid (root) + Landlock ABI 1 (Linux 5.13)
P5  memory-limit  missing            -                                       a controller
P7  cpu-limit     missing, accepted  -                                       a controller

P5 memory-limit is missing: no such controller
  to fix it: mount it

P7 cpu-limit is missing: no such controller
  to fix it: mount it
";
        assert_eq!(
            anstream::adapter::strip_str(&render(&doctor)).to_string(),
            expected
        );
    }
}
