//! The task that keeps the catalog: carries what is watched and looked at to the settling machine, and what that decides
//! to the daemon. All effects of the catalog are here; all decisions are in `settle`.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::OFlag;
use nix::libc::S_IFDIR;
use nix::sys::stat::Mode;
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, error, info, warn};

use super::handle::{Answer, Handle, Options};
use super::policy;
use super::refusal::kind;
use super::scan::{Look, Scanner};
use super::settle::{Decision, Settle};
use super::view::Wanted;
use super::watch::{Told, Watch};
use super::{Candidate, Change, Entry, Slot, folder};
use crate::name::FunctionName;
use crate::telemetry::names;

/// Candidates that may be on their way with their open files.
const OUTSTANDING: usize = 64;
/// Entries that are looked at before other work of the thread gets its turn.
const CHUNK: usize = 128;

/// Keeps the catalog: see [`Catalog::run`].
#[derive(Debug)]
pub struct Catalog {
    options: Options,
    scanner: Scanner,
    settle: Settle,
    watch: Watch,
    /// The functions folder was deleted or renamed, and not found again since.
    home_gone: bool,
    /// Look at everything next.
    scan_wanted: bool,
    /// The folder has more entries than are looked at.
    too_many: bool,
    /// Told to deploy, waits for a slot.
    queue: VecDeque<OsString>,
    slots: Arc<Semaphore>,
    answers: mpsc::UnboundedReceiver<Answer>,
    shown: Option<BTreeMap<String, Entry>>,
    /// When everything was looked at once.
    listed: Option<Instant>,
    /// The first entries can be told: before, nothing may be taken for absent.
    complete: bool,
}

impl Catalog {
    /// The catalog of the folder `home`, not running yet.
    pub fn start(home: OwnedFd, options: Options) -> (Catalog, Handle) {
        let (sender, answers) = mpsc::unbounded_channel();
        let catalog = Catalog {
            scanner: Scanner::new(
                home,
                options.defaults.clone(),
                options.max_executable,
                options.user.clone(),
            ),
            settle: Settle::new(options.rules),
            watch: Watch::off(),
            home_gone: false,
            scan_wanted: false,
            too_many: false,
            queue: VecDeque::new(),
            slots: Arc::new(Semaphore::new(OUTSTANDING)),
            answers,
            shown: None,
            listed: None,
            complete: false,
            options,
        };
        (catalog, Handle(sender))
    }

    /// Keeps the catalog until the receiver of `changes` is dropped. The first [`Change::Entries`] follows the first look at
    /// everything: a function that the daemon inherited and that is not in it was removed meanwhile.
    pub async fn run(mut self, changes: mpsc::UnboundedSender<Change>) {
        self.start_watch();
        self.scan_wanted = true;
        let mut rescan = tokio::time::interval(self.options.rescan.max(Duration::from_millis(1)));
        rescan.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        rescan.reset();
        let mut answered = true;
        loop {
            if std::mem::take(&mut self.scan_wanted) {
                self.scan_all(&changes).await;
            }
            self.publish(&changes);
            let due = self.settle.next_due();
            let asleep = tokio::time::sleep_until(due.unwrap_or_else(now).into());
            tokio::select! {
                () = changes.closed() => return,
                told = self.watch.next() => self.told(told),
                () = asleep, if due.is_some() => self.look_at_due(&changes),
                _ = rescan.tick() => self.scan_wanted = true,
                answer = self.answers.recv(), if answered => match answer {
                    Some(answer) => self.answer(answer),
                    None => answered = false,
                },
                slot = Arc::clone(&self.slots).acquire_owned(), if !self.queue.is_empty() => {
                    let slot = slot.expect("the semaphore is never closed");
                    self.deploy_next(Slot { _permit: Some(slot) }, &changes);
                }
            }
        }
    }

    fn start_watch(&mut self) {
        match Watch::start(self.scanner.home()) {
            Ok(watch) => self.watch = watch,
            Err(e) => {
                metrics::counter!(names::WATCH_OVERFLOWS_TOTAL).increment(1);
                warn!(
                    folder = %self.options.path.display(),
                    "the functions folder can't be watched: {e}; it is only looked at every {:?} (see fs.inotify in sysctl)",
                    self.options.rescan
                );
                self.watch = Watch::off();
            }
        }
    }

