//! How it is found to be alive. Reads no file.

use std::time::Duration;

use super::route::path_refusal;
use super::{HOUR, Layers, secs};
use crate::typed::{TypedError, pick, span};

/// Each takes its time from `ready_within`, so there are few.
const MAX_WARMUP: usize = 16;

pub(super) fn warmup(layers: Layers<'_>) -> Result<Vec<String>, TypedError> {
    let Some(found) = pick(layers, |f| f.health.warmup.as_ref()) else {
        return Ok(Vec::new());
    };
    if found.value.len() > MAX_WARMUP {
        return Err(found.refuse(format!("more than {MAX_WARMUP} paths to warm up with"), ""));
    }
    let each = found.value.iter().map(|path| match path_refusal(path.get_ref()) {
        Some(why) => Err(found.part(path).refuse(
            format!("{:?} is not a path: {why}", path.get_ref()),
            "a path such as \"/\"",
        )),
        None => Ok(path.get_ref().clone()),
    });
    each.collect()
}

pub(super) fn period(layers: Layers<'_>) -> Result<Option<Duration>, TypedError> {
    let Some(found) = pick(layers, |f| f.health.period.as_ref()) else {
        return Ok(None);
    };
    if pick(layers, |f| f.health.path.as_ref()).is_none() {
        return Err(found.refuse(
            "there is nothing to ask for: `period` needs `health.path`".to_owned(),
            "add `path = \"/healthz\"`, or leave `period` out",
        ));
    }
    span(layers, |f| f.health.period.as_ref(), secs(1)..=HOUR, HOUR).map(Some)
}

pub(super) fn health_path(layers: Layers<'_>) -> Result<Option<String>, TypedError> {
    let Some(found) = pick(layers, |f| f.health.path.as_ref()) else {
        return Ok(None);
    };
    match path_refusal(found.value) {
        Some(why) => Err(found.refuse(
            format!("{:?} is not a path: {why}", found.value),
            "a path such as \"/healthz\"",
        )),
        None => Ok(Some(found.value.clone())),
    }
}
