//! The self-check of a starting launcher: a process that attacks its sandbox, in each profile that functions are started in.
//! What it reaches although it was promised that it can't refuses service. Takes a few milliseconds, once.

use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::launch::{Started, Way, When};
use super::network::Network;
use super::serve::Launcher;
use super::{LauncherError, log, supervisor};
use crate::cgroup::Ceiling;
use crate::floor::Grants;
use crate::property::Property;
use crate::sandbox::Sandbox;
use crate::self_check::{self, Target, Unexpected, reached};
use crate::spec::{Digest, Image, InstanceId, Limits, Socket, Spec, System};

/// How long an attacker may take, and how long until all of it is gone: a host that is that slow can't serve.
const PATIENCE: Duration = Duration::from_secs(20);
/// Its id: those of instances begin with 1.
const ID: InstanceId = InstanceId(0);
/// Enough for a large program with debug information; it uses a few.
const MEMORY: u64 = 256 << 20;

/// A kind of start that functions get.
#[derive(Debug, Clone, Copy)]
struct Profile {
    image: Image,
    socket: Socket,
}

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let image = match self.image {
            Image::Static => "a static executable",
            Image::Dynamic | Image::Script => "a dynamic executable",
        };
        let socket = match self.socket {
            Socket::Unix => "a Unix socket",
            Socket::Port(_) => "a port",
            Socket::None => "no socket",
            Socket::Pipes => "pipes",
            Socket::Directory => "a directory",
        };
        write!(f, "{image} on {socket}")
    }
}

/// What attackers aim at.
struct Bait {
    target: Target,
    udp: Option<UdpSocket>,
    _tcp: Option<TcpListener>,
    _abstract: Option<UnixListener>,
}

/// An attacker at work.
struct Attacker {
    profile: Profile,
    sandbox: Sandbox,
    stdout: OwnedFd,
    _rest: (Option<Network>, OwnedFd, Way),
}

impl Launcher {
    /// Lets a process attack the sandbox in each profile.
    ///
    /// # Errors
    /// [`LauncherError::SelfCheck`]: what it reached, or why it could not be tried.
    pub(super) fn self_check(&mut self) -> Result<(), LauncherError> {
        // Where something is missing that nobody accepted, nothing will be started either.
        if self
            .grades
            .iter()
            .any(|grade| grade.mechanism.is_none() && !self.host.degraded.contains(&grade.property))
        {
            return Ok(());
        }
        let began = Instant::now();
        let untried = |why: String| LauncherError::SelfCheck {
            profile: "every profile".to_owned(),
            why,
        };
        let program = supervisor::open_program(&self.host).map_err(|e| untried(e.to_string()))?;
        let bait = Bait::lay(self.plan.pid_namespace);
        let mut attackers = Vec::new();
        let mut outcome = Ok(());
        for profile in profiles(image_of(&program)) {
            match self.let_attack(profile, &program, &bait.target) {
                Ok(attacker) => attackers.push(attacker),
                Err(why) => {
                    outcome = Err(LauncherError::SelfCheck {
                        profile: profile.to_string(),
                        why,
                    });
                    break;
                }
            }
        }
        let count = attackers.len();
        for attacker in attackers {
            let profile = attacker.profile.to_string();
            let judged = self.judge(attacker);
            outcome = outcome.and(judged.map_err(|e| LauncherError::SelfCheck {
                profile,
                why: e.to_string(),
            }));
        }
        outcome?;
        if bait.was_taken() && self.keeps(Property::Network) {
            let why = reached(Property::Network, "send to the host by UDP").to_string();
            return Err(untried(why));
        }
        log(format_args!(
            "the sandbox withstood the self-check in {count} profiles, {} ms",
            began.elapsed().as_millis()
        ));
        Ok(())
    }

    /// Whether a property is kept, and not accepted to be missing.
    fn keeps(&self, property: Property) -> bool {
        let kept = self
            .grades
            .iter()
            .any(|grade| grade.property == property && grade.mechanism.is_some());
        kept && !self.host.degraded.contains(&property)
    }

