//! Telemetry: what funcd says about itself. Never labels by path, id or pid.

pub mod names;
