//! The launcher's own word on what may be started: every [`Spec`] is checked against it, whatever the supervisor
//! believes. A refusal says what, why and what to do. Never widens: nothing that comes over the wire changes a [`Floor`].

use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::launcher::Host;
use crate::mounts::text;
use crate::probe::Grade;
use crate::property::Property;
use crate::spec::{Limits, MAX_PORTS, MAX_SECRETS, Socket, Spec, System, is_secret_name};
use crate::sys::{calls, own};
use crate::system;

/// Arguments and environment variables together, at most.
const MAX_STRINGS: usize = 512;
/// Bytes of all arguments and variables together, at most.
const MAX_STRING_BYTES: usize = 32 * 1024;
/// Granted paths, at most: each is a mount and a Landlock rule.
const MAX_GRANTS: usize = 16;
/// Parts of the system with the symlinks to them, at most: each is a mount, and a Landlock rule or a symlink.
const MAX_PARTS: usize = 160;
/// Bytes that the supervisor may leave to its successor for each instance.
const MAX_MEMO: usize = 24 * 1024;
/// The least memory that any process starts in, in bytes.
const MIN_MEMORY: u64 = 1 << 20;
/// The least number of open files: the four that every instance is given, and some to accept on.
const MIN_FILES: u32 = 8;
/// fs.nr_open's default: more can't be set.
const MAX_FILES: u32 = 1 << 20;
/// The kernel's PID_MAX_LIMIT.
const MAX_PIDS: u32 = 1 << 22;

/// What the operator allows, and what this host can keep.
#[derive(Debug, Clone)]
pub(crate) struct Floor {
    read_roots: Vec<PathBuf>,
    write_roots: Vec<PathBuf>,
    own: Vec<PathBuf>,
    accepted: Vec<Property>,
    missing: Vec<Grade>,
}

/// What no function is granted, whatever the roots: what the kernel tells of others, and funcd's configuration and secrets.
/// (The state folder itself is no such place, as the default volumes are in it.)
const NEVER: [&str; 5] = [
    "/proc",
    "/dev",
    "/sys/fs/cgroup",
    "/etc/funcd",
    "/run/credentials",
];

/// Why a start is refused: what, why and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(pub(crate) String);

/// The granted paths of a spec, free of symlinks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Grants {
    /// Parts of the system, to read and execute.
    pub(crate) system: Vec<PathBuf>,
    /// To read and execute.
    pub(crate) read: Vec<PathBuf>,
    /// To read and write.
    pub(crate) write: Vec<PathBuf>,
}

impl Floor {
    /// The floor of a host.
    pub(crate) fn new(host: &Host, grades: &[Grade]) -> Floor {
        let own = [
            host.functions.clone(),
            host.run.clone(),
            host.state.join("store"),
            host.state.join("logs"),
            host.state.join("uids"),
            // Wherever they are: without uids of their own, functions could read those of others.
            host.secrets.clone(),
        ];
        let own: Vec<PathBuf> = own.into_iter().chain(host.credentials.clone()).collect();
        let mut floor = Floor::of(&host.read_roots, &host.write_roots, &host.degraded, grades);
        // Both as they are written and as they are: a grant is compared before and after its symlinks are followed.
        let real = own.iter().filter_map(|path| path.canonicalize().ok());
        floor.own.extend(real.chain(own.iter().cloned()));
        floor
    }

    /// The floor of a host with these roots, that accepts these properties to be missing.
    pub(crate) fn of(
        read_roots: &[impl AsRef<Path>],
        write_roots: &[impl AsRef<Path>],
        accepted: &[Property],
        grades: &[Grade],
    ) -> Floor {
        let missing = grades.iter().filter(|grade| grade.mechanism.is_none());
        Floor {
            read_roots: read_roots
                .iter()
                .map(|root| root.as_ref().to_path_buf())
                .collect(),
            write_roots: write_roots
                .iter()
                .map(|root| root.as_ref().to_path_buf())
                .collect(),
            own: NEVER.iter().map(PathBuf::from).collect(),
            accepted: accepted.to_vec(),
            missing: missing.cloned().collect(),
        }
    }

