//! What an instance that was never ready had been waited for, for whoever has to set it right. Pure.

use crate::catalog::manifest::{Contract, Manifest};

/// What was waited for in vain, and what to do: it follows "not ready in time, killed".
pub(super) fn in_vain(manifest: &Manifest) -> String {
    let what = match (&manifest.health.path, &manifest.contract) {
        (Some(path), Contract::Port(port)) => {
            format!("{path} on port {port} of 127.0.0.1 answered neither 2xx nor 3xx")
        }
        (Some(path), _) => format!("{path} answered neither 2xx nor 3xx"),
        (None, Contract::Port(port)) => format!(
            "nothing accepted connections on port {port} of 127.0.0.1: it has to listen on $PORT, of all addresses or \
             127.0.0.1, not of ::1 alone"
        ),
        (None, Contract::Lambda { .. }) => {
            "it did not ask for its first invocation at $AWS_LAMBDA_RUNTIME_API".to_owned()
        }
        (None, Contract::Fn) => "no socket came at $FN_LISTENER".to_owned(),
        (None, _) => "it did not accept a connection on descriptor 3".to_owned(),
    };
    let bound = manifest.health.ready_within;
    format!("{what}; raise `health.ready_within` if it needs more than {bound:?}")
}
