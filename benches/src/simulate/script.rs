//! What happens in a simulation, and what became of it: data.

use std::collections::BTreeMap;

use funcd::admission::Class;

/// Callers of one class.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    pub(crate) class: Class,
    /// From when on how many come a second; in order.
    pub(crate) rate: Vec<(f64, f64)>,
    /// How often a caller tries again at once when it is refused or gets nothing in time.
    pub(crate) retries: u32,
}

/// What happens.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) cores: f64,
    /// Mean CPU of a request, in seconds.
    pub(crate) cpu: f64,
    /// This part of the requests needs so many times as much; the mean stays what it is.
    pub(crate) rare: Option<(f64, f64)>,
    /// From when on how long a request waits for something else, on average.
    pub(crate) io: Vec<(f64, f64)>,
    /// How long a caller waits.
    pub(crate) deadline: f64,
    /// Callers close their connections then, a moment before funcd gives up; the function works on for them, unseen.
    pub(crate) leaves: bool,
    pub(crate) streams: Vec<Stream>,
    /// How long callers come; then what is left is finished.
    pub(crate) length: f64,
    pub(crate) concurrency: u32,
    pub(crate) instances: u32,
    pub(crate) most_instances: u32,
    /// From the order to the first request.
    pub(crate) start: f64,
    /// From when on one instance is killed, and how often.
    pub(crate) kill: Option<(f64, f64)>,
    /// From when until when each dispatch fails with this probability, before a response head.
    pub(crate) breaks: Option<(f64, f64, f64)>,
    /// For so long after its start an instance needs so many times the CPU.
    pub(crate) slow_start: Option<(f64, f64)>,
    /// The utilisation is told a tick late, as by a launcher that waits for a CPU itself.
    pub(crate) is_late: bool,
    /// CPU of each request that is offered, whatever becomes of it.
    pub(crate) offer: f64,
}

/// What became of a request, for the books.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fate {
    pub(crate) class: Class,
    /// When it was first sent.
    pub(crate) sent: f64,
    /// How long it took; `None`: no answer in time.
    pub(crate) answered: Option<f64>,
}

/// A run.
#[derive(Debug, Default)]
pub(crate) struct Books {
    pub(crate) fates: Vec<Fate>,
    /// Attempts of callers.
    pub(crate) offered: u64,
    /// Attempts that reached an instance.
    pub(crate) dispatched: u64,
    /// From a request that found no place to the order of an instance for it, at most.
    pub(crate) decision: f64,
    /// How many might be in flight, at each tick.
    pub(crate) limits: Vec<(f64, f64)>,
    /// Attempts of callers that got nothing, by reason.
    pub(crate) refused: BTreeMap<&'static str, u64>,
    /// Orders of instances.
    pub(crate) starts: u32,
}
