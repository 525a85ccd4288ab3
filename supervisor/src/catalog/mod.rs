//! What should exist: reads the functions folder and tells the daemon what changed. Never starts anything.
//!
//! `watch` hears what changed → `task` → `scan` looks at it → `settle` (pure) decides when it is complete → [`Change`].

pub mod binding;
pub mod elf;
pub mod folder;
pub mod guess;
mod handle;
pub mod image;
pub mod manifest;
pub(crate) mod manifest_check;
pub mod manifest_file;
pub mod policy;
pub mod refusal;
pub mod scan;
pub mod settle;
mod task;
pub mod view;
pub mod watch;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use funcd_sandbox::spec::Image;
use serde::Serialize;

use crate::name::FunctionName;
pub use handle::{Handle, Options};
use manifest::Manifest;
pub use task::Catalog;
use view::Wanted;

/// A difference between the folder and what the daemon was told before.
#[derive(Debug)]
pub enum Change {
    /// A new or changed function whose files are complete.
    Deploy(Candidate),
    /// Its files are gone: drain and stop it.
    Remove(FunctionName),
    /// The entries of the folder as they are now, for `funcd ls`: sent after every scan that differs from the last.
    /// The first one follows the first look at everything.
    Entries(BTreeMap<String, Entry>),
}

/// What would become a revision once its executable is stored.
#[derive(Debug)]
pub struct Candidate {
    /// Whose.
    pub name: FunctionName,
    /// Tells this candidate from the ones before it, in answers to [`Handle`].
    pub serial: u64,
    /// Its manifest, checked.
    pub manifest: Arc<Manifest>,
    /// The manifest's text, empty for a plain executable.
    pub manifest_text: String,
    /// The executable, open for reading.
    pub executable: OwnedFd,
    /// How the kernel runs it.
    pub image: Image,
    /// What of the system it needs, worked out already.
    pub wanted: Wanted,
    /// One of the few places for open candidates: drop it with the executable.
    pub slot: Slot,
}

/// One of the few places for candidates whose executables are open: while all are held, no further candidate is sent.
#[derive(Debug, Default)]
pub struct Slot {
    _permit: Option<tokio::sync::OwnedSemaphorePermit>,
}

/// One entry of the folder, by its file name, as `funcd ls` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "status")]
pub enum Entry {
    /// It is, or is about to be, a function.
    Accepted,
    /// Somebody is still writing it.
    Settling {
        /// What is awaited.
        reason: String,
    },
    /// It is not a function: what is wrong and what to do.
    Refused {
        /// A word for the metric, from a closed list, for example `not-executable`.
        kind: &'static str,
        /// The reason for people.
        reason: String,
    },
}
