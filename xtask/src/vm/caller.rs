//! What is done outside of the guest for it: its functions are called through the forwarded ports, once, or again and
//! again while the guest does something to them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::guide::{self, Step};
use super::machine::Ports;

/// What an emulated machine may take for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Callers at once, and how long each waits between two requests.
const CALLERS: usize = 3;
const PAUSE: Duration = Duration::from_millis(15);
/// Why funcd refuses when the machine itself is short of something: an emulated one is short of CPU whenever others use the cores.
const STARVED: &str = "x-funcd-shed: brownout";

/// Calls what the guest asks it to.
#[derive(Debug)]
pub(super) struct Caller {
    ports: Ports,
    guide: Vec<Step>,
    load: Option<Load>,
}

#[derive(Debug)]
struct Load {
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    callers: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    /// Refused because the guest's supervisor waited for a CPU: what funcd is to do on a machine that has none.
    starved: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Caller {
    pub(super) fn new(ports: Ports, guide: Vec<Step>) -> Caller {
        Caller {
            ports,
            guide,
            load: None,
        }
    }

    /// Does what a line of the guest asks for: `get PORT HOST PATH`, `load PORT HOST PATH`, `loaded` (how it went so far),
    /// `unload`, `elsewhere N` (step N of docs/quickstart.md). The answer to the guest: whether it went well, and what came.
    pub(super) fn does(&mut self, line: &str) -> Result<String, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["get", port, host, path] => patiently(self.at(port)?, host, path),
            ["load", port, host, path] => {
                let address = self.at(port)?;
                self.load = Some(Load::start(address, host, path));
                Ok("it goes".to_owned())
            }
            ["loaded"] => self.load.as_ref().ok_or("no load goes")?.counts.told(),
            ["elsewhere", number] => {
                let step = number
                    .parse()
                    .ok()
                    .and_then(|number: usize| self.guide.get(number));
                guide::elsewhere(step, &self.ports)
            }
            ["unload"] => self.load.take().ok_or("no load goes")?.stop(),
            _ => Err(format!("the host does not know how to {line:?}")),
        }
    }

    fn at(&self, port: &str) -> Result<SocketAddr, String> {
        let here = port.parse().ok().and_then(|port| self.ports.of(port));
        let here = here.ok_or_else(|| format!("port {port} is not forwarded"))?;
        Ok(SocketAddr::from(([127, 0, 0, 1], here)))
    }
}

impl Load {
    fn start(address: SocketAddr, host: &str, path: &str) -> Load {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let caller = |_| {
            let (stop, counts) = (Arc::clone(&stop), Arc::clone(&counts));
            let (host, path) = (host.to_owned(), path.to_owned());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match get(address, &host, &path) {
                        Ok(_) => {
                            counts.answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(why) if why.ends_with(STARVED) => {
                            counts.starved.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(why) => counts.failures().push(why),
                    }
                    // Paced, not awaited: an emulated guest that is only loaded gets nothing else done.
                    thread::sleep(PAUSE);
                }
            })
        };
        let callers = (0..CALLERS).map(caller).collect();
        Load {
            stop,
            counts,
            callers,
        }
    }

    fn stop(self) -> Result<String, String> {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller
                .join()
                .map_err(|_| "a caller panicked: look above".to_owned())?;
        }
        self.counts.told()
    }
}

impl Counts {
    fn failures(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> Result<String, String> {
        let (answered, failures) = (self.answered.load(Ordering::Relaxed), self.failures());
        let starved = self.starved.load(Ordering::Relaxed);
        let all = format!("{answered} answered, {starved} refused for want of CPU");
        match failures.first() {
            // Many of them would say nothing of the rest.
            None if answered > 4 * starved => Ok(format!("{all}, 0 failed")),
            None => Err(format!("{all}: too few were answered")),
            Some(first) => Err(format!("{all}, {} failed, the first: {first}", failures.len())),
        }
    }
}

/// The first line of a body, once there is one with 200.
fn patiently(address: SocketAddr, host: &str, path: &str) -> Result<String, String> {
    let until = Instant::now() + PATIENCE;
    loop {
        match get(address, host, path) {
            Ok(body) => return Ok(body.lines().next().unwrap_or_default().to_owned()),
            Err(why) if Instant::now() > until => return Err(why),
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// The body of a GET on a connection of its own, which must be answered with 200.
fn get(address: SocketAddr, host: &str, path: &str) -> Result<String, String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = ask().map_err(|why| format!("GET {path}: {why}"))?;
    if !answer.starts_with("HTTP/1.1 200 ") {
        let mut lines = answer.lines();
        let head = lines.next().unwrap_or("the connection ended without an answer");
        let reason = lines
            .find(|line| line.starts_with("x-funcd-shed: "))
            .unwrap_or_default();
        return Err(format!("GET {path}: {head} {reason}"));
    }
    Ok(answer
        .split_once("\r\n\r\n")
        .map_or_else(String::new, |(_, body)| body.to_owned()))
}
