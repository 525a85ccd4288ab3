//! From `function.toml` as typed to the manifest as used: all defaults and all ranges, in one place. Reads no file.

mod binding;
mod contract;
mod health;
mod process;
mod route;
mod sandbox;
mod scale;

use std::time::Duration;

use super::guess::Guess;
use super::manifest::{AsLambda, Contract, Health, Manifest, RequestBounds, Retry};
use super::manifest_file::ManifestFile;
use crate::admission::Class;
use crate::admission::queue::Order;
use crate::typed::{Found, Layer, Spanned, TypedError, error, pick, size, span};
pub(crate) use sandbox::properties;

type Layers<'a> = &'a [Layer<ManifestFile>];

/// Arguments, environment and grants together, in bytes: they travel to the launcher in one message of 64 KiB.
const MAX_TEXT: usize = 32 * 1024;

/// The manifest of the function `name`; layers strongest first.
///
/// # Errors
/// [`TypedError`] with the place of the first mistake.
pub(super) fn manifest(name: &str, layers: Layers<'_>) -> Result<Manifest, TypedError> {
    not_in_this_version(layers)?;
    let (contract, is_auto) = contract::contract(layers)?;
    // What those functions find elsewhere: one request at a time, 6 MB, and 2 seconds to end.
    let is_lambda = matches!(contract, Contract::Lambda { .. });
    let priority = word(layers, "priority", |f| f.request.priority.as_ref(), &PRIORITIES)?;
    let env = process::env(layers)?;
    let manifest = Manifest {
        exec: process::exec(name, layers)?,
        args: process::args(layers)?,
        bindings: binding::bindings(layers, (contract, is_auto), &env)?,
        env,
        secrets: process::secrets(layers)?,
        contract,
        found: is_auto.then(Guess::default),
        as_lambda: AsLambda {
            concurrency: pick(layers, |f| f.scale.concurrency.as_ref()).is_none(),
            body: pick(layers, |f| f.request.body.as_ref()).is_none(),
            stop_within: pick(layers, |f| f.health.stop_within.as_ref()).is_none(),
        },
        h2c: contract::h2c(layers, contract, is_auto)?,
        stdio: contract::stdio(layers, contract, is_auto)?,
        routes: route::routes(layers)?,
        scale: scale::scale(layers, contract)?,
        limits: scale::limits(layers, priority)?,
        request: RequestBounds {
            timeout: span(layers, |f| f.request.timeout.as_ref(), MILLI..=DAY, secs(30))?,
            body: size(
                layers,
                |f| f.request.body.as_ref(),
                0..=1 << 40,
                if is_lambda { AsLambda::BODY } else { 16 << 20 },
            )?,
            priority,
            queue: word(layers, "queue", |f| f.request.queue.as_ref(), &QUEUES)?,
            retry: word(layers, "retry", |f| f.request.retry.as_ref(), &RETRIES)?,
        },
        health: Health {
            path: health::health_path(layers)?,
            warmup: health::warmup(layers)?,
            period: health::period(layers)?,
            ready_within: span(layers, |f| f.health.ready_within.as_ref(), MILLI..=HOUR, secs(10))?,
            stop_within: span(
                layers,
                |f| f.health.stop_within.as_ref(),
                Duration::ZERO..=HOUR,
                if is_lambda {
                    AsLambda::STOP_WITHIN
                } else {
                    secs(10)
                },
            )?,
        },
        system: sandbox::scope(layers)?,
        read: sandbox::grants(layers, |f| f.sandbox.read.as_ref())?,
        write: sandbox::grants(layers, |f| f.sandbox.write.as_ref())?,
        degraded: sandbox::degraded(layers)?,
    };
    fits_in_a_message(layers, &manifest)?;
    Ok(manifest)
}

/// A key that is read but does nothing would be worse than none.
fn not_in_this_version(layers: Layers<'_>) -> Result<(), TypedError> {
    let keys = [
        ("rollout", pick(layers, |f| f.rollout.as_ref())),
        ("scale.target", pick(layers, |f| f.scale.target.as_ref())),
    ];
    match keys.into_iter().find_map(|(key, found)| Some((key, found?))) {
        None => Ok(()),
        Some((key, found)) => Err(found
            .refuse(format!("`{key}` is not supported by this version of funcd"), "")
            .help("remove it: a key is never silently ignored")),
    }
}

const PRIORITIES: [(&str, Class); 4] = [
    ("critical", Class::Critical),
    ("degraded", Class::Degraded),
    ("best-effort", Class::BestEffort),
    ("bulk", Class::Bulk),
];

const QUEUES: [(&str, Order); 2] = [("adaptive", Order::Adaptive), ("fifo", Order::Fifo)];

const RETRIES: [(&str, Retry); 3] = [
    ("never", Retry::Never),
    ("safe", Retry::Safe),
    ("idempotent", Retry::Idempotent),
];

/// One of a few words.
fn word<'a, T: Copy + Default>(
    layers: Layers<'a>,
    key: &str,
    get: impl Fn(&'a ManifestFile) -> Option<&'a Spanned<String>>,
    words: &[(&str, T)],
) -> Result<T, TypedError> {
    match pick(layers, get) {
        Some(found) => known_word(&found, key, words),
        None => Ok(T::default()),
    }
}

fn known_word<T: Copy>(found: &Found<'_, String>, key: &str, words: &[(&str, T)]) -> Result<T, TypedError> {
    if let Some((_, value)) = words.iter().find(|(word, _)| word == found.value) {
        return Ok(*value);
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let label = match error::nearest(found.value, &known) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("use {}", known.join(", ")),
    };
    Err(found.refuse(format!("unknown {key} {:?}", found.value), label))
}

fn in_first<T>(layers: Layers<'_>, found: &Found<'_, T>) -> bool {
    layers.first().is_some_and(|layer| layer.source == *found.source)
}

fn fits_in_a_message(layers: Layers<'_>, manifest: &Manifest) -> Result<(), TypedError> {
    let args: usize = manifest.args.iter().map(|arg| arg.len() + 4).sum();
    let env: usize = manifest.env.iter().map(|(k, v)| k.len() + v.len() + 8).sum();
    let grants = manifest.read.iter().chain(&manifest.write);
    let grants: usize = grants.map(|path| path.as_os_str().len() + 4).sum();
    match layers.first() {
        Some(layer) if args + env + grants > MAX_TEXT => {
            let message = format!("args, env and grants have {} bytes together", args + env + grants);
            let error = TypedError::new(layer.source.clone(), 0..0, message, String::new());
            Err(error.help(format!(
                "keep them below {MAX_TEXT}: put data into a file beside the function"
            )))
        }
        _ => Ok(()),
    }
}

fn no_nul(found: &Found<'_, String>) -> Result<(), TypedError> {
    match found.value.contains('\0') {
        true => Err(found.refuse("a NUL character can't be in here", "")),
        false => Ok(()),
    }
}

const MILLI: Duration = Duration::from_millis(1);

const HOUR: Duration = Duration::from_secs(3600);

const DAY: Duration = Duration::from_secs(86_400);

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}
