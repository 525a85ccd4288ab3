//! Not written yet on this branch.

use std::process::ExitCode;

/// Options.
#[derive(Debug, clap::Args)]
pub(crate) struct Vm {}

impl Vm {
    /// Does it.
    ///
    /// # Errors
    /// What, where, why and what to do.
    pub(crate) fn run(self) -> Result<ExitCode, String> {
        Err("not written yet".to_owned())
    }
}
