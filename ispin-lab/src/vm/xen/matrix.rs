//! Runs an experiment under Xen, or what is missing of it, and sums it up.

use anyhow::{Result, bail};
use ispin_agent::signals::{self, Signals};
use tabled::builder::Builder;
use tabled::settings::Style;

use super::cells::{Row, rows};
use super::experiment::{Cell, Experiment, parse};
use super::results::ResultFile;
use super::run;
use crate::locks::label_of;
use crate::stats::median;
use crate::vm::boot::Observed;
use crate::vm::options::VmOptions;

/// A share of the runs: number `part` of `parts`, so that several processes can work on one experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// From 1; 0 = none of the runs.
    pub part: usize,
    /// At least `part`.
    pub parts: usize,
}

impl std::str::FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed =
            text.split_once('/').and_then(|(part, parts)| Some((part.parse().ok()?, parts.parse().ok()?)));
        match parsed {
            Some((part, parts)) if parts >= 1 && part <= parts => Ok(Self { part, parts }),
            _ => Err("give PART/PARTS, such as 1/2; 0/1 is none".into()),
        }
    }
}

/// Runs what is missing of this share. A run that fails is told and left out; the others go on.
///
/// # Errors
/// A signal came, the results cannot be read or written, or runs failed.
pub fn run_missing(experiment: &Experiment, results: &mut ResultFile, share: Share) -> Result<()> {
    let signals = Signals::catch()?;
    run_by(experiment, results, share, || signals.take(), run::observe)
}

/// The same, with what asks for signals and what does a run.
fn run_by(
    experiment: &Experiment,
    results: &mut ResultFile,
    share: Share,
    mut signal: impl FnMut() -> Option<i32>,
    mut observe: impl FnMut(&VmOptions) -> Result<Option<Observed>>,
) -> Result<()> {
    let plan = experiment.plan()?;
    let total = plan.len();
    let ours: Vec<(usize, Cell)> =
        plan.into_iter().enumerate().filter(|(i, _)| i % share.parts + 1 == share.part).collect();
    let mut failed = 0;
    for (i, cell) in ours {
        // A run looks for signals while it waits: one that came after that counts here.
        if let Some(signal) = signal() {
            bail!("ended by {}; what is done is kept, and the same command goes on", signals::name(signal));
        }
        if results.has(&cell)? {
            continue;
        }
        eprintln!("{}: run {} of {total}: {}", experiment.title, i + 1, cell.command());
        let options = parse(&cell.arguments)?;
        match observe(&options) {
            Ok(Some(observed)) => match run::gap(&options, &observed) {
                Some(gap) => {
                    failed += 1;
                    eprintln!("ispin-lab: this run does not count: {}", run::told(gap));
                }
                None => results.append(rows(&cell, &observed)?)?,
            },
            // Who read the output has gone, which is nobody here.
            Ok(None) => {}
            // It was not the run's fault.
            Err(error) if signal().is_some() => return Err(error),
            Err(error) => {
                failed += 1;
                eprintln!("ispin-lab: this run failed, and is to be done again: {error:#}");
            }
        }
    }
    if failed > 0 {
        bail!("{failed} runs failed or do not count; the same command tries them again");
    }
    Ok(())
}

/// All guests of one run together.
pub struct Run {
    lhp: f64,
    lwp: f64,
    /// PSP per million locks acquired.
    pub per_million: f64,
    psp_per_s: f64,
    deferrals: f64,
    acquires_per_s: f64,
    /// What the load is about, in its own unit: mean of the guests.
    pub value: f64,
    /// Whether less of `value` is better: it is a time.
    pub less_is_better: bool,
    spin_pct: f64,
    convoyed: bool,
}

impl Run {
    /// The runs of `rows` that have these values of the options that vary.
    pub fn all(plan: &[Cell], varied: &[(String, String)], rows: &[Row]) -> Vec<Self> {
        let same = plan.iter().filter(|cell| cell.varied == varied);
        same.map(|cell| rows.iter().filter(|row| row.is_of(cell)).collect::<Vec<_>>())
            .filter(|guests| !guests.is_empty())
            .map(|guests| Self::of(&guests))
            .collect()
    }

