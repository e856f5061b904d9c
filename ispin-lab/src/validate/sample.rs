//! Runs of all worlds in one form: what varies, and figures by name.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::threads::options::RunOptions;
use crate::threads::result::RunResult;
use crate::vm::xen::cells::Row;
use crate::vm::xen::matrix::is_time;

/// The figures that claims and charts can ask for. Units where they have some: seconds, cycles, percent.
pub const METRICS: [(&str, &str); 21] = [
    ("psp", "problematic preemptions (LHP + LWP) of a run"),
    ("psp_per_s", "the same per second"),
    ("psp_per_quantum", "the same per quantum granted"),
    ("psp_per_million", "the same per million locks acquired"),
    (
        "convoys",
        "convoys that the agents recognised in a run; where they dropped incidents there were at least as many",
    ),
    ("acquires_per_s", "locks acquired per second"),
    (
        "performance",
        "the load's result, mean of the guests, more is better: what it does per second, or 1 / its time",
    ),
    ("neighbour", "the same of the guest beside it that runs another load"),
    ("ns_per_op", "nanoseconds from one acquisition of the lock to the next, by whatever thread"),
    (
        "spin_pct",
        "time spent spinning with a ticket, percent of the time of the pCPUs while the loads ran (Table 1)",
    ),
    ("spin_cycles", "the same in cycles"),
    ("total_cycles", "cycles that the pCPUs had while the loads ran (Table 1)"),
    ("next_quantum_pct", "refused vCPUs that took their ticket in the next quantum, percent"),
    ("capable_pct", "refused vCPUs that were capable when they took it, percent"),
    ("lql_mean", "mean lock queue length that a take met"),
    ("thread_time", "mean of the threads' times for the same number of accesses, seconds"),
    ("time_spread", "standard deviation of the threads' times over their mean"),
    ("fairness", "fewest operations of a thread over most"),
    ("instructions", "instructions of an uncontended lock and unlock"),
    ("log2_hold", "log2 of the mean time for which a lock is held, cycles"),
    ("within_csd_pct", "holds that the paper's csd of 2^14 cycles covers, percent"),
];

/// How often a repeat was discarded before it counted, because the host took too much of the pCPUs' time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Discarded {
    /// In this world the host's other work does not disturb a run, and none is discarded.
    #[default]
    Never,
    /// It was not counted yet.
    Unknown,
    /// So often.
    Times(u32),
}

/// What does all runs of a cell again, given its runs; `None` of none.
pub fn again(runs: &[&Sample]) -> Option<String> {
    let first = runs.iter().min_by_key(|run| run.repeat)?;
    let last = runs.iter().map(|run| run.repeat).max()?;
    let repeats = last - first.repeat + 1;
    let command = &first.command;
    let seed = format!("--seed {}", first.repeat);
    let words: Vec<&str> = command.split(' ').collect();
    let seeded = words.windows(2).any(|pair| pair.join(" ") == seed);
    Some(if repeats == 1 {
        command.clone()
    } else if command.contains("--hypervisor xen") || !seeded {
        // Seeds count up from the given one; where there is none, every run is like the others.
        format!("{command} --repeats {repeats}")
    } else {
        let with_seed = format!("{command} ").replacen(&format!("{seed} "), "--seed $seed ", 1);
        format!("for seed in $(seq {} {last}); do {}; done", first.repeat, with_seed.trim_end())
    })
}

/// One run, all its guests together.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// What varies in the experiment: the lock, the number of vCPUs, ...
    pub keys: BTreeMap<String, String>,
    /// Which repeat it is.
    pub repeat: u64,
    /// Figures of [`METRICS`]; what is not known is not there.
    pub metrics: BTreeMap<&'static str, f64>,
    /// Whether it was to end with its work, and its time was over before: figures that need the work are not there.
    pub unfinished: bool,
    /// How often it was discarded before.
    pub discarded: Discarded,
    /// What does this run again.
    pub command: String,
}

impl Sample {
    fn set(&mut self, name: &'static str, value: f64) {
        debug_assert!(METRICS.iter().any(|(known, _)| *known == name), "{name}");
        if value.is_finite() {
            self.metrics.insert(name, value);
        }
    }

    /// Whether it has no such figure because it was not done.
    pub fn lacks(&self, metric: &str) -> bool {
        self.unfinished && !self.metrics.contains_key(metric)
    }

    /// Whether it has these values.
    pub fn is(&self, keys: &BTreeMap<String, String>) -> bool {
        keys.iter().all(|(name, value)| self.keys.get(name) == Some(value))
    }

