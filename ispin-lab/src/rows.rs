//! Rows of a CSV that are measured one after the other, over as many sittings as it takes: the file is whole after a kill at any
//! moment, and says what is missing.

use std::fmt::Display;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{interrupt, whole_file};

/// The rows of a file; none if it is not there.
///
/// # Errors
/// It cannot be read, or has other rows.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    if !path.exists() {
        return Ok(vec![]);
    }
    let reading =
        || format!("reading {}: if it is no result of this version, move the file away", path.display());
    let mut reader = csv::Reader::from_path(path).with_context(reading)?;
    reader.deserialize().map(|row| row.with_context(reading)).collect()
}

/// Puts `rows` in the place of the file. What is no file, as `/dev/stdout`, is written to.
///
/// # Errors
/// It cannot be written.
pub fn write<T: Serialize>(path: &Path, rows: &[T]) -> Result<()> {
    let mut writer = csv::Writer::from_writer(vec![]);
    for row in rows {
        writer.serialize(row).with_context(|| format!("a row of {}", path.display()))?;
    }
    let bytes = writer.into_inner().map_err(|error| anyhow!("the rows of {}: {error}", path.display()))?;
    whole_file::put(path, &bytes)
}

/// Makes each of `missing` with `measure`, which adds its rows if it does not fail, and writes all rows after each. One that fails is
/// told and left out; the others go on.
///
/// # Errors
/// A signal came, the file cannot be written, or some failed. `rows` and the file are as far as it went.
pub fn fill<K: Display, T: Serialize>(
    path: &Path,
    rows: &mut Vec<T>,
    missing: Vec<K>,
    interrupted: &AtomicBool,
    mut measure: impl FnMut(&K, &mut Vec<T>) -> Result<()>,
) -> Result<()> {
    let mut failed = vec![];
    for one in missing {
        interrupt::check(interrupted)?;
        eprintln!("{one}");
        match measure(&one, rows).with_context(|| format!("measuring `{one}`")) {
            Ok(()) => write(path, rows)?,
            // It was not its fault.
            Err(error) if interrupt::check(interrupted).is_err() => return Err(error),
            Err(error) => {
                eprintln!("ispin-lab: this one is left out: {error:#}");
                failed.push(format!("{error:#}"));
            }
        }
    }
    match failed.first() {
        Some(error) => {
            bail!("{} measurements failed, and are tried again next time; the first: {error}", failed.len())
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct One {
        number: u64,
    }

    #[test]
    fn what_fails_is_told_and_a_signal_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.csv");
        let (interrupted, mut rows) = (AtomicBool::new(false), read(&path).unwrap());
        let square = |number: &u64, rows: &mut Vec<(u64, u64)>| {
            anyhow::ensure!(number % 2 == 1, "it is even");
            rows.push((*number, number * number));
            Ok(())
        };
        let error = fill(&path, &mut rows, vec![1, 2, 3, 4], &interrupted, square).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("2 measurements failed") && error.contains("`2`: it is even"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1,1\n3,9\n");

        // It came while 5 was measured, and made that fail.
        let done = fill(&path, &mut rows, vec![5, 7], &interrupted, |_, _| {
            interrupted.store(true, Ordering::SeqCst);
            bail!("ended by SIGTERM")
        });
        assert!(format!("{:#}", done.unwrap_err()).contains("`5`: ended by SIGTERM"));
        let done = fill(&path, &mut rows, vec![5], &interrupted, |_, _| bail!("it was begun"));
        assert!(done.unwrap_err().to_string().contains("goes on"));
        assert_eq!(rows, [(1, 1), (3, 9)]);
    }

    #[test]
    fn a_file_holds_the_rows_of_the_last_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.csv");
        for rows in [&[1, 2, 3][..], &[4]] {
            write(&path, &rows.iter().map(|&number| One { number }).collect::<Vec<_>>()).unwrap();
        }
        assert_eq!(read::<One>(&path).unwrap(), [One { number: 4 }]);
    }

    #[test]
    fn a_file_that_is_something_else_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.csv");
        std::fs::write(&path, "a,b\n1,x\n").unwrap();
        let error = format!("{:#}", read::<(u64, u64)>(&path).unwrap_err());
        assert!(error.contains("rows.csv") && error.contains("move the file away"), "{error}");
    }
}
