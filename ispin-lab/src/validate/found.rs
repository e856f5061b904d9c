//! What there is of the experiments: running what is missing of them, reading what is there.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};

use super::claims::EXACT_RUNS;
use super::experiments::{Experiment, Extent, World, instruction_options};
use super::sample::Sample;
use super::{holds, shares};
use crate::matrix::{self, ResultFile};
use crate::threads::hypervisor::Hypervisor;
use crate::vm::xen;
use crate::{instructions, interrupt, rows};

/// What there is of an experiment.
pub struct Found {
    /// Its runs.
    pub samples: Vec<Sample>,
    /// What it is about.
    pub title: String,
    /// Runs that the file asks for.
    pub planned: usize,
    /// Why runs are missing, if they are.
    pub missing: Option<String>,
    /// Holds by length, of [`World::Holds`].
    pub holds: Vec<holds::Row>,
    /// Which command makes all of it.
    pub command: String,
}

/// What a run of the whole needs to know.
pub struct Run<'a> {
    /// How much.
    pub extent: Extent,
    /// Folder of the CSV files.
    pub folder: &'a Path,
    /// Kernel type information.
    pub btf: &'a Path,
    /// Set by signals.
    pub interrupted: &'a Arc<AtomicBool>,
    /// Do nothing new.
    pub report_only: bool,
    /// How many guests at a time, or pairs of [`World::Xen`].
    pub jobs: usize,
    /// How many runs have been made.
    pub made: &'a AtomicUsize,
}

impl Run<'_> {
    /// So many more runs have been made.
    pub(super) fn count(&self, runs: usize) {
        self.made.fetch_add(runs, Ordering::Relaxed);
    }
}

impl Experiment {
    /// Runs what is missing and reads what is there. What cannot be run here, or read, is told in [`Found::missing`].
    ///
    /// # Errors
    /// A signal came.
    pub fn find(&self, run: &Run) -> Result<Found> {
        let csv = run.folder.join(self.name).with_extension("csv");
        let command = format!("ispin-lab matrix {} --out {}", self.file(run.extent), csv.display());
        let mut found = Found {
            samples: vec![],
            title: String::new(),
            planned: 0,
            missing: None,
            holds: vec![],
            command,
        };
        let Some(text) = self.text(run.extent) else {
            found.command.clear();
            found.missing = Some("a run of --full".into());
            return Ok(found);
        };
        let done = match self.world {
            World::Threads => self.threads(text, &csv, run, &mut found),
            World::Xen => self.xen(text, &csv, run, &mut found),
            World::Instructions => self.instructions(&csv, run, &mut found),
            World::Holds => holds::find(&csv, run, &mut found),
        };
        // One file that cannot be read does not end the others.
        if let Some(why) = told(done, run).with_context(|| format!("the experiment {}", self.name))? {
            found.missing = Some(why);
        }
        Ok(found)
    }

    fn threads(&self, text: &str, csv: &Path, run: &Run, found: &mut Found) -> Result<()> {
        let experiment = matrix::Experiment::of(text)?;
        found.title.clone_from(&experiment.title);
        found.planned = experiment.plan().len();
        if run.report_only && !csv.exists() {
            return Ok(());
        }
        let mut results = ResultFile::open(csv)?;
        if !run.report_only {
            let start = || Hypervisor::new(run.btf.to_owned(), Arc::clone(run.interrupted), false);
            let before = results.rows().len();
            let done = matrix::run(&experiment, &mut results, start);
            run.count(results.rows().len() - before);
            found.missing = told(done.map(|_| ()), run)?;
        }
        let rows = matrix::rows_of(&experiment, &results);
        found.samples = rows.iter().map(Sample::of_threads).collect();
        Ok(())
    }

    fn xen(&self, text: &str, csv: &Path, run: &Run, found: &mut Found) -> Result<()> {
        let experiment = xen::experiment::Experiment::of(text)?;
        let plan = experiment.plan()?;
        found.title.clone_from(&experiment.title);
        found.planned = plan.len();
        if run.report_only && !csv.exists() {
            return Ok(());
        }
        let varied: Vec<String> = experiment.vary.keys().cloned().collect();
        let mut results = xen::results::ResultFile::open(csv, &varied)?;
        let there = |results: &xen::results::ResultFile| {
            plan.iter().filter(|cell| results.rows().iter().any(|row| row.is_of(cell))).count()
        };
        let before = there(&results);
        if !run.report_only && before < plan.len() {
            let done = self.share(text, csv, run);
            results = xen::results::ResultFile::open(csv, &varied)?;
            run.count(there(&results).saturating_sub(before));
            found.missing = told(done, run)?;
        }
        for cell in &plan {
            let guests: Vec<_> = results.rows().iter().filter(|row| row.is_of(cell)).collect();
            if !guests.is_empty() {
                found.samples.push(Sample::of_guests(&cell.varied, &guests)?);
            }
        }
        Ok(())
    }

