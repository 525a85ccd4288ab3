//! What there is to test, in the order in which it is done: each step is a script of tests/vm/suites, or `@reboot` or
//! `@powercut`, which end the machine between two of them.

/// A suite: its name, its steps, what it shows.
type Suite = (&'static str, &'static [&'static str], &'static str);

const SUITES: [Suite; 13] = [
    (
        "machine",
        &["machine"],
        "the machine is what users have: systemd, cgroup v2 alone, Landlock",
    ),
    ("quickstart", &["quickstart"], "docs/quickstart.md to the letter"),
    (
        "install",
        &["install"],
        "from the package to the first answer; every other suite begins with this",
    ),
    ("limits", &["limits"], "limits are enforced by cgroup v2"),
    ("oom", &["oom"], "who runs out of memory ends alone, and whole"),
    (
        "systemctl",
        &["systemctl"],
        "restart, reload, kill, stop: what each leaves",
    ),
    (
        "journald",
        &["journald"],
        "the journal has functions' lines by name",
    ),
    ("upgrade", &["upgrade"], "a newer package under load"),
    ("doctor", &["doctor"], "what `funcd doctor` says is so"),
    (
        "rootless",
        &["rootless"],
        "an ordinary user with a delegated session",
    ),
    (
        "reboot",
        &["before-reboot", "@reboot", "after-reboot"],
        "functions are back after a reboot",
    ),
    (
        "powercut",
        &["before-powercut", "@powercut", "after-powercut"],
        "state survives a power cut",
    ),
    ("attacks", &["attacks"], "the table of attacks"),
];

/// Prints them.
pub(super) fn list() {
    for (name, _, what) in SUITES {
        println!("{name:12} {what}");
    }
}

/// The steps of the suites asked for (all of them, if none is), in their order.
///
/// # Errors
/// When one has no such name.
pub(super) fn steps(asked: &[String]) -> Result<Vec<&'static str>, String> {
    if let Some(unknown) = asked
        .iter()
        .find(|name| !SUITES.iter().any(|suite| suite.0 == *name))
    {
        return Err(format!(
            "no suite is called {unknown}: `xtask vm --list` names them"
        ));
    }
    let chosen = |suite: &&Suite| {
        asked.is_empty()
            || suite.0 == "install" && asked.iter().any(|name| name != "machine" && name != "quickstart")
            || asked.iter().any(|name| suite.0 == name)
    };
    Ok(SUITES
        .iter()
        .filter(chosen)
        .flat_map(|suite| suite.1)
        .copied()
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_comes_after_the_installation() {
        assert_eq!(steps(&["powercut".to_owned()]).unwrap()[0], "install");
        assert_eq!(steps(&["machine".to_owned()]), Ok(vec!["machine"]));
        assert!(steps(&["poweruct".to_owned()]).is_err());
        assert!(steps(&[]).unwrap().contains(&"@reboot"));
    }

    #[test]
    fn every_step_has_its_script() {
        let folder = crate::run::root().join("tests/vm/suites");
        for step in steps(&[]).unwrap() {
            let script = folder.join(format!("{step}.sh"));
            assert!(step.starts_with('@') || script.exists(), "{}", script.display());
        }
    }
}
