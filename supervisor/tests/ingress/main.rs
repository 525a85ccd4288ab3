//! The ingress from outside: real workers on loopback, callers that write raw bytes, functions that are plain servers
//! on Unix sockets. No sandbox, no launcher.

#![allow(clippy::unwrap_used, reason = "tests: the harness is no #[test] itself")]

mod answers;
mod binding;
mod bodies;
mod bounds;
mod downgrade;
mod explain;
mod floods;
mod framing;
mod h2;
mod heads;
mod host;
mod inside;
mod overload;
mod siblings;
mod slow;
mod smuggling;
mod upstream;
