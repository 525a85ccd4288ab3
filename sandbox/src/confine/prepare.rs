//! What the launcher does before the clone, so that the child has nothing left to compute. Never changes the launcher,
//! except for descriptors that live as long as the preparation.

use std::cell::Cell;
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::{Confinement, DROPPED, Failure};
use crate::exit::Step;
use crate::landlock::{Grant, Rules};
use crate::mounts::{Access, Bind, DEVICES, HOSTS, Root, errno, text};
use crate::oom;
use crate::seccomp;
use crate::spec::CREDENTIALS;
use crate::sys::calls;
use crate::sys::exec::Vectors;
use crate::sys::{Errno, own};

/// The lowest descriptor that the child may read from while it fills 0 to 3.
const FIRST_FREE: RawFd = 4;

/// A start, ready for the clone.
pub(super) struct Prepared<'a> {
    pub(super) confinement: &'a Confinement,
    pub(super) sources: Sources,
    pub(super) vectors: Vectors<'a>,
    /// Executed by this path, or by descriptor.
    pub(super) path: Option<CString>,
    pub(super) root: Option<Root>,
    pub(super) rules: Option<Rules>,
    pub(super) filter: Option<&'static [libc::sock_filter]>,
    pub(super) oom_score: Option<&'static [u8]>,
    /// Whether the child must drop what others inherit dropped.
    pub(super) drop_bounding: bool,
    pub(super) set_no_new_privs: bool,
    /// The pid of the launcher, for a child that asks whether it is still there.
    pub(super) launcher: i32,
    /// The ruleset, once the child has made it.
    pub(super) ruleset: Cell<RawFd>,
    /// The step that the child is at.
    pub(super) at: Cell<Step>,
    /// How the child failed, when it shares this memory.
    pub(super) failure: Cell<Option<Failure>>,
}

/// Descriptors that the child needs after it began to fill 0 to 3: none of them is below 4.
pub(super) struct Sources {
    pub(super) stdin: RawFd,
    pub(super) stdout: RawFd,
    pub(super) stderr: RawFd,
    pub(super) exchange: Option<RawFd>,
    pub(super) listener: Option<RawFd>,
    pub(super) network: Option<RawFd>,
    pub(super) executable: RawFd,
    _moved: Vec<OwnedFd>,
    _null: OwnedFd,
}

