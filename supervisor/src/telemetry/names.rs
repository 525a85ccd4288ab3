//! The names of all metrics, in one place, so that a dashboard can be checked against it. Never holds a value.

// Requests, as the ingress sees them.

/// Counter: requests answered, by `function`, `trigger` and `code` (the class of the status).
pub const INVOCATIONS_TOTAL: &str = "funcd_invocations_total";
/// Histogram, seconds: from a request's arrival to the end of its response body, by `function`.
pub const INVOCATION_DURATION_SECONDS: &str = "funcd_invocation_duration_seconds";
/// Counter: requests that failed for a reason of the platform or of the connection, by `function` and `reason`.
pub const INVOCATION_ERRORS_TOTAL: &str = "funcd_invocation_errors_total";
/// Gauge: requests between routing and the end of their response body, by `function`.
pub const INVOCATIONS_IN_FLIGHT: &str = "funcd_invocations_in_flight";
/// Histogram, seconds: from a request's arrival to its hand-over to an instance, by `function`.
pub const PROXY_OVERHEAD_SECONDS: &str = "funcd_proxy_overhead_seconds";
/// Counter, bytes of request bodies forwarded, by `function`.
pub const REQUEST_BYTES_TOTAL: &str = "funcd_request_bytes_total";
/// Counter: requests refused before any work was done, by `function`, `reason` and `class`.
pub const REQUESTS_SHED_TOTAL: &str = "funcd_requests_shed_total";
/// Counter, bytes of response bodies forwarded, by `function`.
pub const RESPONSE_BYTES_TOTAL: &str = "funcd_response_bytes_total";
