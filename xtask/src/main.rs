//! `cargo run -p xtask -- TASK`: what a developer of funcd runs beside cargo. Ships nothing; nothing here is in the product.
#![forbid(unsafe_code)]

mod dist;
mod package;
mod rpm;
mod run;
mod vm;

use std::process::ExitCode;

use clap::Parser;

/// What a developer of funcd runs beside cargo.
#[derive(Debug, Parser)]
#[command(name = "xtask")]
enum Task {
    /// Builds what is shipped: one static executable.
    Dist(dist::Dist),
    /// Builds the packages from what is shipped.
    Package(package::Package),
    /// Runs the tests on a real systemd and cgroup v2 under QEMU.
    Vm(vm::Vm),
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Dist(dist) => dist.run(),
        Task::Package(package) => package.run(),
        Task::Vm(vm) => vm.run(),
    };
    match done {
        Ok(code) => code,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}
