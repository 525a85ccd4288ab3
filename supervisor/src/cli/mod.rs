//! The command line: reads it, runs one command, turns what happened into an exit code. Commands look at the host
//! through the admin API only.

pub mod args;
pub mod exit;
pub mod output;

pub mod config;
mod demo;
mod deploy;
mod docs;
pub mod doctor;
mod explain;
mod host;
mod install;
mod logs;
mod ls;
mod ps;
mod requests;
mod upgrade;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use funcd_sandbox::probe::Grade;

use crate::admin::client::Client;
use crate::admin::view::Version;
use crate::telemetry::diary::{self, Format};
use args::{Cli, Command, Global, Serve};
use exit::{Code, Failure};

/// What commands need that this module does not have: the roles of the daemon, and what only the sandbox knows.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// The launcher: runs until told to stop.
    pub serve: fn(&Global, &Serve) -> Result<(), Failure>,
    /// Whether the host that runs could go on with this program: what it says of itself, as JSON.
    pub check: fn(&Global, &Serve) -> Result<String, String>,
    /// The supervisor: runs until told to stop.
    pub supervise: fn() -> Result<(), Failure>,
    /// What this machine can enforce, for `doctor` without a host: the grades and the Landlock ABI.
    pub probe: fn() -> (Vec<Grade>, Option<u32>),
}

/// Reads the command line, runs the command, says what went wrong.
pub fn main(hooks: &Hooks) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output, errors to standard error; who does not read either has seen enough.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Code::Usage as u8 } else { 0 });
        }
    };
    match run(&cli, hooks) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                let label = output::styled(output::BAD, "funcd:");
                anstream::eprintln!("{label} {}", failure.message.trim_end());
            }
            ExitCode::from(failure.code as u8)
        }
    }
}

fn run(cli: &Cli, hooks: &Hooks) -> Result<(), Failure> {
    let global = &cli.global;
    match &cli.command {
        Command::Serve(serve) => {
            if let Some(parent) = serve.with_parent {
                demo::end_with(parent)?;
            }
            start_diary(serve.log_format)?;
            (hooks.serve)(global, serve)
        }
        Command::Supervisor { log_format } => {
            start_diary(*log_format)?;
            (hooks.supervise)()
        }
        Command::Demo(demo) => demo::run(demo),
        Command::Ls => ls::run(global),
        Command::Ps(ps) => ps::run(global, ps),
        Command::Logs(logs) => logs::run(global, logs),
        Command::Explain(command) => requests::explain(global, command),
        Command::Requests(command) => requests::list(global, command),
        Command::ExplainSandbox(command) => explain::run(global, command, hooks.probe),
        Command::Doctor => doctor::run(global, hooks.probe),
        Command::Host => host::run(global),
        Command::Config(command) => config::run(global, command),
        Command::Run(run) => deploy::run(global, run),
        Command::Rm(rm) => deploy::rm(global, rm),
        Command::Upgrade => upgrade::run(global),
        Command::UpgradeCheck { folder, arguments } => upgrade::check(folder, arguments, hooks),
        Command::Install(command) => install::install(global, command),
        Command::Uninstall(command) => install::uninstall(global, command),
        Command::Completions { shell } => docs::completions(*shell),
        Command::Man { dir } => docs::man(dir.as_deref()),
        Command::Version if global.json => output::print_json(&Version::of_this_program()),
        Command::Version => output::print(concat!("funcd ", env!("CARGO_PKG_VERSION"), "\n")),
    }
}

/// Starts funcd's own log, for the roles that run on.
fn start_diary(flag: Option<Format>) -> Result<(), Failure> {
    let variable = std::env::var("FUNCD_LOG_FORMAT").ok();
    let format = Format::choose(flag, variable.as_deref());
    diary::start(format.map_err(|message| Failure::new(Code::Config, message))?);
    Ok(())
}

/// A client of the host that the flags and the environment name.
fn client(global: &Global) -> Result<Client, Failure> {
    let path = admin_path(
        global,
        |key| std::env::var_os(key).map(PathBuf::from),
        Path::exists,
    );
    Client::new(&path).map_err(|e| Failure::io("can't start the client of the admin API", &e))
}

/// `--admin`, else `FUNCD_ADMIN`, else the socket of the user's own host if there is one, else that of the machine's.
fn admin_path(
    global: &Global,
    env: impl Fn(&str) -> Option<PathBuf>,
    exists: impl Fn(&Path) -> bool,
) -> PathBuf {
    let set = |key| env(key).filter(|value| !value.as_os_str().is_empty());
    // Where `config` puts the run folder of an ordinary user: the last two are its place without XDG_RUNTIME_DIR.
    let own = [
        ("XDG_RUNTIME_DIR", "funcd/admin.sock"),
        ("XDG_STATE_HOME", "funcd/run/admin.sock"),
        ("HOME", ".local/state/funcd/run/admin.sock"),
    ];
    let mut own = own.iter().filter_map(|(key, below)| Some(set(key)?.join(below)));
    let chosen = global.admin.clone().or_else(|| set("FUNCD_ADMIN"));
    let chosen = chosen.or_else(|| own.find(|path| exists(path)));
    chosen.unwrap_or_else(|| "/run/funcd/admin.sock".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_socket() {
        let pick = |flag: Option<&str>, env: &[(&str, &str)], there: &str| {
            let global = Global {
                json: false,
                admin: flag.map(PathBuf::from),
            };
            let find = |key: &str| env.iter().find(|(k, _)| *k == key).map(|(_, v)| PathBuf::from(v));
            let exists = |path: &Path| path == Path::new(there);
            admin_path(&global, find, exists).display().to_string()
        };
        let all = [
            ("FUNCD_ADMIN", "/env"),
            ("XDG_RUNTIME_DIR", "/run/user/1000"),
            ("XDG_STATE_HOME", "/state"),
            ("HOME", "/home/u"),
        ];
        let runtime = "/run/user/1000/funcd/admin.sock";
        assert_eq!(pick(Some("/flag"), &all, runtime), "/flag");
        assert_eq!(pick(None, &all, runtime), "/env");
        for own in [
            runtime,
            "/state/funcd/run/admin.sock",
            "/home/u/.local/state/funcd/run/admin.sock",
        ] {
            assert_eq!(pick(None, &all[1..], own), own);
        }
        assert_eq!(pick(None, &all[1..], "nowhere"), "/run/funcd/admin.sock");
        assert_eq!(pick(None, &[("FUNCD_ADMIN", "")], ""), "/run/funcd/admin.sock");
    }
}
