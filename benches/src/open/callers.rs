//! The connections of an open loop, in one thread: sends what is due, reads what comes. It never waits for a server: who finds no
//! free connection gets a new one, up to a bound, and then waits as a caller whose own host is full.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::socket::sockopt::{Linger, TcpNoDelay};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket};
use nix::sys::time::{TimeSpec, TimeValLike};

use super::book::{Book, Ticket};
use super::place::{Place, Step, why};
use super::plan::{Kind, Phase, Schedule};
use super::seen::Seen;
use crate::failure::{During, Outcome};
use crate::sys::Urgent;

/// Connections at most: more than a server here should ever let in, fewer than descriptors.
const MOST: usize = 8000;
/// The longest wait, so that a run that is stopped notices.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// Callers of one server.
#[derive(Debug)]
pub(crate) struct Callers {
    address: SocketAddr,
    resend: bool,
    urgent: bool,
}

impl Callers {
    /// Of the server at `address`.
    pub(crate) fn of(address: SocketAddr) -> Callers {
        Callers {
            address,
            resend: false,
            urgent: true,
        }
    }

    /// They send again what a connection that had served before takes with it before any byte of an answer, as every HTTP client
    /// does with safe requests (RFC 9112, 9.3.1).
    pub(crate) fn that_send_again(self) -> Callers {
        Callers { resend: true, ..self }
    }

    /// They compete for a CPU like everybody else.
    pub(crate) fn at_usual_priority(self) -> Callers {
        Callers {
            urgent: false,
            ..self
        }
    }

    /// Sends all requests of `phases`, drawn from `seed`, and waits until the last of them has ended.
    ///
    /// # Errors
    /// No epoll.
    pub(crate) fn run(&self, kinds: &[Kind], phases: Vec<Phase>, seed: u64) -> Outcome<Seen> {
        let deadlines = kinds.iter().map(|kind| kind.deadline).collect();
        // A connection each, when nobody answers. Where it can't be raised, who finds none waits.
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
        // They stand for other machines: they must not wait for a CPU of the one under measurement.
        let urgent = self.urgent.then(Urgent::thread);
        let mut run = Run {
            callers: self,
            kinds,
            book: Book::of(Schedule::of(phases, seed), deadlines),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).during("making an epoll")?,
            places: Vec::new(),
            free: Vec::new(),
            vacant: Vec::new(),
            waiting: VecDeque::new(),
            holder: HashMap::new(),
            resent: 0,
            reasons: BTreeMap::new(),
            start: Instant::now(),
        };
        let before = used();
        run.all()?;
        let cpu = used().saturating_sub(before);
        let took = run.start.elapsed();
        let urgent = urgent.is_some_and(|urgent| urgent.is_real_time());
        Ok(Seen {
            resent: run.resent,
            reasons: run.reasons,
            records: run.book.close(),
            cpu,
            took,
            urgent,
        })
    }
}

/// CPU of this thread so far.
fn used() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_THREAD) else {
        return Duration::ZERO;
    };
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros.unsigned_abs())
}

struct Run<'a> {
    callers: &'a Callers,
    kinds: &'a [Kind],
    book: Book,
    epoll: Epoll,
    places: Vec<Option<Place>>,
    /// Open places without a request, the last used one on top.
    free: Vec<usize>,
    /// Numbers of places that are not open.
    vacant: Vec<usize>,
    waiting: VecDeque<Ticket>,
    /// The place of each request that is under way.
    holder: HashMap<Ticket, usize>,
    resent: u64,
    reasons: BTreeMap<String, u64>,
    start: Instant,
}

