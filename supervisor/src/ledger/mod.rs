//! The ledger: what became of the last requests, for who asks afterwards. Each worker writes its own without lock or
//! atomic, and looks things up in it when it is asked; nothing here outlives the supervisor, and its size is fixed.

pub mod record;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use record::{Class, Record};

/// Ordinary requests that each worker remembers.
pub const ORDINARY: usize = 1024;
/// Refused requests that each worker remembers.
pub const REFUSED: usize = 256;
/// Requests that failed, were tried again, were slow or cold, that each worker remembers.
pub const NOTABLE: usize = 1024;
/// Records kept for requests to come, beyond those that are remembered.
const SPARE: usize = 64;
/// A worker that is this late has more to do than to answer; the others' answers count.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most records that one question gets.
pub const MOST: usize = 200;

/// A record that a request on its way and its worker's ledger share. Borrowed for a moment only, never while either waits.
pub type Open = Rc<RefCell<Record>>;

/// What one worker remembers. Lives on its thread.
#[derive(Debug)]
pub struct Ledger {
    /// Requests that are not over.
    open: Vec<Open>,
    rings: [Ring; 3],
    /// Records to use again: a request moves one pointer in and out, and allocates nothing.
    spare: Vec<Open>,
    since: Instant,
}

#[derive(Debug)]
struct Ring {
    records: VecDeque<Open>,
    capacity: usize,
    /// When the last record that was pushed out had arrived.
    forgotten: Option<Instant>,
}

impl Ledger {
    /// An empty one.
    pub fn new(now: Instant) -> Ledger {
        let ring = |capacity| Ring {
            records: VecDeque::new(),
            capacity,
            forgotten: None,
        };
        Ledger {
            open: Vec::new(),
            rings: [ring(ORDINARY), ring(REFUSED), ring(NOTABLE)],
            spare: Vec::new(),
            since: now,
        }
    }

    /// A record for a request that arrives now.
    pub fn open(&mut self, arrived: Instant) -> Open {
        let record = match self.spare.pop() {
            Some(record) => {
                record.borrow_mut().renew(arrived);
                record
            }
            None => Rc::new(RefCell::new(Record::new(arrived))),
        };
        record.borrow_mut().slot = self.open.len();
        self.open.push(Rc::clone(&record));
        record
    }

    /// Remembers a request that is over, and forgets the oldest of its class when there are too many.
    pub fn close(&mut self, record: &Open) {
        let (slot, class) = {
            let record = record.borrow();
            (record.slot, record.class())
        };
        // The last one takes its slot.
        let record = self.open.swap_remove(slot);
        if let Some(moved) = self.open.get(slot) {
            moved.borrow_mut().slot = slot;
        }
        let ring = &mut self.rings[class as usize];
        if ring.records.len() == ring.capacity
            && let Some(oldest) = ring.records.pop_front()
        {
            ring.forgotten = Some(oldest.borrow().arrived);
            if self.spare.len() < SPARE {
                self.spare.push(oldest);
            }
        }
        ring.records.push_back(record);
    }

    /// The records that fit, newest first.
    pub fn look_up(&self, wanted: &Wanted) -> Found {
        let take = |records: &mut dyn Iterator<Item = &Open>| -> Vec<Record> {
            let fitting = records.filter(|record| wanted.fits(&record.borrow()));
            fitting
                .take(wanted.limit())
                .map(|record| record.borrow().clone())
                .collect()
        };
        // Those on their way lie in no order.
        let mut open: Vec<&Open> = self.open.iter().collect();
        open.sort_by_key(|record| record.borrow().arrived);
        let mut records = match wanted.open {
            true => take(&mut open.into_iter()),
            false => take(&mut open.into_iter().rev()),
        };
        for ring in &self.rings {
            records.extend(take(&mut ring.records.iter().rev()));
        }
        let since = |class: Class| self.rings[class as usize].forgotten.unwrap_or(self.since);
        let found = Found {
            records,
            ordinary_since: since(Class::Ordinary),
            refused_since: since(Class::Refused),
            notable_since: since(Class::Notable),
        };
        found.in_order(wanted)
    }
}

/// Which requests are asked for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only with this id.
    pub id: Option<String>,
    /// Only for this function.
    pub function: Option<String>,
    /// Only those that failed or were shed.
    pub failed: bool,
    /// Only those that are not over, and then the oldest first: what hangs is among them.
    pub open: bool,
    /// No more than this, and than [`MOST`].
    pub most: usize,
}

impl Wanted {
    fn fits(&self, record: &Record) -> bool {
        let id = self
            .id
            .as_deref()
            .is_none_or(|id| record.id.as_bytes() == id.as_bytes());
        let function = self.function.as_deref();
        let function = function.is_none_or(|name| record.function.as_bytes() == name.as_bytes());
        let state = (!self.failed || record.is_failed()) && (!self.open || !record.is_over());
        id && function && state
    }

    fn limit(&self) -> usize {
        self.most.min(MOST)
    }
}

/// What was found, and how far back is remembered.
#[derive(Debug, Clone)]
pub struct Found {
    /// By arrival, newest first unless [`Wanted::open`].
    pub records: Vec<Record>,
    /// All ordinary requests since then are remembered.
    pub ordinary_since: Instant,
    /// The same for refused ones.
    pub refused_since: Instant,
    /// The same for those that failed, were tried again, were slow or cold.
    pub notable_since: Instant,
}

impl Found {
    /// This and what another worker found.
    fn and(mut self, other: Found) -> Found {
        self.records.extend(other.records);
        Found {
            records: self.records,
            ordinary_since: self.ordinary_since.max(other.ordinary_since),
            refused_since: self.refused_since.max(other.refused_since),
            notable_since: self.notable_since.max(other.notable_since),
        }
    }

    fn in_order(mut self, wanted: &Wanted) -> Found {
        self.records.sort_by_key(|record| record.arrived);
        if !wanted.open {
            self.records.reverse();
        }
        self.records.truncate(wanted.limit());
        self
    }
}

/// A question to a worker.
#[derive(Debug)]
pub struct Question {
    /// Which requests.
    pub wanted: Wanted,
    /// Where to.
    pub answer: oneshot::Sender<Found>,
}

/// The ledgers of all workers, as others see them.
#[derive(Debug, Clone, Default)]
pub struct Ledgers(Arc<Mutex<Vec<mpsc::Sender<Question>>>>);

impl Ledgers {
    /// A worker's end: it answers what arrives here.
    pub fn join(&self) -> mpsc::Receiver<Question> {
        let (sender, questions) = mpsc::channel(4);
        self.0.lock().expect("no holder of this lock panics").push(sender);
        questions
    }

    /// Asks all workers. `None`: none of them answers.
    pub async fn look_up(&self, wanted: &Wanted) -> Option<Found> {
        let workers = self.0.lock().expect("no holder of this lock panics").clone();
        let mut answers = Vec::new();
        for worker in workers {
            let (answer, answered) = oneshot::channel();
            let wanted = wanted.clone();
            if worker.try_send(Question { wanted, answer }).is_ok() {
                answers.push(answered);
            }
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut all: Option<Found> = None;
        for answer in answers {
            if let Ok(Ok(found)) = tokio::time::timeout_at(deadline, answer).await {
                all = Some(match all {
                    Some(others) => others.and(found),
                    None => found,
                });
            }
        }
        all.map(|found| found.in_order(wanted))
    }
}
