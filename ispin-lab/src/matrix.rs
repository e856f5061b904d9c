//! Experiments as data: every lock at every number of vCPUs, several times, alternated, in one CSV that grows
//! over as many sittings as it takes.

mod results;
mod summary;

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;

use crate::threads::hypervisor::Hypervisor;
use crate::threads::options::{RunOptions, parse_lock};
use crate::threads::result::RunResult;
use crate::threads::undisturbed::Patience;

pub use results::ResultFile;
pub use summary::summary;

/// An experiment file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// What it is about.
    pub title: String,
    /// Lock algorithms to compare.
    pub locks: Vec<String>,
    /// Numbers of vCPUs per VM.
    pub vcpus: Vec<u32>,
    /// How often each cell is run.
    pub repeats: u32,
    /// Everything else, as on the command line of `ispin-lab threads`.
    #[serde(default)]
    pub options: RunOptions,
}

impl Experiment {
    /// Reads and checks an experiment file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Self::of(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Reads and checks the text of a file.
    pub fn of(text: &str) -> Result<Self> {
        let experiment: Self = toml::from_str(text)?;
        experiment.validate()?;
        Ok(experiment)
    }

    fn validate(&self) -> Result<()> {
        if self.locks.is_empty() || self.vcpus.is_empty() || self.repeats == 0 {
            bail!("locks, vcpus and repeats must name at least one run");
        }
        for lock in &self.locks {
            parse_lock(lock)?;
        }
        for &vcpus in &self.vcpus {
            RunOptions { vcpus, ..self.options.clone() }.validate()?;
        }
        Ok(())
    }

    /// All runs: repeat after repeat, so that a drift of the machine meets all cells alike; within a repeat
    /// the order of the locks rotates, so that none always runs first.
    pub fn plan(&self) -> Vec<Cell> {
        let mut cells = vec![];
        for repeat in 1..=self.repeats {
            for &vcpus in &self.vcpus {
                for i in 0..self.locks.len() {
                    let lock = self.locks[(i + repeat as usize) % self.locks.len()].clone();
                    cells.push(Cell { lock, vcpus, repeat });
                }
            }
        }
        cells
    }

    /// The options of one run. The seed moves with the repeat.
    fn options_of(&self, cell: &Cell) -> RunOptions {
        let seed = self.options.seed + u64::from(cell.repeat) - 1;
        RunOptions { vcpus: cell.vcpus, seed, ..self.options.clone() }
    }

    /// Whether `row` is a run of this experiment's `cell` and not of an earlier version of the file.
    fn is_run_of(&self, row: &RunResult, cell: &Cell) -> bool {
        let o = self.options_of(cell);
        (row.lock.as_str(), row.vcpus, row.repeat) == (&cell.lock, cell.vcpus, cell.repeat)
            && (row.vms, row.slice_ms, row.seed) == (o.vms, o.slice_ms, o.seed)
            && row.csd == o.csd_for(&cell.lock)
            && (o.pcpus == 0 || row.pcpus == o.pcpus)
            && (row.hold.as_str(), row.gap.as_str())
                == (o.hold.to_string().as_str(), o.gap.to_string().as_str())
            && (row.host_every_ms, row.host_ms) == (o.host_every_ms, o.host_ms)
            && (row.accesses, row.untraced) == (o.accesses, o.untraced)
            && row.parameters == o.parameters.flags()
            && is_length(row, o.seconds)
    }
}

/// Whether a run of `seconds` was asked for. Where that was not recorded, the run itself was a little longer.
fn is_length(row: &RunResult, seconds: f64) -> bool {
    let off = if row.asked_seconds > 0.0 { 1e-9 } else { 0.5 };
    (row.asked_seconds() - seconds).abs() < off
}

/// One run of an experiment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cell {
    /// Lock algorithm.
    pub lock: String,
    /// vCPUs per VM.
    pub vcpus: u32,
    /// From 1.
    pub repeat: u32,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {} vCPUs repeat {}", self.lock, self.vcpus, self.repeat)
    }
}

