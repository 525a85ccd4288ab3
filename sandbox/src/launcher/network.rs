//! Network namespaces for instances: one empty one that all share, or one each, made ahead because making one takes
//! longer than the rest of a start.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use crate::namespace::{self, Loopback};
use crate::probe::Plan;
use crate::spec::Spec;

/// Namespaces that are ready.
#[derive(Debug, Default)]
pub(super) struct Networks {
    shared: Option<Rc<OwnedFd>>,
    with_port: Option<OwnedFd>,
    /// Only where sharing is not safe.
    alone: Option<OwnedFd>,
    /// Whether the last start wanted a namespace with a port: a host without such functions needs none in reserve.
    wants_port: bool,
    wants_alone: bool,
}

/// What an instance joins.
#[derive(Debug, Clone)]
pub(super) struct Network(Rc<OwnedFd>);

impl Network {
    /// One that the launcher before had.
    pub(super) fn again(namespace: Rc<OwnedFd>) -> Network {
        Network(namespace)
    }

    /// To join.
    pub(super) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// To make sockets in.
    pub(super) fn namespace(&self) -> &OwnedFd {
        &self.0
    }
}

impl Networks {
    /// The namespace for an instance; `None` where the plan has none.
    ///
    /// # Errors
    /// Those of unshare(2).
    pub(super) fn take(&mut self, plan: &Plan, spec: &Spec) -> io::Result<Option<Network>> {
        if !plan.network {
            return Ok(None);
        }
        let namespace = if spec.has_own_network() {
            self.wants_port = true;
            Rc::new(
                self.with_port
                    .take()
                    .map_or_else(|| namespace::network(Loopback::Up), Ok)?,
            )
        } else if plan.shared_network {
            match &self.shared {
                Some(shared) => Rc::clone(shared),
                None => {
                    let made = Rc::new(namespace::network(Loopback::Down)?);
                    self.shared = Some(Rc::clone(&made));
                    made
                }
            }
        } else {
            self.wants_alone = true;
            Rc::new(
                self.alone
                    .take()
                    .map_or_else(|| namespace::network(Loopback::Down), Ok)?,
            )
        };
        Ok(Some(Network(namespace)))
    }

    /// Makes what the next start will want before it is there.
    ///
    /// # Errors
    /// Those of unshare(2).
    pub(super) fn prepare(&mut self, plan: &Plan) -> io::Result<()> {
        if !plan.network {
            return Ok(());
        }
        if plan.shared_network && self.shared.is_none() {
            self.shared = Some(Rc::new(namespace::network(Loopback::Down)?));
        }
        self.wants_port = true;
        self.wants_alone = !plan.shared_network;
        while self.is_low() {
            self.refill()?;
        }
        Ok(())
    }

    /// Whether [`Networks::refill`] has something to do.
    pub(super) fn is_low(&self) -> bool {
        (self.wants_port && self.with_port.is_none()) || (self.wants_alone && self.alone.is_none())
    }

    /// Makes one.
    ///
    /// # Errors
    /// Those of unshare(2); the next start tries again and tells.
    pub(super) fn refill(&mut self) -> io::Result<()> {
        if self.wants_port && self.with_port.is_none() {
            self.wants_port = false;
            self.with_port = Some(namespace::network(Loopback::Up)?);
        } else if self.wants_alone && self.alone.is_none() {
            self.wants_alone = false;
            self.alone = Some(namespace::network(Loopback::Down)?);
        }
        Ok(())
    }
}

/// Sockets of the host's own network, for functions that run without a namespace because the operator accepts that.
///
/// # Errors
/// Those of socket(2).
pub(super) fn host_sockets(count: usize) -> io::Result<Vec<OwnedFd>> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    (0..count)
        .map(|_| Ok(socket(AddressFamily::Inet, SockType::Stream, flags, None)?))
        .collect()
}
