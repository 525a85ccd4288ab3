//! What callers of Lambda functions send: any request becomes an event that holds its body as it was.
//! `cargo +nightly fuzz run lambda_request corpus/lambda_request seeds/lambda_request`
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| funcd::contract::lambda::fuzzing::request(bytes));
