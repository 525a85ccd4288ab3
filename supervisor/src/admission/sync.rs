//! Where this folder takes locks and atomics from. A test puts others in their place that try every interleaving.

pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
pub(super) use std::sync::{Arc, Mutex};
