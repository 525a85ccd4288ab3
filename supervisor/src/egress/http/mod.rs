//! HTTP bindings: what is learnt of a target, connections to it, and which path of it is meant. How a call gets in, and is
//! answered, is in [`crate::ingress::inside`].

pub mod guard;
pub mod link;
pub mod path;
