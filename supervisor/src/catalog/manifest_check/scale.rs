//! How many there are, and how much each may use. Reads no file.

use std::time::Duration;

use funcd_sandbox::spec::Limits;

use super::super::manifest::{Contract, Scale};
use super::contract::concurrency;
use super::{DAY, Layers, MILLI, in_first, secs};
use crate::admission::Class;
use crate::typed::{TypedError, number, pick, size, span};

pub(super) fn scale(layers: Layers<'_>, contract: Contract) -> Result<Scale, TypedError> {
    let max = number(layers, |f| f.scale.max.as_ref(), 1..=10_000, 8)?;
    let min = number(layers, |f| f.scale.min.as_ref(), 0..=10_000, 0)?;
    if min > max {
        let (low, high) = (
            pick(layers, |f| f.scale.min.as_ref()),
            pick(layers, |f| f.scale.max.as_ref()),
        );
        let message = format!("scale.min is {min} and scale.max is {max}: min is larger than max");
        // The stronger of the two is the one that was just typed.
        let found = match (low, high) {
            (Some(low), Some(high)) if in_first(layers, &high) && !in_first(layers, &low) => high,
            (Some(low), _) => low,
            (None, Some(high)) => high,
            (None, None) => unreachable!("the defaults are in order"),
        };
        return Err(found.refuse(message, ""));
    }
    let idle = span(layers, |f| f.scale.idle.as_ref(), MILLI..=365 * DAY, secs(60))?;
    let to_u32 = |n: u64| u32::try_from(n).expect("the range was checked");
    Ok(Scale {
        min: to_u32(min),
        max: to_u32(max),
        concurrency: to_u32(concurrency(layers, contract)?),
        prewarm: to_u32(number(layers, |f| f.scale.prewarm.as_ref(), 0..=10_000, 0)?),
        idle,
        freeze: freeze(layers, min, idle)?,
    })
}

pub(super) fn freeze(layers: Layers<'_>, min: u64, idle: Duration) -> Result<Option<Duration>, TypedError> {
    let Some(found) = pick(layers, |f| f.scale.freeze.as_ref()) else {
        return Ok(None);
    };
    let freeze = span(layers, |f| f.scale.freeze.as_ref(), MILLI..=365 * DAY, secs(60))?;
    // One in [defaults] is for those functions that live long enough.
    if min == 0 && freeze >= idle && in_first(layers, &found) {
        return Err(found
            .refuse(
                format!("scale.freeze does nothing: after scale.idle ({idle:?}) nothing is left to freeze"),
                "",
            )
            .help("set it below `idle`, or raise `idle`"));
    }
    Ok(Some(freeze))
}

pub(super) fn limits(layers: Layers<'_>, priority: Class) -> Result<Limits, TypedError> {
    let to_u32 = |n: u64| u32::try_from(n).expect("the range was checked");
    Ok(Limits {
        memory_bytes: size(layers, |f| f.limits.memory.as_ref(), 4 << 20..=1 << 46, 256 << 20)?,
        cpu_millis: pick(layers, |f| f.limits.cpu.as_ref()).map_or(1000, |cpu| cpu.value.0),
        cpu_idle: priority == Class::Bulk,
        pids: to_u32(number(layers, |f| f.limits.pids.as_ref(), 1..=1 << 22, 64)?),
        // 0 would mean "without a limit" to tmpfs.
        tmp_bytes: size(layers, |f| f.limits.tmp.as_ref(), 64 << 10..=1 << 40, 64 << 20)?,
        files: to_u32(number(layers, |f| f.limits.files.as_ref(), 16..=1 << 20, 1024)?),
    })
}