    fn of(guests: &[&Row]) -> Self {
        // NaN if nobody counted, as in a kernel without tracepoints.
        let sum = |name: &str| {
            guests.iter().filter_map(|row| row.number(name)).reduce(|a, b| a + b).unwrap_or(f64::NAN)
        };
        let psp = sum("lhp") + sum("lwp");
        let values = guests.iter().filter_map(|row| row.number("value").or(row.number("operations_per_s")));
        Self {
            lhp: sum("lhp"),
            lwp: sum("lwp"),
            per_million: psp * 1e6 / sum("acquires"),
            psp_per_s: sum("psp_per_s"),
            deferrals: sum("deferrals"),
            acquires_per_s: sum("acquires_per_s"),
            value: values.sum::<f64>() / guests.len().max(1) as f64,
            less_is_better: guests.iter().any(|row| row.text("unit").is_some_and(is_time)),
            spin_pct: 100.0 * sum("spin_cycles") / Row::pcpu_cycles(guests).unwrap_or(f64::NAN),
            convoyed: sum("convoys") > 0.0,
        }
    }
}

/// A combination beside the same one with the plain ticket lock: medians against medians.
#[derive(Debug, PartialEq)]
struct Beside {
    /// PSP per lock acquired, in percent of ticket's.
    psp_pct: f64,
    /// Locks acquired a second, in multiples of ticket's.
    throughput: f64,
}

impl Beside {
    /// `None` if locks do not vary, ticket is not among them, or a median is missing.
    fn ticket(plan: &[Cell], varied: &[(String, String)], rows: &[Row]) -> Option<Self> {
        let mut ticket = varied.to_vec();
        ticket.iter_mut().find(|(name, _)| name == "lock")?.1 = "ticket".into();
        let (this, base) = (Run::all(plan, varied, rows), Run::all(plan, &ticket, rows));
        let ratio = |of: fn(&Run) -> f64| median(this.iter().map(of)) / median(base.iter().map(of));
        let (psp, throughput) = (ratio(|run| run.per_million), ratio(|run| run.acquires_per_s));
        (psp.is_finite() && throughput.is_finite()).then_some(Self { psp_pct: 100.0 * psp, throughput })
    }
}

/// Whether a load's unit is a time: seconds a round, cycles of a lock.
pub fn is_time(unit: &str) -> bool {
    unit == "s" || unit.starts_with("s ") || unit == "cycles"
}

/// Medians over the repeats of each combination, as a Markdown table. Guests of a run are added up, `value` is the mean
/// of theirs.
pub fn summary(experiment: &Experiment, rows: &[Row]) -> Result<String> {
    let mut builder = Builder::default();
    let varied: Vec<String> = experiment.vary.keys().cloned().collect();
    let figures = [
        "runs",
        "LHP",
        "LWP",
        "PSP/million",
        "min",
        "max",
        "PSP/s",
        "deferrals",
        "acquires/s",
        "value",
        "spin %",
        "convoyed",
        "PSP of ticket's",
        "acquires/s / ticket's",
    ];
    builder.push_record(varied.iter().map(String::as_str).chain(figures));
    let plan = experiment.plan()?;
    for combination in plan.iter().filter(|cell| cell.seed == 1) {
        let runs = Run::all(&plan, &combination.varied, rows);
        let m = |of: fn(&Run) -> f64| median(runs.iter().map(of));
        let beside = Beside::ticket(&plan, &combination.varied, rows);
        let most = |join: fn(f64, f64) -> f64| runs.iter().map(|run| run.per_million).reduce(join);
        let number = |value: f64, decimals: usize| {
            if value.is_nan() { "-".to_owned() } else { format!("{value:.decimals$}") }
        };
        let figures = [
            runs.len().to_string(),
            number(m(|run| run.lhp), 0),
            number(m(|run| run.lwp), 0),
            number(m(|run| run.per_million), 1),
            number(most(f64::min).unwrap_or(f64::NAN), 1),
            number(most(f64::max).unwrap_or(f64::NAN), 1),
            number(m(|run| run.psp_per_s), 1),
            number(m(|run| run.deferrals), 0),
            number(m(|run| run.acquires_per_s), 0),
            number(m(|run| run.value), 1),
            number(m(|run| run.spin_pct), 2),
            runs.iter().filter(|run| run.convoyed).count().to_string(),
            beside.as_ref().map_or_else(|| "-".into(), |beside| number(beside.psp_pct, 2) + " %"),
            beside.as_ref().map_or_else(|| "-".into(), |beside| number(beside.throughput, 1)),
        ];
        let shown = combination.varied.iter().map(|(name, value)| label_of(name, value));
        builder.push_record(shown.chain(figures));
    }
    Ok(builder.build().with(Style::markdown()).to_string())
}

