//! THE WAY OUT: bindings.

pub mod bound;
pub mod http;
