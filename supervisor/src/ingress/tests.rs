//! What the unit tests of this module share.

use std::path::Path;

use crate::catalog::manifest::{Defaults, Manifest};
use crate::name::FunctionName;

/// A manifest of defaults, for one instance at most.
pub(crate) fn manifest() -> Manifest {
    let name = FunctionName::parse("hello").unwrap();
    let mut manifest = Manifest::read(&name, Path::new("hello"), None, &Defaults::default()).unwrap();
    manifest.scale.max = 1;
    manifest
}
