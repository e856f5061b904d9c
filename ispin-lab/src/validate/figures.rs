//! The paper's figures, drawn from what was measured here.

use std::collections::BTreeMap;

use anyhow::Result;

use super::found::Found;
use super::holds;
use super::sample::Sample;
use crate::chart::{self, Line, Panel, Spread};
use crate::instructions::IN_THE_QUEUE;
use crate::locks::label;
use crate::stats::{LEAST_RUNS, median};

/// A picture with its file name.
pub struct Figure {
    /// Name of its file, without the extension.
    pub name: String,
    /// What it shows.
    pub caption: String,
    /// SVG.
    pub svg: String,
}

/// What a figure shows of an experiment: a panel for each metric, below each other, over the number of vCPUs; a line for each
/// lock; a column for each combination of what else varies.
pub struct Plot {
    /// File name.
    pub name: &'static str,
    /// What it is in the paper, and here.
    pub caption: &'static str,
    /// Experiment.
    pub experiment: &'static str,
    /// Metric, what the axis calls it, whether it is logarithmic, and the lock to which it is normalized.
    pub metrics: &'static [(&'static str, &'static str, bool, Option<&'static str>)],
    /// Locks, in their order; empty = all that there are.
    pub locks: &'static [&'static str],
}

/// All of them but that of the holds.
pub const PLOTS: [Plot; 12] = [
    Plot {
        name: "figure-7-micro",
        caption: "Figure 7, the micro-benchmark under Xen: performance and PSP of TSL, HVM IS and PV IS",
        experiment: "xen-micro",
        metrics: &[
            ("performance", "performance, ticket = 1", false, Some("ticket")),
            ("psp_per_million", "PSP per million acquisitions", true, None),
        ],
        locks: &["ticket", "hvm", "pv", "ispin+"],
    },
    Plot {
        name: "figure-7-loads",
        caption: "Figure 7 and Table 1, user programs under Xen: performance and PSP of TSL, HVM IS, PV IS and ispin+",
        experiment: "xen-loads",
        metrics: &[
            ("performance", "performance, ticket = 1", false, Some("ticket")),
            ("psp_per_s", "PSP/s", true, None),
        ],
        locks: &["ticket", "hvm", "pv", "ispin+"],
    },
    Plot {
        name: "figure-7-speed",
        caption: "Figure 7, the micro-benchmark under Xen without an observer: performance of TSL, HVM IS, PV IS, ispin+ and today's locks (queued, pvqueued)",
        experiment: "xen-speed",
        metrics: &[("performance", "performance, ticket = 1", true, Some("ticket"))],
        locks: &["ticket", "hvm", "pv", "ispin+", "queued", "pvqueued"],
    },
    Plot {
        name: "today",
        caption: "ispin+ and the locks that kernels have, the micro-benchmark under Xen's default quanta without an observer",
        experiment: "xen-today",
        metrics: &[("performance", "accesses/s", true, None)],
        locks: &["ticket", "unfair", "queued", "pvqueued", "ispin+"],
    },
    Plot {
        name: "figure-9-speed",
        caption: "Figure 9, locks for hardware-assisted guests: HVM IS, PTS, TSL, and ispin+, the unfair and today's lock (the micro-benchmark here, kernbench in the paper); TS, which is ticket with slices of 1 ms, is in the figure of the guest beside (figure-9-neighbour)",
        experiment: "xen-speed",
        metrics: &[("performance", "accesses/s", true, None)],
        locks: &["ticket", "hvm", "pts", "ispin+", "unfair", "queued"],
    },
    Plot {
        name: "figure-9-psp",
        caption: "Figure 9, problematic preemptions of those that an agent can observe",
        experiment: "xen-locks",
        metrics: &[("psp_per_million", "PSP per million acquisitions", true, None)],
        locks: &["ticket", "hvm", "pts", "ispin+", "unfair"],
    },
    Plot {
        name: "figure-9-neighbour",
        caption: "Figure 9, the guest beside it that only computes; slice-ms 1 with ticket is TS",
        experiment: "xen-neighbour",
        metrics: &[
            ("performance", "accesses/s", true, None),
            ("neighbour", "rounds/s of the neighbour", false, None),
            ("psp_per_million", "PSP per million acquisitions", true, None),
        ],
        locks: &["ticket", "hvm", "pts", "ispin+"],
    },
    Plot {
        name: "figure-10-speed",
        caption: "Figure 10, locks for paravirtual guests: PV IS, PV TS, OT (with assumed parameters), and ispin+ and today's locks (the micro-benchmark here, kernbench in the paper)",
        experiment: "xen-speed",
        metrics: &[("performance", "performance, pvticket = 1", false, Some("pvticket"))],
        locks: &["pv", "pvticket", "oticket", "ispin+", "queued", "pvqueued"],
    },
    Plot {
        name: "figure-10-psp",
        caption: "Figure 10, problematic preemptions of those that an agent can observe; OT with assumed parameters",
        experiment: "xen-locks",
        metrics: &[("psp_per_million", "PSP per million acquisitions", true, None)],
        locks: &["pv", "pvticket", "oticket", "ispin+"],
    },
    Plot {
        name: "threads-locks",
        caption: "Real threads: throughput and PSP of every lock; OT with assumed parameters",
        experiment: "threads-locks",
        metrics: &[("performance", "acquisitions/s", true, None), ("psp_per_s", "PSP/s", true, None)],
        locks: &[],
    },
    Plot {
        name: "figure-6",
        caption: "Figure 6: queue length, and the threads' times for the same number of accesses, mean and standard deviation over mean (real threads)",
        experiment: "threads-work",
        metrics: &[
            ("lql_mean", "mean lock queue length at a take", false, None),
            ("thread_time", "mean time of a thread, s", false, None),
            ("time_spread", "standard deviation / mean", false, None),
        ],
        locks: &["hvm", "pv", "ispin+"],
    },
    Plot {
        name: "figure-8-alone",
        caption: "Figure 8 (b): kernbench in a guest that is alone, and nobody observes",
        experiment: "xen-alone",
        metrics: &[("performance", "performance, ticket = 1", false, Some("ticket"))],
        locks: &["ticket", "hvm", "pv", "ispin+", "queued", "pvqueued"],
    },
];

