//! funcd from outside: what callers, deployers and operators see, on live processes.
//! Asks nothing of its inside: only the command line, the sockets, the folder and /proc.
#![expect(
    clippy::unwrap_used,
    reason = "a test that panics says where: this is a test in whole"
)]

mod auto;
mod bad;
mod bindings;
mod bindings_http;
mod cli;
mod clients;
mod contract;
mod contracts;
mod deploy;
mod examples;
mod explain;
mod faults;
mod grading;
mod grpc;
mod guides;
// The same frames as in the ingress's own tests.
#[path = "../../../supervisor/tests/ingress/h2.rs"]
#[allow(dead_code, reason = "these tests need fewer of them")]
mod h2;
mod http;
mod install;
mod lambda;
mod launcher;
mod lifecycle;
mod metrics;
mod migrate;
mod neighbours;
mod overload;
mod port;
mod programs;
mod refusals;
mod runtimes;
mod sandbox;
mod scale;
mod secrets;
mod service;
mod standby;
mod strangers;
mod streams;
mod upgrade;
mod websocket;
mod without_systemd;

use funcd_tests::suite::Suite;

fn main() -> std::process::ExitCode {
    let mut suite = Suite::default();
    deploy::register(&mut suite);
    lifecycle::register(&mut suite);
    http::register(&mut suite);
    install::register(&mut suite);
    strangers::register(&mut suite);
    refusals::register(&mut suite);
    contract::register(&mut suite);
    clients::register(&mut suite);
    auto::register(&mut suite);
    bad::register(&mut suite);
    grpc::register(&mut suite);
    websocket::register(&mut suite);
    streams::register(&mut suite);
    bindings::register(&mut suite);
    lambda::register(&mut suite);
    bindings_http::register(&mut suite);
    programs::register(&mut suite);
    metrics::register(&mut suite);
    migrate::register(&mut suite);
    runtimes::register(&mut suite);
    sandbox::register(&mut suite);
    secrets::register(&mut suite);
    service::register(&mut suite);
    standby::register(&mut suite);
    scale::register(&mut suite);
    overload::register(&mut suite);
    neighbours::register(&mut suite);
    faults::register(&mut suite);
    cli::register(&mut suite);
    explain::register(&mut suite);
    launcher::register(&mut suite);
    without_systemd::register(&mut suite);
    upgrade::register(&mut suite);
    examples::register(&mut suite);
    grading::register(&mut suite);
    guides::register(&mut suite);
    port::register(&mut suite);
    // The last: it looks at the names of all others.
    contracts::register(&mut suite);
    let code = suite.run();
    contracts::print();
    code
}