impl Run<'_> {
    fn all(&mut self) -> Outcome<()> {
        let mut events = vec![EpollEvent::empty(); 256];
        loop {
            let now = self.start.elapsed();
            while let Some(ticket) = self.book.due(now) {
                self.ask(ticket);
            }
            while let Some((ticket, sent)) = self.book.left(self.start.elapsed()) {
                self.leave(ticket, sent);
            }
            let Some(next) = self.book.next_event() else {
                return Ok(());
            };
            let wait = next.saturating_sub(self.start.elapsed()).min(LONGEST_WAIT);
            for index in self.ready(wait, &mut events)? {
                self.progress(index);
            }
            self.serve_waiting();
        }
    }

    /// ppoll first: epoll_wait knows only milliseconds.
    fn ready(&self, wait: Duration, events: &mut [EpollEvent]) -> Outcome<Vec<usize>> {
        if !wait.is_zero() {
            let timeout = TimeSpec::nanoseconds(i64::try_from(wait.as_nanos()).unwrap_or(i64::MAX));
            let mut polled = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
            match ppoll(&mut polled, Some(timeout), None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).during("waiting for answers"),
            }
        }
        match self.epoll.wait(events, EpollTimeout::ZERO) {
            Ok(count) => Ok(events[..count]
                .iter()
                .map(|event| event.data() as usize)
                .collect()),
            Err(Errno::EINTR) => Ok(Vec::new()),
            Err(errno) => Err(errno).during("looking for answers"),
        }
    }

    /// On a free connection, a new one, or later.
    fn ask(&mut self, ticket: Ticket) {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.places.len() - self.vacant.len() >= MOST => return self.waiting.push_back(ticket),
            None => match self.open() {
                Ok(index) => index,
                // Out of ports or descriptors is the callers' own trouble.
                Err(error) if is_ours(&error) => return self.waiting.push_back(ticket),
                Err(error) => return self.book.broken(ticket, self.start.elapsed(), error.kind()),
            },
        };
        self.book.sent(ticket, self.start.elapsed());
        let place = self.places[index].as_mut().expect("free and new places are open");
        place.take(ticket);
        self.holder.insert(ticket, index);
        self.progress(index);
    }

    fn serve_waiting(&mut self) {
        while let Some(ticket) = self.waiting.front().copied() {
            let gone = self.book.is_over_for(ticket);
            let room = !self.free.is_empty() || self.places.len() - self.vacant.len() < MOST;
            if !gone && !room {
                return;
            }
            self.waiting.pop_front();
            if !gone {
                let before = self.waiting.len();
                self.ask(ticket);
                if self.waiting.len() > before {
                    return;
                }
            }
        }
    }

    fn open(&mut self) -> io::Result<usize> {
        let family = if self.callers.address.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let stream: OwnedFd = socket(family, SockType::Stream, flags, None)?;
        setsockopt(&stream, TcpNoDelay, &true)?;
        match connect(
            std::os::fd::AsRawFd::as_raw_fd(&stream),
            &SockaddrStorage::from(self.callers.address),
        ) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(errno) => return Err(errno.into()),
        }
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET | EpollFlags::EPOLLRDHUP;
        self.epoll.add(&stream, EpollEvent::new(flags, index as u64))?;
        self.places[index] = Some(Place::new(TcpStream::from(stream)));
        Ok(index)
    }

    /// Writes and reads as far as it goes.
    fn progress(&mut self, index: usize) {
        let Some(place) = self.places.get_mut(index).and_then(Option::as_mut) else {
            return; // an event of a connection that was closed meanwhile
        };
        let request = place
            .ticket
            .map(|ticket| &self.kinds[self.book.kind(ticket)].request[..]);
        match place.step(request.unwrap_or_default()) {
            Ok(Step::Later) => {}
            Ok(Step::Answered { status, closes }) => {
                place.served = true;
                if let Some(ticket) = place.ticket.take() {
                    if status >= 500 {
                        *self.reasons.entry(why(&place.answer)).or_default() += 1;
                    }
                    self.book.answered(ticket, self.start.elapsed(), status);
                    self.holder.remove(&ticket);
                }
                if closes {
                    self.close(index);
                } else {
                    self.free.push(index);
                }
            }
            Err(error) => self.fail(index, &error),
        }
    }

    fn fail(&mut self, index: usize, error: &io::Error) {
        let Some(place) = self.places[index].as_ref() else {
            return;
        };
        let Some(ticket) = place.ticket else {
            // Closed while nothing was asked: a server may.
            self.free.retain(|free| *free != index);
            return self.close(index);
        };
        let again = self.callers.resend && place.served && place.answer.is_empty();
        self.holder.remove(&ticket);
        self.close(index);
        if again {
            self.resent += 1;
            self.waiting.push_back(ticket);
        } else {
            self.book.broken(ticket, self.start.elapsed(), error.kind());
        }
    }

    /// Its caller hangs up, as callers do: at once, whatever is still on the way.
    fn leave(&mut self, ticket: Ticket, sent: bool) {
        if !sent {
            return;
        }
        if let Some(index) = self.holder.remove(&ticket) {
            if let Some(place) = &self.places[index] {
                // A reset leaves no port waiting, or they would run out.
                let linger = nix::libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                let _ = setsockopt(&place.stream, Linger, &linger);
            }
            self.close(index);
        }
    }

    fn close(&mut self, index: usize) {
        self.places[index] = None;
        self.vacant.push(index);
    }
}

