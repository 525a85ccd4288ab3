//! Any bytes as a caller's HTTP/1 stream. The first byte says how it is cut into pieces.
#![no_main]

use funcd::ingress::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((cut, stream)) = input.split_first() else {
        return;
    };
    let piece = usize::from(*cut).max(1);
    let whole = fuzzing::framing(stream, stream.len().max(1));
    assert_eq!(fuzzing::framing(stream, piece), whole, "by {piece}");
    // What passes as the first head, the parser behind reads to the same byte.
    if let Some(end) = fuzzing::first_head(stream) {
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut request = httparse::Request::new(&mut fields);
        let parsed = request.parse(&stream[..end]);
        assert_eq!(
            parsed,
            Ok(httparse::Status::Complete(end)),
            "{:?}",
            stream[..end].escape_ascii().to_string()
        );
        for field in request.headers {
            http::HeaderValue::from_bytes(field.value).expect("a value that the parser behind takes");
        }
    }
});
