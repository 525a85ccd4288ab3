//! What tasks share: where things are, and how programs are run. Decides nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The target folder.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The time that everything built is from, in seconds since 1970: `SOURCE_DATE_EPOCH`, else that of the last commit, else
/// a fixed one (a source archive has no commit).
pub(crate) fn epoch() -> u64 {
    const FIXED: u64 = 1_767_225_600;
    let given = std::env::var("SOURCE_DATE_EPOCH").ok();
    let commit = || {
        let mut git = Command::new("git");
        git.args(["log", "-1", "--format=%ct"])
            .current_dir(root())
            .stderr(Stdio::null());
        succeed(&mut git).ok()
    };
    given
        .or_else(commit)
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(FIXED)
}

/// Runs a program to its end; what it printed.
///
/// # Errors
/// That it failed, with what it said where that was not shown already.
pub(crate) fn succeed(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("{name}: {e}; is it installed?"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{name} failed, {}: {command:?}", output.status)),
    }
}

/// Errors of the system with what was tried, and where.
pub(crate) trait Failed<T> {
    /// What was tried, and with which path.
    ///
    /// # Errors
    /// The same, as a sentence.
    fn failed(self, what: &str, path: &Path) -> Result<T, String>;
}

impl<T> Failed<T> for io::Result<T> {
    fn failed(self, what: &str, path: &Path) -> Result<T, String> {
        self.map_err(|e| format!("can't {what} {}: {e}", path.display()))
    }
}
