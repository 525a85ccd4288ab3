//! What became of each request of an open loop. Pure: time is an argument, and nothing is sent here.

use std::collections::VecDeque;
use std::io;
use std::iter::Peekable;
use std::time::Duration;

use super::plan::{Arrival, Schedule};

/// One request, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ticket(usize);

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Within its deadline, with this status.
    Answered(u16),
    /// It was sent, and its caller left at the deadline.
    Late,
    /// It was never sent: all connections were in use until its deadline.
    Unsent,
    /// The connection failed.
    Broken(io::ErrorKind),
}

/// A request and what became of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    /// Which one.
    pub(crate) kind: usize,
    /// When it was due, since the start of the run.
    pub(crate) due: Duration,
    /// When it was sent.
    pub(crate) sent: Option<Duration>,
    /// When it ended, and how.
    pub(crate) ended: Option<(Duration, End)>,
}

impl Record {
    /// From the moment in which it was due, not from when it was sent.
    pub(crate) fn latency(&self) -> Option<Duration> {
        Some(self.ended?.0.saturating_sub(self.due))
    }
}

/// All requests of a run.
#[derive(Debug)]
pub(crate) struct Book {
    schedule: Peekable<Schedule>,
    /// By kind.
    deadlines: Vec<Duration>,
    /// By kind, as those of one kind leave in the order in which they came.
    open: Vec<VecDeque<Ticket>>,
    records: Vec<Record>,
}

impl Book {
    /// For `schedule`, with the deadline of each kind.
    pub(crate) fn of(schedule: Schedule, deadlines: Vec<Duration>) -> Book {
        Book {
            schedule: schedule.peekable(),
            open: vec![VecDeque::new(); deadlines.len()],
            deadlines,
            records: Vec::new(),
        }
    }

    /// The next request that is due at `now`, if there is one.
    pub(crate) fn due(&mut self, now: Duration) -> Option<Ticket> {
        let Arrival { at, kind } = self.schedule.next_if(|arrival| arrival.at <= now)?;
        let ticket = Ticket(self.records.len());
        self.records.push(Record {
            kind,
            due: at,
            sent: None,
            ended: None,
        });
        self.open[kind].push_back(ticket);
        Some(ticket)
    }

    /// Which kind it is.
    pub(crate) fn kind(&self, ticket: Ticket) -> usize {
        self.records[ticket.0].kind
    }

    /// It is on its way.
    pub(crate) fn sent(&mut self, ticket: Ticket, now: Duration) {
        self.records[ticket.0].sent = Some(now);
    }

    /// It was answered. An answer after the deadline is none: its caller is gone.
    pub(crate) fn answered(&mut self, ticket: Ticket, now: Duration, status: u16) {
        let Record { kind, due, .. } = self.records[ticket.0];
        let end = if now > due + self.deadlines[kind] {
            End::Late
        } else {
            End::Answered(status)
        };
        self.end(ticket, now, end);
    }

    /// Its connection failed.
    pub(crate) fn broken(&mut self, ticket: Ticket, now: Duration, error: io::ErrorKind) {
        self.end(ticket, now, End::Broken(error));
    }

    fn end(&mut self, ticket: Ticket, now: Duration, end: End) {
        let record = &mut self.records[ticket.0];
        // Who has left does not come back.
        record.ended.get_or_insert((now, end));
    }

    /// It has ended.
    pub(crate) fn is_over_for(&self, ticket: Ticket) -> bool {
        self.records[ticket.0].ended.is_some()
    }

    /// The next request whose caller leaves at `now`, if there is one; `true` when it had been sent.
    pub(crate) fn left(&mut self, now: Duration) -> Option<(Ticket, bool)> {
        for kind in 0..self.open.len() {
            while let Some(ticket) = self.open[kind].front().copied() {
                let record = self.records[ticket.0];
                if record.ended.is_none() && now < record.due + self.deadlines[kind] {
                    break;
                }
                self.open[kind].pop_front();
                if record.ended.is_none() {
                    let sent = record.sent.is_some();
                    self.end(ticket, now, if sent { End::Late } else { End::Unsent });
                    return Some((ticket, sent));
                }
            }
        }
        None
    }