    /// Runs an experiment under Xen in processes of its own, one for each core: QEMU counts instructions, so they do not
    /// disturb each other.
    fn share(&self, text: &str, csv: &Path, run: &Run) -> Result<()> {
        let folder = tempfile::tempdir().context("a folder for the experiment's file")?;
        let file = folder.path().join(self.name).with_extension("toml");
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        let program = std::env::current_exe().context("the path of this program")?;
        let share = |part: usize| {
            let part = format!("{part}/{}", run.jobs);
            let words: [&OsStr; 6] = [
                "matrix".as_ref(),
                file.as_ref(),
                "--out".as_ref(),
                csv.as_ref(),
                "--part".as_ref(),
                part.as_ref(),
            ];
            words.map(OsStr::to_owned).to_vec()
        };
        let all: Vec<_> = (1..=run.jobs).map(share).collect();
        shares::run(program.as_ref(), &all, run.interrupted).context("runs under Xen")
    }

    fn instructions(&self, csv: &Path, run: &Run, found: &mut Found) -> Result<()> {
        found.title = "instructions of an uncontended lock and unlock in a guest's kernel, and up to the ticket where others are in the queue".into();
        let options = instruction_options(run.extent);
        found.planned = instructions::plan(&options).count();
        let flag = if run.extent == Extent::Quick { "--unobserved --uncontended " } else { "" };
        found.command =
            format!("ispin-lab instructions {flag}--repeats {EXACT_RUNS} --csv {}", csv.display());
        let mut rows = rows::read(csv)?;
        if !run.report_only {
            let before = rows.len();
            let done = instructions::measure_missing(&options, csv, &mut rows, run.interrupted);
            run.count(rows.len() - before);
            found.missing = told(done, run)?;
        }
        for row in rows {
            let command = format!("ispin-lab instructions --only '{}'", row.name);
            let keys = [("lock", row.name.as_str())];
            found.samples.push(Sample::plain(&keys, row.repeat, "instructions", row.spin, command));
        }
        Ok(())
    }
}

/// Why an experiment was not run to its end. An interrupted one ends everything, even if it was done just then.
pub fn told(done: Result<()>, run: &Run) -> Result<Option<String>> {
    match done {
        Err(error) if run.interrupted.load(Ordering::SeqCst) => Err(error),
        Err(error) => {
            eprintln!("ispin-lab: {error:#}");
            Ok(Some(format!("{error:#}")))
        }
        Ok(()) => interrupt::check(run.interrupted).map(|()| None),
    }
}

/// The folder for results, made if it is not there.
pub fn folder(path: &Path) -> Result<PathBuf> {
    fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::experiments::EXPERIMENTS;
    use super::*;

    #[test]
    fn an_interruption_ends_everything_whatever_came_of_the_experiment() {
        let interrupted = Arc::new(AtomicBool::new(false));
        let run = Run {
            extent: Extent::Quick,
            folder: Path::new("/nowhere"),
            btf: Path::new("/nowhere"),
            interrupted: &interrupted,
            report_only: false,
            jobs: 1,
            made: &AtomicUsize::new(0),
        };
        assert_eq!(told(Ok(()), &run).unwrap(), None);
        assert_eq!(told(Err(anyhow::anyhow!("no Xen")), &run).unwrap().as_deref(), Some("no Xen"));
        interrupted.store(true, Ordering::SeqCst);
        assert!(told(Err(anyhow::anyhow!("ended")), &run).is_err());
        let error = told(Ok(()), &run).unwrap_err().to_string();
        assert!(error.contains("goes on"), "{error}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told_and_the_rest_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let interrupted = Arc::default();
        for report_only in [true, false] {
            let run = Run {
                extent: Extent::Quick,
                folder: dir.path(),
                btf: Path::new("/nowhere"),
                interrupted: &interrupted,
                report_only,
                jobs: 1,
                made: &AtomicUsize::new(0),
            };
            for name in ["threads-locks", "instructions", "holds", "xen-micro"] {
                let csv = dir.path().join(name).with_extension("csv");
                fs::write(&csv, "a,b\n1,2\n").unwrap();
                let experiment = EXPERIMENTS.iter().find(|experiment| experiment.name == name).unwrap();
                let found = experiment.find(&run).expect(name);
                let why = found.missing.expect(name);
                assert!(why.contains("move the file away"), "{why}");
                assert!(why.contains(&csv.display().to_string()) && found.samples.is_empty(), "{why}");
                assert_eq!(fs::read_to_string(&csv).unwrap(), "a,b\n1,2\n", "nobody wrote over it");
            }
        }
    }

    #[test]
    fn results_that_are_there_are_read_without_running_anything() {
        let dir = tempfile::tempdir().unwrap();
        let interrupted = Arc::default();
        let run = Run {
            extent: Extent::Quick,
            folder: dir.path(),
            btf: Path::new("/nowhere"),
            interrupted: &interrupted,
            report_only: true,
            jobs: 1,
            made: &AtomicUsize::new(0),
        };
        for experiment in &EXPERIMENTS {
            let found = experiment.find(&run).expect(experiment.name);
            assert!(found.samples.is_empty(), "{}", experiment.name);
            assert_eq!(found.planned == 0, experiment.text(Extent::Quick).is_none(), "{}", experiment.name);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "a report makes no results");
    }
}
