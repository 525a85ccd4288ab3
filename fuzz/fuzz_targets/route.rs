//! Routes of a manifest against a host and a target, one a line each: what matches, and what the function then sees.
#![no_main]

use funcd::ingress::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // host of the route, path of the route, Host, target
    let mut lines = text.splitn(4, '\n');
    let mut next = || lines.next().unwrap_or("");
    let (route_host, route_path, host, target) = (next(), next(), next(), next());
    let Some(seen) = fuzzing::routed(route_host, route_path, host, target) else {
        return;
    };
    assert!(seen.target.starts_with('/'), "{seen:?}");
    assert!(
        !seen.target.bytes().any(|byte| byte <= b' ' || byte == 0x7f),
        "{seen:?}"
    );
    assert!(seen.path.starts_with(&seen.prefix), "{seen:?}");
    let rest = &seen.path[seen.prefix.len()..];
    assert!(
        rest.is_empty() || rest.starts_with('/') || seen.prefix.is_empty(),
        "{seen:?}"
    );
});
