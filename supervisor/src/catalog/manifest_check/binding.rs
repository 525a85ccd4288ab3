//! What the function may reach: names, places and ports of bindings, and why one is none. Looks nothing up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use funcd_sandbox::variables;
use http::Uri;

use super::super::binding::{Binding, Endpoint, Host, MAX_BINDINGS, Target};
use super::super::manifest::{Contract, Retry};
use super::super::manifest_file::BindingFile;
use super::{HOUR, Layers, MILLI, RETRIES, known_word, process, route, secs};
use crate::contract::lambda;
use crate::name::FunctionName;
use crate::typed::{Found, Layer, Spanned, TypedError, number, pick, span};

/// Where the ports of bindings begin that name none: below the ports that connections are given, and no usual service's.
const FIRST_PORT: u16 = 19_001;
const TIMEOUT: Duration = secs(5);
const CONCURRENCY: u64 = 64;

/// Each binding, as a whole, from the strongest layer that mentions it; in the order of their names.
pub(super) fn bindings(
    layers: Layers<'_>,
    (contract, is_auto): (Contract, bool),
    env: &[(String, String)],
) -> Result<Vec<Binding>, TypedError> {
    let mut typed = BTreeMap::new();
    for layer in layers.iter().rev() {
        for (name, binding) in &layer.typed.bindings {
            check_name(&layer.found(name))?;
            typed.insert(name.get_ref().as_str(), (layer, name, binding));
        }
    }
    let mut bindings: Vec<Binding> = Vec::new();
    let mut variables = BTreeSet::new();
    for (count, (name, (layer, key, file))) in typed.iter().enumerate() {
        let key = layer.found(key);
        if count == MAX_BINDINGS {
            return Err(key.refuse(format!("more than {MAX_BINDINGS} bindings"), ""));
        }
        let binding = binding(name, layer, file)?;
        for (variable, _) in binding.variables() {
            if env.iter().any(|(own, _)| *own == variable) {
                let message = format!("the binding {name:?} sets {variable}, and so does `env`");
                return Err(key.refuse(message, "one of the two needs another name"));
            }
            if !variables.insert(variable.clone()) {
                let message = format!("the binding {name:?} sets {variable}, and so does another one");
                return Err(key.refuse(message, "give it another name"));
            }
        }
        bindings.push(binding);
    }
    let own = match contract {
        // What it turns out to be is not known yet.
        _ if is_auto => BTreeSet::from([lambda::PORT, super::contract::DEFAULT_PORT]),
        Contract::Port(port) => [port].into(),
        Contract::Lambda { .. } => [lambda::PORT].into(),
        _ => BTreeSet::new(),
    };
    assign_ports(&mut bindings, &typed, own)?;
    Ok(bindings)
}

type Typed<'a> = BTreeMap<
    &'a str,
    (
        &'a Layer<super::ManifestFile>,
        &'a Spanned<String>,
        &'a Spanned<BindingFile>,
    ),
>;

/// Those that name a port have it; the others get the next that is free.
fn assign_ports(
    bindings: &mut [Binding],
    typed: &Typed<'_>,
    mut taken: BTreeSet<u16>,
) -> Result<(), TypedError> {
    for binding in bindings.iter().filter(|binding| binding.port != 0) {
        if !taken.insert(binding.port) {
            let (layer, key, file) = typed[binding.name.as_str()];
            let found = match &file.get_ref().port {
                Some(port) => layer.found(port).refuse(
                    format!("port {} is another's", binding.port),
                    "that of the function itself, of its contract, or of another binding",
                ),
                None => layer.found(key).refuse("its port is another's", ""),
            };
            return Err(found);
        }
    }
    for binding in bindings.iter_mut().filter(|binding| binding.port == 0) {
        let free = (FIRST_PORT..).find(|port| !taken.contains(port));
        binding.port = free.expect("there are fewer bindings than ports above the first");
        taken.insert(binding.port);
    }
    Ok(())
}

fn check_name(name: &Found<'_, String>) -> Result<(), TypedError> {
    let text = name.value.as_str();
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let starts = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
    if !starts || text.len() > 32 || !text.bytes().all(plain) {
        let label = "a small letter, then up to 31 small letters, digits and '-'";
        return Err(name.refuse(format!("{text:?} is not the name of a binding"), label));
    }
    for end in ["ADDR", "URL"] {
        let variable = format!("{}_{end}", Binding::prefix(text));
        // Else a request's header could say where the function connects to (compare CVE-2016-5385).
        let why = match variables::is_name(variable.as_bytes()) {
            true => Some("is one that requests set"),
            false => process::env_name_refusal(&variable),
        };
        if let Some(why) = why {
            return Err(name.refuse(
                format!("a binding can't be called {text:?}: {variable} {why}"),
                "",
            ));
        }
    }
    Ok(())
}

