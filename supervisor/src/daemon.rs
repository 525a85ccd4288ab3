//! The composition root: from a configuration to a launcher's floor, and from a handover to a running supervisor.
//! Everything is built here and nowhere else.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{File, Permissions};
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use funcd_sandbox::launcher::{Host, LauncherError};
use funcd_sandbox::own::{self, Access};
use funcd_sandbox::system;
use funcd_sandbox::wire;
use nix::unistd::{User, geteuid};
use tokio::runtime::{self, Runtime};
use tokio::sync::{mpsc, oneshot, watch};

use crate::admin::peer::Peers;
use crate::admin::{self, Readiness, Sources};
use crate::admission::brownout::Brownout;
use crate::catalog::manifest::Defaults;
use crate::catalog::{self, Catalog};
use crate::config::Config;
use crate::egress;
use crate::function::control::{Ask, Control, Notice, Parts};
use crate::function::facts::HostReader;
use crate::function::report::Report;
use crate::handover::{self, Handover, Settings};
use crate::host::{self, Gauges};
use crate::ingress::{self, LINGER, Routes, Shared, Workers};
use crate::launcher::Launcher;
use crate::snapshot::snapshot;
use crate::telemetry::diary::Format;
use crate::telemetry::journal::{self, Journal};
use crate::telemetry::{self, Logs};

/// The user that the supervisor becomes unless the configuration names another.
const DEFAULT_USER: &str = "funcd";

/// Why a daemon ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The launcher could not start, or had to stop.
    #[error(transparent)]
    Launcher(#[from] LauncherError),
    /// The supervisor could not start.
    #[error("the supervisor can't start: {what}: {source}")]
    Supervisor {
        /// What it was doing.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The functions folder, in its usual place, could not be made.
    #[error("can't make the functions folder {}: {source}", path.display())]
    Folder {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The configured user does not exist.
    #[error(
        "there is no user {user:?} for the supervisor to run as: `useradd --system {user}`, or set `user`"
    )]
    NoUser {
        /// Its name.
        user: String,
    },
}

fn supervisor(what: &'static str) -> impl Fn(io::Error) -> DaemonError {
    move |source| DaemonError::Supervisor { what, source }
}

/// What the launcher runs with; the functions folder is there.
///
/// # Errors
/// [`DaemonError::Folder`] and [`DaemonError::NoUser`].
pub fn prepare(config: &Config, log_format: Option<Format>) -> Result<Host, DaemonError> {
    make_usual_folder(&config.functions, &config.state).map_err(|source| DaemonError::Folder {
        path: config.functions.clone(),
        source,
    })?;
    host(config, log_format)
}

