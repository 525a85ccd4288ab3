//! What is asked: accepts connections, parses HTTP, routes, forwards and answers. Never starts or stops anything.
//!
//! ```text
//! listener → client_io → request::handle → route → permit → lease → forward → body
//!                │                  └── respond: every error of funcd's own, one table
//!                └── inspect, frames: what hyper and h2 are not to see
//! ```
//!
//! One worker is one thread with one runtime and its own listener; nothing on the warm path crosses threads. A
//! request's upstream connection is polled in the request's own task, and a connection has one timer for all its
//! deadlines (`watch`), so that a warm request spawns nothing, locks nothing that is shared and makes no timer.

mod answer;
mod body;
mod call;
mod channel;
mod channels;
mod client_io;
mod connection;
mod exchange;
mod flaw;
mod forward;
mod frames;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod grpc;
mod headers;
mod heard;
mod ids;
pub mod inside;
mod inspect;
mod link;
mod listener;
mod per_request;
mod pool;
mod received;
mod request;
mod resets;
mod respond;
mod route;
mod suspect;
mod terms;
mod trust;
mod upgrade;
mod via;
mod visit;
mod watch;
mod worker;

pub use link::{Broken, Link};
pub use route::{Conflict, Match, Routes, Target};
pub use trust::BadNetwork;
pub use worker::{LINGER, Shared, Workers, spawn_workers};

#[cfg(test)]
pub(crate) mod tests;
