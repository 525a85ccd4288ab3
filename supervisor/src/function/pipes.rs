//! What a process is spoken to by that has no listening socket: its stdin and stdout, or a directory in which it binds a
//! Unix socket. Trusts nothing that lies in such a directory: it is the function's own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::fcntl::{OFlag, openat, readlinkat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, SFlag, fstat};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

/// This side's ends of a process's pipes.
#[derive(Debug)]
pub struct Ends {
    /// What it reads is written here.
    pub stdin: OwnedFd,
    /// What it writes is read here.
    pub stdout: OwnedFd,
}

impl Ends {
    /// Whether the process has written nothing that nobody read, and goes on.
    pub fn is_quiet(&self) -> bool {
        let mut fds = [PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    }
}

/// The ends, while nobody uses them.
#[derive(Debug, Default)]
pub struct Pipes(Mutex<Option<Ends>>);

impl Pipes {
    /// Takes them.
    pub fn take(&self) -> Option<Ends> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether they are there to be taken.
    pub fn is_there(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Puts them there, for the first request or the next.
    pub fn put(&self, ends: Ends) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(ends);
    }
}

/// The ends, in use on this thread's runtime.
#[derive(Debug)]
pub struct Duplex {
    /// What the process reads.
    pub stdin: pipe::Sender,
    /// What it writes.
    pub stdout: pipe::Receiver,
}

impl Duplex {
    /// Takes them into use.
    ///
    /// # Errors
    /// Those of registering them with the runtime.
    pub fn new(ends: Ends) -> io::Result<Duplex> {
        Ok(Duplex {
            stdin: pipe::Sender::from_owned_fd(ends.stdin)?,
            stdout: pipe::Receiver::from_owned_fd(ends.stdout)?,
        })
    }

    /// Gives them back, for another thread.
    ///
    /// # Errors
    /// Those of leaving the runtime.
    pub fn into_ends(self) -> io::Result<Ends> {
        Ok(Ends {
            stdin: self.stdin.into_nonblocking_fd()?,
            stdout: self.stdout.into_nonblocking_fd()?,
        })
    }
}

/// What an FDK of Fn calls its socket, or the symlink to it.
const SOCKET: &str = "lsnr.sock";

/// The directory of an instance's socket, once its process runs.
#[derive(Debug, Default)]
pub struct Directory(OnceLock<OwnedFd>);

impl Directory {
    /// It runs, and this is its directory.
    pub fn found(&self, directory: OwnedFd) {
        let _ = self.0.set(directory);
    }

    /// Opens a connection to the socket in it.
    ///
    /// # Errors
    /// `NotFound` while there is none; `PermissionDenied`, with what is wrong, for what is none or lies elsewhere; those of
    /// connect(2).
    pub async fn connect(&self) -> io::Result<UnixStream> {
        let directory = self.0.get().ok_or(io::ErrorKind::NotFound)?;
        let socket = find(directory)?;
        // By its inode: whatever the function puts in its place meanwhile is not followed.
        UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
    }

    /// Whether there is something that is, or leads to, a socket.
    ///
    /// # Errors
    /// As [`Directory::connect`].
    pub fn look(&self) -> io::Result<()> {
        find(self.0.get().ok_or(io::ErrorKind::NotFound)?).map(drop)
    }
}

/// The socket, or the one that the symlink in its place leads to: relative, and in the same directory.
fn find(directory: &OwnedFd) -> io::Result<OwnedFd> {
    let refused = |what: String| io::Error::new(io::ErrorKind::PermissionDenied, what);
    let open = |name: &str| {
        openat(
            directory,
            name,
            OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
    };
    let kind =
        |fd: &OwnedFd| fstat(fd).map(|stat| SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()));
    let found = open(SOCKET)?;
    if kind(&found)? != SFlag::S_IFLNK {
        return match kind(&found)? {
            SFlag::S_IFSOCK => Ok(found),
            _ => Err(refused(format!(
                "{SOCKET} is neither a socket nor a symlink to one"
            ))),
        };
    }
    let target = readlinkat(directory, SOCKET)?;
    let target = target.to_str().unwrap_or("/");
    if target.contains('/') || [".", "..", ""].contains(&target) {
        let what = format!("{SOCKET} is a symlink out of its directory: it has to name a socket beside it");
        return Err(refused(what));
    }
    let socket = open(target).map_err(|_| refused(format!("{SOCKET} is a symlink to nothing")))?;
    match kind(&socket)? {
        SFlag::S_IFSOCK => Ok(socket),
        _ => Err(refused(format!("{SOCKET} is a symlink to what is no socket"))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::ErrorKind;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn only_a_socket_of_the_directory_itself_is_connected_to() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("inner");
        std::fs::create_dir(&path).unwrap();
        let directory = Directory::default();
        assert_eq!(directory.connect().await.unwrap_err().kind(), ErrorKind::NotFound);
        directory.found(File::open(&path).unwrap().into());
        assert_eq!(directory.connect().await.unwrap_err().kind(), ErrorKind::NotFound);

        let _outside = UnixListener::bind(outer.path().join("outside")).unwrap();
        let _own = UnixListener::bind(path.join("own")).unwrap();
        std::fs::write(path.join("file"), "").unwrap();
        symlink("own", path.join("twice")).unwrap();
        let link = path.join(SOCKET);
        let absolute = path.join("own").to_str().unwrap().to_owned();
        for bad in [
            "../outside",
            "/outside",
            "..",
            "file",
            "nothing",
            "twice",
            "./own",
            &absolute,
        ] {
            symlink(bad, &link).unwrap();
            let why = directory.connect().await.unwrap_err();
            assert_eq!(why.kind(), ErrorKind::PermissionDenied, "{bad}: {why}");
            std::fs::remove_file(&link).unwrap();
        }
        // The controls: what is well-formed, and what a path alone would have reached.
        symlink("own", &link).unwrap();
        directory.connect().await.unwrap();
        std::fs::remove_file(&link).unwrap();
        symlink("../outside", &link).unwrap();
        UnixStream::connect(&link).await.unwrap();
        std::fs::remove_file(&link).unwrap();
        let _itself = UnixListener::bind(&link).unwrap();
        directory.connect().await.unwrap();
    }
}
