//! Any bytes as an instance's answer to a GET, after which it stays silent or closes (by the first byte).
#![no_main]

use funcd::ingress::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((how, answer)) = input.split_first() else {
        return;
    };
    let Some(seen) = fuzzing::answered(answer, how % 2 == 0) else {
        return;
    };
    let status = seen.head.status;
    assert!(!status.is_informational() || status == 101, "{seen:?}");
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
        "te",
    ] {
        assert!(!seen.head.headers.contains_key(name), "{name}: {seen:?}");
    }
    for value in seen.head.headers.values() {
        assert!(
            !value
                .as_bytes()
                .iter()
                .any(|byte| matches!(byte, b'\r' | b'\n' | 0)),
            "{seen:?}"
        );
    }
    assert!(
        seen.head.headers.get_all("content-length").iter().count() <= 1,
        "{seen:?}"
    );
    if seen.reusable {
        // A complete response, and nothing behind it: what is left would be the next caller's answer.
        assert!(seen.complete, "{seen:?}");
        assert_eq!(seen.left, 0, "{seen:?}");
    }
});
