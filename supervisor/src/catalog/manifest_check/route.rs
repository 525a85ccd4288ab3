//! Which requests come here: hosts and paths, and why one is none. Reads no file.

use super::super::manifest::RoutePattern;
use super::super::manifest_file::RouteFile;
use super::Layers;
use crate::typed::{Found, TypedError, pick};

pub(super) fn routes(layers: Layers<'_>) -> Result<Vec<RoutePattern>, TypedError> {
    let Some(found) = pick(layers, |f| f.route.as_ref()) else {
        return Ok(Vec::new());
    };
    if found.value.len() > 64 {
        return Err(found.refuse("more than 64 routes", ""));
    }
    let mut routes: Vec<RoutePattern> = Vec::new();
    for typed in found.value {
        let route = route(&found, typed)?;
        let same = |known: &RoutePattern| (&known.host, &known.path) == (&route.host, &route.path);
        if routes.iter().any(same) {
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
    let limit = match &typed.limit {
        None => None,
        Some(limit) => match u16::try_from(*limit.get_ref()) {
            Ok(places @ 1..) => Some(u32::from(places)),
            _ => {
                let message = format!(
                    "{} requests of a route at once: it is 1 to 65535",
                    limit.get_ref()
                );
                return Err(all
                    .part(limit)
                    .refuse(message, "1 to 65535; leave it out for none"));
            }
        },
    };
    Ok(RoutePattern { host, path, limit })
}

pub(super) fn host_refusal(host: &str) -> Option<&'static str> {
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

pub(super) fn path_refusal(path: &str) -> Option<&'static str> {
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
