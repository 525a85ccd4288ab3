//! Starts that are prepared: of which revisions that makes sense and how many there may be (pure), and the part of `control`
//! that has them made.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use funcd_sandbox::spec::InstanceId;
use funcd_sandbox::wire::Request;

use super::control::Control;
use super::effects::Effects;
use super::entry::Entry;
use super::handle::Revision;
use super::instance::{Address, Ends, Instance};
use super::singles::Single;
use super::start;
use super::state::Event;
use crate::catalog::manifest::Contract;
use crate::catalog::view::Stamp;
use crate::name::FunctionName;

/// Whether a start of this revision can be prepared: the launcher refuses others. What is granted is looked up when it
/// starts, a port belongs to a process that runs, and bindings are in a network of its own.
pub(super) fn suits(revision: &Revision) -> bool {
    let manifest = &revision.manifest;
    manifest.contract == Contract::Http
        && manifest.scale.min == 0
        && manifest.read.is_empty()
        && manifest.write.is_empty()
        && manifest.secrets.is_empty()
        && manifest.bindings.is_empty()
}

/// The next start of a function, prepared.
#[derive(Debug)]
pub(super) enum Standby {
    /// The launcher was asked for it.
    Asked(InstanceId, Arc<Revision>),
    /// It waits for a request.
    Waits(Arc<Instance>),
}

impl Standby {
    pub(super) fn id(&self) -> InstanceId {
        match self {
            Standby::Asked(id, _) => *id,
            Standby::Waits(instance) => instance.id,
        }
    }

    pub(super) fn revision(&self) -> &Arc<Revision> {
        match self {
            Standby::Asked(_, revision) => revision,
            Standby::Waits(instance) => &instance.revision,
        }
    }

    /// It is not to be leased any more: whether it is by then.
    pub(super) fn close(&self) -> bool {
        match self {
            Standby::Asked(..) => false,
            Standby::Waits(instance) => {
                instance.close();
                instance.in_flight() > 0
            }
        }
    }
}

/// The processes that wait, on the whole host.
#[derive(Debug)]
pub(super) struct Standbys {
    most: usize,
    /// In the order in which they were prepared.
    waiting: BTreeMap<InstanceId, Waiting>,
}

/// A process that waits.
#[derive(Debug)]
struct Waiting {
    function: FunctionName,
    /// The state of the system's libraries that it will see: they were bound when it was prepared. `None`: it sees none.
    libraries: Option<Stamp>,
}

/// Whether there is room for one more.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    /// Once this one is gone.
    Instead(InstanceId, FunctionName),
    None,
}

impl Standbys {
    /// At most so many; 0 for none at all.
    pub(super) fn new(most: usize) -> Standbys {
        Standbys {
            most,
            waiting: BTreeMap::new(),
        }
    }

    /// The room for a function that was just used, or not yet: only use may take the place of another, or a folder full of
    /// functions would have each of them prepared in turn.
    pub(super) fn room(&self, was_used: bool) -> Room {
        match self.waiting.first_key_value() {
            _ if self.waiting.len() < self.most => Room::Free,
            Some((&oldest, waiting)) if was_used => Room::Instead(oldest, waiting.function.clone()),
            Some(_) | None => Room::None,
        }
    }

    pub(super) fn insert(&mut self, id: InstanceId, function: FunctionName, libraries: Option<Stamp>) {
        self.waiting.insert(id, Waiting { function, libraries });
    }

    /// It runs, or has ended: whose it was.
    pub(super) fn remove(&mut self, id: InstanceId) -> Option<FunctionName> {
        self.waiting.remove(&id).map(|waiting| waiting.function)
    }

    /// Whose one that waits is.
    pub(super) fn owner(&self, id: InstanceId) -> Option<&FunctionName> {
        self.waiting.get(&id).map(|waiting| &waiting.function)
    }

