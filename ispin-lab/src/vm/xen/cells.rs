//! What came of a run of an experiment under Xen: a row for each guest.

use anyhow::{Context, Result, bail, ensure};
use ispin_agent::interval::Figures;
use ispin_agent::model::{Snapshot, Vm};
use ispin_common::counters::Counters;

use super::experiment::{Cell, guests_of};
use crate::vm::boot::Observed;
use crate::vm::built::DETERMINISTIC_CYCLES_PER_MS;
use crate::vm::report::LoadResult;

/// Columns before the numbers, after those that vary.
pub(super) const TEXTS: [&str; 3] = ["guest", "unit", "command"];
/// Numbers besides the counters and the figures derived from them.
const NUMBERS: [&str; 16] = [
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
    "gate_seconds",
];

/// The last of them, which the load tells.
const OF_THE_LOAD: usize = 5;

/// One guest in one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub(super) texts: Vec<(String, String)>,
    pub(super) numbers: Vec<(String, Option<f64>)>,
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

    /// Cycles that the pCPUs of a run had while events were counted, `rows` being its guests; `None` if it is not known.
    ///
    /// What a vCPU used its guest cannot tell: Linux counts the time for which a woken vCPU waits for its pCPU as idle time and as stolen
    /// time. But as long as any load runs, the pCPUs are the guests'. Runs from before `gate_seconds` was recorded have the load's own time
    /// instead, which is less: it takes time to begin and to end.
    pub fn pcpu_cycles(rows: &[&Self]) -> Option<f64> {
        let command = rows.first()?.text("command")?;
        let words: Vec<&str> = command.split(' ').collect();
        if !words.contains(&"--deterministic") {
            return None;
        }
        let pcpus = match words.iter().position(|word| *word == "--pcpus") {
            Some(at) => words.get(at + 1)?.parse().ok()?,
            None => 1.0,
        };
        let seconds = rows
            .iter()
            .map(|row| row.number("gate_seconds").or(row.number("load_seconds")))
            .collect::<Option<Vec<_>>>()?;
        Some(DETERMINISTIC_CYCLES_PER_MS * 1e3 * pcpus * seconds.into_iter().fold(0.0, f64::max))
    }

    /// Whether both are of the same run.
    pub(super) fn is_same_run(&self, other: &Self) -> bool {
        self.text("command") == other.text("command")
    }

    /// Whether it is of this run.
    pub fn is_of(&self, cell: &Cell) -> bool {
        self.text("command").is_some_and(|command| cell.is(command))
    }
}

/// The names of all numbers, in order.
pub fn number_names() -> Vec<String> {
    NUMBERS.iter().chain(Counters::NAMES).chain(&Figures::NAMES).map(|name| (*name).to_owned()).collect()
}

/// The rows of a run, one per guest. Without an agent there is only what the loads told.
///
/// # Errors
/// Not every guest told its result.
pub fn rows(cell: &Cell, observed: &Observed) -> Result<Vec<Row>> {
    let rows = told(cell, observed)?;
    let guests = guests_of(&cell.command());
    ensure!(rows.len() == guests, "{} of {guests} guests told what came of the run", rows.len());
    Ok(rows)
}

fn told(cell: &Cell, observed: &Observed) -> Result<Vec<Row>> {
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
    numbers.extend([
        load.value,
        whole(load.operations),
        Some(load.seconds),
        Some(load.per_second),
        load.gate_seconds,
    ]);
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
            gate_seconds: None,
            other: serde_json::Map::new(),
        };
        let last =
            Snapshot { vms: vec![vm("g1"), vm("g2")], elapsed_ns: 2_500_000_000, ..Snapshot::default() };
        let results = vec![("g1".into(), result.clone()), ("g2".into(), result)];
        Observed { last: Some(last), source: Some("xen".into()), results, ..Observed::default() }
    }
}
