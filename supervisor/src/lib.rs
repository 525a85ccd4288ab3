//! The supervisor of funcd: HTTP, policy, metrics. Holds no privilege; asks the launcher for every effect on the
//! system. `ARCHITECTURE.md` draws the life of a request, of a dropped executable and of a crash.
#![forbid(unsafe_code)]

pub mod admin;
pub mod admission;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod contract;
pub mod daemon;
pub mod egress;
pub mod function;
pub mod handover;
pub mod host;
pub mod ingress;
pub mod launcher;
pub mod ledger;
pub mod name;
pub mod snapshot;
pub mod telemetry;
pub mod typed;
