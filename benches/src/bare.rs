//! The floor and the peers of a cold start: the same executable without funcd, asked over a Unix socket that exists
//! before it does. Never confined by us.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::Target;
use crate::failure::{During, Failure, Outcome};
use crate::guard::Guard;
use crate::sys;

/// Starts one executable over and over.
#[derive(Debug)]
pub(crate) struct Bare {
    argv: Vec<CString>,
    folder: TempDir,
    null: File,
}

impl Bare {
    /// Of `argv`, whose first word is the path of a program.
    ///
    /// # Errors
    /// A word with a zero byte, or no place for a socket.
    pub(crate) fn of(argv: &[&Path]) -> Outcome<Bare> {
        let words = argv.iter().map(|word| CString::new(word.as_os_str().as_bytes()));
        Ok(Bare {
            argv: words
                .collect::<Result<_, _>>()
                .during("a word of the command line")?,
            folder: tempfile::tempdir().during("making a folder for a socket")?,
            null: File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .during("opening /dev/null")?,
        })
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn listen(&self) -> io::Result<UnixListener> {
        let _ = std::fs::remove_file(self.socket());
        UnixListener::bind(self.socket())
    }

    fn start(&self, listener: &UnixListener) -> io::Result<Guard> {
        let pid = sys::spawn(&self.argv, listener.as_fd(), self.null.as_fd(), self.null.as_fd())?;
        Ok(Guard::pid(pid, Duration::ZERO))
    }

    /// From before vfork to the end of the first answer. The socket is there before, as funcd's is.
    ///
    /// # Errors
    /// No start, or no 200.
    pub(crate) fn start_and_ask(&self) -> io::Result<Duration> {
        let listener = self.listen()?;
        let target = Target::unix(&self.socket(), "/");
        let start = Instant::now();
        let process = self.start(&listener)?;
        target.ask_once()?;
        let taken = start.elapsed();
        drop(process);
        Ok(taken)
    }

    /// From before vfork to the end of its output, then of itself.
    ///
    /// # Errors
    /// No start, or no output.
    pub(crate) fn run_to_its_end(&self) -> io::Result<Duration> {
        let start = Instant::now();
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let pid = sys::spawn(&self.argv, self.null.as_fd(), self.null.as_fd(), write.as_fd())?;
        drop(write);
        let mut output = Vec::new();
        File::from(read).read_to_end(&mut output)?;
        nix::sys::wait::waitpid(pid, None)?;
        if output.is_empty() {
            return Err(io::Error::other("it wrote nothing"));
        }
        Ok(start.elapsed())
    }

    /// Starts it once, to be asked for as long as the server is held.
    ///
    /// # Errors
    /// No start, or no 200.
    pub(crate) fn serve(self) -> Outcome<BareServer> {
        let step = format!("starting {:?} by hand", self.argv);
        let listener = self.listen().during(&step)?;
        let process = self.start(&listener).during(&step)?;
        let socket = self.socket();
        Target::unix(&socket, "/").ask_once().during(&step)?;
        Ok(BareServer {
            socket,
            process,
            _folder: self.folder,
        })
    }
}

/// A function started by hand, once.
#[derive(Debug)]
pub(crate) struct BareServer {
    /// Where it listens.
    pub(crate) socket: PathBuf,
    process: Guard,
    _folder: TempDir,
}

impl BareServer {
    /// Its process.
    pub(crate) fn id(&self) -> i32 {
        self.process.id()
    }
}

/// What runs `hello` in namespaces of its own under bubblewrap: no Landlock, no seccomp, no cgroup, no own uid.
pub(crate) fn bubblewrap<'a>(bwrap: &'a Path, hello: &'a Path) -> Vec<&'a Path> {
    let mut argv = vec![bwrap];
    // As pid 1, so that LISTEN_PID is known beforehand.
    let before = "--unshare-all --die-with-parent --as-pid-1 --setenv LISTEN_PID 1 --tmpfs /tmp --ro-bind";
    argv.extend(before.split(' ').map(Path::new));
    argv.extend([hello, Path::new("/hello"), Path::new("/hello")]);
    argv
}

/// From a connection to the end of the first answer, with a fresh `systemd-socket-activate` listening before.
///
/// # Errors
/// No start, or no 200.
pub(crate) fn socket_activate(program: &Path, hello: &Path) -> Outcome<Duration> {
    let step = format!("starting {} under {}", hello.display(), program.display());
    let folder = tempfile::tempdir().during(&step)?;
    let socket = folder.path().join("socket");
    let mut child = Command::new(program)
        .arg("-l")
        .arg(&socket)
        .arg(hello)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .during(&step)?;
    let messages = child.stderr.take().map(BufReader::new);
    let process = Guard::child(child, Duration::ZERO);
    let mut lines = messages.into_iter().flat_map(BufReader::lines);
    if !lines.any(|line| line.is_ok_and(|line| line.starts_with("Listening"))) {
        return Err(Failure(format!("{step}: it ended before it listened")));
    }
    let start = Instant::now();
    Target::unix(&socket, "/").ask_once().during(&step)?;
    let taken = start.elapsed();
    drop(process);
    Ok(taken)
}
