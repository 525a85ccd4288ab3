//! What of the system a function must see, worked out from its executable: the loader and libraries of an ELF program, the
//! interpreter of a `#!` line, and what is known of its runtime. What can't be worked out is the whole system, with the
//! reason why. Only reads; the launcher has the last word on every path.

mod libraries;
mod runtimes;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use funcd_sandbox::spec::{Image, System};
use funcd_sandbox::system;
use serde::{Deserialize, Serialize};

use super::elf::Needs;
use libraries::Libraries;

/// Symlinks followed in one path, as the kernel's MAXSYMLINKS.
const MAX_LINKS: usize = 40;
/// Files of one folder, beyond which the folder itself is bound: one mount instead of many.
const MAX_FILES: usize = 12;
/// Paths and symlinks that are sent to the launcher, at most, in bytes: they share a message with other things.
const MAX_BYTES: usize = 6 << 10;
/// What an executable asks for, at most, in bytes: it is left to the next supervisor, beside the manifest.
const MAX_ASKS: usize = 4 << 10;
/// Where `#!/usr/bin/env` looks: the PATH that functions get.
const SEARCH: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];
/// Data that libraries look for at run time by names of their own: character sets, locales, zones, certificates.
const DATA: [(&str, &str); 8] = [
    ("/etc/ld.so.cache", "where libraries are"),
    ("/usr/lib/locale", "locales"),
    ("/etc/localtime", "the time zone"),
    ("/usr/share/zoneinfo", "time zones"),
    ("/etc/ssl/certs", "certificates"),
    ("/etc/pki/tls/certs", "certificates"),
    ("/etc/ssl/openssl.cnf", "certificates"),
    ("/usr/share/ca-certificates", "certificates"),
];

/// What an executable says that it needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asks {
    /// Nothing: it is static.
    #[default]
    Nothing,
    /// A loader and libraries.
    Libraries(Needs),
    /// The interpreter of a `#!` line, and what the line says after it.
    Interpreter(String, String),
    /// Something that can't be told from it.
    Unknown,
}

/// What of the system a manifest asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scope {
    /// What the executable needs.
    #[default]
    Auto,
    /// All that functions may see.
    Full,
}

/// One thing that a function sees, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// Its real name.
    pub path: PathBuf,
    /// Why, for people.
    pub why: String,
}

/// What of the system a function sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Files and folders.
    pub parts: Vec<Part>,
    /// Symlinks that lead to them.
    pub links: BTreeMap<PathBuf, PathBuf>,
    /// Set when it sees all that functions may see: why.
    pub whole: Option<String>,
}

impl View {
    fn whole(why: impl Into<String>) -> View {
        View {
            whole: Some(why.into()),
            ..View::default()
        }
    }

    /// As the launcher is asked for it.
    pub fn system(&self) -> System {
        match self.whole {
            Some(_) => System::Whole,
            None => System::Parts {
                paths: self.parts.iter().map(|part| part.path.clone()).collect(),
                links: self
                    .links
                    .iter()
                    .map(|(path, target)| (path.clone(), target.clone()))
                    .collect(),
            },
        }
    }

    fn bytes(&self) -> usize {
        let parts: usize = self
            .parts
            .iter()
            .map(|part| part.path.as_os_str().len() + 2)
            .sum();
        let links = self
            .links
            .iter()
            .map(|(path, target)| path.as_os_str().len() + target.as_os_str().len() + 4);
        parts + links.sum::<usize>()
    }
}

/// What an executable asks for, and what that is on this machine, worked out once for each state of its libraries.
#[derive(Debug, Default)]
pub struct Wanted {
    /// What it asks for.
    pub asks: Asks,
    known: Mutex<Option<(Stamp, Scope, Arc<View>)>>,
}

/// A state of the system's libraries: changed by ldconfig(8), which package managers run when libraries change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(Option<(u64, i64, i64)>);

impl Stamp {
    /// The state now.
    pub fn now() -> Stamp {
        let meta = fs::metadata(libraries::CACHE).ok();
        Stamp(meta.map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec())))
    }

    /// Some state.
    #[cfg(test)]
    pub(crate) fn sample(number: u64) -> Stamp {
        Stamp(Some((number, 0, 0)))
    }
}

impl PartialEq for Wanted {
    fn eq(&self, other: &Wanted) -> bool {
        self.asks == other.asks
    }
}

