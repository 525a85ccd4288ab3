//! Secrets: from the operator's folder into a folder of the instance alone, in memory that is never swapped, and again
//! whenever the operator replaces one. The kernel copies from file to file: no value is ever in this process's memory, and
//! none is sent, logged or shown anywhere.
//!
//! A secret belongs to one function by where it lies: `<folder>/<function>/<name>`, or the credential `<function>.<name>` of
//! the service (systemd.exec(5), `LoadCredential=`). So no manifest can ask for another function's.

mod source;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::AT_FDCWD;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::{Deserialize, Serialize};

use super::log;
use crate::floor::Refusal;
use crate::mounts::text;
use crate::spec::InstanceId;
use crate::stamp::Stamp;
use crate::sys::calls;
use source::Sources;

/// Where secrets come from, and which instances have some.
#[derive(Debug)]
pub(super) struct Secrets {
    sources: Sources,
    /// Where each instance gets its own: `run/secrets`.
    place: PathBuf,
    /// Whether `place` is memory of this launcher by now.
    mounted: bool,
    watch: Option<Inotify>,
    holders: BTreeMap<InstanceId, Holder>,
    /// When to look again at those that were being written: nothing may tell when they are complete.
    look_at: Option<Instant>,
}

/// How long until one that is being written is looked at again. (The event of its end comes a moment before the end.)
const PAUSE: Duration = Duration::from_millis(250);

/// An instance with secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Holder {
    function: String,
    owner: Option<(u32, u32)>,
    /// By name: which state of its file was delivered.
    delivered: BTreeMap<String, Stamp>,
}

/// Who has been given what, as one launcher leaves it to the next.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Carried {
    mounted: bool,
    holders: Vec<(InstanceId, Holder)>,
}

impl Secrets {
    /// For the next launcher, which is in the same mount namespace.
    pub(super) fn carry(&self) -> Carried {
        Carried {
            mounted: self.mounted,
            holders: self
                .holders
                .iter()
                .map(|(id, holder)| (*id, holder.clone()))
                .collect(),
        }
    }

    /// From the launcher before. What was replaced meanwhile is delivered now.
    pub(super) fn take_over(&mut self, carried: Carried) {
        self.mounted = carried.mounted;
        self.holders = carried.holders.into_iter().collect();
        if !self.holders.is_empty() {
            self.renew();
        }
    }

    /// No instance has any yet; nothing is mounted or watched before one asks.
    pub(super) fn new(folder: PathBuf, credentials: Option<PathBuf>, run: &Path) -> Secrets {
        Secrets {
            sources: Sources { folder, credentials },
            place: run.join("secrets"),
            mounted: false,
            watch: None,
            holders: BTreeMap::new(),
            look_at: None,
        }
    }

    /// Delivers what a function is named to have into a folder for one instance: its path, to be bound into its sandbox.
    ///
    /// # Errors
    /// The secret that is missing or not usable, and what to do; nothing stays behind.
    pub(super) fn deliver(
        &mut self,
        id: InstanceId,
        function: &str,
        names: &[String],
        owner: Option<(u32, u32)>,
    ) -> Result<PathBuf, Refusal> {
        let memory = |e: io::Error| {
            Refusal(format!(
                "secrets need memory of their own to lie in: {e}; see `funcd doctor`"
            ))
        };
        self.mount().map_err(memory)?;
        self.watch(function);
        let holder = Holder {
            function: function.to_owned(),
            owner,
            delivered: BTreeMap::new(),
        };
        self.holders.insert(id, holder);
        match self.fill(id, names) {
            Ok(place) => Ok(place),
            Err(refusal) => {
                self.remove(id);
                Err(refusal)
            }
        }
    }

    fn fill(&mut self, id: InstanceId, names: &[String]) -> Result<PathBuf, Refusal> {
        let place = self.place.join(id.to_string());
        let holder = self.holders.get_mut(&id).expect("it was put there by the caller");
        let failed = |e: io::Error| Refusal(format!("{}: {e}", place.display()));
        fs::DirBuilder::new().mode(0o500).create(&place).map_err(failed)?;
        let folder = opened(&place).map_err(failed)?;
        if let Some((uid, gid)) = holder.owner {
            fchown(&folder, Some(uid), Some(gid)).map_err(failed)?;
        }
        for name in names {
            let secret = self.sources.find(&holder.function, name)?;
            let stamp = secret.deliver(folder.as_fd(), name, holder.owner);
            let stamp = stamp.map_err(|e| undelivered(&holder.function, name, &e))?;
            holder.delivered.insert(name.clone(), stamp);
        }
        Ok(place)
    }