    /// When there is something to do although nothing was heard; `None` when all is over.
    pub(crate) fn next_event(&mut self) -> Option<Duration> {
        let arrival = self.schedule.peek().map(|arrival| arrival.at);
        let leaving = self
            .open
            .iter()
            .zip(&self.deadlines)
            .filter_map(|(open, deadline)| {
                let ticket = open.front()?;
                Some(self.records[ticket.0].due + *deadline)
            });
        arrival.into_iter().chain(leaving).min()
    }

    /// All of them, in the order in which they were due.
    pub(crate) fn close(self) -> Vec<Record> {
        self.records
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Phase;
    use super::*;

    const DEADLINE: Duration = Duration::from_millis(250);

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn book() -> Book {
        Book::of(Schedule::of(vec![Phase::of(2.0, &[100.0])], 5), vec![DEADLINE])
    }

    /// A server with one connection, one request at a time, `service` each, that stalls for a second after half a second; asked
    /// at times that this test invents.
    fn stalled(service: Duration) -> Vec<Record> {
        let mut book = book();
        let mut waiting = VecDeque::new();
        let mut busy: Option<(Ticket, Duration)> = None;
        for now in (0..4000).map(millis) {
            while let Some(ticket) = book.due(now) {
                waiting.push_back(ticket);
            }
            if let Some((ticket, _)) = busy.take_if(|(_, until)| *until <= now) {
                book.answered(ticket, now, 200);
            }
            while book.left(now).is_some() {}
            waiting.retain(|ticket| !book.is_over_for(*ticket));
            if busy.is_none()
                && let Some(ticket) = waiting.pop_front()
            {
                book.sent(ticket, now);
                let stall = (millis(500)..millis(1500)).contains(&now);
                busy = Some((ticket, if stall { millis(1500) } else { now + service }));
            }
        }
        assert_eq!(book.next_event(), None);
        book.close()
    }

    #[test]
    fn a_server_that_stalls_does_not_stop_the_requests_that_are_due() {
        let planned = Schedule::of(vec![Phase::of(2.0, &[100.0])], 5).map(|arrival| arrival.at);
        let due = stalled(millis(1)).into_iter().map(|record| record.due);
        assert!(planned.eq(due), "the server has no say in when requests are due");
    }

    #[test]
    fn a_stall_is_seen_by_all_who_came_meanwhile() {
        let records = stalled(millis(1));
        let during = |record: &&Record| (millis(550)..millis(1200)).contains(&record.due);
        let stalled: Vec<_> = records.iter().filter(during).collect();
        assert!(stalled.len() > 40, "{}", stalled.len());
        for record in stalled {
            let (_, end) = record.ended.unwrap();
            assert!(matches!(end, End::Late | End::Unsent), "{record:?}");
            assert!(record.latency().unwrap() >= DEADLINE, "{record:?}");
        }
        // One closed loop would have seen a single slow request.
        let before = |record: &&Record| record.due < millis(400);
        for record in records.iter().filter(before) {
            assert_eq!(record.ended.unwrap().1, End::Answered(200), "{record:?}");
        }
    }

    #[test]
    fn latency_counts_from_when_it_was_due() {
        let mut book = book();
        let ticket = book.due(millis(200)).unwrap();
        book.sent(ticket, millis(200));
        book.answered(ticket, millis(201), 200);
        let record = book.close()[0];
        assert!(record.due < millis(100), "the first of 100 a second: {record:?}");
        assert_eq!(record.latency(), Some(millis(201) - record.due));
    }

    #[test]
    fn an_answer_after_the_deadline_is_none_and_nothing_ends_twice() {
        let mut book = book();
        let ticket = book.due(millis(100)).unwrap();
        book.sent(ticket, millis(100));
        book.answered(ticket, millis(900), 200);
        book.broken(ticket, millis(901), io::ErrorKind::ConnectionReset);
        assert_eq!(book.close()[0].ended, Some((millis(900), End::Late)));
    }

    #[test]
    fn there_is_something_to_do_until_all_is_over() {
        let mut book = book();
        let mut now = Duration::ZERO;
        let mut events = 0;
        while let Some(next) = book.next_event() {
            now = now.max(next);
            while book.due(now).is_some() {}
            while book.left(now).is_some() {}
            events += 1;
        }
        assert!(events > 200, "each of about 200 came and left: {events}");
        assert!(book.close().iter().all(|record| record.ended.is_some()));
    }
}