impl Wanted {
    /// Nothing is looked up yet.
    pub fn new(asks: Asks) -> Wanted {
        Wanted {
            asks,
            known: Mutex::default(),
        }
    }

    /// Whether it sees anything of the system, which may change.
    pub fn sees_the_system(&self, scope: Scope) -> bool {
        scope == Scope::Full || self.asks != Asks::Nothing
    }

    /// The view now. Reads files when it was not asked before, or when libraries of the system changed since: a few
    /// milliseconds.
    pub fn view(&self, scope: Scope) -> Arc<View> {
        let stamp = Stamp::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((then, for_scope, view)) if *then == stamp && *for_scope == scope => Arc::clone(view),
            _ => {
                let view = Arc::new(view(&self.asks, scope));
                *known = Some((stamp, scope, Arc::clone(&view)));
                view
            }
        }
    }
}

/// What the bytes of an executable say, with the first 256 of them.
pub fn asks(image: Image, head: &[u8], needs: Option<Needs>) -> Asks {
    let few = |needs: &Needs| {
        let texts = needs.libraries.iter().chain(&needs.search);
        texts.map(|text| text.len() + 3).sum::<usize>() <= MAX_ASKS
    };
    match (image, needs.filter(few)) {
        (Image::Static, _) => Asks::Nothing,
        (Image::Dynamic, Some(needs)) if needs.loader.is_some() => Asks::Libraries(needs),
        (Image::Dynamic, _) => Asks::Unknown,
        (Image::Script, _) => match super::image::interpreter(head) {
            Some((path, argument)) => Asks::Interpreter(path, argument),
            None => Asks::Unknown,
        },
    }
}

/// What of this machine an executable needs.
pub fn view(asks: &Asks, scope: Scope) -> View {
    if scope == Scope::Full {
        return View::whole("the manifest says system = \"full\"");
    }
    let mut finder = Finder::default();
    let found = match asks {
        Asks::Nothing => return View::default(),
        Asks::Unknown => Err("what it needs can't be told from the executable".to_owned()),
        Asks::Libraries(needs) => finder.program(needs, "the executable", None),
        Asks::Interpreter(path, argument) => finder.script(path, argument),
    };
    let view = match found {
        Ok(()) => finder.finish(),
        Err(why) => View::whole(why),
    };
    match view.bytes() {
        bytes if bytes > MAX_BYTES => View::whole(format!("what it needs has {} parts", view.parts.len())),
        _ => view,
    }
}

/// What was found so far.
#[derive(Default)]
struct Finder {
    parts: BTreeMap<PathBuf, String>,
    links: BTreeMap<PathBuf, PathBuf>,
    /// Folders that libraries were found in.
    folders: BTreeSet<PathBuf>,
}

impl Finder {
    /// Shows a path: its real file and the symlinks on the way. What is no part of the system is left to the grants.
    fn show(&mut self, path: &Path, why: &str) -> Result<PathBuf, String> {
        let (real, links) = follow(path).ok_or_else(|| format!("{} is not there", path.display()))?;
        for (path, target) in links {
            if system::holds(&path) {
                self.links.insert(path, target);
            }
        }
        if system::holds(&real) {
            self.parts.entry(real.clone()).or_insert_with(|| why.to_owned());
        }
        Ok(real)
    }

    /// Shows what is there of a path.
    fn offer(&mut self, path: &Path, why: &str) {
        let _ = self.show(path, why);
    }

    /// A program, and the folder that it lies in, if that is the same for the function.
    fn program(&mut self, needs: &Needs, who: &str, origin: Option<&Path>) -> Result<(), String> {
        if let Some(loader) = &needs.loader {
            self.show(Path::new(loader), &format!("the loader of {who}"))?;
        }
        let libraries = Libraries::load();
        for library in libraries.closure(needs, who, origin)? {
            let real = self.show(&library.path, &library.why)?;
            self.folders.extend(real.parent().map(Path::to_owned));
        }
        let folders: Vec<PathBuf> = self.folders.iter().cloned().collect();
        for folder in folders {
            self.offer(&folder.join("gconv"), "character sets, for every dynamic program");
        }
        for (path, what) in DATA {
            self.offer(Path::new(path), &format!("{what}, for every dynamic program"));
        }
        // `/lib`, `/lib64` and the like lead to what was found.
        for top in ["/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin"] {
            if let Ok(target) = fs::read_link(top) {
                self.links.insert(top.into(), target);
            }
        }
        Ok(())
    }

