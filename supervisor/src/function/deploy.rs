//! How what the catalog names becomes a revision, and how a new supervisor takes over what an old one left running:
//! the part of `control` that deals with the store and the inventory.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use funcd_sandbox::spec::Digest;
use funcd_sandbox::wire::{Request, StoreError};

use super::control::{Control, Inherited, Notice};
use super::effects::Effects;
use super::entry::Entry;
use super::handle::Revision;
use super::start::Memo;
use crate::catalog::{Candidate, Change};
use crate::ingress::Routes;
use crate::name::{FunctionName, RevisionId};

/// An executable that changed or was still open for writing while it was stored is looked at again after this.
const STORE_AGAIN: Duration = Duration::from_millis(250);

/// How far the first reading of the folder is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sync {
    /// The catalog has not told all of it.
    Reading,
    /// It has; these were told and are not stored yet.
    Storing,
    /// Everything is known.
    Done,
}

impl Control {
    pub(super) fn on_change(&mut self, change: Change) {
        match change {
            Change::Deploy(candidate) => self.store(candidate),
            Change::Remove(name) => {
                tracing::info!(function = %name, "removed");
                self.storing.retain(|_, candidate| candidate.name != name);
                self.with(&name, Entry::remove);
                self.publish_routes();
            }
            Change::Entries(entries) => {
                self.report.entries(entries);
                if self.synced == Sync::Reading {
                    self.synced = Sync::Storing;
                }
            }
        }
        self.check_synced();
    }

    fn store(&mut self, candidate: Candidate) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        // A newer candidate of the same function replaces one that is still being stored.
        self.storing.retain(|_, older| older.name != candidate.name);
        let executable = match candidate.executable.try_clone() {
            Ok(executable) => executable,
            Err(e) => return self.refuse(&candidate.name, format!("can't duplicate its descriptor: {e}")),
        };
        if let Err(e) = self.launcher.send(&Request::Store { ticket }, vec![executable]) {
            return self.refuse(&candidate.name, format!("can't hand it to the launcher: {e}"));
        }
        self.storing.insert(ticket, candidate);
    }

    fn refuse(&mut self, name: &FunctionName, reason: String) {
        self.report.refused(name, "not-stored", reason);
    }

    pub(super) fn on_stored(&mut self, ticket: u64, result: Result<(Digest, u64), StoreError>) {
        let Some(candidate) = self.storing.remove(&ticket) else {
            return;
        };
        let name = candidate.name.clone();
        match result {
            Ok((artifact, _)) => self.deploy(candidate, artifact),
            Err(StoreError::BeingWritten | StoreError::Changed) => {
                self.report.retry(&name, STORE_AGAIN);
            }
            Err(StoreError::Refused(reason)) => self.refuse(&name, reason),
        }
        self.check_synced();
    }

    fn deploy(&mut self, candidate: Candidate, artifact: Digest) {
        let Candidate {
            name,
            manifest,
            manifest_text,
            image,
            ..
        } = candidate;
        let id = RevisionId::of(artifact, &manifest_text);
        let revision = Arc::new(Revision {
            id,
            artifact,
            image,
            manifest,
        });
        let known = self.entries.get(&name).map(|entry| entry.current().id);
        if known != Some(id) {
            tracing::info!(function = %name, revision = id.short(), "deploying");
        }
        match known {
            None => {
                let effects = Effects {
                    now: Instant::now(),
                    wall: SystemTime::now(),
                    rng: &mut self.rng,
                    to_control: &self.to_control,
                    requests: &mut self.requests,
                    launches: &mut self.launches,
                    next_id: &mut self.next_id,
                };
                let entry = Entry::new(name.clone(), revision, &effects);
                self.entries.insert(name.clone(), entry);
                self.adopt(&name, id);
                self.with(&name, |entry, effects| entry.tick(effects));
            }
            Some(_) => {
                self.with(&name, |entry, effects| entry.deploy(revision, effects));
            }
        }
        self.report.accepted(&name);
        self.publish_routes();
    }

    pub(super) fn publish_routes(&mut self) {
        let live = self.entries.values().filter(|entry| !entry.is_removed());
        self.routes
            .store(Arc::new(Routes::new(live.map(|entry| Arc::clone(&entry.handle)))));
    }

    /// Notes what earlier supervisors left running, until the catalog names their functions.
    pub(super) fn inherit(&mut self, inventory: Vec<Inherited>) {
        for inherited in inventory {
            match serde_json::from_slice::<Memo>(&inherited.memo) {
                Ok(memo) => self.inherited.entry(memo.function).or_default().push(inherited),
                Err(e) => {
                    tracing::warn!(instance = %inherited.id, error = %e, "unknown inherited instance; killed");
                    self.requests.push(Request::Kill { id: inherited.id });
                }
            }
        }
    }

    /// Takes over the inherited instances of a function that the catalog just named.
    fn adopt(&mut self, name: &FunctionName, current: RevisionId) {
        for inherited in self.inherited.remove(name).unwrap_or_default() {
            let Inherited {
                id,
                pid,
                terminating,
                memo,
                stdout,
                stderr,
            } = inherited;
            let same = serde_json::from_slice::<Memo>(&memo).is_ok_and(|m| m.revision == current.to_string());
            if terminating || !same {
                // It ran a revision that is no longer in the folder; its callers went with the old supervisor.
                self.requests.push(Request::Kill { id });
                continue;
            }
            let Some(entry) = self.entries.get(name) else {
                continue;
            };
            let revision = Arc::clone(entry.current());
            self.report.attach(name, &revision, id, [stdout, stderr]);
            let instance = self.make_instance(id, revision);
            self.owners.insert(id, name.clone());
            self.with(name, |entry, effects| entry.adopt(id, pid, instance, effects));
        }
    }

    fn check_synced(&mut self) {
        if self.synced != Sync::Storing || !self.storing.is_empty() {
            return;
        }
        self.synced = Sync::Done;
        for (name, leftover) in std::mem::take(&mut self.inherited) {
            tracing::info!(function = %name, "its files went while no supervisor ran; its instances are killed");
            self.requests.extend(
                leftover
                    .iter()
                    .map(|inherited| Request::Kill { id: inherited.id }),
            );
        }
        let kept: Vec<Digest> = self
            .entries
            .values()
            .map(|entry| entry.current().artifact)
            .collect();
        // Put off until everything is known, so that nothing in use is forgotten.
        self.requests.push(Request::Retain { artifacts: kept });
        let _ = self.notices.send(Notice::Synced);
    }
}
