//! The CSV that the runs accumulate in.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::threads::result::RunResult;
use crate::whole_file;

/// The file and what is in it.
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

#[cfg(test)]
mod tests {
    use super::*;

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
