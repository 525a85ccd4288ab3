//! A function's metric handles, made once: a request touches handles, it never formats a label.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::name::FunctionName;
use crate::telemetry::names;

/// A function's metric handles.
pub struct FunctionMetrics {
    /// By class of status: index 2 is `2xx`; index 0 is unused.
    answered: [Counter; 6],
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
            duration: histogram!(names::INVOCATION_DURATION_SECONDS, "function" => function()),
            in_flight: gauge!(names::INVOCATIONS_IN_FLIGHT, "function" => function()),
            overhead: histogram!(names::PROXY_OVERHEAD_SECONDS, "function" => function()),
            request_bytes: counter!(names::REQUEST_BYTES_TOTAL, "function" => function()),
            response_bytes: counter!(names::RESPONSE_BYTES_TOTAL, "function" => function()),
        }
    }

    /// Counts an answer with this status.
    pub fn answered(&self, status: u16) {
        self.answered[usize::from(status / 100).min(5)].increment(1);
    }
}

impl std::fmt::Debug for FunctionMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FunctionMetrics")
    }
}
