//! What a lock costs when nobody contends it: instructions of a lock and unlock in a guest's kernel, counted by QEMU
//! (`-icount`), so that the same command gives the same table everywhere.

mod cases;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use tabled::builder::Builder;
use tabled::settings::Style;

use cases::{CASES, Case, Planned, names, planned, vm_options};
pub use cases::{IN_THE_QUEUE, plan};

use crate::{rows, vm};

/// The guest's TSC runs at 1 GHz, and an instruction takes 2 ns of its time (`shift=1` in `vm::qemu`).
const CYCLES_PER_INSTRUCTION: f64 = 2.0;

/// How to measure.
#[derive(Args, Clone, Debug)]
pub struct InstructionOptions {
    /// Measure only the row of this name, or, if there is none, those whose name contains this
    #[arg(long, value_name = "WORD")]
    pub only: Option<String>,
    /// Leave out the rows in which somebody observes
    #[arg(long)]
    pub unobserved: bool,
    /// Leave out the rows in which others are in the queue already
    #[arg(long)]
    pub uncontended: bool,
    /// How often each row is measured: counted instructions are the same each time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub repeats: u16,
    /// Write the table as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
}

/// A row of the table. Instructions of a lock and unlock, of the batch into which no interrupt fell; where others are in the queue,
/// from the call of `spin_lock` until another vCPU sees the ticket (`docs/workloads.md`, `mode=queue`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Kernel, lock, and observer or queue.
    pub name: String,
    /// `spin_lock`, `spin_unlock`; or `spin_lock` up to its ticket.
    pub spin: f64,
    /// `spin_lock_irqsave`, `spin_unlock_irqrestore`, where nobody contends.
    pub irqsave: Option<f64>,
    /// `spin_trylock`, `spin_unlock`, where nobody contends.
    pub trylock: Option<f64>,
    /// Which measurement of the row, from 1.
    #[serde(default = "first")]
    pub repeat: u64,
}

fn first() -> u64 {
    1
}

/// Measures every row, in the order of the table, as often as is asked for.
///
/// # Errors
/// No row has the name that is asked for, a row cannot be measured, or the file cannot be written.
pub fn measure(options: &InstructionOptions) -> Result<Vec<Row>> {
    let mut measured = vec![];
    for one in planned(options) {
        eprintln!("{one}");
        let row = measure_case(one.case, one.repeat);
        measured.push(row.with_context(|| format!("measuring `{one}`"))?);
    }
    ensure!(!measured.is_empty(), "--only: no row has that in its name; they are {}", names());
    if let Some(path) = &options.csv {
        rows::write(path, &measured)?;
    }
    Ok(measured)
}

/// Measures what is missing of the rows that are asked for, and writes all of `rows` to `csv` after each. One that fails is told
/// and left out; the others go on.
///
/// # Errors
/// A signal came, the file cannot be written, or rows failed. `rows` and the file are as far as it went.
pub fn measure_missing(
    options: &InstructionOptions,
    csv: &Path,
    rows: &mut Vec<Row>,
    interrupted: &AtomicBool,
) -> Result<()> {
    fill(options, csv, rows, interrupted, measure_case)
}

fn fill(
    options: &InstructionOptions,
    csv: &Path,
    rows: &mut Vec<Row>,
    interrupted: &AtomicBool,
    mut measure: impl FnMut(&Case, u64) -> Result<Row>,
) -> Result<()> {
    let all = planned(options);
    let is_missing =
        |one: &Planned| !rows.iter().any(|row| row.name == one.case.name && row.repeat == one.repeat);
    let missing = all.filter(is_missing).collect();
    rows::fill(csv, rows, missing, interrupted, |one, rows| {
        rows.push(measure(one.case, one.repeat)?);
        // In the order of the table, however they came. What this version does not know comes last.
        let place = |row: &Row| CASES.iter().position(|case| case.name == row.name);
        rows.sort_by_key(|row| (place(row).unwrap_or(CASES.len()), row.repeat));
        Ok(())
    })
}

