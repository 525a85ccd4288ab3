//! A funcd host under measurement: in a folder of its own, beside any other host on this machine.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::client::Target;
use crate::failure::{During, Failure, Outcome};
use crate::guard::Guard;
use crate::process;

/// A host that is not there by then won't be.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between looks at something that is about to happen.
const GLANCE: Duration = Duration::from_millis(5);

/// The functions folder of a host that is not started yet.
#[derive(Debug)]
pub(crate) struct Plan {
    funcd: PathBuf,
    folder: TempDir,
    config: String,
    state: PathBuf,
}

impl Plan {
    /// For `funcd`, with no function.
    ///
    /// # Errors
    /// No place for the folders.
    pub(crate) fn of(funcd: &Path) -> Outcome<Plan> {
        let folder = tempfile::Builder::new().prefix("funcd-bench-").tempdir();
        let folder = folder.during("making the folders of a host")?;
        fs::create_dir(folder.path().join("functions")).during("making a functions folder")?;
        Ok(Plan {
            funcd: funcd.to_path_buf(),
            state: folder.path().join("state"),
            folder,
            config: String::new(),
        })
    }

    /// With this configuration instead of every default.
    pub(crate) fn configured(mut self, config: &str) -> Plan {
        self.config = config.to_owned();
        self
    }

    /// With its state here instead of in its folder.
    pub(crate) fn with_state(mut self, state: &Path) -> Plan {
        self.state = state.to_path_buf();
        self
    }

    fn functions(&self) -> PathBuf {
        self.folder.path().join("functions")
    }

    /// Adds a plain executable.
    ///
    /// # Errors
    /// A copy that fails.
    pub(crate) fn executable(&self, name: &str, source: &Path) -> Outcome<()> {
        copy(source, &self.functions().join(name))
    }

    /// Adds a folder with a manifest.
    ///
    /// # Errors
    /// A copy that fails.
    pub(crate) fn with_manifest(&self, name: &str, source: &Path, manifest: &str) -> Outcome<()> {
        let folder = self.functions().join(name);
        let step = format!("making {}", folder.display());
        fs::create_dir(&folder).during(&step)?;
        fs::write(folder.join("function.toml"), manifest).during(&step)?;
        copy(source, &folder.join(name))
    }

    /// Starts the host, with `workers` or as many as it wants.
    ///
    /// # Errors
    /// A host that ends or does not listen; what it said last is in the message.
    pub(crate) fn start(self, workers: Option<usize>) -> Outcome<Host> {
        let folder = self.folder.path();
        let log = File::create(folder.join("log")).during("making a host's log")?;
        let admin = folder.join("run/admin.sock");
        // One of its own, so that this machine's says nothing in ours.
        let config = folder.join("funcd.toml");
        fs::write(&config, &self.config).during("making a host's configuration")?;
        let mut command = Command::new(&self.funcd);
        command.env("FUNCD_CONFIG", &config).env_remove("RUST_LOG");
        command.arg("serve").args(["--listen", "127.0.0.1:0"]);
        for (flag, path) in [
            ("--functions", folder.join("functions")),
            ("--state", self.state),
            ("--run", folder.join("run")),
        ] {
            command.arg(flag).arg(path);
        }
        command.arg("--admin").arg(&admin);
        if let Some(workers) = workers {
            command.arg("--workers").arg(workers.to_string());
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().during("sharing a host's log")?)
            .stderr(log)
            .spawn()
            .during(format!("starting {}", self.funcd.display()))?;
        let mut host = Host {
            launcher: Guard::child(child, Duration::from_secs(15)),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin,
            funcd: self.funcd,
            folder: self.folder,
        };
        let listen = host.folder.path().join("run/listen");
        host.address = host.wait_for("to listen", |_| {
            Ok(fs::read_to_string(&listen)
                .ok()
                .and_then(|text| bound_address(&text)))
        })?;
        Ok(host)
    }
}

/// The host is not running yet, so nobody sees half a copy.
fn copy(source: &Path, to: &Path) -> Outcome<()> {
    fs::copy(source, to)
        .map(drop)
        .during(format!("copying {} to {}", source.display(), to.display()))
}

/// The address for callers in a host's `listen` file; `None` while the file is being written.
fn bound_address(text: &str) -> Option<SocketAddr> {
    let (line, _) = text.split_once('\n')?;
    line.trim().parse().ok()
}

/// A running host; dropping it stops it.
#[derive(Debug)]
pub(crate) struct Host {
    address: SocketAddr,
    admin: PathBuf,
    funcd: PathBuf,
    // Before the folder: fields are dropped in this order, and the host uses the folder until it ends.
    launcher: Guard,
    folder: TempDir,
}

impl Host {
    /// Its folder: `run`, `state`, `functions`.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Adds a function, or replaces it, while the host runs; returns when the host knows it.
    ///
    /// # Errors
    /// A copy that fails, or a host that does not take it.
    pub(crate) fn deploy(&mut self, name: &str, source: &Path, manifest: &str) -> Outcome<()> {
        let before = self.revision(name);
        self.place(name, source, manifest)?;
        self.wait_for(&format!("to take {name}"), |host| {
            let now = host.revision(name);
            Ok((now.is_some() && now != before).then_some(()))
        })
    }

