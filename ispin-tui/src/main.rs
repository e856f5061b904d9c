//! `ispin-tui`: the dashboard program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ispin_tui::cli::main()
}
