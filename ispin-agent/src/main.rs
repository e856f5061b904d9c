//! `ispin-agent`: the headless program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ispin_agent::cli::main()
}
