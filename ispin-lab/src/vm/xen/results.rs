//! Results of experiments under Xen: a CSV with a row per run and guest, which several processes may append to.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use super::cells::{Row, TEXTS, number_names};
use super::experiment::{Cell, guests_of};

/// The file.
pub struct ResultFile {
    path: PathBuf,
    file: File,
    varied: Vec<String>,
    rows: Vec<Row>,
}

impl ResultFile {
    /// Opens or creates the file of an experiment that varies these options. What is there of a run that was cut off, by a
    /// kill or a full disk, is dropped.
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

    /// What was there when it was opened, and what was appended since, by this process: whole runs, a row for each guest.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Whether this run has been done, by whatever process.
    pub fn has(&mut self, cell: &Cell) -> Result<bool> {
        self.locked(Self::load)?;
        Ok(self.rows.iter().any(|row| row.is_of(cell)))
    }

    /// Appends the rows of a run in one write, so that a kill leaves all of them or none; if they do not all fit, none stays. If
    /// another process has done the same run meanwhile, its rows stay and these are left out.
    pub fn append(&mut self, rows: Vec<Row>) -> Result<()> {
        let columns = self.columns();
        let writing = format!("writing {}", self.path.display());
        self.locked(|results| {
            results.load()?;
            if results.rows.iter().any(|there| rows.iter().any(|row| row.is_same_run(there))) {
                log::warn!("another process has done the same run meanwhile; this one is left out");
                return Ok(());
            }
            let mut writer = csv::Writer::from_writer(vec![]);
            let before = results.file.seek(SeekFrom::End(0)).context("its end")?;
            if before == 0 {
                writer.write_record(&columns)?;
            }
            for row in &rows {
                let texts = row.texts.iter().map(|(_, text)| text.clone());
                let number =
                    |n: &Option<f64>| n.map_or_else(String::new, |n| ((n * 1e4).round() / 1e4).to_string());
                writer.write_record(texts.chain(row.numbers.iter().map(|(_, n)| number(n))))?;
            }
            let bytes = writer.into_inner().map_err(|error| anyhow::anyhow!("{error}"))?;
            if let Err(error) = results.file.write_all(&bytes).and_then(|()| results.file.sync_data()) {
                results
                    .file
                    .set_len(before)
                    .with_context(|| format!("{error}; taking back a part of a run"))?;
                return Err(error.into());
            }
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
        let mut end = whole as u64;
        self.rows.clear();
        if whole > 0 {
            let (rows, last) = self.parse(&bytes[..whole])?;
            self.rows = whole_runs(rows);
            // Debris, if it is not among them.
            end = last
                .filter(|last| !self.rows.iter().any(|row| row.is_same_run(&last.row)))
                .map_or(end, |last| last.begin);
        }
        if end < bytes.len() as u64 {
            log::warn!("{}: dropped what there was of a run that was cut off", self.path.display());
            self.file.set_len(end).with_context(reading)?;
        }
        Ok(())
    }

    /// The rows of a text that ends with a line; and of the last run a row, and where the first one begins.
    fn parse(&self, text: &[u8]) -> Result<(Vec<Row>, Option<Last>)> {
        let reading = || format!("reading {}", self.path.display());
        let mut reader = csv::Reader::from_reader(text);
        let columns = self.columns();
        let found = reader.headers().with_context(reading)?;
        if !found.iter().eq(columns.iter()) {
            bail!(
                "{} has other columns than this experiment's results of this version; move the file away to begin anew",
                self.path.display()
            );
        }
        let texts = self.varied.len() + TEXTS.len();
        let mut rows: Vec<Row> = vec![];
        let mut last: Option<Last> = None;
        for (i, record) in reader.records().enumerate() {
            let context =
                || format!("{} line {}; move the file away to begin anew", self.path.display(), i + 2);
            let record = record.with_context(context)?;
            let number = |text: &str| -> Result<Option<f64>> {
                if text.is_empty() { Ok(None) } else { Ok(Some(text.parse().with_context(context)?)) }
            };
            let fields = || columns.iter().cloned().zip(record.iter());
            let numbers = fields().skip(texts).map(|(name, text)| Ok((name, number(text)?)));
            let row = Row {
                texts: fields().take(texts).map(|(name, text)| (name, text.to_owned())).collect(),
                numbers: numbers.collect::<Result<_>>()?,
            };
            let begin = record.position().map_or(0, csv::Position::byte);
            last = match last.filter(|last| last.row.is_same_run(&row)) {
                None => Some(Last { row: row.clone(), begin }),
                same => same,
            };
            rows.push(row);
        }
        Ok((rows, last))
    }
}

/// The run that a file ends with.
struct Last {
    /// One of its rows.
    row: Row,
    /// Where in the file its first row begins.
    begin: u64,
}

/// The rows of runs that have one for each guest, in order. A run that was cut off, by a version that left it there, and
/// done again has its first rows twice: the later ones count.
fn whole_runs(all: Vec<Row>) -> Vec<Row> {
    let mut places: HashMap<(String, String), usize> = HashMap::new();
    let mut guests: HashMap<String, usize> = HashMap::new();
    let key = |row: &Row, name: &str| row.text(name).unwrap_or_default().to_owned();
    let mut rows: Vec<Row> = vec![];
    for row in all {
        let command = key(&row, "command");
        match places.entry((command.clone(), key(&row, "guest"))) {
            Entry::Occupied(place) => rows[*place.get()] = row,
            Entry::Vacant(place) => {
                place.insert(rows.len());
                *guests.entry(command).or_default() += 1;
                rows.push(row);
            }
        }
    }
    rows.retain(|row| {
        row.text("command").is_some_and(|command| guests.get(command) == Some(&guests_of(command)))
    });
    rows
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::super::cells::rows;
    use super::super::cells::tests::{cell, observed};
    use super::*;
    use crate::vm::boot::Observed;

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

    /// The file with two whole runs, and where each of its lines begins.
    fn two_runs(path: &Path) -> (Vec<u8>, Vec<usize>) {
        let mut file = ResultFile::open(path, &varied()).unwrap();
        for lock in ["ticket", "hvm"] {
            file.append(rows(&cell(lock, 1), &observed(1000, 3)).unwrap()).unwrap();
        }
        let text = std::fs::read(path).unwrap();
        let ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
        let begins = [0].into_iter().chain(ends).collect();
        (text, begins)
    }

    #[test]
    fn half_a_run_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.csv");
        let (text, begins) = two_runs(&path);
        // In the first row of the second run, at its end, in its second row.
        for cut in [begins[3] + 9, begins[4], begins[4] + 9, text.len() - 1] {
            std::fs::write(&path, &text[..cut]).unwrap();
            let mut file = ResultFile::open(&path, &varied()).unwrap();
            assert!(!file.has(&cell("hvm", 1)).unwrap() && file.has(&cell("ticket", 1)).unwrap(), "{cut}");
            assert_eq!(std::fs::read(&path).unwrap(), text[..begins[3]], "{cut}");
            file.append(rows(&cell("hvm", 1), &observed(1000, 3)).unwrap()).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), text, "{cut}");
            assert!(file.has(&cell("hvm", 1)).unwrap());
        }
    }

    #[test]
    fn half_a_run_that_others_followed_is_done_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.csv");
        let (text, begins) = two_runs(&path);
        std::fs::write(&path, [&text[..begins[2]], &text[begins[3]..]].concat()).unwrap();
        let mut file = ResultFile::open(&path, &varied()).unwrap();
        assert!(!file.has(&cell("ticket", 1)).unwrap() && file.has(&cell("hvm", 1)).unwrap());
        assert_eq!(file.rows().len(), 2);
        file.append(rows(&cell("ticket", 1), &observed(7, 0)).unwrap()).unwrap();
        let there = ResultFile::open(&path, &varied()).unwrap();
        let ours: Vec<_> = there.rows().iter().filter(|row| row.is_of(&cell("ticket", 1))).collect();
        let acquires: Vec<_> = ours.iter().map(|row| row.number("acquires")).collect();
        assert_eq!((there.rows().len(), acquires), (4, vec![Some(7.0); 2]));
    }

    /// Set: this process may write no more than a file of the length that is there and a row.
    const LIMITED: &str = "ISPIN_TEST_LIMITED";

    #[test]
    fn what_does_not_fit_leaves_the_file_as_it_was() {
        if let Some(path) = std::env::var_os(LIMITED) {
            let path = Path::new(&path);
            let before = std::fs::read(path).unwrap();
            let mut file = ResultFile::open(path, &varied()).unwrap();
            let error = file.append(rows(&cell("pv", 1), &observed(1000, 3)).unwrap()).unwrap_err();
            assert!(format!("{error:#}").contains("r.csv"), "{error:#}");
            assert_eq!(std::fs::read(path).unwrap(), before);
            assert!(!file.has(&cell("pv", 1)).unwrap() && file.has(&cell("hvm", 1)).unwrap());
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.csv");
        let (text, begins) = two_runs(&path);
        // A limit in the second row of what follows.
        let row = text.len() - begins[4];
        let limit = text.len() + row + row / 2;
        let name = "vm::xen::results::tests::what_does_not_fit_leaves_the_file_as_it_was";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name, "--nocapture"]).env(LIMITED, &path);
        let limit = Rlimit { current: Some(limit as u64), ..getrlimit(Resource::Fsize) };
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            command.pre_exec(move || {
                setrlimit(Resource::Fsize, limit)?;
                // The write fails then, as on a full disk, instead of ending the process.
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                Ok(())
            });
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    fn a_foreign_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.csv");
        std::fs::write(&path, "a,b\n1,2\n").unwrap();
        let error = format!("{:#}", ResultFile::open(&path, &varied()).err().unwrap());
        assert!(error.contains("other columns") && error.contains("move the file away"), "{error}");
    }
}
