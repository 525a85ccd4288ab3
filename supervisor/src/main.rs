//! Picks the role before any thread exists, runs it, exits.

use std::process::ExitCode;

use funcd::cli::exit::{Code, Failure};
use funcd::cli::{self, Hooks};

fn main() -> ExitCode {
    cli::main(&Hooks {
        serve: |_, _| Err(Failure::new(Code::Failure, "serve is not part of this build")),
        supervise: || Err(Failure::new(Code::Failure, "supervise is not part of this build")),
        probe: || (Vec::new(), None),
    })
}
