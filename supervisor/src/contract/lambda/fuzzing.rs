//! Doors through which the fuzz targets reach what is private here. Built for them, and in tests, so that they don't rot
//! unseen.

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, Request};
use serde_json::Value;

use super::{PROBLEM, Trouble, base64, event, reply};

/// What a function answers becomes a response that can be sent, or is refused; it never speaks with funcd's own voice.
pub fn answer(bytes: &[u8]) {
    if let Ok(response) = reply::whole(Bytes::copy_from_slice(bytes)) {
        check(response.headers());
        assert!((200..=599).contains(&response.status().as_u16()));
    }
    let cut = reply::prelude(bytes);
    if let Ok(Some((head, at))) = &cut {
        check(head.headers());
        assert!(*at <= bytes.len() && bytes[at - 8..*at] == [0; 8]);
        // More of the body changes nothing.
        let more = [bytes, b"more"].concat();
        let (again, same) = reply::prelude(&more).expect("as before").expect("as before");
        assert_eq!((again.headers(), same), (head.headers(), *at));
    }
}

fn check(headers: &HeaderMap) {
    assert_eq!(Trouble::of(headers), None);
    for ours in [
        "content-length",
        "transfer-encoding",
        "connection",
        PROBLEM.as_str(),
    ] {
        assert!(!headers.contains_key(ours), "{ours}");
    }
}

/// What a caller asks becomes an event that holds the body as it was. The bytes are a target, a header's value and a body, each
/// behind a line feed.
pub fn request(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == b'\n');
    let mut part = || parts.next().unwrap_or_default();
    let (target, value, body) = (part(), part(), part());
    let request = Request::post(target)
        .header("cookie", value)
        .header("content-type", value)
        .header("host", value)
        .header("x-any", value)
        .header("x-forwarded-for", value)
        .header("traceparent", value);
    let Ok(request) = request.body(()) else { return };
    let (head, ()) = request.into_parts();
    let event = event::event(&head, body, "function", SystemTime::now());
    let event: Value = serde_json::from_slice(&event).expect("JSON");
    let written = event["body"].as_str().unwrap_or_default();
    match event["isBase64Encoded"] == true {
        true => assert_eq!(base64::decode(written).expect("base64"), body),
        false => assert_eq!(written.as_bytes(), body),
    }
    let _ = event::trace_id(&head.headers["traceparent"]);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn each_seed(target: &str, mut act: impl FnMut(Vec<u8>)) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../fuzz/seeds")
            .join(target);
        let seeds: Vec<_> = std::fs::read_dir(folder).unwrap().collect();
        assert!(seeds.len() >= 3, "{target}");
        for seed in seeds {
            act(std::fs::read(seed.unwrap().path()).unwrap());
        }
    }

    #[test]
    fn the_seeds_pass_and_so_does_what_is_near_them() {
        let mut chance = SmallRng::seed_from_u64(7);
        for (target, try_it) in [
            ("lambda_answer", answer as fn(&[u8])),
            ("lambda_request", request),
        ] {
            each_seed(target, |seed| {
                try_it(&seed);
                for _ in 0..500 {
                    let mut bytes = seed.clone();
                    for _ in 0..chance.random_range(1..4) {
                        let at = chance.random_range(0..bytes.len());
                        match chance.random_range(0..4) {
                            0 => bytes[at] = chance.random(),
                            1 => bytes.insert(at, b"\0\"{}[]:,%\n"[chance.random_range(0..10)]),
                            2 => bytes.truncate(at.max(1)),
                            _ => bytes.extend_from_within(at..),
                        }
                    }
                    try_it(&bytes);
                }
            });
        }
    }
}
