//! One look at one entry of the functions folder: what it consists of, and whether it can be a function. Knows nothing of
//! time but a file's age; decides nothing; keeps no descriptor open.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use funcd_sandbox::spec::Image;
use nix::errno::Errno;
use nix::libc::{S_IFDIR, S_IFLNK, S_IFREG};

use super::folder::{self, FileId, FolderState};
use super::guess::{self, Guess};
use super::manifest::{Defaults, Manifest};
use super::policy;
use super::refusal::{Refusal, kind};
use super::view::{self, Asks};
use super::{elf, image};
use crate::name::FunctionName;

/// The manifest's file name.
pub const MANIFEST: &str = "function.toml";
/// The largest manifest, in bytes.
pub const MAX_MANIFEST: u64 = 64 * 1024;
/// A file younger than this may change again without showing it, since clocks tick.
const CERTAIN_AGE: Duration = Duration::from_secs(1);

/// By what a change of an entry shows: of the folder's permissions, of itself, of its manifest, of its executable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Who beside its owner may change the functions folder, and the owner.
    pub home: (u32, u32),
    /// The entry itself.
    pub entry: FileId,
    /// Its `function.toml`.
    pub manifest: Option<FileId>,
    /// The executable in it.
    pub executable: Option<FileId>,
}

/// An entry that can be a function.
#[derive(Debug, PartialEq)]
pub struct Program {
    /// Its name.
    pub name: FunctionName,
    /// Its manifest.
    pub manifest: Arc<Manifest>,
    /// The manifest's text, empty when there is none.
    pub text: String,
    /// How the kernel runs the executable.
    pub image: Image,
    /// What of the system it asks for.
    pub asks: Asks,
}

/// What a look says about an entry.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It can be a function.
    Function(Arc<Program>),
    /// It can't.
    Refused(Refusal),
    /// Its name says that an upload is under way.
    Uploading,
}

/// What a look saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    /// What it consists of.
    pub identity: Identity,
    /// How long all of it has been as it is, by the file system's clock; zero when that clock is not ours.
    pub age: Duration,
    /// The files whose changes matter, as events name them; empty for the entry itself.
    pub files: Vec<OsString>,
    /// What to make of it.
    pub verdict: Verdict,
}

/// The outcome of a look.
#[derive(Debug, Clone, PartialEq)]
pub enum Look {
    /// There is nothing.
    Absent,
    /// There is something.
    Seen(Box<Sighting>),
    /// It can't be told now: try again. Never taken for absence.
    Failed(String),
    /// The functions folder itself was deleted.
    HomeGone,
}

/// Looks at entries, and remembers what it read so that it reads it once.
#[derive(Debug)]
pub struct Scanner {
    home: OwnedFd,
    clock_is_ours: bool,
    defaults: Defaults,
    max_executable: u64,
    user: String,
    cache: HashMap<OsString, Cached>,
}

#[derive(Debug)]
struct Cached {
    identity: Identity,
    files: Vec<OsString>,
    exec: OsString,
    verdict: Verdict,
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

/// Why a look ended early.
enum Stop {
    Refused(Refusal),
    Failed(String),
}

impl Scanner {
    /// Looks into `home`. Executables of more than `max_executable` bytes are refused; `user` is who can't read files.
    pub fn new(home: OwnedFd, defaults: Defaults, max_executable: u64, user: String) -> Scanner {
        Scanner {
            clock_is_ours: folder::clock_is_ours(&home),
            home,
            defaults,
            max_executable,
            user,
            cache: HashMap::new(),
        }
    }

    /// The functions folder.
    pub fn home(&self) -> BorrowedFd<'_> {
        self.home.as_fd()
    }

    /// Looks into another folder from now on.
    pub fn move_to(&mut self, home: OwnedFd) {
        self.clock_is_ours = folder::clock_is_ours(&home);
        self.home = home;
        self.cache.clear();
    }

