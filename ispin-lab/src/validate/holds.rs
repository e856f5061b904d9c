//! For how long locks are held: the critical section duration of the paper's Figure 3, of all locks of a guest's kernel.

use std::fmt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::found::{Found, Run, told};
use super::sample::Sample;
use crate::rows;
use crate::vm::{self, xen};

/// The paper's loads.
pub const LOADS: [&str; 3] = ["kernbench", "pbzip2", "ebizzy"];
/// Runs of each, with these seeds.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=5;
/// The paper's estimate, log2 of cycles (section 4.2.1).
pub const CSD_LOG2: u32 = 14;

/// Holds of one length in one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The load.
    pub workload: String,
    /// Its seed.
    pub seed: u64,
    /// Holds of 2^n up to 2^(n+1) cycles.
    pub log2_cycles: u32,
    /// So many.
    pub holds: u64,
    /// All cycles of all holds of the run, whatever their length.
    pub all_cycles: u64,
}

fn arguments(workload: &str, seed: u64) -> Vec<String> {
    let words = format!(
        "--vcpus 4 --lock ticket --workload {workload} --seconds 1 --deterministic --interval 1s --seed {seed}"
    );
    words.split(' ').map(str::to_owned).collect()
}

fn command(workload: &str, seed: u64) -> String {
    format!("ispin-lab vm {}", arguments(workload, seed).join(" "))
}

/// Runs what is missing and reads what is there.
pub(super) fn find(csv: &Path, run: &Run, found: &mut Found) -> Result<()> {
    found.title = "for how long the locks of a guest's kernel are held".into();
    found.planned = plan().count();
    let extent = run.extent.option();
    found.command = format!("ispin-lab validate {extent} --only holds --out {}", run.folder.display());
    let mut rows = rows::read(csv)?;
    let there = |rows: &[Row]| plan().filter(|&(workload, seed)| is_there(rows, workload, seed)).count();
    if !run.report_only {
        let before = there(&rows);
        let done = run_missing(csv, &mut rows, run.interrupted, measure);
        run.count(there(&rows) - before);
        found.missing = told(done, run)?;
    }
    for workload in LOADS {
        for seed in SEEDS.filter(|&seed| is_there(&rows, workload, seed)) {
            found.samples.push(sample(&rows, workload, seed));
        }
    }
    found.holds = rows;
    Ok(())
}

/// All runs, in order: loads and seeds.
pub(super) fn plan() -> impl Iterator<Item = (&'static str, u64)> {
    SEEDS.flat_map(|seed| LOADS.map(|workload| (workload, seed)))
}

fn is_there(rows: &[Row], workload: &str, seed: u64) -> bool {
    rows.iter().any(|row| row.workload == workload && row.seed == seed)
}

/// One run, as it is told.
struct Planned {
    workload: &'static str,
    seed: u64,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "holds: {}", command(self.workload, self.seed))
    }
}

fn run_missing(
    csv: &Path,
    rows: &mut Vec<Row>,
    interrupted: &AtomicBool,
    mut measure: impl FnMut(&str, u64) -> Result<Vec<Row>>,
) -> Result<()> {
    let missing = plan().filter(|&(workload, seed)| !is_there(rows, workload, seed));
    let missing = missing.map(|(workload, seed)| Planned { workload, seed }).collect();
    rows::fill(csv, rows, missing, interrupted, |run, rows| {
        rows.extend(measure(run.workload, run.seed)?);
        Ok(())
    })
}

fn measure(workload: &str, seed: u64) -> Result<Vec<Row>> {
    let options = xen::experiment::parse(&arguments(workload, seed))?;
    let observed = vm::observe(&options)?.context("the guest was ended early")?;
    let last = observed.last.context("the agent told nothing")?;
    let vm = last.vms.first().context("the agent saw no guest")?;
    let all_cycles = vm.total().counters.hold_cycles;
    let row = |(log2, &holds): (usize, &u64)| Row {
        workload: workload.to_owned(),
        seed,
        log2_cycles: log2 as u32,
        holds,
        all_cycles,
    };
    Ok(vm.hold.buckets.iter().enumerate().filter(|(_, holds)| **holds > 0).map(row).collect())
}

fn sample(rows: &[Row], workload: &str, seed: u64) -> Sample {
    let ours: Vec<&Row> = rows.iter().filter(|row| row.workload == workload && row.seed == seed).collect();
    let all: u64 = ours.iter().map(|row| row.holds).sum();
    let within: u64 = ours.iter().filter(|row| row.log2_cycles < CSD_LOG2).map(|row| row.holds).sum();
    let cycles = ours.first().map_or(0, |row| row.all_cycles);
    let mean = (cycles as f64 / all as f64).log2();
    let mut sample =
        Sample::plain(&[("workload", workload)], seed, "log2_hold", mean, command(workload, seed));
    sample.metrics.insert("within_csd_pct", 100.0 * within as f64 / all as f64);
    sample
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_that_of_the_cycles_and_the_share_that_of_the_holds() {
        let row = |log2_cycles, holds| Row {
            workload: "pbzip2".into(),
            seed: 1,
            log2_cycles,
            holds,
            all_cycles: 4096 * 100,
        };
        let rows = [row(11, 60), row(13, 35), row(14, 5)];
        let sample = sample(&rows, "pbzip2", 1);
        assert_eq!((sample.metrics["log2_hold"], sample.metrics["within_csd_pct"]), (12.0, 95.0));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holds.csv");
        rows::write(&path, &rows).unwrap();
        assert_eq!(rows::read::<Row>(&path).unwrap(), rows);
    }

    #[test]
    fn a_load_that_fails_leaves_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holds.csv");
        let row = |workload: &str, seed| Row {
            workload: workload.into(),
            seed,
            log2_cycles: 11,
            holds: 60,
            all_cycles: 4096 * 60,
        };
        let (interrupted, mut rows) = (AtomicBool::new(false), vec![]);
        let done = run_missing(&path, &mut rows, &interrupted, |workload, seed| {
            anyhow::ensure!(workload != "pbzip2", "no pbzip2 here");
            Ok(vec![row(workload, seed)])
        });
        let error = format!("{:#}", done.unwrap_err());
        assert!(error.contains("5 measurements failed") && error.contains("--workload pbzip2"), "{error}");
        assert!(error.contains("no pbzip2 here"), "{error}");
        assert_eq!(rows::read::<Row>(&path).unwrap().len(), 10);
        // What is missing is done, and no more; a signal in its tail ends the rest.
        let done = run_missing(&path, &mut rows, &interrupted, |workload, seed| {
            assert_eq!(workload, "pbzip2");
            interrupted.store(seed == 2, std::sync::atomic::Ordering::SeqCst);
            Ok(vec![row(workload, seed)])
        });
        assert!(done.unwrap_err().to_string().contains("goes on"));
        assert_eq!((rows::read::<Row>(&path).unwrap().len(), rows.len()), (12, 12));
    }

    #[test]
    fn every_run_can_be() {
        for workload in LOADS {
            xen::experiment::parse(&arguments(workload, 3)).expect(workload);
        }
    }
}
