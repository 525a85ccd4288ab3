//! What names of bound places mean.

use std::net::IpAddr;

/// Why a name means nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum ResolveError {
    /// Names are not looked up.
    #[error("names are not looked up")]
    Unsupported,
}

/// Looks names up.
#[derive(Debug)]
pub(super) struct Resolver {}

impl Resolver {
    pub(super) fn new() -> Resolver {
        Resolver {}
    }

    /// The addresses of a name, in the order in which they are to be tried; at least one.
    pub(super) async fn addresses(&self, _name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        Err(ResolveError::Unsupported)
    }
}
