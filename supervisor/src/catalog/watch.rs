//! What the kernel tells about the functions folder and the folders in it (inotify(7)), translated into events of entries.
//! Decides nothing; when it can't watch, it says so and the periodic scan does the work.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::folder;
use super::settle::Event;

/// Reads of the queue in one turn, so that a flood of events can't keep the thread from anything else.
const READS: usize = 64;

/// One thing that was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Something happened to an entry, or to a file in it (empty for the entry itself).
    Event {
        /// The entry.
        name: OsString,
        /// The file.
        file: OsString,
        /// What.
        event: Event,
        /// The entry is a folder that was just made or moved in: watch it.
        new_folder: bool,
    },
    /// Events were lost: look at everything.
    Overflow,
    /// The permissions of the functions folder changed: look at everything.
    HomeTouched,
    /// The functions folder was deleted or renamed.
    HomeGone,
}

/// Watches the functions folder.
#[derive(Debug)]
pub struct Watch {
    inotify: Option<AsyncFd<Owned>>,
    home: Option<WatchDescriptor>,
    names: HashMap<WatchDescriptor, OsString>,
    folders: HashMap<OsString, (WatchDescriptor, u64, u64)>,
}

/// nix's type lends its descriptor by a trait that tokio does not take.
#[derive(Debug)]
struct Owned(Inotify);

impl AsRawFd for Owned {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// Watches nothing.
    pub fn off() -> Watch {
        Watch {
            inotify: None,
            home: None,
            names: HashMap::new(),
            folders: HashMap::new(),
        }
    }