    /// A figure by name of something that is not a run of locks.
    pub fn plain(
        keys: &[(&str, &str)],
        repeat: u64,
        metric: &'static str,
        value: f64,
        command: String,
    ) -> Self {
        let keys = keys.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut sample = Self { keys, repeat, command, ..Self::default() };
        sample.set(metric, value);
        sample
    }

    /// A run of the threads world.
    pub fn of_threads(row: &RunResult) -> Self {
        let keys = [("lock", row.lock.clone()), ("vcpus", row.vcpus.to_string())];
        let mut command = format!(
            "ispin-lab threads --lock {} --vcpus {} --pcpus {} --slice-ms {} --csd {}ns --seconds {:.1} --hold {} --gap {} --seed {}",
            row.lock,
            row.vcpus,
            row.pcpus,
            row.slice_ms,
            row.csd,
            row.asked_seconds(),
            row.hold,
            row.gap,
            row.seed
        );
        let defaults = RunOptions::default();
        if row.vms != defaults.vms {
            command += &format!(" --vms {}", row.vms);
        }
        if (row.host_every_ms, row.host_ms) != (defaults.host_every_ms, defaults.host_ms) {
            command += &format!(" --host-every-ms {} --host-ms {}", row.host_every_ms, row.host_ms);
        }
        if row.accesses > 0 {
            command += &format!(" --accesses {}", row.accesses);
        }
        if row.untraced {
            command += " --untraced";
        }
        if !row.parameters.is_empty() {
            command += &format!(" {}", row.parameters);
        }
        let mut sample = Self {
            keys: keys.map(|(name, value)| (name.to_owned(), value)).into(),
            repeat: u64::from(row.repeat),
            discarded: row.discarded.map_or(Discarded::Unknown, Discarded::Times),
            command,
            ..Self::default()
        };
        sample.set("psp", row.psp as f64);
        sample.set("psp_per_s", row.psp_per_s);
        sample.set("psp_per_quantum", row.psp_per_quantum);
        sample.set("psp_per_million", row.psp_per_million);
        sample.set("acquires_per_s", row.acquisitions_per_s);
        sample.set("performance", row.acquisitions_per_s);
        sample.set("ns_per_op", 1e9 / row.acquisitions_per_s);
        sample.set("lql_mean", row.lql_mean);
        // Where the time ends the run all threads end alike, whatever the lock: only given work tells.
        sample.unfinished = row.operations_min < row.accesses;
        if row.accesses > 0 && !sample.unfinished {
            sample.set("thread_time", row.thread_time_mean);
            sample.set("time_spread", row.thread_time_sd / row.thread_time_mean);
        }
        sample.set("fairness", row.fairness);
        sample
    }

