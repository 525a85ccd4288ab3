//! What one launcher leaves to the next in the same process: a document in memory, and descriptors that stay open through exec.
//! Written by one version of the program and read by another, newer or older: fields that a reader does not know are nothing
//! to it, and those that a writer did not know have defaults.
//!
//! The document is JSON; a descriptor is its number.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::rc::Rc;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use super::{Host, LauncherError, folders, secrets};
use crate::cgroup::{self, CarriedLeaf};
use crate::confine::standby;
use crate::exit::Exit;
use crate::known;
use crate::sandbox;
use crate::spec::{Digest, InstanceId};
use crate::sys;
use crate::wire::{Descriptor, Spent};

/// The version of the document. It goes up with each change of it.
pub(super) const VERSION: u32 = 2;
/// The oldest version that this program can read.
pub(super) const OLDEST: u32 = 1;
/// The oldest version that can read what this program writes: from there an upgrade can come here, and go back.
pub(super) const READABLE_BY: u32 = 1;

/// Where the number of the document's descriptor is.
const VARIABLE: &str = "FUNCD_CARRIED";
/// Why this program is executed again after another one.
const WHY: &str = "FUNCD_CARRIED_BACK";
/// The name of the memory that the document is in.
const MEMORY: &std::ffi::CStr = c"funcd-carried";

/// Whether a variable of the environment is for the next launcher alone.
pub(super) fn is_ours(name: &OsStr) -> bool {
    name == VARIABLE || name == WHY
}

/// What is read of a document whatever its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// [`VERSION`] of the program that wrote it.
    pub(super) version: u32,
    /// The oldest version that can read it.
    pub(super) readable_by: u32,
    /// What wrote it, for people.
    pub(super) program: String,
    /// The image that wrote it, to go back to.
    pub(super) image: RawFd,
    /// Every descriptor in the document.
    pub(super) fds: Vec<RawFd>,
}

/// What a launcher is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Document {
    #[serde(flatten)]
    pub(super) head: Head,
    /// Where the program lies.
    pub(super) path: PathBuf,
    pub(super) fixed: Fixed,
    /// The [`Host`] of the program that is gone back to if need be, as that one wrote it: nothing to any other. What the files
    /// say by then may be what it can't read.
    #[serde(default)]
    pub(super) host: serde_json::Value,
    /// The ticket of the request that is to be answered.
    #[serde(default)]
    pub(super) ticket: Option<u64>,
    pub(super) in_user_namespace: bool,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) admin_address: Option<SocketAddr>,
    pub(super) descriptors: Vec<(Descriptor, RawFd)>,
    pub(super) folders: folders::Carried,
    pub(super) tree: cgroup::Carried,
    #[serde(default)]
    pub(super) secrets: secrets::Carried,
    /// Since version 2.
    #[serde(default)]
    pub(super) known: known::Carried,
    pub(super) instances: Vec<Instance>,
    #[serde(default)]
    pub(super) leaving: Vec<Leaving>,
    #[serde(default)]
    pub(super) short_of_memory: Vec<InstanceId>,
    pub(super) last_id: u64,
    pub(super) generation: u32,
    #[serde(default)]
    pub(super) short_lives: u32,
    pub(super) supervisor: Option<Supervisor>,
}

/// What a launcher that runs can't change: sockets are bound, folders locked, users given away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fixed {
    functions: PathBuf,
    state: PathBuf,
    run: PathBuf,
    listen: Vec<SocketAddr>,
    workers: usize,
    admin: PathBuf,
    admin_listen: Option<SocketAddr>,
    supervisor: Option<(u32, u32)>,
    uid_first: u32,
    uid_count: u32,
}

impl Fixed {
    pub(super) fn of(host: &Host) -> Fixed {
        Fixed {
            functions: host.functions.clone(),
            state: host.state.clone(),
            run: host.run.clone(),
            listen: host.listen.clone(),
            workers: host.workers,
            admin: host.admin.clone(),
            admin_listen: host.admin_listen,
            supervisor: host.supervisor,
            uid_first: host.uid_first,
            uid_count: host.uid_count,
        }
    }

    /// The first setting that is another one now.
    fn changed(&self, now: &Fixed) -> Option<&'static str> {
        let changes = [
            ("functions", self.functions != now.functions),
            ("state", self.state != now.state),
            ("run", self.run != now.run),
            ("listen", self.listen != now.listen),
            ("workers", self.workers != now.workers),
            ("admin", self.admin != now.admin),
            ("admin_listen", self.admin_listen != now.admin_listen),
            ("user", self.supervisor != now.supervisor),
            ("uid_first", self.uid_first != now.uid_first),
            ("uid_count", self.uid_count != now.uid_count),
        ];
        changes
            .into_iter()
            .find_map(|(name, changed)| changed.then_some(name))
    }
}

