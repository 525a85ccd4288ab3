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
    use super::*;

    #[test]
    fn the_seeds_pass() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
        let mut seeds = 0;
        for (target, try_it) in [
            ("lambda_answer", answer as fn(&[u8])),
            ("lambda_request", request),
        ] {
            for seed in std::fs::read_dir(folder.join(target)).unwrap() {
                try_it(&std::fs::read(seed.unwrap().path()).unwrap());
                seeds += 1;
            }
        }
        assert!(seeds > 5);
    }
}