fn measure_case(case: &Case, repeat: u64) -> Result<Row> {
    let observed = vm::observe(&vm_options(case, repeat)?)?.context("the guest was ended early")?;
    let result = observed.result().context("the load gave no result")?;
    let cycles = result.other.get("cycles").context("the load measured no cycles")?;
    let least = |operation: &str, cycles: Option<&serde_json::Value>| -> Result<f64> {
        let cycles = cycles.and_then(|cycles| cycles.as_f64());
        Ok(cycles.with_context(|| format!("the load did not measure {operation}"))? / CYCLES_PER_INSTRUCTION)
    };
    let pair = |operation: &str| least(operation, cycles.get(operation).and_then(|pair| pair.get("least")));
    let (spin, irqsave, trylock) = match case.members {
        0 => (pair("spin")?, Some(pair("irqsave")?), Some(pair("trylock")?)),
        members => (least("the queue", cycles.get(members.to_string()))?, None, None),
    };
    Ok(Row { name: case.name.to_owned(), spin, irqsave, trylock, repeat })
}

/// The table, Markdown.
pub fn table(rows: &[Row]) -> String {
    let mut builder = Builder::default();
    builder.push_record(["lock, observer", "spin_lock", "spin_lock_irqsave", "spin_trylock"]);
    let mut names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    names.dedup();
    for name in names {
        let figure = |of: fn(&Row) -> Option<f64>| {
            let told = |row: &Row| of(row).map_or("-".to_owned(), |value| format!("{value:.0}"));
            let mut values: Vec<String> = rows.iter().filter(|row| row.name == name).map(told).collect();
            // Repeats that differ are all told.
            values.sort();
            values.dedup();
            values.join(", ")
        };
        builder.push_record([
            name.to_owned(),
            figure(|row| Some(row.spin)),
            figure(|row| row.irqsave),
            figure(|row| row.trylock),
        ]);
    }
    builder.build().with(Style::markdown()).to_string()
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn rows_are_told_in_whole_instructions() {
        let row = |repeat, irqsave| Row {
            name: "hvm".into(),
            spin: 49.0,
            irqsave: Some(irqsave),
            trylock: Some(47.5),
            repeat,
        };
        let text = table(&[row(1, 64.0), row(2, 65.0)]);
        assert!(text.contains("| hvm ") && text.contains("| 49 ") && text.contains("| 64, 65 "), "{text}");
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn what_was_not_measured_is_a_dash() {
        let row =
            Row { name: "pv, 8 in the queue".into(), spin: 31.0, irqsave: None, trylock: None, repeat: 1 };
        let text = table(&[row]);
        assert!(text.contains("| 31 ") && text.matches("| - ").count() == 2, "{text}");
    }

    #[test]
    fn an_unknown_row_is_refused() {
        let options = InstructionOptions {
            only: Some("mcs".into()),
            unobserved: false,
            uncontended: false,
            repeats: 1,
            csv: None,
        };
        assert!(measure(&options).unwrap_err().to_string().contains("stock queued spinlock"));
    }

    fn row(case: &Case, repeat: u64) -> Row {
        let pair = |value| (case.members == 0).then_some(value);
        Row { name: case.name.to_owned(), spin: 49.0, irqsave: pair(64.5), trylock: pair(47.5), repeat }
    }

    #[test]
    fn what_is_missing_is_measured_and_the_rest_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let csv = dir.path().join("i.csv");
        let options = |quick| InstructionOptions {
            only: None,
            unobserved: quick,
            uncontended: quick,
            repeats: 2,
            csv: None,
        };
        let (going_on, mut rows) = (AtomicBool::new(false), vec![]);
        fill(&options(true), &csv, &mut rows, &going_on, |case, repeat| Ok(row(case, repeat))).unwrap();
        assert_eq!((rows.len(), rows::read::<Row>(&csv).unwrap()), (20, rows.clone()));

        // All of it, of which some cannot be.
        let mut measured = vec![];
        let error = fill(&options(false), &csv, &mut rows, &going_on, |case, repeat| {
            measured.push(case.name);
            ensure!(!case.name.contains("bpftrace"), "no bpftrace here");
            Ok(row(case, repeat))
        });
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("4 measurements failed") && error.contains("no bpftrace here"), "{error}");
        assert!(measured.len() == 26 && measured.iter().all(|name| name.contains(", ")), "{measured:?}");
        assert_eq!((rows.len(), rows::read::<Row>(&csv).unwrap()), (42, rows.clone()));

        fill(&options(false), &csv, &mut rows, &going_on, |case, repeat| Ok(row(case, repeat))).unwrap();
        let all: Vec<Row> = CASES.iter().flat_map(|case| [row(case, 1), row(case, 2)]).collect();
        assert_eq!(rows::read::<Row>(&csv).unwrap(), all, "the file is as if it had been made at once");
        // Nothing is missing.
        fill(&options(false), &csv, &mut rows, &going_on, |_, _| bail!("measured again")).unwrap();
    }
}
