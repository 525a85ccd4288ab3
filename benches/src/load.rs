//! A closed loop: each of C keep-alive connections asks again as soon as it has its answer. One thread, so that the
//! client takes the same share of the machine whoever is asked.

use std::io;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::client::{Connection, Target};
use crate::failure::{During, Failure, Outcome};
use crate::stats::Samples;

/// In milliseconds: no answer on any connection for this long ends the run.
const PATIENCE: u16 = 10_000;
/// Connections that break are replaced, up to this many in one run.
const MOST_ERRORS: u64 = 1000;

/// Open connections to one contender.
#[derive(Debug)]
pub(crate) struct Load {
    target: Target,
    places: Vec<Place>,
    epoll: Epoll,
}

#[derive(Debug)]
struct Place {
    connection: Connection,
    asked: Instant,
    in_flight: bool,
}

/// What a run saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// From request to complete answer, of each answer.
    pub(crate) times: Samples,
    /// Requests without a complete 200.
    pub(crate) errors: u64,
    /// The last of them.
    pub(crate) last_error: Option<String>,
}

impl Load {
    /// Opens `connections`.
    ///
    /// # Errors
    /// A server that does not accept.
    pub(crate) fn open(target: &Target, connections: usize) -> Outcome<Load> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).during("making an epoll")?;
        let mut load = Load {
            target: target.clone(),
            places: Vec::with_capacity(connections),
            epoll,
        };
        for index in 0..connections {
            let place = load
                .place(index)
                .during(format!("connecting to {}", load.target))?;
            load.places.push(place);
        }
        Ok(load)
    }

    fn place(&self, index: usize) -> io::Result<Place> {
        let connection = self.target.connect()?;
        self.epoll
            .add(&connection, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
        Ok(Place {
            connection,
            asked: Instant::now(),
            in_flight: false,
        })
    }

    /// Asks on all connections until `length` is over and every request that was sent is answered.
    ///
    /// # Errors
    /// A server that stops answering, or one that breaks [`MOST_ERRORS`] connections.
    pub(crate) fn run(&mut self, length: Duration) -> Outcome<Seen> {
        let end = Instant::now() + length;
        let mut seen = Seen::default();
        for index in 0..self.places.len() {
            self.ask(index, &mut seen)?;
        }
        let mut events = [EpollEvent::empty(); 64];
        while self.places.iter().any(|place| place.in_flight) {
            for index in self.ready(&mut events)? {
                let place = &mut self.places[index];
                match place.connection.read() {
                    Ok(false) => continue,
                    Ok(true) => {
                        seen.times.push(place.asked.elapsed());
                        place.in_flight = false;
                    }
                    Err(error) => self.replace(index, &error, &mut seen)?,
                }
                if Instant::now() < end {
                    self.ask(index, &mut seen)?;
                }
            }
        }
        Ok(seen)
    }

    /// The connections that have something to read. A single one is read without asking first: the wait is in the
    /// read, and the client adds one system call less to each latency.
    fn ready<'a>(&self, events: &'a mut [EpollEvent]) -> Outcome<impl Iterator<Item = usize> + use<'a>> {
        let count = if self.places.len() == 1 {
            events[0] = EpollEvent::new(EpollFlags::EPOLLIN, 0);
            1
        } else {
            let waited = self.epoll.wait(events, EpollTimeout::from(PATIENCE));
            waited.during("waiting for answers")?
        };
        if count == 0 {
            let seconds = PATIENCE / 1000;
            return Err(Failure(format!("{}: no answer for {seconds} s", self.target)));
        }
        Ok(events[..count].iter().map(|event| event.data() as usize))
    }

    /// Sends a request, on a new connection where the old one is broken.
    fn ask(&mut self, index: usize, seen: &mut Seen) -> Outcome<()> {
        loop {
            let place = &mut self.places[index];
            place.asked = Instant::now();
            match place.connection.ask() {
                Ok(()) => {
                    place.in_flight = true;
                    return Ok(());
                }
                Err(error) => self.replace(index, &error, seen)?,
            }
        }
    }

    /// Counts an error and opens the connection anew; dropping the old one takes it out of the epoll.
    fn replace(&mut self, index: usize, error: &io::Error, seen: &mut Seen) -> Outcome<()> {
        seen.errors += 1;
        seen.last_error = Some(error.to_string());
        if seen.errors >= MOST_ERRORS {
            return Err(Failure(format!(
                "{}: {MOST_ERRORS} errors, last: {error}",
                self.target
            )));
        }
        self.places[index] = self
            .place(index)
            .during(format!("connecting to {} again after {error}", self.target))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A server that answers `per_connection` requests on each connection, then hangs up.
    fn server(per_connection: usize) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || serve(stream.unwrap(), per_connection));
            }
        });
        Target::tcp(address, "/")
    }

    fn serve(mut stream: TcpStream, requests: usize) {
        let mut request = [0; 256];
        for _ in 0..requests {
            if !matches!(stream.read(&mut request), Ok(1..)) {
                return;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    }

    #[test]
    fn every_connection_asks_at_least_once_and_is_answered() {
        for connections in [1, 8] {
            let mut load = Load::open(&server(usize::MAX), connections).unwrap();
            let seen = load.run(Duration::ZERO).unwrap();
            assert_eq!((seen.times.len(), seen.errors), (connections, 0));
        }
    }

    #[test]
    fn a_server_that_hangs_up_is_counted_and_asked_again() {
        let mut load = Load::open(&server(1), 1).unwrap();
        assert_eq!(load.run(Duration::ZERO).unwrap().errors, 0);
        assert_eq!(
            load.run(Duration::ZERO).unwrap().errors,
            1,
            "closed after the first answer"
        );
        assert_eq!(
            load.run(Duration::ZERO).unwrap().times.len(),
            1,
            "on a new connection"
        );
    }

    #[test]
    fn a_server_that_never_answers_fails_the_run() {
        let failure = Load::open(&server(0), 2)
            .unwrap()
            .run(Duration::from_secs(600))
            .unwrap_err();
        assert!(failure.0.contains("1000 errors"), "{failure}");
    }
}
