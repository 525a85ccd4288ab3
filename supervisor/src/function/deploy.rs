//! How what the catalog names becomes a revision, and how a new supervisor takes over what an old one left running:
//! the part of `control` that deals with the store and the inventory.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use funcd_sandbox::spec::{Digest, InstanceId};
use funcd_sandbox::wire::{Request, StoreError};

use super::control::{Control, Inherited, Notice};
use super::entry::Entry;
use super::handle::Revision;
use super::start::Memo;
use super::succession::Later;
use crate::catalog::binding::Target;
use crate::catalog::manifest::Defaults;
use crate::catalog::{self, Candidate, Change};
use crate::ingress::Routes;
use crate::name::{FunctionName, RevisionId};

/// How far the first reading of the folder is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sync {
    /// The catalog has not told all of it.
    Reading,
    /// It has; these are on their way to become revisions.
    Storing(HashSet<FunctionName>),
    /// Everything is known.
    Done,
}

impl Control {
    pub(super) fn on_change(&mut self, change: Change) {
        // What is deployed now would bring back what is on its way out, and the drain would never end.
        if self.draining || self.said_goodbye || self.retired {
            return;
        }
        match change {
            Change::Deploy(candidate) => self.store(candidate),
            Change::Remove(name) => self.on_remove(&name),
            Change::Entries(entries) => self.on_entries(entries),
        }
    }

    fn on_remove(&mut self, name: &FunctionName) {
        tracing::info!(function = %name, "removed");
        self.storing.retain(|_, candidate| candidate.name != *name);
        self.serials.remove(name);
        self.with(name, Entry::remove);
        self.tidiness.deployed(Instant::now());
        self.publish_routes();
        self.resolved(name);
    }

    fn on_entries(&mut self, entries: BTreeMap<String, catalog::Entry>) {
        let accepted = |name: &FunctionName| entries.get(name.as_str()) == Some(&catalog::Entry::Accepted);
        match &mut self.synced {
            Sync::Reading => {
                let names = entries.keys().filter_map(|name| FunctionName::parse(name).ok());
                // Those that are stored are known, or were refused.
                let is_on_its_way =
                    |name: &FunctionName| self.storing.values().any(|candidate| candidate.name == *name);
                let awaited = names.filter(|name| {
                    accepted(name) && (!self.serials.contains_key(name) || is_on_its_way(name))
                });
                self.synced = Sync::Storing(awaited.collect());
                // What was inherited and has no file any more was removed while no supervisor ran.
                let known: Vec<_> = self.entries.keys().cloned().collect();
                for name in known.iter().filter(|name| !entries.contains_key(name.as_str())) {
                    self.on_remove(name);
                }
            }
            Sync::Storing(awaited) => awaited.retain(|name| accepted(name)),
            Sync::Done => {}
        }
        self.report.entries(entries);
        self.check_synced();
    }

