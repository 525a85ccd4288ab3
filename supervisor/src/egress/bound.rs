//! One HTTP binding of one function, as all its instances share it: how calls through it went. Made with the first instance that has it,
//! and kept while its target stays the same: what was learnt of that survives instances and revisions.

use std::sync::Arc;
use std::time::Instant;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::http::guard::Guard;
use crate::admission::breaker::Shown;
use crate::catalog::binding::Target;
use crate::name::FunctionName;
use crate::telemetry::names;

/// One HTTP binding of one function.
#[derive(Debug)]
pub struct Bound {
    /// Whose it is.
    pub function: FunctionName,
    /// Its name.
    pub name: String,
    /// Where it leads.
    pub to: Target,
    /// Who may pass.
    pub guard: Arc<Guard>,
    pub(crate) metrics: BoundMetrics,
}

impl Bound {
    /// A binding that nobody has called yet.
    pub fn new(function: &FunctionName, name: &str, to: &Target) -> Arc<Bound> {
        Arc::new(Bound {
            metrics: BoundMetrics::new(function, name),
            guard: Guard::new(Instant::now()),
            function: function.clone(),
            name: name.to_owned(),
            to: to.clone(),
        })
    }

    /// The breaker is another one now: for the metric and the log.
    pub(crate) fn note(&self, breaker: Shown) {
        self.metrics.breaker.set(match breaker {
            Shown::Closed => 0.0,
            Shown::HalfOpen => 0.5,
            Shown::Open(_) => 1.0,
        });
        let (function, binding) = (self.function.as_str(), &*self.name);
        let target = self.to.to_string();
        match breaker {
            Shown::Open(until) => tracing::warn!(
                function,
                binding,
                target,
                seconds = until.saturating_duration_since(Instant::now()).as_secs_f64(),
                "a binding's breaker opened: half of its calls fail or are slow, so calls are refused for a while; \
                 see that the target answers, it is tried again by itself"
            ),
            Shown::Closed => tracing::info!(
                function,
                binding,
                target,
                "a binding's breaker closed: its target answers again"
            ),
            Shown::HalfOpen => {}
        }
    }
}

/// A binding's metric handles, made once.
pub(crate) struct BoundMetrics {
    /// By class of status: index 2 is `2xx`; index 0 is a call that its function gave up.
    answered: [Counter; 6],
    /// Seconds from a call to the end of its answer.
    pub(crate) duration: Histogram,
    breaker: Gauge,
    retries: [Counter; 2],
}

impl BoundMetrics {
    fn new(function: &FunctionName, binding: &str) -> BoundMetrics {
        let (function, binding) = (|| function.as_str().to_owned(), || binding.to_owned());
        let answered = ["gone", "1xx", "2xx", "3xx", "4xx", "5xx"].map(|code| {
            counter!(names::BINDING_REQUESTS_TOTAL, "function" => function(), "binding" => binding(), "code" => code)
        });
        BoundMetrics {
            answered,
            duration: histogram!(names::BINDING_DURATION_SECONDS, "function" => function(), "binding" => binding()),
            breaker: gauge!(names::BINDING_BREAKER_STATE, "function" => function(), "binding" => binding()),
            retries: ["budget", "sent"].map(|result| {
                counter!(names::BINDING_RETRIES_TOTAL, "function" => function(), "binding" => binding(), "result" => result)
            }),
        }
    }

    /// Counts a call that ended, with this status; `None`: its function left before there was one.
    pub(crate) fn ended(&self, status: Option<u16>) {
        let class = status.map_or(0, |status| usize::from(status / 100).clamp(1, 5));
        self.answered[class].increment(1);
    }

    /// A call was sent again, or, for want of budget, was not.
    pub(crate) fn retried(&self, sent: bool) {
        self.retries[usize::from(sent)].increment(1);
    }
}

impl std::fmt::Debug for BoundMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BoundMetrics")
    }
}
