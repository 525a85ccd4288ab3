//! How the kernel would run a file, judged from its bytes: an ELF program (static or dynamic), a `#!` script, or neither.
//! Pure: reads through a closure, runs nothing, resolves no path. Offsets are those of elf(5).

use std::io;

use funcd_sandbox::spec::Image;

use super::refusal::{Refusal, kind};

/// The kernel reads this much of a `#!` line (BINPRM_BUF_SIZE).
pub(super) const SCRIPT_LINE: usize = 256;
/// No linker writes more program headers.
const MAX_SEGMENTS: u16 = 1024;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;

/// Reads the bytes at an offset into the buffer; fewer only at the end of the file.
pub type ReadAt<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> io::Result<usize>;

/// How the kernel would run a file of `size` bytes on this machine.
///
/// # Errors
/// Those of `read_at`. A file that can't be run is no error but a [`Refusal`].
pub fn image(size: u64, read_at: ReadAt<'_>) -> io::Result<Result<Image, Refusal>> {
    let mut head = [0; SCRIPT_LINE];
    let length = fill(read_at, 0, &mut head)?;
    let head = &head[..length];
    if head.starts_with(b"\x7fELF") {
        elf(size, head, read_at)
    } else if head.starts_with(b"#!") {
        Ok(script(head))
    } else {
        Ok(Err(neither(head)))
    }
}

pub(super) fn fill(read_at: ReadAt<'_>, mut offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match read_at(offset, &mut buffer[done..])? {
            0 => break,
            n => {
                done += n;
                offset += n as u64;
            }
        }
    }
    Ok(done)
}

fn neither(head: &[u8]) -> Refusal {
    let other = |what| {
        Refusal::new(
            kind::FOREIGN,
            format!("it is {what}: build it for Linux on {}", std::env::consts::ARCH),
        )
    };
    match head {
        [] => Refusal::new(kind::EMPTY, "it is empty: copy it again"),
        [b'M', b'Z', ..] => other("a Windows program"),
        [0xcf | 0xce, 0xfa, 0xed, 0xfe, ..] | [0xca, 0xfe, 0xba, 0xbe, ..] => {
            other("a macOS program or Java class")
        }
        [0, b'a', b's', b'm', ..] => other("a WebAssembly module"),
        _ => Refusal::new(
            kind::NOT_A_PROGRAM,
            "it is neither an ELF program nor a script that begins with \"#!\": copy a compiled program, or write its \
             interpreter into the first line",
        ),
    }
}

fn script(head: &[u8]) -> Result<Image, Refusal> {
    let bad = |reason: &str| Err(Refusal::new(kind::NOT_A_PROGRAM, reason));
    let line = match head.iter().position(|b| *b == b'\n') {
        Some(end) => &head[2..end],
        // The kernel takes a cut interpreter path for the whole one, so it is refused here.
        None if head.len() == SCRIPT_LINE => return bad("its \"#!\" line is longer than 255 bytes"),
        None => &head[2..],
    };
    if line.ends_with(b"\r") {
        return bad("its \"#!\" line ends with CR LF: convert the script to Unix line ends");
    }
    let line = line.trim_ascii_start();
    let end = line
        .iter()
        .position(|b| b" \t\0".contains(b))
        .unwrap_or(line.len());
    match &line[..end] {
        [] => bad("its \"#!\" line names no interpreter"),
        [b'/', _, ..] => Ok(Image::Script),
        _ => bad("its \"#!\" line does not name the interpreter by an absolute path"),
    }
}

