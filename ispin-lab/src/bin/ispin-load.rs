//! `ispin-load`: runs inside a guest and contends its kernel's spinlocks.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand};
use ispin_lab::load::kit::report::{self, Broken, Report};
use ispin_lab::load::kit::setup::{CommonOptions, Setup};
use ispin_lab::load::kit::signals::{Interrupted, Signals};
use ispin_lab::load::kit::sleeper::Sleeper;
use ispin_lab::load::{MODULE_FOLDER, WORKLOADS, Workload, by_name, trace_dump};

/// Exit code of a load that found a lock broken.
const BROKEN: u8 = 3;

/// Contends the spinlocks of the kernel that it runs on, the way user programs do.
///
/// Exit codes: 0 done, 1 could not run, 2 bad command line, 3 the load found a lock broken, 128 + N ended by signal N.
#[derive(Parser)]
#[command(name = "ispin-load", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Subcommand)]
enum Cmd {
    /// Shows the loads
    List {
        /// Also what each needs besides this program
        #[arg(long)]
        needs: bool,
    },
    /// Runs a load; its result is the last line, RESULT and JSON
    Run(RunOptions),
    /// Drains the kernel's binary trace into one tar archive
    TraceDump {
        /// The archive: a file, or a block device
        out: PathBuf,
        /// Where tracefs is mounted [default: its usual place]
        #[arg(long, value_name = "DIR")]
        tracing: Option<PathBuf>,
        /// Fail if there is more trace than this
        #[arg(long, value_name = "MIB", default_value_t = 4096)]
        limit_mib: u64,
    },
}

/// The load is a subcommand with options of its own.
struct RunOptions {
    load: String,
    matches: ArgMatches,
}

impl FromArgMatches for RunOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let (load, matches) = matches
            .subcommand()
            .ok_or_else(|| clap::Error::new(clap::error::ErrorKind::MissingSubcommand))?;
        Ok(Self { load: load.to_owned(), matches: matches.clone() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for RunOptions {
    fn augment_args(command: Command) -> Command {
        let loads = WORKLOADS.iter().map(|load| CommonOptions::augment_args(load.command()));
        command
            .subcommands(loads)
            .subcommand_required(true)
            .arg_required_else_help(true)
            .subcommand_value_name("LOAD")
            .subcommand_help_heading("Loads")
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ispin-load: {error:#}");
            match error.downcast_ref::<Interrupted>() {
                Some(Interrupted(signal)) => ExitCode::from(128u8.wrapping_add(*signal as u8)),
                None if error.is::<Broken>() => ExitCode::from(BROKEN),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Cmd::List { needs } => list(needs),
        Cmd::Run(RunOptions { load, matches }) => run_load(&load, &matches),
        Cmd::TraceDump { out, tracing, limit_mib } => {
            let tracing = tracing.map_or_else(trace_dump::tracing_folder, Ok)?;
            let limit = limit_mib.saturating_mul(1 << 20);
            let dumped = trace_dump::dump(&tracing, &out, limit, &Signals::catch()?)?;
            eprintln!(
                "ispin-load: {} sub-buffers of {} bytes from {} CPUs in {}",
                dumped.subbuffers,
                dumped.subbuffer_size,
                dumped.cpus,
                out.display()
            );
            Ok(())
        }
    }
}

fn list(needs: bool) -> Result<()> {
    let mut text = String::new();
    for load in WORKLOADS {
        text += &format!("{:<10} {} [{}]\n", load.name, load.about, load.unit);
        for file in load.needs.iter().filter(|_| needs) {
            text += &format!("           needs {}\n", file.guest_path(Path::new(MODULE_FOLDER)).display());
        }
    }
    std::io::stdout().write_all(text.as_bytes()).context("printing the list")
}

/// Runs a load and, if told, a sleeper beside it; the report says how often that woke.
fn run_beside_sleeper(load: &Workload, setup: &Setup, matches: &ArgMatches) -> Result<Report> {
    let sleeper = setup.sleeper.map(Sleeper::start).transpose()?;
    let report = (load.run)(setup, matches)?;
    match sleeper {
        Some(sleeper) => Ok(report.with("sleeps", sleeper.end()?)),
        None => Ok(report),
    }
}

fn run_load(name: &str, matches: &ArgMatches) -> Result<()> {
    let Some(load) = by_name(name) else { bail!("{name}: no such load") };
    let options = CommonOptions::from_arg_matches(matches)?;
    let setup = Setup::new(options, Arc::new(Signals::catch()?))?;
    let result = run_beside_sleeper(load, &setup, matches);
    if let Some(json) = report::json(load, &setup, &result)? {
        let mut out = std::io::stdout().lock();
        writeln!(out, "RESULT {json}").and_then(|()| out.flush()).context("printing the result")?;
    }
    result.map(|_| ())
}