    /// Checks all of a spec but whether its grants exist; looks at no file.
    ///
    /// What may be missing: every property in the host's `degraded` is accepted for every function. A function's own
    /// `degraded` can only name properties that the host's has, so it documents, and never widens.
    ///
    /// # Errors
    /// The first thing that is not allowed.
    pub(crate) fn check(&self, spec: &Spec) -> Result<(), Refusal> {
        check_name(&spec.function)?;
        check_strings(spec)?;
        check_limits(&spec.limits)?;
        if spec.socket == Socket::Port(0) {
            return refuse("port 0 is no port: set the port that the function listens on");
        }
        check_ports(spec)?;
        if spec.memo.len() > MAX_MEMO {
            return refuse(format!(
                "a memo of {} bytes is larger than {MAX_MEMO}",
                spec.memo.len()
            ));
        }
        if spec.read.len() + spec.write.len() > MAX_GRANTS {
            return refuse(format!(
                "more than {MAX_GRANTS} granted paths: grant a directory above them"
            ));
        }
        for (paths, roots, key) in [
            (&spec.read, &self.read_roots, "read"),
            (&spec.write, &self.write_roots, "write"),
        ] {
            for path in paths {
                check_grant(path, roots, key)?;
                self.check_is_not_own(path, key, path)?;
            }
        }
        if let Some(extra) = spec.degraded.iter().find(|p| !self.accepted.contains(p)) {
            return refuse(format!(
                "the function accepts that `{extra}` is missing, but the host does not: add it to the host's `degraded`, or remove it from the function's",
            ));
        }
        check_system(&spec.system)?;
        check_secrets(&spec.secrets)?;
        match self
            .missing
            .iter()
            .find(|grade| !self.accepted.contains(&grade.property))
        {
            Some(grade) => refuse(format!(
                "this host can't keep {} `{}`: {}. {}; or accept it with `degraded = [\"{}\"]` in the host's configuration",
                grade.property.code(),
                grade.property,
                grade.cause,
                capital(&grade.fix),
                grade.property,
            )),
            None => Ok(()),
        }
    }

    /// Resolves the grants of a checked spec: symlinks are followed here, once, and where they end must lie below a root
    /// too, so that a function can't turn a directory it may write into a grant for another. A directory for writing
    /// that is missing is made for `owner`, if the one above it exists.
    ///
    /// # Errors
    /// A path that is not there or leads out of the roots.
    pub(crate) fn resolve(&self, spec: &Spec, owner: Option<(u32, u32)>) -> Result<Grants, Refusal> {
        let mut grants = Grants::default();
        if let System::Parts { paths, .. } = &spec.system {
            for path in paths {
                grants.system.extend(part_of_the_system(path)?);
            }
        }
        for path in &spec.read {
            let real = resolve_below(path, &self.read_roots, "read")?;
            self.check_is_not_own(&real, "read", path)?;
            grants.read.push(real);
        }
        for path in &spec.write {
            if !path.exists() {
                self.make(path, owner)?;
            }
            let real = resolve_below(path, &self.write_roots, "write")?;
            self.check_is_not_own(&real, "write", path)?;
            if !real.is_dir() {
                return refuse(format!(
                    "write = {path:?}: only a directory can be granted for writing"
                ));
            }
            grants.write.push(real);
        }
        Ok(grants)
    }

    /// Neither a place of funcd's own, nor one below it, nor one that holds it: a root may be as wide as `/var`.
    fn check_is_not_own(&self, path: &Path, key: &str, as_written: &Path) -> Result<(), Refusal> {
        match self
            .own
            .iter()
            .find(|own| path.starts_with(own) || own.starts_with(path))
        {
            None => Ok(()),
            Some(own) => refuse(format!(
                "{key} = {} reaches {own:?}, which no function is granted: grant another path",
                shown(path, as_written)
            )),
        }
    }

    fn make(&self, path: &Path, owner: Option<(u32, u32)>) -> Result<(), Refusal> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return refuse(format!("write = {path:?}: not a directory that can be made"));
        };
        let above = resolve_below(above, &self.write_roots, "write")?;
        self.check_is_not_own(&above.join(name), "write", path)?;
        make_below(&above, name, owner)
            .map_err(|e| Refusal(format!("write = {path:?}: can't be made: {e}; make it yourself")))
    }
}

