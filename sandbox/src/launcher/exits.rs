//! The end of instances: why, what is left of them, and who is told. An instance is told of only once nothing of it is left;
//! one that is spoken to over pipes as soon as what is left was killed.

use std::time::{Duration, Instant};

use super::log;
use super::serve::Launcher;
use crate::cgroup::Leaf;
use crate::exit::Exit;
use crate::spec::InstanceId;
use crate::wire::{Event, Spent};

/// How long after a v1 out-of-memory event the kernel's kill is looked for.
const OOM_WATCH: Duration = Duration::from_secs(1);
/// How often.
pub(super) const OOM_LOOK: Duration = Duration::from_millis(5);

/// A leaf whose main process has ended, until nothing is in it.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) leaf: Leaf,
    /// Who is to be told, and what.
    pub(super) tell: Option<(InstanceId, Exit, Spent)>,
    pub(super) tries: u32,
    pub(super) next: Instant,
}

impl Launcher {
    pub(super) fn on_instance_end(&mut self, id: InstanceId) {
        // That it executed, or why not, is told before that it ended.
        self.on_standby(id);
        let Some(instance) = self.instances.get_mut(&id) else {
            return;
        };
        let (exit, spent) = match instance.sandbox.try_end() {
            Ok(Some(ended)) => ended,
            Ok(None) => return,
            Err(e) => {
                log(format_args!("instance {id} can't be waited for: {e}"));
                (Exit::Lost, Spent::default())
            }
        };
        let Some(instance) = self.instances.remove(&id) else {
            return;
        };
        self.children.remove(&instance.sandbox.child);
        self.short_of_memory.retain(|(other, _)| *other != id);
        let _ = std::fs::remove_file(self.folders.socket(&id.to_string()));
        self.secrets.remove(id);
        let mut tell = (!instance.end_is_told).then_some((id, exit, spent));
        // Whoever waits for how it ended waits for no cgroup: what it left behind was killed.
        if instance.stdout.is_none()
            && let Some((id, exit, spent)) = tell.take()
        {
            self.tell_all(&Event::Exited { id, exit, spent });
        }
        self.leave(instance.sandbox.into_leaf(), tell);
    }

    /// Removes a leaf now, or as soon as nothing is in it; then tells.
    pub(super) fn leave(&mut self, leaf: Leaf, tell: Option<(InstanceId, Exit, Spent)>) {
        let now = Instant::now();
        self.leaving.push(Leaving {
            leaf,
            tell,
            tries: 0,
            next: now,
        });
        self.remove_leaving(now);
    }

    pub(super) fn remove_leaving(&mut self, now: Instant) {
        let mut index = 0;
        while let Some(leaving) = self.leaving.get_mut(index) {
            if leaving.next > now || !leaving.try_remove(now) {
                index += 1;
                continue;
            }
            if let Some((id, exit, spent)) = self.leaving.swap_remove(index).tell {
                self.tell_all(&Event::Exited { id, exit, spent });
            }
        }
    }

    /// v1 tells that the limit is reached just before it kills; v2 kills the whole group by itself.
    pub(super) fn on_oom(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get(&id) else {
            return;
        };
        if let Some(event) = &instance.oom {
            // Only to have it silent again; the count says nothing.
            let _ = nix::unistd::read(event, &mut [0; 8]);
        }
        self.short_of_memory.push((id, Instant::now() + OOM_WATCH));
    }

    pub(super) fn look_for_oom_kills(&mut self, now: Instant) {
        let instances = &mut self.instances;
        self.short_of_memory.retain(|(id, until)| {
            let Some(instance) = instances.get_mut(id) else {
                return false;
            };
            let killed = instance.sandbox.leaf().oom_kills() > 0;
            if killed {
                instance.sandbox.kill_all();
            }
            !killed && now < *until
        });
    }
}

impl Leaving {
    /// Whether it is gone; otherwise it is tried again later, the more rarely the longer it takes.
    pub(super) fn try_remove(&mut self, now: Instant) -> bool {
        match self.leaf.remove() {
            Ok(true) => return true,
            Ok(false) => {}
            Err(e) if self.tries == 0 => log(format_args!("a cgroup can't be removed: {e}")),
            Err(_) => {}
        }
        // On v1 what forked during the last kill is still there.
        self.leaf.kill();
        let pause = Duration::from_millis(1) * 2_u32.saturating_pow(self.tries.min(6));
        self.tries += 1;
        self.next = now + pause;
        false
    }
}
