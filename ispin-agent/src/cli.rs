//! The command line of `ispin-agent`, and its exit codes.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::bpf::btf::{BTF_VARIABLE, KERNEL_BTF};
use crate::check::{self, Depth, Report};
use crate::observe::{self, CANNOT_START, FAILED, OK};
use crate::options::RunOptions;
use crate::{logging, say};

const EXIT_CODES: &str = "\
Exit codes: 0 all went well (a run that a signal ended included); 1 an output or the source failed in mid-run;
2 the run could not begin: usage, a missing capability, an output that cannot be opened; 126 COMMAND is not
executable; 127 COMMAND was not found; else the exit code of COMMAND, 128 + N if signal N ended it.";

/// Observes spinlocks in virtual machines: live counts of lock holder and lock waiter preemptions
#[derive(Debug, Parser)]
#[command(name = "ispin-agent", version, after_help = EXIT_CODES)]
struct Cli {
    /// Say more: -v what the program does and the eBPF programs' diagnostics, -vv and -vvv for its developers
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// Kernel type information (BTF)
    #[arg(long, value_name = "PATH", env = BTF_VARIABLE, default_value = KERNEL_BTF, global = true)]
    btf: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Observe, until COMMAND ends, the time is up, the source ends or a signal comes
    #[command(after_help = EXIT_CODES)]
    Run(RunOptions),
    /// Show what this machine has and lacks for observing, and what would bring it
    #[command(after_help = "Exit codes: 0 a source is available, 2 none is.")]
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// The program: reads the command line, acts, says what went wrong.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    logging::start(cli.verbose);
    let code = match &cli.action {
        Action::Check { json } => check(&cli, *json),
        Action::Run(options) => observe::observe(options, &cli.btf, cli.verbose > 0),
    };
    ExitCode::from(code)
}

fn check(cli: &Cli, json: bool) -> u8 {
    let report = Report::probe(&cli.btf, Depth::Thorough);
    let text = if json { check::json(&report) } else { Ok(check::table(&report)) };
    let printed = text.and_then(|text| Ok(std::io::stdout().write_all(text.as_bytes())?));
    match printed {
        Err(e) if e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe) => {}
        Err(e) => {
            say!("the report could not be printed: {e:#}");
            return FAILED;
        }
        Ok(()) => {}
    }
    if report.any_source() { OK } else { CANNOT_START }
}
