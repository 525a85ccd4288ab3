//! What an ELF program or library needs to be loaded: its loader, its libraries, and where it looks for them. Pure: reads
//! through a closure, and believes nothing: whatever is odd is no answer, and then the function sees the whole system.

use std::io;

use serde::{Deserialize, Serialize};

use super::image::{ReadAt, fill, native, u16_at, u32_at, u64_at};

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_STRSZ: u64 = 10;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;
/// Bounds on what is read, each far above what linkers write.
const MAX_SEGMENTS: usize = 256;
const MAX_DYNAMIC: u64 = 64 << 10;
const MAX_NEEDED: usize = 256;
const MAX_NAME: usize = 4095;

/// What a program or library needs to be loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// The loader, for programs.
    pub loader: Option<String>,
    /// Names of libraries (`DT_NEEDED`).
    pub libraries: Vec<String>,
    /// Folders to look in first (`DT_RUNPATH`, `DT_RPATH`).
    pub search: Vec<String>,
}

/// What a file needs; `None` when it is no 64-bit ELF file of this machine, or a strange one.
///
/// # Errors
/// Those of `read_at`.
pub fn needs(read_at: ReadAt<'_>) -> io::Result<Option<Needs>> {
    let mut head = [0; 64];
    if fill(read_at, 0, &mut head)? < head.len()
        || !head.starts_with(b"\x7fELF\x02\x01")
        || Some(u16_at(&head, 18)) != native()
    {
        return Ok(None);
    }
    let (offset, size, count) = (
        u64_at(&head, 32),
        u16_at(&head, 54),
        usize::from(u16_at(&head, 56)),
    );
    if size != 56 || count > MAX_SEGMENTS {
        return Ok(None);
    }
    let Some(table) = read(read_at, offset, 56 * count as u64, u64::MAX)? else {
        return Ok(None);
    };
    let segments: Vec<Segment> = table.chunks_exact(56).map(Segment::of).collect();
    let mut needs = Needs::default();
    if let Some(interpreter) = segments.iter().find(|segment| segment.kind == PT_INTERP) {
        let Some(bytes) = read(read_at, interpreter.offset, interpreter.size, MAX_NAME as u64)? else {
            return Ok(None);
        };
        let Some(loader) = string(&bytes, 0).filter(|path| path.starts_with('/')) else {
            return Ok(None);
        };
        needs.loader = Some(loader);
    }
    let Some(dynamic) = segments.iter().find(|segment| segment.kind == PT_DYNAMIC) else {
        return Ok(Some(needs));
    };
    let Some(dynamic) = read(read_at, dynamic.offset, dynamic.size, MAX_DYNAMIC)? else {
        return Ok(None);
    };
    let entries: Vec<(u64, u64)> = dynamic
        .chunks_exact(16)
        .map(|entry| (u64_at(entry, 0), u64_at(entry, 8)))
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    let value = |tag| {
        entries
            .iter()
            .find(|(own, _)| *own == tag)
            .map(|(_, value)| *value)
    };
    let (Some(address), Some(length)) = (value(DT_STRTAB), value(DT_STRSZ)) else {
        return Ok(entries.iter().all(|(tag, _)| *tag != DT_NEEDED).then_some(needs));
    };
    let Some(offset) = segments.iter().find_map(|segment| segment.offset_of(address)) else {
        return Ok(None);
    };
    // Each where it lies: programs that export their symbols (node) have megabytes of strings.
    let mut text = |at: u64| -> io::Result<Option<String>> {
        let Some(offset) = offset.checked_add(at).filter(|_| at < length) else {
            return Ok(None);
        };
        let mut bytes = vec![0; MAX_NAME.min((length - at) as usize)];
        let filled = fill(read_at, offset, &mut bytes)?;
        Ok(string(&bytes[..filled], 0))
    };
    // With a RUNPATH the loader ignores the RPATH.
    let search = if value(DT_RUNPATH).is_some() {
        DT_RUNPATH
    } else {
        DT_RPATH
    };
    let wanted = entries
        .iter()
        .filter(|(tag, _)| [DT_NEEDED, search].contains(tag));
    for (tag, at) in wanted.take(2 * MAX_NEEDED) {
        let Some(text) = text(*at)? else {
            continue;
        };
        if *tag == DT_NEEDED {
            needs.libraries.push(text);
        } else {
            needs.search.extend(text.split(':').map(str::to_owned));
        }
        // Before all of it is kept: a name of nothing but colons is thousands of folders, and each entry may name it again.
        if needs.search.len() > MAX_NEEDED {
            return Ok(None);
        }
    }
    let fits = needs.libraries.len() <= MAX_NEEDED && needs.search.len() <= MAX_NEEDED;
    Ok(fits.then_some(needs))
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

impl Segment {
    fn of(entry: &[u8]) -> Segment {
        Segment {
            kind: u32_at(entry, 0),
            offset: u64_at(entry, 8),
            address: u64_at(entry, 16),
            size: u64_at(entry, 32),
        }
    }

    /// Where in the file an address is, if this segment loads it.
    fn offset_of(&self, address: u64) -> Option<u64> {
        let within = address.checked_sub(self.address)?;
        (self.kind == PT_LOAD && within < self.size)
            .then(|| self.offset.checked_add(within))
            .flatten()
    }
}

fn read(read_at: ReadAt<'_>, offset: u64, length: u64, most: u64) -> io::Result<Option<Vec<u8>>> {
    if length > most || offset.checked_add(length).is_none() {
        return Ok(None);
    }
    let mut bytes = vec![0; length as usize];
    let complete = fill(read_at, offset, &mut bytes)? == bytes.len();
    Ok(complete.then_some(bytes))
}

fn string(bytes: &[u8], at: u64) -> Option<String> {
    let rest = bytes.get(usize::try_from(at).ok()?..)?;
    let end = rest.iter().position(|b| *b == 0)?;
    let text = std::str::from_utf8(&rest[..end]).ok()?;
    (!text.is_empty() && text.len() <= MAX_NAME).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(bytes: &[u8]) -> Option<Needs> {
        let mut read = |offset: u64, buffer: &mut [u8]| {
            let rest = usize::try_from(offset)
                .ok()
                .and_then(|at| bytes.get(at..))
                .unwrap_or_default();
            let n = rest.len().min(buffer.len());
            buffer[..n].copy_from_slice(&rest[..n]);
            Ok(n)
        };
        needs(&mut read).unwrap()
    }

    #[test]
    fn this_program_needs_libc_and_a_loader() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let needs = of(&own).unwrap();
        if let Some(loader) = needs.loader {
            assert!(loader.contains("ld-"), "{loader}");
            assert!(
                needs.libraries.iter().any(|library| library.starts_with("libc.")),
                "{:?}",
                needs.libraries
            );
        }
    }

    #[test]
    fn what_is_none_needs_nothing_known() {
        assert_eq!(of(b"#!/bin/sh\n"), None);
        assert_eq!(of(b""), None);
        assert_eq!(
            of(&crate::catalog::image::tests::elf_sample(false)),
            Some(Needs::default())
        );
    }

    /// A program whose RUNPATH is named so many times.
    fn with_search(folders: &str, times: u64) -> Vec<u8> {
        let (dynamic, strings) = (64 + 2 * 56, 64 + 2 * 56 + 16 * (times + 3));
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&native().unwrap().to_le_bytes());
        bytes[32] = 64;
        (bytes[54], bytes[56]) = (56, 2);
        let strings_end = strings + folders.len() as u64 + 1;
        for (kind, offset, size) in [
            (PT_LOAD, 0, strings_end),
            (PT_DYNAMIC, dynamic, strings - dynamic),
        ] {
            let words = [u64::from(kind), offset, offset, offset, size, size, 0];
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        }
        let table = [(DT_STRTAB, strings), (DT_STRSZ, folders.len() as u64 + 1)];
        let search = (0..times).map(|_| (DT_RUNPATH, 0));
        for (tag, value) in table.into_iter().chain(search).chain([(0, 0)]) {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend(folders.as_bytes());
        bytes.push(0);
        bytes
    }

    #[test]
    fn folders_without_end_are_not_collected() {
        let few = of(&with_search("/a:/b", 1)).unwrap();
        assert_eq!(few.search, ["/a", "/b"], "the control");
        let many = with_search(&":".repeat(MAX_NAME - 1), 500);
        let mut reads = 0;
        let mut read = |offset: u64, buffer: &mut [u8]| {
            reads += 1;
            let rest = many.get(offset as usize..).unwrap_or_default();
            let n = rest.len().min(buffer.len());
            buffer[..n].copy_from_slice(&rest[..n]);
            Ok(n)
        };
        assert_eq!(needs(&mut read).unwrap(), None);
        assert!(reads < 10, "it was read {reads} times");
    }

    proptest! {
        #[test]
        fn nothing_panics(noise in proptest::collection::vec(any::<u8>(), 0..64), at in any::<proptest::sample::Index>()) {
            static OWN: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
            let own = OWN.get_or_init(|| {
                let mut own = std::fs::read("/bin/true").unwrap();
                own.truncate(64 << 10);
                own
            });
            let mut bytes = own.clone();
            // The headers are what matters.
            let at = at.index(1024);
            bytes[at..at + noise.len()].copy_from_slice(&noise);
            let _ = of(&bytes);
        }
    }
}