    fn store(&mut self, candidate: Candidate) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        // A newer candidate of the same function replaces one that is still being stored.
        self.storing.retain(|_, older| older.name != candidate.name);
        self.serials.insert(candidate.name.clone(), candidate.serial);
        let sent = candidate
            .executable
            .try_clone()
            .and_then(|executable| self.launcher.send(&Request::Store { ticket }, vec![executable]));
        match sent {
            Ok(()) => drop(self.storing.insert(ticket, candidate)),
            Err(e) => self.refuse(
                &candidate.name,
                "not-stored",
                format!("can't hand it to the launcher: {e}"),
            ),
        }
    }

    pub(super) fn refuse(&mut self, name: &FunctionName, kind: &'static str, reason: String) {
        if let Some(&serial) = self.serials.get(name) {
            self.report.refused(name, serial, kind, reason);
        }
        self.resolved(name);
    }

    pub(super) fn on_stored(&mut self, ticket: u64, result: Result<(Digest, u64), StoreError>) {
        let Some(candidate) = self.storing.remove(&ticket) else {
            return;
        };
        let (name, serial) = (candidate.name.clone(), candidate.serial);
        match result {
            Ok((artifact, _)) => self.deploy(candidate, artifact),
            Err(StoreError::BeingWritten) => self.retry(&name, serial, "it is still open for writing"),
            Err(StoreError::Changed) => self.retry(&name, serial, "it changed while it was copied"),
            Err(StoreError::Refused(reason)) => self.refuse(&name, "not-stored", reason),
        }
        self.resolved(&name);
    }

    /// It comes again, and is awaited until then if it is one of the first reading.
    fn retry(&mut self, name: &FunctionName, serial: u64, why: &'static str) {
        self.serials.remove(name);
        self.report.retry(name, serial, why);
    }

    fn deploy(&mut self, candidate: Candidate, artifact: Digest) {
        let Candidate {
            name,
            serial,
            manifest,
            manifest_text,
            image,
            wanted,
            ..
        } = candidate;
        let id = RevisionId::of(artifact, &manifest_text);
        let revision = Arc::new(Revision {
            id,
            artifact,
            image,
            wanted,
            manifest,
            manifest_text,
        });
        if self
            .entries
            .get(&name)
            .is_none_or(|entry| entry.current().id != id)
        {
            tracing::info!(function = %name, revision = id.short(), "deploying");
            if revision.manifest.scale.freeze.is_some() && !self.can_freeze {
                tracing::warn!(function = %name, "`scale.freeze` does nothing: this host has no cgroup freezer (Linux 5.2)");
            }
        }
        if self.entries.contains_key(&name) {
            self.with(&name, |entry, effects| entry.deploy(revision, effects));
        } else {
            self.add(&name, revision);
            self.with(&name, Entry::tick);
        }
        self.tidiness.deployed(Instant::now());
        self.report.accepted(&name, serial);
        self.publish_routes();
    }

    /// A function that was not known, with nothing running yet.
    fn add(&mut self, name: &FunctionName, revision: Arc<Revision>) {
        let mut entry = Entry::new(name.clone(), revision, self.to_control.clone(), SystemTime::now());
        entry.freezes = self.can_freeze;
        self.entries.insert(name.clone(), entry);
    }

    pub(super) fn publish_routes(&mut self) {
        let live = self.entries.values().filter(|entry| !entry.is_removed());
        let routes = live.map(|entry| (Arc::clone(&entry.handle), entry.current().manifest.routes.clone()));
        let routes = Routes::new(routes);
        // Said once, not with each change of another function.
        let known = self.routes.load();
        for conflict in routes
            .conflicts()
            .iter()
            .filter(|c| !known.conflicts().contains(c))
        {
            tracing::warn!(%conflict, "two functions ask for the same route");
        }
        self.routes.store(Arc::new(routes));
        self.look_for_siblings();
    }

    /// Tells of bindings that lead to functions that do not exist, once of each, and not before all are known.
    fn look_for_siblings(&mut self) {
        if self.synced != Sync::Done {
            return;
        }
        let exists = |name: &FunctionName| self.entries.get(name).is_some_and(|entry| !entry.is_removed());
        let mut astray = BTreeSet::new();
        for (name, entry) in self.entries.iter().filter(|(_, entry)| !entry.is_removed()) {
            for binding in &entry.current().manifest.bindings {
                if let Target::Function(sibling) = &binding.to
                    && !exists(sibling)
                {
                    astray.insert((name.clone(), binding.name.clone(), sibling.clone()));
                }
            }
        }
        for (function, binding, sibling) in astray.difference(&self.astray) {
            tracing::warn!(%function, binding, %sibling, "a binding leads to a function that does not exist: deploy it, or change the binding");
        }
        self.astray = astray;
    }

    /// One that the supervisor before this one started after this one knew of all others.
    pub(super) fn inherit_late(
        &mut self,
        (id, pid): (InstanceId, i32),
        (terminating, frozen): (bool, bool),
        memo: Vec<u8>,
        fds: Vec<OwnedFd>,
    ) {
        let known = Memo::read(&memo, &self.defaults).ok().filter(|_| !terminating);
        let mut fds = fds.into_iter();
        let (Some((name, revision)), Some(stdout), Some(stderr)) = (known, fds.next(), fds.next()) else {
            return self.requests.push(Request::Kill { id });
        };
        let current = self.entries.get(&name).map(|entry| entry.current().id);
        if current != Some(revision.id) {
            return self.requests.push(Request::Kill { id });
        }
        let inherited = Inherited {
            id,
            pid,
            terminating,
            frozen,
            memo,
            stdout,
            stderr,
            ports: fds.collect(),
        };
        self.adopt(&name, inherited);
    }

    /// Takes over what earlier supervisors left running: it serves at once, whatever the folder says by now.
    pub(super) fn inherit(&mut self, inventory: Vec<Inherited>, defaults: &Defaults) {
        self.defaults = defaults.clone();
        let mut known: HashMap<FunctionName, Vec<(Inherited, Arc<Revision>)>> = HashMap::new();
        for inherited in inventory {
            match Memo::read(&inherited.memo, defaults) {
                Ok((function, revision)) if !inherited.terminating => {
                    known
                        .entry(function)
                        .or_default()
                        .push((inherited, Arc::new(revision)));
                }
                Ok(_) => self.requests.push(Request::Kill { id: inherited.id }),
                Err(why) => {
                    tracing::warn!(instance = %inherited.id, why, "an inherited instance can't be taken over; killed");
                    self.requests.push(Request::Kill { id: inherited.id });
                }
            }
        }
        for (name, mut instances) in known {
            // One that was still being proven is the newest; the one that served before it is taken over.
            instances.sort_by_key(|(inherited, _)| inherited.id);
            let revision = Arc::clone(&instances[0].1);
            self.add(&name, Arc::clone(&revision));
            for (inherited, its) in instances {
                match its.id == revision.id {
                    true => self.adopt(&name, inherited),
                    false => self.requests.push(Request::Kill { id: inherited.id }),
                }
            }
            // Only now: what runs already counts towards the minimum.
            self.with(&name, Entry::tick);
        }
        self.publish_routes();
    }

    pub(super) fn adopt(&mut self, name: &FunctionName, inherited: Inherited) {
        let Inherited {
            id,
            pid,
            frozen,
            stdout,
            stderr,
            ports,
            ..
        } = inherited;
        let Some(entry) = self.entries.get(name) else {
            return;
        };
        let revision = Arc::clone(entry.current());
        tracing::info!(function = %name, instance = %id, pid, "taken over");
        let instance = self.make_instance(name, id, revision);
        self.owners.insert(id, name.clone());
        let shared = Later {
            id,
            output: [Some(stdout), Some(stderr)],
            ports,
        };
        match &mut self.later {
            Some(later) => later.push(shared),
            None => self.take_shared(name, &instance, shared),
        }
        self.watch_over(name, &instance);
        self.with(name, |entry, effects| {
            entry.adopt((id, pid), frozen, instance, effects)
        });
    }

    /// A function of the first reading is a revision, or known not to become one now.
    fn resolved(&mut self, name: &FunctionName) {
        if let Sync::Storing(awaited) = &mut self.synced {
            awaited.remove(name);
        }
        self.check_synced();
    }

    fn check_synced(&mut self) {
        if self.synced != Sync::Storing(HashSet::new()) {
            return;
        }
        self.synced = Sync::Done;
        self.look_for_siblings();
        // Put off until everything is known, so that nothing in use is forgotten.
        self.retain();
        let _ = self.notices.send(Notice::Synced);
    }

    /// Has the launcher forget executables that no revision needs any more.
    fn retain(&mut self) {
        let artifacts: Vec<Digest> = self.entries.values().flat_map(Entry::artifacts).collect();
        if artifacts.len() <= MOST_RETAINED {
            self.requests.push(Request::Retain { artifacts });
        }
    }

    /// Every now and then after deploys, so that a host that is deployed to day after day doesn't fill its disk.
    pub(super) fn tidy(&mut self, now: Instant) {
        if self.synced == Sync::Done && self.storing.is_empty() && self.tidiness.is_due(now) {
            self.retain();
        }
    }
}