/// Nothing of the server's: too many descriptors, or no port left.
fn is_ours(error: &io::Error) -> bool {
    [Errno::EMFILE, Errno::ENFILE, Errno::EADDRNOTAVAIL, Errno::EAGAIN]
        .iter()
        .any(|errno| error.raw_os_error() == Some(*errno as i32))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::super::book::End;
    use super::*;

    /// Answers each request after what `before` does with its number.
    fn server(before: impl Fn(usize) -> bool + Send + Sync + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let before = std::sync::Arc::new(before);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, before) = (stream.unwrap(), before.clone());
                std::thread::spawn(move || {
                    let mut request = [0; 1024];
                    let mut number = 0;
                    while matches!(stream.read(&mut request), Ok(1..)) && before(number) {
                        number += 1;
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                    }
                });
            }
        });
        address
    }

    fn kinds(deadline: Duration) -> [Kind; 1] {
        [Kind::get("/", "", deadline)]
    }

    #[test]
    fn what_is_due_is_asked_and_answered() {
        let callers = Callers::of(server(|_| true));
        let phases = vec![Phase::of(0.2, &[500.0])];
        let seen = callers.run(&kinds(Duration::from_secs(60)), phases, 1).unwrap();
        assert!(seen.records.len() > 50, "{}", seen.records.len());
        for record in &seen.records {
            assert_eq!(record.ended.unwrap().1, End::Answered(200));
            assert!(record.sent.unwrap() >= record.due);
        }
    }

    #[test]
    fn a_server_that_is_silent_is_asked_all_the_same_and_its_callers_leave() {
        let callers = Callers::of(server(|_| {
            loop {
                std::thread::park();
            }
        }));
        let phases = vec![Phase::of(0.2, &[500.0])];
        let seen = callers
            .run(&kinds(Duration::from_millis(50)), phases.clone(), 1)
            .unwrap();
        assert_eq!(seen.records.len(), Schedule::of(phases, 1).count());
        assert!(
            seen.records
                .iter()
                .all(|record| record.ended.unwrap().1 == End::Late)
        );
    }

    #[test]
    fn a_connection_that_breaks_is_a_failure_or_is_asked_again_if_it_had_served() {
        let run = |callers: Callers| {
            let phases = vec![Phase::of(0.3, &[200.0])];
            callers.run(&kinds(Duration::from_secs(60)), phases, 1).unwrap()
        };
        let broken = |seen: &Seen| {
            let ends = seen.records.iter().map(|record| record.ended.unwrap().1);
            ends.filter(|end| matches!(end, End::Broken(_))).count()
        };
        // Each connection answers once and hangs up when it is asked again.
        let seen = run(Callers::of(server(|number| number == 0)));
        assert!(broken(&seen) > 0);
        let seen = run(Callers::of(server(|number| number == 0)).that_send_again());
        assert_eq!(broken(&seen), 0);
        assert!(seen.resent > 0);
    }
}
