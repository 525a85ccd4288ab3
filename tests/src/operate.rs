//! A host as its operators see it: the rows that `funcd ps` and `funcd ls` print, and what to wait for in them.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::host::Host;
use crate::process::Process;
use crate::{artifacts, eventually};

/// A row of `funcd ps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Whose.
    pub function: String,
    /// What it runs.
    pub revision: String,
    /// The pid on the host; none when the row is for a function without an instance.
    pub pid: Option<i32>,
    /// `idle`, `starting`, `ready`, `draining`, `backoff` or `failed`.
    pub state: String,
    /// The reason of the last exit: `code`, `signal`, `oom`, …
    pub last_exit: Option<String>,
    /// The last exit for people.
    pub last_message: Option<String>,
}

/// A row of `funcd ls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The file's name.
    pub name: String,
    /// `accepted`, `settling`, `refused` or `removed`.
    pub status: String,
    /// Why, for people.
    pub reason: String,
    /// The state of its function.
    pub state: Option<String>,
    /// The revision that serves.
    pub revision: Option<String>,
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

impl Host {
    /// A `funcd` command for this host, with its output as JSON.
    pub fn funcd(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(artifacts::funcd());
        command
            .args(arguments)
            .arg("--admin")
            .arg(self.path().join("run/admin.sock"));
        command.env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    /// The JSON that a `funcd` command prints.
    ///
    /// # Errors
    /// What it said when it failed.
    pub fn json(&self, arguments: &[&str]) -> Result<Value, String> {
        let mut all = vec!["--json"];
        all.extend(arguments);
        let output = self.funcd(&all).output().map_err(|error| error.to_string())?;
        match serde_json::from_slice(&output.stdout) {
            Ok(document) if output.status.success() => Ok(document),
            _ => Err(format!("funcd {all:?}: {output:?}")),
        }
    }

    /// The rows of `funcd ps`, those of functions without an instance among them.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ps(&self) -> Vec<Instance> {
        self.try_ps()
            .unwrap_or_else(|error| panic!("{error}\n{}", self.log_tail()))
    }

    /// The rows of `funcd ps`.
    ///
    /// # Errors
    /// What it said when it failed.
    pub fn try_ps(&self) -> Result<Vec<Instance>, String> {
        let document = self.json(&["ps"])?;
        let row = |row: &Value| Instance {
            function: text(&row["function"]).unwrap_or_default(),
            revision: text(&row["revision"]).unwrap_or_default(),
            pid: row["pid"].as_i64().map(|pid| pid as i32),
            state: text(&row["state"]).unwrap_or_default(),
            last_exit: text(&row["last_exit"]["reason"]),
            last_message: text(&row["last_exit"]["message"]),
        };
        let rows = document["instances"]
            .as_array()
            .ok_or(format!("no instances in {document}"))?;
        Ok(rows.iter().map(row).collect())
    }

    /// The rows of `funcd ls`.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ls(&self) -> Vec<Entry> {
        let document = self
            .json(&["ls"])
            .unwrap_or_else(|error| panic!("{error}\n{}", self.log_tail()));
        let row = |row: &Value| Entry {
            name: text(&row["name"]).unwrap_or_default(),
            status: text(&row["status"]).unwrap_or_default(),
            reason: text(&row["reason"]).unwrap_or_default(),
            state: text(&row["function"]["state"]),
            revision: text(&row["function"]["revision"]),
        };
        let rows = document["functions"]
            .as_array()
            .unwrap_or_else(|| panic!("no functions in {document}"));
        rows.iter().map(row).collect()
    }

    /// The row of `funcd ls` for one name.
    #[track_caller]
    pub fn entry(&self, name: &str) -> Option<Entry> {
        self.ls().into_iter().find(|entry| entry.name == name)
    }

    /// The rows of `funcd ps` that are instances of one function.
    #[track_caller]
    pub fn instances(&self, function: &str) -> Vec<Instance> {
        self.ps()
            .into_iter()
            .filter(|row| row.function == function && row.pid.is_some())
            .collect()
    }

    /// The one instance of a function, as a process of the host. Waited for: an answer may be here before the launcher
    /// has told the pid of who gave it.
    ///
    /// # Panics
    /// When there isn't exactly one in time.
    #[track_caller]
    pub fn instance(&self, function: &str) -> Process {
        eventually(&format!("one instance of {function}"), || {
            match self.instances(function).as_slice() {
                [one] => {
                    let pid = one.pid.expect("instances() gives only those");
                    Process::of(pid).ok_or_else(|| format!("{function} should run as {pid}, which is gone"))
                }
                others => Err(format!("{others:?}\n{}", self.log_tail())),
            }
        })
    }

    /// Waits until a function has no instance.
    #[track_caller]
    pub fn wait_idle(&self, function: &str) {
        eventually(&format!("{function} to have no instance"), || {
            match self.instances(function).as_slice() {
                [] => Ok(()),
                some => Err(format!("{some:?}")),
            }
        });
    }

    /// Waits until `ps` shows this reason as the last exit of a function; its message.
    #[track_caller]
    pub fn wait_exit(&self, function: &str, reason: &str) -> String {
        eventually(&format!("{function} to have ended with {reason}"), || {
            let rows: Vec<_> = self
                .ps()
                .into_iter()
                .filter(|row| row.function == function)
                .collect();
            let found = rows.iter().find(|row| row.last_exit.as_deref() == Some(reason));
            found
                .and_then(|row| row.last_message.clone())
                .ok_or(format!("{rows:?}"))
        })
    }
}