    /// Those that would see other libraries than what is started now.
    pub(super) fn outdated(&self, now: Stamp) -> Vec<(InstanceId, FunctionName)> {
        let outdated = |waiting: &Waiting| waiting.libraries.is_some_and(|then| then != now);
        let all = self.waiting.iter().filter(|(_, waiting)| outdated(waiting));
        all.map(|(&id, waiting)| (id, waiting.function.clone())).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

/// The standby of one function.
impl Entry {
    /// The revision that a standby is wanted of.
    pub(super) fn wants_standby(&self) -> Option<&Arc<Revision>> {
        let idle = self.slots.is_empty() && self.singles.is_empty() && self.next.is_none() && !self.removed;
        let wants = idle && self.standby.is_none() && !self.standby_failed;
        Some(&self.current.revision).filter(|revision| wants && suits(revision))
    }

    /// Whether a process waits right before exec.
    pub(super) fn has_standby(&self) -> bool {
        matches!(self.standby, Some(Standby::Waits(_)))
    }

    /// The next start is being prepared.
    pub(super) fn preparing(&mut self, id: InstanceId, revision: Arc<Revision>) {
        self.standby = Some(Standby::Asked(id, revision));
    }

    /// What is being prepared under this id.
    pub(super) fn standby_revision(&self, id: InstanceId) -> Option<&Arc<Revision>> {
        let standby = self.standby.as_ref().filter(|standby| standby.id() == id);
        standby.map(Standby::revision)
    }

    /// It waits right before exec: a request may wake it without asking anybody.
    pub(super) fn prepared(&mut self, instance: Arc<Instance>, effects: &mut Effects<'_>) {
        if self.standby_revision(instance.id).is_some() {
            self.standby = Some(Standby::Waits(instance));
            self.publish(effects);
        }
    }

    /// A request has woken the standby.
    pub(super) fn woken(&mut self, id: InstanceId, effects: &mut Effects<'_>) {
        if self.standby_revision(id).is_some() {
            self.start(Arc::clone(&self.current.revision), effects);
            self.settle(effects);
        }
    }

    /// The standby came to nothing.
    pub(super) fn lose_standby(&mut self, id: InstanceId, effects: &mut Effects<'_>) {
        if let Some(standby) = self.standby.take_if(|standby| standby.id() == id) {
            standby.close();
            if let Standby::Waits(instance) = &standby {
                instance.note_stillborn();
            }
            self.standby_failed = true;
            self.publish(effects);
        }
    }

    /// Ends the standby. If a request has woken it just now, it answers that one first.
    pub(super) fn end_standby(&mut self, effects: &mut Effects<'_>) {
        let Some(standby) = self.standby.take() else {
            return;
        };
        if standby.close() {
            let revision = Arc::clone(standby.revision());
            self.standby = Some(standby);
            self.start(revision, effects);
            self.apply(self.slots.len() - 1, Event::Retire, effects);
        } else {
            effects.kill(standby.id());
        }
        self.publish(effects);
    }
}

impl Control {
    /// Has the next start of a function prepared where that makes sense.
    pub(super) fn stand_by(&mut self, name: &FunctionName, was_used: bool) {
        let entry = self.entries.get(name);
        let Some(revision) = entry.and_then(Entry::wants_standby).map(Arc::clone) else {
            return;
        };
        // Nothing is prepared for later on a host that is short of what it would hold.
        if self.draining || self.said_goodbye || self.retired || self.brownout.reclaim_idle {
            return;
        }
        match self.standbys.room(was_used) {
            Room::Free => {}
            Room::Instead(id, other) => {
                // Its place is taken until then, or the other function would ask for it at once.
                self.with(&other, Entry::end_standby);
                self.standbys.remove(id);
            }
            Room::None => return,
        }
        let id = InstanceId(self.next_id);
        self.next_id += 1;
        // Taken first: a change that comes meanwhile is noticed later.
        let sees = revision.wanted.sees_the_system(revision.manifest.system);
        let libraries = sees.then(Stamp::now);
        let spec = Box::new(start::spec(name, &revision));
        self.requests.push(Request::Prepare { id, spec });
        self.standbys.insert(id, name.clone(), libraries);
        if let Some(entry) = self.entries.get_mut(name) {
            entry.preparing(id, revision);
        }
    }

    pub(super) fn on_woken(&mut self, id: InstanceId) {
        if let Some(name) = self.standbys.owner(id).cloned() {
            self.with(&name, |entry, effects| entry.woken(id, effects));
        }
    }

    /// Takes note of those that were woken and of which nobody has told since: they are given as long as any other start.
    pub(super) fn look_for_woken(&mut self) {
        let woken: Vec<_> = self
            .entries
            .values()
            .filter_map(|entry| entry.standby.as_ref())
            .filter(|standby| matches!(standby, Standby::Waits(instance) if instance.is_woken()))
            .map(Standby::id)
            .collect();
        for id in woken {
            self.on_woken(id);
        }
    }

    /// Replaces what would run with libraries that were upgraded since: a start after an upgrade has the new ones.
    pub(super) fn renew_standbys(&mut self) {
        let now = Stamp::now();
        let entries = self.entries.iter();
        let outdated = entries.filter(|(_, entry)| entry.has_outdated_singles(now));
        let outdated: Vec<_> = outdated.map(|(name, _)| name.clone()).collect();
        for name in outdated {
            self.with(&name, |entry, effects| entry.renew_singles(now, effects));
        }
        for (id, name) in self.standbys.outdated(now) {
            self.with(&name, Entry::end_standby);
            self.standbys.remove(id);
            self.stand_by(&name, false);
        }
    }

    pub(super) fn on_prepared(&mut self, id: InstanceId, fds: Vec<OwnedFd>) {
        if let Some(name) = self.owners.get(&id).cloned() {
            // Without its pipes (there was no room for them) it can't be told anything, and ends with them.
            let mut fds = fds.into_iter();
            if let (Some(go), Some(stdin), Some(stdout)) = (fds.next(), fds.next(), fds.next()) {
                let ends = Ends { stdin, stdout };
                self.with(&name, |entry, effects| {
                    entry.single_prepared(id, go, ends, effects)
                });
                let single = self.entries.get(&name).and_then(|entry| entry.singles.get(id));
                if let Some(instance) = single.and_then(Single::instance).map(Arc::clone) {
                    self.let_out(&name, &instance, fds.collect());
                }
            }
            return;
        }
        let (Some(name), Some(go)) = (self.standbys.owner(id).cloned(), fds.into_iter().next()) else {
            return;
        };
        let entry = self.entries.get(&name);
        let Some(revision) = entry.and_then(|entry| entry.standby_revision(id)).cloned() else {
            return;
        };
        let address = Address::Unix(self.sockets.join(id.to_string()));
        let instance = Arc::new(Instance::waiting(id, revision, address, go));
        self.with(&name, |entry, effects| entry.prepared(instance, effects));
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry_tests::revision;
    use super::*;
    use std::path::Path;

    use crate::catalog::binding::Binding;
    use crate::catalog::manifest::{Defaults, Manifest};
    use crate::catalog::view::{Asks, Scope, Wanted};

    fn binding() -> Binding {
        let text = Some("[bindings.db]\ntcp = \"10.0.0.5:5432\"");
        let manifest = Manifest::read(&name("a"), Path::new("function.toml"), text, &Defaults::default());
        manifest.unwrap().bindings.remove(0)
    }

    fn name(name: &str) -> FunctionName {
        FunctionName::parse(name).unwrap()
    }

    #[test]
    fn only_use_takes_the_place_of_the_oldest() {
        let mut standbys = Standbys::new(2);
        for (id, function) in [(7, "a"), (9, "b")] {
            assert_eq!(standbys.room(false), Room::Free);
            standbys.insert(InstanceId(id), name(function), None);
        }
        assert_eq!(standbys.room(false), Room::None);
        assert_eq!(standbys.room(true), Room::Instead(InstanceId(7), name("a")));
        assert_eq!(standbys.remove(InstanceId(7)), Some(name("a")));
        assert_eq!(standbys.remove(InstanceId(7)), None);
        assert_eq!(standbys.room(false), Room::Free);
    }

    #[test]
    fn what_sees_the_system_is_outdated_when_libraries_change() {
        let (then, now) = (Stamp::sample(1), Stamp::sample(2));
        let mut standbys = Standbys::new(3);
        for (id, libraries) in [(1, None), (2, Some(then)), (3, Some(now))] {
            standbys.insert(InstanceId(id), name("a"), libraries);
        }
        assert_eq!(standbys.outdated(now), [(InstanceId(2), name("a"))]);
        assert_eq!(standbys.outdated(then), [(InstanceId(3), name("a"))]);
        let revision = revision(1, |_| {});
        assert!(!revision.wanted.sees_the_system(Scope::Auto), "it is static");
        assert!(revision.wanted.sees_the_system(Scope::Full));
        assert!(Wanted::new(Asks::Unknown).sees_the_system(Scope::Auto));
    }

    #[test]
    fn none_at_all_when_there_is_to_be_none() {
        assert_eq!(Standbys::new(0).room(true), Room::None);
    }

    #[test]
    fn what_is_looked_up_at_the_start_is_not_prepared() {
        assert!(suits(&revision(1, |_| {})));
        assert!(!suits(&revision(1, |manifest| manifest.scale.min = 1)));
        assert!(!suits(
            &revision(1, |manifest| manifest.contract = Contract::Port(80))
        ));
        assert!(!suits(
            &revision(1, |manifest| manifest.bindings = vec![binding()])
        ));
        assert!(!suits(
            &revision(1, |manifest| manifest.read = vec!["/usr".into()])
        ));
        assert!(!suits(
            &revision(1, |manifest| manifest.write = vec!["/srv".into()])
        ));
    }
}
