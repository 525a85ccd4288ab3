//! The documents of the admin API and of `--json`: one definition for server, client and docs/api.md. Fields may be
//! added; a change of meaning raises [`VERSION`].

use std::collections::BTreeMap;
use std::sync::Arc;

use funcd_sandbox::exit::Exit;
use funcd_sandbox::probe::Grade;
use funcd_sandbox::property::Property;
use funcd_sandbox::spec::Limits;
use serde::{Deserialize, Serialize};

use crate::admission::View;
use crate::catalog::Entry;
use crate::function::handle::Revision;

/// The version of every document.
pub const VERSION: u32 = 1;

/// A document: its version beside its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document<T> {
    /// [`VERSION`].
    pub version: u32,
    /// The content.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Document<T> {
    /// The content as a document of this version.
    pub fn new(body: T) -> Document<T> {
        Document {
            version: VERSION,
            body,
        }
    }
}

/// Where a function, or one of its instances, is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nothing runs; the next request starts an instance.
    Idle,
    /// A process runs, and has not answered yet.
    Starting,
    /// Accepts requests.
    Ready,
    /// Stopped where it is, and takes no CPU; the next request lets it go on.
    Frozen,
    /// Finishes what it has, accepts no more.
    Draining,
    /// Waits before the next start.
    Backoff,
    /// Gave up; the reason says why.
    Failed,
}

impl State {
    /// The name in JSON, tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Starting => "starting",
            State::Ready => "ready",
            State::Frozen => "frozen",
            State::Draining => "draining",
            State::Backoff => "backoff",
            State::Failed => "failed",
        }
    }
}

/// What the folder says of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It is, or is about to be, a function.
    Accepted,
    /// Somebody is still writing it.
    Settling,
    /// It is not a function.
    Refused,
    /// It is gone from the folder; its function still drains.
    Removed,
}

impl Status {
    /// The name in JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Accepted => "accepted",
            Status::Settling => "settling",
            Status::Refused => "refused",
            Status::Removed => "removed",
        }
    }
}

/// `GET /v1/functions`: every entry of the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Functions {
    /// By file name.
    pub functions: Vec<FunctionView>,
    /// The properties of the sandbox that all of them run without, because the operator accepts that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<Property>,
}

/// One entry of the folder and the function that it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionView {
    /// The file name; the function's name when it was ever accepted.
    pub name: String,
    /// What the folder says of the entry as it is now. A refused entry may have a running function: the revision from
    /// before it became unacceptable.
    pub status: Status,
    /// Why it is refused, as a word from a closed list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Why it is refused, or what is awaited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The function, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionState>,
}

/// A function as `control` knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionState {
    /// Where it is in its life.
    pub state: State,
    /// Since when: RFC 3339.
    pub since: String,
    /// Why it is in backoff or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The revision that new requests go to, 64 hexadecimal digits.
    pub revision: String,
    /// How requests get in: `http`, `port`, `stdio`, `cgi`, `ironhttp` or `fn`.
    #[serde(default)]
    pub contract: String,
    /// With `contract = "auto"`: why it is that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// What it answers: `/hello/` or `img.example.com/thumbs`.
    pub routes: Vec<String>,
    /// How many processes it has.
    pub instances: u32,
    /// Requests between permit and the end of their response body.
    pub in_flight: u64,
    /// Requests that wait for an instance.
    pub waiting: u64,
    /// Whether its next start is prepared: a process waits right before exec.
    #[serde(default)]
    pub standby: bool,
    /// The newest revision that was tried and did not become live, while an older one goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Rejected>,
    /// What it may reach.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bindings: Vec<BindingView>,
}

/// One binding of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingView {
    /// Its name.
    pub name: String,
    /// Where it leads: `tcp://…`, `http://…`, `function NAME`.
    pub target: String,
    /// Of one that carries HTTP and was used: `closed` while calls pass, `open` while none does, `half-open` while a few try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<String>,
    /// Calls in flight, of all instances.
    #[serde(default)]
    pub in_flight: u32,
    /// What the operator should look at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A revision that did not become live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Which: 64 hexadecimal digits.
    pub revision: String,
    /// Why.
    pub reason: String,
}

/// `GET /v1/instances`: every instance, and a row for each function without one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instances {
    /// By function, then by instance.
    pub instances: Vec<InstanceView>,
    /// As in [`Functions::degraded`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<Property>,
    /// What the host holds back; absent while that is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brownout: Option<BrownoutView>,
}

/// What a host that is short of something holds back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BrownoutView {
    /// A word from a closed list: `no-scale-up`, `bulk`, `told`, `reclaim`, `best-effort`, `degraded`, `critical`, in this order;
    /// `none`.
    pub stage: String,
    /// What is done, for people.
    pub message: String,
    /// Since when: RFC 3339.
    pub since: String,
    /// What the host has too little of: `cpu`, `memory-pressure`, `memory`, `descriptors`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// How much too little, 0 to 1.
    pub overload: f64,
    /// Requests with a score above this are refused; 100: none.
    pub threshold: u8,
    /// Whether that is done: `brownout` of the configuration.
    pub acts: bool,
}

