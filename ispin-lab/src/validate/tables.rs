//! Every experiment as a table: medians of its cells, with their spread.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::found::Found;
use super::sample::{Discarded, Sample, again};
use crate::chart::Spread;
use crate::locks;
use crate::threads::result::MOST_STOLEN;

/// What a table of an experiment shows, and what its columns are called.
const COLUMNS: [(&str, &str); 19] = [
    ("psp", "PSP"),
    ("spin_cycles", "spin cycles"),
    ("total_cycles", "total cycles"),
    ("spin_pct", "spin %"),
    ("psp_per_million", "PSP/million"),
    ("psp_per_s", "PSP/s"),
    ("convoys", "convoys"),
    ("performance", "performance"),
    ("neighbour", "neighbour"),
    ("ns_per_op", "ns an operation"),
    ("lql_mean", "mean lql"),
    ("thread_time", "thread time, s"),
    ("time_spread", "its sd / mean"),
    ("fairness", "fewest / most operations"),
    ("next_quantum_pct", "taken in the next quantum, %"),
    ("capable_pct", "capable then, %"),
    ("instructions", "instructions"),
    ("log2_hold", "log2 of mean hold"),
    ("within_csd_pct", "holds < 2^14, %"),
];

/// Experiments whose table is one of the paper's.
const OF_THE_PAPER: [(&str, &str); 1] = [("xen-loads", "the paper's Table 1")];

/// The table of an experiment; nothing if it has no runs.
pub fn of(name: &str, found: &Found) -> String {
    let Some(first) = found.samples.first() else { return String::new() };
    let keys: Vec<&String> = first.keys.keys().collect();
    let has = |metric: &str| found.samples.iter().any(|sample| sample.metrics.contains_key(metric));
    let columns: Vec<(&str, &str)> = COLUMNS.into_iter().filter(|(metric, _)| has(metric)).collect();
    let paper = OF_THE_PAPER.iter().find(|(experiment, _)| *experiment == name);
    let paper = paper.map(|(_, table)| format!(", {table}")).unwrap_or_default();
    let mut out = format!("\n### {name}{paper}: {}\n\n", found.title);
    let discards = found.samples.iter().any(|sample| sample.discarded != Discarded::Never);
    if discards {
        let percent = 100.0 * MOST_STOLEN;
        let _ = write!(
            out,
            "*Discarded*: repeats from which the host took more than {percent} % of the pCPUs' time, whatever the lock did in them; each \
             was done again. `-`: from before that was counted.\n\n"
        );
    }
    let undone = found.samples.iter().any(|sample| sample.unfinished);
    out.push('|');
    for key in &keys {
        let _ = write!(out, " {key} |");
    }
    out += " runs |";
    if discards {
        out += " discarded |";
    }
    if undone {
        out += " not done in time |";
    }
    for (_, title) in &columns {
        let _ = write!(out, " {title} |");
    }
    out += " the cell again |\n|";
    out += &"---|".repeat(keys.len() + 2 + usize::from(discards) + usize::from(undone) + columns.len());
    out.push('\n');
    let mut cells: Vec<&BTreeMap<String, String>> = vec![];
    for sample in &found.samples {
        if !cells.contains(&&sample.keys) {
            cells.push(&sample.keys);
        }
    }
    // Everything but the lock first, numbers by size; the locks as the library has them, others behind.
    let known = locks::names();
    let order = |cell: &BTreeMap<String, String>| -> (Vec<(u64, String)>, usize) {
        let others = cell.iter().filter(|(name, _)| *name != "lock");
        let others = others.map(|(_, value)| (value.parse().unwrap_or(u64::MAX), value.clone())).collect();
        let lock = cell.get("lock").and_then(|lock| known.iter().position(|name| name == lock));
        (others, lock.unwrap_or(known.len()))
    };
    cells.sort_by_cached_key(|cell| order(cell));
    for cell in cells {
        let runs: Vec<&Sample> = found.samples.iter().filter(|sample| sample.keys == *cell).collect();
        out.push('|');
        for key in &keys {
            let value = cell.get(*key).map(|value| locks::label_of(key, value));
            let _ = write!(out, " {} |", value.unwrap_or_default());
        }
        let _ = write!(out, " {} |", runs.len());
        if discards {
            let _ = write!(out, " {} |", discarded(&runs));
        }
        if undone {
            let _ = write!(out, " {} |", runs.iter().filter(|run| run.unfinished).count());
        }
        for (metric, _) in &columns {
            let spread = Spread::of(runs.iter().filter_map(|sample| sample.metrics.get(metric).copied()));
            let _ = write!(out, " {} |", spread.map(|spread| told(&spread)).unwrap_or_else(|| "-".into()));
        }
        let _ = writeln!(out, " `{}` |", again(&runs).unwrap_or_default());
    }
    out
}

/// How many repeats were discarded before these runs.
fn discarded(runs: &[&Sample]) -> String {
    let times = |run: &&Sample| match run.discarded {
        Discarded::Times(times) => Some(times),
        Discarded::Never | Discarded::Unknown => None,
    };
    let all = runs.iter().filter_map(times).reduce(|a, b| a + b);
    all.map_or_else(|| "-".into(), |all| all.to_string())
}

fn told(spread: &Spread) -> String {
    if spread.least == spread.most {
        return shown(spread.median);
    }
    format!("{} ({} to {})", shown(spread.median), shown(spread.least), shown(spread.most))
}

/// A figure with as many digits as it deserves.
pub fn shown(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "-".into(),
        0.0 => "0".into(),
        size if size >= 1e6 => format!("{value:.3e}"),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_stand_with_their_spread() {
        let sample = |lock: &str, repeat, value| {
            Sample::plain(&[("lock", lock)], repeat, "psp", value, format!("run {repeat}"))
        };
        let samples =
            vec![sample("pv", 1, 0.0), sample("hvm", 1, 0.0), sample("hvm", 2, 4.0), sample("hvm", 3, 2.0)];
        let found = Found {
            samples,
            title: "t".into(),
            planned: 6,
            missing: None,
            holds: vec![],
            command: String::new(),
        };
        let table = of("e", &found);
        assert!(
            table.contains(
                "| lock | runs | PSP | the cell again |\n|---|---|---|---|\n| hvm | 3 | 2.00 (0 to 4.00) | `run 1 --repeats 3` |\n| pv | 1 | 0 | `run 1` |\n"
            ),
            "{table}"
        );
        assert!(of("xen-loads", &found).contains("### xen-loads, the paper's Table 1: t\n"));
    }

    #[test]
    fn what_was_discarded_or_not_done_is_counted() {
        let sample = |lock: &str, repeat, discarded| Sample {
            discarded,
            ..Sample::plain(&[("lock", lock)], repeat, "psp", 0.0, "again".into())
        };
        let mut samples = vec![
            sample("oticket", 1, Discarded::Times(2)),
            sample("oticket", 2, Discarded::Times(1)),
            sample("hvm", 1, Discarded::Unknown),
        ];
        samples[2].unfinished = true;
        let found = Found {
            samples,
            title: "t".into(),
            planned: 3,
            missing: None,
            holds: vec![],
            command: String::new(),
        };
        let table = of("e", &found);
        for words in [
            "*Discarded*: repeats from which the host took more than 1 % of",
            "| lock | runs | discarded | not done in time | PSP | the cell again |\n|---|---|---|---|---|---|\n",
            "| hvm | 1 | - | 1 | 0 | `again` |",
            "| oticket (assumed) | 2 | 3 | 0 | 0 | `again --repeats 2` |",
        ] {
            assert!(table.contains(words), "no {words} in {table}");
        }
    }
}
