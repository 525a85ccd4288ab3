//! Callers that ask all the time, to see whether anything that an operator does is noticed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crate::http::{Connection, Request, Response};
use crate::until;

/// Callers at work. Stops when dropped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    callers: Vec<JoinHandle<Tally>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicUsize,
}

/// What the callers saw.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests with an answer of 200.
    pub answered: usize,
    /// Everything else, the first twenty of each caller.
    pub failures: Vec<String>,
    /// The bodies that came, each once.
    pub bodies: BTreeSet<String>,
}

fn ask(
    connection: &mut Option<Connection>,
    address: SocketAddr,
    request: &Request,
) -> std::io::Result<Response> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::tcp(address)?,
    };
    let response = open.ask(request)?;
    if response
        .header("connection")
        .is_none_or(|value| !value.eq_ignore_ascii_case("close"))
    {
        *connection = Some(open);
    }
    Ok(response)
}

fn call(shared: &Shared, address: SocketAddr, request: &Request) -> Tally {
    let mut tally = Tally::default();
    let mut connection = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let failure = match ask(&mut connection, address, request) {
            Ok(response) if response.status() == 200 => {
                tally.answered += 1;
                shared.answered.fetch_add(1, Ordering::Relaxed);
                tally.bodies.insert(response.text());
                continue;
            }
            Ok(response) => format!("{} {}", response.status(), response.text()),
            Err(error) => error.to_string(),
        };
        if tally.failures.len() < 20 {
            tally.failures.push(failure);
        }
    }
    tally
}

impl Load {
    /// As many callers of one target, each on its own connection, one request after the other.
    pub fn start(address: SocketAddr, target: &str, callers: usize) -> Load {
        Load::of(address, &Request::get(target), callers)
    }

    /// The same with a POST, which nobody may send twice.
    pub fn posts(address: SocketAddr, target: &str, callers: usize) -> Load {
        Load::of(address, &Request::post(target, "a body"), callers)
    }

    fn of(address: SocketAddr, request: &Request, callers: usize) -> Load {
        let shared = Arc::new(Shared::default());
        let caller = |_| {
            let (shared, request) = (Arc::clone(&shared), request.clone());
            std::thread::spawn(move || call(&shared, address, &request))
        };
        let callers = (0..callers).map(caller).collect();
        Load { shared, callers }
    }

    /// Waits until that many more requests were answered.
    #[track_caller]
    pub fn wait_for_more(&self, requests: usize) {
        let until_then = self.shared.answered.load(Ordering::Relaxed) + requests;
        until("more requests to be answered", || {
            self.shared.answered.load(Ordering::Relaxed) >= until_then
        });
    }

    /// Ends the load; what the callers saw.
    ///
    /// # Panics
    /// When a caller did.
    pub fn stop(mut self) -> Tally {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for caller in self.callers.drain(..) {
            let tally = caller.join().expect("callers don't panic");
            all.answered += tally.answered;
            all.failures.extend(tally.failures);
            all.bodies.extend(tally.bodies);
        }
        all
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}