    /// Watches the functions folder. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// When the kernel gives no watch.
    pub fn start(home: BorrowedFd<'_>) -> io::Result<Watch> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let mask = content() | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
        let descriptor = inotify.add_watch(folder::path_of(home).as_str(), mask)?;
        // `Owned` keeps its descriptor until it is dropped and never swaps it, which is what the successor of this function,
        // unsafe, asks its callers to promise; this crate forbids unsafe code.
        #[allow(
            deprecated,
            reason = "the promise of AsyncFd::register_with_interest is kept by `Owned`"
        )]
        let inotify = AsyncFd::with_interest(Owned(inotify), Interest::READABLE)?;
        Ok(Watch {
            inotify: Some(inotify),
            home: Some(descriptor),
            names: HashMap::new(),
            folders: HashMap::new(),
        })
    }

    /// Whether anything is watched at all.
    pub fn is_on(&self) -> bool {
        self.inotify.is_some()
    }

    /// Whether this folder, with this identity, is watched already.
    pub fn has_folder(&self, name: &OsStr, dev: u64, ino: u64) -> bool {
        self.folders
            .get(name)
            .is_some_and(|(_, d, i)| (*d, *i) == (dev, ino))
    }

    /// Watches a folder in the functions folder.
    ///
    /// # Errors
    /// `ENOSPC`: no more watches (fs.inotify.max_user_watches); those of opening the folder.
    pub fn add_folder(&mut self, home: BorrowedFd<'_>, name: &OsStr) -> nix::Result<()> {
        let Some(inotify) = &self.inotify else {
            return Ok(());
        };
        let opened = folder::open_folder(home, name)?;
        let id = folder::state(opened.as_fd())?.id;
        let descriptor = inotify.get_ref().0.add_watch(
            folder::path_of(opened.as_fd()).as_str(),
            content() | AddWatchFlags::IN_ONLYDIR,
        )?;
        // A renamed folder keeps its descriptor: it now goes by the new name.
        self.names.insert(descriptor, name.to_owned());
        self.folders.insert(name.to_owned(), (descriptor, id.dev, id.ino));
        Ok(())
    }

    /// Stops watching a folder that went away.
    pub fn drop_folder(&mut self, name: &OsStr) {
        let Some((descriptor, _, _)) = self.folders.remove(name) else {
            return;
        };
        if self.names.get(&descriptor).is_some_and(|watched| watched == name) {
            self.names.remove(&descriptor);
            if let Some(inotify) = &self.inotify {
                // An error means that the kernel dropped it already, with the folder.
                let _ = inotify.get_ref().0.rm_watch(descriptor);
            }
        }
    }

    /// Waits until something is told. Never ends when nothing is watched.
    ///
    /// # Errors
    /// Those of reading the queue: watch anew.
    pub async fn next(&mut self) -> io::Result<Vec<Told>> {
        loop {
            let Some(inotify) = &self.inotify else {
                return std::future::pending().await;
            };
            let mut ready = inotify.readable().await?;
            let (events, more) = read(&ready.get_inner().0)?;
            if !more {
                ready.clear_ready();
            }
            if !events.is_empty() {
                return Ok(self.translate_all(&events));
            }
        }
    }

    /// What is told already, without waiting.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub fn pending(&mut self) -> io::Result<Vec<Told>> {
        match &self.inotify {
            None => Ok(Vec::new()),
            Some(inotify) => {
                let (events, _) = read(&inotify.get_ref().0)?;
                Ok(self.translate_all(&events))
            }
        }
    }

    fn translate_all(&mut self, events: &[InotifyEvent]) -> Vec<Told> {
        let mut told = Vec::new();
        for event in events {
            self.translate(event, &mut told);
        }
        told
    }

    fn translate(&mut self, event: &InotifyEvent, told: &mut Vec<Told>) {
        let mask = event.mask;
        if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            told.push(Told::Overflow);
        } else if Some(event.wd) == self.home {
            self.translate_home(event, told);
        } else if mask.contains(AddWatchFlags::IN_IGNORED) {
            if let Some(name) = self.names.remove(&event.wd)
                && self
                    .folders
                    .get(&name)
                    .is_some_and(|(descriptor, _, _)| *descriptor == event.wd)
            {
                self.folders.remove(&name);
            }
        } else if let (Some(name), Some(what)) = (self.names.get(&event.wd), event_of(mask)) {
            told.push(Told::Event {
                name: name.clone(),
                file: event.name.clone().unwrap_or_default(),
                event: what,
                new_folder: false,
            });
        }
    }

    fn translate_home(&mut self, event: &InotifyEvent, told: &mut Vec<Told>) {
        use AddWatchFlags as Flag;
        let gone = Flag::IN_DELETE_SELF | Flag::IN_MOVE_SELF | Flag::IN_UNMOUNT | Flag::IN_IGNORED;
        if event.mask.intersects(gone) {
            told.push(Told::HomeGone);
            return;
        }
        let Some(name) = &event.name else {
            told.push(Told::HomeTouched);
            return;
        };
        let Some(what) = event_of(event.mask) else {
            return;
        };
        let folder = event.mask.contains(Flag::IN_ISDIR);
        if folder && what == Event::Gone {
            self.drop_folder(name);
        }
        told.push(Told::Event {
            name: name.clone(),
            file: OsString::new(),
            event: what,
            new_folder: folder && event.mask.intersects(Flag::IN_CREATE | Flag::IN_MOVED_TO),
        });
    }
}

/// Events of the queue, and whether there may be more.
fn read(inotify: &Inotify) -> nix::Result<(Vec<InotifyEvent>, bool)> {
    let mut events = Vec::new();
    for _ in 0..READS {
        match inotify.read_events() {
            Ok(more) => events.extend(more),
            Err(Errno::EAGAIN) => return Ok((events, false)),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok((events, true))
}

/// What is asked of the kernel about files in a folder.
fn content() -> AddWatchFlags {
    AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
}

fn event_of(mask: AddWatchFlags) -> Option<Event> {
    use AddWatchFlags as Flag;
    if mask.intersects(Flag::IN_CLOSE_WRITE | Flag::IN_MOVED_TO) {
        Some(Event::Closed)
    } else if mask.contains(Flag::IN_MODIFY) {
        Some(Event::Written)
    } else if mask.intersects(Flag::IN_DELETE | Flag::IN_MOVED_FROM) {
        Some(Event::Gone)
    } else if mask.intersects(Flag::IN_CREATE | Flag::IN_ATTRIB) {
        Some(Event::Touched)
    } else {
        None
    }
}
