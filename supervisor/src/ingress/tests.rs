//! What unit tests share.

use std::path::Path;
use std::sync::Arc;

use funcd_sandbox::spec::{Digest, Image};

use crate::catalog::manifest::{Defaults, Manifest};
use crate::catalog::view::Wanted;
use crate::function::handle::Revision;
use crate::name::{FunctionName, RevisionId};

/// A manifest of defaults, for one instance at most.
pub(crate) fn manifest() -> Manifest {
    let name = FunctionName::parse("hello").unwrap();
    let mut manifest = Manifest::read(&name, Path::new("hello"), None, &Defaults::default()).unwrap();
    manifest.scale.max = 1;
    manifest
}

/// A revision of the executable that is called `n`.
pub(crate) fn revision(n: u8, manifest: Manifest) -> Arc<Revision> {
    let artifact = Digest([n; 32]);
    Arc::new(Revision {
        id: RevisionId::of(artifact, ""),
        artifact,
        image: Image::Static,
        wanted: Wanted::default(),
        manifest: Arc::new(manifest),
        manifest_text: String::new(),
    })
}
