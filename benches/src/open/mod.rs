//! An open loop: callers who do not wait for each other. Each request is due at a moment that was drawn before the run, and its
//! latency counts from that moment, however late it could be sent (no coordinated omission). Its clients leave at their deadline.

mod book;
mod callers;
mod place;
mod plan;
mod seen;

pub(crate) use book::{End, Record};
pub(crate) use callers::Callers;
pub(crate) use plan::{Kind, Phase};
pub(crate) use seen::{Part, Seen};