    fn told(&mut self, told: std::io::Result<Vec<Told>>) {
        let told = told.unwrap_or_else(|e| {
            warn!("watching the functions folder failed: {e}; watching anew");
            self.watch = Watch::off();
            self.start_watch();
            vec![Told::Overflow]
        });
        for told in told {
            match told {
                Told::Event { name, .. } if policy::is_ignored(&name) => {}
                Told::Event {
                    name,
                    file,
                    event,
                    new_folder,
                } => {
                    self.settle.event(now(), &name, &file, event);
                    if new_folder {
                        self.watch_folder(&name);
                    }
                }
                Told::Overflow => {
                    metrics::counter!(names::WATCH_OVERFLOWS_TOTAL).increment(1);
                    warn!("the kernel dropped events of the functions folder: looking at everything");
                    self.settle.events_lost();
                    self.scan_wanted = true;
                }
                Told::HomeTouched => self.scan_wanted = true,
                Told::HomeGone => self.lose_home(),
            }
        }
    }

    fn watch_folder(&mut self, name: &OsStr) {
        match self.watch.add_folder(self.scanner.home(), name) {
            Ok(()) => {}
            Err(nix::errno::Errno::ENOSPC) => {
                metrics::counter!(names::WATCH_OVERFLOWS_TOTAL).increment(1);
                warn!(
                    function = folder_name(name),
                    "no watch is left for this folder: changes in it are noticed every {:?}; raise fs.inotify.max_user_watches",
                    self.options.rescan
                );
            }
            // The look at it says the same, with what to do.
            Err(errno) => debug!(function = folder_name(name), "can't watch the folder: {errno}"),
        }
    }

    fn look_at_due(&mut self, changes: &mpsc::UnboundedSender<Change>) {
        for name in self.settle.take_due(now()) {
            self.look(&name, changes);
        }
    }

    fn look(&mut self, name: &OsStr, changes: &mpsc::UnboundedSender<Change>) {
        if self.home_gone {
            return;
        }
        let look = self.scanner.look(name, SystemTime::now());
        match &look {
            Look::HomeGone => self.lose_home(),
            Look::Absent => {
                // If the functions folder was renamed and then emptied, the first of the two was told by now.
                let pending = self.watch.pending();
                self.told(pending);
                if self.home_gone {
                    return;
                }
                self.watch.drop_folder(name);
            }
            Look::Failed(why) => debug!(function = folder_name(name), "{why}"),
            Look::Seen(sighting) => {
                let entry = &sighting.identity.entry;
                if entry.kind() == S_IFDIR
                    && self.watch.is_on()
                    && !self.watch.has_folder(name, entry.dev, entry.ino)
                {
                    self.watch_folder(name);
                }
            }
        }
        match self.settle.looked(now(), name, look) {
            None => {}
            Some(Decision::Deploy) if self.queue.iter().any(|queued| queued == name) => {}
            Some(Decision::Deploy) => self.queue.push_back(name.to_owned()),
            Some(Decision::Remove) => {
                self.queue.retain(|queued| queued != name);
                let name = name.to_str().map(FunctionName::parse);
                if let Some(Ok(name)) = name {
                    info!(function = %name, "its files are gone");
                    let _ = changes.send(Change::Remove(name));
                }
            }
        }
    }

    /// Looks at everything.
    async fn scan_all(&mut self, changes: &mpsc::UnboundedSender<Change>) {
        if self.home_gone && !self.find_home() {
            return;
        }
        let listed = match folder::list(self.scanner.home(), self.options.max_entries) {
            Ok((listed, more)) => {
                if more && !self.too_many {
                    error!(
                        "the functions folder has more than {} entries: the others are not looked at",
                        self.options.max_entries
                    );
                }
                self.too_many = more;
                listed
            }
            Err(e) => {
                warn!(
                    folder = %self.options.path.display(),
                    "the functions folder can't be listed: {e}; what runs keeps running"
                );
                return;
            }
        };
        let mut names: Vec<OsString> = listed
            .into_iter()
            .filter(|name| !policy::is_ignored(name))
            .collect();
        // What was there before is looked at too: absence is only what a look says, never what a list omits.
        names.extend(self.settle.names());
        names.sort();
        names.dedup();
        for chunk in names.chunks(CHUNK) {
            for name in chunk {
                self.look(name, changes);
            }
            tokio::task::yield_now().await;
        }
        self.listed.get_or_insert_with(now);
    }