#[cfg(test)]
mod tests {
    use super::super::cells::tests::{cell, observed};
    use super::*;

    #[test]
    fn of_a_time_less_is_better() {
        for load in crate::load::WORKLOADS {
            let time = ["kernbench", "pbzip2", "pairs", "queue"].contains(&load.name);
            assert_eq!(is_time(load.unit), time, "{} in {}", load.name, load.unit);
        }
    }

    #[test]
    fn shares() {
        assert_eq!("2/3".parse(), Ok(Share { part: 2, parts: 3 }));
        assert_eq!("0/1".parse(), Ok(Share { part: 0, parts: 1 }));
        for bad in ["0/0", "3/2", "2", "a/b", ""] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_signal_in_the_tail_of_a_run_ends_before_the_next() {
        let text =
            "world='xen'\ntitle='t'\nrepeats=2\n[vary]\nlock=['ticket','hvm']\n[options]\nworkload='micro'\n";
        let experiment = Experiment::of(text).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut results = ResultFile::open(&dir.path().join("r.csv"), &["lock".to_owned()]).unwrap();
        let all = Share { part: 1, parts: 1 };
        let signal = std::cell::Cell::new(None);
        let run = |_: &VmOptions| {
            signal.set(Some(libc::SIGTERM));
            Ok(Some(observed(1000, 3)))
        };
        let error = run_by(&experiment, &mut results, all, || signal.take(), run).unwrap_err().to_string();
        assert!(error.contains("SIGTERM") && error.contains("goes on"), "{error}");
        let mut done = 0;
        for cell in experiment.plan().unwrap() {
            done += usize::from(results.has(&cell).unwrap());
        }
        assert_eq!(done, 1);
        run_by(&experiment, &mut results, all, || None, |_| Ok(Some(observed(1, 0)))).unwrap();
        assert_eq!(results.rows().len(), 8);
    }

    #[test]
    fn guests_of_a_run_are_added_up() {
        let rows = rows(&cell("ticket", 1), &observed(1000, 3)).unwrap();
        let run = Run::of(&rows.iter().collect::<Vec<_>>());
        assert_eq!((run.lwp, run.per_million, run.psp_per_s), (6.0, 3000.0, 3.0));
        assert_eq!((run.value, run.acquires_per_s, run.convoyed), (500.0, 1000.0, false));
    }

    #[test]
    fn a_lock_with_assumed_parameters_is_marked() {
        let text = "world='xen'\ntitle='t'\nrepeats=1\n[vary]\nlock=['hvm','oticket']\n[options]\nworkload='micro'\n";
        let experiment = Experiment::of(text).unwrap();
        let table = summary(&experiment, &[]).unwrap();
        assert!(table.contains("| oticket (assumed) |") && table.contains("| hvm "), "{table}");
    }

    #[test]
    fn a_lock_stands_beside_ticket() {
        let cells = [cell("ticket", 1), cell("hvm", 1), cell("hvm", 2)];
        let counts = [(1000, 50), (100_000, 10), (100_000, 30)];
        let rows: Vec<Row> = cells
            .iter()
            .zip(counts)
            .flat_map(|(cell, (acquires, lwp))| rows(cell, &observed(acquires, lwp)).unwrap())
            .collect();
        // 200 of a million in the median, against 50 000; 200 000 locks acquired against 2000.
        let hvm = Beside::ticket(&cells, &cells[1].varied, &rows).unwrap();
        assert!((hvm.psp_pct - 0.4).abs() < 1e-9 && (hvm.throughput - 100.0).abs() < 1e-9, "{hvm:?}");
        assert_eq!(Beside::ticket(&cells[1..], &cells[1].varied, &rows), None);
    }
}
