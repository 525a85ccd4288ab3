//! What Lambda functions answer: any bytes become a response that can be sent, or are refused.
//! `cargo +nightly fuzz run lambda_answer corpus/lambda_answer seeds/lambda_answer`
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| funcd::contract::lambda::fuzzing::answer(bytes));