/// An instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Instance {
    pub(super) id: InstanceId,
    pub(super) sandbox: sandbox::Carried,
    pub(super) artifact: Digest,
    pub(super) stdout: Option<RawFd>,
    pub(super) stderr: RawFd,
    pub(super) network: Option<RawFd>,
    pub(super) has_port: bool,
    pub(super) ports: Vec<RawFd>,
    pub(super) oom: Option<RawFd>,
    #[serde(with = "as_text")]
    pub(super) memo: Vec<u8>,
    pub(super) is_unreachable: bool,
    pub(super) waiting: Option<Waiting>,
    pub(super) with_supervisor: bool,
    pub(super) end_is_told: bool,
}

/// What an instance keeps that waits right before exec.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Waiting {
    pub(super) standby: standby::Carried,
    pub(super) gifts: Vec<RawFd>,
    pub(super) function: String,
}

/// A leaf that is being removed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Leaving {
    pub(super) leaf: CarriedLeaf,
    pub(super) tell: Option<(InstanceId, Exit, Spent)>,
}

/// A supervisor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Supervisor {
    pub(super) pid: i32,
    pub(super) pidfd: RawFd,
    pub(super) socket: Option<RawFd>,
    pub(super) generation: u32,
    pub(super) wire: u32,
    pub(super) last_id: u64,
    /// How long it runs already, in milliseconds.
    pub(super) age_millis: u64,
    /// Messages that wait.
    #[serde(default)]
    pub(super) queue: Vec<Outgoing>,
}

/// A message that waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Outgoing {
    #[serde(with = "as_text")]
    pub(super) bytes: Vec<u8>,
    pub(super) fds: Vec<RawFd>,
}

/// Bytes as a text of the characters below 256: most are ASCII.
mod as_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
        text.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let byte = |c: char| u8::try_from(u32::from(c)).map_err(|_| D::Error::custom("not a byte"));
        text.chars().map(byte).collect()
    }
}

/// Reads a document.
///
/// # Errors
/// What is wrong with it, or that it is of another age.
pub(super) fn read(bytes: &[u8]) -> Result<Document, String> {
    let head: Head = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let Head {
        version, readable_by, ..
    } = head;
    if version < OLDEST || readable_by > VERSION {
        return Err(format!(
            "funcd {} and this funcd {} are too far apart (state version {version}, readable by {readable_by} and later; this one \
             reads {OLDEST} to {VERSION}): upgrade in smaller steps, or stop funcd and start it again",
            head.program,
            env!("CARGO_PKG_VERSION"),
        ));
    }
    serde_json::from_slice(bytes).map_err(|e| e.to_string())
}

/// Reads the document behind a descriptor, whose position is not used.
///
/// # Errors
/// As for [`read`], and those of the descriptor.
pub(super) fn read_from(memory: BorrowedFd<'_>) -> Result<Document, String> {
    let mut bytes = Vec::new();
    let mut file = memory
        .try_clone_to_owned()
        .map(File::from)
        .map_err(|e| e.to_string())?;
    let got = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    got.map_err(|e| e.to_string())?;
    read(&bytes)
}

/// Whether a host can go on with what another had.
///
/// # Errors
/// The setting that needs a restart.
pub(super) fn fits(document: &Document, host: &Host) -> Result<(), String> {
    match document.fixed.changed(&Fixed::of(host)) {
        None => Ok(()),
        Some(name) => Err(format!(
            "the setting `{name}` is another one now, and can't change while funcd runs: set it back, or restart funcd"
        )),
    }
}

/// What a launcher before this one left in this process.
#[derive(Debug)]
pub struct Carried {
    memory: OwnedFd,
    pub(super) document: Document,
    /// Why the launcher goes back to this program, if it does.
    pub(super) why: Option<String>,
    /// Open until all is taken over, so that there is a way back.
    pub(super) fds: BTreeMap<RawFd, Rc<OwnedFd>>,
}

