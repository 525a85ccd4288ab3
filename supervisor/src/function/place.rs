//! What a function is made of, as `control` keeps it: the places of its instances, its revisions with their histories, and
//! how an instance ended. Decides nothing: [`super::entry`] does.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use funcd_sandbox::exit::Exit;
use funcd_sandbox::spec::InstanceId;
use funcd_sandbox::wire::{Condition, Usage};

use super::backoff::Backoff;
use super::handle::Revision;
use super::instance::Instance;
use super::state::State;

/// How the last instance ended.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) instance: InstanceId,
    pub(super) exit: Exit,
    /// The launcher's words about a failed launch; empty otherwise.
    pub(super) message: String,
    pub(super) at: SystemTime,
}

/// A revision and its history.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) revision: Arc<Revision>,
    pub(super) backoff: Backoff,
    /// Whether an instance of it was ever ready.
    pub(super) proven: bool,
}

impl Generation {
    pub(super) fn new(revision: Arc<Revision>) -> Generation {
        Generation {
            revision,
            backoff: Backoff::default(),
            proven: false,
        }
    }
}

/// The place of one instance.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) state: State,
    pub(super) revision: Arc<Revision>,
    pub(super) since: SystemTime,
    pub(super) id: Option<InstanceId>,
    pub(super) pid: Option<i32>,
    /// Present from the launch to the end of the process.
    pub(super) instance: Option<Arc<Instance>>,
    pub(super) ready_at: Option<Instant>,
    /// As of the last survey; zero before it.
    pub(super) usage: Usage,
    /// Cores that it used between the last two surveys; 0 before them.
    pub(super) cpu: f64,
    /// Its CPU time, in microseconds, when that was looked at, and when.
    pub(super) surveyed_at: Option<(u64, Instant)>,
    /// Cores that it used between the last two times that this was told, and how often admission looked since; `None`: not
    /// known, or too long ago.
    pub(super) rate: Option<(f64, usize)>,
    /// Its CPU time, in microseconds, when it was told last.
    pub(super) told: Option<(u64, Instant)>,
    /// When its launch was asked for.
    pub(super) started_at: Option<Instant>,
    /// When the launcher was last asked what keeps it from answering.
    pub(super) look_at: Option<Instant>,
    /// What it said last, and when.
    pub(super) looked: Option<(Instant, Condition)>,
    /// Set once it is being replaced: what its end is to be called.
    pub(super) ejected: Option<Exit>,
}

impl Slot {
    /// A place where nothing runs yet.
    pub(super) fn new(revision: Arc<Revision>, since: SystemTime) -> Slot {
        Slot {
            state: State::Idle,
            revision,
            since,
            id: None,
            pid: None,
            instance: None,
            ready_at: None,
            usage: Usage::default(),
            cpu: 0.0,
            surveyed_at: None,
            rate: None,
            told: None,
            started_at: None,
            look_at: None,
            looked: None,
            ejected: None,
        }
    }
}

/// What people are to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// An instance is being replaced.
    Ejected {
        instance: InstanceId,
        exit: Exit,
        why: String,
    },
    /// A health request came to nothing because something else keeps the instance from answering.
    Excused { instance: InstanceId, why: &'static str },
    /// An instance ended that nobody asked to; it is started again after so long.
    Restarts { wait: Duration },
    /// It is not started again for so long.
    GaveUp {
        pause: Duration,
        reason: String,
        others_serve: bool,
    },
    /// It runs again after that.
    Recovered,
}

/// What became of the revision that was to be proven.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rollout {
    /// Nothing new.
    Unchanged,
    /// It has the traffic now.
    Promoted,
    /// It never got ready and was given up, for this reason.
    Abandoned(String),
}

impl Ended {
    /// For people, for example `exited with code 3`.
    pub(super) fn describe(&self) -> String {
        match self.message.is_empty() {
            true => self.exit.to_string(),
            false => self.message.clone(),
        }
    }
}
