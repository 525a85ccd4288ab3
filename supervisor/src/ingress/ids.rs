//! What identifies a request: its id and its place in a trace. Pure: chance is an argument.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use rand::Rng;

/// Names one request from the caller through the function to the logs.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What identifies a request.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) HeaderValue);

/// The caller's request id if it is sane, else a new one.
pub(super) fn request_id(headers: &HeaderMap, chance: &mut impl Rng) -> RequestId {
    let sane =
        |id: &&HeaderValue| matches!(id.len(), 1..=128) && id.as_bytes().iter().all(u8::is_ascii_graphic);
    RequestId(match headers.get(&X_REQUEST_ID).filter(sane) {
        Some(id) => id.clone(),
        None => {
            let mut id = [0; 32];
            hex(chance.random::<u128>(), &mut id);
            HeaderValue::from_bytes(&id).expect("hexadecimal digits are a valid header value")
        }
    })
}

/// Version 00 of <https://www.w3.org/TR/trace-context/>, or a later one that begins like it.
pub(super) fn is_traceparent(text: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let some = |part: &[u8]| hex(part) && part.iter().any(|byte| *byte != b'0');
    if text.len() < 55 || text[2] != b'-' || text[35] != b'-' || text[52] != b'-' {
        return false;
    }
    let version = &text[..2];
    let ends_well = match version {
        b"00" => text.len() == 55,
        _ => text.len() == 55 || text[55] == b'-',
    };
    ends_well
        && hex(version)
        && version != b"ff"
        && some(&text[3..35])
        && some(&text[36..52])
        && hex(&text[53..55])
}

/// A new trace, sampled as if there were no proxy.
pub(super) fn mint_traceparent(chance: &mut impl Rng) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
    // All zeros would be invalid.
    hex(chance.random::<u128>() | 1, &mut text[3..35]);
    hex(u128::from(chance.random::<u64>() | 1), &mut text[36..52]);
    HeaderValue::from_bytes(&text).expect("hexadecimal digits and dashes are a valid header value")
}

/// Writes the low digits of a number.
fn hex(mut number: u128, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn traceparents() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(is_traceparent(good.as_bytes()));
        assert!(is_traceparent(format!("cc{}-more", &good[2..]).as_bytes()));
        let zero = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        for bad in [
            "",
            zero,
            &good.to_uppercase(),
            &good[..54],
            &format!("{good}-x"),
            &format!("ff{}", &good[2..]),
        ] {
            assert!(!is_traceparent(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn request_ids_are_kept_when_sane() {
        let mut chance = SmallRng::seed_from_u64(1);
        let long = "x".repeat(129);
        for (given, kept) in [
            ("abc-1", true),
            ("", false),
            ("a b", false),
            ("é", false),
            (&long, false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(given.as_bytes()).unwrap());
            let id = request_id(&headers, &mut chance).0;
            assert_eq!(id.as_bytes() == given.as_bytes(), kept, "{given}");
            assert!(kept || id.len() == 32);
        }
    }
}
