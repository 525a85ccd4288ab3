//! The attacks: every attempt of the table at a running host, from inside a function or as a caller, and the same attempt
//! where nothing stops it. Prints the table of what came at the end. Never asserts a time, and changes nothing outside of
//! folders and namespaces of its own.
//!
//! Attempts 1 to 33 are made by a static executable, a dynamic one, Python and Node; `inside` says how.
#![expect(
    clippy::unwrap_used,
    reason = "a test that panics says where: this is a test in whole"
)]

mod callers;
mod catalog;
mod code;
mod context;
mod control;
mod ends;
mod exhaustion;
mod files;
mod inside;
mod kernel;
mod network;
mod observers;
mod privileges;
mod processes;
mod start;
mod table;

use funcd_tests::suite::Suite;

fn main() -> std::process::ExitCode {
    let mut suite = Suite::default();
    files::register(&mut suite);
    processes::register(&mut suite);
    exhaustion::register(&mut suite);
    privileges::register(&mut suite);
    kernel::register(&mut suite);
    network::register(&mut suite);
    code::register(&mut suite);
    start::register(&mut suite);
    catalog::register(&mut suite);
    callers::register(&mut suite);
    ends::register(&mut suite);
    observers::register(&mut suite);
    let code = suite.run();
    table::print();
    code
}
