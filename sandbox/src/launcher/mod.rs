//! The privileged loop: owns what must outlive a crash of the supervisor, and does what it is asked only within its
//! own floor. One thread; never blocks on a peer; parses nothing but the messages of [`crate::wire`].
//!
//! ```text
//! start    folders, listeners, cgroups, probe            once, may refuse with a LauncherError
//! serve    one event at a time, then one small piece of background work
//! end      kill every leaf, remove cgroups, sockets, run files
//! ```

mod activation;
mod carried;
mod check;
mod end;
mod exits;
mod failed;
mod folders;
mod handover;
mod image;
mod launch;
mod listeners;
mod network;
mod notify;
mod poll;
mod request;
mod resume;
mod retire;
mod secrets;
mod self_check;
mod serve;
mod standby;
mod start;
mod supervisor;
mod upgrade;

pub use carried::Carried;
pub use check::{Checked, check};

use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::cgroup::{self, Support};
use crate::probe::{self, CgroupFacts, Grade, ProbeInput};
use crate::property::Property;
use crate::uids::UidError;
use crate::without::{self, Without};

/// What the launcher is started with: its floor. Nothing that a supervisor says can widen it.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Host {
    /// The functions folder; it exists.
    pub functions: PathBuf,
    /// The state folder: store, uids, logs; made when missing.
    pub state: PathBuf,
    /// The run folder: sockets, staging; made when missing, emptied at start.
    pub run: PathBuf,
    /// Where callers connect.
    pub listen: Vec<SocketAddr>,
    /// One listener per worker (`SO_REUSEPORT`).
    pub workers: usize,
    /// The Unix socket of the admin API.
    pub admin: PathBuf,
    /// The optional TCP socket of metrics and health.
    pub admin_listen: Option<SocketAddr>,
    /// The user (and the admin socket's group) that the supervisor runs as, when root: uid and gid.
    pub supervisor: Option<(u32, u32)>,
    /// The first uid that functions get.
    pub uid_first: u32,
    /// How many uids functions can get.
    pub uid_count: u32,
    /// What functions may be granted for reading: anything below these.
    pub read_roots: Vec<PathBuf>,
    /// What functions may be granted for writing: anything below these.
    pub write_roots: Vec<PathBuf>,
    /// The folder of secrets: a folder in it for each function that has some.
    pub secrets: PathBuf,
    /// The folder of the service's credentials, where secrets may be too (`$CREDENTIALS_DIRECTORY`).
    pub credentials: Option<PathBuf>,
    /// The properties that may be missing at all.
    pub degraded: Vec<Property>,
    /// The program and arguments of the supervisor (its descriptor 3 is the socket to the launcher).
    pub program: Vec<CString>,
    /// The configuration, handed to each supervisor as it is.
    pub config: Vec<u8>,
    /// Instances that may run at once.
    pub max_instances: usize,
    /// How long the supervisor may drain after SIGTERM, in milliseconds.
    pub drain_millis: u64,
}

/// Why the launcher did not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// A folder or file of the host is not usable.
    #[error("{path}: {what}: {source}; {fix}", path = path.display())]
    Folder {
        /// Which one.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
        /// What to do.
        fix: &'static str,
    },
    /// Another launcher uses the run or the state folder.
    #[error("{path}: another funcd runs with this {flag} folder; stop it, or choose another with --{flag}", path = path.display())]
    Running {
        /// The folder.
        path: PathBuf,
        /// `run` or `state`.
        flag: &'static str,
    },
    /// An address can't be listened on.
    #[error("can't listen on {address}: {source}; free it, or choose another address")]
    Listen {
        /// Which address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// A descriptor that the service manager passed is of no use.
    #[error(
        "descriptor {number} ({name:?}) from the service manager can't be used: {why}; pass listening stream sockets: TCP for callers, \
         one Unix socket for the admin API"
    )]
    Given {
        /// Which one.
        number: i32,
        /// Its name in `LISTEN_FDNAMES`.
        name: String,
        /// Why.
        why: String,
    },
    /// The host's configuration can't work.
    #[error("{0}")]
    Config(String),
    /// The uids of functions are not known.
    #[error("{0}")]
    Uids(String),
    /// A system call that the launcher can't live without failed.
    #[error("{what}: {source}; this kernel or container is not fit for funcd")]
    Kernel {
        /// What it is for.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A function could do what was promised that it can't, or that could not be found out.
    #[error(
        "the self-check of the sandbox failed for {profile}: {why}; nothing is served. See `funcd doctor`; a property that is \
         accepted by name (`degraded`) is not checked"
    )]
    SelfCheck {
        /// The kind of start.
        profile: String,
        /// What was reached, or why it could not be tried.
        why: String,
    },
    /// What the launcher before left can't be taken over.
    #[error("what the launcher before left can't be taken over: {0}")]
    Carried(String),
    /// The supervisor can't be started at all.
    #[error(
        "the supervisor {program:?} can't be started: {why}; check that the program is there and executable"
    )]
    Supervisor {
        /// The program.
        program: CString,
        /// Why.
        why: String,
    },
}

