//! Experiments as data: every lock at every number of vCPUs, several times, alternated, in one CSV that grows
//! over as many sittings as it takes.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;

use crate::stats::median;
use crate::threads::hypervisor::Hypervisor;
use crate::threads::options::{RunOptions, parse_lock};
use crate::threads::result::RunResult;
use crate::whole_file;

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
            && (row.asked_seconds() - o.seconds).abs() < 0.5
    }
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

/// The CSV that the runs accumulate in.
pub struct ResultFile {
    path: PathBuf,
    file: File,
    rows: Vec<RunResult>,
    /// Whether its columns are those of an earlier version, which had fewer.
    outdated: bool,
}

/// The names of the columns.
fn columns() -> Result<Vec<u8>> {
    let mut line = csv_of(&[RunResult::default()], true)?;
    line.truncate(line.iter().position(|&b| b == b'\n').map_or(line.len(), |at| at + 1));
    Ok(line)
}

fn csv_of(rows: &[RunResult], with_columns: bool) -> Result<Vec<u8>> {
    let mut writer = csv::WriterBuilder::new().has_headers(with_columns).from_writer(vec![]);
    for row in rows {
        writer.serialize(row)?;
    }
    writer.into_inner().map_err(|e| anyhow::anyhow!("{e}"))
}

