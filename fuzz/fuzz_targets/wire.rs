//! The messages of the privilege boundary: any bytes are a message or an error, never a panic, and a message comes out as
//! it went in. `cargo +nightly fuzz run wire corpus/wire seeds/wire`
#![no_main]

use funcd_sandbox::wire::{Event, MAX_MESSAGE, Request, decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if bytes.len() > MAX_MESSAGE {
        return;
    }
    if let Ok(request) = decode::<Request>(bytes) {
        // Bytes that are no shortest form (an integer with leading zeros) may come back shorter, never longer.
        let again = encode(&request).expect("what was decoded fits");
        assert!(again.len() <= bytes.len());
        assert_eq!(
            decode::<Request>(&again).expect("it was encoded just now"),
            request
        );
    }
    if let Ok(event) = decode::<Event>(bytes) {
        let again = encode(&event).expect("what was decoded fits");
        assert!(again.len() <= bytes.len());
        assert_eq!(decode::<Event>(&again).expect("it was encoded just now"), event);
    }
});
