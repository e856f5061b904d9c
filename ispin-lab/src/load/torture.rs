//! The kernel's own torture test for spinlocks, `locktorture`: its result is read from the kernel log.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{ArgMatches, Args, FromArgMatches};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::json;

use super::Workload;
use super::kit::host_file::HostFile;
use super::kit::kernel_log::{KernelLog, complaint};
use super::kit::module::{Module, is_loaded};
use super::kit::report::{Report, broken};
use super::kit::setup::Setup;

pub(super) const WORKLOAD: Workload = Workload {
    name: "torture",
    about: "the kernel's locktorture, with spin_lock and spin_lock_irq in turn",
    unit: "ops/s",
    needs: NEEDS,
    options: Options::augment_args,
    run,
};

/// By then a writer got the lock, unless nobody can: the test pauses its threads for a few ticks at a time.
const ENOUGH: Duration = Duration::from_secs(2);

const FROM: &str = "kernel option CONFIG_LOCK_TORTURE_TEST=m";

const NEEDS: &[HostFile] = &[TORTURE, LOCKTORTURE];

pub(super) const TORTURE: HostFile = HostFile::Module { file: "torture.ko", from: FROM };

pub(super) const LOCKTORTURE: HostFile = HostFile::Module { file: "locktorture.ko", from: FROM };

#[derive(Args, Clone, Debug)]
struct Options {
    /// Types of lock, in turn
    #[arg(long, value_name = "TYPE", value_delimiter = ',', default_values = ["spin_lock", "spin_lock_irq"])]
    types: Vec<String>,
    /// How long the lock is now and then held, in milliseconds; 0 = never
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=1000))]
    long_hold: u32,
}

fn run(setup: &Setup, matches: &ArgMatches) -> Result<Report> {
    WORKLOAD.check_needs(setup)?;
    let options = Options::from_arg_matches(matches)?;
    if setup.operations.is_some() {
        bail!("torture runs for a time: leave --operations out");
    }
    for name in ["locktorture", "torture"] {
        if is_loaded(name) {
            bail!("module {name} is in the kernel already: rmmod it first");
        }
    }
    let torture = Module::insert(&setup.modules, "torture", "")?;
    let start = Instant::now();
    let each = setup.time / options.types.len() as u32;
    let mut rounds = vec![];
    let mut writes = 0;
    for kind in &options.types {
        let found = torment(setup, &options, kind, each)?;
        writes += found.writes;
        rounds
            .push(json!({ "type": kind, "writes": found.writes, "most": found.most, "least": found.least }));
    }
    torture.remove()?;
    let report = Report::new(writes, start.elapsed());
    Ok(report.with("rounds", rounds).with("long_hold_ms", options.long_hold))
}

/// Tortures one type of lock for a time.
fn torment(setup: &Setup, options: &Options, kind: &str, time: Duration) -> Result<Statistics> {
    let mut log = KernelLog::from_now()?;
    let parameters = format!(
        "torture_type={kind} nwriters_stress={} long_hold={} verbose=0",
        setup.threads, options.long_hold
    );
    let module = Module::insert(&setup.modules, "locktorture", &parameters)?;
    sleep(setup, time)?;
    // Its exit stops the threads and logs what they counted.
    module.remove()?;
    let lines = log.lines()?;
    if let Some(line) = complaint(&lines) {
        broken!("locktorture of {kind}: {line}");
    }
    log.check_complete()?;
    if !lines.iter().any(|line| line.contains("End of test: SUCCESS")) {
        bail!(
            "locktorture of {kind} did not say `End of test: SUCCESS`: its output changed, or was not logged"
        );
    }
    let found = lines.iter().rev().find_map(|line| Statistics::parse(line));
    let found = found.with_context(|| format!("locktorture of {kind} logged no statistics"))?;
    if found.writes == 0 && time >= ENOUGH {
        broken!("locktorture of {kind} never got its lock in {time:?}");
    }
    Ok(found)
}

/// Sleeps, unless a signal comes.
fn sleep(setup: &Setup, time: Duration) -> Result<()> {
    let deadline = Instant::now() + time;
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(remaining).context("the time of a run")?;
        match poll(&mut [PollFd::new(&*setup.signals, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => setup.signals.check()?,
            Err(error) => return Err(error).context("waiting for the end of a run"),
        }
    }
}

/// `Writes:  Total: 93746064  Max/Min: 0/0   Fail: 0`
#[derive(Debug, PartialEq)]
struct Statistics {
    writes: u64,
    most: u64,
    least: u64,
}

impl Statistics {
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once("Writes:")?;
        let (_, rest) = rest.split_once("Total:")?;
        let (total, rest) = rest.split_once("Max/Min:")?;
        let (most, rest) = rest.split_once('/')?;
        let least = rest.split_whitespace().next()?;
        Some(Self {
            writes: total.trim().parse().ok()?,
            most: most.trim().parse().ok()?,
            least: least.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read() {
        let line = "Writes:  Total: 93746064  Max/Min: 12/7   Fail: 0 ";
        assert_eq!(Statistics::parse(line), Some(Statistics { writes: 93_746_064, most: 12, least: 7 }));
        let unfair = "Writes:  Total: 20  Max/Min: 15/5 ???  Fail: 0 ";
        assert_eq!(Statistics::parse(unfair), Some(Statistics { writes: 20, most: 15, least: 5 }));
        assert_eq!(Statistics::parse("spin_lock-torture:--- End of test: SUCCESS"), None);
    }
}
