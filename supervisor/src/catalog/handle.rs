//! What the daemon holds of a running catalog: how it is kept, and answers to what it said.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;

use super::manifest::Defaults;
use super::refusal::Refusal;
use super::settle::Rules;
use crate::name::FunctionName;

/// How the catalog is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// The functions folder as people call it; opened again by this name if it was deleted.
    pub path: PathBuf,
    /// Looks at everything this often, whatever the kernel tells.
    pub rescan: Duration,
    /// The host's `[defaults]`.
    pub defaults: Defaults,
    /// How long files must be quiet.
    pub rules: Rules,
    /// Entries that are looked at, at most.
    pub max_entries: usize,
    /// The largest executable, in bytes.
    pub max_executable: u64,
    /// Who reads the files, for reasons that say so.
    pub user: String,
    /// The first entries are told when nothing is settling that was there: somebody else serves it meanwhile.
    pub is_patient: bool,
}

impl Options {
    /// The usual ones: 20,000 entries, executables of up to 2 GiB.
    pub fn new(path: impl Into<PathBuf>, rescan: Duration, defaults: Defaults) -> Options {
        let uid = nix::unistd::geteuid();
        let user = nix::unistd::User::from_uid(uid).ok().flatten();
        Options {
            path: path.into(),
            rescan,
            defaults,
            rules: Rules::default(),
            max_entries: 20_000,
            max_executable: 2 << 30,
            user: user.map_or_else(|| uid.to_string(), |user| user.name),
            is_patient: false,
        }
    }
}

/// What the daemon tells the catalog.
#[derive(Debug)]
pub(super) enum Answer {
    Retry(FunctionName, u64, String),
    Refuse(FunctionName, u64, Refusal),
    Accept(FunctionName, u64),
    Rescan,
}

/// Answers to the catalog; cheap to clone, usable from any thread. Nothing happens once the catalog has ended.
#[derive(Debug, Clone)]
pub struct Handle(pub(super) mpsc::UnboundedSender<Answer>);

impl Handle {
    /// The candidate with this serial could not be stored now (still being written, changed while copied): it comes again as
    /// a new [`Change::Deploy`](super::Change::Deploy), a little later each time. `why` is shown by `funcd ls` until then.
    pub fn retry(&self, name: &FunctionName, serial: u64, why: impl Into<String>) {
        let _ = self.0.send(Answer::Retry(name.clone(), serial, why.into()));
    }

    /// The candidate with this serial is no good (refused by the store, never ready): shown by `funcd ls` until its files
    /// change. `kind` is from a closed list, since it is a metric's label.
    pub fn refuse(&self, name: &FunctionName, serial: u64, kind: &'static str, reason: impl Into<String>) {
        let refusal = Refusal::new(kind, reason);
        let _ = self.0.send(Answer::Refuse(name.clone(), serial, refusal));
    }

    /// Takes back a [`Handle::refuse`].
    pub fn accept(&self, name: &FunctionName, serial: u64) {
        let _ = self.0.send(Answer::Accept(name.clone(), serial));
    }

    /// Looks at everything now.
    pub fn rescan(&self) {
        let _ = self.0.send(Answer::Rescan);
    }
}
