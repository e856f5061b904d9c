//! What a person types after cloning: `cargo xtask demo`, `cargo xtask test`, `cargo xtask bpf`.

mod bpf;
mod demo;
mod links;
mod process;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, shows and tests ispin.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build all and show ticket against informed locks, live
    Demo(demo::Args),
    /// Install what the tests need and run all of them
    Test(test::Args),
    /// Build the eBPF object, check or renew the prebuilt one
    Bpf(bpf::Args),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Demo(args) => demo::run(args),
        Task::Test(args) => test::run(&args).map(|()| ExitCode::SUCCESS),
        Task::Bpf(args) => bpf::run(&args).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
