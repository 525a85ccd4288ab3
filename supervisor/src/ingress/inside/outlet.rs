//! One HTTP binding of one instance: how to get to its target, the connections to it, how many calls are in flight.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderValue};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::super::body::Upload;
use super::super::respond::{Kind, Problem};
use super::super::worker::Seldom;
use crate::catalog::binding::{Binding, Endpoint, Target};
use crate::catalog::manifest::{RequestBounds, Retry};
use crate::egress::bound::Bound;
use crate::egress::http::pool::{Pool, Wire};
use crate::egress::live::Live;
use crate::function::instance::Instance;
use crate::function::serving::{Origin, Parent};

/// Of calls that fail, so many a second are written to the log.
const FAILURES: u32 = 5;

/// Why there is no connection to a target.
#[derive(Debug, thiserror::Error)]
pub enum NoWire {
    /// Nobody listens there, or nobody is there.
    #[error("{0}")]
    Refused(String),
    /// Its name means nothing.
    #[error("{0}")]
    Name(String),
    /// No binding may lead there.
    #[error("{0}")]
    Forbidden(String),
    /// It takes too long.
    #[error("{0}")]
    TooLate(String),
    /// It does not speak TLS, or is not who it should be.
    #[error("{0}")]
    Tls(String),
    /// This host can't connect.
    #[error("{0}")]
    Host(String),
}

/// A connection that is being made.
pub type Dialing = Pin<Box<dyn Future<Output = Result<Box<dyn Wire>, NoWire>>>>;
/// Makes a connection to the target, until then. The one place where it is decided who that is.
pub type Dial = Box<dyn Fn(Instant) -> Dialing>;

/// One HTTP binding of one instance, as its connections share it.
pub struct Outlet {
    pub(crate) bound: Arc<Bound>,
    pub(crate) binding: Binding,
    pub(crate) instance: Arc<Instance>,
    pub(super) dial: Dial,
    /// What the target is called.
    pub(super) host: HeaderValue,
    /// The path before that of every request.
    pub(super) base: String,
    pub(super) pool: RefCell<Pool<Upload>>,
    pub(super) failures: Seldom,
    in_flight: Cell<u32>,
    /// Its connections carry no more calls than they do now.
    is_draining: Cell<bool>,
    drain: Notify,
    /// Connections that were handed over to another protocol.
    tunnels: RefCell<JoinSet<()>>,
}

impl Outlet {
    /// For calls of an instance. `dial` is asked for connections; never where the target is a function.
    pub fn new(bound: Arc<Bound>, binding: Binding, instance: Arc<Instance>, dial: Dial) -> Rc<Outlet> {
        let (host, base) = match &binding.to {
            Target::Http { endpoint, base } => (host(endpoint), base.clone()),
            Target::Tcp(endpoint) => (host(endpoint), String::new()),
            Target::Function(_) => (HeaderValue::from_static("localhost"), String::new()),
        };
        Rc::new(Outlet {
            pool: RefCell::new(Pool::new(binding.concurrency as usize)),
            failures: Seldom::of(FAILURES),
            in_flight: Cell::new(0),
            is_draining: Cell::new(false),
            drain: Notify::new(),
            tunnels: RefCell::default(),
            bound,
            binding,
            instance,
            dial,
            host,
            base,
        })
    }

    /// Runs a tunnel until [`Outlet::end`].
    pub(super) fn tunnel(&self, tunnel: impl Future<Output = ()> + 'static) {
        let mut tunnels = self.tunnels.borrow_mut();
        while tunnels.try_join_next().is_some() {}
        let live = Live::begin();
        tunnels.spawn_local(async move {
            tunnel.await;
            drop(live);
        });
    }

    /// Waits until there is no tunnel.
    pub async fn tunnels_ended(&self) {
        while poll_fn(|cx| self.tunnels.borrow_mut().poll_join_next(cx))
            .await
            .is_some()
        {}
    }

    /// Closes connections that carry no call, and the others after those that they carry.
    pub(super) fn end_what_is_idle(&self) {
        self.is_draining.set(true);
        self.drain.notify_waiters();
    }

    /// Whether connections carry no more calls than they do now.
    pub(in crate::ingress) fn is_draining(&self) -> bool {
        self.is_draining.get()
    }

    /// Resolves when [`Outlet::is_draining`] begins.
    pub(in crate::ingress) fn draining(&self) -> impl Future<Output = ()> {
        self.drain.notified()
    }

    /// The instance has ended: so do its tunnels, whatever the other ends say.
    pub fn end(&self) {
        self.tunnels.borrow_mut().abort_all();
    }

