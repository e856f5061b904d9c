//! What a lock costs when nobody contends it: instructions of a lock and unlock in a guest's kernel, counted by QEMU
//! (`-icount`), so that the same command gives the same table everywhere.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser};
use serde::{Deserialize, Serialize};
use tabled::builder::Builder;
use tabled::settings::Style;

use crate::vm::rival::Rival;
use crate::vm::{self, VmOptions};
use crate::{interrupt, whole_file};

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

/// One row: a kernel, its lock, and who observes or is in the queue.
struct Case {
    name: &'static str,
    arguments: &'static [&'static str],
    rival: Option<Rival>,
    /// How many are in the queue already. 0 = a lock and unlock that nobody contends.
    members: u32,
}

const fn case(name: &'static str, arguments: &'static [&'static str]) -> Case {
    Case { name, arguments, rival: None, members: 0 }
}

const fn behind(name: &'static str, arguments: &'static [&'static str], members: u32) -> Case {
    Case { name, arguments, rival: None, members }
}

const fn observed(name: &'static str, arguments: &'static [&'static str], rival: Rival) -> Case {
    Case { name, arguments, rival: Some(rival), members: 0 }
}

impl Case {
    fn is_observed(&self) -> bool {
        self.rival.is_some() || !self.arguments.contains(&"--no-agent")
    }
}

/// How the names of rows end in which others are in the queue.
pub const IN_THE_QUEUE: &str = " in the queue";

const PATCHED: &[&str] = &["--soft-slice-ms", "1000"];

const TICKET: &[&str] = &["--lock", "ticket", "--no-agent"];
const HVM: &[&str] = &["--lock", "hvm", "--no-agent"];
const PV: &[&str] = &["--lock", "pv", "--no-agent"];
const PLUS: &[&str] = &["--lock", "ispin+", "--no-agent"];

static CASES: [Case; 23] = [
    case("stock queued spinlock", &["--lock", "stock", "--no-agent"]),
    // The first two patches are the generic ticket lock and nothing else.
    case("stock ticket lock", &["--lock", "stock", "--series", "2", "--no-agent"]),
    case("ticket", TICKET),
    case("hvm", HVM),
    case("pv", PV),
    case("ispin+", PLUS),
    case("unfair", &["--lock", "unfair", "--no-agent"]),
    case("pts", &["--lock", "pts", "--no-agent"]),
    case("pvticket", &["--lock", "pvticket", "--no-agent"]),
    case("oticket", &["--lock", "oticket", "--no-agent"]),
    behind("ticket, 8 in the queue", TICKET, 8),
    behind("pv, 8 in the queue", PV, 8),
    behind("ispin+, 1 in the queue", PLUS, 1),
    behind("ispin+, 2 in the queue", PLUS, 2),
    behind("ispin+, 4 in the queue", PLUS, 4),
    behind("ispin+, 8 in the queue", PLUS, 8),
    case("ticket, agent", &["--lock", "ticket"]),
    case("hvm, agent", &["--lock", "hvm"]),
    case("pv, agent", &["--lock", "pv"]),
    observed("ticket, ftrace", TICKET, Rival::Ftrace),
    observed("hvm, ftrace", HVM, Rival::Ftrace),
    observed("ticket, bpftrace", &["--lock", "ticket", "--no-agent", "--memory-mb", "2048"], Rival::Bpftrace),
    observed("hvm, bpftrace", &["--lock", "hvm", "--no-agent", "--memory-mb", "2048"], Rival::Bpftrace),
];

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

/// The rows that are asked for.
fn wanted(options: &InstructionOptions) -> Vec<&'static Case> {
    let exact = |word: &str| CASES.iter().any(|case| case.name == word);
    let named = |case: &Case| {
        options.only.as_deref().is_none_or(|word| match exact(word) {
            true => case.name == word,
            false => case.name.contains(word),
        })
    };
    let left_out =
        |case: &Case| options.unobserved && case.is_observed() || options.uncontended && case.members > 0;
    CASES.iter().filter(|case| named(case) && !left_out(case)).collect()
}

/// The rows that are asked for, in the order of the table: names, and which measurement.
pub fn plan(options: &InstructionOptions) -> impl Iterator<Item = (&'static str, u64)> {
    let repeats = u64::from(options.repeats);
    wanted(options).into_iter().flat_map(move |case| (1..=repeats).map(|repeat| (case.name, repeat)))
}

/// Measures every row, in the order of the table, as often as is asked for.
pub fn measure(options: &InstructionOptions) -> Result<Vec<Row>> {
    let cases = wanted(options);
    ensure!(!cases.is_empty(), "--only: no row has that in its name; they are {}", names());
    let mut rows = vec![];
    for case in cases {
        for repeat in 1..=u64::from(options.repeats) {
            eprintln!("{}", case.name);
            let row = measure_case(case, repeat);
            rows.push(row.with_context(|| format!("measuring `{}`", case.name))?);
        }
    }
    if let Some(path) = &options.csv {
        let writing = || format!("writing {}", path.display());
        let mut writer = csv::Writer::from_path(path).with_context(writing)?;
        for row in &rows {
            writer.serialize(row).with_context(writing)?;
        }
        writer.flush().with_context(writing)?;
    }
    Ok(rows)
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
    let mut failed = vec![];
    for case in wanted(options) {
        for repeat in 1..=u64::from(options.repeats) {
            if rows.iter().any(|row| row.name == case.name && row.repeat == repeat) {
                continue;
            }
            interrupt::check(interrupted)?;
            eprintln!("{}", case.name);
            match measure(case, repeat).with_context(|| format!("measuring `{}`", case.name)) {
                Ok(row) => {
                    rows.push(row);
                    // In the order of the table, however they came. What this version does not know comes last.
                    let place = |row: &Row| CASES.iter().position(|case| case.name == row.name);
                    rows.sort_by_key(|row| (place(row).unwrap_or(CASES.len()), row.repeat));
                    write(csv, rows)?;
                }
                // It was not the row's fault.
                Err(error) if interrupt::check(interrupted).is_err() => return Err(error),
                Err(error) => {
                    eprintln!("ispin-lab: this row is left out: {error:#}");
                    failed.push(format!("{error:#}"));
                }
            }
        }
    }
    match failed.first() {
        Some(error) => {
            bail!("{} rows failed, and are tried again next time; the first: {error}", failed.len())
        }
        None => Ok(()),
    }
}

fn write(path: &Path, rows: &[Row]) -> Result<()> {
    let mut writer = csv::Writer::from_writer(vec![]);
    for row in rows {
        writer.serialize(row)?;
    }
    let bytes = writer.into_inner().map_err(|error| anyhow::anyhow!("{error}"))?;
    whole_file::write(path, &bytes)?;
    Ok(())
}

/// Rows of a CSV that [`measure`] or [`measure_missing`] wrote.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    let reading =
        || format!("reading {}: if it is no result of this version, move the file away", path.display());
    let mut reader = csv::Reader::from_path(path).with_context(reading)?;
    reader.deserialize().map(|row| row.with_context(reading)).collect()
}

fn names() -> String {
    CASES.iter().map(|case| case.name).collect::<Vec<_>>().join("; ")
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

fn vm_options(case: &Case, repeat: u64) -> Result<VmOptions> {
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        vm: VmOptions,
    }
    // Who asks, and those that are in the queue.
    let threads = (case.members + 1).to_string();
    let (vcpus, workload, operations) = match case.members {
        0 => ("2", "pairs", "20000"),
        _ => (threads.as_str(), "queue", "300"),
    };
    let mut line =
        vec!["vm", "--vcpus", vcpus, "--threads", &threads, "--workload", workload, "--deterministic"];
    line.extend(case.arguments);
    if !case.arguments.contains(&"stock") {
        line.extend(PATCHED);
    }
    let seed = repeat.to_string();
    line.extend(["--seed", &seed, "--", "--operations", operations]);
    let mut options = Line::try_parse_from(line).context("the options of this row")?.vm;
    options.rival = case.rival;
    Ok(options)
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
    use super::*;

    #[test]
    fn names_tell_whether_others_are_in_the_queue() {
        assert!(CASES.iter().all(|case| case.name.ends_with(IN_THE_QUEUE) == (case.members > 0)));
    }

    #[test]
    fn every_row_is_a_run_that_can_be() {
        for case in &CASES {
            vm_options(case, 2)
                .and_then(|options| options.validate())
                .unwrap_or_else(|e| panic!("{}: {e:#}", case.name));
        }
    }

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
        assert_eq!((rows.len(), read(&csv).unwrap()), (20, rows.clone()));

        // All of it, of which some cannot be.
        let mut measured = vec![];
        let error = fill(&options(false), &csv, &mut rows, &going_on, |case, repeat| {
            measured.push(case.name);
            ensure!(!case.name.contains("bpftrace"), "no bpftrace here");
            Ok(row(case, repeat))
        });
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("4 rows failed") && error.contains("no bpftrace here"), "{error}");
        assert!(measured.len() == 26 && measured.iter().all(|name| name.contains(", ")), "{measured:?}");
        assert_eq!((rows.len(), read(&csv).unwrap()), (42, rows.clone()));

        fill(&options(false), &csv, &mut rows, &going_on, |case, repeat| Ok(row(case, repeat))).unwrap();
        let all: Vec<Row> = CASES.iter().flat_map(|case| [row(case, 1), row(case, 2)]).collect();
        assert_eq!(read(&csv).unwrap(), all, "the file is as if it had been made at once");
        // Nothing is missing.
        fill(&options(false), &csv, &mut rows, &going_on, |_, _| bail!("measured again")).unwrap();
    }

    #[test]
    fn an_interruption_keeps_what_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let csv = dir.path().join("i.csv");
        let options =
            InstructionOptions { only: None, unobserved: true, uncontended: true, repeats: 1, csv: None };
        let (interrupted, mut rows) = (AtomicBool::new(false), vec![]);
        let done = fill(&options, &csv, &mut rows, &interrupted, |case, repeat| {
            // The second one sees it, and the one after it would not be begun.
            if case.name == CASES[1].name {
                interrupted.store(true, std::sync::atomic::Ordering::SeqCst);
                bail!("ended by SIGTERM");
            }
            Ok(row(case, repeat))
        });
        assert!(format!("{:#}", done.unwrap_err()).contains("SIGTERM"));
        assert_eq!(read(&csv).unwrap(), [row(&CASES[0], 1)]);
        let done = fill(&options, &csv, &mut rows, &interrupted, |_, _| bail!("it was begun"));
        assert!(done.unwrap_err().to_string().contains("goes on"));
    }

    #[test]
    fn a_whole_name_is_one_row() {
        let of = |only: &str, unobserved| {
            let only = (!only.is_empty()).then(|| only.to_owned());
            plan(&InstructionOptions { only, unobserved, uncontended: false, repeats: 2, csv: None }).count()
        };
        assert_eq!((of("hvm", false), of("agent", false), of("", true), of("queue,", false)), (2, 6, 32, 0));
        assert_eq!(of("in the queue", true), 12);
    }
}
