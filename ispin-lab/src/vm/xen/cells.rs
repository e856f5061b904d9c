//! Results of experiments under Xen: a CSV with a row per run and guest, which several processes may append to.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ispin_agent::interval::Figures;
use ispin_agent::model::{Snapshot, Vm};
use ispin_common::counters::Counters;
use rustix::fs::{FlockOperation, flock};

use super::experiment::Cell;
use crate::vm::boot::Observed;
use crate::vm::report::LoadResult;

/// Columns before the numbers, after those that vary.
const TEXTS: [&str; 3] = ["guest", "unit", "command"];
/// Numbers besides the counters and the figures derived from them.
const NUMBERS: [&str; 15] = [
    "seed",
    "elapsed_ms",
    "csd",
    "slices",
    "dispatches",
    "on_time",
    "total_cycles",
    "convoys",
    "convoy_psp",
    "convoy_cycles",
    "losses",
    "value",
    "operations",
    "load_seconds",
    "operations_per_s",
];

/// The last of them, which the load tells.
const OF_THE_LOAD: usize = 4;

/// One guest in one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    texts: Vec<(String, String)>,
    numbers: Vec<(String, Option<f64>)>,
}

impl Row {
    /// A text, or an option that varies.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str())
    }

    /// A number, if it is known.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.numbers.iter().find(|(known, _)| known == name).and_then(|(_, number)| *number)
    }

    /// Whether it is of this run.
    pub fn is_of(&self, cell: &Cell) -> bool {
        self.text("command") == Some(&cell.command())
    }
}

/// The names of all numbers, in order.
pub fn number_names() -> Vec<String> {
    NUMBERS.iter().chain(Counters::NAMES).chain(&Figures::NAMES).map(|name| (*name).to_owned()).collect()
}

/// The rows of a run, one per guest. Without an agent there is only what the loads told.
pub fn rows(cell: &Cell, observed: &Observed) -> Result<Vec<Row>> {
    let Some(last) = observed.last.as_ref() else {
        if observed.results.is_empty() {
            bail!("the loads told no result");
        }
        return Ok(observed.results.iter().map(|(guest, load)| row(cell, guest, load, None)).collect());
    };
    let with_load = |vm: &Vm| {
        let load = observed.results.iter().find(|(name, _)| *name == vm.name).map(|(_, result)| result);
        let load = load.with_context(|| format!("the load of {} told no result", vm.name))?;
        Ok(row(cell, &vm.name, load, Some((last, vm))))
    };
    last.vms.iter().map(with_load).collect()
}

fn row(cell: &Cell, guest: &str, load: &LoadResult, counted: Option<(&Snapshot, &Vm)>) -> Row {
    let whole = |n: u64| Some(n as f64);
    let mut numbers: Vec<Option<f64>> = vec![whole(cell.seed)];
    match counted {
        None => numbers.resize(NUMBERS.len() - OF_THE_LOAD, None),
        Some((last, vm)) => {
            let total = vm.total();
            let lost: u64 = last.losses.named().iter().map(|(_, n)| n).sum();
            numbers.extend([
                Some(last.elapsed_ns as f64 / 1e6),
                whole(last.source.csd),
                whole(total.slices),
                whole(total.dispatches),
                whole(total.on_time),
                whole(total.total_cycles),
                whole(vm.convoys),
                whole(vm.convoy_psp),
                whole(vm.convoy_cycles),
                whole(lost),
            ]);
        }
    }
    numbers.extend([load.value, whole(load.operations), Some(load.seconds), Some(load.per_second)]);
    if let Some((_, vm)) = counted {
        let total = vm.total();
        numbers.extend(total.counters.values().map(whole));
        // Over the load's own time: the agent observes a little longer.
        numbers.extend(Figures::of(&total, (load.seconds * 1e9) as u64).values());
    }
    let names = number_names();
    numbers.resize(names.len(), None);
    let texts = [("guest", guest.to_owned()), ("unit", load.unit.clone()), ("command", cell.command())];
    // What varies has its column already.
    let varies = |name: &String| cell.varied.iter().any(|(varied, _)| varied == name);
    Row {
        texts: cell.varied.iter().cloned().chain(texts.map(|(name, text)| (name.to_owned(), text))).collect(),
        numbers: names.into_iter().zip(numbers).filter(|(name, _)| !varies(name)).collect(),
    }
}

/// The file.
pub struct ResultFile {
    path: PathBuf,
    file: File,
    varied: Vec<String>,
    rows: Vec<Row>,
}