    /// A place for one call.
    pub(in crate::ingress) fn enter(self: &Rc<Self>) -> Result<InFlight, Problem> {
        let count = self.in_flight.get();
        if count >= self.binding.concurrency {
            let detail = format!(
                "{count} calls of this instance through the binding {} are in flight: as many as its `concurrency` allows",
                self.binding.name
            );
            return Err(Problem::new(Kind::BindingFull, detail));
        }
        self.in_flight.set(count + 1);
        Ok(InFlight(Rc::clone(self)))
    }

    /// What a call with this head is a part of.
    pub(super) fn origin(&self, headers: &HeaderMap) -> Origin {
        let alone = self.instance.revision.manifest.scale.concurrency == 1;
        self.instance.serving.origin(headers, alone)
    }

    /// What a call may take and matters at most, given the request that it is made for.
    pub(super) fn bounds(&self, parent: Option<&Parent>) -> RequestBounds {
        let own = &self.instance.revision.manifest.request;
        RequestBounds {
            timeout: self.binding.timeout,
            priority: parent.map_or(own.priority, |parent| parent.class),
            retry: self.binding.retry,
            ..own.clone()
        }
    }

    /// An answer that takes longer says that the target is in trouble, though it comes.
    pub(super) fn slow(&self) -> Duration {
        self.binding.timeout / 2
    }

    /// Whether it leads to another function of this host.
    pub(crate) fn is_to_sibling(&self) -> bool {
        matches!(self.binding.to, Target::Function(_))
    }

    /// Whether nothing is sent again.
    pub(super) fn is_once(&self) -> bool {
        self.binding.retry == Retry::Never
    }

    /// Closes connections that nobody used for a while.
    pub fn sweep(&self, now: Instant) {
        // Taken out first: closing a connection must not find the pool borrowed.
        let stale = self.pool.borrow_mut().take_stale(now);
        drop(stale);
    }
}

impl std::fmt::Debug for Outlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Outlet").field(&self.binding).finish()
    }
}

/// One call's place among those of its instance.
#[derive(Debug)]
pub(crate) struct InFlight(pub(crate) Rc<Outlet>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

/// `Host` as callers write it: without the port that goes without saying.
fn host(endpoint: &Endpoint) -> HeaderValue {
    let usual = if endpoint.tls { 443 } else { 80 };
    let text = match endpoint.port {
        port if port == usual => endpoint.host.to_string(),
        _ => endpoint.to_string(),
    };
    HeaderValue::try_from(text).expect("names and addresses of a checked manifest are visible ASCII")
}

#[cfg(test)]
mod tests {
    use funcd_sandbox::spec::InstanceId;

    use super::*;
    use crate::catalog::binding::Host;

    use crate::function::instance::Address;
    use crate::name::FunctionName;

    #[test]
    fn hosts_as_callers_write_them() {
        for (name, port, tls, said) in [
            ("users.internal", 80, false, "users.internal"),
            ("users.internal", 443, true, "users.internal"),
            ("users.internal", 443, false, "users.internal:443"),
            ("users.internal", 8080, false, "users.internal:8080"),
        ] {
            let host = Host::Name(name.to_owned());
            assert_eq!(self::host(&Endpoint { host, port, tls }), said);
        }
        let host = Host::Address("2001:db8::1".parse().unwrap());
        let six = Endpoint {
            host,
            port: 8443,
            tls: true,
        };
        assert_eq!(self::host(&six), "[2001:db8::1]:8443");
    }

    #[tokio::test(flavor = "local")]
    async fn a_tunnel_ends_with_its_instance_whatever_the_other_end_says() {
        let to = Target::Http {
            endpoint: Endpoint {
                host: Host::Name("a.test".to_owned()),
                port: 80,
                tls: false,
            },
            base: String::new(),
        };
        let revision = crate::ingress::tests::revision(0, crate::ingress::tests::manifest());
        let address = Address::Unix("/nowhere".into());
        let instance = Arc::new(Instance::new(InstanceId(1), revision, address));
        let function = FunctionName::parse("hello").unwrap();
        let binding = Binding {
            name: "chat".to_owned(),
            port: 1,
            to: to.clone(),
            timeout: Duration::from_secs(5),
            concurrency: 1,
            retry: Retry::Never,
        };
        let nowhere: Dial = Box::new(|_| Box::pin(async { Err(NoWire::Host("no".to_owned())) }));
        let bound = Bound::new(&function, "chat", &to);
        let outlet = Outlet::new(bound, binding, instance, nowhere);
        let place = outlet.enter().unwrap();
        outlet.tunnel(async move {
            let _place = place;
            // The target never closes its end.
            std::future::pending().await
        });
        for _ in 0..9 {
            tokio::task::yield_now().await;
        }
        assert!(outlet.enter().is_err(), "it holds the only place");
        assert_eq!(Rc::strong_count(&outlet), 2);
        outlet.end();
        while outlet.enter().is_err() {
            tokio::task::yield_now().await;
        }
        assert_eq!(Rc::strong_count(&outlet), 1, "nothing keeps the instance");
    }
}
