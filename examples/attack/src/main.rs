//! Tries what the sandbox must stop, and says what came of it: `ok`, with what it got, or the name of the errno.
//!
//! As a function it answers `/VERB?ARGUMENT&ARGUMENT…` (percent-encoded) with the outcome. On the command line, `attack try
//! VERB ARGUMENT…` prints it: that is the control, outside. Each attempt runs in a process of its own, which it may lose; only
//! those called `keep-…` stay in the function itself. It decides nothing: the tests know what should come.

mod code;
mod errno;
mod exhaust;
mod files;
mod kernel;
mod network;
mod processes;
mod serve;

use std::env;
use std::ffi::CString;

/// What came of an attempt: what it got, or an errno.
pub(crate) type Outcome = Result<String, i32>;

/// As C libraries report it.
pub(crate) fn came(result: libc::c_long) -> Result<libc::c_long, i32> {
    if result < 0 { Err(last()) } else { Ok(result) }
}

/// It worked, and there is nothing to say about it.
pub(crate) fn ok() -> Outcome {
    Ok(String::new())
}

/// The errno of the last call.
pub(crate) fn last() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

pub(crate) fn text(argument: &str) -> CString {
    CString::new(argument).expect("no test passes a NUL")
}

pub(crate) fn number(argument: &str) -> i64 {
    let parsed = match argument.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).map(|n| n as i64).ok(),
        None => argument.parse().ok(),
    };
    parsed.unwrap_or_else(|| panic!("{argument} is not a number"))
}

/// One attempt by name.
fn attempt(verb: &str, arguments: &[&str]) -> Option<Outcome> {
    files::attempt(verb, arguments)
        .or_else(|| processes::attempt(verb, arguments))
        .or_else(|| exhaust::attempt(verb, arguments))
        .or_else(|| kernel::attempt(verb, arguments))
        .or_else(|| network::attempt(verb, arguments))
        .or_else(|| code::attempt(verb, arguments))
}

/// The outcome as it is told.
pub(crate) fn told(verb: &str, arguments: &[&str]) -> String {
    match attempt(verb, arguments) {
        None => format!("unknown attempt: {verb} with {} arguments", arguments.len()),
        Some(Ok(said)) if said.is_empty() => "ok".to_owned(),
        Some(Ok(said)) => said,
        Some(Err(errno)) => errno::name(errno),
    }
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [_, "try", verb, rest @ ..] => println!("{}", told(verb, rest)),
        [_, "apart", verb, rest @ ..] => println!("{}", serve::apart(verb, rest)),
        // With an address on a loopback of its own, where there is nothing else.
        [_, "local", address, verb, rest @ ..] => {
            network::make_local(address).expect("it is the root of a network namespace of its own");
            println!("{}", told(verb, rest));
        }
        [_, "claim"] => processes::claim(),
        _ => {
            files::remember_start();
            let late = env::var("START_MS").ok().and_then(|ms| ms.parse().ok());
            std::thread::sleep(std::time::Duration::from_millis(late.unwrap_or(0)));
            serve::serve();
        }
    }
}
