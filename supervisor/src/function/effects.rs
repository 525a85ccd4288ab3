//! What a decision about a function does to the world: messages to the launcher. Time and chance come in here.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use funcd_sandbox::spec::InstanceId;
use funcd_sandbox::wire::Request;
use rand::rngs::SmallRng;

use super::handle::Revision;
use super::instance::Instance;
use super::room::HostFacts;
use super::start;
use super::starts::Bucket;
use crate::name::FunctionName;

/// The world as one event of `control` sees it.
#[derive(Debug)]
pub(super) struct Effects<'a> {
    pub(super) now: Instant,
    pub(super) wall: SystemTime,
    pub(super) rng: &'a mut SmallRng,
    /// What the host has left.
    pub(super) host: &'a mut HostFacts,
    /// What may be started again.
    pub(super) restarts: &'a mut Bucket,
    /// Requests to the launcher, in order; sent when the event is done.
    pub(super) requests: &'a mut Vec<Request>,
    /// Instances launched by this event, with whose they are.
    pub(super) launches: &'a mut Vec<(InstanceId, FunctionName)>,
    /// Whether processes may be prepared ahead of the requests they are for, on this host.
    pub(super) may_prepare: bool,
    /// How many more of them may wait now.
    pub(super) ahead: usize,
    /// The next free instance id.
    pub(super) next_id: &'a mut u64,
}

impl Effects<'_> {
    pub(super) fn launch(&mut self, function: &FunctionName, revision: &Arc<Revision>) -> InstanceId {
        let id = InstanceId(*self.next_id);
        *self.next_id += 1;
        self.launches.push((id, function.clone()));
        self.requests.push(Request::Launch {
            id,
            spec: Box::new(start::spec(function, revision)),
        });
        id
    }

    /// Has a process for one request made, which waits for that right before exec.
    pub(super) fn prepare(&mut self, function: &FunctionName, revision: &Arc<Revision>) -> InstanceId {
        let id = InstanceId(*self.next_id);
        *self.next_id += 1;
        self.ahead = self.ahead.saturating_sub(1);
        self.launches.push((id, function.clone()));
        self.requests.push(Request::Prepare {
            id,
            spec: Box::new(start::spec(function, revision)),
        });
        id
    }

    /// Starts an instance that was prepared, unless a request did so already.
    pub(super) fn wake(&mut self, function: &FunctionName, standby: &Instance) {
        self.launches.push((standby.id, function.clone()));
        standby.wake();
    }

    pub(super) fn terminate(&mut self, id: InstanceId) {
        self.requests.push(Request::Terminate { id });
    }

    pub(super) fn freeze(&mut self, id: InstanceId) {
        self.requests.push(Request::Freeze { id });
    }

    pub(super) fn thaw(&mut self, id: InstanceId) {
        self.requests.push(Request::Thaw { id });
    }

    /// Asks what keeps it from answering.
    pub(super) fn look(&mut self, id: InstanceId) {
        self.requests.push(Request::Look { id });
    }

    pub(super) fn kill(&mut self, id: InstanceId) {
        self.requests.push(Request::Kill { id });
    }
}
