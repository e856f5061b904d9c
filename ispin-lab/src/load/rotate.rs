//! Several loads in turn, each for a slice of the time: for long survival runs.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{ArgMatches, Args, FromArgMatches};

use super::kit::kernel_log::{KernelLog, complaint};
use super::kit::micro_module::MODULE;
use super::kit::report::{self, Report, broken};
use super::kit::setup::{Setup, seconds};
use super::torture::{LOCKTORTURE, TORTURE};
use super::{Workload, by_name};

pub(super) const WORKLOAD: Workload = Workload {
    name: "rotate",
    about: "several loads in turn, a line for each turn; fails if the kernel complains",
    unit: "turns",
    // Of the loads that it runs unless told.
    needs: &[MODULE, TORTURE, LOCKTORTURE],
    options: Options::augment_args,
    run,
};

/// A rest of the time that is shorter is no turn.
const SHORTEST: Duration = Duration::from_secs(1);

#[derive(Args, Clone, Debug)]
struct Options {
    /// The loads, in this order, each with its own defaults
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        default_values = ["dup", "futex", "pipe", "fault", "create", "micro", "torture"],
    )]
    loads: Vec<String>,
    /// Length of a turn in seconds; the last one ends with the time
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    slice: f64,
    /// Do not look for complaints in the kernel log
    #[arg(long)]
    ignore_kernel_log: bool,
}

fn run(setup: &Setup, matches: &ArgMatches) -> Result<Report> {
    let options = Options::from_arg_matches(matches)?;
    if setup.operations.is_some() {
        bail!("rotate runs for a time: leave --operations out");
    }
    let loads = options.loads.iter().map(|name| load(name, setup)).collect::<Result<Vec<_>>>()?;
    let slice = Duration::from_secs_f64(options.slice);
    let mut log = if options.ignore_kernel_log { None } else { Some(KernelLog::from_now()?) };
    let start = Instant::now();
    let mut turns = 0;
    let mut operations: BTreeMap<&str, u64> = BTreeMap::new();
    for load in loads.iter().cycle() {
        let left = setup.time.saturating_sub(start.elapsed());
        if turns > 0 && left < slice.min(SHORTEST) {
            break;
        }
        turns += 1;
        let turn = Setup { time: slice.min(left), seed: setup.seed.wrapping_add(turns - 1), ..setup.clone() };
        *operations.entry(load.name).or_default() += take_turn(load, &turn, turns, log.as_mut())?;
    }
    let report = Report::new(turns, start.elapsed()).value(turns as f64);
    Ok(report.with("loads", serde_json::to_value(operations)?).with("slice", options.slice))
}

fn load(name: &str, setup: &Setup) -> Result<&'static Workload> {
    let load = by_name(name)
        .filter(|load| load.name != WORKLOAD.name)
        .with_context(|| format!("--loads {name}: no such load (ispin-load list shows them)"))?;
    load.check_needs(setup)?;
    Ok(load)
}

/// Runs a load, prints its line, and returns how many operations it did.
fn take_turn(load: &Workload, setup: &Setup, number: u64, log: Option<&mut KernelLog>) -> Result<u64> {
    let matches = load.command().try_get_matches_from([load.name])?;
    let result = (load.run)(setup, &matches);
    if let Some(json) = report::json(load, setup, &result)? {
        let mut out = std::io::stdout().lock();
        writeln!(out, "TURN {number} {json}").and_then(|()| out.flush()).context("printing a turn's line")?;
    }
    let report = result.with_context(|| format!("turn {number}, {}", load.name))?;
    if let Some(log) = log {
        let lines = log.lines()?;
        if let Some(line) = complaint(&lines) {
            broken!("turn {number}, {}: the kernel said: {line}", load.name);
        }
        log.check_complete()?;
    }
    Ok(report.operations)
}
