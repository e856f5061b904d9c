//! When the runs of a folder were made, and how long they took.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::experiments::Extent;
use crate::rows;

/// One invocation that made runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sitting {
    /// When it began, UTC.
    pub start: String,
    /// How long its experiments took, whole seconds.
    pub seconds: u64,
    /// `--quick` or `--full`.
    pub extent: String,
    /// How many runs it made.
    pub runs: usize,
    /// How many cores it could use.
    pub cores: usize,
}

impl Sitting {
    /// One that began at `start`.
    pub fn new(start: SystemTime, took: Duration, extent: Extent, runs: usize, cores: usize) -> Self {
        let start = humantime::format_rfc3339_seconds(start).to_string();
        Self { start, seconds: took.as_secs(), extent: extent.option().to_owned(), runs, cores }
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join("sittings.csv")
}

/// Adds one to those of a folder.
///
/// # Errors
/// The file that is there cannot be read, or it cannot be written.
pub fn add(folder: &Path, sitting: Sitting) -> Result<()> {
    let mut all = read(folder)?;
    all.push(sitting);
    rows::write(&file(folder), &all)
}

fn read(folder: &Path) -> Result<Vec<Sitting>> {
    rows::read(&file(folder))
}

/// All of a folder as a table in Markdown, with its heading; nothing if there is none.
pub fn table(folder: &Path) -> String {
    let all = match read(folder) {
        Ok(all) if all.is_empty() => return String::new(),
        Ok(all) => all,
        Err(error) => return format!("\nWhen the runs were made cannot be told: {error:#}.\n"),
    };
    let mut out =
        "\n### Sittings\n\n| began (UTC) | took | form | runs made | cores |\n|---|---|---|---|---|\n"
            .to_owned();
    for Sitting { start, seconds, extent, runs, cores } in all {
        let took = humantime::format_duration(Duration::from_secs(seconds));
        let _ = writeln!(out, "| {start} | {took} | `{extent}` | {runs} | {cores} |");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sittings_add_up() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(table(dir.path()), "");
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let first = Sitting::new(at(86_400), Duration::from_millis(953_700), Extent::Quick, 265, 2);
        add(dir.path(), first.clone()).unwrap();
        add(dir.path(), Sitting::new(at(90_000), Duration::from_secs(2), Extent::Full, 1, 4)).unwrap();
        assert_eq!(read(dir.path()).unwrap()[0], first);
        let text = table(dir.path());
        for line in [
            "| 1970-01-02T00:00:00Z | 15m 53s | `--quick` | 265 | 2 |",
            "| 1970-01-02T01:00:00Z | 2s | `--full` | 1 | 4 |",
        ] {
            assert!(text.contains(line), "no {line} in {text}");
        }
    }

    #[test]
    fn a_file_that_is_something_else_is_kept_and_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(file(dir.path()), "a,b\n1,2\n").unwrap();
        let sitting = Sitting::new(SystemTime::UNIX_EPOCH, Duration::ZERO, Extent::Quick, 1, 1);
        let error = format!("{:#}", add(dir.path(), sitting).unwrap_err());
        assert!(error.contains("move the file away"), "{error}");
        assert_eq!(std::fs::read_to_string(file(dir.path())).unwrap(), "a,b\n1,2\n");
        assert!(table(dir.path()).contains("cannot be told"));
    }
}