    fn is_complete(&self) -> bool {
        let settled = |listed| !self.settle.awaits(listed + self.options.rules.unseen);
        self.listed
            .is_some_and(|listed| !self.options.is_patient || settled(listed))
    }

    fn lose_home(&mut self) {
        if !self.home_gone {
            error!(
                folder = %self.options.path.display(),
                "the functions folder was deleted or renamed: what runs keeps running, nothing can be deployed; make the folder again"
            );
        }
        self.home_gone = true;
        self.watch = Watch::off();
    }

    /// Opens the functions folder by its path again.
    fn find_home(&mut self) -> bool {
        let path = &self.options.path;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = nix::fcntl::open(path, flags, Mode::empty());
        match opened {
            Ok(home) => {
                info!(folder = %path.display(), "the functions folder is there again");
                self.scanner.move_to(home);
                self.home_gone = false;
                self.settle.home_replaced(now());
                self.start_watch();
                true
            }
            Err(e) => {
                error!(folder = %path.display(), "the functions folder is still gone: {e}; what runs keeps running");
                false
            }
        }
    }

    fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Retry(name, serial, why) => {
                self.settle.retry(now(), name.as_str().as_ref(), serial, &why)
            }
            Answer::Refuse(name, serial, refusal) => {
                self.settle.refuse(name.as_str().as_ref(), serial, refusal)
            }
            Answer::Accept(name, serial) => self.settle.accept(name.as_str().as_ref(), serial),
            Answer::Rescan => self.scan_wanted = true,
        }
    }

    /// Opens the next candidate and hands it over.
    fn deploy_next(&mut self, slot: Slot, changes: &mpsc::UnboundedSender<Change>) {
        let Some(name) = self.queue.pop_front() else {
            return;
        };
        let Some((identity, program, serial)) = self.settle.told(&name) else {
            return;
        };
        match self.scanner.open(&name, identity, program) {
            Ok(executable) => {
                debug!(function = %program.name, serial, "complete");
                let wanted = Wanted::new(program.asks.clone());
                // Here it may take its time; where instances are started it is only looked up.
                wanted.view(program.manifest.system);
                let candidate = Candidate {
                    name: program.name.clone(),
                    serial,
                    manifest: Arc::clone(&program.manifest),
                    manifest_text: program.text.clone(),
                    executable,
                    image: program.image,
                    wanted,
                    slot,
                };
                let _ = changes.send(Change::Deploy(candidate));
            }
            Err(why) => self.settle.retry(now(), &name, serial, &why),
        }
    }

    /// Tells the daemon the entries when they changed; logs and counts refusals.
    fn publish(&mut self, changes: &mpsc::UnboundedSender<Change>) {
        self.complete = self.complete || self.is_complete();
        if !self.complete {
            return;
        }
        let Some(mut entries) = self.settle.take_entries() else {
            return;
        };
        if self.too_many {
            let refusal = Entry::Refused {
                kind: kind::TOO_MANY,
                reason: format!("the folder has more than {} entries", self.options.max_entries),
            };
            entries.insert("(more)".into(), refusal);
        }
        let shown = match self.shown.take() {
            Some(shown) if shown == entries => {
                self.shown = Some(shown);
                return;
            }
            shown => shown.unwrap_or_default(),
        };
        let mut counts: BTreeMap<&'static str, u32> = kind::ALL.map(|kind| (kind, 0)).into();
        for entry in shown.values() {
            if let Entry::Refused { kind, .. } = entry {
                counts.insert(kind, 0);
            }
        }
        for (name, entry) in &entries {
            let Entry::Refused { kind, reason } = entry else {
                continue;
            };
            *counts.entry(kind).or_default() += 1;
            if shown.get(name) != Some(entry) {
                warn!(function = name, kind, "refused: {reason}");
            }
        }
        for (kind, count) in counts {
            metrics::gauge!(names::ENTRIES_REFUSED, "kind" => kind).set(count);
        }
        self.shown = Some(entries.clone());
        let _ = changes.send(Change::Entries(entries));
    }
}

/// The runtime's clock, so that a paused one is paused here too.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn folder_name(name: &OsStr) -> String {
    super::settle::display(name)
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
