//! A function's metric handles, made once: a request touches handles, it never formats a label.

use std::sync::OnceLock;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::admission::{Class, Reason, View};
use crate::name::FunctionName;
use crate::telemetry::names;

/// A function's metric handles.
pub struct FunctionMetrics {
    /// By class of status: index 2 is `2xx`; index 0 is unused.
    answered: [Counter; 6],
    /// What was shed, by reason (those of admission, then `unavailable`) and class; each made when it is needed.
    shed: [[OnceLock<Shed>; 4]; Reason::ALL.len() + 1],
    /// Requests that wait for a permit.
    queue_depth: Gauge,
    /// Seconds that requests waited.
    pub queue_wait: Histogram,
    retries: [Counter; 2],
    limit: Gauge,
    breaker: Gauge,
    /// Seconds from arrival to the end of the response body.
    pub duration: Histogram,
    /// Requests between routing and the end of their response body.
    pub in_flight: Gauge,
    /// Seconds from arrival to the hand-over to an instance.
    pub overhead: Histogram,
    /// Bytes of request bodies.
    pub request_bytes: Counter,
    /// Bytes of response bodies.
    pub response_bytes: Counter,
}

impl FunctionMetrics {
    /// Handles from the recorder that is installed now.
    pub fn new(name: &FunctionName) -> FunctionMetrics {
        let function = || name.as_str().to_owned();
        let answered = ["0xx", "1xx", "2xx", "3xx", "4xx", "5xx"].map(|code| {
            counter!(names::INVOCATIONS_TOTAL, "function" => function(), "trigger" => "http", "code" => code)
        });
        FunctionMetrics {
            answered,
            shed: Default::default(),
            queue_depth: gauge!(names::QUEUE_DEPTH, "function" => function()),
            queue_wait: histogram!(names::QUEUE_WAIT_SECONDS, "function" => function()),
            retries: ["budget", "sent"].map(
                |result| counter!(names::REQUEST_RETRIES_TOTAL, "function" => function(), "result" => result),
            ),
            limit: gauge!(names::CONCURRENCY_LIMIT, "function" => function()),
            breaker: gauge!(names::BREAKER_STATE, "function" => function(), "state" => "open"),
            duration: histogram!(names::INVOCATION_DURATION_SECONDS, "function" => function()),
            in_flight: gauge!(names::INVOCATIONS_IN_FLIGHT, "function" => function()),
            overhead: histogram!(names::PROXY_OVERHEAD_SECONDS, "function" => function()),
            request_bytes: counter!(names::REQUEST_BYTES_TOTAL, "function" => function()),
            response_bytes: counter!(names::RESPONSE_BYTES_TOTAL, "function" => function()),
        }
    }

    /// Counts a request that was shed; `None`: the function does not run.
    pub fn shed(&self, name: &FunctionName, reason: Option<Reason>, class: Class) {
        let (row, reason) = match reason {
            Some(reason) => (reason as usize, reason.name()),
            None => (Reason::ALL.len(), "unavailable"),
        };
        let shed = self.shed[row][class.index()].get_or_init(|| {
            let function = || name.as_str().to_owned();
            Shed {
                shed: counter!(names::REQUESTS_SHED_TOTAL, "function" => function(), "reason" => reason, "class" => class.name()),
                error: counter!(names::INVOCATION_ERRORS_TOTAL, "function" => function(), "reason" => reason),
            }
        });
        shed.shed.increment(1);
        shed.error.increment(1);
    }

    /// A request was sent again, or, for want of budget, was not.
    pub fn retried(&self, sent: bool) {
        self.retries[usize::from(sent)].increment(1);
    }

    /// What admission is like now.
    pub(super) fn admission(&self, view: &View) {
        self.queue_depth.set(f64::from(view.waiting));
        self.limit.set(f64::from(view.limit));
        self.breaker.set(view.breaker);
    }

    /// Counts an answer with this status.
    pub fn answered(&self, status: u16) {
        self.answered[usize::from(status / 100).min(5)].increment(1);
    }
}

struct Shed {
    shed: Counter,
    error: Counter,
}

impl std::fmt::Debug for FunctionMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FunctionMetrics")
    }
}