    /// Starts an attacker as a function is started.
    fn let_attack(
        &mut self,
        profile: Profile,
        program: &OwnedFd,
        target: &Target,
    ) -> Result<Attacker, String> {
        let name = self
            .host
            .program
            .first()
            .map(|name| name.to_string_lossy().into_owned());
        let spec = Spec {
            function: "self-check".to_owned(),
            artifact: Digest([0; 32]),
            image: profile.image,
            args: name.into_iter().chain(target.arguments()).collect(),
            env: Vec::new(),
            socket: profile.socket,
            ports: Vec::new(),
            limits: Limits {
                memory_bytes: MEMORY,
                cpu_millis: 1000,
                cpu_idle: false,
                pids: self_check::PIDS,
                tmp_bytes: 1 << 20,
                files: 64,
            },
            system: match profile.image {
                Image::Static => System::Parts {
                    paths: Vec::new(),
                    links: Vec::new(),
                },
                Image::Dynamic | Image::Script => System::Whole,
            },
            read: Vec::new(),
            write: Vec::new(),
            secrets: Vec::new(),
            degraded: Vec::new(),
            memo: Vec::new(),
        };
        let ceiling = Ceiling {
            memory_bytes: spec.limits.memory_bytes,
            cpu_millis: spec.limits.cpu_millis,
            cpu_idle: spec.limits.cpu_idle,
            pids: spec.limits.pids,
        };
        // The last of the range: should a function ever get it, this one is long gone.
        let uid = self
            .host
            .uid_first
            .saturating_add(self.host.uid_count.saturating_sub(1));
        let identity = self.plan.identity.then_some((uid, uid));
        let leaf = self.pool.take(ceiling).map_err(|e| format!("step cgroup: {e}"))?;
        let confinement = self.confinement(&spec, program, identity, (Grants::default(), &leaf));
        let started = self.start(ID, &spec, confinement, When::Now);
        let _ = std::fs::remove_file(self.folders.socket(&ID.to_string()));
        match started {
            Ok(Started {
                spawned,
                network,
                ends,
                ..
            }) => Ok(Attacker {
                profile,
                sandbox: Sandbox::new(spawned, leaf),
                stdout: ends.stdout.0,
                _rest: (network, ends.stderr.0, ends.way),
            }),
            Err(failed) => {
                self.leave(leaf, None);
                Err(format!("it could not be started: {failed}"))
            }
        }
    }

    /// Hears what it says, looks at what it holds, and ends it.
    fn judge(&mut self, mut attacker: Attacker) -> Result<(), Unexpected> {
        let until = Instant::now() + PATIENCE;
        let mut said = String::new();
        while !self_check::is_done(&said) && read(&attacker.stdout, &mut said, until).is_ok_and(|more| more) {
        }
        let usage = attacker.sandbox.leaf().usage();
        attacker.sandbox.kill_all();
        let mut rest = String::new();
        let until = Instant::now() + PATIENCE;
        let gone = loop {
            match read(&attacker.stdout, &mut rest, until) {
                Ok(true) => {}
                Ok(false) => break true,
                Err(_) => break false,
            }
        };
        let ended = wait(attacker.sandbox.pidfd(), until).is_ok();
        let _ = attacker.sandbox.try_end();
        let pid = attacker.sandbox.pid;
        self.leave(attacker.sandbox.into_leaf(), None);
        self_check::judge(
            &said,
            |property| self.keeps(property),
            self.plan.pid_namespace.then_some(pid),
        )?;
        for (property, holds, attempt) in [
            // Itself, and the one that stays behind.
            (
                Property::PidLimit,
                usage.pids >= 2,
                "have processes that its limit does not count",
            ),
            (
                Property::MemoryLimit,
                usage.memory_bytes > 0,
                "use memory that its limit does not count",
            ),
            (
                Property::TotalKill,
                gone && ended,
                "leave a process behind that nobody kills",
            ),
        ] {
            if !holds && self.keeps(property) {
                return Err(reached(property, attempt));
            }
        }
        Ok(())
    }
}

/// A static program can be any function; a dynamic one needs what dynamic executables see, which is more than static ones do.
fn profiles(own: Image) -> Vec<Profile> {
    let images: &[Image] = match own {
        Image::Static => &[Image::Static, Image::Dynamic],
        Image::Dynamic | Image::Script => &[Image::Dynamic],
    };
    let sockets = [Socket::Unix, Socket::Port(1024)];
    images
        .iter()
        .flat_map(|&image| sockets.map(|socket| Profile { image, socket }))
        .collect()
}

