//! The sockets that callers and operators connect to. Bound once by the launcher, so that no crash of a supervisor
//! closes them: who connects meanwhile waits in the listen queue. Never accepts.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, getsockname, listen,
    setsockopt, socket, sockopt,
};

use super::activation::{self, Given};
use super::{Host, LauncherError};

/// Connections that wait to be accepted: as many as net.core.somaxconn allows.
const BACKLOG: Backlog = Backlog::MAXALLOWABLE;

/// The sockets of a host.
#[derive(Debug)]
pub(super) struct Listeners {
    /// For callers: address by address, one per worker.
    pub(super) callers: Vec<OwnedFd>,
    /// The addresses that `callers` are bound to.
    pub(super) addresses: Vec<SocketAddr>,
    /// The admin API.
    pub(super) admin: OwnedFd,
    /// Metrics and health.
    pub(super) admin_tcp: Option<(OwnedFd, SocketAddr)>,
    admin_path: PathBuf,
}

/// Binds all of them. After a crash the predecessor's supervisor, which dies with its launcher, may need a moment to let
/// go of them.
///
/// # Errors
/// The one that can't be bound.
pub(super) fn bind_after(host: &Host, crash: bool) -> Result<Listeners, LauncherError> {
    let given = activation::take()?;
    const TRIES: u32 = 50;
    let mut tries = if crash { TRIES } else { 0 };
    loop {
        match bind_all(host, &given) {
            Err(LauncherError::Listen { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse && tries > 0 =>
            {
                tries -= 1;
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

/// Binds what was not given; what was given stays so, as this may have to be tried again.
fn bind_all(host: &Host, given: &Given) -> Result<Listeners, LauncherError> {
    let dup = |source| LauncherError::Kernel { what: "dup", source };
    let (mut callers, mut addresses) = activation::deal(&given.callers, host.workers.max(1)).map_err(dup)?;
    let bound = if callers.is_empty() { &host.listen[..] } else { &[] };
    for &address in bound {
        let refused = |source| LauncherError::Listen {
            address: address.to_string(),
            source,
        };
        // With SO_REUSEPORT a second host would silently get half of the first one's callers; without, it is told.
        drop(tcp(address, false).map_err(refused)?);
        let mut bound = address;
        for _ in 0..host.workers.max(1) {
            let listener = tcp(bound, true).map_err(refused)?;
            bound = local(&listener).map_err(refused)?;
            callers.push(listener);
        }
        addresses.push(bound);
    }
    let admin_tcp = match (&given.admin_tcp, host.admin_listen) {
        (Some((fd, address)), _) => Some((fd.try_clone().map_err(dup)?, *address)),
        (None, None) => None,
        (None, Some(address)) => {
            let refused = |source| LauncherError::Listen {
                address: address.to_string(),
                source,
            };
            let listener = tcp(address, false).map_err(refused)?;
            let bound = local(&listener).map_err(refused)?;
            Some((listener, bound))
        }
    };
    let admin = match &given.admin {
        Some(admin) => admin.try_clone().map_err(dup)?,
        None => bind_admin(&host.admin, host.supervisor).map_err(|source| LauncherError::Listen {
            address: host.admin.display().to_string(),
            source,
        })?,
    };
    Ok(Listeners {
        callers,
        addresses,
        admin,
        admin_tcp,
        admin_path: host.admin.clone(),
    })
}

impl Listeners {
    /// Those that the launcher before had. Its callers' sockets are among the descriptors of supervisors.
    pub(super) fn again(
        host: &Host,
        addresses: Vec<SocketAddr>,
        (admin, admin_tcp): (OwnedFd, Option<(OwnedFd, SocketAddr)>),
    ) -> Listeners {
        Listeners {
            callers: Vec::new(),
            addresses,
            admin,
            admin_tcp,
            admin_path: host.admin.clone(),
        }
    }

    /// Removes the admin API's socket from its folder, unless the service manager keeps it.
    pub(super) fn clear(&self) {
        if is_bound_here(&self.admin) {
            let _ = fs::remove_file(&self.admin_path);
        }
    }
}

/// Binds a listening Unix socket; the mode is 0600 by the launcher's umask.
///
/// # Errors
/// Those of socket, bind and listen.
pub(super) fn unix(path: &Path) -> io::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, BACKLOG)?;
    Ok(fd)
}

fn tcp(address: SocketAddr, share: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if share {
        setsockopt(&fd, sockopt::ReusePort, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, BACKLOG)?;
    Ok(fd)
}

pub(super) fn local(fd: &OwnedFd) -> io::Result<SocketAddr> {
    let name: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    let v4 = name.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    let bound = v4.or_else(|| name.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())));
    bound.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// The admin socket: for root and the supervisor's group.
fn bind_admin(path: &Path, supervisor: Option<(u32, u32)>) -> io::Result<OwnedFd> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not the path of a socket",
        ));
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    if !parent.exists() {
        fs::create_dir_all(parent)?;
        // The umask would let nobody but root to the socket, whose own mode says who may use it.
        fs::set_permissions(parent, fs::Permissions::from_mode(0o755))?;
    }
    // By way of the directory's descriptor, because `sun_path` has 108 bytes only.
    let mut options = fs::OpenOptions::new();
    let dir = options
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(parent)?;
    let short = Path::new("/proc/self/fd")
        .join(dir.as_raw_fd().to_string())
        .join(name);
    if fs::symlink_metadata(&short).is_ok() {
        if UnixStream::connect(&short).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another funcd answers there",
            ));
        }
        remove_socket(&short)?;
    }
    let fd = unix(&short)?;
    if let Some((_, gid)) = supervisor {
        std::os::unix::fs::lchown(&short, None, Some(gid))?;
    }
    fs::set_permissions(&short, fs::Permissions::from_mode(0o660))?;
    nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    Ok(fd)
}

/// Whether a Unix socket was bound by a launcher, which does it by way of a directory's descriptor; of another program it has
/// a name of its own. Asked of the socket, as a launcher that took over from another has nothing else to go by.
fn is_bound_here(fd: &OwnedFd) -> bool {
    let name = getsockname::<UnixAddr>(fd.as_raw_fd());
    name.is_ok_and(|name| name.path().is_some_and(|path| path.starts_with("/proc/self/fd")))
}

/// Removes a socket that nobody answers on, and nothing but a socket.
fn remove_socket(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "something that is no socket is there",
        ));
    }
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_the_port_that_the_first_picked() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = tcp(any, true).unwrap();
        let bound = local(&first).unwrap();
        assert_ne!(bound.port(), 0);
        let second = tcp(bound, true).unwrap();
        assert_eq!(local(&second).unwrap(), bound);
        // Another host, which tries alone first, is told.
        assert_eq!(tcp(bound, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn an_admin_socket_that_answers_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        let path = deep.join("admin.sock");
        let first = bind_admin(&path, None).unwrap();
        assert_eq!(
            bind_admin(&path, None).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        drop(first);
        let ours = bind_admin(&path, None).unwrap();
        // What a service manager bound stays when this launcher ends.
        let another = std::os::unix::net::UnixListener::bind(dir.path().join("a")).unwrap();
        assert!(is_bound_here(&ours) && !is_bound_here(&another.into()));
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(
            bind_admin(&file, None).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert!(file.exists());
    }
}
