//! A binding's metric handles, made once for each instance: a connection touches handles, it never formats a label.

use metrics::{Counter, Gauge, counter, gauge};

use crate::name::FunctionName;
use crate::telemetry::names;

/// A binding's metric handles.
pub(super) struct Metrics {
    function: String,
    binding: String,
    connected: Counter,
    open: Gauge,
    bytes_out: Counter,
    bytes_in: Counter,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// A connection that is open, for as long as this is kept.
pub(super) struct Open<'a>(&'a Gauge);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

impl Metrics {
    /// Handles from the recorder that is installed now.
    pub(super) fn new(function: &FunctionName, binding: &str) -> Metrics {
        let (function, binding) = (function.to_string(), binding.to_owned());
        let bytes = |direction: &'static str| counter!(names::BINDING_BYTES_TOTAL, "function" => function.clone(), "binding" => binding.clone(), "direction" => direction);
        Metrics {
            connected: connections(&function, &binding, "connected"),
            open: gauge!(names::BINDING_CONNECTIONS, "function" => function.clone(), "binding" => binding.clone()),
            bytes_out: bytes("out"),
            bytes_in: bytes("in"),
            function,
            binding,
        }
    }

    /// A connection stands.
    pub(super) fn connected(&self) -> Open<'_> {
        self.connected.increment(1);
        self.open.increment(1);
        Open(&self.open)
    }

    /// A connection stands, and is used again.
    pub(super) fn dialled(&self) {
        self.connected.increment(1);
    }

    /// A connection does not come about, for this reason.
    pub(super) fn failed(&self, why: &'static str) {
        connections(&self.function, &self.binding, why).increment(1);
    }

    /// So many bytes went out, or came in.
    pub(super) fn carried(&self, is_out: bool, bytes: u64) {
        match is_out {
            true => self.bytes_out.increment(bytes),
            false => self.bytes_in.increment(bytes),
        }
    }
}

fn connections(function: &str, binding: &str, result: &'static str) -> Counter {
    counter!(names::BINDING_CONNECTIONS_TOTAL, "function" => function.to_owned(), "binding" => binding.to_owned(), "result" => result)
}