/// Whether this program has an interpreter: a program header of type `PT_INTERP` (elf(5)). What can't be read counts as dynamic.
fn image_of(program: &OwnedFd) -> Image {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;
    const PT_INTERP: u32 = 3;
    let interpreter = || -> io::Result<bool> {
        let file = std::fs::File::open(format!("/proc/self/fd/{}", program.as_raw_fd()))?;
        let mut head = [0; 64];
        file.read_exact_at(&mut head, 0)?;
        let two = |at: usize| u64::from(u16::from_le_bytes([head[at], head[at + 1]]));
        let offset = u64::from_le_bytes(head[32..40].try_into().expect("8 bytes"));
        let (size, count) = (two(54), two(56));
        for index in 0..count {
            let mut kind = [0; 4];
            file.read_exact_at(&mut kind, offset.saturating_add(index * size))?;
            if u32::from_le_bytes(kind) == PT_INTERP {
                return Ok(true);
            }
        }
        Ok(false)
    };
    match interpreter() {
        Ok(false) => Image::Static,
        Ok(true) | Err(_) => Image::Dynamic,
    }
}

impl Bait {
    /// What can't be had is not aimed at.
    fn lay(own_pids: bool) -> Bait {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok();
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok();
        let udp = udp.filter(|udp| udp.set_nonblocking(true).is_ok());
        // Nobody else's datagram shall look like the attacker's: any user of the host can send to the port.
        let mut secret = [0; 16];
        let _ = std::fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut secret));
        let digits = u128::from_ne_bytes(secret);
        let abstract_name = format!("funcd-self-check-{}-{digits:032x}", std::process::id());
        let address = SocketAddr::from_abstract_name(&abstract_name);
        let port = |address: io::Result<std::net::SocketAddr>| address.map_or(0, |address| address.port());
        Bait {
            target: Target {
                launcher: std::process::id() as i32,
                own_pids,
                tcp: tcp.as_ref().map_or(0, |tcp| port(tcp.local_addr())),
                udp: udp.as_ref().map_or(0, |udp| port(udp.local_addr())),
                abstract_name,
            },
            _abstract: address.and_then(|address| UnixListener::bind_addr(&address)).ok(),
            udp,
            _tcp: tcp,
        }
    }

    /// Whether a datagram of the attacker arrived.
    fn was_taken(&self) -> bool {
        /// More than the socket holds of such small ones; who fills it again and again does not hold up the start.
        const MOST: usize = 4096;
        let Some(udp) = &self.udp else { return false };
        let mut some = [0; 128];
        let received = std::iter::from_fn(|| udp.recv(&mut some).ok().map(|length| some[..length].to_vec()));
        let expected = self.target.abstract_name.as_bytes();
        received.take(MOST).any(|datagram| datagram == expected)
    }
}

/// Waits until a descriptor is readable.
fn wait(fd: impl AsFd, until: Instant) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Reads what there is, or waits for it; `false` at the end. No more than one line for each attempt is kept.
fn read(from: &OwnedFd, into: &mut String, until: Instant) -> io::Result<bool> {
    const MOST: usize = 16 * 1024;
    wait(from, until)?;
    let mut some = [0; 1024];
    let length = nix::unistd::read(from, &mut some)?;
    if into.len() < MOST {
        *into += &String::from_utf8_lossy(&some[..length]);
    }
    Ok(length > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_of_somebody_else_is_no_attack() {
        let bait = Bait::lay(false);
        let to = (Ipv4Addr::LOCALHOST, bait.target.udp);
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        sender.send_to(b"x", to).unwrap();
        assert!(!bait.was_taken());
        let other = Bait::lay(false).target.abstract_name;
        sender.send_to(other.as_bytes(), to).unwrap();
        assert!(!bait.was_taken());
        sender.send_to(b"x", to).unwrap();
        sender.send_to(bait.target.abstract_name.as_bytes(), to).unwrap();
        assert!(
            bait.was_taken(),
            "the control: the attacker's own, behind another's"
        );
    }
}
