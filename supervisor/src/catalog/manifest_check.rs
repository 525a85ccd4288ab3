//! From `function.toml` as typed to the manifest as used: all defaults and all ranges, in one place. Reads no file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use funcd_sandbox::property::Property;
use funcd_sandbox::spec::{Limits, MAX_SECRETS, is_secret_name};

use super::guess::Guess;
use super::manifest::{
    AsLambda, Contract, Health, Manifest, Mode, RequestBounds, Retry, RoutePattern, Scale, Stdio,
};
use super::manifest_file::{ManifestFile, RouteFile};
use super::view::Scope;
use crate::admission::Class;
use crate::admission::queue::Order;
use crate::typed::{Found, Layer, Spanned, TypedError, error, number, pick, size, span};

type Layers<'a> = &'a [Layer<ManifestFile>];

/// Arguments, environment and grants together, in bytes: they travel to the launcher in one message of 64 KiB.
const MAX_TEXT: usize = 32 * 1024;
/// Contracts that the design knows and this version does not.
/// Those that it knows.
const CONTRACTS: [&str; 8] = ["auto", "http", "port", "lambda", "stdio", "cgi", "ironhttp", "fn"];

/// The manifest of the function `name`; layers strongest first.
///
/// # Errors
/// [`TypedError`] with the place of the first mistake.
pub(super) fn manifest(name: &str, layers: Layers<'_>) -> Result<Manifest, TypedError> {
    not_in_this_version(layers)?;
    let (contract, is_auto) = contract(layers)?;
    // What those functions find elsewhere: one request at a time, 6 MB, and 2 seconds to end.
    let is_lambda = matches!(contract, Contract::Lambda { .. });
    let manifest = Manifest {
        exec: exec(name, layers)?,
        args: args(layers)?,
        env: env(layers)?,
        secrets: secrets(layers)?,
        contract,
        found: is_auto.then(Guess::default),
        as_lambda: AsLambda {
            concurrency: pick(layers, |f| f.scale.concurrency.as_ref()).is_none(),
            body: pick(layers, |f| f.request.body.as_ref()).is_none(),
            stop_within: pick(layers, |f| f.health.stop_within.as_ref()).is_none(),
        },
        stdio: stdio(layers, contract, is_auto)?,
        routes: routes(layers)?,
        scale: scale(layers, contract)?,
        limits: limits(layers)?,
        request: RequestBounds {
            timeout: span(layers, |f| f.request.timeout.as_ref(), MILLI..=DAY, secs(30))?,
            body: size(
                layers,
                |f| f.request.body.as_ref(),
                0..=1 << 40,
                if is_lambda { AsLambda::BODY } else { 16 << 20 },
            )?,
            priority: word(layers, "priority", |f| f.request.priority.as_ref(), &PRIORITIES)?,
            queue: word(layers, "queue", |f| f.request.queue.as_ref(), &QUEUES)?,
            retry: word(layers, "retry", |f| f.request.retry.as_ref(), &RETRIES)?,
        },
        health: Health {
            path: health_path(layers)?,
            warmup: warmup(layers)?,
            period: period(layers)?,
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
        system: scope(layers)?,
        read: grants(layers, |f| f.sandbox.read.as_ref())?,
        write: grants(layers, |f| f.sandbox.write.as_ref())?,
        degraded: degraded(layers)?,
    };
    fits_in_a_message(layers, &manifest)?;
    Ok(manifest)
}

/// A key that is read but does nothing would be worse than none.
fn not_in_this_version(layers: Layers<'_>) -> Result<(), TypedError> {
    let keys = [
        ("rollout", pick(layers, |f| f.rollout.as_ref())),
        ("bindings", pick(layers, |f| f.bindings.as_ref())),
        ("h2c", pick(layers, |f| f.h2c.as_ref())),
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
    let Some(found) = pick(layers, get) else {
        return Ok(T::default());
    };
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

fn exec(name: &str, layers: Layers<'_>) -> Result<String, TypedError> {
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

fn args(layers: Layers<'_>) -> Result<Vec<String>, TypedError> {
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
fn env(layers: Layers<'_>) -> Result<Vec<(String, String)>, TypedError> {
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
fn env_name_refusal(name: &str) -> Option<&'static str> {
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
fn secrets(layers: Layers<'_>) -> Result<Vec<String>, TypedError> {
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

/// The contract, and whether another may yet be found in the executable.
fn contract(layers: Layers<'_>) -> Result<(Contract, bool), TypedError> {
    let found = pick(layers, |f| f.contract.as_ref());
    let port = pick(layers, |f| f.port.as_ref());
    let contract = found.as_ref().map_or("auto", |f| f.value.as_str());
    let invoke = pick(layers, |f| f.invoke.as_ref());
    if let Some(invoke) = invoke
        .as_ref()
        .filter(|invoke| contract != "lambda" && in_first(layers, invoke))
    {
        return Err(invoke
            .refuse(format!("`invoke` means nothing with contract = {contract:?}"), "")
            .help("set contract = \"lambda\" if the function is one for AWS Lambda"));
    }
    match contract {
        "auto" | "http" => match port {
            // A port in [defaults] is for those functions that want one; in the function's own manifest it is a mistake.
            Some(port) if in_first(layers, &port) => Err(port
                .refuse(format!("`port` means nothing with contract = {contract:?}"), "")
                .help("set contract = \"port\" if the function listens on $PORT itself")),
            _ => Ok((Contract::Http, contract == "auto")),
        },
        "stdio" => Ok((Contract::Stdio, false)),
        "cgi" => Ok((Contract::Cgi, false)),
        "ironhttp" => Ok((Contract::Ironhttp, false)),
        "fn" => Ok((Contract::Fn, false)),
        "port" => {
            // Below 1024 it would need a privilege that no function has.
            let port = number(layers, |f| f.port.as_ref(), 1024..=65535, 8080)?;
            let port = u16::try_from(port).expect("the range was checked");
            Ok((Contract::Port(port), false))
        }
        "lambda" => match port {
            Some(port) if in_first(layers, &port) => {
                Err(port.refuse("`port` means nothing with contract = \"lambda\"", ""))
            }
            _ => Ok((
                Contract::Lambda {
                    invoke: invoke.is_some_and(|invoke| *invoke.value),
                },
                false,
            )),
        },
        other => {
            let found = found.expect("the default is \"auto\"");
            let use_one =
                "use \"auto\", \"http\", \"port\", \"lambda\", \"stdio\", \"cgi\", \"ironhttp\" or \"fn\"";
            let label = error::nearest(other, &CONTRACTS).map(|near| format!("did you mean {near:?}?"));
            let label = label.unwrap_or_else(|| use_one.into());
            Err(found.refuse(format!("unknown contract {other:?}"), label))
        }
    }
}

fn mode(layers: Layers<'_>) -> Result<Mode, TypedError> {
    match pick(layers, |f| f.stdio.mode.as_ref()) {
        None => Ok(Mode::default()),
        Some(found) => match found.value.as_str() {
            "classic" => Ok(Mode::Classic),
            "streaming" => Ok(Mode::Streaming),
            "serializing" => Ok(Mode::Serializing),
            other => Err(found.refuse(
                format!("unknown mode {other:?}"),
                "use \"classic\", \"streaming\" or \"serializing\"",
            )),
        },
    }
}

fn stdio(layers: Layers<'_>, contract: Contract, is_auto: bool) -> Result<Stdio, TypedError> {
    let content_type = pick(layers, |f| f.stdio.content_type.as_ref());
    if let Some(found) = &content_type
        && http::HeaderValue::try_from(found.value.as_str()).is_err()
    {
        return Err(found.refuse(
            format!("{:?} can't be the value of a header", found.value),
            "a media type such as \"text/plain\"",
        ));
    }
    let is_stdio = contract == Contract::Stdio || is_auto;
    if let Some(found) =
        pick(layers, |f| f.stdio.mode.as_ref()).filter(|found| !is_stdio && in_first(layers, found))
    {
        return Err(found
            .refuse(
                format!(
                    "`stdio.mode` means nothing with contract = {:?}",
                    contract.as_str()
                ),
                "",
            )
            .help("set contract = \"stdio\", or remove it"));
    }
    Ok(Stdio {
        mode: mode(layers)?,
        content_type: content_type.map(|found| found.value.clone()),
        output: size(layers, |f| f.stdio.output.as_ref(), 1 << 10..=1 << 30, 4 << 20)?,
    })
}

fn in_first<T>(layers: Layers<'_>, found: &Found<'_, T>) -> bool {
    layers.first().is_some_and(|layer| layer.source == *found.source)
}

fn routes(layers: Layers<'_>) -> Result<Vec<RoutePattern>, TypedError> {
    let Some(found) = pick(layers, |f| f.route.as_ref()) else {
        return Ok(Vec::new());
    };
    if found.value.len() > 64 {
        return Err(found.refuse("more than 64 routes", ""));
    }
    let mut routes = Vec::new();
    for typed in found.value {
        let route = route(&found, typed)?;
        if routes.contains(&route) {
            let part = typed.path.as_ref().or(typed.host.as_ref());
            let part = part.expect("a route without both is refused");
            return Err(found.part(part).refuse("this route is there twice", ""));
        }
        routes.push(route);
    }
    Ok(routes)
}

fn route(all: &Found<'_, Vec<RouteFile>>, typed: &RouteFile) -> Result<RoutePattern, TypedError> {
    let host = match &typed.host {
        None => None,
        Some(host) => {
            let lower = host.get_ref().to_ascii_lowercase();
            if let Some(why) = host_refusal(&lower) {
                let label = "a host name without scheme and port; `*.example.com` for all below";
                let message = format!("{:?} is not a host: {why}", host.get_ref());
                return Err(all.part(host).refuse(message, label));
            }
            Some(lower)
        }
    };
    let path = match &typed.path {
        None if host.is_none() => return Err(all.refuse("a route needs `host`, `path` or both", "")),
        None => "/".to_owned(),
        Some(path) => {
            let text = path.get_ref();
            if let Some(why) = path_refusal(text) {
                let message = format!("{text:?} is not a path: {why}");
                return Err(all
                    .part(path)
                    .refuse(message, "a path prefix such as \"/images\""));
            }
            // Whole segments are matched, so "/images" and "/images/" are one route.
            match text.trim_end_matches('/') {
                "" => "/".to_owned(),
                trimmed => trimmed.to_owned(),
            }
        }
    };
    Ok(RoutePattern { host, path })
}

fn host_refusal(host: &str) -> Option<&'static str> {
    let labels = host.strip_prefix("*.").unwrap_or(host);
    if labels.is_empty() || host.len() > 253 {
        return Some("it has 1 to 253 characters");
    }
    let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
    for label in labels.split('.') {
        if label.is_empty() || label.len() > 63 || label.starts_with('-') || label.ends_with('-') {
            return Some("each part between the points has 1 to 63 characters and no '-' at its ends");
        }
        if !label.bytes().all(good) {
            return Some("use letters, digits, '-' and '.' (an international name in its xn-- form)");
        }
    }
    None
}

fn path_refusal(path: &str) -> Option<&'static str> {
    if !path.starts_with('/') {
        return Some("it begins with '/'");
    }
    if path.len() > 1024 {
        return Some("it is longer than 1024 bytes");
    }
    // What a URI's path is made of (RFC 3986, 3.3), so that it can match at all.
    let good = |c: u8| c.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%".contains(&c);
    if !path.bytes().all(good) {
        return Some("characters outside of a URL's path stand in their %-form; no query, no fragment");
    }
    if path.contains("//") || path.split('/').any(|segment| segment == "." || segment == "..") {
        return Some("it has no empty, '.' or '..' segment");
    }
    None
}

fn scale(layers: Layers<'_>, contract: Contract) -> Result<Scale, TypedError> {
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

fn concurrency(layers: Layers<'_>, contract: Contract) -> Result<u64, TypedError> {
    let is_lambda = matches!(contract, Contract::Lambda { .. });
    let usual = if is_lambda {
        AsLambda::CONCURRENCY.into()
    } else {
        64
    };
    let typed = number(layers, |f| f.scale.concurrency.as_ref(), 1..=65_535, usual)?;
    if !contract.is_one_at_a_time() {
        return Ok(typed);
    }
    match pick(layers, |f| f.scale.concurrency.as_ref()) {
        // One in [defaults] is for those functions that can.
        Some(found) if typed > 1 && in_first(layers, &found) => Err(found
            .refuse(
                format!(
                    "a process of contract {:?} answers one request at a time",
                    contract.as_str()
                ),
                "",
            )
            .help("remove it; `scale.max` says how many processes there may be")),
        Some(_) | None => Ok(1),
    }
}

fn freeze(layers: Layers<'_>, min: u64, idle: Duration) -> Result<Option<Duration>, TypedError> {
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

fn limits(layers: Layers<'_>) -> Result<Limits, TypedError> {
    let to_u32 = |n: u64| u32::try_from(n).expect("the range was checked");
    Ok(Limits {
        memory_bytes: size(layers, |f| f.limits.memory.as_ref(), 4 << 20..=1 << 46, 256 << 20)?,
        cpu_millis: pick(layers, |f| f.limits.cpu.as_ref()).map_or(1000, |cpu| cpu.value.0),
        pids: to_u32(number(layers, |f| f.limits.pids.as_ref(), 1..=1 << 22, 64)?),
        // 0 would mean "without a limit" to tmpfs.
        tmp_bytes: size(layers, |f| f.limits.tmp.as_ref(), 64 << 10..=1 << 40, 64 << 20)?,
        files: to_u32(number(layers, |f| f.limits.files.as_ref(), 16..=1 << 20, 1024)?),
    })
}

/// Each takes its time from `ready_within`, so there are few.
const MAX_WARMUP: usize = 16;

fn warmup(layers: Layers<'_>) -> Result<Vec<String>, TypedError> {
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

fn period(layers: Layers<'_>) -> Result<Option<Duration>, TypedError> {
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

fn health_path(layers: Layers<'_>) -> Result<Option<String>, TypedError> {
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

fn scope(layers: Layers<'_>) -> Result<Scope, TypedError> {
    match pick(layers, |f| f.sandbox.system.as_ref()) {
        None => Ok(Scope::Auto),
        Some(found) => match found.value.as_str() {
            "auto" => Ok(Scope::Auto),
            "full" => Ok(Scope::Full),
            other => Err(found.refuse(format!("unknown system {other:?}"), "use \"auto\" or \"full\"")),
        },
    }
}

fn grants<'a>(
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

fn degraded(layers: Layers<'_>) -> Result<Vec<Property>, TypedError> {
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