/// The interpreter of a script and what its line says after it, as the kernel would pass it.
pub fn interpreter(head: &[u8]) -> Option<(String, String)> {
    script(head).ok()?;
    let line = head.strip_prefix(b"#!")?;
    let line = line.split(|b| *b == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?.trim_matches([' ', '\t', '\0']);
    let (path, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    Some((path.to_owned(), argument.trim().to_owned()))
}

/// What the header of a 64-bit little-endian ELF file says.
struct Header {
    kind: u16,
    entry: u64,
    segments: Table,
    sections: Table,
}

/// A table of the file.
struct Table {
    offset: u64,
    entry: u16,
    count: u16,
}

impl Table {
    fn end(&self) -> Option<u64> {
        self.offset
            .checked_add(u64::from(self.entry) * u64::from(self.count))
    }
}

fn elf(size: u64, head: &[u8], read_at: ReadAt<'_>) -> io::Result<Result<Image, Refusal>> {
    let header = match header(head) {
        Ok(header) => header,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let within = |end: Option<u64>| end.is_some_and(|end| end <= size);
    if !within(header.segments.end()) || (header.sections.offset != 0 && !within(header.sections.end())) {
        return Ok(Err(truncated(size)));
    }
    let mut table = vec![0; usize::from(header.segments.entry) * usize::from(header.segments.count)];
    if fill(read_at, header.segments.offset, &mut table)? < table.len() {
        return Ok(Err(truncated(size)));
    }
    let (mut loads, mut interpreter) = (false, false);
    for segment in table.chunks_exact(usize::from(header.segments.entry)) {
        let (what, offset, length) = (u32_at(segment, 0), u64_at(segment, 8), u64_at(segment, 32));
        if length > 0 && !within(offset.checked_add(length)) {
            return Ok(Err(truncated(size)));
        }
        loads |= what == PT_LOAD;
        interpreter |= what == PT_INTERP;
    }
    Ok(match (loads, interpreter) {
        (false, _) => Err(Refusal::new(
            kind::NOT_A_PROGRAM,
            "it is an ELF file with nothing to load",
        )),
        (true, true) => Ok(Image::Dynamic),
        (true, false) if header.kind == ET_DYN && header.entry == 0 => Err(Refusal::new(
            kind::NOT_A_PROGRAM,
            "it is a shared library, not a program",
        )),
        (true, false) => Ok(Image::Static),
    })
}

fn header(head: &[u8]) -> Result<Header, Refusal> {
    let Some(native) = native() else {
        return Err(Refusal::new(
            kind::FOREIGN,
            "this architecture is not known to funcd",
        ));
    };
    if head.len() < 64 {
        return Err(truncated(head.len() as u64));
    }
    let (class, order, machine) = (head[4], head[5], u16_at(head, 18));
    if (class, order, machine) != (2, 1, native) {
        let reason = format!(
            "it is built for {}, and this machine is {}: build it for this one",
            machine_name(class, order, machine),
            std::env::consts::ARCH
        );
        return Err(Refusal::new(kind::FOREIGN, reason));
    }
    let header = Header {
        kind: u16_at(head, 16),
        entry: u64_at(head, 24),
        segments: Table {
            offset: u64_at(head, 32),
            entry: u16_at(head, 54),
            count: u16_at(head, 56),
        },
        sections: Table {
            offset: u64_at(head, 40),
            entry: u16_at(head, 58),
            count: u16_at(head, 60),
        },
    };
    if header.kind != ET_EXEC && header.kind != ET_DYN {
        let reason = "it is an ELF file but no program (an object file or a core dump)";
        return Err(Refusal::new(kind::NOT_A_PROGRAM, reason));
    }
    if header.segments.count == 0 || header.segments.count > MAX_SEGMENTS || header.segments.entry != 56 {
        let reason = "it is an ELF file with a malformed table of segments";
        return Err(Refusal::new(kind::NOT_A_PROGRAM, reason));
    }
    Ok(header)
}

fn truncated(size: u64) -> Refusal {
    let reason = format!("its {size} bytes are not all of it: the copy did not finish; copy it again");
    Refusal::new(kind::TRUNCATED, reason)
}

/// The ELF machine number of the running program.
pub(super) fn native() -> Option<u16> {
    match std::env::consts::ARCH {
        "x86_64" => Some(62),
        "aarch64" => Some(183),
        "riscv64" => Some(243),
        _ => None,
    }
}

fn machine_name(class: u8, order: u8, machine: u16) -> String {
    let name = match machine {
        3 => "x86 (32 bit)",
        8 => "mips",
        20 | 21 => "powerpc",
        22 => "s390x",
        40 => "arm (32 bit)",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv",
        247 => "bpf",
        _ => return format!("machine {machine}"),
    };
    let ends = if order == 1 { "" } else { ", big-endian" };
    let bits = if class == 1 && !name.contains("32") {
        " (32-bit ABI)"
    } else {
        ""
    };
    format!("{name}{bits}{ends}")
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judge(bytes: &[u8]) -> Result<Image, &'static str> {
        let mut read = |offset: u64, buffer: &mut [u8]| {
            let rest = bytes.get(offset as usize..).unwrap_or_default();
            // Three bytes at a time: short reads are normal.
            let n = rest.len().min(buffer.len()).min(3);
            buffer[..n].copy_from_slice(&rest[..n]);
            Ok(n)
        };
        image(bytes.len() as u64, &mut read)
            .unwrap()
            .map_err(|refusal| refusal.kind)
    }

    /// A small ELF program with one loaded segment, and an interpreter if asked; sections at the end, as linkers do.
    pub(crate) fn elf_sample(interpreter: bool) -> Vec<u8> {
        let segments = 1 + u16::from(interpreter);
        let mut bytes = vec![0; 64 + 56 * usize::from(segments)];
        bytes[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\x00");
        bytes[16..18].copy_from_slice(&ET_EXEC.to_le_bytes());
        bytes[18..20].copy_from_slice(&native().unwrap().to_le_bytes());
        bytes[24..32].copy_from_slice(&0x40_1000_u64.to_le_bytes());
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&segments.to_le_bytes());
        bytes[58..60].copy_from_slice(&64_u16.to_le_bytes());
        let end = bytes.len() as u64;
        let mut segment = |i: usize, what: u32, offset: u64, length: u64| {
            let at = 64 + 56 * i;
            bytes[at..at + 4].copy_from_slice(&what.to_le_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&offset.to_le_bytes());
            bytes[at + 32..at + 40].copy_from_slice(&length.to_le_bytes());
        };
        segment(0, PT_LOAD, 0, end + 100);
        if interpreter {
            segment(1, PT_INTERP, end, 20);
        }
        bytes.resize(bytes.len() + 200, 0x90);
        let sections = bytes.len() as u64;
        bytes[40..48].copy_from_slice(&sections.to_le_bytes());
        bytes[60..62].copy_from_slice(&2_u16.to_le_bytes());
        bytes.resize(bytes.len() + 128, 0);
        bytes
    }

    #[test]
    fn programs() {
        assert_eq!(judge(&elf_sample(false)), Ok(Image::Static));
        assert_eq!(judge(&elf_sample(true)), Ok(Image::Dynamic));
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!(judge(&own).is_ok());
        let mut stripped = elf_sample(false);
        stripped[40..48].fill(0);
        stripped[58..62].fill(0);
        assert_eq!(judge(&stripped), Ok(Image::Static));
    }

    #[test]
    fn every_prefix_of_a_program_is_refused() {
        for interpreter in [false, true] {
            let whole = elf_sample(interpreter);
            for length in 4..whole.len() {
                assert_eq!(judge(&whole[..length]), Err(kind::TRUNCATED), "{length}");
            }
        }
    }

    #[test]
    fn other_files() {
        let edit = |at: usize, bytes: &[u8]| {
            let mut elf = elf_sample(false);
            elf[at..at + bytes.len()].copy_from_slice(bytes);
            judge(&elf)
        };
        assert_eq!(edit(18, &40_u16.to_le_bytes()), Err(kind::FOREIGN));
        assert_eq!(edit(4, &[1]), Err(kind::FOREIGN));
        assert_eq!(edit(5, &[2]), Err(kind::FOREIGN));
        assert_eq!(edit(16, &1_u16.to_le_bytes()), Err(kind::NOT_A_PROGRAM));
        assert_eq!(edit(56, &0_u16.to_le_bytes()), Err(kind::NOT_A_PROGRAM));
        assert_eq!(edit(56, &u16::MAX.to_le_bytes()), Err(kind::NOT_A_PROGRAM));
        assert_eq!(edit(64, &6_u32.to_le_bytes()), Err(kind::NOT_A_PROGRAM));
        assert_eq!(edit(32, &u64::MAX.to_le_bytes()), Err(kind::TRUNCATED));
        assert_eq!(edit(96, &u64::MAX.to_le_bytes()), Err(kind::TRUNCATED));
        let mut library = elf_sample(false);
        library[16..18].copy_from_slice(&ET_DYN.to_le_bytes());
        assert_eq!(judge(&library), Ok(Image::Static), "a static-pie program");
        library[24..32].fill(0);
        assert_eq!(judge(&library), Err(kind::NOT_A_PROGRAM), "a library");
        for (bytes, expected) in [
            (&b""[..], kind::EMPTY),
            (b"hello", kind::NOT_A_PROGRAM),
            (b"\x7fEL", kind::NOT_A_PROGRAM),
            (b"MZ\x90", kind::FOREIGN),
            (b"\xcf\xfa\xed\xfe", kind::FOREIGN),
            (b"\0asm\x01", kind::FOREIGN),
        ] {
            assert_eq!(judge(bytes), Err(expected), "{bytes:?}");
        }
    }

    #[test]
    fn scripts() {
        for good in [
            "#!/bin/sh\necho",
            "#!/bin/sh",
            "#! /usr/bin/env python3\n",
            "#!\t/bin/sh -e\n",
        ] {
            assert_eq!(judge(good.as_bytes()), Ok(Image::Script), "{good:?}");
        }
        let parts = |line: &str| interpreter(line.as_bytes());
        assert_eq!(
            parts("#! /usr/bin/env  -S python3 -u\nx"),
            Some(("/usr/bin/env".into(), "-S python3 -u".into()))
        );
        assert_eq!(parts("#!/bin/sh"), Some(("/bin/sh".into(), String::new())));
        assert_eq!(parts("\x7fELF"), None);
        let long = format!("#!/{}\n", "a".repeat(300));
        for bad in ["#!", "#!\n", "#!  \n", "#!sh\n", "#!/\n", "#!/bin/sh\r\n", &long] {
            assert_eq!(judge(bad.as_bytes()), Err(kind::NOT_A_PROGRAM), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(mut noise in proptest::collection::vec(any::<u8>(), 0..400), elf in any::<bool>(), at in 0_usize..64) {
            let _ = judge(&noise);
            if elf {
                let mut sample = elf_sample(true);
                noise.truncate(sample.len() - at);
                sample[at..at + noise.len()].copy_from_slice(&noise);
                sample[..4].copy_from_slice(b"\x7fELF");
                let _ = judge(&sample);
            }
        }
    }
}
