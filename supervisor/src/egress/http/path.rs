//! The target of a request to a binding: what the function asks for, below the base path. Pure. Never lets a path lead out of there.

use bytes::Bytes;
use http::Uri;

/// The target in origin form, below this base path (empty, or `/` and more without `/` at its end); `None`: it would lead out of it.
pub fn below(base: &str, asked: &Uri) -> Option<Uri> {
    let path = asked.path_and_query().map_or("/", |target| target.as_str());
    let whole = match base {
        // Nothing to lead out of: the path is the target's business.
        "" if asked.authority().is_none() => return Some(asked.clone()),
        "" => Bytes::copy_from_slice(path.as_bytes()),
        _ if leads_out(asked.path()) => return None,
        base => Bytes::from([base, path].concat()),
    };
    Uri::from_maybe_shared(whole).ok()
}

/// How often a path is decoded.
const ROUNDS: u32 = 4;

/// Whether some server could read a path as one that leads upwards: dot segments, however often encoded, behind either slash, and
/// with parameters (which some take away first).
fn leads_out(path: &str) -> bool {
    let mut path = path.as_bytes().to_vec();
    let mut rounds = 0;
    loop {
        let decoded = decode(&path);
        if decoded.len() == path.len() {
            break;
        }
        // Nobody encodes so often but to hide something.
        rounds += 1;
        if rounds > ROUNDS {
            return true;
        }
        path = decoded;
    }
    let mut segments = path.split(|byte| matches!(byte, b'/' | b'\\'));
    segments.any(|segment| {
        let name = segment.split(|&byte| byte == b';').next().unwrap_or_default();
        matches!(name, b"." | b"..")
    })
}

fn decode(path: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|&byte| (byte as char).to_digit(16));
    let mut decoded = Vec::with_capacity(path.len());
    let mut at = 0;
    while at < path.len() {
        match (path[at], digit(path.get(at + 1)), digit(path.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high << 4 | low) as u8);
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_request_lies_below_the_base_path() {
        for (asked, target) in [
            ("/", "/api/v1/"),
            ("/users?id=1", "/api/v1/users?id=1"),
            ("/users?next=/../x", "/api/v1/users?next=/../x"),
            ("http://elsewhere/users", "/api/v1/users"),
            ("/a..b/...", "/api/v1/a..b/..."),
            ("//elsewhere/x", "/api/v1//elsewhere/x"),
            ("/%41%zz", "/api/v1/%41%zz"),
        ] {
            assert_eq!(
                below("/api/v1", &asked.parse().unwrap()).unwrap(),
                target,
                "{asked}"
            );
        }
        for out in [
            "/../admin",
            "/x/../../admin",
            "/./x",
            "/%2e%2e/admin",
            "/.%2E/admin",
            "/%252e%252e/admin",
            "/%252525252541",
            "/..%2fadmin",
            "/x%2f..%2f..%2fadmin",
            "/..%5cadmin",
            "/..;/admin",
            "/..;x=1/admin",
            "/..",
        ] {
            assert_eq!(below("/api/v1", &out.parse().unwrap()), None, "{out}");
            // The control: without a base path it passes.
            assert!(below("", &out.parse().unwrap()).is_some(), "{out}");
        }
        assert_eq!(below("", &"http://elsewhere/x".parse().unwrap()).unwrap(), "/x");
    }

    proptest! {
        #[test]
        fn no_path_breaks_it(path in "/[ -~]*") {
            if let Ok(asked) = path.parse::<Uri>()
                && let Some(target) = below("/base", &asked)
            {
                prop_assert!(target.path().starts_with("/base/"), "{}", target);
            }
        }
    }
}
