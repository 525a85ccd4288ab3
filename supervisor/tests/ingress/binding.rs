//! What the tests of bindings stand on: a function's way out without a launcher, over loopback, to a target that a test plays.

use std::io::BufReader;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use funcd::admission::Class;
use funcd::catalog::binding::{Binding, Endpoint, Host as Place, Target};
use funcd::catalog::manifest::{Manifest, Retry};
use funcd::egress::bound::Bound;
use funcd::egress::http::pool::Wire;
use funcd::function::instance::{Address, Instance};
use funcd::function::serving::Parent;
use funcd::ingress::inside::{Dial, Inside, NoWire, Outlet};
use funcd::name::FunctionName;
use funcd_sandbox::spec::InstanceId;
use http::header::HeaderValue;

use crate::host::{Answer, Caller, Host, PATIENCE, Server, manifest};

/// A binding named `users` to `http://users.internal/base`, or to a sibling.
pub(crate) fn binding(to: Target) -> Binding {
    Binding {
        name: "users".to_owned(),
        port: 19_001,
        to,
        timeout: PATIENCE,
        concurrency: 64,
        retry: Retry::Safe,
    }
}

pub(crate) fn to_http(base: &str) -> Target {
    Target::Http {
        endpoint: Endpoint {
            host: Place::Name("users.internal".to_owned()),
            port: 80,
            tls: false,
        },
        base: base.to_owned(),
    }
}

pub(crate) fn to_function(name: &str) -> Target {
    Target::Function(FunctionName::parse(name).unwrap())
}

/// What a request leaves to the calls that are made for it.
pub(crate) fn parent(deadline: Instant, class: Class, hops: u8) -> Parent {
    Parent {
        id: Some(HeaderValue::from_static("outer")),
        traceparent: None,
        tracestate: None,
        deadline,
        class,
        hops,
    }
}

/// How a target is connected to, from any thread.
pub(crate) type Connect = Arc<dyn Fn() -> Result<PathBuf, NoWire> + Send + Sync>;

/// The function's side of a binding.
pub(crate) struct WayOut {
    pub(crate) address: SocketAddr,
    pub(crate) instance: Arc<Instance>,
    pub(crate) bound: Arc<Bound>,
    /// How often the target was connected to.
    pub(crate) dialled: Arc<AtomicUsize>,
}

impl WayOut {
    /// The binding of an instance of the function `caller` with this manifest.
    pub(crate) fn open(
        host: &mut Host,
        caller: &str,
        of: Manifest,
        binding: Binding,
        connect: Connect,
    ) -> WayOut {
        let mut of = of;
        of.bindings = vec![binding.clone()];
        let function = host.function(caller, of);
        let revision = Arc::clone(&function.live().revision);
        let instance = Arc::new(Instance::new(
            InstanceId(1000),
            revision,
            Address::Unix("/none".into()),
        ));
        let bound = Bound::new(&function.name, &binding.name, &binding.to);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let dialled = Arc::new(AtomicUsize::new(0));
        let way = WayOut {
            address,
            instance: Arc::clone(&instance),
            bound: Arc::clone(&bound),
            dialled: Arc::clone(&dialled),
        };
        let shared = host.shared();
        std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build_local(Default::default()).unwrap();
            runtime.block_on(async move {
                let inside = Inside::new(shared);
                let outlet = Outlet::new(bound, binding, instance, dial(connect, dialled));
                listener.set_nonblocking(true).unwrap();
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (inside, outlet) = (inside.clone(), Rc::clone(&outlet));
                    tokio::task::spawn_local(async move { inside.serve(stream, outlet).await });
                }
            });
        });
        way
    }

    /// A binding to a server below `/api`, which this plays.
    pub(crate) fn to(host: &mut Host, binding: Binding, answer: Answer) -> (WayOut, Arc<Server>) {
        let (_, server) = host.serve("target", manifest(), answer);
        let connect = connect_to(&server);
        (WayOut::open(host, "caller", manifest(), binding, connect), server)
    }

    pub(crate) fn caller(&self) -> Caller {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Caller(BufReader::new(stream))
    }

    /// Sends these bytes on a connection of their own and returns all that comes until it is closed.
    pub(crate) fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut caller = self.caller();
        caller.send(bytes);
        caller.rest()
    }

    /// A request without a body on a connection of its own, with more fields.
    pub(crate) fn ask(&self, line: &str, fields: &str) -> String {
        self.raw(format!(
            "{line} HTTP/1.1\r\nHost: 127.0.0.1:19001\r\nConnection: close\r\n{fields}\r\n"
        ))
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.bound.guard.view().in_flight
    }
}

/// Connects to an instance's server.
pub(crate) fn connect_to(server: &Server) -> Connect {
    let Address::Unix(path) = &server.instance.address else {
        unreachable!("the harness serves on Unix sockets")
    };
    let path = path.clone();
    Arc::new(move || Ok(path.clone()))
}

fn dial(connect: Connect, dialled: Arc<AtomicUsize>) -> Dial {
    Box::new(move |until| {
        dialled.fetch_add(1, Ordering::SeqCst);
        let place = connect();
        Box::pin(async move {
            match place {
                Ok(path) => {
                    let stream = tokio::net::UnixStream::connect(path).await;
                    let stream = stream.map_err(|error| NoWire::Refused(error.to_string()))?;
                    Ok(Box::new(stream) as Box<dyn Wire>)
                }
                Err(NoWire::TooLate(why)) => {
                    tokio::time::sleep_until(until.into()).await;
                    Err(NoWire::TooLate(why))
                }
                Err(error) => Err(error),
            }
        })
    })
}

/// So soon that a request that takes it hung.
pub(crate) const SOON: Duration = Duration::from_millis(100);