    /// Looks at an entry.
    pub fn look(&mut self, name: &OsStr, now: SystemTime) -> Look {
        let home = match folder::state(self.home.as_fd()) {
            Ok(state) if state.deleted => return Look::HomeGone,
            Ok(state) => state,
            Err(errno) => return Look::Failed(format!("the functions folder can't be looked at: {errno}")),
        };
        let entry = match folder::look(self.home.as_fd(), name) {
            Ok(Some(entry)) => entry,
            Ok(None) => {
                // Asked again, since all of it may have been deleted between the two.
                return match folder::state(self.home.as_fd()) {
                    Ok(state) if !state.deleted => {
                        self.cache.remove(name);
                        Look::Absent
                    }
                    Ok(_) => Look::HomeGone,
                    Err(errno) => Look::Failed(format!("the functions folder can't be looked at: {errno}")),
                };
            }
            Err(errno) => return Look::Failed(format!("it can't be looked at: {errno}")),
        };
        let mut sighting = Sighting {
            identity: Identity {
                home: (home.id.mode & 0o022, home.id.uid),
                entry,
                manifest: None,
                executable: None,
            },
            age: Duration::ZERO,
            files: vec![OsString::new()],
            verdict: Verdict::Uploading,
        };
        if !policy::is_upload(name) {
            let found = self.judge(name, &home, &mut sighting, now);
            sighting.verdict = match found {
                Ok(verdict) => verdict,
                Err(Stop::Refused(refusal)) => Verdict::Refused(refusal),
                Err(Stop::Failed(why)) => return Look::Failed(why),
            };
        }
        if self.clock_is_ours {
            sighting.age = age(&sighting.identity, now);
        }
        Look::Seen(Box::new(sighting))
    }

    fn judge(
        &mut self,
        name: &OsStr,
        home: &FolderState,
        sighting: &mut Sighting,
        now: SystemTime,
    ) -> Result<Verdict, Stop> {
        let entry = sighting.identity.entry;
        let function = name.to_str().map(FunctionName::parse);
        let Some(Ok(function)) = function else {
            let reason =
                "its name is no function name: use 1 to 63 of a-z, 0-9 and '-', and don't begin with '-'";
            return Err(refuse(kind::BAD_NAME, reason));
        };
        if home.id.mode & 0o022 != 0 {
            let reason = format!(
                "group or others may change the functions folder (mode {:04o}): chmod go-w it",
                home.id.mode & 0o7777
            );
            return Err(refuse(kind::UNSAFE_FOLDER, reason));
        }
        match entry.kind() {
            S_IFREG => {
                sighting.identity.executable = Some(entry);
                if let Some(cached) = self.cached(name, sighting, now) {
                    return Ok(cached);
                }
                policy::check(&entry, home, self.max_executable, "")?;
                let manifest = self.manifest(&function, Path::new(MANIFEST), None)?;
                let image = self.image(
                    self.home.as_fd(),
                    name,
                    &entry,
                    ("", Guesses::of(&manifest.0, Guesses::Alone)),
                )?;
                self.accept(name, sighting, function, manifest, image)
            }
            S_IFDIR => self.judge_folder(name, function, home, sighting, now),
            S_IFLNK => Err(refuse(
                kind::SYMLINK,
                "it is a symbolic link: copy the file itself",
            )),
            _ => Err(refuse(
                kind::SPECIAL_FILE,
                "it is a FIFO, a socket or a device: copy an executable file",
            )),
        }
    }

    fn judge_folder(
        &mut self,
        name: &OsStr,
        function: FunctionName,
        home: &FolderState,
        sighting: &mut Sighting,
        now: SystemTime,
    ) -> Result<Verdict, Stop> {
        policy::owned(&sighting.identity.entry, home, "")?;
        let opened = folder::open_folder(self.home.as_fd(), name);
        let opened = opened.map_err(|errno| self.cant_open(errno, ""))?;
        let place = format!("{function}/{MANIFEST}: ");
        sighting.files = vec![MANIFEST.into()];
        let manifest_id = folder::look(opened.as_fd(), OsStr::new(MANIFEST));
        sighting.identity.manifest = manifest_id.map_err(|errno| failed(&place, errno))?;

        // The manifest names the executable; one that was read already need not be read again to know which.
        let known = self.cache.get(name).filter(|cached| {
            let certain = |id: &FileId| id.age(now) >= CERTAIN_AGE;
            cached.identity.manifest == sighting.identity.manifest
                && sighting.identity.manifest.as_ref().is_none_or(certain)
        });
        let (exec, manifest) = match known {
            Some(cached) => (cached.exec.clone(), None),
            None => {
                let text = match &sighting.identity.manifest {
                    None => None,
                    Some(id) => Some(self.manifest_text(opened.as_fd(), id, home, &place)?),
                };
                let file = format!("{function}/{MANIFEST}");
                let manifest = self.manifest(&function, Path::new(&file), text)?;
                (OsString::from(&manifest.0.exec), Some(manifest))
            }
        };
        sighting.files.push(exec.clone());
        let place = format!("{function}/{}: ", exec.display());
        let executable = folder::look(opened.as_fd(), &exec).map_err(|errno| failed(&place, errno))?;
        sighting.identity.executable = executable;
        let Some(executable) = executable else {
            let reason = format!(
                "it has no file {exec:?}: copy the executable there, or name it by `exec` in {MANIFEST}"
            );
            return Err(refuse(kind::NO_EXECUTABLE, reason));
        };
        if let Some(cached) = self.cached(name, sighting, now) {
            return Ok(cached);
        }
        match executable.kind() {
            S_IFREG => policy::check(&executable, home, self.max_executable, &place)?,
            S_IFLNK => {
                return Err(refuse(
                    kind::SYMLINK,
                    format!("{place}it is a symbolic link: copy the file itself"),
                ));
            }
            _ => {
                return Err(refuse(
                    kind::SPECIAL_FILE,
                    format!("{place}it is no regular file"),
                ));
            }
        }
        let manifest = match manifest {
            Some(manifest) => manifest,
            None => {
                let id = sighting.identity.manifest;
                let text = id.map(|id| self.manifest_text(opened.as_fd(), &id, home, &place));
                self.manifest(
                    &function,
                    Path::new(&format!("{function}/{MANIFEST}")),
                    text.transpose()?,
                )?
            }
        };
        let image = self.image(
            opened.as_fd(),
            &exec,
            &executable,
            (&place, Guesses::of(&manifest.0, Guesses::WithWhatLiesBeside)),
        )?;
        self.accept(name, sighting, function, manifest, image)
    }

