//! Which files a program's libraries are, found as the loader would find them (ld.so(8)): search folders of who asks, the
//! cache, the usual folders. Reads headers of libraries of the system only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use funcd_sandbox::system;
use nix::fcntl::OFlag;

use crate::catalog::elf::{self, Needs};
use crate::catalog::image::u32_at;

/// The loader's cache.
pub(super) const CACHE: &str = "/etc/ld.so.cache";
/// No cache is larger, in bytes.
const MAX_CACHE: u64 = 16 << 20;
/// No program has more libraries.
const MAX_LIBRARIES: usize = 512;
/// What glibc loads by itself when threads end early (pthread_exit(3)), and what unwinds.
const LATE: &str = "libgcc_s.so.1";

/// A library that is needed.
#[derive(Debug)]
pub(super) struct Library {
    /// As the loader would call it.
    pub(super) path: PathBuf,
    /// Who needs it.
    pub(super) why: String,
}

/// Where libraries are.
#[derive(Debug)]
pub(super) struct Libraries {
    cached: BTreeMap<String, Vec<PathBuf>>,
    usual: Vec<PathBuf>,
}

impl Libraries {
    /// Of this machine.
    pub(super) fn load() -> Libraries {
        let mut bytes = Vec::new();
        let read = File::open(CACHE).and_then(|file| file.take(MAX_CACHE).read_to_end(&mut bytes));
        let arch = std::env::consts::ARCH;
        let mut usual = vec![
            format!("/lib/{arch}-linux-gnu"),
            format!("/usr/lib/{arch}-linux-gnu"),
        ];
        usual.extend(["/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"].map(str::to_owned));
        Libraries {
            cached: read.ok().and_then(|_| parse_cache(&bytes)).unwrap_or_default(),
            usual: usual.into_iter().map(PathBuf::from).collect(),
        }
    }

    /// All libraries of a program, with those of its libraries.
    ///
    /// # Errors
    /// The library that is not found in the system, in words.
    pub(super) fn closure(
        &self,
        program: &Needs,
        who: &str,
        origin: Option<&Path>,
    ) -> Result<Vec<Library>, String> {
        let mut found = Vec::new();
        let mut known = BTreeSet::new();
        let mut asked = VecDeque::new();
        let ask = |needs: &Needs, who: &str, origin: Option<&Path>, asked: &mut VecDeque<_>| {
            let search = folders(&needs.search, origin);
            for name in &needs.libraries {
                asked.push_back((name.clone(), who.to_owned(), search.clone()));
            }
        };
        ask(program, who, origin, &mut asked);
        // Programs without libraries have nothing that could end a thread.
        if !program.libraries.is_empty() && self.find(LATE, &[]).next().is_some() {
            asked.push_back((LATE.to_owned(), "glibc".to_owned(), Vec::new()));
        }
        while let Some((name, who, search)) = asked.pop_front() {
            if !known.insert(name.clone()) {
                continue;
            }
            if known.len() > MAX_LIBRARIES {
                return Err(format!("{who} needs more than {MAX_LIBRARIES} libraries"));
            }
            let mut there = false;
            for (path, needs) in self.find(&name, &search) {
                there = true;
                let origin = path.canonicalize().ok();
                ask(
                    &needs,
                    &name,
                    origin.as_deref().and_then(Path::parent),
                    &mut asked,
                );
                let why = format!("library {name}, needed by {who}");
                found.push(Library { path, why });
            }
            if !there {
                return Err(format!("{name}, needed by {who}, is not in the system's folders"));
            }
        }
        Ok(found)
    }

