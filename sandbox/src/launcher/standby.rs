//! Instances that wait right before exec, from the request to prepare them to the word that they run. They are instances
//! in all but that: the same leaf, pidfd and end.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::failed::{explain, failed};
use super::launch::REST;
use super::poll::Token;
use super::serve::Launcher;
use crate::confine::{Progress, Standby};
use crate::probe::Plan;
use crate::spec::{InstanceId, Socket, Spec};
use crate::wire::Event;

/// Instances that may wait at once, whatever the supervisor asks for: each costs the host a process. Twice as many as it may be
/// configured to have (`standbys`), as each may be on its way out when the one in its place is asked for.
/// Those for one request each wait only until that has come, and are bounded like what runs.
pub(super) const MOST: usize = 2 * 64;

/// How long after it let go of its status socket a prepared instance is told of: most have answered by then.
const KEEP: Duration = Duration::from_millis(2);

/// What an instance keeps until it runs.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) standby: Standby,
    /// For the supervisor: pipes at once, a listener once it runs.
    pub(super) gifts: Vec<Rc<OwnedFd>>,
    /// Whose it is, to be told with a failure.
    pub(super) function: String,
}

/// Whether such an instance can be prepared on this host. Below a mini-init it would be another process that waits; and
/// without scopes its siblings, which have its uid, could stop it.
pub(super) fn can_stand_by(plan: &Plan) -> bool {
    !plan.pid_namespace && plan.landlock_abi.is_some_and(|abi| abi >= crate::probe::SCOPES)
}

/// Why this one can't be prepared: what it is granted is bound and opened now, and may be another thing when it runs.
pub(super) fn refusal(plan: &Plan, spec: &Spec) -> Option<&'static str> {
    // Those for one request each are made when requests are there: what they are granted is looked up no earlier than the
    // supervisor asks, and without scopes a mini-init keeps their siblings from them.
    if spec.socket == Socket::Pipes {
        return None;
    }
    if !can_stand_by(plan) {
        Some(
            "this host starts functions below a mini-init (Landlock before ABI 6, or no uids): none is prepared ahead",
        )
    } else if spec.socket != Socket::Unix || !spec.ports.is_empty() {
        Some("an instance with a port or socket of its own can't be prepared ahead")
    } else if !spec.read.is_empty() || !spec.write.is_empty() || !spec.secrets.is_empty() {
        Some("an instance with grants or secrets can't be prepared ahead")
    } else {
        None
    }
}

impl Launcher {
    pub(super) fn standbys(&self) -> usize {
        let waits =
            |instance: &&super::serve::Instance| instance.waiting.is_some() && !instance.with_supervisor;
        self.instances.values().filter(waits).count()
    }

    /// Something is to be read from one that is on its way, or one that waited has executed or failed. The latter keeps: while
    /// the request that woke it waits for its first answer, launcher and control leave it the processors.
    pub(super) fn on_standby_event(&mut self, id: InstanceId) {
        let instance = self.instances.get(&id);
        match instance.and_then(|instance| instance.waiting.as_ref()) {
            Some(waiting) if waiting.standby.is_ready() => {
                self.gone_on.push_back((Instant::now() + KEEP, id))
            }
            Some(_) => self.on_standby(id),
            None => {}
        }
    }

    /// It waits from now on, executed, or failed.
    pub(super) fn on_standby(&mut self, id: InstanceId) {
        while let Some(instance) = self.instances.get_mut(&id)
            && let Some(waiting) = &mut instance.waiting
        {
            match waiting.standby.progress() {
                Progress::Underway => return,
                Progress::Ready(go) => {
                    // Failing that, each look finds nothing to do.
                    let _ = self
                        .poll
                        .watch_closing(waiting.standby.socket(), Token::Standby(id));
                    let mut fds = vec![Rc::new(go)];
                    if instance.with_supervisor {
                        fds.append(&mut waiting.gifts);
                        // It may use its bindings before it is known that it executed.
                        fds.extend(instance.ports.iter().map(Rc::clone));
                    }
                    // Below a mini-init it was not known before.
                    instance.sandbox.pid = waiting.standby.main().unwrap_or(instance.sandbox.pid);
                    let owner = instance.owner;
                    self.tell(owner, &Event::Prepared { id }, fds);
                }
                Progress::Executed => {
                    let gifts = instance.waiting.take().map(|waiting| waiting.gifts);
                    let mut descriptors = instance.descriptors();
                    descriptors.extend(gifts.into_iter().flatten());
                    let (pid, owner) = (instance.sandbox.pid, instance.owner);
                    self.tell(owner, &Event::Launched { id, pid }, descriptors);
                    self.rest_until = Instant::now() + REST;
                }
                Progress::Failed(failure) => {
                    let function = std::mem::take(&mut waiting.function);
                    instance.waiting = None;
                    instance.end_is_told = true;
                    instance.sandbox.kill_all();
                    let owner = instance.owner;
                    self.tell(owner, &failed(&function, id, explain(failure)), Vec::new());
                }
            }
        }
    }

    /// A new supervisor knows nothing of them, and prepares its own. One that was woken by the last request of the old one
    /// is an instance like any other, unless that had its pipes: it answers nobody.
    /// Those of `except` are left to that, which lives.
    pub(super) fn drop_standbys(&mut self, except: Option<u32>) {
        let theirs = |instance: &&mut super::serve::Instance| Some(instance.owner) != except;
        for instance in self.instances.values_mut().filter(theirs) {
            let executed = |mut waiting: Waiting| matches!(waiting.standby.progress(), Progress::Executed);
            let waits = instance.waiting.take().is_some_and(|waiting| !executed(waiting));
            if waits || instance.with_supervisor {
                instance.end_is_told = true;
                instance.sandbox.kill_all();
            }
        }
    }
}