impl From<UidError> for LauncherError {
    fn from(e: UidError) -> LauncherError {
        LauncherError::Uids(e.to_string())
    }
}

/// Runs the launcher until it is told to stop (SIGTERM, SIGINT). The process must have one thread, and its environment
/// is the supervisor's, without `LD_*` and what is between the service manager and the launcher.
///
/// Listeners are handed over address by address, one per worker: listener `i` belongs to worker `i % workers`.
///
/// # Errors
/// When it can't start. Whatever was made is removed again.
pub fn run(host: Host) -> Result<(), LauncherError> {
    let mut launcher = start::start(host)?;
    crate::sys::process::forget_code();
    let served = launcher.serve();
    launcher.end();
    served
}

/// Goes on where another launcher in this process left off, which has executed this program for an upgrade; then as [`run`].
///
/// # Errors
/// When it can't, and can't go back to the other program either: then nothing is left. What ends the loop.
pub fn resume(carried: Carried, host: Host) -> Result<(), LauncherError> {
    let mut launcher = resume::resume(carried, host)?;
    crate::sys::process::forget_code();
    let served = launcher.serve();
    launcher.end();
    served
}

/// Grades the ten properties on this machine for `funcd doctor`: tries everything in short-lived children and one
/// cgroup, starts nothing and leaves nothing. As an ordinary user, the process enters a user namespace for good.
///
/// `state` is the state folder if there is one yet: who owns it decides about [`Property::Artifact`].
pub fn grades(state: Option<&Path>) -> Vec<Grade> {
    if !nix::unistd::geteuid().is_root() {
        // What it can't have is found missing below, with its cause.
        let _ = crate::namespace::enter_user_namespace();
    }
    let name = format!("funcd-{:08x}", std::process::id());
    let tree = cgroup::Tree::create(&name, cgroup::Join::IfDelegated);
    let root = nix::unistd::geteuid().is_root();
    let owned = state.map_or(root, folders::is_roots_own);
    let without = Without::of_environment().unwrap_or_else(|e| {
        log(format_args!("{e}"));
        Without::default()
    });
    let (_, grades) = examine(&tree, owned, root, &without);
    if let Err(e) = tree.remove() {
        log(format_args!("a cgroup made for grading stays: {e}"));
    }
    grades
}

/// Probes this host and grades it, without what a test takes away.
fn examine(
    tree: &cgroup::Tree,
    store_owned_by_root: bool,
    uid_range: bool,
    without: &Without,
) -> (probe::Facts, Vec<Grade>) {
    let facts = tree.facts();
    let yes = |support: &Support| matches!(support, Support::Yes(_));
    let mut facts_of_host = probe::probe(&ProbeInput {
        cgroup: CgroupFacts {
            kill: yes(&facts.kill),
            memory: yes(&facts.memory),
            pids: yes(&facts.pids),
            cpu: yes(&facts.cpu),
            layout: tree.layout(),
        },
        store_owned_by_root,
        uid_range,
    });
    if !without.is_nothing() {
        log(format_args!(
            "graded as a host without {without}, because {} says so",
            without::VARIABLE
        ));
        without.take_from(&mut facts_of_host);
    }
    let mut grades = probe::grade(&facts_of_host);
    let there = &facts_of_host.cgroup;
    for (property, support, there) in [
        (Property::MemoryLimit, &facts.memory, there.memory),
        (Property::PidLimit, &facts.pids, there.pids),
        (Property::CpuLimit, &facts.cpu, there.cpu),
    ] {
        let Some(grade) = grades.iter_mut().find(|grade| grade.property == property) else {
            continue;
        };
        // What was seen while the cgroups were made says more than that they are not there.
        match support {
            Support::Yes(how) if there => grade.mechanism = Some(how.clone()),
            Support::Yes(_) => {}
            Support::No { cause, fix } => {
                grade.mechanism = None;
                grade.cause.clone_from(cause);
                grade.fix.clone_from(fix);
            }
        }
    }
    (facts_of_host, grades)
}

/// One line on stderr, which is where the service manager looks.
fn log(what: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let line = format!("funcd launcher: {what}").replace('\n', " ");
    // Nobody can be told that nobody can be told.
    let _ = writeln!(io::stderr(), "{line}");
}
