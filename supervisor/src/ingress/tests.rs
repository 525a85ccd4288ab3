//! What the unit tests of this module share.

use std::time::Duration;

use funcd_sandbox::spec::Limits;

use crate::catalog::manifest::{Contract, Health, Manifest, RequestBounds, Scale};

/// A manifest of defaults.
pub(crate) fn manifest() -> Manifest {
    Manifest {
        exec: "hello".into(),
        args: vec![],
        env: vec![],
        contract: Contract::Http,
        routes: vec![],
        scale: Scale {
            min: 0,
            max: 1,
            concurrency: 64,
            idle: Duration::from_secs(60),
        },
        limits: Limits {
            memory_bytes: 1 << 28,
            cpu_millis: 1000,
            pids: 64,
            tmp_bytes: 1 << 26,
            files: 1024,
        },
        request: RequestBounds {
            timeout: Duration::from_secs(30),
            body: 1 << 24,
        },
        health: Health {
            path: None,
            ready_within: Duration::from_secs(10),
            stop_within: Duration::from_secs(10),
        },
        read: vec![],
        write: vec![],
        degraded: vec![],
    }
}
