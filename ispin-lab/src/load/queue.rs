//! What a ticket costs where others are in the queue already, in cycles of the TSC from the call of `spin_lock` until another vCPU
//! sees the ticket: under QEMU's icount the exact number of instructions.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::ArgMatches;
use serde::Deserialize;

use super::Workload;
use super::kit::micro_module::{self, MODULE};
use super::kit::report::Report;
use super::kit::setup::Setup;

pub(super) const WORKLOAD: Workload = Workload {
    name: "queue",
    about: "TSC cycles from the call of a kernel's spin_lock to its ticket, with 1 to THREADS - 1 in the queue",
    unit: "cycles",
    needs: &[MODULE],
    options: |command| command,
    run,
};

/// Rounds for each length of the queue unless `--operations` says otherwise.
const DEFAULT_ROUNDS: u64 = 1000;

/// What the module found.
#[derive(Deserialize)]
struct Found {
    elapsed_ns: u64,
    rounds: u64,
    complete: bool,
    asked: Cycles,
}

#[derive(Deserialize)]
struct Cycles {
    /// Of the round that took least: no interrupt fell into it, and no other vCPU ran.
    least: u64,
}

fn run(setup: &Setup, _: &ArgMatches) -> Result<Report> {
    WORKLOAD.check_needs(setup)?;
    if setup.threads < 2 {
        bail!("--threads {}: it takes one that asks and one that holds the lock", setup.threads);
    }
    let rounds = setup.operations.unwrap_or(DEFAULT_ROUNDS);
    let (mut cycles, mut all, mut ns) = (BTreeMap::new(), 0, 0);
    for members in 1..setup.threads {
        let threads = members + 1;
        let ms = setup.time.as_millis().max(1);
        let found: Found =
            micro_module::run(setup, &format!("mode=queue threads={threads} pairs={rounds} ms={ms}"))?;
        if !found.complete || found.rounds == 0 {
            bail!(
                "{rounds} rounds with {members} in the queue took more than {:?}: raise --seconds",
                setup.time
            );
        }
        cycles.insert(members, found.asked.least);
        all += found.rounds;
        ns += found.elapsed_ns;
    }
    let longest = cycles.last_key_value().map_or(0, |(_, cycles)| *cycles);
    let report = Report::new(all, Duration::from_nanos(ns)).value(longest as f64).threads(setup.threads);
    Ok(report.with("cycles", serde_json::to_value(&cycles)?))
}