impl ResultFile {
    /// Opens or creates the file of an experiment that varies these options. A line that a kill cut off is dropped.
    pub fn open(path: &Path, varied: &[String]) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .with_context(|| format!("opening {}", path.display()))?;
        let mut results = Self { path: path.to_owned(), file, varied: varied.to_owned(), rows: vec![] };
        results.locked(|results| results.load())?;
        Ok(results)
    }

    /// What was there when it was opened, and what was appended since, by this process.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Whether this run has been done, by whatever process.
    pub fn has(&mut self, cell: &Cell) -> Result<bool> {
        self.locked(Self::load)?;
        Ok(self.rows.iter().any(|row| row.is_of(cell)))
    }

    /// Appends the rows of a run in one write, so that a kill leaves all of them or none. If another process has done the same
    /// run meanwhile, its rows stay and these are left out.
    pub fn append(&mut self, rows: Vec<Row>) -> Result<()> {
        let columns = self.columns();
        let writing = format!("writing {}", self.path.display());
        self.locked(|results| {
            results.load()?;
            let command = |row: &Row| row.text("command").map(str::to_owned);
            if results.rows.iter().any(|there| rows.iter().any(|row| command(row) == command(there))) {
                log::warn!("another process has done the same run meanwhile; this one is left out");
                return Ok(());
            }
            let mut writer = csv::Writer::from_writer(vec![]);
            if results.file.seek(SeekFrom::End(0)).context("its end")? == 0 {
                writer.write_record(&columns)?;
            }
            for row in &rows {
                let texts = row.texts.iter().map(|(_, text)| text.clone());
                let number =
                    |n: &Option<f64>| n.map_or_else(String::new, |n| ((n * 1e4).round() / 1e4).to_string());
                writer.write_record(texts.chain(row.numbers.iter().map(|(_, n)| number(n))))?;
            }
            let bytes = writer.into_inner().map_err(|error| anyhow::anyhow!("{error}"))?;
            results.file.write_all(&bytes).and_then(|()| results.file.sync_data())?;
            results.rows.extend(rows);
            Ok(())
        })
        .context(writing)
    }

    fn columns(&self) -> Vec<String> {
        let texts = TEXTS.iter().map(|name| (*name).to_owned());
        let numbers = number_names().into_iter().filter(|name| !self.varied.contains(name));
        self.varied.iter().cloned().chain(texts).chain(numbers).collect()
    }

    /// Does something while no other process touches the file.
    fn locked<T>(&mut self, action: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        flock(&self.file, FlockOperation::LockExclusive)
            .with_context(|| format!("locking {}", self.path.display()))?;
        let done = action(self);
        flock(&self.file, FlockOperation::Unlock)
            .with_context(|| format!("unlocking {}", self.path.display()))?;
        done
    }

    fn load(&mut self) -> Result<()> {
        let reading = || format!("reading {}", self.path.display());
        let mut bytes = vec![];
        self.file.seek(SeekFrom::Start(0)).with_context(reading)?;
        self.file.read_to_end(&mut bytes).with_context(reading)?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        if whole < bytes.len() {
            log::warn!("{}: dropped a line that was cut off", self.path.display());
            self.file.set_len(whole as u64).with_context(reading)?;
        }
        self.rows.clear();
        if whole == 0 {
            return Ok(());
        }
        let mut reader = csv::Reader::from_reader(&bytes[..whole]);
        let columns = self.columns();
        let found = reader.headers().with_context(reading)?;
        if !found.iter().eq(columns.iter()) {
            bail!(
                "{} has other columns than this experiment's results of this version; name another file with --out",
                self.path.display()
            );
        }
        let texts = self.varied.len() + TEXTS.len();
        for (i, record) in reader.records().enumerate() {
            let context = || format!("{} line {}", self.path.display(), i + 2);
            let record = record.with_context(context)?;
            let number = |text: &str| -> Result<Option<f64>> {
                if text.is_empty() { Ok(None) } else { Ok(Some(text.parse().with_context(context)?)) }
            };
            let fields = || columns.iter().cloned().zip(record.iter());
            let numbers = fields().skip(texts).map(|(name, text)| Ok((name, number(text)?)));
            self.rows.push(Row {
                texts: fields().take(texts).map(|(name, text)| (name, text.to_owned())).collect(),
                numbers: numbers.collect::<Result<_>>()?,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use ispin_agent::model::Vcpu;

    use super::*;

    pub fn cell(lock: &str, seed: u64) -> Cell {
        let arguments = vec!["--lock".into(), lock.into(), "--seed".into(), seed.to_string()];
        Cell { varied: vec![("lock".into(), lock.into()), ("vcpus".into(), "2".into())], seed, arguments }
    }

    pub fn observed(acquires: u64, lwp: u64) -> Observed {
        let counters = Counters { acquires, lwp, ..Counters::default() };
        let vm = |name: &str| Vm {
            name: name.into(),
            vcpus: vec![Vcpu { counters, slices: 100, ..Vcpu::default() }],
            ..Vm::default()
        };
        let result = LoadResult {
            workload: "micro".into(),
            threads: 2,
            seconds: 2.0,
            operations: acquires,
            value: None,
            unit: "accesses/s".into(),
            per_second: acquires as f64 / 2.0,
            other: serde_json::Map::new(),
        };
        let last =
            Snapshot { vms: vec![vm("g1"), vm("g2")], elapsed_ns: 2_500_000_000, ..Snapshot::default() };
        let results = vec![("g1".into(), result.clone()), ("g2".into(), result)];
        Observed { last: Some(last), source: Some("xen".into()), results, ..Observed::default() }
    }

    fn varied() -> Vec<String> {
        vec!["lock".into(), "vcpus".into()]
    }

    #[test]
    fn rows_come_back_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.csv");
        let mut file = ResultFile::open(&path, &varied()).unwrap();
        let (one, two) = (cell("ticket", 1), cell("hvm", 1));
        file.append(rows(&one, &observed(1000, 3)).unwrap()).unwrap();
        // Another process.
        let mut other = ResultFile::open(&path, &varied()).unwrap();
        assert_eq!(other.rows(), file.rows());
        other.append(rows(&two, &observed(500_000, 0)).unwrap()).unwrap();
        assert!(file.has(&two).unwrap() && !file.has(&cell("pv", 1)).unwrap());
        let row = &file.rows()[0];
        assert_eq!(
            (row.text("lock"), row.text("guest"), row.text("unit")),
            (Some("ticket"), Some("g1"), Some("accesses/s"))
        );
        assert_eq!(
            (row.number("lwp"), row.number("psp_per_million"), row.number("psp_per_s")),
            (Some(3.0), Some(3000.0), Some(1.5))
        );
        assert_eq!((row.number("operations_per_s"), row.number("hold_mean")), (Some(500.0), None));
    }

    #[test]
    fn what_varies_has_one_column() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.csv");
        let varied = ["csd".to_owned()];
        let cell = Cell { varied: vec![("csd".into(), "4096".into())], ..cell("hvm", 1) };
        let mut file = ResultFile::open(&path, &varied).unwrap();
        file.append(rows(&cell, &observed(1000, 3)).unwrap()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let columns: Vec<&str> = text.lines().next().unwrap().split(',').collect();
        assert_eq!(columns.iter().filter(|name| **name == "csd").count(), 1, "{columns:?}");
        assert_eq!(ResultFile::open(&path, &varied).unwrap().rows(), file.rows());
        assert_eq!(file.rows()[0].text("csd"), Some("4096"));
    }

    #[test]
    fn a_run_that_two_processes_did_is_there_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.csv");
        let mut one = ResultFile::open(&path, &varied()).unwrap();
        let mut two = ResultFile::open(&path, &varied()).unwrap();
        one.append(rows(&cell("hvm", 1), &observed(1000, 3)).unwrap()).unwrap();
        two.append(rows(&cell("hvm", 1), &observed(1000, 3)).unwrap()).unwrap();
        two.append(rows(&cell("hvm", 2), &observed(1000, 3)).unwrap()).unwrap();
        assert_eq!((two.rows().len(), ResultFile::open(&path, &varied()).unwrap().rows().len()), (4, 4));
    }

    #[test]
    fn a_run_without_an_agent_has_what_the_loads_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = ResultFile::open(&dir.path().join("r.csv"), &varied()).unwrap();
        let told = rows(&cell("pvqueued", 1), &Observed { last: None, ..observed(1000, 3) }).unwrap();
        file.append(told).unwrap();
        let row = &file.rows()[1];
        assert_eq!((row.text("guest"), row.number("seed")), (Some("g2"), Some(1.0)));
        assert_eq!((row.number("operations_per_s"), row.number("lwp")), (Some(500.0), None));
        let nothing = Observed { last: None, results: vec![], ..observed(1, 0) };
        assert!(rows(&cell("pvqueued", 1), &nothing).is_err());
    }

    #[test]
    fn a_cut_line_is_dropped_and_the_run_is_done_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.csv");
        let mut file = ResultFile::open(&path, &varied()).unwrap();
        file.append(rows(&cell("ticket", 1), &observed(1000, 3)).unwrap()).unwrap();
        let mut text = std::fs::read(&path).unwrap();
        text.extend(b"hvm,2,g1,acc");
        std::fs::write(&path, &text).unwrap();
        let mut file = ResultFile::open(&path, &varied()).unwrap();
        assert_eq!(file.rows().len(), 2);
        file.append(rows(&cell("hvm", 1), &observed(10, 0)).unwrap()).unwrap();
        assert_eq!(ResultFile::open(&path, &varied()).unwrap().rows().len(), 4);
    }

    #[test]
    fn a_foreign_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.csv");
        std::fs::write(&path, "a,b\n1,2\n").unwrap();
        let error = format!("{:#}", ResultFile::open(&path, &varied()).err().unwrap());
        assert!(error.contains("other columns") && error.contains("--out"), "{error}");
    }
}
