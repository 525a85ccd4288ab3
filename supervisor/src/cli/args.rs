//! The command line as typed. One definition feeds the parser, the help, the man pages and the completions.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use funcd_sandbox::property::Property;

use crate::name::FunctionName;
use crate::telemetry::diary::Format;

/// Turns a Linux machine into a serverless host: an executable copied into a folder answers HTTP, in its own sandbox.
#[derive(Debug, Parser)]
#[command(name = "funcd", version, max_term_width = 100, after_help = EXIT_CODES)]
#[command(
    arg_required_else_help = true,
    subcommand_required = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What all commands have.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not running, 69 no host answers, 77 not allowed, \
78 wrong configuration, 128+n ended by signal n.";

/// What all commands have.
#[derive(Debug, Clone, Args, Default)]
pub struct Global {
    /// Print one JSON document on standard output (one per line where it is a stream)
    #[arg(long, global = true)]
    pub json: bool,
    /// The Unix socket of the admin API [env: FUNCD_ADMIN] [default: /run/funcd/admin.sock]
    ///
    /// Without it and without FUNCD_ADMIN: that of the ordinary user's own host if it runs, $XDG_RUNTIME_DIR/funcd/admin.sock
    /// or ~/.local/state/funcd/run/admin.sock, else /run/funcd/admin.sock.
    #[arg(long, global = true, value_name = "PATH")]
    pub admin: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the host: watch the functions folder and answer requests
    Serve(Serve),
    /// Serve the example functions from a temporary home until Ctrl-C
    Demo(Demo),
    /// List every entry of the functions folder, with the reason for those that are refused
    Ls,
    /// List the running instances, and the functions that have none
    Ps(Ps),
    /// Show what a function wrote to its standard output and error
    Logs(Logs),
    /// Tell why a recent request was queued, shed, tried again, failed or slow
    Explain(ExplainRequest),
    /// List the last requests, newest first
    Requests(Requests),
    /// Show everything that confines a function, and where each comes from
    ExplainSandbox(Explain),
    /// Show how this machine keeps the promises of the sandbox
    Doctor,
    /// Show what the host is short of, and what it holds back because of that
    Host,
    /// Check or show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Copy an executable into the functions folder and wait until it is live
    Run(Run),
    /// Take a function out of the functions folder and wait until it is gone
    Rm(Rm),
    /// Put the executable of funcd that lies in its place by now in place, without losing a request
    ///
    /// The executable at the path that funcd was started from takes over the running host: the listening sockets, the running
    /// functions and the configuration, which is read again. Functions are not restarted. What was begun is finished by the
    /// process before. An executable that does not come up changes nothing: the one before goes on, and this command says why.
    Upgrade,
    /// Install this program, its units, completions and man pages, or bring them up to date
    Install(Install),
    /// Remove what `install` installed; data stays
    Uninstall(Uninstall),
    /// Print the completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the man page, or write all man pages to a folder
    Man {
        /// Where to write one page per command
        dir: Option<PathBuf>,
    },
    /// Print the version
    Version,
    /// What an executable says of itself before an upgrade, asked by the launcher with descriptor 3
    #[command(hide = true)]
    UpgradeCheck {
        /// Where the host that runs was started
        #[arg(long, value_name = "DIR")]
        folder: PathBuf,
        /// The arguments of the host that runs
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<std::ffi::OsString>,
    },
    /// The supervisor, started by the launcher with descriptor 3
    #[command(hide = true)]
    Supervisor {
        /// How funcd writes its own log
        #[arg(long, value_name = "FORMAT", value_enum)]
        log_format: Option<Format>,
    },
}

/// `serve`.
#[derive(Debug, Clone, Default, Args)]
pub struct Serve {
    /// The configuration.
    #[command(flatten)]
    pub flags: HostFlags,
    /// How funcd writes its own log [env: FUNCD_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub log_format: Option<Format>,
    /// End when the process that started this one, which has this pid, ends (used by `demo`)
    #[arg(long, hide = true, value_name = "PID")]
    pub with_parent: Option<i32>,
}

/// The flags that override the configuration file; see `funcd config show --origin`.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct HostFlags {
    /// The configuration file [default: /etc/funcd/funcd.toml, with conf.d/*.toml beside it]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The functions folder [default: functions in the state folder]
    #[arg(long, value_name = "DIR")]
    pub functions: Option<PathBuf>,
    /// The state folder: store, uids, logs [default: /var/lib/funcd]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The run folder: sockets, and the lock against a second host [default: /run/funcd]
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// Where callers connect; repeat for several [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Vec<SocketAddr>,
    /// An address for /metrics and health over TCP [default: none]
    #[arg(long, value_name = "ADDR:PORT")]
    pub admin_listen: Option<SocketAddr>,
    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,
    /// Instances that may run at once [default: 4096]
    #[arg(long, value_name = "N")]
    pub max_instances: Option<usize>,
    /// A network whose X-Forwarded-* and Forwarded headers are believed; repeat for several [default: none]
    #[arg(long, value_name = "ADDR/PREFIX")]
    pub trusted: Vec<String>,
    /// The user that the supervisor becomes when started by root [default: funcd]
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// The folder of secrets, with a folder for each function [default: /etc/funcd/secrets]
    #[arg(long, value_name = "DIR")]
    pub secrets: Option<PathBuf>,
    /// Accept that this property of the sandbox is missing (name or P1 to P10); repeat or separate by commas
    #[arg(long, value_name = "PROPERTY", value_delimiter = ',', value_parser = property)]
    pub degraded: Vec<Property>,
}

