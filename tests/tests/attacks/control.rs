//! The same attempt where nothing stops it: so that what is asserted of the sandbox can fail. In a throw-away folder, at a
//! throw-away process, and in namespaces of its own where it would change the machine.

use std::process::{Child, Command, Stdio};

use funcd_tests::need::is_root;

use crate::context::context;

/// Where the control runs, and what must come there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Control {
    /// It works outside.
    Works,
    /// It works outside for root; others can't do it anywhere.
    Root,
    /// It works in new namespaces, as their root.
    Apart,
    /// It reaches this address where that is on the loopback interface of a network namespace of its own.
    Local(&'static str),
    /// Harmless arguments get past the check that stops it inside: it fails later, as one of these says (for root only: others
    /// are stopped by the kernel anyhow).
    PastTheCheck(&'static [&'static str]),
    /// It works outside where the kernel has it at all; else it ends as one of these says.
    IfThere(&'static [&'static str]),
    /// It is made by the row itself, and this is what it asserts.
    Aside(&'static str),
    /// There is none, and why.
    None(&'static str),
}

/// A process of no importance.
struct Victim(Child);

impl Victim {
    fn new() -> Victim {
        Victim(
            Command::new("sleep")
                .arg("600")
                .stdin(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program with arguments that ends, in a folder: what it says.
fn output(command: &mut Command, folder: &std::path::Path) -> String {
    let output = command.current_dir(folder).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if said.is_empty() {
        format!(
            "{} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        )
    } else {
        said
    }
}

/// The user that root's tests become where root proves nothing.
pub(crate) const SOMEBODY: u32 = 54_321;

impl Control {
    /// Runs it; what came, or that there is none. The arguments may differ from the attacker's.
    ///
    /// # Panics
    /// When something else came.
    #[track_caller]
    pub(crate) fn run(self, line: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let victim = Victim::new();
        let tmp = folder.path().to_string_lossy().into_owned();
        std::fs::write(folder.path().join("own"), "").unwrap();
        let words = context().words(line, Some(victim.0.id() as i32), &tmp);
        let attack = context().tools.join("attack");
        let mut unshare = Command::new("unshare");
        if !is_root() {
            unshare.args(["--user", "--map-root-user"]);
        }
        let works = |came: String, also: &[&str]| {
            let fits = came.starts_with("ok") || fits(&came, also);
            assert!(
                fits,
                "the control of {line:?}: {came:?} outside, so that nothing is proved inside"
            );
            came
        };
        let plain = || output(Command::new(&attack).arg("try").args(&words), folder.path());
        match self {
            Control::Works => works(plain(), &[]),
            Control::IfThere(otherwise) => works(plain(), otherwise),
            Control::Root if is_root() => works(plain(), &[]),
            Control::Root => "for root only".to_owned(),
            Control::PastTheCheck(later) if is_root() => works(plain(), later),
            Control::PastTheCheck(_) => "for root only".to_owned(),
            Control::Apart => {
                unshare.args(["--mount", "--net", "--ipc", "--uts", "--pid", "--fork"]);
                works(
                    output(unshare.arg(&attack).arg("try").args(&words), folder.path()),
                    &[],
                )
            }
            Control::Local(address) => {
                unshare.args(["--net"]).arg(&attack);
                works(
                    output(unshare.args(["local", address]).args(&words), folder.path()),
                    &[],
                )
            }
            Control::Aside(what) => what.to_owned(),
            Control::None(why) => format!("not possible: {why}"),
        }
    }
}

/// Whether an outcome is one of these, whatever it says after the first word.
pub(crate) fn fits(came: &str, expected: &[&str]) -> bool {
    expected
        .iter()
        .any(|one| came == *one || came.strip_prefix(one).is_some_and(|rest| rest.starts_with(' ')))
}
