//! Functions as callers: HTTP through their bindings. What a function sends is screened as what strangers send, and read by the same
//! server; then it goes to a sibling on the path of every request (`request`), or to a server outside (`call`). Never decides where a
//! binding leads: that is told by who opens an [`Outlet`].
//!
//! ```text
//! function ─ 127.0.0.1:19001 in its network ─ connection ─┬─ request::handle ─ admission ─ lease ─ … a sibling
//!                                                         └─ call ─ breaker ─ pool | dial ─ forward ─ answer … a server
//! ```

mod answer;
mod call;
mod caller;
mod forward;
mod head;
mod outlet;
mod upgrade;

use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;

pub(super) use answer::Download;
pub(super) use call::handle;
pub(super) use caller::Caller;
pub(super) use outlet::InFlight;
pub use outlet::{Dial, Dialing, NoWire, Outlet};

use super::connection;
use super::worker::{LINGER, Shared, Worker};

/// Serves the HTTP bindings of one thread.
#[derive(Clone)]
pub struct Inside(Rc<Worker>);

impl Inside {
    /// Within a runtime that runs local tasks. It ends with that.
    pub fn new(shared: Arc<Shared>) -> Inside {
        let worker = Worker::new(shared);
        let ledgers = worker.shared.ledgers();
        tokio::task::spawn_local(Rc::clone(&worker).sweep());
        tokio::task::spawn_local(Rc::clone(&worker).tell(ledgers.join()));
        Inside(worker)
    }

    /// Another supervisor takes the calls of this binding: those that are here are finished, and who has just connected may still make
    /// one.
    pub async fn wind_down(&self, outlet: &Outlet) {
        self.0.say_that_it_ends();
        tokio::time::sleep(LINGER).await;
        outlet.end_what_is_idle();
    }

    /// Serves one connection of the function's to its end.
    pub async fn serve(&self, stream: TcpStream, outlet: Rc<Outlet>) {
        let function = IpAddr::V4(Ipv4Addr::LOCALHOST);
        connection::serve(self.0.count_inside(), stream, function, Some(outlet)).await;
    }
}

impl std::fmt::Debug for Inside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inside")
    }
}
