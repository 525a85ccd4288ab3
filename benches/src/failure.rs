//! Why a measurement could not be made. Never used for a goal that was missed: that is a result.

use std::fmt;

/// A measurement that could not be made, as one sentence for the operator.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// The result of a step of a measurement.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// Says which step failed.
pub(crate) trait During<T> {
    /// Names the step, with its path or address, in front of the cause.
    fn during(self, step: impl fmt::Display) -> Outcome<T>;
}

impl<T, E: fmt::Display> During<T> for Result<T, E> {
    fn during(self, step: impl fmt::Display) -> Outcome<T> {
        self.map_err(|cause| Failure(format!("{step}: {cause}")))
    }
}
