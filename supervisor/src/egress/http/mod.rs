//! HTTP bindings: what is learnt of a target, connections to it, and which path of it is meant. How a call gets in, and is
//! answered, is in [`crate::ingress::inside`].

mod counted;
pub mod guard;
pub mod path;
pub mod pool;

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::accept::NO_PLACE;
use super::bound::Bound;
use super::dial::DialError;
use super::{Exit, Taking, accept};
use crate::catalog::binding::{Endpoint, Target};
use crate::function::instance::Instance;
use crate::ingress::inside::{Dial, Inside, NoWire, Outlet};
use counted::Counted;
use pool::Wire;

/// How often idle connections are looked through.
const SWEEP: Duration = Duration::from_secs(5);

/// An instance's way through a binding. Here, and nowhere else, it is decided where that leads: so here a test puts something else.
pub(super) fn outlet(exit: &Rc<Exit>, bound: Arc<Bound>, instance: &Arc<Instance>) -> Rc<Outlet> {
    let dial = match &exit.binding.to {
        Target::Http { endpoint, .. } | Target::Tcp(endpoint) => dial(exit, endpoint),
        Target::Function(_) => nowhere(),
    };
    Outlet::new(bound, exit.binding.clone(), Arc::clone(instance), dial)
}

/// Ends what is left of a binding when it is no longer served.
struct Served(Rc<Outlet>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Serves the binding for as long as it is polled.
pub(super) async fn serve(exit: Rc<Exit>, outlet: Rc<Outlet>, inside: Inside, listener: TcpListener) {
    // Idle ones are kept by the function beside those that carry a call.
    let places = exit.binding.concurrency.saturating_mul(2).saturating_add(16);
    let _served = Served(Rc::clone(&outlet));
    let connection = |stream, place| {
        let (outlet, inside) = (Rc::clone(&outlet), inside.clone());
        async move {
            inside.serve(stream, outlet).await;
            drop(place);
        }
    };
    let sweep = async {
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            ticks.tick().await;
            outlet.sweep(Instant::now());
        }
    };
    let mut taking = exit.taking.clone();
    let last_calls = async {
        if taking.wait_for(|taking| *taking == Taking::None).await.is_ok() {
            inside.wind_down(&outlet).await;
        }
        std::future::pending().await
    };
    let all = async {
        accept::each(&exit, listener, places, connection).await;
        outlet.tunnels_ended().await;
    };
    tokio::select! {
        () = all => {}
        () = sweep => {}
        () = last_calls => {}
    }
}

/// Connects to a place outside.
fn dial(exit: &Rc<Exit>, to: &Endpoint) -> Dial {
    let (exit, to) = (Rc::clone(exit), to.clone());
    Box::new(move |until| {
        let (exit, to) = (Rc::clone(&exit), to.clone());
        Box::pin(async move {
            // Not only at the function's end: with HTTP/2 one connection there has many here, and idle ones outlive it.
            let Some(place) = exit.outside.place(&exit.share) else {
                exit.metrics.failed("descriptors");
                return Err(NoWire::Host(NO_PLACE.to_owned()));
            };
            match exit.outside.connect(&to, until).await {
                Ok(stream) => {
                    exit.metrics.dialled();
                    let counted = Counted {
                        stream,
                        _place: place,
                    };
                    Ok(Box::new(counted) as Box<dyn Wire>)
                }
                Err(error) => {
                    exit.metrics.failed(error.slug());
                    Err(no_wire(&error))
                }
            }
        })
    })
}

/// A sibling is reached without a connection.
fn nowhere() -> Dial {
    Box::new(|_| Box::pin(async { Err(NoWire::Host("a function is not connected to".to_owned())) }))
}

fn no_wire(error: &DialError) -> NoWire {
    let text = error.to_string();
    match error {
        DialError::Name { .. } => NoWire::Name(text),
        DialError::Forbidden { .. } => NoWire::Forbidden(text),
        DialError::Tls { .. } => NoWire::Tls(text),
        DialError::TimedOut { .. } => NoWire::TooLate(text),
        // Out of descriptors or memory: a fault of the host, which the operator must see as such.
        DialError::Connect { source, .. } if matches!(source.raw_os_error(), Some(12 | 23 | 24)) => {
            NoWire::Host(text)
        }
        DialError::Connect { .. } => NoWire::Refused(text),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener as Listener;

    use super::super::tests::{exit, exit_of};
    use super::*;
    use crate::catalog::binding::Host;

    fn of(target: &Listener) -> Endpoint {
        let address = target.local_addr().unwrap();
        Endpoint {
            host: Host::Address(address.ip()),
            port: address.port(),
            tls: false,
        }
    }

    #[tokio::test(flavor = "local")]
    async fn connections_to_targets_are_among_those_that_all_bindings_may_have() {
        let target = Listener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = of(&target);
        let dial = dial(&exit(&endpoint, 9, 1), &endpoint);
        let until = || Instant::now() + Duration::from_secs(20);
        let first = dial(until()).await.unwrap();
        let Err(NoWire::Host(why)) = dial(until()).await else {
            panic!("one more than there are places for");
        };
        assert!(why.contains("descriptors"), "{why}");
        drop(first);
        assert!(dial(until()).await.is_ok());
    }

    #[tokio::test(flavor = "local")]
    async fn no_function_takes_the_places_of_all_others() {
        let target = Listener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = of(&target);
        let greedy = exit(&endpoint, 9, 4);
        let outside = Rc::clone(&greedy.outside);
        // Another instance of it has the same share.
        let again = exit_of("hello", &endpoint, 9, Rc::clone(&outside));
        let other = exit_of("other", &endpoint, 9, outside);
        let [greedy, again, other] = [greedy, again, other].map(|exit| dial(&exit, &endpoint));
        let until = || Instant::now() + Duration::from_secs(20);
        let _kept = (greedy(until()).await.unwrap(), again(until()).await.unwrap());
        assert!(greedy(until()).await.is_err() && again(until()).await.is_err());
        assert!(other(until()).await.is_ok());
    }
}
