//! The command line of `ispin-agent`, and its exit codes.

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::bpf::btf::KERNEL_BTF;
use crate::check::{self, Depth, Report};
use crate::observe::{self, CANNOT_START, FAILED, OK};
use crate::sink::SinkOptions;
use crate::source::SourceKind;
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

/// Names another BTF file, for this program and for COMMAND.
pub const BTF_VARIABLE: &str = "ISPIN_BTF";

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

/// The options of `ispin-agent run`.
#[derive(Debug, Args)]
pub struct RunOptions {
    /// What to observe: auto, threads, guest, or replay:FILE for a run that --json recorded
    #[arg(long, value_name = "SOURCE", default_value = "auto")]
    pub source: SourceKind,
    /// Time between two snapshots, 10ms to 1h [default: 250ms, or the recorded pace of a replay]
    #[arg(long, value_name = "TIME", value_parser = interval)]
    pub interval: Option<Duration>,
    /// End after this time, as in 10s or 1m30s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// How long to wait for the observed world to appear
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub wait: Duration,
    /// Where the snapshots go.
    #[command(flatten)]
    pub sinks: SinkOptions,
    /// Start COMMAND, observe while it runs, and end with its exit code
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// A length of time as it is typed: `250ms`, `10s`, `1m30s`; more than nothing.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(d) if d.is_zero() => Err("it must be longer than nothing".into()),
        Ok(d) => Ok(d),
        Err(e) => Err(format!("{e}; write 250ms, 10s, 1m30s")),
    }
}

/// A time between two snapshots as it is typed.
pub fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if interval < Duration::from_millis(10) || interval > Duration::from_secs(3600) {
        return Err("give 10ms to 1h".into());
    }
    Ok(interval)
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