    /// Forgets an instance, and what it was given.
    pub(super) fn remove(&mut self, id: InstanceId) {
        if self.holders.remove(&id).is_some()
            && let Err(e) = fs::remove_dir_all(self.place.join(id.to_string()))
        {
            log(format_args!("secrets of instance {id} stay in memory: {e}"));
        }
    }

    /// What tells that files changed, once there are instances that it matters to.
    pub(super) fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    /// When [`Secrets::renew`] is to be called, whatever the files tell.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Delivers anew what was replaced. One that is gone or unusable now stays as it was delivered: instances that run go on.
    pub(super) fn renew(&mut self) {
        if let Some(watch) = &self.watch {
            // Only to have it silent again: the files themselves say more than the events.
            while watch.read_events().is_ok_and(|events| !events.is_empty()) {}
        }
        // A folder that was made or put in place of another is watched from now on.
        let functions: Vec<String> = self
            .holders
            .values()
            .map(|holder| holder.function.clone())
            .collect();
        for function in functions {
            self.watch(&function);
        }
        self.look_at = None;
        for (id, holder) in &mut self.holders {
            let Holder {
                function,
                owner,
                delivered,
            } = holder;
            for (name, known) in delivered {
                let place = self.place.join(id.to_string());
                match renew(&self.sources, (function, name), known, &place, *owner) {
                    Ok(Renewal::Needless) => {}
                    Ok(Renewal::Later) => self.look_at = Some(Instant::now() + PAUSE),
                    Ok(Renewal::Done) => log(format_args!(
                        "{function}: instance {id} has the new secret {name:?}"
                    )),
                    Err(e) => log(format_args!("instance {id} keeps what it was given: {e}")),
                }
            }
        }
    }

    /// Mounts the memory, in a mount namespace that this launcher and its children alone are in: when they end, however
    /// they do, the kernel forgets it.
    fn mount(&mut self) -> io::Result<()> {
        if self.mounted {
            return Ok(());
        }
        match fs::DirBuilder::new().mode(0o700).create(&self.place) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let system = io::Error::from_raw_os_error;
        let place = text(&self.place).map_err(system)?;
        calls::unshare(libc::CLONE_NEWNS).map_err(system)?;
        // What the host mounts from now on is still seen; what is mounted here is not seen by the host.
        calls::mount(None, c"/", None, libc::MS_REC | libc::MS_SLAVE, None).map_err(system)?;
        // Not tmpfs, whose pages may be swapped.
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        calls::mount(Some(c"ramfs"), &place, Some(c"ramfs"), flags, Some(c"mode=0700")).map_err(system)?;
        self.mounted = true;
        Ok(())
    }

    /// Watches the folder of a function, and the one above it, where it may be made anew. Without inotify, SIGHUP renews.
    fn watch(&mut self, function: &str) {
        if self.watch.is_none() {
            self.watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
        }
        let Some(watch) = &self.watch else { return };
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_ONLYDIR
            | AddWatchFlags::IN_DONT_FOLLOW;
        // One that is not there has nothing to tell; adding one twice is adding it once.
        let _ = watch.add_watch(&self.sources.folder, changes);
        let _ = watch.add_watch(&self.sources.folder.join(function), changes);
    }
}

/// What came of a look at one secret.
enum Renewal {
    /// It is the one that was delivered.
    Needless,
    /// It is being written.
    Later,
    Done,
}

/// Delivers one secret anew if its file is another than `known`.
fn renew(
    sources: &Sources,
    (function, name): (&str, &str),
    known: &mut Stamp,
    place: &Path,
    owner: Option<(u32, u32)>,
) -> Result<Renewal, Refusal> {
    let secret = sources.find(function, name)?;
    if secret.stamp == *known {
        return Ok(Renewal::Needless);
    }
    if secret.is_being_written {
        return Ok(Renewal::Later);
    }
    let delivered = opened(place).and_then(|folder| secret.deliver(folder.as_fd(), name, owner));
    *known = delivered.map_err(|e| undelivered(function, name, &e))?;
    Ok(Renewal::Done)
}

fn undelivered(function: &str, name: &str, e: &io::Error) -> Refusal {
    Refusal(format!(
        "the secret {name:?} of {function:?} can't be delivered: {e}"
    ))
}

fn opened(place: &Path) -> io::Result<OwnedFd> {
    Ok(source::open_folder(AT_FDCWD, place)?)
}
