//! The launcher's floor: any spec is refused or within what the host allows, never a panic.
//! `cargo +nightly fuzz run floor corpus/floor seeds/floor`
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| funcd_sandbox::fuzzing::floor(bytes));