impl Carried {
    /// What the environment tells of, if it does.
    ///
    /// # Errors
    /// When that can't be read. There is a way back only where its head can: then it was taken.
    pub fn of_environment() -> Result<Option<Carried>, LauncherError> {
        let Some(number) = std::env::var_os(VARIABLE) else {
            return Ok(None);
        };
        let refuse = |why: String| LauncherError::Carried(why);
        let number: Option<RawFd> = number.to_str().and_then(|number| number.parse().ok());
        let number = number.filter(|number| is_memory(*number));
        let number = number.ok_or_else(|| refuse(format!("{VARIABLE} names none")))?;
        let memory = sys::own(number);
        let document = read_from(memory.as_fd()).map_err(refuse)?;
        let own = |&fd: &RawFd| (fd, Rc::new(sys::own(fd)));
        let mut numbers = document.head.fds.clone();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.contains(&number) || numbers.iter().any(|fd| *fd <= libc::STDERR_FILENO) {
            return Err(refuse("its descriptors are none of its own".to_owned()));
        }
        let fds: BTreeMap<_, _> = numbers.iter().map(own).collect();
        let carried = Carried {
            memory,
            document,
            why: std::env::var_os(WHY).map(|why| why.to_string_lossy().into_owned()),
            fds,
        };
        // Nothing that is started from here on gets them.
        carried.stay_open(false).map_err(|e| refuse(e.to_string()))?;
        Ok(Some(carried))
    }

    /// What this program ran with before, if it is the one that is gone back to: nothing is read again then, as it may be just
    /// what the other program stumbled over.
    pub fn host(&self) -> Option<Host> {
        let host = self.is_back().then(|| self.document.host.clone())?;
        serde_json::from_value(host).ok()
    }

    /// What wrote it.
    pub(super) fn is_back(&self) -> bool {
        self.why.is_some()
    }

    /// A descriptor, shared.
    pub(super) fn shared(&self, fd: RawFd) -> io::Result<Rc<OwnedFd>> {
        self.fds.get(&fd).map(Rc::clone).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("descriptor {fd} is not in the list"),
            )
        })
    }

    /// A descriptor of its own, of the same file.
    pub(super) fn own(&self, fd: RawFd) -> io::Result<OwnedFd> {
        self.shared(fd)?.try_clone()
    }

    /// Goes back to the program that wrote it, as nothing was changed. Returns only when that failed, with both reasons.
    pub fn go_back(self, why: &str) -> LauncherError {
        if self.is_back() {
            // There would be no end of it.
            return LauncherError::Carried(format!("the way back failed: {why}"));
        }
        let image = match self.shared(self.document.head.image) {
            Ok(image) => image,
            Err(e) => return LauncherError::Carried(format!("{why}; and no way back: {e}")),
        };
        let failed = self
            .stay_open(true)
            .err()
            .unwrap_or_else(|| execute(&image, self.memory.as_fd(), Some(why)));
        LauncherError::Carried(format!("{why}; and no way back: {failed}"))
    }

    fn stay_open(&self, open: bool) -> io::Result<()> {
        let mut all = self.fds.keys().copied().chain([self.memory.as_raw_fd()]);
        all.try_for_each(|fd| stay_open(fd, open))
    }
}

fn is_memory(fd: RawFd) -> bool {
    let expected = format!("/memfd:{}", MEMORY.to_string_lossy());
    fd > libc::STDERR_FILENO
        && std::fs::read_link(format!("/proc/self/fd/{fd}"))
            .is_ok_and(|link| link.to_string_lossy().starts_with(&expected))
}

fn stay_open(fd: RawFd, open: bool) -> io::Result<()> {
    sys::calls::stay_open(fd, open).map_err(io::Error::from_raw_os_error)
}

/// Writes a document to memory.
///
/// # Errors
/// When there is none left.
pub(super) fn write(document: &Document) -> io::Result<OwnedFd> {
    let memory = memfd_create(MEMORY, MFdFlags::MFD_CLOEXEC)?;
    let mut file = File::from(memory);
    file.write_all(&serde_json::to_vec(document)?)?;
    Ok(file.into())
}

/// Executes another image in this process, which goes on with the document. Returns only when that failed; nothing is changed then.
pub(super) fn hand_on(image: &OwnedFd, document: &Document, why: Option<&str>) -> io::Error {
    let memory = match write(document) {
        Ok(memory) => memory,
        Err(e) => return e,
    };
    let all = || document.head.fds.iter().copied().chain([memory.as_raw_fd()]);
    let opened: io::Result<()> = all().try_for_each(|fd| stay_open(fd, true));
    let failed = opened
        .err()
        .unwrap_or_else(|| execute(image, memory.as_fd(), why));
    for fd in all() {
        // It succeeded a moment ago.
        let _ = stay_open(fd, false);
    }
    failed
}

