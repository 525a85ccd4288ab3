//! The end of a launcher: signal all, then wait for all, then remove what only a running one has.

use std::time::{Duration, Instant};

use super::log;
use super::serve::Launcher;
use super::supervisor::Supervisor;
use crate::exit::Exit;

/// How long killed processes may take to be gone.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

impl Launcher {
    /// Ends every instance and the supervisor, removes cgroups, sockets and run files.
    pub(super) fn end(mut self) {
        let began = Instant::now();
        for instance in self.instances.values() {
            instance.sandbox.kill_all();
        }
        self.give_up_upgrade();
        for supervisor in self.supervisors() {
            supervisor.let_go(began);
        }
        while !self.is_ended() && began.elapsed() < PATIENCE {
            for supervisor in self.supervisors() {
                if supervisor.stuck_at().is_some_and(|at| Instant::now() >= at) {
                    supervisor.give_up();
                }
            }
            self.wait_a_moment();
        }
        self.reap();
        if !self.is_ended() {
            log(format_args!(
                "{} instances and {} cgroups do not end; giving up on them",
                self.instances.len(),
                self.leaving.len()
            ));
        }
        if let Err(e) = self.uids.save() {
            log(format_args!("{e}"));
        }
        if let Some(tree) = self.tree.take()
            && let Err(e) = tree.remove()
        {
            log(format_args!("a cgroup stays: {e}"));
        }
        self.listeners.clear();
        self.folders.clear();
    }

    fn is_ended(&self) -> bool {
        let supervisors = self.supervisor.is_some() || self.old.is_some();
        self.instances.is_empty() && self.leaving.is_empty() && !supervisors
    }

    fn wait_a_moment(&mut self) {
        // Any event does; what it was about is looked up below.
        let _ = self.poll.wait(Some(Duration::from_millis(5)));
        // Or it would not wait any more.
        while let Ok(Some(_)) = self.signals.read_signal() {}
        let ids: Vec<_> = self.instances.keys().copied().collect();
        for id in ids {
            self.on_instance_end(id);
        }
        self.remove_leaving(Instant::now());
        if let Some(status) = self.supervisor.as_ref().and_then(Supervisor::try_reap) {
            let how = match status {
                crate::sys::process::Status::Code(0) => None,
                crate::sys::process::Status::Code(code) => Some(Exit::Code { code }),
                crate::sys::process::Status::Signal(signal) => Some(Exit::Signal { signal }),
            };
            if let Some(how) = how {
                log(format_args!("the supervisor {how} at the end"));
            }
            self.supervisor = None;
        }
        if self
            .old
            .as_ref()
            .is_some_and(|old| old.supervisor.try_reap().is_some())
        {
            self.old = None;
        }
    }
}