fn property(text: &str) -> Result<Property, String> {
    Property::parse(text).ok_or_else(|| {
        let names: Vec<&str> = Property::ALL.iter().map(|p| p.as_str()).collect();
        format!("not a property: use one of {}", names.join(", "))
    })
}

/// `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Where callers connect; port 0 picks a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Serve the executables of this folder instead of the examples
    #[arg(long, value_name = "DIR")]
    pub examples: Option<PathBuf>,
}

/// `ps`.
#[derive(Debug, Args)]
pub struct Ps {
    /// Only this function; the exit code is 3 when no instance of it runs
    #[arg(value_parser = FunctionName::parse)]
    pub name: Option<FunctionName>,
    /// Show the limits of memory, CPU (in cores) and processes too
    #[arg(long)]
    pub wide: bool,
}

/// `explain`.
#[derive(Debug, Args)]
pub struct ExplainRequest {
    /// The id that the caller got in `X-Request-Id`, or in the answer's `request_id`
    #[arg(value_name = "REQUEST-ID")]
    pub id: String,
}

/// `requests`.
#[derive(Debug, Args)]
pub struct Requests {
    /// Only of this function
    #[arg(value_parser = FunctionName::parse)]
    pub name: Option<FunctionName>,
    /// Only those that failed or were shed
    #[arg(long)]
    pub failed: bool,
    /// Only those that are still being answered, the oldest first
    #[arg(long, conflicts_with = "failed")]
    pub in_flight: bool,
    /// No more than N
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub lines: u16,
}

/// `logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// Go on with what is written from now on, also when the host starts again
    #[arg(short, long)]
    pub follow: bool,
    /// Begin with the last N lines
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    pub lines: usize,
    /// Which function
    #[arg(value_parser = FunctionName::parse)]
    pub name: FunctionName,
}

/// `explain-sandbox`.
#[derive(Debug, Args)]
pub struct Explain {
    /// A function of the host, or the path of an executable (with a `/`, or with --manifest)
    #[arg(value_name = "NAME|FILE")]
    pub target: String,
    /// The manifest for an executable that is not deployed
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// List the system calls too
    #[arg(long)]
    pub calls: bool,
}

/// `config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check the configuration that `serve` with the same flags would use
    Check(HostFlags),
    /// Show the configuration that `serve` with the same flags would use
    Show {
        /// The flags of `serve`.
        #[command(flatten)]
        flags: HostFlags,
        /// Show where each value comes from
        #[arg(long)]
        origin: bool,
    },
}

/// `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// What callers will know it by
    #[arg(value_parser = FunctionName::parse)]
    pub name: FunctionName,
    /// The executable
    pub file: PathBuf,
    /// Give up waiting after this many seconds; the file stays
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub timeout: u64,
}

/// `rm`.
#[derive(Debug, Args)]
pub struct Rm {
    /// Which function
    #[arg(value_parser = FunctionName::parse)]
    pub name: FunctionName,
    /// Give up waiting after this many seconds; the file is gone already
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,
}

/// `install`.
#[derive(Debug, Args)]
pub struct Install {
    /// Where.
    #[command(flatten)]
    pub place: Place,
    /// Leave out what a package's scripts do
    #[arg(long, hide = true)]
    pub for_package: bool,
}

/// `uninstall`.
#[derive(Debug, Args)]
pub struct Uninstall {
    /// Where.
    #[command(flatten)]
    pub place: Place,
    /// Remove the configuration, all functions and all of their data too
    #[arg(long)]
    pub purge: bool,
}

/// Where an installation is.
#[derive(Debug, Args)]
pub struct Place {
    /// The executable goes to bin below this, completions and man pages to share
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    pub prefix: PathBuf,
    /// The root of the system to install to; the running one is only asked for anything if it is /
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn golden_help() {
        let help = Cli::command().term_width(100).render_long_help().to_string();
        assert_eq!(
            help,
            include_str!("help.txt"),
            "if this is meant: put this into cli/help.txt\n{help}"
        );
    }

    #[test]
    fn serve_takes_every_flag_and_repeats() {
        let line = "funcd serve --functions /f --state /s --run /r --listen 127.0.0.1:1 --listen [::1]:2 --admin /a \
                    --admin-listen 127.0.0.1:3 --workers 4 --config /c --degraded P5,cpu-limit --degraded files --max-instances 9 \
                    --trusted 10.0.0.0/8 --user funcd --secrets /x";
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let Command::Serve(serve) = cli.command else {
            panic!()
        };
        let expected = HostFlags {
            config: Some("/c".into()),
            functions: Some("/f".into()),
            state: Some("/s".into()),
            run: Some("/r".into()),
            listen: vec!["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()],
            admin_listen: Some("127.0.0.1:3".parse().unwrap()),
            workers: Some(4),
            max_instances: Some(9),
            trusted: vec!["10.0.0.0/8".to_owned()],
            user: Some("funcd".to_owned()),
            secrets: Some("/x".into()),
            degraded: vec![Property::MemoryLimit, Property::CpuLimit, Property::Files],
        };
        assert_eq!(serve.flags, expected);
        assert_eq!(cli.global.admin, Some("/a".into()));
    }

    #[test]
    fn wrong_usage_is_exit_code_2() {
        for line in [
            "funcd nonsense",
            "funcd",
            "funcd logs",
            "funcd logs Bad_Name",
            "funcd serve --workers 0",
            "funcd serve --degraded nothing",
            "funcd run hello",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
        for line in ["funcd --help", "funcd --version", "funcd ps --help"] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 0, "{line}");
        }
    }
}