    /// The folder of a function, each of its files renamed into place.
    fn place(&self, name: &str, source: &Path, manifest: &str) -> Outcome<()> {
        let folder = self.folder.path().join("functions").join(name);
        let step = format!("deploying {}", folder.display());
        let whole = folder.with_file_name(format!(".{name}"));
        let fresh = !folder.exists();
        let into = if fresh { &whole } else { &folder };
        fs::create_dir_all(into).during(&step)?;
        for (file, write) in [("function.toml", None), (name, Some(source))] {
            let half = into.join(format!(".{file}"));
            match write {
                None => fs::write(&half, manifest).during(&step)?,
                Some(source) => copy(source, &half)?,
            }
            fs::rename(&half, into.join(file)).during(&step)?;
        }
        if fresh {
            fs::rename(&whole, &folder).during(&step)?;
        }
        Ok(())
    }

    /// Takes a function away.
    ///
    /// # Errors
    /// A folder that is not there, or a host that keeps it.
    pub(crate) fn remove(&mut self, name: &str) -> Outcome<()> {
        let folder = self.folder.path().join("functions").join(name);
        fs::remove_dir_all(&folder).during(format!("removing {}", folder.display()))?;
        self.wait_for(&format!("to forget {name}"), |host| {
            Ok(host.revision(name).is_none().then_some(()))
        })
    }

    /// The revision of a function that requests go to.
    fn revision(&self, name: &str) -> Option<String> {
        let known = self.query("ls").ok()?;
        let mut functions = known["functions"].as_array()?.iter();
        let function = functions.find(|function| function["name"] == name)?;
        Some(function["function"]["revision"].as_str()?.to_owned())
    }

    /// Where callers connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// `/NAME/` of this host.
    pub(crate) fn target(&self, name: &str) -> Target {
        Target::tcp(self.address, &format!("/{name}/"))
    }

    /// Waits until `look` sees something.
    ///
    /// # Errors
    /// A host that ended, [`PATIENCE`] that did, or what `look` fails with.
    pub(crate) fn wait_for<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&Host) -> Outcome<Option<T>>,
    ) -> Outcome<T> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(seen) = look(self)? {
                return Ok(seen);
            }
            let ended = self.launcher.ended();
            if ended.is_some() || Instant::now() >= end {
                let how = ended.map_or_else(
                    || format!("waited {PATIENCE:?}"),
                    |how| format!("it ended: {how}"),
                );
                let log = self.folder.path().join("log");
                let log = fs::read_to_string(log).unwrap_or_default();
                return Err(Failure(format!(
                    "waiting for funcd {what}: {how}. It said: {}",
                    tail(&log)
                )));
            }
            std::thread::sleep(GLANCE);
        }
    }

    /// Waits until a request to `name` is answered.
    ///
    /// # Errors
    /// As [`Host::wait_for`].
    pub(crate) fn wait_until_answered(&mut self, name: &str) -> Outcome<()> {
        let target = self.target(name);
        self.wait_for("to answer", |_| Ok(target.ask_once().ok()))
    }

    /// The launcher and the supervisor: what funcd itself costs.
    ///
    /// # Errors
    /// A launcher without a supervisor.
    pub(crate) fn own_processes(&self) -> Outcome<[i32; 2]> {
        let children = self.children();
        let supervisor = children.iter().find(|pid| is_supervisor(**pid));
        let supervisor = supervisor.ok_or_else(|| Failure("the launcher has no supervisor".into()))?;
        Ok([self.launcher.id(), *supervisor])
    }

    /// The instances: whatever else the launcher has started, and that does not wait to become one.
    pub(crate) fn instances(&self) -> Vec<i32> {
        let runs = |pid: &i32| !is_supervisor(*pid) && !is_standby(*pid);
        self.children().into_iter().filter(runs).collect()
    }

    /// The processes that wait right before exec.
    pub(crate) fn standbys(&self) -> Vec<i32> {
        self.children()
            .into_iter()
            .filter(|pid| is_standby(*pid))
            .collect()
    }

    fn children(&self) -> Vec<i32> {
        let table = process::table();
        let children = table
            .iter()
            .filter(|process| process.parent == self.launcher.id());
        children.map(|process| process.pid).collect()
    }

    /// What `funcd WORDS --json` prints.
    ///
    /// # Errors
    /// A command that fails, or prints no JSON.
    pub(crate) fn query(&self, words: &str) -> Outcome<Value> {
        let step = format!("funcd {words} --json");
        let output = Command::new(&self.funcd)
            .args(words.split(' '))
            .args(["--json", "--admin"])
            .arg(&self.admin)
            .stdin(Stdio::null())
            .output()
            .during(&step)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Failure(format!("{step}: {}: {said}", output.status)));
        }
        serde_json::from_slice(&output.stdout).during(step)
    }
}

fn is_supervisor(pid: i32) -> bool {
    process::command(pid)
        .get(1)
        .is_some_and(|word| word == "supervisor")
}

/// As it names itself until exec.
fn is_standby(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "funcd-standby")
}

/// The last lines, which say why.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().rev().take(10).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_have_the_first_line_once_it_is_whole() {
        let expected = Some("127.0.0.1:4711".parse().unwrap());
        assert_eq!(bound_address("127.0.0.1:4711\n127.0.0.1:4712\n"), expected);
        assert_eq!(bound_address(""), None);
        assert_eq!(bound_address("127.0.0.1:47"), None);
    }

    #[test]
    fn the_tail_keeps_the_order() {
        let log: String = (1..=12).map(|line| format!("line {line}\n")).collect();
        assert!(tail(&log).starts_with("line 3\n") && tail(&log).ends_with("line 12"));
    }
}
