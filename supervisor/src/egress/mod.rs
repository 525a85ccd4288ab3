//! THE WAY OUT: bindings. What a function may reach are sockets that the launcher opened on 127.0.0.1 of its own network
//! namespace; here they are accepted on and forwarded, each to the one place that the manifest names. Never decides what may be
//! reached by what a function says: nothing that it sends is looked at to find out where it goes.
//!
//! ```text
//! function ─ 127.0.0.1:19001 in its network ─ accept → look up → may it? → connect (→ TLS) ─ bytes both ways ─ the bound place
//! ```
//!
//! The work is done on threads of its own (`exits-0`…), as many as workers at most, which a host without bindings never makes: a
//! worker that carries the bytes of one function's database would keep the requests of others waiting. Each thread has its own
//! names, addresses and TLS sessions, so that nothing is locked.

mod accept;
pub mod bound;
mod dial;
pub mod http;
pub mod live;
mod metrics;
mod names;
mod policy;
pub(crate) mod pump;
mod resolve;
mod tcp;
mod threads;
mod tls;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use funcd_sandbox::spec::InstanceId;
use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::catalog::binding::{Binding, Target};
use crate::config::EgressSettings;
use crate::function::instance::Instance;
use crate::ingress::inside::Inside;
use crate::name::FunctionName;
use bound::Bound;
use dial::Outside;
use metrics::Metrics;
pub use policy::Allowed;
pub use threads::Egress;

/// What all bindings of a host have in common.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// What may be reached beside what may always be.
    pub allow: Vec<Allowed>,
    /// Who is asked for names instead of those that the system names.
    pub nameservers: Vec<SocketAddr>,
    /// Files of certificates that are believed beside the system's.
    pub roots: Vec<PathBuf>,
    /// Connections that all bindings together may have open, over all threads.
    pub connections: usize,
}

impl Settings {
    /// From the host's configuration.
    ///
    /// # Errors
    /// What is wrong with `allow`.
    pub fn new(config: &EgressSettings) -> Result<Settings, String> {
        let allow = config.allow.iter().map(|text| Allowed::parse(text));
        Ok(Settings {
            allow: allow.collect::<Result<_, _>>()?,
            nameservers: config.nameservers.clone(),
            roots: config.roots.clone(),
            connections: room(),
        })
    }
}

/// As many as need a quarter of the descriptors that this process may have: the rest is for callers, and for functions.
fn room() -> usize {
    /// One in the function's network, and one outside.
    const EACH: u64 = 2;
    let (most, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(most / 4 / EACH)
        .unwrap_or(usize::MAX)
        .clamp(1, 1 << 20)
}

/// The files and folders that the supervisor must be able to read for bindings, whether they are there or not.
pub fn files(config: &EgressSettings) -> impl Iterator<Item = PathBuf> {
    names::files().into_iter().chain(tls::files(&config.roots))
}

/// Whose bindings.
#[derive(Debug, Clone)]
pub struct Whose {
    /// The function.
    pub function: FunctionName,
    /// The instance whose network they are in, and whose manifest names them.
    pub instance: Arc<Instance>,
}

/// The bindings of an instance, as others hold them: all connections end when this is dropped.
#[derive(Debug)]
pub struct Exits {
    /// Dropped with this, which those at the other end see.
    taking: watch::Sender<Taking>,
}

/// Whether connections are taken, and who is about to end waits for more of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    /// They are.
    All,
    /// They are, but for those that are there nobody waits for more: no other supervisor has this instance.
    Last,
    /// No more; those that are there go on. Another supervisor has the same sockets.
    None,
}

impl Exits {
    /// Whether connections are taken from now on.
    pub fn take(&self, taking: Taking) {
        self.taking.send_replace(taking);
    }
}

/// One binding of one instance, as its tasks share it.
#[derive(Debug)]
struct Exit {
    function: FunctionName,
    instance: InstanceId,
    binding: Binding,
    outside: Rc<Outside>,
    taking: watch::Receiver<Taking>,
    /// Of the places outside, those that the function may take.
    share: Arc<Semaphore>,
    metrics: Metrics,
}

impl Exit {
    /// Tells the log of trouble, once in a while: a function may try again and again.
    fn complain(&self, error: &dyn std::fmt::Display) {
        if self.outside.may_complain(&self.function, &self.binding.name) {
            tracing::warn!(function = %self.function, instance = %self.instance, binding = self.binding.name, %error, "a binding can't connect");
        }
    }
}

/// The bindings of one instance on their way to their thread.
#[derive(Debug)]
struct Seed {
    whose: Whose,
    listeners: Vec<OwnedFd>,
    /// What is known of those that carry HTTP, in the order of the bindings.
    bounds: Vec<Option<Arc<Bound>>>,
    taking: watch::Receiver<Taking>,
}

impl Seed {
    /// Serves them until the instance has ended.
    async fn serve(mut self, outside: Rc<Outside>, inside: Inside) {
        let mut tasks = JoinSet::new();
        // The launcher made the listeners in the order of the bindings.
        let bindings = &self.whose.instance.revision.manifest.bindings;
        let all = bindings.iter().zip(self.bounds).zip(self.listeners);
        for ((binding, bound), listener) in all {
            let exit = Rc::new(Exit {
                function: self.whose.function.clone(),
                instance: self.whose.instance.id,
                binding: binding.clone(),
                share: outside.share(&self.whose.function),
                outside: Rc::clone(&outside),
                taking: self.taking.clone(),
                metrics: Metrics::new(&self.whose.function, &binding.name),
            });
            match (&binding.to, bound) {
                (Target::Tcp(endpoint), _) => {
                    tasks.spawn_local(tcp::serve(Rc::clone(&exit), endpoint.clone(), listener.into()))
                }
                (Target::Http { .. } | Target::Function(_), Some(bound)) => {
                    let outlet = http::outlet(&exit, bound, &self.whose.instance);
                    tasks.spawn_local(http::serve(exit, outlet, inside.clone(), listener.into()))
                }
                (Target::Http { .. } | Target::Function(_), None) => continue,
            };
        }
        // Until the other end is dropped. With this all tasks are, and with them their connections.
        while self.taking.changed().await.is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::binding::Endpoint;
    use crate::catalog::manifest::Retry;

    /// A binding with so many places, on a host with so many, that may lead to 127.0.0.1.
    pub(super) fn exit(endpoint: &Endpoint, places: u32, everybody: usize) -> Rc<Exit> {
        let settings = Settings {
            allow: vec![Allowed::parse("127.0.0.1").unwrap()],
            connections: everybody,
            ..Settings::default()
        };
        exit_of("hello", endpoint, places, Rc::new(Outside::new(settings)))
    }

    /// One of this function, on the thread of others.
    pub(super) fn exit_of(
        function: &str,
        endpoint: &Endpoint,
        places: u32,
        outside: Rc<Outside>,
    ) -> Rc<Exit> {
        let function = FunctionName::parse(function).unwrap();
        Rc::new(Exit {
            share: outside.share(&function),
            metrics: Metrics::new(&function, "db"),
            function,
            instance: InstanceId(1),
            binding: Binding {
                name: "db".to_owned(),
                port: 1,
                to: Target::Tcp(endpoint.clone()),
                timeout: std::time::Duration::from_secs(20),
                concurrency: places,
                retry: Retry::Never,
            },
            outside,
            taking: watch::channel(Taking::All).1,
        })
    }
}