impl ResultFile {
    /// Opens or creates it. A line that a kill cut off is dropped, for its run is not complete.
    pub fn open(path: &Path) -> Result<Self> {
        let context = || format!("opening {}", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(context)?;
        let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let whole = text.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        if whole < text.len() {
            log::warn!("{}: dropped a line that was cut off", path.display());
            file.set_len(whole as u64).with_context(context)?;
        }
        file.seek(SeekFrom::End(0)).with_context(context)?;
        let mut rows = vec![];
        for (i, row) in csv::Reader::from_reader(&text[..whole]).deserialize().enumerate() {
            rows.push(row.with_context(|| {
                format!(
                    "{} line {}: not a result of this version; move the file away to begin anew",
                    path.display(),
                    i + 2
                )
            })?);
        }
        let outdated = whole > 0 && !text.starts_with(&columns()?);
        Ok(Self { path: path.to_path_buf(), file, rows, outdated })
    }

    /// Gives the rows of an earlier version the columns of this one. A kill leaves the old file or the new one.
    fn renew(&mut self) -> Result<()> {
        self.file = whole_file::write(&self.path, &csv_of(&self.rows, true)?)?;
        self.outdated = false;
        Ok(())
    }

    /// The complete rows.
    pub fn rows(&self) -> &[RunResult] {
        &self.rows
    }

    /// Appends one row in one write.
    pub fn append(&mut self, row: RunResult) -> Result<()> {
        if self.outdated {
            self.renew()?;
        }
        let first = self.file.stream_position()? == 0;
        let bytes = csv_of(std::slice::from_ref(&row), first)?;
        self.file
            .write_all(&bytes)
            .and_then(|()| self.file.sync_data())
            .with_context(|| format!("writing {}", self.path.display()))?;
        self.rows.push(row);
        Ok(())
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
        let progress = ProgressBar::new(missing.len() as u64).with_style(style()?);
        for (i, cell) in missing.iter().enumerate() {
            progress.set_message(format!("{} {} vCPUs, repeat {}", cell.lock, cell.vcpus, cell.repeat));
            let mut row = hypervisor.run(&cell.lock, &experiment.options_of(cell))?;
            row.repeat = cell.repeat;
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

/// A repeat in a convoy: more than one quantum in ten ended in a problematic preemption.
const CONVOY_PSP_PER_QUANTUM: f64 = 0.1;

/// Medians and spread per number of vCPUs and lock, as a Markdown table. `ratio` compares the median PSP/s
/// with that of `ticket`, where zero counts as one PSP per run.
pub fn summary(experiment: &Experiment, rows: &[RunResult]) -> String {
    let mut builder = tabled::builder::Builder::default();
    builder.push_record([
        "vCPUs",
        "lock",
        "repeats",
        "PSP/s median",
        "min",
        "max",
        "PSP/quantum",
        "acquisitions/s",
        "LHP",
        "LWP",
        "harmful",
        "deferrals",
        "convoyed",
        "ticket / this",
    ]);
    for &vcpus in &experiment.vcpus {
        let of =
            |lock: &str| rows.iter().filter(move |r| r.vcpus == vcpus && r.lock == *lock).collect::<Vec<_>>();
        let floor = |r: &&RunResult| (r.psp.max(1)) as f64 / r.seconds;
        let ticket = median(of("ticket").iter().map(floor));
        for lock in &experiment.locks {
            let runs = of(lock);
            let m = |f: fn(&RunResult) -> f64| median(runs.iter().map(|r| f(r)));
            let all = |f: fn(f64, f64) -> f64| runs.iter().map(|r| r.psp_per_s).reduce(f).unwrap_or(f64::NAN);
            builder.push_record([
                vcpus.to_string(),
                lock.clone(),
                runs.len().to_string(),
                format!("{:.1}", m(|r| r.psp_per_s)),
                format!("{:.1}", all(f64::min)),
                format!("{:.1}", all(f64::max)),
                format!("{:.4}", m(|r| r.psp_per_quantum)),
                format!("{:.0}", m(|r| r.acquisitions_per_s)),
                format!("{:.0}", m(|r| r.lhp as f64)),
                format!("{:.0}", m(|r| r.lwp as f64)),
                format!("{:.0}", m(|r| r.lwp_harmful as f64)),
                format!("{:.0}", m(|r| r.deferrals as f64)),
                runs.iter().filter(|r| r.psp_per_quantum > CONVOY_PSP_PER_QUANTUM).count().to_string(),
                match ticket / median(runs.iter().map(floor)) {
                    ratio if ratio.is_nan() => "-".into(),
                    ratio => format!("{ratio:.1}"),
                },
            ]);
        }
    }
    builder.build().with(tabled::settings::Style::markdown()).to_string()
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

    fn row(lock: &str, repeat: u32) -> RunResult {
        RunResult { lock: lock.into(), repeat, psp: 5, seconds: 1.0, ..RunResult::default() }
    }

    #[test]
    fn results_survive_a_cut_and_go_on() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("r.csv");
        let mut file = ResultFile::open(&path).expect("new");
        file.append(row("ticket", 1)).expect("append");
        file.append(row("hvm", 1)).expect("append");
        drop(file);
        let mut text = fs::read(&path).expect("read");
        text.extend(b"pv,1,4,2,8");
        fs::write(&path, &text).expect("write");
        let mut file = ResultFile::open(&path).expect("cut");
        assert_eq!(file.rows().len(), 2);
        file.append(row("pv", 1)).expect("append");
        let again = ResultFile::open(&path).expect("again");
        let locks: Vec<&str> = again.rows().iter().map(|r| r.lock.as_str()).collect();
        assert_eq!(locks, ["ticket", "hvm", "pv"]);
    }

    #[test]
    fn a_foreign_file_is_an_error_with_its_line() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("r.csv");
        fs::write(&path, "a,b\n1,2\n").expect("write");
        let error = format!("{:#}", ResultFile::open(&path).err().expect("foreign"));
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn rows_of_other_options_do_not_count_as_done() {
        let e = experiment(SMALL).expect("valid");
        let cell = &e.plan()[0];
        let o = e.options_of(cell);
        let mut done = row(&cell.lock, 1);
        (done.vms, done.vcpus, done.pcpus) = (o.vms, o.vcpus, o.pcpus);
        (done.slice_ms, done.csd, done.seed) = (o.slice_ms, o.csd_for(&cell.lock), o.seed);
        (done.hold, done.gap) = (o.hold.to_string(), o.gap.to_string());
        (done.host_every_ms, done.host_ms) = (o.host_every_ms, o.host_ms);
        assert!(e.is_run_of(&done, cell));
        let others: [fn(&mut RunResult); 6] = [
            |row| row.csd += 1,
            |row| row.accesses = 10,
            |row| row.untraced = true,
            |row| row.parameters = "--max-defer-ms 100".into(),
            |row| row.seconds = 2.0,
            |row| row.asked_seconds = 9.0,
        ];
        for (i, change) in others.iter().enumerate() {
            let mut other = done.clone();
            change(&mut other);
            assert!(!e.is_run_of(&other, cell), "change {i}");
        }
        // Given a number of accesses, the threads were done before the time was.
        (done.seconds, done.asked_seconds) = (0.3, 1.0);
        assert!(e.is_run_of(&done, cell));
    }

    #[test]
    fn a_file_of_an_earlier_version_gets_the_columns_of_this_one() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("r.csv");
        let now = String::from_utf8(csv_of(&[row("hvm", 1)], true).expect("csv")).expect("text");
        // Without the last four columns.
        let cut = |line: &str| line.rsplitn(5, ',').last().map(str::to_owned).expect("columns");
        let before: Vec<String> = now.lines().map(cut).collect();
        fs::write(&path, before.join("\n") + "\n").expect("write");
        let mut results = ResultFile::open(&path).expect("open");
        assert_eq!(results.rows(), [row("hvm", 1)]);
        assert_eq!(fs::read_to_string(&path).expect("read").lines().count(), 2, "reading changes nothing");
        results.append(row("pv", 1)).expect("append");
        let again = ResultFile::open(&path).expect("again");
        assert_eq!(again.rows(), [row("hvm", 1), row("pv", 1)]);
        assert!(fs::read_to_string(&path).expect("read").starts_with(now.lines().next().expect("columns")));
    }
}
