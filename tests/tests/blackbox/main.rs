//! funcd from outside: what callers, deployers and operators see, on live processes.
fn main() -> std::process::ExitCode {
    funcd_tests::suite::Suite::default().run()
}
