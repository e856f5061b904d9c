//! `cargo xtask demo`: ticket against informed locks, live.

use std::path::PathBuf;
use std::process::ExitCode;

use ispin_ebpf_build::MODE_VARIABLE;

use crate::{process, setup};

/// What to show, and where to write it.
#[derive(clap::Args)]
pub struct Args {
    /// Plain lines instead of the dashboard
    #[arg(long)]
    headless: bool,
    /// How long each lock runs, in seconds
    #[arg(long, value_name = "N", default_value_t = 20)]
    seconds: u64,
    /// Write every interval as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write the closing table as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Builds what the demo needs and runs it.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { headless: _, seconds: _, csv: _, json: _ } = args;
    let mode = setup::ensure_bpf_object()?;
    process::run(process::cargo(&["build", "--release", "--locked"])?.env(MODE_VARIABLE, mode))?;
    anyhow::bail!("the demo is not written yet")
}
