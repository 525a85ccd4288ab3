//! The attack that funcd runs on its own sandbox before it serves: a process of its own, started as functions are, tries what a
//! function must not reach and tells what it reached. [`attack`] is that process, [`judge`] the launcher's view of what it said.
//!
//! The list is short, as it costs time at each start of the host: what each mechanism alone refuses, so that one that is
//! not applied, whatever the reason, shows. Nothing in it does harm where it succeeds.

mod attempts;

use std::io::Write;

use crate::property::Property;
use crate::sys::attempts as calls;

/// The word on the command line that picks this role.
pub const ROLE: &str = "self-check";
/// The last line of a process that has tried everything.
const DONE: &str = "done";
/// Begins the line of an attempt that succeeded.
const REACHED: &str = "reached ";
/// Processes that it may have: more than it needs, fewer than the attempt to have too many makes.
pub(crate) const PIDS: u32 = 16;

/// What is attacked, beside the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The pid of the launcher.
    pub launcher: i32,
    /// Whether the attacker has a pid namespace of its own, in which that number means another process.
    pub own_pids: bool,
    /// Something listens on this TCP port of the host's 127.0.0.1; 0: nothing.
    pub tcp: u16,
    /// Something is bound to this UDP port there; 0: nothing.
    pub udp: u16,
    /// Something listens on this abstract Unix socket of the host. It is also what is sent by UDP, so nobody can guess it.
    pub abstract_name: String,
}

impl Target {
    /// As arguments of the program, [`ROLE`] first.
    pub fn arguments(&self) -> Vec<String> {
        let Target {
            launcher,
            own_pids,
            tcp,
            udp,
            abstract_name,
        } = self;
        let numbers = [*launcher, i32::from(*own_pids), i32::from(*tcp), i32::from(*udp)];
        let mut arguments = vec![ROLE.to_owned()];
        arguments.extend(numbers.map(|number| number.to_string()));
        arguments.push(abstract_name.clone());
        arguments
    }

    /// Reads the arguments of a program, its name left out; `None` when they are no such role.
    pub fn parse(arguments: &[String]) -> Option<Target> {
        let [role, launcher, own_pids, tcp, udp, abstract_name] = arguments else {
            return None;
        };
        (role == ROLE).then_some(())?;
        Some(Target {
            launcher: launcher.parse().ok()?,
            own_pids: own_pids == "1",
            tcp: tcp.parse().ok()?,
            udp: udp.parse().ok()?,
            abstract_name: abstract_name.clone(),
        })
    }
}

/// Tries everything, tells it on standard output, and waits to be killed.
pub fn attack(target: &Target) -> ! {
    let mut said = String::new();
    for attempt in attempts::ALL {
        if (attempt.act)(target).is_ok() {
            said += &format!("{REACHED}{}\n", attempt.name);
        }
    }
    // Somebody who stays behind: the end of standard output tells whether all were killed.
    if let Ok(0) = calls::clone(0) {
        let _ = crate::sys::calls::setsid();
        calls::wait_for_the_end();
    }
    said += &format!("pid {}\n{DONE}\n", crate::sys::calls::getpid());
    // Whoever does not hear it finds that out.
    let _ = std::io::stdout().write_all(said.as_bytes());
    let _ = std::io::stdout().flush();
    calls::wait_for_the_end();
}

/// Whether a process has said all that it has to say.
pub fn is_done(said: &str) -> bool {
    said.lines().next_back() == Some(DONE) && said.ends_with('\n')
}

/// What was reached although it should not have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unexpected {
    /// An attempt succeeded.
    #[error("{} `{property}` is not kept, although this host was graded to keep it: a function could {attempt}", property.code())]
    Reached {
        /// A property that promises otherwise.
        property: Property,
        /// What was tried.
        attempt: String,
    },
    /// It did not come to the end.
    #[error("it did not finish; it said {0:?}")]
    Unfinished(String),
}

/// Judges what an attacker said, on a host that keeps these properties. With `own_pids`, `pid` (what the host knows it by) must
/// not be what it knows itself by.
///
/// # Errors
/// The first attempt that succeeded, or that it did not finish.
pub fn judge(said: &str, kept: impl Fn(Property) -> bool, own_pids: Option<i32>) -> Result<(), Unexpected> {
    if !is_done(said) {
        return Err(Unexpected::Unfinished(said.to_owned()));
    }
    for name in said.lines().filter_map(|line| line.strip_prefix(REACHED)) {
        let attempt = attempts::ALL.iter().find(|attempt| attempt.name == name);
        let promised = attempt
            .ok_or_else(|| Unexpected::Unfinished(said.to_owned()))?
            .promised;
        if let Some(property) = promised.iter().find(|property| kept(**property)) {
            return Err(reached(*property, name));
        }
    }
    let pid = said
        .lines()
        .find_map(|line| line.strip_prefix("pid ")?.parse().ok());
    if own_pids.is_some() && pid == own_pids && kept(Property::Processes) {
        return Err(reached(Property::Processes, "see the host's pids"));
    }
    Ok(())
}

/// An attempt that the launcher saw succeed.
pub(crate) fn reached(property: Property, attempt: &str) -> Unexpected {
    Unexpected::Reached {
        property,
        attempt: attempt.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_comes_out_as_it_went_in() {
        let target = Target {
            launcher: 4711,
            own_pids: true,
            tcp: 80,
            udp: 0,
            abstract_name: "name with spaces".to_owned(),
        };
        assert_eq!(Target::parse(&target.arguments()), Some(target.clone()));
        let mut other = target.arguments();
        other[0] = "serve".to_owned();
        assert_eq!(Target::parse(&other), None);
        assert_eq!(Target::parse(&target.arguments()[1..]), None);
    }

    #[test]
    fn what_was_reached_is_judged_by_what_is_promised() {
        let said = "reached connect to the host by TCP\npid 7\ndone\n";
        assert_eq!(judge("pid 7\ndone\n", |_| true, None), Ok(()));
        let unexpected = judge(said, |_| true, None).unwrap_err();
        assert_eq!(
            unexpected,
            reached(Property::Network, "connect to the host by TCP")
        );
        assert!(
            unexpected.to_string().starts_with("P2 `network` is not kept"),
            "{unexpected}"
        );
        assert_eq!(
            judge(said, |property| property != Property::Network, None),
            Ok(())
        );
        assert!(judge("pid 7\ndone\n", |_| true, Some(7)).is_err());
        assert_eq!(judge("pid 2\ndone\n", |_| true, Some(7)), Ok(()));
        for unfinished in ["", "pid 7\n", "done", "reached the moon\npid 7\ndone\n"] {
            let unexpected = judge(unfinished, |_| true, None).unwrap_err();
            assert_eq!(unexpected, Unexpected::Unfinished(unfinished.to_owned()));
        }
    }

    #[test]
    fn names_are_told_apart_and_each_is_promised_by_something() {
        for (index, attempt) in attempts::ALL.iter().enumerate() {
            assert!(!attempt.promised.is_empty(), "{}", attempt.name);
            assert!(!attempt.name.contains('\n'));
            assert!(
                attempts::ALL[..index]
                    .iter()
                    .all(|other| other.name != attempt.name)
            );
        }
    }
}