/// Returns only when it failed.
fn execute(image: &OwnedFd, memory: BorrowedFd<'_>, why: Option<&str>) -> io::Error {
    let mut env: Vec<CString> = std::env::vars_os()
        .filter(|(name, _)| !is_ours(name))
        .filter_map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok())
        .collect();
    let mut add = |name: &str, value: &str| {
        let value = value.replace('\0', " ");
        env.push(CString::new(format!("{name}={value}")).expect("what is NUL was replaced"));
    };
    add(VARIABLE, &memory.as_raw_fd().to_string());
    if let Some(why) = why {
        add(WHY, why);
    }
    let args: Vec<CString> = std::env::args_os()
        .filter_map(|word| CString::new(word.into_vec()).ok())
        .collect();
    let vectors = sys::exec::Vectors::new(&args, &env, false, false);
    if let Err(errno) = sys::calls::keep_capabilities(true) {
        let _ = sys::calls::keep_capabilities(false);
        let e = io::Error::from_raw_os_error(errno);
        return io::Error::new(e.kind(), format!("its capabilities can't be kept: {e}"));
    }
    let errno = vectors.exec_fd(image.as_raw_fd());
    let _ = sys::calls::keep_capabilities(false);
    io::Error::from_raw_os_error(errno)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What funcd 0.1.0 wrote, state version 1: never to be changed. Each later version reads it, or says that it is too far away.
    const VERSION_1: &str = include_str!("carried_1.json");

    fn changed(change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut document: Value = serde_json::from_str(VERSION_1).unwrap();
        change(&mut document);
        serde_json::to_vec(&document).unwrap()
    }

    #[test]
    fn what_version_1_wrote_is_read() {
        let document = read(VERSION_1.as_bytes()).unwrap();
        assert_eq!(
            (document.head.version, document.head.program.as_str()),
            (1, "0.1.0")
        );
        assert_eq!(document.instances.len(), 2);
        let instance = &document.instances[0];
        assert_eq!((instance.id, instance.has_port), (InstanceId(1), false));
        assert!(instance.memo.starts_with(b"{\"function\":\"hello\""));
        let waiting = document.instances[1].waiting.as_ref().unwrap();
        assert_eq!(waiting.function, "two");
        assert_eq!(document.supervisor.as_ref().unwrap().wire, 1);
        // Each descriptor that is named is in the list.
        for fd in [
            instance.stderr,
            document.descriptors[0].1,
            document.supervisor.unwrap().pidfd,
        ] {
            assert!(document.head.fds.contains(&fd), "{fd}");
        }
    }

    #[test]
    fn what_a_later_version_adds_is_nothing_to_this_one() {
        let later = changed(|document| {
            document["version"] = json!(7);
            document["something_new"] = json!({ "deep": [1, 2] });
            document["instances"][0]["something_new"] = json!("text");
            document["supervisor"]["something_new"] = json!(null);
        });
        assert_eq!(read(&later).unwrap().head.version, 7);
    }

    #[test]
    fn what_only_later_versions_understand_is_refused_by_name() {
        let later = changed(|document| {
            document["version"] = json!(9);
            document["readable_by"] = json!(VERSION + 1);
            document["program"] = json!("3.0.0");
            // Nothing else of it is looked at.
            document["instances"] = json!("of another kind");
        });
        let why = read(&later).unwrap_err();
        assert!(
            why.contains("funcd 3.0.0") && why.contains("smaller steps"),
            "{why}"
        );
        let earlier = changed(|document| document["version"] = json!(OLDEST - 1));
        assert!(read(&earlier).unwrap_err().contains("too far apart"));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let document = read(VERSION_1.as_bytes()).unwrap();
        let memory = write(&document).unwrap();
        let again = read_from(memory.as_fd()).unwrap();
        assert_eq!(
            serde_json::to_value(&again).unwrap(),
            serde_json::to_value(&document).unwrap()
        );
        // The position of the descriptor is nothing that counts.
        assert!(read_from(memory.as_fd()).is_ok());
    }

    #[test]
    fn bytes_are_as_they_were() {
        let all: Vec<u8> = (0..=255).collect();
        let outgoing = Outgoing {
            bytes: all.clone(),
            fds: vec![7],
        };
        let text = serde_json::to_string(&outgoing).unwrap();
        assert_eq!(serde_json::from_str::<Outgoing>(&text).unwrap().bytes, all);
        assert!(serde_json::from_str::<Outgoing>("{\"bytes\":\"\u{100}\",\"fds\":[]}").is_err());
    }

    #[test]
    fn descriptors_that_are_no_memory_of_ours_are_not_taken() {
        let file = tempfile::tempfile().unwrap();
        assert!(!is_memory(file.as_raw_fd()));
        let other = memfd_create(c"other", MFdFlags::MFD_CLOEXEC).unwrap();
        assert!(!is_memory(other.as_raw_fd()));
        let ours = memfd_create(MEMORY, MFdFlags::MFD_CLOEXEC).unwrap();
        assert!(is_memory(ours.as_raw_fd()));
        assert!(!is_memory(-1) && !is_memory(0));
    }
}
