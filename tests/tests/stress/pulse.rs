//! A neighbour's caller: a request every few milliseconds, each timed, with and without the time for which the caller itself
//! waited for a CPU: it is no part of the host, has none of its weights, and competes with whatever else runs on the machine.
//! Never judges a time: only answers that did not come.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use funcd_tests::http::{Connection, Request};

/// Between the end of a request and the next: often enough to see a disturbance, seldom enough to be none.
const PAUSE: Duration = Duration::from_millis(2);

/// A caller at work.
pub(crate) struct Pulse {
    stop: Arc<AtomicBool>,
    caller: Option<JoinHandle<Beats>>,
}

/// What it saw.
#[derive(Debug, Default)]
pub(crate) struct Beats {
    times: Vec<Duration>,
    /// The same without what the caller itself waited for a CPU.
    net: Vec<Duration>,
    pub(crate) failures: Vec<String>,
}

impl Pulse {
    /// Begins to ask.
    pub(crate) fn start(address: SocketAddr, target: &'static str) -> Pulse {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let call = move || {
            let mut beats = Beats::default();
            let mut connection = None;
            while !told.load(Ordering::Relaxed) {
                let (began, waited) = (Instant::now(), own_delay());
                match ask(&mut connection, address, target) {
                    Ok(()) => {
                        let time = began.elapsed();
                        beats.times.push(time);
                        beats.net.push(time.saturating_sub(own_delay() - waited));
                    }
                    Err(error) => beats.failures.push(error),
                }
                std::thread::sleep(PAUSE);
            }
            beats
        };
        Pulse {
            stop,
            caller: Some(std::thread::spawn(call)),
        }
    }

    /// Asks for this long.
    pub(crate) fn of(address: SocketAddr, target: &'static str, length: Duration) -> Beats {
        let pulse = Pulse::start(address, target);
        std::thread::sleep(length);
        pulse.stop()
    }

    /// Ends; what was seen.
    pub(crate) fn stop(mut self) -> Beats {
        self.stop.store(true, Ordering::Relaxed);
        let caller = self.caller.take().expect("it is taken once");
        caller.join().expect("the caller does not panic")
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How long this thread has waited for a CPU in all (proc_pid_schedstat(5)); nothing where the kernel does not say.
fn own_delay() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text
        .split_whitespace()
        .nth(1)
        .and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

fn ask(connection: &mut Option<Connection>, address: SocketAddr, target: &str) -> Result<(), String> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::tcp(address).map_err(|error| error.to_string())?,
    };
    let response = open
        .ask(&Request::get(target))
        .map_err(|error| error.to_string())?;
    if response.status() != 200 {
        return Err(format!("{} {}", response.status(), response.text()));
    }
    *connection = Some(open);
    Ok(())
}

impl Beats {
    pub(crate) fn count(&self) -> usize {
        self.times.len()
    }

    /// Median and 99th percentile, by nearest rank.
    pub(crate) fn percentiles(&self) -> [Duration; 2] {
        percentiles(&self.times)
    }

    /// The same without what the caller itself waited for a CPU.
    pub(crate) fn net_percentiles(&self) -> [Duration; 2] {
        percentiles(&self.net)
    }
}

fn percentiles(times: &[Duration]) -> [Duration; 2] {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    [50, 99].map(|percent| {
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    })
}