    /// The verdict of an earlier look, if nothing has changed since and that would show.
    fn cached(&self, name: &OsStr, sighting: &Sighting, now: SystemTime) -> Option<Verdict> {
        let cached = self.cache.get(name)?;
        let same = cached.identity == sighting.identity && cached.files == sighting.files;
        (same && age(&sighting.identity, now) >= CERTAIN_AGE).then(|| cached.verdict.clone())
    }

    fn accept(
        &mut self,
        entry: &OsStr,
        sighting: &Sighting,
        name: FunctionName,
        (mut manifest, text): (Manifest, String),
        (image, asks, guess): (Image, Asks, Option<Guess>),
    ) -> Result<Verdict, Stop> {
        if let Some(guess) = guess {
            manifest.settle(guess);
        }
        let exec = OsString::from(&manifest.exec);
        let verdict = Verdict::Function(Arc::new(Program {
            name,
            manifest: Arc::new(manifest),
            text,
            image,
            asks,
        }));
        let cached = Cached {
            identity: sighting.identity.clone(),
            files: sighting.files.clone(),
            exec,
            verdict: verdict.clone(),
        };
        self.cache.insert(entry.to_owned(), cached);
        Ok(verdict)
    }

    fn manifest(
        &self,
        name: &FunctionName,
        file: &Path,
        text: Option<String>,
    ) -> Result<(Manifest, String), Stop> {
        match Manifest::read(name, file, text.as_deref(), &self.defaults) {
            Ok(manifest) => Ok((manifest, text.unwrap_or_default())),
            Err(error) => Err(refuse(kind::BAD_MANIFEST, error.to_string())),
        }
    }

