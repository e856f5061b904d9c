//! Every experiment as a table: medians of its cells, with their spread.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::experiments::Found;
use super::sample::Sample;
use crate::chart::Spread;
use crate::locks;

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

/// The table of an experiment; nothing if it has no runs.
pub fn of(name: &str, found: &Found) -> String {
    let Some(first) = found.samples.first() else { return String::new() };
    let keys: Vec<&String> = first.keys.keys().collect();
    let has = |metric: &str| found.samples.iter().any(|sample| sample.metrics.contains_key(metric));
    let columns: Vec<(&str, &str)> = COLUMNS.into_iter().filter(|(metric, _)| has(metric)).collect();
    let mut out = format!("\n### {name}: {}\n\n|", found.title);
    for key in &keys {
        let _ = write!(out, " {key} |");
    }
    out += " runs |";
    for (_, title) in &columns {
        let _ = write!(out, " {title} |");
    }
    out += " one run again |\n|";
    out += &"---|".repeat(keys.len() + 2 + columns.len());
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
            let _ = write!(out, " {} |", cell.get(*key).map(String::as_str).unwrap_or_default());
        }
        let _ = write!(out, " {} |", runs.len());
        for (metric, _) in &columns {
            let spread = Spread::of(runs.iter().filter_map(|sample| sample.metrics.get(metric).copied()));
            let _ = write!(out, " {} |", spread.map(|spread| told(&spread)).unwrap_or_else(|| "-".into()));
        }
        let _ = writeln!(out, " `{}` |", runs[0].command);
    }
    out
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
                "| lock | runs | PSP | one run again |\n|---|---|---|---|\n| hvm | 3 | 2.00 (0 to 4.00) | `run 1` |\n| pv | 1 | 0 | `run 1` |\n"
            ),
            "{table}"
        );
    }
}