impl<'a> Prepared<'a> {
    pub(super) fn new(confinement: &'a Confinement) -> Result<Prepared<'a>, Failure> {
        let at = |step| move |errno| Failure { step, errno };
        // 0 is root, and for setresuid(2) the largest one means "as it is", which is root as well.
        if confinement
            .identity
            .is_some_and(|(uid, gid)| [uid, gid].iter().any(|id| [0, u32::MAX].contains(id)))
        {
            return Err(Failure {
                step: Step::Identity,
                errno: libc::EINVAL,
            });
        }
        let dropped = DROPPED.load(Ordering::Relaxed);
        let root = root(confinement).map_err(at(Step::Mounts))?;
        Ok(Prepared {
            confinement,
            sources: Sources::new(confinement).map_err(at(Step::Descriptors))?,
            vectors: Vectors::new(
                &confinement.args,
                &confinement.env,
                confinement.listener.is_some(),
                confinement.takes_variables,
            ),
            path: confinement
                .artifact_path
                .as_ref()
                .map(text)
                .transpose()
                .map_err(at(Step::Exec))?,
            rules: rules(confinement, root.as_ref()).map_err(at(Step::Landlock))?,
            root,
            filter: confinement.seccomp.then(seccomp::function_filter),
            oom_score: confinement.first_out_of_memory.then(oom::of_functions),
            drop_bounding: !dropped && calls::has_capability(CAP_SETPCAP),
            set_no_new_privs: !dropped,
            launcher: calls::getpid(),
            ruleset: Cell::new(-1),
            at: Cell::new(Step::Clone),
            failure: Cell::new(None),
        })
    }

    /// The namespaces that the child is made in.
    pub(super) fn clone_flags(&self) -> u64 {
        match self.root {
            Some(_) => libc::CLONE_NEWNS as u64,
            None => 0,
        }
    }
}

/// `CAP_SETPCAP` (linux/capability.h).
pub(super) const CAP_SETPCAP: u32 = 8;

impl Sources {
    fn new(confinement: &Confinement) -> Result<Sources, Errno> {
        let null = null()?;
        let mut moved = Vec::new();
        let mut free = |fd: RawFd| -> Result<RawFd, Errno> {
            if fd >= FIRST_FREE {
                return Ok(fd);
            }
            let copy = above(fd)?;
            let number = copy.as_raw_fd();
            moved.push(copy);
            Ok(number)
        };
        Ok(Sources {
            stdin: confinement.stdin.map_or(Ok(null.as_raw_fd()), &mut free)?,
            stdout: free(confinement.stdout)?,
            stderr: free(confinement.stderr)?,
            exchange: confinement.exchange.map(&mut free).transpose()?,
            listener: confinement.listener.map(&mut free).transpose()?,
            network: confinement.network.map(&mut free).transpose()?,
            executable: free(confinement.executable)?,
            _moved: moved,
            _null: null,
        })
    }
}

/// A copy of a descriptor that is not below 4.
pub(super) fn above(fd: RawFd) -> Result<OwnedFd, Errno> {
    calls::duplicate_above(fd, FIRST_FREE).map(own)
}

/// /dev/null, opened for each start: the flags and locks of an open file are seen by all who share it, and functions share
/// nothing.
fn null() -> Result<OwnedFd, Errno> {
    let low = own(calls::open(c"/dev/null", libc::O_RDWR, 0)?);
    if low.as_raw_fd() >= FIRST_FREE {
        return Ok(low);
    }
    above(low.as_raw_fd())
}

fn root(confinement: &Confinement) -> Result<Option<Root>, Errno> {
    let Some(mounts) = &confinement.mounts else {
        return Ok(None);
    };
    let stored;
    let mut binds: Vec<Bind<'_>> = Vec::new();
    let same = |path, access| Bind {
        source: path,
        path,
        access,
    };
    binds.extend(confinement.read.iter().map(|path| same(path, Access::Execute)));
    binds.extend(confinement.write.iter().map(|path| same(path, Access::Write)));
    if let Some(path) = &confinement.artifact_path {
        // By its path: a descriptor belongs to a mount of the launcher's namespace, which can't be bound in another one.
        stored = path_of(confinement.executable)?;
        binds.push(Bind {
            source: &stored,
            path,
            access: Access::Execute,
        });
    }
    if let Some(source) = &confinement.credentials {
        binds.push(Bind {
            source,
            path: Path::new(CREDENTIALS),
            access: Access::Read,
        });
    }
    let mut root = Root::plan(mounts, &binds, &confinement.links)?;
    if confinement.network.is_some() && confinement.loopback {
        root.name_loopback()?;
    }
    Ok(Some(root))
}

fn path_of(fd: RawFd) -> Result<PathBuf, Errno> {
    std::fs::read_link(format!("/proc/self/fd/{fd}")).map_err(|e| errno(&e))
}

fn rules(confinement: &Confinement, root: Option<&Root>) -> Result<Option<Rules>, Errno> {
    let Some(abi) = confinement.landlock_abi else {
        return Ok(None);
    };
    // Without a network of its own TCP is for those alone that listen on a port themselves.
    let is_reached =
        confinement.listener.is_some() || confinement.stdin.is_some() || confinement.exchange.is_some();
    let handle_tcp = confinement.network.is_none() && is_reached;
    let mut rules = Rules::new(abi, handle_tcp);
    let directory = |path: &Path| std::fs::metadata(path).map(|m| m.is_dir()).map_err(|e| errno(&e));
    for path in &confinement.read {
        rules.allow(text(path)?, Grant::Read, directory(path)?);
    }
    for path in &confinement.write {
        rules.allow(text(path)?, Grant::Write, directory(path)?);
    }
    if let Some(mounts) = &confinement.mounts {
        if mounts.proc {
            rules.allow(c"/proc".into(), Grant::Read, true);
        }
        if confinement.credentials.is_some() {
            rules.allow(text(CREDENTIALS)?, Grant::Data, true);
        }
        if root.is_some_and(Root::names_loopback) {
            rules.allow(HOSTS.into(), Grant::Data, false);
        }
        rules.allow(c"/tmp".into(), Grant::Write, true);
        rules.allow(c"/dev".into(), Grant::Devices, true);
    } else {
        // The host's /tmp and /dev: the one is not its own, the other has more in it than it may use.
        for (name, _) in DEVICES {
            rules.allow(text(format!("/dev/{name}"))?, Grant::Devices, false);
        }
    }
    Ok(Some(rules))
}