    fn script(&mut self, path: &str, argument: &str) -> Result<(), String> {
        let mut path = PathBuf::from(path);
        if path.file_name().is_some_and(|name| name == "env") {
            let real = self.show(&path, "the interpreter of its #! line")?;
            self.libraries_of(&real)?;
            path = named_by_env(argument)?;
        }
        let real = self.show(&path, "the interpreter of its #! line")?;
        let name = real
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let Some(runtime) = runtimes::of(&name) else {
            return Err(format!(
                "its interpreter {name} runs other programs, or is not known"
            ));
        };
        self.libraries_of(&real)?;
        // What a runtime loads while it runs (extension modules) needs libraries that it does not name.
        for folder in self.folders.clone() {
            self.offer(
                &folder,
                &format!("libraries, for what {} loads while it runs", runtime.name),
            );
        }
        for path in runtime.paths(&real) {
            self.offer(&path, &format!("the library of {}", runtime.name));
        }
        Ok(())
    }

    fn libraries_of(&mut self, program: &Path) -> Result<(), String> {
        match libraries::needs_of(program) {
            Some(needs) => self.program(&needs, &program.display().to_string(), program.parent()),
            None => Err(format!(
                "{} is no program of this machine, but perhaps a script itself",
                program.display()
            )),
        }
    }

    fn finish(self) -> View {
        let mut parts = self.parts;
        let mut files: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for folder in parts.keys().filter_map(|path| path.parent()) {
            *files.entry(folder.to_owned()).or_default() += 1;
        }
        for (folder, count) in files {
            if count > MAX_FILES && self.folders.contains(&folder) {
                parts.insert(folder, format!("{count} libraries in it are needed"));
            }
        }
        // What lies in another part is there already.
        let outer: Vec<PathBuf> = parts.keys().cloned().collect();
        let inside = |path: &Path| outer.iter().any(|other| path != other && path.starts_with(other));
        let part = |(path, why)| Part { path, why };
        View {
            links: self.links.into_iter().filter(|(path, _)| !inside(path)).collect(),
            parts: parts
                .into_iter()
                .filter(|(path, _)| !inside(path))
                .map(part)
                .collect(),
            whole: None,
        }
    }
}

/// The program that `env` would run.
fn named_by_env(argument: &str) -> Result<PathBuf, String> {
    let words = argument
        .split_ascii_whitespace()
        .skip_while(|word| *word == "-S" || word.contains('='));
    let word = words.map(|word| word.strip_prefix("-S").unwrap_or(word)).next();
    match word {
        Some(word) if !word.starts_with('-') && !word.contains('/') => {
            let found = SEARCH
                .iter()
                .map(|folder| Path::new(folder).join(word))
                .find(|path| path.exists());
            found.ok_or_else(|| format!("{word}, which its #! line names, is not in {}", SEARCH.join(":")))
        }
        Some(word) if word.starts_with('/') => Ok(word.into()),
        _ => Err(format!(
            "its #! line, env {argument}, can't be told without running it"
        )),
    }
}

/// The real path of what is there, and the symlinks on the way with their targets.
fn follow(path: &Path) -> Option<(PathBuf, Vec<(PathBuf, PathBuf)>)> {
    let mut links = Vec::new();
    let mut real = PathBuf::from("/");
    let mut rest: Vec<PathBuf> = parts_reversed(path);
    while let Some(part) = rest.pop() {
        if part.as_os_str() == ".." {
            real.pop();
            continue;
        }
        let at = real.join(&part);
        match fs::read_link(&at) {
            Ok(target) => {
                if links.len() == MAX_LINKS {
                    return None;
                }
                if target.is_absolute() {
                    real = PathBuf::from("/");
                }
                rest.extend(parts_reversed(&target));
                links.push((at, target));
            }
            Err(_) => real = at,
        }
    }
    fs::symlink_metadata(&real).ok()?;
    Some((real, links))
}

/// The parts of a path, the last first.
fn parts_reversed(path: &Path) -> Vec<PathBuf> {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(part).collect()
}

#[cfg(test)]
mod tests;
