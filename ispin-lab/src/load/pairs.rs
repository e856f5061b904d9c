//! What an uncontended lock and unlock costs in the kernel, in cycles of the TSC: under QEMU's icount the exact
//! number of instructions.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{ArgMatches, Args, FromArgMatches};
use serde::{Deserialize, Serialize};

use super::Workload;
use super::kit::micro_module::{self, MODULE};
use super::kit::report::{Report, broken};
use super::kit::setup::Setup;

pub(super) const WORKLOAD: Workload = Workload {
    name: "pairs",
    about: "TSC cycles of an uncontended kernel lock and unlock, without the loop around it",
    unit: "cycles",
    needs: &[MODULE],
    options: Options::augment_args,
    run,
};

/// Pairs unless `--operations` says otherwise.
const DEFAULT_PAIRS: u64 = 100_000;

#[derive(Args, Clone, Debug)]
struct Options {
    /// CPU to measure on
    #[arg(long, value_name = "CPU", default_value_t = 0)]
    cpu: u32,
}

/// What the module found, in cycles.
#[derive(Deserialize)]
struct Found {
    elapsed_ns: u64,
    pairs: u64,
    batch: u64,
    complete: bool,
    consistent: bool,
    /// The loop alone.
    empty: Cycles,
    op: BTreeMap<String, Cycles>,
}

#[derive(Clone, Copy, Deserialize)]
struct Cycles {
    /// Of all batches.
    total: u64,
    /// Of the batch that took least: no interrupt fell into it.
    least: u64,
}

/// Cycles of a pair.
#[derive(Serialize)]
struct Pair {
    /// Of the batch that took least.
    least: f64,
    /// Mean of all, interrupts included.
    mean: f64,
}

fn run(setup: &Setup, matches: &ArgMatches) -> Result<Report> {
    WORKLOAD.check_needs(setup)?;
    let options = Options::from_arg_matches(matches)?;
    let pairs = setup.operations.unwrap_or(DEFAULT_PAIRS);
    let found: Found = micro_module::run(
        setup,
        &format!("mode=pairs pairs={pairs} ms={} cpu={}", setup.time.as_millis().max(1), options.cpu),
    )?;
    if !found.consistent {
        broken!("spin_trylock of a free lock failed, or a thread is stuck");
    }
    if !found.complete || found.pairs == 0 || found.batch == 0 {
        bail!("{pairs} pairs took more than {:?}: raise --seconds", setup.time);
    }
    // The loop can cost more than a pair only by an accident of measurement; shown as it is.
    let per_pair = |cycles: Cycles| Pair {
        least: (cycles.least as f64 - found.empty.least as f64) / found.batch as f64,
        mean: (cycles.total as f64 - found.empty.total as f64) / found.pairs as f64,
    };
    let cycles: BTreeMap<&str, Pair> = found.op.iter().map(|(op, c)| (op.as_str(), per_pair(*c))).collect();
    let spin = cycles.get("spin").context("the module did not measure spin_lock")?;
    let report = Report::new(found.pairs * found.op.len() as u64, Duration::from_nanos(found.elapsed_ns));
    let report = report.value(spin.least).threads(1);
    let cycles = serde_json::to_value(&cycles)?;
    let empty = found.empty.least as f64 / found.batch as f64;
    Ok(report.with("cycles", cycles).with("loop_cycles", empty).with("cpu", options.cpu))
}
