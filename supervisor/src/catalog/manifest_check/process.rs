//! What is executed: `exec`, arguments, environment and secrets. Reads no file.

use std::collections::{BTreeMap, BTreeSet};

use funcd_sandbox::spec::{MAX_SECRETS, is_secret_name};

use super::{Layers, no_nul};
use crate::typed::{TypedError, pick};

pub(super) fn exec(name: &str, layers: Layers<'_>) -> Result<String, TypedError> {
    let Some(found) = pick(layers, |f| f.exec.as_ref()) else {
        return Ok(name.to_owned());
    };
    let file = found.value;
    no_nul(&found)?;
    if file.is_empty() || file.len() > 255 || file.contains('/') || file == "." || file == ".." {
        let label = "a file name in the function's own folder, without '/'";
        return Err(found.refuse("`exec` is not a file name", label));
    }
    if file == "function.toml" {
        return Err(found.refuse("`exec` names the manifest itself", ""));
    }
    Ok(file.clone())
}

pub(super) fn args(layers: Layers<'_>) -> Result<Vec<String>, TypedError> {
    let Some(found) = pick(layers, |f| f.args.as_ref()) else {
        return Ok(Vec::new());
    };
    let each = found.value.iter().map(|arg| {
        no_nul(&found.part(arg))?;
        Ok(arg.get_ref().clone())
    });
    each.collect()
}

/// Each variable from the strongest layer that mentions it.
pub(super) fn env(layers: Layers<'_>) -> Result<Vec<(String, String)>, TypedError> {
    let mut env = BTreeMap::new();
    for layer in layers.iter().rev() {
        for (name, value) in &layer.typed.env {
            let name = layer.found(name);
            if let Some(why) = env_name_refusal(name.value) {
                return Err(name.refuse(format!("environment variable {:?} {why}", name.value), ""));
            }
            no_nul(&layer.found(value))?;
            env.insert(name.value.clone(), value.get_ref().clone());
        }
    }
    Ok(env.into_iter().collect())
}

/// Why a variable can't be set by a manifest.
pub(super) fn env_name_refusal(name: &str) -> Option<&'static str> {
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    let well_formed = name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit());
    if !well_formed || name.len() > 255 {
        Some("has a bad name: use letters, digits and '_', and don't begin with a digit")
    } else if name.starts_with("LD_") {
        Some("is refused: LD_* changes what code runs, and what runs is what was stored")
    } else if name.starts_with("LISTEN_")
        || name.starts_with("FUNCD_")
        || [
            "PORT",
            "NOTIFY_SOCKET",
            "CREDENTIALS_DIRECTORY",
            "AWS_LAMBDA_RUNTIME_API",
            "AWS_LAMBDA_MAX_CONCURRENCY",
            "FN_LISTENER",
            "FN_FORMAT",
        ]
        .contains(&name)
    {
        Some("is reserved: funcd sets it")
    } else {
        None
    }
}

/// Whether they exist is seen at each start: they come and go without the manifest.
pub(super) fn secrets(layers: Layers<'_>) -> Result<Vec<String>, TypedError> {
    let Some(found) = pick(layers, |f| f.secrets.as_ref()) else {
        return Ok(Vec::new());
    };
    let mut names = BTreeSet::new();
    for typed in found.value {
        let name = found.part(typed);
        if !is_secret_name(name.value) {
            let label = "1 to 64 letters, digits, '.', '_' and '-', without '.' in front";
            return Err(name.refuse(format!("{:?} is not the name of a secret", name.value), label));
        }
        names.insert(name.value.clone());
    }
    if names.len() > MAX_SECRETS {
        return Err(found.refuse(format!("more than {MAX_SECRETS} secrets"), ""));
    }
    Ok(names.into_iter().collect())
}
