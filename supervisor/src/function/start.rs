//! From a revision to the launcher's [`Spec`]: arguments, environment, socket, what it sees of the system. Pure, but for
//! a look at the system's libraries when they changed.

use std::path::Path;
use std::sync::Arc;

use funcd_sandbox::spec::{CREDENTIALS, Digest, EXCHANGE, Image, Socket, Spec};
use serde::{Deserialize, Serialize};

use super::handle::Revision;
use crate::catalog::binding::Binding;
use crate::catalog::guess::Guess;
use crate::catalog::manifest::{Contract, Defaults, Manifest};
use crate::catalog::view::{Asks, Wanted};
use crate::contract::{lambda, port};
use crate::name::{FunctionName, RevisionId};

/// What the next supervisor must know about an instance to take it over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memo {
    function: FunctionName,
    artifact: Digest,
    image: Image,
    asks: Asks,
    /// The contract that was found where the manifest leaves that open: the file is not there to be looked at again.
    #[serde(default)]
    found: Option<Guess>,
    manifest: String,
}

impl Memo {
    fn of(function: &FunctionName, revision: &Revision) -> Memo {
        Memo {
            function: function.clone(),
            artifact: revision.artifact,
            image: revision.image,
            asks: revision.wanted.asks.clone(),
            found: revision.manifest.found.clone(),
            manifest: revision.manifest_text.clone(),
        }
    }

    /// The function and revision that a memo tells of, or why it can't be understood.
    pub(super) fn read(bytes: &[u8], defaults: &Defaults) -> Result<(FunctionName, Revision), String> {
        let memo: Memo = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        let Memo {
            function,
            artifact,
            image,
            asks,
            found,
            manifest: manifest_text,
        } = memo;
        let text = (!manifest_text.is_empty()).then_some(manifest_text.as_str());
        let mut manifest = Manifest::read(&function, Path::new("function.toml"), text, defaults)
            .map_err(|e| e.to_string())?;
        if let Some(found) = found {
            manifest.settle(found);
        }
        let id = RevisionId::of(artifact, &manifest_text);
        Ok((
            function,
            Revision {
                id,
                artifact,
                image,
                wanted: Wanted::new(asks),
                manifest: Arc::new(manifest),
                manifest_text,
            },
        ))
    }
}

/// What to start for a revision.
pub(crate) fn spec(function: &FunctionName, revision: &Revision) -> Spec {
    let manifest = &revision.manifest;
    let mut args = vec![manifest.exec.clone()];
    args.extend(manifest.args.iter().cloned());
    Spec {
        function: function.to_string(),
        artifact: revision.artifact,
        image: revision.image,
        args,
        env: environment(function, revision),
        socket: match manifest.contract {
            Contract::Http => Socket::Unix,
            Contract::Port(port) => Socket::Port(port),
            Contract::Lambda { .. } => Socket::None,
            Contract::Stdio | Contract::Cgi | Contract::Ironhttp => Socket::Pipes,
            Contract::Fn => Socket::Directory,
        },
        ports: ports(manifest).collect(),
        limits: manifest.limits,
        system: revision.wanted.view(manifest.system).system(),
        read: manifest.read.clone(),
        write: manifest.write.clone(),
        secrets: manifest.secrets.clone(),
        degraded: manifest.degraded.clone(),
        // What is reached by pipes or in a directory ends with this supervisor: there is nothing to take over.
        memo: match manifest.contract {
            Contract::Stdio | Contract::Cgi | Contract::Ironhttp | Contract::Fn => Vec::new(),
            Contract::Http | Contract::Port(_) | Contract::Lambda { .. } => {
                serde_json::to_vec(&Memo::of(function, revision)).expect("names and digests are JSON strings")
            }
        },
    }
}

/// The ports of its network that the supervisor answers at: where a Lambda function asks for its requests, then its bindings.
pub(super) fn ports(manifest: &Manifest) -> impl Iterator<Item = u16> {
    let own = match manifest.contract {
        Contract::Lambda { .. } => Some(lambda::PORT),
        Contract::Http | Contract::Port(_) | Contract::Fn => None,
        Contract::Stdio | Contract::Cgi | Contract::Ironhttp => None,
    };
    let bound = manifest.bindings.iter().map(|binding| binding.port);
    own.into_iter().chain(bound)
}

/// The whole environment: what the contract sets, then the manifest's own. Nothing is inherited.
fn environment(function: &FunctionName, revision: &Revision) -> Vec<(String, String)> {
    let manifest = &revision.manifest;
    let mut env = vec![
        ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
        ("HOME", "/tmp".to_owned()),
        ("TMPDIR", "/tmp".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("FUNCD_FUNCTION", function.to_string()),
        ("FUNCD_REVISION", revision.id.short()),
    ];
    match manifest.contract {
        Contract::Http => {
            env.push(("LISTEN_FDS", "1".to_owned()));
            env.push(("LISTEN_FDNAMES", "http".to_owned()));
        }
        Contract::Port(port) => env.extend(port::environment(function, revision, port)),
        Contract::Lambda { .. } => env.extend(lambda::environment(function, revision)),
        // The rest comes with each request.
        Contract::Stdio | Contract::Cgi => {}
        Contract::Ironhttp => env.push(("FORMAT", "http".to_owned())),
        Contract::Fn => {
            env.push(("FN_LISTENER", format!("unix:{EXCHANGE}/lsnr.sock")));
            env.push(("FN_FORMAT", "http-stream".to_owned()));
            env.push(("FN_TYPE", "sync".to_owned()));
            // As in Fn an id names one for ever, and a name what people call it; an application is a folder of functions.
            env.push(("FN_FN_ID", function.to_string()));
            env.push(("FN_FN_NAME", function.to_string()));
            env.push(("FN_APP_ID", "funcd".to_owned()));
            env.push(("FN_APP_NAME", "funcd".to_owned()));
            env.push(("FN_MEMORY", (manifest.limits.memory_bytes >> 20).to_string()));
        }
    }
    if !manifest.secrets.is_empty() {
        // As systemd calls it for its services (systemd.exec(5)).
        env.push(("CREDENTIALS_DIRECTORY", CREDENTIALS.to_owned()));
    }
    let bound = manifest.bindings.iter().flat_map(Binding::variables);
    let set_by_manifest = |name: &str| manifest.env.iter().any(|(own, _)| own == name);
    let mut all: Vec<_> = env
        .into_iter()
        .filter(|(name, _)| !set_by_manifest(name))
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    all.extend(bound);
    all.extend(manifest.env.iter().cloned());
    all
}