/// By descriptors: a function that may write to a directory above can put a symlink there at any moment.
fn make_below(above: &Path, name: &OsStr, owner: Option<(u32, u32)>) -> io::Result<()> {
    let system = io::Error::from_raw_os_error;
    let above = calls::open_plain(&text(above).map_err(system)?)
        .map(own)
        .map_err(system)?;
    nix::sys::stat::mkdirat(&above, name, Mode::from_bits_truncate(0o700))?;
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = nix::fcntl::openat(&above, name, flags, Mode::empty())?;
    match owner {
        Some((uid, gid)) => std::os::unix::fs::fchown(&made, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

fn refuse<T>(what: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(what.into()))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let fits = (1..=63).contains(&name.len())
        && name.bytes().all(|b| plain(b) || b == b'-')
        && name.bytes().next().is_some_and(plain);
    if fits {
        Ok(())
    } else {
        refuse(format!("{name:?} is no function name: [a-z0-9][a-z0-9-]{{0,62}}"))
    }
}

fn check_system(system: &System) -> Result<(), Refusal> {
    let System::Parts { paths, links } = system else {
        return Ok(());
    };
    if paths.len() + links.len() > MAX_PARTS {
        return refuse(format!(
            "more than {MAX_PARTS} parts of the system: set `system = \"full\"`"
        ));
    }
    for path in paths.iter().chain(links.iter().map(|(path, _)| path)) {
        check_plain(path, "system")?;
        if !system::holds(path) {
            return refuse(format!(
                "{path:?} is no part of the system that functions may see: grant it with `read`"
            ));
        }
    }
    if let Some((path, _)) = links
        .iter()
        .find(|(_, target)| target.as_os_str().as_encoded_bytes().contains(&0))
    {
        return refuse(format!("the target of {path:?} holds a NUL"));
    }
    // They are made one after the other where the host's folders can still be reached: one below another would be made
    // wherever that leads.
    let above = |path: &Path| {
        links
            .iter()
            .find(|(other, _)| path != other && path.starts_with(other))
    };
    let all = paths.iter().chain(links.iter().map(|(path, _)| path));
    match all.filter_map(|path| Some((path, above(path)?))).next() {
        Some((path, (link, _))) => refuse(format!(
            "{path:?} lies below the symlink {link:?}: call it by its real name"
        )),
        None => Ok(()),
    }
}

/// A checked part as it is now: none when it is gone. It must be called by its real name, so that no symlink leads out of
/// the system; only root can change what is in there.
fn part_of_the_system(path: &Path) -> Result<Option<PathBuf>, Refusal> {
    match path.canonicalize() {
        Ok(real) if real == path => Ok(Some(real)),
        Ok(real) => refuse(format!(
            "system = {path:?}: this is not its real name, which is {real:?}"
        )),
        Err(_) => Ok(None),
    }
}

/// Whose they are is decided by where they lie, below the function's own name.
fn check_secrets(names: &[String]) -> Result<(), Refusal> {
    if names.len() > MAX_SECRETS {
        return refuse(format!("more than {MAX_SECRETS} secrets"));
    }
    for (index, name) in names.iter().enumerate() {
        if !is_secret_name(name) {
            return refuse(format!(
                "{name:?} is no secret's name: [A-Za-z0-9_-][A-Za-z0-9._-]{{0,63}}"
            ));
        }
        if names[..index].contains(name) {
            return refuse(format!("the secret {name} is named twice"));
        }
    }
    Ok(())
}

/// What the supervisor listens on in the function's own network namespace: each is a descriptor of the launcher.
fn check_ports(spec: &Spec) -> Result<(), Refusal> {
    if spec.ports.len() > MAX_PORTS {
        return refuse(format!("more than {MAX_PORTS} ports are listened on for it"));
    }
    if spec.socket == Socket::None && spec.ports.is_empty() {
        return refuse("it has neither a socket nor a port: this is a bug of the supervisor");
    }
    for (index, port) in spec.ports.iter().enumerate() {
        let is_its_own = spec.socket == Socket::Port(*port);
        if *port == 0 || is_its_own || spec.ports[..index].contains(port) {
            return refuse(format!(
                "port {port} can't be listened on for it: 0, twice, or its own"
            ));
        }
    }
    Ok(())
}

fn check_strings(spec: &Spec) -> Result<(), Refusal> {
    if spec.args.is_empty() {
        return refuse("argv[0] is missing");
    }
    if spec.args.len() + spec.env.len() > MAX_STRINGS {
        return refuse(format!("more than {MAX_STRINGS} arguments and variables"));
    }
    let args: usize = spec.args.iter().map(|arg| arg.len() + 1).sum();
    let env: usize = spec
        .env
        .iter()
        .map(|(name, value)| name.len() + value.len() + 2)
        .sum();
    if args + env > MAX_STRING_BYTES {
        return refuse(format!(
            "arguments and variables are larger than {MAX_STRING_BYTES} bytes together"
        ));
    }
    if let Some(arg) = spec.args.iter().find(|arg| arg.contains('\0')) {
        return refuse(format!("the argument {arg:?} holds a NUL"));
    }
    for (index, (name, value)) in spec.env.iter().enumerate() {
        check_variable(name, value)?;
        if spec.env[..index].iter().any(|(earlier, _)| earlier == name) {
            return refuse(format!("the variable {name} is set twice"));
        }
    }
    Ok(())
}

fn check_variable(name: &str, value: &str) -> Result<(), Refusal> {
    let first = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !first || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return refuse(format!("{name:?} is no variable name: [A-Za-z_][A-Za-z0-9_]*"));
    }
    if name.starts_with("LD_") {
        return refuse(format!(
            "the variable {name} is refused: LD_* changes what code is loaded; remove it"
        ));
    }
    if name == "LISTEN_PID" {
        return refuse("the variable LISTEN_PID is set by funcd; remove it");
    }
    if value.contains('\0') {
        return refuse(format!("the value of {name} holds a NUL"));
    }
    Ok(())
}

fn check_limits(limits: &Limits) -> Result<(), Refusal> {
    let within = |what: &str, value: u64, least: u64, most: u64| {
        if (least..=most).contains(&value) {
            Ok(())
        } else {
            refuse(format!("{what} = {value} is out of bounds: {least} to {most}"))
        }
    };
    // The kernel keeps memory in signed bytes and CPU in signed microseconds: far above any host, far below overflow.
    within("memory (bytes)", limits.memory_bytes, MIN_MEMORY, 1 << 50)?;
    within(
        "cpu (thousandths of a core)",
        limits.cpu_millis.into(),
        1,
        10_000_000,
    )?;
    within("pids", limits.pids.into(), 1, MAX_PIDS.into())?;
    within("tmp (bytes)", limits.tmp_bytes, 0, 1 << 50)?;
    within("files", limits.files.into(), MIN_FILES.into(), MAX_FILES.into())
}

fn check_grant(path: &Path, roots: &[PathBuf], key: &str) -> Result<(), Refusal> {
    check_plain(path, key)?;
    below(path, roots, key, path)
}

fn check_plain(path: &Path, key: &str) -> Result<(), Refusal> {
    let mut parts = path.components();
    let plain = parts.next() == Some(Component::RootDir) && parts.all(|c| matches!(c, Component::Normal(_)));
    // `components` swallows `.` and `//`: what is granted must be what is written.
    let exact = path.as_os_str() == path.components().collect::<PathBuf>().as_os_str();
    if !plain || !exact || path.as_os_str().as_encoded_bytes().contains(&0) {
        return refuse(format!(
            "{key} = {path:?}: write an absolute path without `.`, `..` and doubled or trailing `/`"
        ));
    }
    Ok(())
}

fn below(path: &Path, roots: &[PathBuf], key: &str, as_written: &Path) -> Result<(), Refusal> {
    if roots.iter().any(|root| path.starts_with(root)) {
        return Ok(());
    }
    let shown = shown(path, as_written);
    refuse(format!(
        "{key} = {shown} is below none of the host's `{key}_roots` ({}): add one there, or grant another path",
        roots
            .iter()
            .map(|root| root.display().to_string())
            .collect::<Vec<_>>()
            .join(", ")
    ))
}

fn shown(path: &Path, as_written: &Path) -> String {
    if path == as_written {
        format!("{path:?}")
    } else {
        format!("{as_written:?} (which is {path:?})")
    }
}

fn resolve_below(path: &Path, roots: &[PathBuf], key: &str) -> Result<PathBuf, Refusal> {
    let real = path.canonicalize().map_err(|e| {
        Refusal(format!(
            "{key} = {path:?}: {e}; make it, or remove it from the function's manifest"
        ))
    })?;
    // A root may itself be reached over a symlink (`/var/run`).
    let roots: Vec<PathBuf> = roots
        .iter()
        .map(|root| root.canonicalize().unwrap_or_else(|_| root.clone()))
        .collect();
    below(&real, &roots, key, path)?;
    Ok(real)
}

#[cfg(test)]
#[path = "floor_tests.rs"]
mod tests;