    /// The guests of one run under Xen. Guests with another unit than the first one's run another load: they are its
    /// neighbours, and count for `neighbour` alone.
    pub fn of_guests(varied: &[(String, String)], guests: &[&Row]) -> Result<Self> {
        let first = guests.first().context("a run without guests")?;
        let unit = first.text("unit").context("a result without its unit")?;
        let ours: Vec<&Row> = guests.iter().copied().filter(|row| row.text("unit") == Some(unit)).collect();
        let beside: Vec<&Row> = guests.iter().copied().filter(|row| row.text("unit") != Some(unit)).collect();
        let sum = |name: &str| {
            ours.iter().filter_map(|row| row.number(name)).reduce(|a, b| a + b).unwrap_or(f64::NAN)
        };
        // The mean of the guests' results first, then its reciprocal if it is a time.
        let performance = |rows: &[&Row]| {
            let value = |row: &&Row| row.number("value").or(row.number("operations_per_s"));
            let mean = rows.iter().filter_map(value).sum::<f64>() / rows.len() as f64;
            let time = rows.first().and_then(|row| row.text("unit")).is_some_and(is_time);
            if time { 1.0 / mean } else { mean }
        };
        let mut sample = Self {
            keys: varied.iter().cloned().collect(),
            repeat: first.number("seed").unwrap_or(0.0) as u64,
            command: first.text("command").unwrap_or_default().to_owned(),
            ..Self::default()
        };
        let psp = sum("lhp") + sum("lwp");
        sample.set("psp", psp);
        sample.set("psp_per_s", sum("psp_per_s"));
        // Convoys are recognised in the incidents. Where some were dropped there were at least those that were recognised;
        // none recognised says nothing then.
        let convoys = sum("convoys");
        if sum("dropped") == 0.0 || convoys > 0.0 {
            sample.set("convoys", convoys);
        }
        sample.set("psp_per_quantum", psp / sum("slices"));
        sample.set("psp_per_million", psp * 1e6 / sum("acquires"));
        sample.set("acquires_per_s", sum("acquires_per_s"));
        sample.set("performance", performance(&ours));
        sample.set("neighbour", performance(&beside));
        let total = Row::pcpu_cycles(guests).unwrap_or(f64::NAN);
        sample.set("spin_pct", 100.0 * sum("spin_cycles") / total);
        sample.set("spin_cycles", sum("spin_cycles"));
        sample.set("total_cycles", total);
        sample.set("next_quantum_pct", 100.0 * sum("deferred_next") / sum("deferred_takes"));
        sample.set("capable_pct", 100.0 * sum("deferred_capable") / sum("deferred_takes"));
        sample.set("lql_mean", sum("lql_sum") / sum("takes"));
        Ok(sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::xen::cells::number_names;
    use crate::vm::xen::results::ResultFile;

    const COMMAND: &str = "ispin-lab vm --hypervisor xen --pcpus 1 --deterministic --seed 1";

    /// A run of two guests, in each of which the agent counted this.
    fn of_guests(convoys: u64, dropped: u64) -> Sample {
        let names = number_names();
        let number = |name: &String| match name.as_str() {
            "convoys" => convoys.to_string(),
            "dropped" => dropped.to_string(),
            "spin_cycles" => "750000000".into(),
            "load_seconds" => "1.5".into(),
            "gate_seconds" => "2".into(),
            _ => "1".into(),
        };
        let numbers = names.iter().map(number).collect::<Vec<_>>().join(",");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.csv");
        let head = format!("lock,guest,unit,command,{}", names.join(","));
        let text = ["g1", "g2"]
            .iter()
            .fold(head, |text, guest| format!("{text}\nispin+,{guest},accesses/s,{COMMAND},{numbers}"))
            + "\n";
        std::fs::write(&path, text).unwrap();
        let varied = ["lock".to_owned()];
        let file = ResultFile::open(&path, &varied).unwrap();
        let guests: Vec<&Row> = file.rows().iter().collect();
        Sample::of_guests(&[("lock".into(), "ispin+".into())], &guests).unwrap()
    }

    #[test]
    fn convoys_that_were_recognised_count_although_incidents_were_dropped() {
        assert_eq!(of_guests(0, 0).metrics["convoys"], 0.0);
        assert_eq!(of_guests(3, 0).metrics["convoys"], 6.0);
        assert_eq!(of_guests(3, 1).metrics["convoys"], 6.0, "at least so many");
        assert!(!of_guests(0, 1).metrics.contains_key("convoys"), "nobody knows");
    }

    #[test]
    fn time_spent_spinning_is_a_share_of_the_pcpus_time() {
        assert_eq!(of_guests(0, 0).metrics["spin_pct"], 75.0);
        assert_eq!(of_guests(0, 0).metrics["total_cycles"], 2e9);
    }

    #[test]
    fn a_command_repeats_the_whole_cell() {
        let run = |command: &str, repeat| {
            let command = command.replace("SEED", &u64::to_string(&repeat));
            Sample::plain(&[], repeat, "psp", 0.0, command)
        };
        let cell = |command: &str| {
            let runs = [run(command, 2), run(command, 1), run(command, 5)];
            again(&runs.iter().collect::<Vec<_>>()).unwrap()
        };
        assert_eq!(again(&[]), None);
        assert_eq!(again(&[&run("ispin-lab vm --seed SEED", 1)]).unwrap(), "ispin-lab vm --seed 1");
        assert_eq!(
            cell("ispin-lab vm --hypervisor xen --seed SEED"),
            "ispin-lab vm --hypervisor xen --seed 1 --repeats 5"
        );
        assert_eq!(
            cell("ispin-lab threads --seed SEED --accesses 15"),
            "for seed in $(seq 1 5); do ispin-lab threads --seed $seed --accesses 15; done"
        );
        assert_eq!(
            cell("ispin-lab vm --vcpus 4 --seed SEED"),
            "for seed in $(seq 1 5); do ispin-lab vm --vcpus 4 --seed $seed; done"
        );
        assert_eq!(
            cell("ispin-lab instructions --only 'hvm'"),
            "ispin-lab instructions --only 'hvm' --repeats 5"
        );
    }

    #[test]
    fn a_run_that_was_not_done_has_no_times() {
        let row = |operations_min| RunResult {
            accesses: 100,
            operations_min,
            thread_time_mean: 2.0,
            thread_time_sd: 0.1,
            ..RunResult::default()
        };
        let done = Sample::of_threads(&row(100));
        assert!(!done.unfinished && !done.lacks("time_spread"));
        assert_eq!(done.metrics["time_spread"], 0.05);
        let not = Sample::of_threads(&row(99));
        assert!(not.lacks("time_spread") && !not.lacks("fairness"));
        // Where the time ends a run it is done.
        assert!(!Sample::of_threads(&RunResult::default()).unfinished);
    }
}
