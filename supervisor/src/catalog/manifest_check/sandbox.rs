//! What it is granted of the host, and what it may do without. Reads no file.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use funcd_sandbox::property::Property;

use super::super::manifest_file::ManifestFile;
use super::super::view::Scope;
use super::{Layers, no_nul};
use crate::typed::{Found, Spanned, TypedError, error, pick};

pub(super) fn scope(layers: Layers<'_>) -> Result<Scope, TypedError> {
    match pick(layers, |f| f.sandbox.system.as_ref()) {
        None => Ok(Scope::Auto),
        Some(found) => match found.value.as_str() {
            "auto" => Ok(Scope::Auto),
            "full" => Ok(Scope::Full),
            other => Err(found.refuse(format!("unknown system {other:?}"), "use \"auto\" or \"full\"")),
        },
    }
}

pub(super) fn grants<'a>(
    layers: Layers<'a>,
    get: impl Fn(&'a ManifestFile) -> Option<&'a Spanned<Vec<Spanned<String>>>>,
) -> Result<Vec<PathBuf>, TypedError> {
    let Some(found) = pick(layers, get) else {
        return Ok(Vec::new());
    };
    let mut grants = BTreeSet::new();
    for typed in found.value {
        let grant = found.part(typed);
        no_nul(&grant)?;
        let path = Path::new(grant.value);
        let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        if !path.is_absolute() || !path.components().all(plain) || grant.value.len() > 4095 {
            let message = format!(
                "{:?} can't be granted: a grant is an absolute path without \"..\"",
                grant.value
            );
            return Err(grant.refuse(message, ""));
        }
        if path.parent().is_none() {
            return Err(grant.refuse(
                "\"/\" can't be granted: name the folder that the function needs",
                "",
            ));
        }
        // components() drops "." and doubled slashes.
        grants.insert(path.components().collect());
    }
    if grants.len() > 64 {
        return Err(found.refuse("more than 64 grants", ""));
    }
    Ok(grants.into_iter().collect())
}

pub(super) fn degraded(layers: Layers<'_>) -> Result<Vec<Property>, TypedError> {
    match pick(layers, |f| f.sandbox.degraded.as_ref()) {
        None => Ok(Vec::new()),
        Some(found) => properties(&found),
    }
}

/// A list of properties, in order, each once.
///
/// # Errors
/// [`TypedError`] at the first that is not one.
pub(crate) fn properties(found: &Found<'_, Vec<Spanned<String>>>) -> Result<Vec<Property>, TypedError> {
    let mut properties = BTreeSet::new();
    for typed in found.value {
        let name = typed.get_ref();
        let Some(property) = Property::parse(name) else {
            let known = Property::ALL.map(Property::as_str);
            let label = error::nearest(name, &known).map(|near| format!("did you mean {near:?}?"));
            let error = found
                .part(typed)
                .refuse(format!("unknown property {name:?}"), label.unwrap_or_default());
            return Err(error.help(format!("the properties are {}, or P1 to P10", known.join(", "))));
        };
        properties.insert(property);
    }
    Ok(properties.into_iter().collect())
}