/// Makes the functions folder in the state folder. One elsewhere was named by somebody, and a typing error must not
/// become a folder.
fn make_usual_folder(functions: &Path, state: &Path) -> io::Result<()> {
    if !functions.starts_with(state) {
        return Ok(());
    }
    for path in [state, functions] {
        if !path.is_dir() {
            std::fs::create_dir_all(path)?;
            // Whatever the umask: the supervisor's user must find its way, and nobody else may put executables there.
            std::fs::set_permissions(path, Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

/// The launcher's floor for a configuration.
///
/// # Errors
/// [`DaemonError::NoUser`].
pub fn host(config: &Config, log_format: Option<Format>) -> Result<Host, DaemonError> {
    let settings = Settings {
        config: config.clone(),
        root: geteuid().is_root(),
    };
    let mut program = vec!["/proc/self/exe", "supervisor"];
    if let Some(Format::Json) = log_format {
        program.extend(["--log-format", "json"]);
    }
    let word = |word| CString::new(word).expect("no NUL in a literal");
    Ok(Host {
        functions: config.functions.clone(),
        state: config.state.clone(),
        run: config.run.clone(),
        listen: config.listen.clone(),
        workers: config.workers,
        admin: config.admin.clone(),
        admin_listen: config.admin_listen,
        supervisor: supervisor_user(config)?,
        uid_first: config.uid_first,
        uid_count: config.uid_count,
        read_roots: config.read_roots.clone(),
        write_roots: config.write_roots.clone(),
        secrets: config.secrets.clone(),
        credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        degraded: config.degraded.clone(),
        program: program.into_iter().map(word).collect(),
        config: serde_json::to_vec(&settings).expect("settings are plain data"),
        max_instances: config.max_instances,
        drain_millis: config.drain.as_millis() as u64,
    })
}

/// The uid and gid of the supervisor, when this is root. On a machine where nobody made the default user, the uid
/// before those of functions serves.
fn supervisor_user(config: &Config) -> Result<Option<(u32, u32)>, DaemonError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    match User::from_name(&config.user) {
        Ok(Some(user)) => Ok(Some((user.uid.as_raw(), user.gid.as_raw()))),
        _ if config.user == DEFAULT_USER => Ok(Some((config.uid_first - 1, config.uid_first - 1))),
        _ => Err(DaemonError::NoUser {
            user: config.user.clone(),
        }),
    }
}

/// Runs the supervisor on the socket that the launcher left at descriptor 3. The caller has one thread.
///
/// # Errors
/// [`DaemonError::Supervisor`].
pub fn supervise() -> Result<(), DaemonError> {
    let socket = wire::inherited().map_err(supervisor("the socket to the launcher"))?;
    let handover = handover::receive(&socket).map_err(supervisor("the handover"))?;
    let myself = File::open("/proc/self").map_err(supervisor("/proc/self"))?;
    // To work out which libraries functions need.
    let system: Vec<File> = system::known()
        .iter()
        .filter_map(|path| File::open(path).ok())
        .collect();
    // To look up where bindings lead.
    let names: Vec<File> = egress::files(&handover.settings.config.egress)
        .filter_map(|path| File::open(path).ok())
        .collect();
    let own = [
        handover.functions.as_fd(),
        handover.sockets.as_fd(),
        myself.as_fd(),
    ];
    let access = Access {
        read: own
            .into_iter()
            .chain(system.iter().chain(&names).map(AsFd::as_fd))
            .collect(),
        write: vec![handover.logs.as_fd()],
    };
    // Opened now, as nothing of /proc but its own, and no cgroup, can be opened afterwards.
    let facts = HostReader::open().map_err(supervisor("/proc/stat and /proc/meminfo"))?;
    let gauges = Gauges::open().map_err(supervisor("/proc/stat and /proc/meminfo"))?;
    let journal = handover.settings.config.journal.then(journal).flatten();
    let enforced = own::confine_self(&access).map_err(supervisor("confining itself"))?;
    tracing::debug!(
        ?enforced,
        generation = handover.generation,
        "the supervisor is confined"
    );

    let control = runtime().map_err(supervisor("the runtime of control"))?;
    let outcome = control.block_on(run(
        socket,
        handover,
        (facts, gauges, journal),
        enforced.landlock_abi,
    ));
    // Tasks that are left, such as followers of logs, end with the process.
    control.shutdown_background();
    outcome
}

/// The way to the journal, if there is one. Without it functions are served all the same.
fn journal() -> Option<Journal> {
    let connected = Journal::connect(Path::new(journal::SOCKET));
    connected
        .inspect_err(|error| {
            tracing::warn!(socket = journal::SOCKET, %error, "`journal` is on, and there is no journal: functions' lines are in their own files alone");
        })
        .ok()
}

/// Builds everything, lets callers in once the folder is known, and drains when the launcher says so.
async fn run(
    socket: OwnedFd,
    handover: Handover,
    (facts, gauges, journal): (HostReader, Gauges, Option<Journal>),
    landlock_abi: Option<u32>,
) -> Result<(), DaemonError> {
    let Handover {
        settings,
        functions,
        logs,
        grades,
        listeners,
        admin,
        admin_tcp,
        inventory,
        ..
    } = handover;
    let config = Arc::new(settings.config);
    let metrics = telemetry::metrics::install();
    telemetry::metrics::record_host(&grades, landlock_abi);
    let invalid = |e: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
    let defaults = Defaults::parse(&config.defaults).map_err(|e| supervisor("`[defaults]`")(invalid(&e)))?;
    let routes = Arc::new(ArcSwap::from_pointee(Routes::default()));
    let shared =
        Shared::new(&config, Arc::clone(&routes)).map_err(|e| supervisor("`trusted`")(invalid(&e)))?;

    let house = runtime().map_err(supervisor("the runtime of the house"))?;
    let logs = Logs::with_journal(logs, house.handle().clone(), journal);
    let mut options = catalog::Options::new(&config.functions, config.rescan, defaults.clone());
    // What was dropped a moment ago is served by the supervisor before this one.
    options.is_patient = !handover.alone;
    let (catalog, catalog_handle) = Catalog::start(functions, options);
    let (changed, changes) = mpsc::unbounded_channel();
    let (entries, entries_seen) = watch::channel(BTreeMap::new());
    let (ready, readiness) = watch::channel(Readiness::Starting);
    let (asks, asked) = mpsc::unbounded_channel();
    let (notices, mut noticed) = mpsc::unbounded_channel();
    let (questions, answers) = mpsc::channel(16);
    let (upgrades, wanted_upgrades) = mpsc::channel(4);
    let (brownout, held_back) = watch::channel(Brownout::NONE);
    let (host_state, host_seen) = watch::channel(host::State::new(SystemTime::now()));
    let sources = Arc::new(Sources {
        control: questions,
        entries: entries_seen,
        doctor: admin::host::doctor(&grades, landlock_abi, &config.degraded, settings.root),
        logs: logs.clone(),
        readiness,
        metrics: metrics.clone(),
        ledgers: shared.ledgers(),
        host: host_seen,
        config: watch::channel(Arc::clone(&config)).1,
        upgrades,
    });
    house.spawn(catalog.run(changed));
    house.spawn(answer(answers, asks.clone()));
    house.spawn(pass_on(wanted_upgrades, asks.clone()));
    house.spawn(telemetry::metrics::upkeep(metrics));
    let told = host::Told {
        header: shared.brownout_header(),
        control: brownout,
        admin: host_state,
    };
    house.spawn(host::watch(gauges, told, config.brownout));
    let peers = Peers {
        trusted: vec![geteuid().as_raw()],
        group: true,
        functions: config.uid_first..config.uid_first.saturating_add(config.uid_count),
    };
    let alone = handover.alone;
    let mut may_serve = ready.subscribe();
    let (stop_house, house_stopped) = oneshot::channel::<End>();
    let (finish, finished) = oneshot::channel::<()>();
    let house = std::thread::Builder::new()
        .name("house".to_owned())
        .spawn(move || {
            house.block_on(async move {
                if !alone {
                    // The one before answers until then.
                    let _ = may_serve.wait_for(|ready| *ready != Readiness::Starting).await;
                }
                let places = admin::server::Places::default();
                let unix =
                    admin::server::serve_unix(admin.into(), peers, Arc::clone(&sources), places.clone());
                let tcp = async {
                    match admin_tcp {
                        Some(listener) => admin::server::serve_tcp(listener.into(), sources).await,
                        None => Ok(()),
                    }
                };
                let (unix, tcp) = (
                    log_end("the admin socket", unix),
                    log_end("the admin TCP socket", tcp),
                );
                let end = tokio::select! {
                    end = house_stopped => end.unwrap_or(End::Now),
                    _ = async { tokio::join!(unix, tcp) } => End::Now,
                };
                if end == End::Politely {
                    // Nobody new is answered here: how the host is, the next one says. What was asked goes on.
                    let _ = finished.await;
                    let _ = tokio::time::timeout(LAST_ANSWERS, places.all_free()).await;
                }
            });
        })
        .map_err(supervisor("the thread of the house"))?;

    let parts = Parts {
        launcher: Launcher::new(socket).map_err(supervisor("the socket to the launcher"))?,
        alone,
        inventory,
        defaults,
        next_id: handover.next_id,
        standbys: if handover.can_stand_by { config.standbys } else { 0 },
        workers: config.workers,
        shared: Arc::clone(&shared),
        outside: egress::Settings::new(&config.egress).map_err(|e| supervisor("`egress`")(invalid(&e)))?,
        can_freeze: handover.can_freeze,
        facts,
        brownout: held_back,
        sockets: handover.sockets,
        routes,
        changes,
        asks: asked,
        report: Report {
            logs,
            catalog: catalog_handle.clone(),
            entries,
        },
        notices,
    };
    let control = tokio::spawn(Control::run(parts));

    let mut listeners = Some(listeners);
    let mut workers = None;
    let mut stop_house = Some(stop_house);
    while let Some(notice) = noticed.recv().await {
        match notice {
            // Until now callers waited in the listen queues.
            Notice::Synced => {
                let sockets = listeners
                    .take()
                    .into_iter()
                    .flatten()
                    .map(TcpListener::from)
                    .collect();
                workers = Some(
                    ingress::spawn_workers(sockets, Arc::clone(&shared))
                        .map_err(supervisor("the workers"))?,
                );
                ready.send_replace(Readiness::Ready);
                let _ = asks.send(Ask::Serving);
                tracing::info!(listen = ?config.listen, "ready");
            }
            Notice::Reload => {
                tracing::info!("reload: the folder is read again");
                catalog_handle.rescan();
            }
            Notice::Shutdown => {
                ready.send_replace(Readiness::Draining);
                let deadline = Instant::now() + config.drain;
                if let Some(workers) = workers.take() {
                    let cut = tokio::task::spawn_blocking(move || workers.drain(deadline))
                        .await
                        .unwrap_or(0);
                    if cut > 0 {
                        tracing::warn!(connections = cut, "cut off: the drain took longer than `drain`");
                    }
                }
                let _ = asks.send(Ask::Drain);
            }
            Notice::Retire => {
                if let Some(stop) = stop_house.take() {
                    let _ = stop.send(End::Politely);
                }
                retire(&shared, workers.take(), &asks, Instant::now() + config.drain).await;
                break;
            }
            Notice::LauncherGone => break,
        }
    }
    drop((stop_house, finish));
    let _ = house.join();
    control.abort();
    Ok(())
}

/// How the house ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// At once.
    Now,
    /// Once those who asked something were answered.
    Politely,
}

/// What was asked of the admin API is answered within this, or not at all: followers of logs come again.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// How often it is looked whether bindings still carry something.
const LOOK: Duration = Duration::from_millis(20);

/// Another supervisor serves: finishes what there is, until `deadline` at most.
async fn retire(
    shared: &Shared,
    workers: Option<Workers>,
    asks: &mpsc::UnboundedSender<Ask>,
    deadline: Instant,
) {
    tracing::info!("another supervisor serves; finishing what is here");
    shared.retire();
    let drain = async {
        let Some(workers) = workers else { return };
        workers.begin_drain(deadline);
        let cut = tokio::task::spawn_blocking(move || workers.drain(deadline))
            .await
            .unwrap_or(0);
        if cut > 0 {
            tracing::warn!(
                connections = cut,
                "cut off: what they had took longer than `drain`"
            );
        }
    };
    let mut drain = std::pin::pin!(drain);
    // Almost everybody has asked for the last time by then: functions may turn to the other one.
    let mut drained = tokio::time::timeout(LINGER, drain.as_mut()).await.is_ok();
    // Without `control` there is nobody to leave it.
    while !leave(asks).await && !asks.is_closed() && Instant::now() < deadline {
        match drained {
            true => tokio::time::sleep(5 * LOOK).await,
            false => drained = tokio::time::timeout(5 * LOOK, drain.as_mut()).await.is_ok(),
        }
    }
    if !drained {
        drain.await;
    }
    while egress::live::count() > 0 && Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
    }
}

fn runtime() -> io::Result<Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

/// Answers what the admin API wants to know from what `control` knows.
async fn answer(mut questions: mpsc::Receiver<admin::Ask>, asks: mpsc::UnboundedSender<Ask>) {
    while let Some(admin::Ask(reply)) = questions.recv().await {
        let (status, known) = oneshot::channel();
        if asks.send(Ask::Status(status)).is_ok()
            && let Ok(functions) = known.await
        {
            let _ = reply.send(snapshot(&functions));
        }
    }
}

/// Leaves what instances ask and write to the other supervisor; `false`: not yet.
async fn leave(asks: &mpsc::UnboundedSender<Ask>) -> bool {
    let (answer, answered) = oneshot::channel();
    let _ = asks.send(Ask::Leave(answer));
    let Ok(Some(waited)) = answered.await else {
        return false;
    };
    let mut left = Vec::new();
    for (id, connections) in waited {
        // One that has ended has none.
        left.push((id, connections.await.unwrap_or_default()));
    }
    let (done, is_done) = oneshot::channel();
    let _ = asks.send(Ask::Left(left, done));
    let _ = is_done.await;
    true
}

/// Passes wishes for an upgrade on to `control`.
async fn pass_on(mut upgrades: mpsc::Receiver<admin::Upgrade>, asks: mpsc::UnboundedSender<Ask>) {
    while let Some(admin::Upgrade(answer)) = upgrades.recv().await {
        let _ = asks.send(Ask::Upgrade(answer));
    }
}

async fn log_end(what: &'static str, serving: impl Future<Output = io::Result<()>>) {
    if let Err(error) = serving.await {
        tracing::error!(%error, "{what} is not served");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_folder_is_made_in_its_usual_place_only() {
        let dir = tempfile::tempdir().unwrap();
        let (state, elsewhere) = (dir.path().join("state"), dir.path().join("functoins"));
        make_usual_folder(&state.join("functions"), &state).unwrap();
        for path in [&state, &state.join("functions")] {
            let mode = path.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o755, "{}", path.display());
        }
        make_usual_folder(&elsewhere, &state).unwrap();
        assert!(!elsewhere.exists());
    }
}
