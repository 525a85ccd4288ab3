//! What a new supervisor is handed by the launcher, read before it has a thread or a runtime.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use funcd_sandbox::probe::Grade;
use funcd_sandbox::wire::{self, Descriptor, Event};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::function::control::Inherited;

/// What `serve` gives its launcher to hand to each supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The host's configuration.
    pub config: Config,
    /// Whether the launcher is root.
    pub root: bool,
}

/// Everything that a supervisor starts with.
#[derive(Debug)]
pub struct Handover {
    /// What `serve` was told.
    pub settings: Settings,
    /// 0 for the first supervisor of a launcher.
    pub generation: u32,
    /// The smallest free instance id.
    pub next_id: u64,
    /// Whether the launcher can prepare instances ahead.
    pub can_stand_by: bool,
    /// Whether no other supervisor serves.
    pub alone: bool,
    /// Whether instances can be frozen on this host.
    pub can_freeze: bool,
    /// How each property stands.
    pub grades: Vec<Grade>,
    /// The listening sockets for callers.
    pub listeners: Vec<OwnedFd>,
    /// The listening Unix socket of the admin API.
    pub admin: OwnedFd,
    /// The listening TCP socket of metrics and health.
    pub admin_tcp: Option<OwnedFd>,
    /// The functions folder.
    pub functions: OwnedFd,
    /// The folder of the instances' sockets.
    pub sockets: OwnedFd,
    /// The folder of the functions' logs.
    pub logs: OwnedFd,
    /// What earlier supervisors left running.
    pub inventory: Vec<Inherited>,
}

/// Reads the handover.
///
/// # Errors
/// When the launcher goes away, or says something else.
pub fn receive(socket: &OwnedFd) -> io::Result<Handover> {
    let mut buffer = Box::new([0; wire::MAX_MESSAGE]);
    let mut next = || next_event(socket, &mut buffer);
    let (Event::Welcome(welcome), _) = next()? else {
        return Err(unexpected("the handover"));
    };
    if welcome.version != wire::VERSION {
        let text = format!(
            "the launcher speaks version {} of the messages and this supervisor {}: restart funcd",
            welcome.version,
            wire::VERSION
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let settings: Settings = serde_json::from_slice(&welcome.config).map_err(|e| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the configuration handed over: {e}"),
        )
    })?;

    let mut fds = Vec::new();
    while fds.len() < welcome.descriptors.len() {
        let (Event::Descriptors, more) = next()? else {
            return Err(unexpected("descriptors"));
        };
        fds.extend(more);
    }
    let mut listeners = Vec::new();
    let mut admin_tcp = None;
    let (mut admin, mut functions, mut sockets, mut logs) = (None, None, None, None);
    for (kind, fd) in welcome.descriptors.iter().zip(fds) {
        match kind {
            Descriptor::Listener => listeners.push(fd),
            Descriptor::AdminTcp => admin_tcp = Some(fd),
            Descriptor::Admin => admin = Some(fd),
            Descriptor::Functions => functions = Some(fd),
            Descriptor::Sockets => sockets = Some(fd),
            Descriptor::Logs => logs = Some(fd),
        }
    }

    let mut inventory = Vec::new();
    loop {
        match next()? {
            (Event::InventoryEnd, _) => break,
            (
                Event::Inventory {
                    id,
                    pid,
                    terminating,
                    frozen,
                    memo,
                },
                fds,
            ) => {
                let mut fds = fds.into_iter();
                let (Some(stdout), Some(stderr)) = (fds.next(), fds.next()) else {
                    return Err(unexpected("the pipes of an instance"));
                };
                inventory.push(Inherited {
                    id,
                    pid,
                    terminating,
                    frozen,
                    memo,
                    stdout,
                    stderr,
                    ports: fds.collect(),
                });
            }
            _ => return Err(unexpected("the inventory")),
        }
    }
    let missing = |what: &str| unexpected(what);
    Ok(Handover {
        settings,
        generation: welcome.generation,
        next_id: welcome.next_id.0,
        can_stand_by: welcome.can_stand_by,
        alone: welcome.alone,
        can_freeze: welcome.can_freeze,
        grades: welcome.grades,
        listeners,
        admin: admin.ok_or_else(|| missing("the admin socket"))?,
        admin_tcp,
        functions: functions.ok_or_else(|| missing("the functions folder"))?,
        sockets: sockets.ok_or_else(|| missing("the sockets folder"))?,
        logs: logs.ok_or_else(|| missing("the logs folder"))?,
        inventory,
    })
}

fn next_event(socket: &OwnedFd, buffer: &mut [u8; wire::MAX_MESSAGE]) -> io::Result<(Event, Vec<OwnedFd>)> {
    loop {
        match wire::recv(socket.as_fd(), buffer) {
            Ok(Some(message)) => return Ok(message),
            Ok(None) => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the launcher has closed its end",
                ));
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                match poll(
                    &mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)],
                    PollTimeout::NONE,
                ) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            Err(e) => return Err(e),
        }
    }
}

fn unexpected(what: &str) -> io::Error {
    let text =
        format!("expected {what} from the launcher; supervisor and launcher may be of different versions");
    io::Error::new(io::ErrorKind::InvalidData, text)
}