    fn manifest_text(
        &self,
        folder: BorrowedFd<'_>,
        id: &FileId,
        home: &FolderState,
        place: &str,
    ) -> Result<String, Stop> {
        match id.kind() {
            S_IFREG => policy::owned(id, home, place)?,
            S_IFLNK => {
                return Err(refuse(
                    kind::SYMLINK,
                    format!("{place}it is a symbolic link: copy the file itself"),
                ));
            }
            _ => {
                return Err(refuse(
                    kind::SPECIAL_FILE,
                    format!("{place}it is no regular file"),
                ));
            }
        }
        if id.size > MAX_MANIFEST {
            let reason = format!("{place}it has {} bytes, at most {MAX_MANIFEST} are read", id.size);
            return Err(refuse(kind::BAD_MANIFEST, reason));
        }
        let file = self.open_same(folder, OsStr::new(MANIFEST), id, place)?;
        let mut bytes = Vec::new();
        let read = file.take(MAX_MANIFEST).read_to_end(&mut bytes);
        read.map_err(|e| failed(place, e))?;
        String::from_utf8(bytes).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            refuse(
                kind::BAD_MANIFEST,
                format!("{place}it is not UTF-8 from byte {at} on"),
            )
        })
    }

    fn image(
        &self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        id: &FileId,
        (place, guesses): (&str, Guesses),
    ) -> Result<(Image, Asks, Option<Guess>), Stop> {
        let file = self.open_same(folder, name, id, place)?;
        let mut read_at = |offset: u64, buffer: &mut [u8]| file.read_at(buffer, offset);
        match image::image(id.size, &mut read_at) {
            Ok(Ok(image)) => {
                let mut head = [0; image::SCRIPT_LINE];
                let length = image::fill(&mut read_at, 0, &mut head).map_err(|e| failed(place, e))?;
                let needs = elf::needs(&mut read_at).map_err(|e| failed(place, e))?;
                let guess = match guesses {
                    Guesses::No => None,
                    Guesses::Alone | Guesses::WithWhatLiesBeside => {
                        let looks = guesses == Guesses::WithWhatLiesBeside;
                        let is_there = |file: &&str| {
                            looks && matches!(folder::look(folder, OsStr::new(file)), Ok(Some(_)))
                        };
                        let beside: Vec<_> = guess::BESIDE.into_iter().filter(is_there).collect();
                        let exec = name.to_str().unwrap_or("");
                        let guess = guess::guess(exec, &beside, image, id.size, &mut read_at);
                        Some(guess.map_err(|e| failed(place, e))?)
                    }
                };
                Ok((image, view::asks(image, &head[..length], needs), guess))
            }
            Ok(Err(refusal)) => Err(refuse(refusal.kind, format!("{place}{}", refusal.reason))),
            Err(e) => Err(failed(place, e)),
        }
    }

    /// Opens the file that was just looked at, and no other.
    fn open_same(
        &self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        id: &FileId,
        place: &str,
    ) -> Result<File, Stop> {
        let opened = folder::open_file(folder, name).map_err(|errno| self.cant_open(errno, place))?;
        match folder::state(opened.as_fd()) {
            Ok(state) if state.id == *id => Ok(File::from(opened)),
            Ok(_) => Err(Stop::Failed(format!("{place}it changed while it was looked at"))),
            Err(errno) => Err(failed(place, errno)),
        }
    }

    fn cant_open(&self, errno: Errno, place: &str) -> Stop {
        match errno {
            Errno::EACCES | Errno::EPERM => refuse(
                kind::UNREADABLE,
                format!(
                    "{place}user {} can't read it: chmod o+r it (o+rx for a folder)",
                    self.user
                ),
            ),
            errno => failed(place, errno),
        }
    }

    /// Opens the executable of an entry if all of it is as it was.
    ///
    /// # Errors
    /// What has changed or can't be opened: look again.
    pub fn open(&self, name: &OsStr, identity: &Identity, program: &Program) -> Result<OwnedFd, String> {
        let text = |stop| match stop {
            Stop::Failed(why) => why,
            Stop::Refused(refusal) => refusal.reason,
        };
        let executable = identity.executable.ok_or("it has no executable")?;
        let opened = match identity.entry.kind() {
            S_IFDIR => {
                let folder = folder::open_folder(self.home(), name).map_err(|e| e.to_string())?;
                let manifest =
                    folder::look(folder.as_fd(), OsStr::new(MANIFEST)).map_err(|e| e.to_string())?;
                if manifest != identity.manifest {
                    return Err("its manifest changed while it was looked at".into());
                }
                self.open_same(
                    folder.as_fd(),
                    OsStr::new(&program.manifest.exec),
                    &executable,
                    "",
                )
            }
            _ => self.open_same(self.home(), name, &executable, ""),
        };
        opened.map(OwnedFd::from).map_err(text)
    }
}

/// Whether the contract is to be found out, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guesses {
    /// The manifest names it.
    No,
    /// By the executable: what lies beside it in the folder of all functions is nobody's.
    Alone,
    /// Also by the files of the function's own folder.
    WithWhatLiesBeside,
}

impl Guesses {
    fn of(manifest: &Manifest, by: Guesses) -> Guesses {
        match manifest.found {
            Some(_) => by,
            None => Guesses::No,
        }
    }
}

fn age(identity: &Identity, now: SystemTime) -> Duration {
    // A folder has no time of its own here; without files it is brand new.
    let files = [Some(identity.entry), identity.manifest, identity.executable];
    let files = files.iter().flatten().filter(|id| id.ctime != 0);
    files.map(|id| id.age(now)).min().unwrap_or_default()
}

fn refuse(kind: &'static str, reason: impl Into<String>) -> Stop {
    Stop::Refused(Refusal::new(kind, reason))
}

fn failed(place: &str, why: impl std::fmt::Display) -> Stop {
    Stop::Failed(format!("{place}it can't be read now: {why}"))
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