/// `GET /v1/host`: what the host is like now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostView {
    /// What it holds back.
    pub brownout: BrownoutView,
    /// How long the supervisor waited for a CPU each time it wanted one, in milliseconds.
    pub cpu_delay_ms: f64,
    /// The part of the time for which some thread of the supervisor waited for memory, 0 to 1.
    pub memory_pressure: f64,
    /// The same for a CPU; nothing follows from it.
    pub cpu_pressure: f64,
    /// The same for input and output; nothing follows from it.
    pub io_pressure: f64,
    /// CPU of the host in use, 0 to 1; nothing follows from it.
    pub cpu_busy: f64,
    /// Memory that can be had, in bytes.
    pub memory_available: u64,
    /// All of it, in bytes.
    pub memory_total: u64,
    /// Open descriptors of the supervisor.
    pub descriptors_open: u64,
    /// How many it may have.
    pub descriptors_limit: u64,
}

/// An instance, or a function that has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceView {
    /// Whose.
    pub function: String,
    /// The revision that it runs, 64 hexadecimal digits.
    pub revision: String,
    /// Its id; absent when the function has no instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u64>,
    /// The pid of its main process as the host sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// Where it is in its life; the function's state when there is no instance.
    pub state: State,
    /// Since when: RFC 3339.
    pub since: String,
    /// How the function's last instance that ended did so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<ExitView>,
    /// Requests that it works on.
    pub in_flight: u64,
    /// What it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsView>,
    /// What admission knows of its function, once that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admission: Option<AdmissionView>,
}

/// Who may pass, for a function with all its instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionView {
    /// How many requests may be in flight.
    pub limit: u32,
    /// How many are.
    pub in_flight: u32,
    /// How many wait.
    pub waiting: u32,
    /// What an answer takes, from its dispatch to its head: the median of the last tenth of a second to second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_micros: Option<u64>,
    /// Whether its CPU is what is short.
    pub saturated: bool,
    /// The part of the requests that the breaker refuses, in thousandths.
    pub refused_thousandths: u32,
}

impl From<View> for AdmissionView {
    fn from(view: View) -> AdmissionView {
        AdmissionView {
            limit: view.limit,
            in_flight: view.in_flight,
            waiting: view.waiting,
            p50_micros: view.p50.map(|p50| p50.as_micros() as u64),
            saturated: view.is_saturated,
            refused_thousandths: (view.breaker * 1000.0).round() as u32,
        }
    }
}

/// What an instance may use, all its processes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsView {
    /// Memory in bytes, swap included.
    pub memory_bytes: u64,
    /// CPU time per wall time, in thousandths of one core.
    pub cpu_millis: u32,
    /// Processes and threads.
    pub pids: u32,
}

impl From<&Limits> for LimitsView {
    fn from(limits: &Limits) -> LimitsView {
        LimitsView {
            memory_bytes: limits.memory_bytes,
            cpu_millis: limits.cpu_millis,
            pids: limits.pids,
        }
    }
}

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitView {
    /// A word from a closed list: `code`, `signal`, `oom`, `start-timeout`, `stop-timeout`, `stopped`, `launch`, `lost`,
    /// `ejected`, `unresponsive`.
    pub reason: String,
    /// The same for people.
    pub message: String,
    /// When: RFC 3339.
    pub at: String,
    /// Which instance it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u64>,
}

impl ExitView {
    /// An end as shown; `at` as RFC 3339.
    pub fn new(exit: &Exit, at: String) -> ExitView {
        ExitView {
            reason: exit.reason().to_owned(),
            message: exit.to_string(),
            at,
            instance: None,
        }
    }
}

/// `GET /v1/doctor`: how this host keeps the promises of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doctor {
    /// The kernel's release.
    pub kernel: String,
    /// Its Landlock ABI; absent without Landlock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub landlock_abi: Option<u32>,
    /// `v2`, `hybrid`, `v1` or `none`: how control groups are mounted.
    pub cgroup: String,
    /// Whether the launcher is root; if not, some properties can't be kept.
    pub root: bool,
    /// Whether systemd runs this machine.
    #[serde(default)]
    pub systemd: bool,
    /// All ten, in order.
    pub properties: Vec<PropertyView>,
}

/// How one property stands on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PropertyView {
    /// `P1` to `P10`.
    pub code: String,
    /// Its name, as in `degraded = [...]`.
    pub name: Property,
    /// Whether it is kept.
    pub kept: bool,
    /// Missing, and the operator accepts that for every function.
    pub accepted: bool,
    /// What keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<String>,
    /// Why it is missing; empty, and absent in JSON, when it is kept.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cause: String,
    /// What to do about that; like `cause`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fix: String,
    /// What would keep it on any host: sets of mechanisms with what each needs of the kernel.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub needs: String,
}