/// Runs what is missing and returns all rows of the experiment, in the order of its plan.
pub fn run(
    experiment: &Experiment,
    results: &mut ResultFile,
    start: impl FnOnce() -> Result<Hypervisor>,
) -> Result<Vec<RunResult>> {
    let plan = experiment.plan();
    let done: HashSet<Cell> = plan
        .iter()
        .filter(|cell| results.rows().iter().any(|row| experiment.is_run_of(row, cell)))
        .cloned()
        .collect();
    let missing: Vec<&Cell> = plan.iter().filter(|cell| !done.contains(cell)).collect();
    eprintln!("{}: {} runs, {} done already", experiment.title, plan.len(), done.len());
    if !missing.is_empty() {
        let mut hypervisor = start()?;
        let mut patience = Patience::with(missing.len() as u32);
        let progress = ProgressBar::new(missing.len() as u64).with_style(style()?);
        for (i, cell) in missing.iter().enumerate() {
            progress.set_message(format!("{} {} vCPUs, repeat {}", cell.lock, cell.vcpus, cell.repeat));
            let run = || Ok((hypervisor.run(&cell.lock, &experiment.options_of(cell))?, ()));
            let (row, ()) = patience.undisturbed(&cell.to_string(), run)?;
            let row = RunResult { repeat: cell.repeat, ..row };
            if progress.is_hidden() {
                let left = (missing.len() - i - 1) as f64 * (experiment.options.seconds + 0.5);
                eprintln!(
                    "{}/{} {} {} vCPUs repeat {}: {:.1} PSP/s, {:.0} acquisitions/s; {left:.0} s left",
                    i + 1,
                    missing.len(),
                    cell.lock,
                    cell.vcpus,
                    cell.repeat,
                    row.psp_per_s,
                    row.acquisitions_per_s
                );
            }
            results.append(row)?;
            progress.inc(1);
        }
        progress.finish_and_clear();
    }
    Ok(rows_of(experiment, results))
}

/// What there is of an experiment, in the order of its plan.
pub fn rows_of(experiment: &Experiment, results: &ResultFile) -> Vec<RunResult> {
    let find = |cell: &Cell| results.rows().iter().find(|row| experiment.is_run_of(row, cell)).cloned();
    experiment.plan().iter().filter_map(find).collect()
}

fn style() -> Result<ProgressStyle> {
    ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} (left: {eta})").context("progress bar")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn experiment(text: &str) -> Result<Experiment> {
        Experiment::of(text)
    }

    const SMALL: &str = "title='t'\nlocks=['ticket','hvm','pv']\nvcpus=[4,8]\nrepeats=2\n[options]\nseconds=1.0\nhold='exp:10us'\ncsd='20us'";

    #[test]
    fn plan_alternates_and_repeats() {
        let e = experiment(SMALL).expect("valid");
        let plan = e.plan();
        assert_eq!(plan.len(), 12);
        assert_ne!(plan[0].lock, plan[6].lock, "another lock comes first in the next repeat");
        assert_eq!(plan.iter().collect::<HashSet<_>>().len(), 12);
        assert_eq!(e.options.csd, Some(20_000));
    }

    #[test]
    fn errors_name_what_is_wrong() {
        for (text, word) in [
            (SMALL.replace("'pv'", "'mcs'"), "mcs"),
            (SMALL.replace("seconds", "secs"), "secs"),
            (SMALL.replace("repeats=2", "repeats=0"), "repeats"),
            (SMALL.replace("vcpus=[4,8]", "vcpus=[99]"), "99"),
            (SMALL.replace("'exp:10us'", "'10'"), "10"),
        ] {
            let error = format!("{:#}", experiment(&text).expect_err(&text));
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn rows_of_other_options_do_not_count_as_done() {
        let e = experiment(SMALL).expect("valid");
        let cell = &e.plan()[0];
        let o = e.options_of(cell);
        let mut done =
            RunResult { lock: cell.lock.clone(), repeat: 1, psp: 5, seconds: 1.0, ..RunResult::default() };
        (done.vms, done.vcpus, done.pcpus) = (o.vms, o.vcpus, o.pcpus);
        (done.slice_ms, done.csd, done.seed) = (o.slice_ms, o.csd_for(&cell.lock), o.seed);
        (done.hold, done.gap) = (o.hold.to_string(), o.gap.to_string());
        (done.host_every_ms, done.host_ms) = (o.host_every_ms, o.host_ms);
        assert!(e.is_run_of(&done, cell));
        let others: [fn(&mut RunResult); 7] = [
            |row| row.csd += 1,
            |row| row.accesses = 10,
            |row| row.untraced = true,
            |row| row.parameters = "--max-defer-ms 100".into(),
            |row| row.seconds = 2.0,
            |row| row.asked_seconds = 9.0,
            |row| row.asked_seconds = 1.4,
        ];
        for (i, change) in others.iter().enumerate() {
            let mut other = done.clone();
            change(&mut other);
            assert!(!e.is_run_of(&other, cell), "change {i}");
        }
        // Not recorded: as long as it was.
        done.seconds = 1.4;
        assert!(e.is_run_of(&done, cell));
        // Given a number of accesses, the threads were done before the time was.
        (done.seconds, done.asked_seconds) = (0.3, 1.0);
        assert!(e.is_run_of(&done, cell));
    }
}
