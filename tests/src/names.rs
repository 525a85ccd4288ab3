//! A name server of a few names (RFC 1035), on a loopback address: for what looks names up. Knows IPv4 addresses alone.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A name server, until it is dropped.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    names: HashMap<String, (Vec<Ipv4Addr>, u32)>,
    asked: HashMap<String, usize>,
    is_silent: bool,
    is_over: bool,
}

impl NameServer {
    /// One that knows no name yet.
    ///
    /// # Panics
    /// When there is no free port.
    pub fn start() -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        let address = socket.local_addr().expect("it is bound");
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("it is a time");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            loop {
                let received = socket.recv_from(&mut buffer);
                let mut state = shared.lock().expect("nobody panics with it");
                if state.is_over {
                    return;
                }
                if let Ok((length, from)) = received
                    && let Some(answer) = state.answer(&buffer[..length])
                {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        NameServer { address, state }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// From now on a name has these addresses, and that holds for so many seconds.
    pub fn set(&self, name: &str, addresses: &[&str], seconds: u32) {
        let addresses = addresses
            .iter()
            .map(|ip| ip.parse().expect("tests give addresses"));
        self.state()
            .names
            .insert(name.to_owned(), (addresses.collect(), seconds));
    }

    /// It says nothing any more, or answers again.
    pub fn be_silent(&self, is_silent: bool) {
        self.state().is_silent = is_silent;
    }

    /// How often it was asked for the addresses of a name.
    pub fn asked(&self, name: &str) -> usize {
        self.state().asked.get(name).copied().unwrap_or_default()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.state().is_over = true;
    }
}

impl State {
    fn answer(&mut self, query: &[u8]) -> Option<Vec<u8>> {
        const A: &[u8] = &[0, 1, 0, 1];
        let (mut at, mut labels) = (12, Vec::new());
        while let length @ 1.. = usize::from(*query.get(at)?) {
            labels.push(String::from_utf8_lossy(query.get(at + 1..=at + length)?).to_ascii_lowercase());
            at += length + 1;
        }
        let name = labels.join(".");
        let kind = query.get(at + 1..at + 5)?;
        if kind == A {
            *self.asked.entry(name.clone()).or_default() += 1;
        }
        if self.is_silent {
            return None;
        }
        let known = self.names.get(&name);
        let addresses = known.map_or(&[][..], |(addresses, _)| addresses);
        let addresses = if kind == A { addresses } else { &[] };
        // A response, recursion desired and available; 3: there is no such name.
        let code = if known.is_some() { 0 } else { 3 };
        let mut answer = [
            &query[..2],
            &[0x81, 0x80 | code, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0],
        ]
        .concat();
        answer.extend_from_slice(query.get(12..at + 5)?);
        for address in addresses {
            // The name is the one at offset 12.
            answer.extend_from_slice(&[0xc0, 12]);
            answer.extend_from_slice(A);
            answer.extend_from_slice(&known.map_or(0, |(_, seconds)| *seconds).to_be_bytes());
            answer.extend_from_slice(&[0, 4]);
            answer.extend_from_slice(&address.octets());
        }
        Some(answer)
    }
}