/// The values of `name` in the order in which they come.
fn values(samples: &[Sample], name: &str) -> Vec<String> {
    let mut found: Vec<String> = vec![];
    for value in samples.iter().filter_map(|sample| sample.keys.get(name)) {
        if !found.contains(value) {
            found.push(value.clone());
        }
    }
    found
}

impl Plot {
    /// Draws what there is. `None` if that is nothing.
    pub fn draw(&self, found: &Found) -> Result<Option<Figure>> {
        let samples = &found.samples;
        let mut locks = values(samples, "lock");
        if !self.locks.is_empty() {
            locks = self
                .locks
                .iter()
                .map(|lock| (*lock).to_owned())
                .filter(|lock| locks.contains(lock))
                .collect();
        }
        let others = |sample: &Sample| -> BTreeMap<String, String> {
            let other = |(name, _): &(&String, &String)| !["lock", "vcpus"].contains(&name.as_str());
            sample.keys.iter().filter(other).map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        let mut combinations: Vec<BTreeMap<String, String>> = vec![];
        for sample in samples {
            if !combinations.contains(&others(sample)) {
                combinations.push(others(sample));
            }
        }
        let column = |combination: &BTreeMap<String, String>| -> Vec<Panel> {
            let ours: Vec<&Sample> = samples.iter().filter(|sample| others(sample) == *combination).collect();
            let title: Vec<String> =
                combination.iter().map(|(name, value)| format!("{name} {value}")).collect();
            let last = self.metrics.len() - 1;
            let panel =
                |(i, (metric, y, logarithmic, base)): (usize, &(&str, &str, bool, Option<&str>))| Panel {
                    title: if i == 0 { title.join(", ") } else { String::new() },
                    x: if i == last { "vCPUs".into() } else { String::new() },
                    y: (*y).to_owned(),
                    logarithmic: *logarithmic,
                    legend: i == 0,
                    mark: None,
                    lines: locks.iter().map(|lock| line(&ours, lock, metric, *base)).collect(),
                };
            self.metrics.iter().enumerate().map(panel).collect()
        };
        let columns: Vec<Vec<Panel>> = combinations.iter().map(column).collect();
        let svg = chart::draw(&found.title, &columns)?;
        let caption = format!("{}{}", self.caption, self.reserves(samples, &columns));
        Ok(svg.map(|svg| Figure { name: self.name.into(), caption, svg }))
    }

    /// What a reader has to know of single points: which are of few runs, and what is left out.
    fn reserves(&self, samples: &[Sample], columns: &[Vec<Panel>]) -> String {
        let mut points =
            columns.iter().flatten().flat_map(|panel| &panel.lines).flat_map(|line| &line.points);
        let mut told = String::new();
        if points.any(|(_, spread)| spread.runs < LEAST_RUNS) {
            told += &format!("; hollow: fewer than {LEAST_RUNS} runs so far");
            if self.metrics.iter().any(|(.., base)| base.is_some()) {
                told += ", of the lock or of the one that is 1";
            }
        }
        let lacking = |sample: &&Sample| self.metrics.iter().any(|(metric, ..)| sample.lacks(metric));
        let left_out = samples.iter().filter(lacking).count();
        if left_out > 0 {
            told += &format!("; left out of the times: runs that were not done within theirs, {left_out}");
        }
        told
    }
}

fn line(samples: &[&Sample], lock: &str, metric: &str, base: Option<&str>) -> Line {
    let of = |lock: &str, vcpus: &str| -> Vec<f64> {
        let is = |sample: &&&Sample| {
            sample.keys.get("lock").is_some_and(|value| value == lock)
                && sample.keys.get("vcpus").is_some_and(|value| value == vcpus)
        };
        samples.iter().filter(is).filter_map(|sample| sample.metrics.get(metric).copied()).collect()
    };
    let mut places: Vec<(f64, String)> = vec![];
    for vcpus in samples.iter().filter_map(|sample| sample.keys.get("vcpus")) {
        if let Ok(x) = vcpus.parse()
            && !places.iter().any(|(known, _)| *known == x)
        {
            places.push((x, vcpus.clone()));
        }
    }
    places.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let point = |(x, vcpus): &(f64, String)| {
        let base = base.map(|base| of(base, vcpus));
        let divisor = base.as_ref().map_or(1.0, |base| median(base.iter().copied()));
        let spread = Spread::of(of(lock, vcpus).into_iter().map(|value| value / divisor))?;
        let runs = base.map_or(spread.runs, |base| spread.runs.min(base.len()));
        Some((*x, Spread { runs, ..spread }))
    };
    Line { name: label(lock), points: places.iter().filter_map(point).collect() }
}

/// Figure 8 (a): what a lock costs, a bar for each and for each observer.
pub fn instructions(found: &Found) -> Result<Option<Figure>> {
    let value =
        |sample: &Sample| Some((label(sample.keys.get("lock")?), *sample.metrics.get("instructions")?));
    // The others are of a spin_lock alone, up to its ticket.
    let uncontended =
        |sample: &&Sample| sample.keys.get("lock").is_some_and(|lock| !lock.ends_with(IN_THE_QUEUE));
    let mut values: Vec<(String, f64)> = found.samples.iter().filter(uncontended).filter_map(value).collect();
    // Repeats of a row stand beside each other; they are equal, or a claim says that they are not.
    values.dedup_by(|(a, _), (b, _)| a == b);
    let svg = chart::bars("instructions of an uncontended lock and unlock in a guest's kernel", &values)?;
    let caption =
        "Figure 8 (a): instructions of an uncontended lock and unlock, logarithmic; pvqueued was not counted"
            .to_owned();
    Ok(svg.map(|svg| Figure { name: "figure-8-instructions".into(), caption, svg }))
}

/// Figure 3: shares of all holds by their length, a line for each load.
pub fn holds(found: &Found) -> Result<Option<Figure>> {
    let line = |load: &str| {
        let mut seeds: Vec<u64> = vec![];
        let ours: Vec<&holds::Row> = found.holds.iter().filter(|row| row.workload == load).collect();
        for row in &ours {
            if !seeds.contains(&row.seed) {
                seeds.push(row.seed);
            }
        }
        let share = |seed: u64, log2: u32| {
            let of_seed = || ours.iter().filter(move |row| row.seed == seed);
            let all: u64 = of_seed().map(|row| row.holds).sum();
            let here: u64 = of_seed().filter(|row| row.log2_cycles == log2).map(|row| row.holds).sum();
            100.0 * here as f64 / all as f64
        };
        let longest = ours.iter().map(|row| row.log2_cycles).max().unwrap_or(0);
        let point = |log2: u32| {
            Spread::of(seeds.iter().map(|&seed| share(seed, log2))).map(|spread| (f64::from(log2), spread))
        };
        Line { name: load.to_owned(), points: (0..=longest.max(holds::CSD_LOG2)).filter_map(point).collect() }
    };
    let panel = Panel {
        title: format!("the line: the paper's csd, 2^{} cycles", holds::CSD_LOG2),
        x: "log2 of cycles".into(),
        y: "holds, percent".into(),
        logarithmic: false,
        legend: true,
        mark: Some(f64::from(holds::CSD_LOG2)),
        lines: holds::LOADS.iter().map(|load| line(load)).collect(),
    };
    let svg = chart::draw(&found.title, &[vec![panel]])?;
    let caption = "Figure 3: how long the locks of a guest's kernel are held".to_owned();
    Ok(svg.map(|svg| Figure { name: "figure-3".into(), caption, svg }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_normalized_to_the_median_of_another() {
        let sample = |lock: &str, vcpus: &str, value| {
            Sample::plain(&[("lock", lock), ("vcpus", vcpus)], 1, "performance", value, String::new())
        };
        let samples = [sample("ticket", "4", 10.0), sample("hvm", "4", 300.0), sample("hvm", "8", 200.0)];
        let all: Vec<&Sample> = samples.iter().collect();
        let line = line(&all, "hvm", "performance", Some("ticket"));
        // Nothing to compare with at 8.
        assert_eq!(line.points, [(4.0, Spread { median: 30.0, least: 30.0, most: 30.0, runs: 1 })]);
    }

    #[test]
    fn a_caption_tells_what_is_of_few_runs_or_left_out() {
        let plot = Plot {
            name: "p",
            caption: "c",
            experiment: "threads-work",
            metrics: &[("time_spread", "y", false, None)],
            locks: &[],
        };
        let sample = |repeat| {
            let keys = [("lock", "oticket"), ("vcpus", "4")];
            Sample::plain(&keys, repeat, "time_spread", 0.1, String::new())
        };
        let mut found = Found {
            samples: (1..=5).map(sample).collect(),
            title: "t".into(),
            planned: 5,
            missing: None,
            holds: vec![],
            command: String::new(),
        };
        let figure = plot.draw(&found).unwrap().unwrap();
        assert_eq!(figure.caption, "c");
        assert!(figure.svg.contains("oticket (assumed)"), "{}", figure.svg);
        found.samples[4].metrics.clear();
        found.samples[4].unfinished = true;
        let caption = plot.draw(&found).unwrap().unwrap().caption;
        assert!(
            caption.contains("hollow: fewer than 5 runs") && caption.ends_with("not done within theirs, 1"),
            "{caption}"
        );
    }

    #[test]
    fn every_plot_is_of_an_experiment_and_of_metrics_that_there_are() {
        for plot in &PLOTS {
            assert!(super::super::experiments::names().contains(&plot.experiment), "{}", plot.name);
            for (metric, ..) in plot.metrics {
                let known = super::super::sample::METRICS.iter().any(|(name, _)| name == metric);
                assert!(known, "{metric}");
            }
        }
    }
}
