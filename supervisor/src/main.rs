//! Picks the role before any thread exists, runs it, exits.

use std::path::Path;
use std::process::ExitCode;

use funcd::cli::args::{Global, HostFlags, Serve};
use funcd::cli::exit::{Code, Failure};
use funcd::cli::{self, Hooks, Setting, Settings};
use funcd::config::{self, ConfigError, Environment, Flags, Loaded};
use funcd::daemon::{self, DaemonError};
use funcd_sandbox::launcher;
use funcd_sandbox::probe::{self, Grade};

fn main() -> ExitCode {
    cli::main(&Hooks {
        serve,
        supervise,
        probe,
        config: settings,
    })
}

fn serve(global: &Global, serve: &Serve) -> Result<(), Failure> {
    let loaded = load(global, &serve.flags)?;
    daemon::serve(&loaded.config, serve.log_format.unwrap_or_default()).map_err(failure)
}

fn supervise() -> Result<(), Failure> {
    daemon::supervise().map_err(failure)
}

fn probe() -> (Vec<Grade>, Option<u32>) {
    let state = load(&Global::default(), &HostFlags::default())
        .map(|loaded| loaded.config.state)
        .ok();
    (
        launcher::grades(state.as_deref().filter(|path: &&Path| path.exists())),
        probe::landlock_abi(),
    )
}

fn settings(global: &Global, flags: &HostFlags) -> Result<Settings, Failure> {
    let loaded = load(global, flags)?;
    let setting = |row: config::Row| Setting {
        key: row.key,
        value: row.value,
        origin: row.origin.to_string(),
    };
    Ok(Settings {
        settings: loaded.rows.into_iter().map(setting).collect(),
        files: loaded
            .files
            .iter()
            .map(|path| path.display().to_string())
            .collect(),
        warnings: loaded.warnings,
    })
}

fn load(global: &Global, flags: &HostFlags) -> Result<Loaded, Failure> {
    let flags = Flags {
        config: flags.config.clone(),
        functions: flags.functions.clone(),
        state: flags.state.clone(),
        run: flags.run.clone(),
        listen: flags.listen.iter().map(ToString::to_string).collect(),
        admin: global.admin.clone(),
        admin_listen: flags.admin_listen.map(|address| address.to_string()),
        workers: flags.workers.map(usize::from),
        degraded: flags.degraded.iter().map(ToString::to_string).collect(),
        trusted: flags.trusted.clone(),
        user: flags.user.clone(),
        max_instances: flags.max_instances,
    };
    let environment = Environment::current().map_err(bad_config)?;
    config::load(&flags, &environment).map_err(bad_config)
}

fn bad_config(error: ConfigError) -> Failure {
    Failure::new(Code::Config, error.to_string())
}

fn failure(error: DaemonError) -> Failure {
    let code = match &error {
        DaemonError::NoUser { .. } => Code::Config,
        DaemonError::Launcher(_) | DaemonError::Supervisor { .. } => Code::Failure,
    };
    Failure::new(code, error.to_string())
}