impl Doctor {
    /// The properties that functions run without, because the operator accepts that.
    pub fn degraded(&self) -> Vec<Property> {
        let accepted = self.properties.iter().filter(|property| property.accepted);
        accepted.map(|property| property.name).collect()
    }
}

impl PropertyView {
    /// A grade as shown, on a host whose operator accepts `degraded`.
    pub fn new(grade: &Grade, degraded: &[Property]) -> PropertyView {
        let kept = grade.mechanism.is_some();
        PropertyView {
            code: grade.property.code(),
            name: grade.property,
            kept,
            accepted: !kept && degraded.contains(&grade.property),
            mechanism: grade.mechanism.clone(),
            cause: grade.cause.clone(),
            fix: grade.fix.clone(),
            needs: grade.needs.clone(),
        }
    }
}

/// `GET /v1/version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The version of funcd.
    pub funcd: String,
}

impl Version {
    /// What this program is.
    pub fn of_this_program() -> Version {
        Version {
            funcd: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// `POST /v1/upgrade`: another program is in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    /// The version of funcd that serves now.
    pub funcd: String,
    /// The version that served before.
    pub before: String,
}

/// `GET /v1/config`: the configuration in use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigView {
    /// The configuration.
    pub config: crate::config::Config,
}

/// Every answer of the admin API that is not a success: RFC 9457.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, and what to do next.
    pub detail: String,
}

/// What `control` knows now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Every function by name.
    pub functions: BTreeMap<String, FunctionState>,
    /// The rows of `ps`, in order.
    pub instances: Vec<InstanceView>,
    /// The revision that each function serves.
    pub revisions: BTreeMap<String, Arc<Revision>>,
}

/// The entries of the folder, each with its function, and the functions whose entries are gone.
pub fn functions(
    entries: &BTreeMap<String, Entry>,
    mut known: BTreeMap<String, FunctionState>,
    degraded: Vec<Property>,
) -> Functions {
    let mut functions: Vec<FunctionView> = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let (status, kind, reason) = match entry {
            Entry::Accepted => (Status::Accepted, None, None),
            Entry::Settling { reason } => (Status::Settling, None, Some(reason.clone())),
            Entry::Refused { kind, reason } => {
                (Status::Refused, Some((*kind).to_owned()), Some(reason.clone()))
            }
        };
        functions.push(FunctionView {
            function: known.remove(name),
            name: name.clone(),
            status,
            kind,
            reason,
        });
    }
    functions.extend(known.into_iter().map(|(name, state)| FunctionView {
        name,
        status: Status::Removed,
        kind: None,
        reason: None,
        function: Some(state),
    }));
    functions.sort_by(|a, b| a.name.cmp(&b.name));
    Functions { functions, degraded }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A function in this state.
    pub(crate) fn state(state: State) -> FunctionState {
        FunctionState {
            state,
            since: "2026-01-01T00:00:00.000Z".to_owned(),
            reason: None,
            revision: "ab".repeat(32),
            contract: "http".to_owned(),
            because: None,
            routes: vec!["/hello/".to_owned()],
            instances: 1,
            in_flight: 2,
            waiting: 0,
            standby: false,
            rejected: None,
            bindings: Vec::new(),
        }
    }

    #[test]
    fn entries_and_functions_meet_by_name() {
        let refused = Entry::Refused {
            kind: "not-executable",
            reason: "chmod +x it".to_owned(),
        };
        let entries = BTreeMap::from([
            ("broken".to_owned(), refused),
            ("hello".to_owned(), Entry::Accepted),
        ]);
        let known = BTreeMap::from([
            ("hello".to_owned(), state(State::Ready)),
            ("gone".to_owned(), state(State::Draining)),
        ]);
        let functions = functions(&entries, known, Vec::new()).functions;
        let rows: Vec<_> = functions
            .iter()
            .map(|f| (f.name.as_str(), f.status, f.kind.as_deref(), f.function.is_some()))
            .collect();
        assert_eq!(
            rows,
            [
                ("broken", Status::Refused, Some("not-executable"), false),
                ("gone", Status::Removed, None, true),
                ("hello", Status::Accepted, None, true),
            ]
        );
    }

    #[test]
    fn a_document_has_its_version_beside_its_content() {
        let document = Document::new(Version {
            funcd: "1.2.3".to_owned(),
        });
        let json = serde_json::to_string(&document).unwrap();
        assert_eq!(json, r#"{"version":1,"funcd":"1.2.3"}"#);
        assert_eq!(
            serde_json::from_str::<Document<Version>>(&json).unwrap(),
            document
        );
    }

    #[test]
    fn names_in_json_and_in_tables_are_the_same() {
        let states = [
            State::Idle,
            State::Starting,
            State::Ready,
            State::Frozen,
            State::Draining,
            State::Backoff,
            State::Failed,
        ];
        for state in states {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        for status in [
            Status::Accepted,
            Status::Settling,
            Status::Refused,
            Status::Removed,
        ] {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
    }
}