/// Digests that fit in one message. A host with more functions keeps what it once stored: disk, not correctness.
const MOST_RETAINED: usize = 1900;

/// When the store is tidied: pure. The launcher keeps what it stored within the last minute, so the last deploy is
/// followed by one that is late enough to take what it replaced.
#[derive(Debug)]
pub(super) struct Tidiness {
    last_deploy: Option<Instant>,
    last: Instant,
}

impl Tidiness {
    const EVERY: Duration = Duration::from_secs(120);

    pub(super) fn new(now: Instant) -> Tidiness {
        Tidiness {
            last_deploy: None,
            last: now,
        }
    }

    fn deployed(&mut self, now: Instant) {
        self.last_deploy = Some(now);
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let Some(deployed) = self.last_deploy else {
            return false;
        };
        if now.duration_since(self.last) < Self::EVERY {
            return false;
        }
        self.last = now;
        if now.duration_since(deployed) >= Self::EVERY {
            self.last_deploy = None;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_tidied_while_there_are_deploys_and_once_long_after_the_last() {
        let start = Instant::now();
        let mut tidiness = Tidiness::new(start);
        let mut due = Vec::new();
        for second in (0..3600).step_by(5) {
            let now = start + Duration::from_secs(second);
            if second <= 300 {
                tidiness.deployed(now);
            }
            if tidiness.is_due(now) {
                due.push(second);
            }
        }
        assert_eq!(due, [120, 240, 360, 480]);
    }
}