    /// The files that the loader could take for a name: the first that fits, and the variants for newer processors.
    fn find<'a>(
        &'a self,
        name: &'a str,
        search: &'a [PathBuf],
    ) -> impl Iterator<Item = (PathBuf, Needs)> + 'a {
        let usable = |path: PathBuf| {
            let real = path.canonicalize().ok().filter(|real| system::holds(real))?;
            let needs = needs_of(&real)?;
            Some((path, needs))
        };
        let own = search.iter().map(|folder| folder.join(name)).find_map(usable);
        let cached = self.cached.get(name).into_iter().flatten().cloned();
        let cached: Vec<_> = match own {
            Some(_) => Vec::new(),
            None => cached.filter_map(usable).collect(),
        };
        let absolute = name
            .starts_with('/')
            .then(|| PathBuf::from(name))
            .and_then(usable);
        let usual = match own.is_none() && cached.is_empty() && !name.contains('/') {
            true => self.usual.iter().map(|folder| folder.join(name)).find_map(usable),
            false => None,
        };
        own.into_iter().chain(cached).chain(absolute).chain(usual)
    }
}

/// What a program or library needs. A `#!` line names whatever its writer likes, so this waits for nobody at the other end of a
/// FIFO, and reads no device.
pub(super) fn needs_of(path: &Path) -> Option<Needs> {
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    elf::needs(&mut |offset, buffer| file.read_at(buffer, offset)).ok()?
}

/// Folders as they are written in a file that lies in `origin`.
fn folders(search: &[String], origin: Option<&Path>) -> Vec<PathBuf> {
    let folder = |text: &String| match text
        .strip_prefix("$ORIGIN")
        .or_else(|| text.strip_prefix("${ORIGIN}"))
    {
        Some(rest) => Some(origin?.join(rest.trim_start_matches('/'))),
        // Others than absolute ones depend on where it runs.
        None => text.starts_with('/').then(|| PathBuf::from(text)),
    };
    search.iter().filter_map(folder).collect()
}

/// The cache of glibc 2.2 and later (`struct cache_file_new` in its sources), also behind the table of older ones.
fn parse_cache(bytes: &[u8]) -> Option<BTreeMap<String, Vec<PathBuf>>> {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    const HEADER: usize = 48;
    const ENTRY: usize = 24;
    let start = match bytes.starts_with(MAGIC) {
        true => 0,
        false => bytes.windows(MAGIC.len()).position(|window| window == MAGIC)?,
    };
    let bytes = &bytes[start..];
    let count = u32_at(bytes.get(..HEADER)?, 20) as usize;
    let table = bytes.get(HEADER..HEADER.checked_add(count.checked_mul(ENTRY)?)?)?;
    let text = |at: u32| {
        let rest = bytes.get(at as usize..)?;
        let end = rest.iter().position(|b| *b == 0)?;
        std::str::from_utf8(&rest[..end]).ok()
    };
    let mut cached: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for entry in table.chunks_exact(ENTRY) {
        if let (Some(name), Some(path)) = (text(u32_at(entry, 4)), text(u32_at(entry, 8)))
            && path.starts_with('/')
        {
            cached.entry(name.to_owned()).or_default().push(path.into());
        }
    }
    Some(cached)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_of_this_machine_is_understood() {
        let Ok(bytes) = std::fs::read(CACHE) else {
            return println!("skipped: there is no {CACHE}");
        };
        let cached = parse_cache(&bytes).unwrap();
        assert!(
            cached["libc.so.6"].iter().any(|path| path.exists()),
            "{:?}",
            cached["libc.so.6"]
        );
        for length in (0..bytes.len()).step_by(97) {
            let _ = parse_cache(&bytes[..length]);
        }
        // Of the old table only the end matters.
        let mut older = vec![b'x'; 64];
        older.extend(&bytes);
        assert_eq!(parse_cache(&older), Some(cached));
    }

    #[test]
    fn folders_begin_where_the_file_lies() {
        let search = ["$ORIGIN/../lib", "${ORIGIN}", "/opt/x", "relative", ""].map(str::to_owned);
        let expected = ["/a/b/../lib", "/a/b", "/opt/x"].map(PathBuf::from);
        assert_eq!(folders(&search, Some(Path::new("/a/b"))), expected);
        assert_eq!(folders(&search, None), expected[2..]);
    }
}
