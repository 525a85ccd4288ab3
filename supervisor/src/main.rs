//! Picks the role before any thread exists, runs it, exits.

use std::io::ErrorKind;
use std::process::ExitCode;

use funcd::cli::args::{Global, HostFlags, Serve};
use funcd::cli::exit::{Code, Failure};
use funcd::cli::{self, Hooks};
use funcd::daemon::{self, DaemonError};
use funcd_sandbox::launcher::{self, Carried};
use funcd_sandbox::probe::{self, Grade};
use funcd_sandbox::self_check::{self, Target};
use funcd_sandbox::sys::ballast::Allocator;

/// A launcher that can't allocate would end, and all functions with it.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .filter_map(|word| word.into_string().ok())
        .collect();
    if let Some(target) = Target::parse(&arguments) {
        self_check::attack(&target);
    }
    cli::main(&Hooks {
        serve,
        check,
        supervise,
        probe,
    })
}

fn serve(global: &Global, serve: &Serve) -> Result<(), Failure> {
    let before = Carried::of_environment().map_err(|e| failure(e.into()))?;
    let again = before.as_ref().and_then(Carried::host);
    let host = || {
        if let Some(host) = again {
            return Ok(host);
        }
        let loaded = cli::config::load(global, &serve.flags)?;
        daemon::prepare(&loaded.config, serve.log_format).map_err(failure)
    };
    match (host(), before) {
        (Ok(host), None) => launcher::run(host).map_err(|e| failure(e.into())),
        (Ok(host), Some(before)) => launcher::resume(before, host).map_err(|e| failure(e.into())),
        (Err(e), None) => Err(e),
        // The program before is still the better one.
        (Err(e), Some(before)) => Err(failure(before.go_back(&e.message).into())),
    }
}

fn check(global: &Global, serve: &Serve) -> Result<String, String> {
    let loaded = cli::config::load(global, &serve.flags).map_err(|e| e.message)?;
    let host = daemon::host(&loaded.config, serve.log_format).map_err(|e| e.to_string())?;
    let checked = launcher::check(&host)?;
    serde_json::to_string(&checked).map_err(|e| e.to_string())
}

fn supervise() -> Result<(), Failure> {
    daemon::supervise().map_err(failure)
}

fn probe() -> (Vec<Grade>, Option<u32>) {
    // A configuration that can't be read is no reason not to look at the kernel.
    let loaded = cli::config::load(&Global::default(), &HostFlags::default());
    let state = loaded.ok().map(|loaded| loaded.config.state);
    let grades = launcher::grades(state.as_deref().filter(|path| path.exists()));
    (grades, probe::landlock_abi())
}

fn failure(error: DaemonError) -> Failure {
    let code = match &error {
        DaemonError::NoUser { .. } => Code::Config,
        DaemonError::Folder { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            Code::Permission
        }
        DaemonError::Launcher(_) | DaemonError::Supervisor { .. } | DaemonError::Folder { .. } => {
            Code::Failure
        }
    };
    Failure::new(code, error.to_string())
}