fn binding(
    name: &str,
    layer: &Layer<super::ManifestFile>,
    typed: &Spanned<BindingFile>,
) -> Result<Binding, TypedError> {
    let (all, file) = (layer.found(typed), typed.get_ref());
    let targets = [&file.tcp, &file.http, &file.function];
    let mut named = targets.into_iter().flatten();
    let to = match (named.next(), named.next()) {
        (None, _) => {
            let message = format!("the binding {name:?} leads nowhere");
            return Err(all.refuse(message, "it needs one of `tcp`, `http` and `function`"));
        }
        (Some(_), Some(second)) => {
            let message = format!("the binding {name:?} leads to two places");
            return Err(all
                .part(second)
                .refuse(message, "one of `tcp`, `http` and `function`"));
        }
        (Some(one), None) => target(&all, file, one)?,
    };
    let is_tcp = matches!(to, Target::Tcp(_));
    if let (Some(retry), true) = (&file.retry, is_tcp) {
        let label = "bytes can't be sent again: only requests can";
        return Err(all
            .part(retry)
            .refuse("`retry` is for `http` and `function`", label));
    }
    // Read by the same functions as the rest of the file.
    let only = [Layer {
        source: layer.source.clone(),
        typed: file.clone(),
    }];
    let port = number(&only, |f| f.port.as_ref(), 1..=65_535, 0)?;
    let concurrency = number(&only, |f| f.concurrency.as_ref(), 1..=4096, CONCURRENCY)?;
    let usual = match to {
        Target::Tcp(_) | Target::Http { .. } => TIMEOUT,
        // What the sibling itself allows is enough.
        Target::Function(_) => HOUR,
    };
    Ok(Binding {
        name: name.to_owned(),
        port: u16::try_from(port).expect("the range was checked"),
        to,
        timeout: span(&only, |f| f.timeout.as_ref(), MILLI..=HOUR, usual)?,
        concurrency: u32::try_from(concurrency).expect("the range was checked"),
        retry: match pick(&only, |f| f.retry.as_ref()) {
            Some(found) => known_word(&found, "retry", &RETRIES)?,
            None => Retry::default(),
        },
    })
}

fn target(
    all: &Found<'_, BindingFile>,
    file: &BindingFile,
    typed: &Spanned<String>,
) -> Result<Target, TypedError> {
    let found = all.part(typed);
    let text = found.value.as_str();
    if file.function.is_some() {
        let name = FunctionName::parse(text);
        return match name {
            Ok(name) => Ok(Target::Function(name)),
            Err(why) => Err(found.refuse(format!("{text:?} is no function's name: {why}"), "")),
        };
    }
    if file.tcp.is_some() {
        let (rest, tls) = match text.strip_prefix("tls://") {
            Some(rest) => (rest, true),
            None => (text.strip_prefix("tcp://").unwrap_or(text), false),
        };
        return match endpoint(rest, None, tls) {
            Ok(endpoint) => Ok(Target::Tcp(endpoint)),
            Err(why) => Err(found.refuse(
                format!("{text:?} is not a place to connect to: {why}"),
                "write \"host:port\", \"[address]:port\", or \"tls://host:port\"",
            )),
        };
    }
    http(text).map_err(|why| {
        let message = format!("{text:?} is not a URL that requests can be sent to: {why}");
        found.refuse(message, "write \"http://host[:port][/base]\" or \"https://…\"")
    })
}

fn http(text: &str) -> Result<Target, String> {
    let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err("it begins with http:// or https://".to_owned()),
    };
    let authority = uri.authority().ok_or("it names no host")?;
    if authority.as_str().contains('@') {
        return Err("it names a user: give the function a secret instead".to_owned());
    }
    if uri.query().is_some() || text.contains('#') {
        return Err("it has a query or a fragment".to_owned());
    }
    let base = uri.path().trim_end_matches('/');
    if let Some(why) = (!base.is_empty()).then(|| route::path_refusal(base)).flatten() {
        return Err(why.to_owned());
    }
    let usual = if tls { 443 } else { 80 };
    Ok(Target::Http {
        endpoint: endpoint(authority.as_str(), Some(usual), tls)?,
        base: base.to_owned(),
    })
}

/// `host:port`, or `host` alone where there is a usual port.
fn endpoint(text: &str, usual: Option<u16>, tls: bool) -> Result<Endpoint, String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("a ']' is missing")?;
            let address: std::net::Ipv6Addr = host.parse().map_err(|_| "in [ ] stands an IPv6 address")?;
            let port = match (rest, rest.strip_prefix(':')) {
                ("", _) => None,
                (_, Some(port)) => Some(port),
                (_, None) => return Err("behind the ']' stands ':' and a port".to_owned()),
            };
            // `::ffff:10.0.0.1` is 10.0.0.1.
            (Host::Address(IpAddr::from(address).to_canonical()), port)
        }
        None => {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            (self::host(host)?, port)
        }
    };
    let port = match (port, usual) {
        (Some(digits), _) if digits.bytes().all(|b| b.is_ascii_digit()) => match digits.parse() {
            Ok(0) | Err(_) => return Err(format!("{digits:?} is not a port from 1 to 65535")),
            Ok(port) => port,
        },
        (Some(other), _) => return Err(format!("{other:?} is not a port from 1 to 65535")),
        (None, Some(usual)) => usual,
        (None, None) => return Err("the port is missing".to_owned()),
    };
    Ok(Endpoint { host, port, tls })
}

fn host(text: &str) -> Result<Host, String> {
    if let Ok(address) = text.parse() {
        return Ok(Host::Address(IpAddr::V4(address)));
    }
    let name = text.to_ascii_lowercase();
    if let Some(why) = route::host_refusal(&name).filter(|_| !name.starts_with("*.")) {
        return Err(why.to_owned());
    }
    // What looks like an address and is none ("10.1", "0x7f.1") is one to some resolvers.
    let last = name.rsplit('.').next().unwrap_or_default();
    if name.starts_with('*') || last.starts_with("0x") || last.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{text:?} is neither an address nor the name of a host"));
    }
    Ok(Host::Name(name))
}

#[cfg(test)]
#[path = "binding_tests.rs"]
mod tests;
